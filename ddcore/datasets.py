"""Datasets as tensors (section 4): a name or a folder of images -> training, validation and test split on one device.

Everything is held in memory, normalised by the training images' mean and standard deviation per channel, which the
dataset carries along. The validation split is cut off the training images deterministically (the same for everyone);
every choice is made on it, and the test images are used once.
"""

import hashlib
import math
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ddcore.errors import InputError

DIGITS = tuple("0123456789")
CIFAR = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SVHN_STATS = (0.43791, 0.44398, 0.47293), (0.19803, 0.20102, 0.19704)
CIFAR_STATS = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
IDX_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
CIFAR_FILES = [f"cifar-10-batches-py/{f}" for f in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")]
TORCHVISION = {  # name: torchvision's class, its root below the data root, (mean, std), class names, files below that root
    "mnist": ("MNIST", "", ((0.1307,), (0.3081,)), DIGITS, [f"MNIST/raw/{f}" for f in IDX_FILES]),
    "fashionmnist": ("FashionMNIST", "", ((0.2860,), (0.3530,)), CLOTHES, [f"FashionMNIST/raw/{f}" for f in IDX_FILES]),
    "usps": ("USPS", "USPS", ((0.1597,), (0.2573,)), DIGITS, ["usps.bz2", "usps.t.bz2"]),
    "svhn": ("SVHN", "SVHN", SVHN_STATS, DIGITS, ["train_32x32.mat", "test_32x32.mat"]),
    "cifar10": ("CIFAR10", "", CIFAR_STATS, CIFAR, CIFAR_FILES),
}
NAMES = ("digits", *TORCHVISION, "cifar10-jpeg")
AUGMENTED = ("cifar10", "cifar10-jpeg")
VALIDATION = 5_000  # images; a tenth of a training set of fewer than 20,000


@dataclass(frozen=True)
class Dataset:
    """Images [B, C, H, W], normalised float32, and labels int64 [B], in three disjoint splits.

    mean, std: per channel, of the pixels in [0, 1] before normalisation. sha256: of the files (or, for the embedded
    digits, of the arrays) that the images were read from.
    """

    name: str
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    sha256: str

    @property
    def shape(self) -> tuple[int, int]:
        """(channels, side) of an image."""
        return self.train[0].shape[1], self.train[0].shape[2]

    def batch(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """`size` training images drawn independently by `rng` (a CPU generator), CIFAR-10 with its augmentation."""
        images, labels = self.train
        picked = torch.randint(len(labels), (size,), generator=rng).to(labels.device)
        return self.augment(images[picked], rng), labels[picked]

    def augment(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """CIFAR-10: reflect-pad by 4, random crop, random horizontal flip, as the paper's code; others: x."""
        if self.name not in AUGMENTED:
            return x
        n, side = len(x), x.shape[-1]
        shift = torch.randint(9, (2, n, 1), generator=rng).to(x.device)
        flip = torch.rand(n, 1, generator=rng).to(x.device) < 0.5
        along = torch.arange(side, device=x.device)
        rows, columns = shift[0] + along, shift[1] + torch.where(flip, side - 1 - along, along)  # [n, side]
        padded = F.pad(x, (4, 4, 4, 4), mode="reflect").permute(0, 2, 3, 1)  # [n, H+8, W+8, C]
        picked = padded[torch.arange(n, device=x.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return picked.permute(0, 3, 1, 2)

    def to(self, device: str | torch.device) -> "Dataset":
        splits = {k: tuple(t.to(device) for t in getattr(self, k)) for k in ("train", "validation", "test")}
        return Dataset(**{**vars(self), **splits})


def data_root() -> Path:
    """DDCORE_DATA where it is set, else the user's cache folder."""
    return Path(os.environ["DDCORE_DATA"]) if os.environ.get("DDCORE_DATA") else cache_folder() / "data"


def cache_folder() -> Path:
    """XDG_CACHE_HOME/ddcore, by default ~/.cache/ddcore."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddcore"


def is_available(name: str) -> bool:
    """Whether `load(name)` would succeed without a download."""
    try:
        load(name, download=False)
    except InputError:
        return False
    return True


@lru_cache(maxsize=4)
def load(name: str, *, download: bool = True) -> Dataset:
    """The dataset of that name, or `folder:PATH` with `train` and `test` folders of one folder of images per class.

    Looks below `data_root()`; what torchvision can download is downloaded there. Raises InputError with one line that
    says what is missing or damaged, where it was looked for and what to do.
    """
    if name == "digits":
        arrays, stats, classes, sha256 = _digits()
    elif name in TORCHVISION:
        arrays, stats, classes, sha256 = _torchvision(name, download)
    elif name == "cifar10-jpeg" or name.startswith("folder:"):
        folder = Path(name.removeprefix("folder:")) if name.startswith("folder:") else data_root() / name
        arrays, stats, classes, sha256 = _image_folder(name, folder)
    else:
        raise InputError(f"unknown dataset {name!r}: one of {', '.join(NAMES)}, or folder:PATH")

    mean, std = (torch.tensor(s).view(1, -1, 1, 1) for s in stats)
    (train_x, train_y), test = [((x - mean) / std, y) for x, y in arrays]
    held_out = VALIDATION if len(train_y) >= 20_000 else len(train_y) // 10
    order = torch.randperm(len(train_y), generator=torch.Generator().manual_seed(0))
    splits = [(train_x[i], train_y[i]) for i in (order[held_out:], order[:held_out])]
    return Dataset(name, *splits, test, *stats, tuple(classes), sha256)


def _digits():
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged to 28x28; every fifth one is a test image."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    x, y = F.interpolate(x, size=28, mode="bilinear", align_corners=False), torch.tensor(found.target).long()
    test = torch.arange(len(y)) % 5 == 4
    stats = (round(x[~test].mean().item(), 4),), (round(x[~test].std().item(), 4),)
    sha256 = hashlib.sha256(found.images.tobytes() + found.target.tobytes()).hexdigest()
    return ((x[~test], y[~test]), (x[test], y[test])), stats, DIGITS, sha256


def _torchvision(name: str, download: bool):
    kind, folder, stats, classes, files = TORCHVISION[name]
    make, root = getattr(torchvision_datasets(), kind), data_root() / folder
    split = "split" if name == "svhn" else "train"
    keys = ("train", "test") if name == "svhn" else (True, False)
    paths = [root / f for f in files]
    whole_idx_files(paths)
    missing = [p for p in paths if not p.is_file()]
    if missing and not download:
        raise InputError(f"{name} is not there: {missing[0]} is missing")
    try:
        if missing:
            print(f"downloading {name} to {root}", file=sys.stderr)
            root.mkdir(parents=True, exist_ok=True)
        parts = [make(root, **{split: key}, download=bool(missing)) for key in keys]
    except Exception as error:  # torchvision lets the errors of urllib, bz2, pickle and the disk through
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        if missing:
            raise InputError(
                f"{name} is not there: {missing[0]} is missing and cannot be downloaded ({reason}); go online once, or set "
                f"DDCORE_DATA to a folder laid out as torchvision.datasets.{kind} expects it"
            ) from error
        raise InputError(
            f"one of {', '.join(map(str, paths))} is damaged ({reason}); delete it and it is fetched again"
        ) from error
    return [_as_arrays(part) for part in parts], stats, classes, _sha256(paths)


def whole_idx_files(paths: list[Path]) -> None:
    """Name a truncated file of MNIST's format, whose header says how long it must be."""
    for path in paths:
        if path.is_file() and path.name.endswith("ubyte"):
            with path.open("rb") as file:
                head = file.read(16)
            sizes = (
                [int.from_bytes(head[i : i + 4], "big") for i in range(4, 4 + 4 * head[3], 4)] if len(head) > 8 else [0]
            )
            if path.stat().st_size != 4 + 4 * len(sizes) + math.prod(sizes):
                raise InputError(f"{path} is truncated or damaged; delete it and it is fetched again")


def _as_arrays(part) -> tuple[Tensor, Tensor]:
    labels = getattr(part, "targets", None)
    labels = torch.as_tensor(part.labels if labels is None else labels).long()
    x = torch.as_tensor(part.data)
    if x.dim() == 3:
        x = x[:, None]
    elif x.shape[-1] == 3:
        x = x.permute(0, 3, 1, 2)
    x = x.float() / 255
    if x.shape[-1] == 16:  # USPS, to LeNet's size
        x = F.interpolate(x, size=28, mode="bilinear", align_corners=False)
    return x, labels


def _image_folder(name: str, folder: Path):
    """One folder of images per class below `train` and `test`; the mean and std are those of the training images."""
    datasets = torchvision_datasets()
    if not (folder / "train").is_dir() or not (folder / "test").is_dir():
        raise InputError(
            f"{name} is not there: {folder} must hold the folders train and test, with one folder of images per class each"
        )
    arrays, classes, files = [], None, []
    for part in ("train", "test"):
        try:
            found = datasets.ImageFolder(folder / part)
        except FileNotFoundError as error:
            raise InputError(f"{folder / part} holds no images in class folders: {error}") from error
        if classes is not None and found.classes != classes:
            raise InputError(
                f"{folder}: train and test must have the same class folders, not {classes} and {found.classes}"
            )
        classes = found.classes
        arrays.append(_read_images([f for f, _ in found.samples], [y for _, y in found.samples]))
        files += [Path(f) for f, _ in found.samples]
    if arrays[0][0].shape[1:] != arrays[1][0].shape[1:]:
        raise InputError(f"{folder}: the images of train and test must have the same size")
    x = arrays[0][0]
    stats = tuple(tuple(round(v, 4) for v in s.tolist()) for s in (x.mean((0, 2, 3)), x.std((0, 2, 3))))
    if name == "cifar10-jpeg":
        classes, stats = _cifar_names(classes), CIFAR_STATS
    return arrays, stats, classes, _sha256(files)


def _cifar_names(folders: list[str]) -> tuple[str, ...]:
    """The copy's folders carry CIFAR-10's own names; the paper prints short ones."""
    short = {"airplane": "plane", "automobile": "car"}
    return tuple(short.get(f, f) for f in folders)


def _read_images(files: list[str], labels: list[int]) -> tuple[Tensor, Tensor]:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    pixels = []
    for file in files:
        try:
            with Image.open(file) as image:
                pixels.append(np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB")))
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"{file} is not a whole image ({error}): replace or remove it") from error
        if pixels[-1].shape != pixels[0].shape:
            raise InputError(
                f"{file} has the shape {pixels[-1].shape}, the first image {pixels[0].shape}: all must be alike"
            )
    x = torch.from_numpy(np.stack(pixels)).float() / 255
    x = x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2)
    if x.shape[-1] not in (28, 32) or x.shape[-1] != x.shape[-2]:
        raise InputError(f"images of {tuple(x.shape[2:])} pixels: 28x28 or 32x32 are allowed")
    return x, torch.tensor(labels)


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def torchvision_datasets():
    """`torchvision.datasets`. Beside a CPU-only build of torch, torchvision fails to import until the two operators that
    it registers fake kernels for are declared."""
    try:
        import torchvision.datasets
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)  # the declarations live as long as the library object
        import torchvision.datasets
    return torchvision.datasets


_declared: list[torch.library.Library] = []
