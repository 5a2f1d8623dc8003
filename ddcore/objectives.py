"""What the outer loss asks for in sections 3.5 and 4.2: the loss of section 3.1, on other data than the networks know.

Adaptation (eq. 9): networks trained on a source dataset learn a target dataset that has the same classes.
Poisoning (eq. 10): networks learn to take one class for another and to keep the rest.
"""

import torch
from torch import Tensor

from ddcore.datasets import Dataset
from ddcore.errors import InputError


def matched(target: Dataset, source: str, classes: list[str], channels: int) -> Dataset:
    """The target dataset as networks of a source with these classes and channels can read it: grey images are repeated
    in three channels. InputError where the classes differ or the target has colours that the source has not."""
    if list(classes) != list(target.classes):
        odd = sorted(set(classes) ^ set(target.classes))
        which = f": {odd[0]} is a class of only one" if odd else " (their order)"
        raise InputError(f"networks trained on {source} cannot be adapted to {target.name}{which}")
    have = target.shape[0]
    if have == channels:
        return target
    if have != 1:
        raise InputError(
            f"networks trained on {source} read images of {channels} channels and {target.name} has {have}: as many, "
            "or 1, are allowed"
        )
    wide = {"mean": target.mean * channels, "std": target.std * channels}
    return target.mapped(lambda x, y: (x.expand(-1, channels, -1, -1), y), **wide)


def poisoned(data: Dataset, attacked: int, target: int) -> Dataset:
    """The dataset in which every image of class `attacked` is labelled `target`: what l_{K->T} of eq. (10) is computed
    from. InputError for classes that are not there, or the same."""
    named = ", ".join(f"{k} {c}" if c != str(k) else c for k, c in enumerate(data.classes))
    for name, k in (("attacked", attacked), ("target", target)):
        if not 0 <= k < len(data.classes):
            raise InputError(f"{name}={k} is no class of {data.name}; its classes: {named}")
    if attacked == target:
        raise InputError(f"attacked={attacked} and target={target}: two different classes are allowed; {named}")
    return data.mapped(lambda x, y: (x, relabelled(y, attacked, target)))


def relabelled(labels: Tensor, attacked: int, target: int) -> Tensor:
    """Labels of any shape with `attacked` replaced by `target`."""
    return torch.where(labels == attacked, target, labels)
