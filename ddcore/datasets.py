"""Datasets as tensors: read, normalised, and split into training, validation and test images."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddcore.support.errors import InputError
from ddcore.support.files import absolute, data_root
from ddcore.support.folders import Files, mean_and_std, stamps
from ddcore.support.readers import fetch, read, stacked
from ddcore.support.registry import source

VALIDATION = 5_000  # images; a tenth of a training set of fewer than 20,000
Split = tuple[Tensor, Tensor]  # images [B, C, H, W] and labels int64 [B]


@dataclass(frozen=True)
class Dataset:
    """Images [B, C, H, W], normalised float32, and labels int64 [B], in three disjoint splits.

    mean, std: per channel, of the pixels in [0, 1] before normalisation. sha256: of the files (of
    tensors, of their contents) that the images were read from. preparation: what was done to make
    them alike, where something was.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    sha256: str
    augmented: bool = False
    preparation: str = ""

    @staticmethod
    def from_tensors(
        train: Split, test: Split, *, classes: Iterable[str] = (), name: str = "tensors"
    ) -> "Dataset":
        """A dataset of your own.

        Args:
            train, test: images [B, C, H, W], float in [0, 1] or uint8, square, and labels [B] from
                0 on.
            classes: their names; by default the numbers.
            name: what records and distilled data call it.

        Returns:
            The images normalised by the mean and standard deviation of each channel of the
            training images, a tenth of which (5,000 at most) become the validation split.

        Raises:
            InputError: for other shapes or pixels, fewer than ten training images, or labels
                without a class.
        """
        pixels = [(_unit_interval(images), labels.cpu().long()) for images, labels in (train, test)]
        for images, labels in pixels:
            if images.dim() != 4 or images.shape[2] != images.shape[3] or labels.dim() != 1:
                raise InputError(
                    f"{name}: images {list(images.shape)} and labels {list(labels.shape)}; "
                    "[B, C, H, H] and [B] are allowed"
                )
            if len(images) != len(labels) or images.shape[1:] != pixels[0][0].shape[1:]:
                raise InputError(f"{name}: images and labels, training and test do not match")
            if len(images) and not 0 <= images.min() <= images.max() <= 1:
                raise InputError(f"{name} has pixels outside 0 to 1 (of uint8: 0 to 255)")
        if len(pixels[0][0]) < 10:
            raise InputError(
                f"{name} has {len(pixels[0][0])} training images: at least 10 are needed"
            )
        labels = torch.cat([labels for _, labels in pixels])
        names = tuple(classes) or tuple(str(k) for k in range(int(labels.max()) + 1))
        if not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
            raise InputError(
                f"{name} has labels without a class: 0 to {len(names) - 1} are allowed"
            )
        digest = hashlib.sha256()
        for split in pixels:
            for tensor in split:
                digest.update(tensor.contiguous().numpy().tobytes())
        mean, std = mean_and_std(pixels[0][0], name)
        files = Files(pixels[0], pixels[1], mean, std, names, digest.hexdigest())
        return _normalised(name, files, augmented=False)

    @staticmethod
    def from_torchvision(train: Any, test: Any, *, name: str = "") -> "Dataset":
        """`from_tensors` of two map-style datasets, whose items are (image tensor or PIL image,
        label), such as torchvision's. Their `classes`, where they have any, name the classes."""
        splits = [stacked(part) for part in (train, test)]
        classes = getattr(train, "classes", ())
        return Dataset.from_tensors(
            splits[0], splits[1], classes=classes, name=name or type(train).__name__.lower()
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(channels, side) of an image."""
        return self.train[0].shape[1], self.train[0].shape[2]

    def batch(self, size: int, rng: torch.Generator) -> Split:
        """`size` training images drawn independently by `rng` (a CPU generator), augmented."""
        images, labels = self.train
        picked = torch.randint(len(labels), (size,), generator=rng).to(labels.device)
        return self.augment(images[picked], rng), labels[picked]

    def augment(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """CIFAR-10: reflect-pad by 4, random crop, random horizontal flip, as the paper's code;
        others: x [B, C, H, W] as it is."""
        if not self.augmented:
            return x
        n, side = len(x), x.shape[-1]
        shift = torch.randint(9, (2, n, 1), generator=rng).to(x.device)
        flip = torch.rand(n, 1, generator=rng).to(x.device) < 0.5
        along = torch.arange(side, device=x.device)
        rows = shift[0] + along  # [n, side]
        columns = shift[1] + torch.where(flip, side - 1 - along, along)
        padded = F.pad(x, (4, 4, 4, 4), mode="reflect").permute(0, 2, 3, 1)  # [n, H+8, W+8, C]
        image = torch.arange(n, device=x.device)[:, None, None]
        cropped = padded[image, rows[:, :, None], columns[:, None, :]]
        return cropped.permute(0, 3, 1, 2)

    def to(self, device: str | torch.device) -> "Dataset":
        return self.mapped(lambda x, y: (x.to(device), y.to(device)))

    def mapped(self, function: Callable[[Tensor, Tensor], Split], **fields: Any) -> "Dataset":
        """The same with function(images, labels) in the place of each split, and other fields."""
        splits = {
            "train": function(*self.train),
            "validation": function(*self.validation),
            "test": function(*self.test),
        }
        return replace(self, **splits, **fields)


def is_available(name: str) -> bool:
    """Whether `load(name)` would succeed without a download."""
    try:
        load(name, download=False)
    except InputError:
        return False
    return True


def load(name: str, *, download: bool = True) -> Dataset:
    """The dataset of that name, or `folder:PATH` with `train` and `test` folders of one folder of
    images per class.

    Images in folders may have any size: where they are not all of 28x28 or 32x32 pixels, they are
    made so, and a line on stderr says it. Hidden files are passed over.

    Looks below `data_root()`; what torchvision can download is downloaded there.

    Raises:
        InputError: one line that says what is missing or damaged, where it was looked for and
            what to do.
    """
    fetch(name, download)
    name = absolute(name)
    return _load(name, data_root(), stamps(name))


@lru_cache(maxsize=4)
def _load(name: str, root: Path, stamps: tuple) -> Dataset:
    return _normalised(name, read(name, root), source(name).augmented)


def _normalised(name: str, files: Files, augmented: bool) -> Dataset:
    """The files' images normalised; the split does not depend on the machine."""
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (files.mean, files.std))
    images, labels = files.train
    images = (images - mean) / std
    n = VALIDATION if len(labels) >= 20_000 else len(labels) // 10
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return Dataset(
        name,
        train=(images[order[n:]], labels[order[n:]]),
        validation=(images[order[:n]], labels[order[:n]]),
        test=((files.test[0] - mean) / std, files.test[1]),
        mean=files.mean,
        std=files.std,
        classes=files.classes,
        sha256=files.sha256,
        augmented=augmented,
        preparation=files.preparation,
    )


def _unit_interval(images: Tensor) -> Tensor:
    images = images.cpu()
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()
