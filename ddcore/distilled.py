"""Distilled data: images, labels, their order and their learning rates, which belong together
(equations 2 and 8). `ddcore.support.stored` describes the file that holds them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ddcore.datasets import Dataset
from ddcore.support import stored
from ddcore.support.checks import check_batches


class Learned(NamedTuple):
    """What distillation changes, or a gradient with respect to it.

    images [S, n, C, H, W]; learning rates lrs [E, S]; soft_labels [S, n, K], None where the labels
    are fixed.
    """

    images: Tensor
    lrs: Tensor
    soft_labels: Tensor | None = None

    def map(self, function: Callable[..., Tensor], *others: "Learned") -> "Learned":
        """function(tensor, the others' tensors in its place), for each tensor that is there."""
        results = []
        for tensors in zip(self, *others, strict=True):
            results.append(None if tensors[0] is None else function(*tensors))
        return Learned(*results)

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        return {name: t for name, t in self._asdict().items() if t is not None}


@dataclass(frozen=True)
class DistilledData:
    """S batches of n images that E epochs of gradient descent pass through in order.

    images [S, n, C, H, W] in normalised space; labels int64 [S, n] (fixed classes); lrs [E, S],
    positive, one for each (epoch, step); soft_labels [S, n, K] (targets t of the loss -sum t log p,
    unconstrained; they replace the labels where given); init {name: [*shape]}, the one network's
    initial weights for a fixed init; meta: dataset, architecture, init law, mean, std, class names.

    Raises:
        InputError: where the tensors do not belong together.
    """

    images: Tensor
    labels: Tensor
    lrs: Tensor
    soft_labels: Tensor | None = None
    init: dict[str, Tensor] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_batches(self.images, self.labels, self.lrs, self.soft_labels)

    def order(self) -> list[tuple[int, int]]:
        """The (epoch, step) of each of the T = E*S gradient steps, in the order they are taken."""
        epochs, steps = self.lrs.shape
        return list(product(range(epochs), range(steps)))

    def learned(self) -> Learned:
        return Learned(self.images, self.lrs, self.soft_labels)

    def with_learned(self, learned: Learned) -> "DistilledData":
        """The same with others in the place of `learned()`."""
        return replace(self, **learned._asdict())

    def targets(self) -> Tensor:
        """What the inner loss asks for, [S, n, K]: the soft labels, or the labels one hot (of as
        many classes as `meta` names, else as the labels show)."""
        if self.soft_labels is not None:
            return self.soft_labels
        classes = len(self.meta.get("classes", ())) or -1
        return F.one_hot(self.labels, classes).to(self.images.dtype)

    def to(self, *args: Any) -> "DistilledData":
        """As `Tensor.to`, for the floating-point tensors (the labels follow a device only)."""
        moved = self.with_learned(self.learned().map(lambda t: t.to(*args)))
        init = self.init and {name: t.to(*args) for name, t in self.init.items()}
        return replace(moved, labels=self.labels.to(moved.images.device), init=init)

    def save(self, path: Path | str) -> None:
        """Write the file atomically: a reader sees the old file or the whole new one."""
        stored.write(Path(path), **vars(self))

    @staticmethod
    def load(path: Path | str) -> "DistilledData":
        """Read such a file; InputError where it is none."""
        return DistilledData(**stored.read(path))


def class_major(
    data: Dataset, images: Tensor, lrs: Tensor, labelled: Tensor | None = None
) -> DistilledData:
    """Images of each of the dataset's K classes in their order, as distilled data.

    Args:
        images: [S, K*m, C, H, W], m of each class.
        lrs: learning rates [E, S].
        labelled: int64 [K], where the images of a class carry the label of another.
    """
    labels = torch.arange(len(data.classes)) if labelled is None else labelled
    labels = labels.to(images.device).repeat_interleave(images.shape[1] // len(labels))
    meta = {
        "dataset": data.name,
        "mean": data.mean,
        "std": data.std,
        "classes": data.classes,
        "steps": len(images),
        "epochs": len(lrs),
    }
    return DistilledData(images, labels.expand(len(images), -1).contiguous(), lrs, meta=meta)
