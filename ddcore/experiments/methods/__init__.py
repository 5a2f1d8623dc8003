"""What a network is trained on: one file below for each kind of training images.

A kind's name is its file's (`random-real` is random_real.py); the file defines KIND, an instance of
`base.Method`. To add a kind, add a file.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddcore.experiments.methods.base import Method

NAMES = sorted(
    module.name.replace("_", "-")
    for module in pkgutil.iter_modules(__path__)
    if module.name not in ("base", "drawn")
)


def get(name: str) -> "Method":
    """The kind of that name, imported when it is first asked for (it needs PyTorch)."""
    module = importlib.import_module(f"ddcore.experiments.methods.{name.replace('-', '_')}")
    return module.KIND
