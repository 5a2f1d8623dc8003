"""Distilled data: images, labels, their order and their learning rates, which belong together
(equations 2 and 8).

The file format is `safetensors`: `images` [S, n, C, H, W] in normalised space; `labels` int64
[S, n] or `soft_labels` float32 [S, n, K]; `lrs` float32 [E, S]; for a fixed init
`init.<parameter>`. The header's `ddcore` entry is JSON.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddcore.datasets import Dataset
from ddcore.errors import InputError
from ddcore.files import whole

FORMAT = 1


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
    """

    images: Tensor
    labels: Tensor
    lrs: Tensor
    soft_labels: Tensor | None = None
    init: dict[str, Tensor] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

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
        tensors = self.learned().tensors()
        if self.soft_labels is None:
            tensors["labels"] = self.labels
        for name, t in (self.init or {}).items():
            tensors[f"init.{name}"] = t
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        header = {"ddcore": json.dumps({"format": FORMAT, **self.meta}, sort_keys=True)}
        with whole(Path(path)) as part:
            save_file(tensors, part, header)

    @staticmethod
    def load(path: Path | str) -> "DistilledData":
        """Read such a file; InputError where it is none."""
        try:
            with safe_open(path, "pt") as file:
                meta = json.loads((file.metadata() or {})["ddcore"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if meta.pop("format") != FORMAT:
                raise ValueError(f"another format version than {FORMAT}")
            return _checked(tensors, meta)
        except (
            *(OSError, SafetensorError, AttributeError),
            *(KeyError, TypeError, ValueError),
        ) as error:
            raise InputError(f"{path} is not a file of distilled data: {error}") from error


def _checked(tensors: dict[str, Tensor], meta: dict[str, Any]) -> DistilledData:
    """The distilled data of a file's tensors; ValueError where they do not belong together."""
    images = tensors["images"].float()
    lrs = tensors["lrs"].float()
    soft_labels = None
    if "soft_labels" in tensors:
        soft_labels = tensors["soft_labels"].float()
        labels = soft_labels.argmax(-1)
    else:
        labels = tensors["labels"]
    learned = Learned(images, lrs, soft_labels)
    classes = len(meta["classes"])
    S, n, *_ = images.shape
    if images.dim() != 5 or 0 in images.shape or labels.shape != (S, n):
        raise ValueError("its images, labels and rates do not belong together")
    if lrs.dim() != 2 or lrs.shape[1] != S:
        raise ValueError("its images, labels and rates do not belong together")
    if not all(t.isfinite().all() for t in learned.tensors().values()):
        raise ValueError("it has numbers that are not finite")
    if labels.dtype != torch.int64 or not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError("it has labels without a class")
    if soft_labels is not None and soft_labels.shape[-1] != classes:
        raise ValueError(
            f"it has soft labels of {soft_labels.shape[-1]} classes and names {classes}"
        )
    init = {
        name.removeprefix("init."): t for name, t in tensors.items() if name.startswith("init.")
    }
    return DistilledData(images, labels, lrs, soft_labels, init or None, meta)


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
