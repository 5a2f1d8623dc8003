"""Datasets as tensors (section 4): a name or a folder of images -> training, validation and test split on one device.

Everything is held in memory, normalised by the training images' mean and standard deviation per channel, which the
dataset carries along. The validation split is cut off the training images deterministically (the same for everyone);
every choice is made on it, and the test images are used once.
"""

import hashlib
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from ddcore.errors import InputError

DIGITS = tuple("0123456789")
CIFAR = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SVHN_STATS = (0.43791, 0.44398, 0.47293), (0.19803, 0.20102, 0.19704)
CIFAR_STATS = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
IDX_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
CIFAR_FILES = [f"cifar-10-batches-py/{f}" for f in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")]
TORCHVISION = {  # name: torchvision's class, root below the data root, (mean, std), class names, files below the root
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
        return self.mapped(lambda x, y: (x.to(device), y.to(device)))

    def mapped(self, how: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], **others: object) -> "Dataset":
        """The same with how(images, labels) in the place of each split, and other fields."""
        return replace(self, **{k: how(*getattr(self, k)) for k in ("train", "validation", "test")}, **others)


def data_root() -> Path:
    """DDCORE_DATA where it is set, else the user's cache folder."""
    return Path(os.environ["DDCORE_DATA"]) if os.environ.get("DDCORE_DATA") else cache_folder() / "data"


def cache_folder() -> Path:
    """XDG_CACHE_HOME/ddcore, by default ~/.cache/ddcore."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddcore"
    except RuntimeError:
        raise InputError("no home folder is known: set XDG_CACHE_HOME to a folder that can be written") from None


def is_available(name: str) -> bool:
    """Whether `load(name)` would succeed without a download."""
    try:
        load(name, download=False)
    except InputError:
        return False
    return True


def absolute(name: object) -> object:
    """A dataset's name with the path of `folder:PATH` made absolute; anything else as it is."""
    if isinstance(name, str) and name.startswith("folder:"):
        return "folder:" + os.path.abspath(os.path.expanduser(name.removeprefix("folder:")))
    return name


def load(name: str, *, download: bool = True) -> Dataset:
    """The dataset of that name, or `folder:PATH` with `train` and `test` folders of one folder of images per class.

    Looks below `data_root()`; what torchvision can download is downloaded there. Raises InputError with one line that
    says what is missing or damaged, where it was looked for and what to do.
    """
    if name in TORCHVISION:
        _fetch(name, download)
    name = absolute(name)
    return _load(name, data_root(), _stamps(Path(name.removeprefix("folder:"))) if "folder:" in name else ())


def _stamps(folder: Path) -> tuple:
    """What changes when a file in a folder does."""
    walk = os.walk(folder, followlinks=True) if os.path.isdir(folder) else ()
    files = (Path(here, name) for here, _, names in walk for name in names)
    return tuple(sorted((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.exists()))


@lru_cache(maxsize=4)
def _load(name: str, root: Path, stamps: tuple) -> Dataset:
    if name == "digits":
        arrays, stats, classes, sha256 = _digits()
    elif name in TORCHVISION:
        arrays, stats, classes, sha256 = _torchvision(name, root)
    elif name == "cifar10-jpeg" or name.startswith("folder:"):
        arrays, stats, classes, sha256 = _image_folder(name, root / name.removeprefix("folder:"))  # absolute: no root
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


def _fetch(name: str, download: bool) -> None:
    """Download what is missing of one of torchvision's datasets; InputError where that is not wanted or fails."""
    kind, folder, _, _, files = TORCHVISION[name]
    root = data_root() / folder
    missing = [root / f for f in files if not (root / f).is_file()]
    if not missing:
        return
    reason = "a download was not asked for"
    if download:
        print(f"downloading {name} to {root}", file=sys.stderr)
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{name}.lock"):  # torchvision looks for the files again
                for split in _splits(name):
                    getattr(torchvision_datasets(), kind)(root, **split, download=True)
            return
        except Exception as error:  # torchvision lets the errors of urllib, bz2, pickle and the disk through
            reason = _last_line(error)
    raise InputError(
        f"{name} is not there: {missing[0]} is missing and cannot be downloaded ({reason}); go online once, or set "
        f"DDCORE_DATA to a folder laid out as torchvision.datasets.{kind} expects it"
    )


def _torchvision(name: str, root: Path):
    """The two splits as arrays; InputError names a damaged file (for CIFAR-10, the files of the split)."""
    kind, folder, stats, classes, files = TORCHVISION[name]
    paths, arrays = [root / folder / f for f in files], []
    whole_idx_files(paths)
    cut = -2 if len(paths) == 4 else -1  # where the files of the test images begin
    for split, read in zip(_splits(name), (paths[:cut], paths[cut:]), strict=True):
        try:
            arrays.append(_as_arrays(getattr(torchvision_datasets(), kind)(root / folder, **split)))
            images, labels = arrays[-1]
            if len(images) != len(labels) or not 0 <= labels.min() <= labels.max() < len(classes):
                raise ValueError(f"{len(images)} images, {len(labels)} labels up to {labels.max()}")
        except Exception as error:
            raise InputError(
                f"{' or '.join(map(str, read))} is damaged ({_last_line(error)}); delete it and it is fetched again"
            ) from error
    return arrays, stats, classes, _sha256(paths, paths[0].parent)


def _splits(name: str) -> list[dict]:
    """How torchvision is asked for the training and the test images."""
    return [{"split": "train"}, {"split": "test"}] if name == "svhn" else [{"train": True}, {"train": False}]


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def whole_idx_files(paths: list[Path]) -> None:
    """Name a truncated file of MNIST's format, whose header says how long it must be."""
    for path in paths:
        if path.name.endswith("ubyte"):
            with path.open("rb") as file:
                head = file.read(16)
            axes = head[3] if len(head) > 3 else 0
            sizes = [int.from_bytes(head[i : i + 4], "big") for i in range(4, 4 + 4 * axes, 4)]
            if not axes or path.stat().st_size != 4 + 4 * axes + math.prod(sizes):
                raise InputError(f"{path} is truncated or damaged; delete it and it is fetched again")


def _as_arrays(part) -> tuple[Tensor, Tensor]:
    labels = torch.as_tensor(part.labels if hasattr(part, "labels") else part.targets).long()
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
    try:
        train, test = (torchvision_datasets().ImageFolder(folder / part) for part in ("train", "test"))
    except (OSError, ValueError) as error:  # ValueError: of a NUL in the name
        said = f"{folder} must hold train and test, each with one folder of images per class"
        raise InputError(f"{name} is not there: {said} ({error})") from error
    if odd := sorted(set(train.classes) ^ set(test.classes)):
        raise InputError(f"{folder}: the class {odd[0]} is in only one of train and test")
    files, n = [Path(file) for file, _ in train.samples + test.samples], len(train.samples)
    if n < 10:
        raise InputError(f"{folder} holds {n} training images: at least 10 are needed")
    x = _read_images(files)
    stats = tuple(tuple(round(v, 4) for v in s.tolist()) for s in (x[:n].mean((0, 2, 3)), x[:n].std((0, 2, 3))))
    if min(stats[1]) == 0:
        raise InputError(f"{folder}: a channel of the training images has a single value: two at least are needed")
    classes = train.classes
    if name == "cifar10-jpeg":  # its folders carry CIFAR-10's own names; the paper prints short ones
        classes, stats = [{"airplane": "plane", "automobile": "car"}.get(c, c) for c in classes], CIFAR_STATS
    arrays = (x[:n], torch.tensor(train.targets)), (x[n:], torch.tensor(test.targets))
    return arrays, stats, classes, _sha256(files, folder)


def _read_images(files: list[Path]) -> Tensor:
    """[B, C, H, W] in [0, 1]; InputError names the first file that cannot be read or is unlike the first."""
    import numpy as np
    from PIL import Image

    pixels: list = []
    for file in files:
        try:
            with Image.open(file) as image:
                if image.mode[0] in "IF":
                    raise ValueError(f"pixels of mode {image.mode} where eight bits are allowed")
                pixels.append(np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB")))
        except Exception as error:  # Pillow's formats let struct.error, SyntaxError and others through
            raise InputError(f"{file} is not a whole image ({error}): replace or remove it") from error
        height, width, *channels = pixels[-1].shape
        if pixels[-1].shape != pixels[0].shape or height != width or width not in (28, 32):
            raise InputError(
                f"{file} has {height}x{width} pixels of {(channels or [1])[0]} channels: 28x28 or 32x32 is allowed, of "
                f"1 or 3 channels, and all must be like the first, {files[0]}"
            )
    x = torch.from_numpy(np.stack(pixels)).float() / 255
    return x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2)


def _sha256(files: list[Path], root: Path) -> str:
    """Of the files' places below `root` (an image's folder is its label) and contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.relative_to(root)))
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def torchvision_datasets():
    """`torchvision.datasets`. Beside a CPU-only build of torch, torchvision fails to import until the two operators
    that it registers fake kernels for are declared."""
    try:
        import torchvision.datasets
    except RuntimeError:
        for operator in ("nms", "qnms"):
            declaration = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", declaration)
        import torchvision.datasets
    return torchvision.datasets
