"""What goes wrong, in the two kinds that the commands tell apart."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """The caller asked for something that cannot be: one line that says what, why and what is
    allowed.

    Missing data counts as bad input. The commands print the line on stderr and end with exit status
    2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # whatever it quotes


class MachineError(RuntimeError):
    """The machine could not do it (no disk, a worker that died): exit status 1."""


class WriteError(MachineError):
    """A file or folder could not be written: its path, why, and what to do."""

    def __init__(self, path: Path, error: Exception, remedy: str):
        reason = getattr(error, "strerror", None) or error
        super().__init__(f"cannot write {path}: {reason}; {remedy}")


@contextmanager
def full_memory_named() -> Iterator[None]:
    """Make a full memory a MachineError: PyTorch has no error of its own for a processor's."""
    try:
        yield
    except RuntimeError as error:
        is_memory = re.search("out of memory|allocate memory", str(error))
        if isinstance(error, MachineError) or not is_memory:
            raise
        raise MachineError(f"not enough memory: {error}") from error


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a message about an unknown word: the known one that is nearest, or nothing."""
    nearest = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""
