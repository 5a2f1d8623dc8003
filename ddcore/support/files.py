"""Where files are, whether they can be written, and files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from safetensors import SafetensorError

from ddcore.support.errors import InputError, WriteError

TRIED = 65_536  # bytes that are written to see whether a folder takes a file
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


def check_folder(folder: Path, remedy: str) -> None:
    """InputError unless files can be written to a folder, which need not be there yet. Nothing is
    left of the trial."""
    try:
        with TemporaryFile(dir=_nearest(folder.absolute())) as file:
            file.write(bytes(TRIED))
    except (OSError, ValueError) as error:  # ValueError: of a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write to {folder}: {reason}; {remedy}") from None


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    try:
        folder.lstat()
        return folder
    except FileNotFoundError:
        return _nearest(folder.parent)


def check_file(path: Path) -> None:
    """InputError unless what becomes `path` when it is complete can be written now. Nothing is left
    of the trial."""
    try:
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; name a file in it")
        part = part_of(path)
        try:
            part.write_bytes(bytes(TRIED))
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        remedy = "its folder must be there, with space in it, and take files"
        raise InputError(f"cannot write {path}: {error.strerror}; {remedy}") from None


def part_of(path: Path) -> Path:
    """Where this process writes what becomes `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what becomes the file `path` in one move when it is complete.

    A reader sees the old file or the new one, never a part. WriteError where the disk refuses.
    """
    part = part_of(path)
    try:
        yield part
        part.replace(path)
    except (OSError, SafetensorError) as error:  # the latter is what safetensors makes of it
        remedy = "free space there, or let its folder take files"
        raise WriteError(path, error, remedy) from error
    finally:
        with suppress(OSError):
            part.unlink()
