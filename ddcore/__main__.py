"""`python -m ddcore` and `torchrun -m ddcore` are the command `ddcore`."""

from ddcore.cli import main

if __name__ == "__main__":
    main()
