"""Distilled data: images, their labels, their order and their rates, which belong together (equations 2 and 8).

The file format is `safetensors`: `images` [S, n, C, H, W] in normalised space; `labels` int64 [S, n] or `soft_labels`
float32 [S, n, K]; `lrs` float32 [E, S]; for a fixed init `init.<parameter>`. The header's `ddcore` entry is JSON.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddcore.datasets import Dataset
from ddcore.errors import InputError, whole

FORMAT = 1


@dataclass(frozen=True)
class DistilledData:
    """S batches of n images that E epochs of gradient descent pass through in order.

    images [S, n, C, H, W] in normalised space; labels [S, n] (fixed classes) and soft_labels [S, n, K] (targets t of
    the loss -sum t log p, unconstrained; they replace the labels where given); lrs [E, S], positive, one for each
    (epoch, step); init {name: [*shape]}, the one network's initial weights for a fixed init; meta: dataset,
    architecture, init law, mean, std, class names.
    """

    images: Tensor
    labels: Tensor
    lrs: Tensor
    soft_labels: Tensor | None = None
    init: dict[str, Tensor] | None = None
    meta: dict = field(default_factory=dict)

    def order(self) -> list[tuple[int, int]]:
        """The (epoch, step) of each of the T = E*S gradient steps, in the order they are taken."""
        return list(product(*map(range, self.lrs.shape)))

    def learned(self) -> list[Tensor]:
        """What distillation changes: the images, the rates and, where there are any, the soft labels."""
        return [t for t in (self.images, self.lrs, self.soft_labels) if t is not None]

    def with_learned(self, tensors: Iterable[Tensor]) -> "DistilledData":
        """The same with others in the place of `learned()`."""
        return replace(self, **dict(zip(("images", "lrs", "soft_labels"), tensors, strict=False)))

    def targets(self) -> Tensor:
        """What the inner loss asks for, [S, n, K]: the soft labels, or the labels one hot (of as many classes as `meta`
        names, else as the labels show)."""
        if self.soft_labels is not None:
            return self.soft_labels
        return F.one_hot(self.labels, len(self.meta.get("classes", ())) or -1).to(self.images.dtype)

    def to(self, *args) -> "DistilledData":
        """As `Tensor.to`, for the floating-point tensors (the labels follow a device only)."""
        move = {k: v.to(*args) for k, v in vars(self).items() if isinstance(v, Tensor) and v.is_floating_point()}
        init = self.init and {k: v.to(*args) for k, v in self.init.items()}
        return DistilledData(**{**vars(self), **move, "labels": self.labels.to(move["images"].device), "init": init})

    def save(self, path: Path) -> None:
        """Write the file atomically: a reader sees the old file or the whole new one."""
        tensors = {"images": self.images, "lrs": self.lrs}
        tensors |= {"labels": self.labels} if self.soft_labels is None else {"soft_labels": self.soft_labels}
        tensors |= {f"init.{k}": v for k, v in (self.init or {}).items()}
        header = {"ddcore": json.dumps({"format": FORMAT, **self.meta}, sort_keys=True)}
        with whole(Path(path)) as part:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, header)

    @staticmethod
    def load(path: Path) -> "DistilledData":
        """Read such a file; InputError where it is none."""
        try:
            with safe_open(path, "pt") as file:
                meta = json.loads((file.metadata() or {})["ddcore"])
                tensors = {k: file.get_tensor(k) for k in file.keys()}
            if meta.pop("format") != FORMAT:
                raise ValueError(f"another format version than {FORMAT}")
            init = {k.removeprefix("init."): tensors.pop(k) for k in list(tensors) if k.startswith("init.")}
            images, lrs = tensors["images"].float(), tensors["lrs"].float()
            soft = tensors["soft_labels"].float() if "soft_labels" in tensors else None
            labels = tensors["labels"] if soft is None else soft.argmax(-1)
            (S, n, *_), classes = images.shape, len(meta["classes"])
            if images.dim() != 5 or 0 in images.shape or labels.shape != (S, n) or lrs.dim() != 2 or lrs.shape[1] != S:
                raise ValueError("its images, labels and rates do not belong together")
            if not all(t.isfinite().all() for t in (images, lrs, *([] if soft is None else [soft]))):
                raise ValueError("it has numbers that are not finite")
            if labels.dtype != torch.int64 or not 0 <= labels.min() <= labels.max() < classes:
                raise ValueError("it has labels without a class")
            if soft is not None and soft.shape[-1] != classes:
                raise ValueError(f"it has soft labels of {soft.shape[-1]} classes and names {classes}")
            return DistilledData(images, labels, lrs, soft, init or None, meta)
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is not a file of distilled data: {error}") from error


def class_major(data: Dataset, images: Tensor, lrs: Tensor, labelled: Tensor | None = None) -> DistilledData:
    """Images [S, K*m, C, H, W], m of each of the dataset's K classes in their order, and rates [E, S], with the labels
    and the metadata that follow. labelled: int64 [K], where the images of a class carry the label of another."""
    labels = torch.arange(len(data.classes)) if labelled is None else labelled
    labels = labels.to(images.device).repeat_interleave(images.shape[1] // len(labels))
    labels = labels.expand(len(images), -1).contiguous()
    meta = {"dataset": data.name, "mean": data.mean, "std": data.std, "classes": data.classes}
    return DistilledData(images, labels, lrs, meta={**meta, "steps": len(images), "epochs": len(lrs)})
