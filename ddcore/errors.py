"""What goes wrong, in the two kinds that the commands tell apart."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The caller asked for something that cannot be: one line that says what, why and what is allowed.

    Missing data counts as bad input. The commands print the line on stderr and end with exit status 2.
    """


class MachineError(RuntimeError):
    """The machine could not do what was asked for (no disk, a worker that died): exit status 1."""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a message about an unknown word: the known one that is nearest, or nothing."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]}?" if close else ""
