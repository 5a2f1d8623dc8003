"""The command `ddcore`, which `python -m ddcore` and `torchrun -m ddcore` are too."""

import sys


def main() -> None:
    """Ctrl-C while the command is loaded ends as it does later: one line, exit status 130."""
    try:
        from ddcore import cli

        cli.main()
    except KeyboardInterrupt:
        print("ddcore: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
