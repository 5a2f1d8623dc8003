"""Networks by the name `module:Class`, the package's and a reader's own: imported, called, and told
apart by their source. PyTorch is needed only to call one."""

import hashlib
import importlib
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ddcore.support.errors import InputError, did_you_mean

WORD = r"[^\W\d]\w*"
NAME = re.compile(rf"{WORD}(\.{WORD})*:{WORD}")
INSTALLED = [Path(sysconfig.get_path("stdlib")), Path(__file__).parents[1]]
PACKAGES = {"site-packages", "dist-packages"}


def is_own(name: str) -> bool:
    """Whether a name has the form `module:Class`. Nothing is imported."""
    return NAME.fullmatch(name) is not None


def build(name: str, channels: int, size: int, classes: int) -> Any:
    """What the class of that name, or another callable, gives for images of this shape. Random
    numbers that it draws are the same each time.

    Importing runs the module's code. InputError, of one line, for whatever goes wrong in it.
    """
    module, attribute = imported(name), name.partition(":")[2]
    import torch

    if not hasattr(module, attribute):
        near = did_you_mean(attribute, vars(module))
        raise InputError(f"network {name}: {module.__name__} has no {attribute}{near}")
    make = getattr(module, attribute)
    given = channels, size, classes
    call = f"network {name}: called with (channels, size, classes) = {given}, {attribute}"
    if not callable(make):
        raise InputError(
            f"network {name}: {attribute} is of type {type(make).__name__}: what can be called "
            "with (channels, size, classes) is allowed"
        )
    with torch.random.fork_rng(devices=[]), told(call):
        torch.manual_seed(0)
        return make(*given)


def imported(name: str) -> ModuleType:
    """The module of `module:Class`, looked for in the current folder first, then in the
    environment; InputError where it is in neither or cannot be imported."""
    module = name.partition(":")[0]
    here = os.getcwd()
    if module not in sys.modules and sys.path[:1] != [here]:
        sys.path.insert(0, here)
    with told(f"network {name}: importing {module}"):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise  # one that it imports
            raise InputError(
                f"network {name}: there is no module {error.name} in the current folder or the "
                "environment"
            ) from None


@contextmanager
def told(what: str) -> Iterator[None]:
    """Make whatever a reader's code raises an InputError that says what raised it, and where."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if _is_a_readers(frame.filename)]
        place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{what} raises {said}{place}") from error


# What a key cannot see


def source_sha256(name: str) -> str:
    """Of the source of a reader's own network, of which its name says nothing; "" for the
    package's.

    Its module's file and those of what that names, classes, functions and modules, and so on, one
    after the other by the modules' names; the package's and installed ones aside.
    """
    return _sha256(imported(name)) if is_own(name) else ""


@cache  # as it was when it was imported
def _sha256(module: ModuleType) -> str:
    found = {module.__name__: _content(module)}
    waiting = [module]
    while waiting:
        for value in vars(waiting.pop()).values():
            name = getattr(value, "__module__", None)
            if isinstance(value, ModuleType):
                name = value.__name__
            other = sys.modules.get(name) if isinstance(name, str) else None
            if other and other.__name__ not in found and _is_a_readers(_place(other)):
                found[other.__name__] = _content(other)
                waiting.append(other)
    return hashlib.sha256(b"".join(found[name] for name in sorted(found))).hexdigest()


def _place(module: ModuleType) -> str:
    """Its file, of a folder without __init__.py that folder; "<built in>" where it has neither."""
    folders = list(getattr(module, "__path__", ()))
    return getattr(module, "__file__", None) or (folders[0] if folders else "<built in>")


def _content(module: ModuleType) -> bytes:
    file = Path(_place(module))
    return file.read_bytes() if file.is_file() else b""


def _is_a_readers(file: str) -> bool:
    """Whether code is neither Python's nor the package's nor an installed one's."""
    path = Path(file)
    installed = any(path.is_relative_to(folder) for folder in INSTALLED)
    return not file.startswith("<") and not installed and not PACKAGES & {*path.parts}
