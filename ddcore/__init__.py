"""Dataset Distillation (Wang, Zhu, Torralba, Efros), the paper you can run.

>>> import ddcore
>>> distilled = ddcore.load_distilled("fig2a")  # ten images of digits, with their learning rates
>>> weights = ddcore.train_on(distilled)  # the network that they belong to, trained on them

Names are imported when they are first used, so that `import ddcore` does not wait for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddcore.accuracy import evaluate as evaluate
    from ddcore.algorithm import distill as distill
    from ddcore.datasets import Dataset as Dataset
    from ddcore.datasets import load as load
    from ddcore.distilled import DistilledData as DistilledData
    from ddcore.networks import AlexCifarNet as AlexCifarNet
    from ddcore.networks import LeNet as LeNet
    from ddcore.networks import Network as Network
    from ddcore.networks import as_network as as_network
    from ddcore.networks import generator as generator
    from ddcore.recipe import Recipe as Recipe
    from ddcore.support.progress import Distillation as Distillation
    from ddcore.unroll import cross_entropy as cross_entropy
    from ddcore.unroll import forward_step as forward_step
    from ddcore.unroll import meta_gradient as meta_gradient
    from ddcore.use import load_distilled as load_distilled
    from ddcore.use import network_of as network_of
    from ddcore.use import train_on as train_on

from ddcore.support.errors import InputError, MachineError

_MODULES = {
    "accuracy": ["evaluate"],
    "algorithm": ["distill"],
    "datasets": ["Dataset", "load"],
    "distilled": ["DistilledData"],
    "networks": ["AlexCifarNet", "LeNet", "Network", "as_network", "generator"],
    "support.progress": ["Distillation"],
    "recipe": ["Recipe"],
    "unroll": ["cross_entropy", "forward_step", "meta_gradient"],
    "use": ["load_distilled", "network_of", "train_on"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: F822 (imported when they are first used)
    "AlexCifarNet",
    "Dataset",
    "Distillation",
    "DistilledData",
    "InputError",
    "LeNet",
    "MachineError",
    "Network",
    "Recipe",
    "as_network",
    "cross_entropy",
    "distill",
    "evaluate",
    "forward_step",
    "generator",
    "load",
    "load_distilled",
    "meta_gradient",
    "network_of",
    "train_on",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ddcore")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'ddcore' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ddcore.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
