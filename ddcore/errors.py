"""What goes wrong, in the two kinds that the commands tell apart, and files that are there whole or not at all."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


class InputError(ValueError):
    """The caller asked for something that cannot be: one line that says what, why and what is allowed.

    Missing data counts as bad input. The commands print the line on stderr and end with exit status 2.
    """


class MachineError(RuntimeError):
    """The machine could not do what was asked for (no disk, a worker that died): exit status 1."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what becomes the file `path` in one move when it is complete: a reader sees the old file or the
    new one, never a part. MachineError where safetensors cannot write."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise MachineError(f"cannot write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def full_memory_named() -> Iterator[None]:
    """Make a full memory a MachineError. PyTorch has no error of its own for a processor's."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, MachineError) or not re.search("out of memory|allocate memory", str(error)):
            raise
        raise MachineError(f"not enough memory: {error}") from error


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a message about an unknown word: the known one that is nearest, or nothing."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]}?" if close else ""
