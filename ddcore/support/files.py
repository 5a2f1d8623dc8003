"""Where files are, and files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ddcore.support.errors import InputError, MachineError

PROJECT = Path(__file__).parents[2]  # the checkout; of an installed wheel, its site-packages


def cache_folder() -> Path:
    """XDG_CACHE_HOME/ddcore, by default ~/.cache/ddcore."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise InputError(
            "no home folder is known: set XDG_CACHE_HOME to a folder that can be written"
        ) from None
    return root / "ddcore"


def data_root() -> Path:
    """DDCORE_DATA where it is set, else below the user's cache folder."""
    if os.environ.get("DDCORE_DATA"):
        return Path(os.environ["DDCORE_DATA"])
    return cache_folder() / "data"


def absolute(name: str) -> str:
    """A dataset's name, the path of `folder:PATH` made absolute."""
    if not name.startswith("folder:"):
        return name
    return "folder:" + os.path.abspath(os.path.expanduser(name.removeprefix("folder:")))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what becomes the file `path` in one move when it is complete.

    A reader sees the old file or the new one, never a part. MachineError where safetensors cannot
    write.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise MachineError(f"cannot write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
