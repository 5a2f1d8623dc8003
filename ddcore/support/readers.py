"""Datasets' readers: pixels and labels out of what torchvision fetches, folders of images,
scikit-learn and map-style datasets; whatever is missing or damaged is named."""

import hashlib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from ddcore.support.errors import InputError
from ddcore.support.files import check_folder, data_root
from ddcore.support.folders import Files, Labelled, image_folder, mean_and_std, sha256_of
from ddcore.support.registry import DATASETS, Source, source


def read(name: str, root: Path) -> Files:
    """What the files of a dataset hold, by its name, below the data root; InputError where they are
    missing or damaged, or the name is none."""
    entry = source(name)
    if name == "digits":
        return _digits(entry)
    if name == "usps":
        return _usps(entry, root / entry.folder)
    if name == "usps-pooled":
        return pooled(entry, root / entry.folder, POOLED_SIDE)
    if entry.torchvision:
        return _torchvision(entry, root / entry.folder)
    if name in DATASETS or name.startswith("folder:"):
        # an absolute path replaces the root
        return image_folder(name, entry, root / name.removeprefix("folder:"))
    raise InputError(f"unknown dataset {name!r}: one of {', '.join(DATASETS)}, or folder:PATH")


def _digits(entry: Source) -> Files:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged to 28x28; every fifth one is
    a test image. Its table is read as it lies there: importing the package takes three seconds."""
    spec = find_spec("sklearn")
    assert spec is not None and spec.origin is not None
    table = np.loadtxt(Path(spec.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    pixels = table[:, :64]
    answers = table[:, 64].astype(int)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    x = enlarged(x, 28)
    y = torch.tensor(answers)
    test = torch.arange(len(y)) % 5 == 4
    mean = round(x[~test].mean().item(), 4)
    std = round(x[~test].std().item(), 4)
    sha256 = hashlib.sha256(pixels.tobytes() + answers.tobytes()).hexdigest()
    return Files(
        train=(x[~test], y[~test]),
        test=(x[test], y[test]),
        mean=(mean,),
        std=(std,),
        classes=entry.classes,
        sha256=sha256,
    )


# torchvision's datasets


def fetch(name: str, download: bool) -> None:
    """Download what is missing of one of torchvision's datasets; InputError where that is not
    wanted or fails. Nothing is fetched for another name."""
    entry = source(name)
    root = data_root() / entry.folder
    files = [root / file for file in (*entry.train_files, *entry.test_files)]
    missing = [file for file in files if not file.is_file()]
    if not missing:
        return
    reason = "a download was not asked for"
    if download:
        remedy = f"for {name}, set DDCORE_DATA to a folder that can be written to, or that has it"
        check_folder(root, remedy)
        print(f"downloading {name} to {root}", file=sys.stderr)
        try:
            root.mkdir(parents=True, exist_ok=True)
            # torchvision looks for the files again
            with FileLock(root / f".{name}.lock"), _all_or_nothing(entry, root):
                for split in (entry.train_split, entry.test_split):
                    _split(entry, root, split, download=True)
            return
        except Exception as error:  # torchvision lets urllib's, bz2's, pickle's and the disk's out
            reason = _last_line(error)
    raise InputError(
        f"{name} is not there: {missing[0]} is missing and cannot be downloaded ({reason}); go "
        "online once, with space free there, or set DDCORE_DATA to a folder laid out as "
        f"torchvision.datasets.{entry.torchvision} expects it"
    )


@contextmanager
def _all_or_nothing(entry: Source, root: Path) -> Iterator[None]:
    """Where a download fails or is interrupted, what it left is removed; what was there stays."""
    before = _stored(entry, root)
    try:
        yield
    except BaseException:
        for path in sorted(_stored(entry, root) - before, reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        raise


def _stored(entry: Source, root: Path) -> set[Path]:
    """What there is of a dataset, whole or not, with the archive that its files come in."""
    archive = getattr(getattr(torchvision_datasets(), entry.torchvision), "filename", "")
    names = {Path(file).parts[0] for file in (*entry.train_files, *entry.test_files)}
    places = [root / name for name in names | {archive} if name]
    inside = [path for place in places for path in place.rglob("*")]
    return {path for path in [*places, *inside] if path.exists()}


POOLED_TRAINING = 7_438  # of the 9,298 digits of USPS, as in the paper's copy
POOLED_SIDE = 25  # pixels of a digit in a frame of 28


def pooled(entry: Source, root: Path, side: int) -> Files:
    """A stand-in for the copy of USPS that the paper's code reads, which cannot be had any more:
    all 9,298 digits, split anew (seed 0) into as many training and test images, each enlarged to
    `side` pixels and centred in a frame of 28.

    Of the sides that were tried, 25 comes nearest to the constants in that code: mean over standard
    deviation, which no scaling of the grey values changes, is 0.616 for 0.621.
    """
    files = _torchvision(entry, root)
    x = enlarged(torch.cat([files.train[0], files.test[0]]), side)
    y = torch.cat([files.train[1], files.test[1]])
    before = (28 - side) // 2
    after = 28 - side - before
    x = F.pad(x, (before, after, before, after))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[:POOLED_TRAINING], order[POOLED_TRAINING:]
    mean, std = mean_and_std(x[train], "usps-pooled")
    return files._replace(train=(x[train], y[train]), test=(x[test], y[test]), mean=mean, std=std)


def _usps(entry: Source, root: Path) -> Files:
    """torchvision's 7,291 and 2,007 digits of 16x16 pixels, enlarged to LeNet's 28x28."""
    files = _torchvision(entry, root)
    (x, y), (test_x, test_y) = files.train, files.test
    return files._replace(train=(enlarged(x, 28), y), test=(enlarged(test_x, 28), test_y))


def enlarged(x: Tensor, side: int) -> Tensor:
    """[B, C, H, W] -> [B, C, side, side], between pixels in a straight line."""
    return F.interpolate(x, size=side, mode="bilinear", align_corners=False)


def _torchvision(entry: Source, root: Path) -> Files:
    """The two splits; InputError names a damaged file (for CIFAR-10, the files of the split)."""
    train_files = [root / file for file in entry.train_files]
    test_files = [root / file for file in entry.test_files]
    check_idx_files([*train_files, *test_files])
    splits = []
    for split, files in ((entry.train_split, train_files), (entry.test_split, test_files)):
        try:
            images, labels = _as_tensors(_split(entry, root, split))
            highest = int(labels.max())
            if len(images) != len(labels) or not 0 <= int(labels.min()) <= highest:
                raise ValueError(f"{len(images)} images, {len(labels)} labels")
            if highest >= len(entry.classes):
                raise ValueError(f"{len(images)} images, labels up to {highest}")
        except Exception as error:
            raise InputError(
                f"{' or '.join(map(str, files))} is damaged ({_last_line(error)}); delete it and "
                "it is fetched again"
            ) from error
        splits.append((images, labels))
    files = [*train_files, *test_files]
    sha256 = sha256_of(files, files[0].parent)
    return Files(splits[0], splits[1], entry.mean, entry.std, entry.classes, sha256)


def _split(
    entry: Source, root: Path, split: tuple[tuple[str, Any], ...], download: bool = False
) -> Any:
    """One split as torchvision gives it."""
    return getattr(torchvision_datasets(), entry.torchvision)(
        root, download=download, **dict(split)
    )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def check_idx_files(paths: list[Path]) -> None:
    """InputError names a truncated file of MNIST's format, whose header says how long it is."""
    for path in paths:
        if not path.name.endswith("ubyte"):
            continue
        with path.open("rb") as file:
            head = file.read(16)
        axes = head[3] if len(head) > 3 else 0
        sizes = [int.from_bytes(head[i : i + 4], "big") for i in range(4, 4 + 4 * axes, 4)]
        if not axes or path.stat().st_size != 4 + 4 * axes + math.prod(sizes):
            raise InputError(f"{path} is truncated or damaged; delete it and it is fetched again")


def _as_tensors(part: Any) -> Labelled:
    """torchvision's arrays as images [B, C, H, W] in [0, 1] and labels [B]."""
    labels = part.labels if hasattr(part, "labels") else part.targets
    x = torch.as_tensor(part.data)
    if x.dim() == 3:
        x = x[:, None]
    elif x.shape[-1] == 3:
        x = x.permute(0, 3, 1, 2)
    return x.float() / 255, torch.as_tensor(labels).long()


def torchvision_datasets() -> Any:
    """`torchvision.datasets`. Beside a CPU-only build of torch, torchvision fails to import until
    the two operators that it registers fake kernels for are declared."""
    try:
        import torchvision.datasets
    except RuntimeError:
        for operator in ("nms", "qnms"):
            declaration = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", declaration)
        import torchvision.datasets
    return torchvision.datasets


# Map-style datasets


def stacked(part: Any) -> Labelled:
    """The items of a map-style dataset, in order."""
    if len(part) == 0:
        raise InputError(f"{type(part).__name__} has no images")
    images, labels = [], []
    for k in range(len(part)):
        image, label = part[k]
        if not isinstance(image, Tensor):
            pixels = torch.from_numpy(np.array(image))
            image = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
        images.append(image)
        labels.append(int(label))
    return torch.stack(images), torch.tensor(labels)
