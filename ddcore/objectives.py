"""What the outer loss asks for in sections 3.5 and 4.2: the loss of section 3.1, on other data than
the networks know.

Adaptation (eq. 9): networks trained on a source dataset learn a target dataset that has the same
classes. Poisoning (eq. 10): networks learn to take one class for another and to keep the rest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ddcore.datasets import Dataset
from ddcore.support.errors import InputError


def matched(target: Dataset, source: str, classes: Sequence[str], channels: int) -> Dataset:
    """The target dataset as networks of a source with these classes and channels can read it: grey
    images are repeated in three channels.

    InputError where the classes differ or the target has colours that the source has not.
    """
    if list(classes) != list(target.classes):
        unpaired = sorted(set(classes) ^ set(target.classes))
        reason = f": {unpaired[0]} is a class of only one" if unpaired else " (their order)"
        raise InputError(f"networks trained on {source} cannot be adapted to {target.name}{reason}")
    actual = target.shape[0]
    if actual == channels:
        return target
    if actual != 1:
        raise InputError(
            f"networks trained on {source} read images of {channels} channels and {target.name} "
            f"has {actual}: as many, or 1, are allowed"
        )
    mean = target.mean * channels
    std = target.std * channels
    return target.mapped(lambda x, y: (x.expand(-1, channels, -1, -1), y), mean=mean, std=std)


def poisoned(data: Dataset, attacked: int, target: int) -> Dataset:
    """The dataset in which every image of class `attacked` is labelled `target`: what l_{K->T} of
    eq. (10) is computed from.

    InputError for classes that are not there, or the same.
    """
    names = ", ".join(
        str(k) if name == str(k) else f"{k} {name}" for k, name in enumerate(data.classes)
    )
    for role, k in (("attacked", attacked), ("target", target)):
        if not 0 <= k < len(data.classes):
            raise InputError(f"{role}={k} is no class of {data.name}; its classes: {names}")
    if attacked == target:
        raise InputError(
            f"attacked={attacked} and target={target}: two different classes are allowed; {names}"
        )
    return data.mapped(lambda x, y: (x, relabelled(y, attacked, target)))


def relabelled(labels: Tensor, attacked: int, target: int) -> Tensor:
    """Labels of any shape with `attacked` replaced by `target`."""
    return torch.where(labels == attacked, target, labels)
