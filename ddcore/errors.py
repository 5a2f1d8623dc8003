"""What goes wrong, in the two kinds that the commands tell apart."""


class InputError(ValueError):
    """The caller asked for something that cannot be: one line that says what, why and what is allowed.

    Missing data counts as bad input. The commands print the line on stderr and end with exit status 2.
    """


class MachineError(RuntimeError):
    """The machine could not do what was asked for (no disk, a worker that died): exit status 1."""
