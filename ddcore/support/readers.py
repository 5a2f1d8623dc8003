"""Datasets' readers: pixels and labels out of what torchvision fetches, folders of images,
scikit-learn and map-style datasets; whatever is missing or damaged is named."""

import hashlib
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from ddcore.support.errors import InputError
from ddcore.support.files import data_root
from ddcore.support.registry import DATASETS, Source, source

Labelled = tuple[Tensor, Tensor]  # images [B, C, H, W] in [0, 1] and labels int64 [B]


class Files(NamedTuple):
    """What files hold: pixels in [0, 1] with their labels, the statistics and names of classes."""

    train: Labelled
    test: Labelled
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    sha256: str
    preparation: str = ""  # what was done to make the images alike


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
        return _image_folder(name, entry, root / name.removeprefix("folder:"))
    raise InputError(f"unknown dataset {name!r}: one of {', '.join(DATASETS)}, or folder:PATH")


def stamps(name: str) -> tuple:
    """What changes when a file of `folder:PATH` does; of another dataset, nothing."""
    folder = Path(name.removeprefix("folder:"))
    if not name.startswith("folder:") or not os.path.isdir(folder):
        return ()
    try:
        files = [file for file in _files(folder, set()) if file.exists()]
    except OSError:  # `read` says of what
        return ()
    return tuple(sorted((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))


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
        print(f"downloading {name} to {root}", file=sys.stderr)
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{name}.lock"):  # torchvision looks for the files again
                for split in (entry.train_split, entry.test_split):
                    _split(entry, root, split, download=True)
            return
        except Exception as error:  # torchvision lets urllib's, bz2's, pickle's and the disk's out
            reason = _last_line(error)
    raise InputError(
        f"{name} is not there: {missing[0]} is missing and cannot be downloaded ({reason}); go "
        "online once, or set DDCORE_DATA to a folder laid out as "
        f"torchvision.datasets.{entry.torchvision} expects it"
    )


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
    sha256 = _sha256(files, files[0].parent)
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


# Folders of images


SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SIZES = ((28, 28), (32, 32))  # of images that are left as they are
SIDE = {"L": 28, "RGB": 32}  # of images that are made alike, grey or coloured


def _image_folder(name: str, entry: Source, folder: Path) -> Files:
    """One folder of images per class below `train` and `test`."""
    try:
        found = {part: _classes(folder / part) for part in ("train", "test")}
    except (OSError, ValueError) as error:  # ValueError: of a NUL in the name
        layout = f"{folder} must hold train and test, each with one folder of images per class"
        raise InputError(f"{name} is not there: {layout} ({error})") from error
    classes = _in_order(found["train"].keys() | found["test"].keys())
    _check_classes(folder, found, classes)
    train, test = (
        [(file, k) for k, label in enumerate(classes) for file in of[label] if _is_image(file)]
        for of in found.values()
    )
    n = len(train)
    if n < 10:
        raise InputError(f"{folder} holds {n} training images: at least 10 are needed")
    files = [file for file, _ in train + test]
    x, preparation = _read_images(files)
    mean, std = entry.mean, entry.std
    if not mean:
        mean, std = mean_and_std(x[:n], str(folder))
    others = [f for of in found.values() for own in of.values() for f in own if not _is_image(f)]
    if others:
        many = len(others) > 1
        kind = f"{len(others)} files that are no images" if many else "1 file that is no image"
        print(f"passed over: {kind}, such as {others[0]}", file=sys.stderr)
    if preparation:
        print(f"{folder}: {preparation}", file=sys.stderr)
    renamed = dict(entry.renamed)
    return Files(
        train=(x[:n], torch.tensor([k for _, k in train])),
        test=(x[n:], torch.tensor([k for _, k in test])),
        mean=mean,
        std=std,
        classes=tuple(str(renamed.get(label, label)) for label in classes),
        sha256=_sha256(files, folder),
        preparation=preparation,
    )


def _check_classes(
    folder: Path, found: dict[str, dict[str, list[Path]]], classes: list[str]
) -> None:
    """InputError names the first class that has no images in train or in test."""
    if len(classes) < 2:
        raise InputError(
            f"{folder}: at least 2 classes are needed, and train and test hold "
            f"{classes[0] if classes else 'none'}"
        )
    for part, of in found.items():
        for label in classes:
            if label not in of:
                raise InputError(
                    f"the class {label} is missing in {folder / part}: each class needs a folder "
                    "in train and in test"
                )
            if not any(map(_is_image, of[label])):
                raise InputError(
                    f"the class {label} is empty in {folder / part}: images are needed "
                    f"({', '.join(SUFFIXES)})"
                )


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The files of each class. Their order is part of a dataset's hash."""
    place = folder.resolve()
    above = {place, *place.parents}
    return {
        path.name: sorted(_files(path, {*above}), key=lambda file: (str(file.parent), file.name))
        for path in _visible(folder)
        if path.is_dir()
    }


def _files(folder: Path, entered: set[Path]) -> Iterator[Path]:
    """The files below that are not hidden. A folder is entered once, wherever links lead."""
    entered.add(folder.resolve())
    for path in _visible(folder):
        if not path.is_dir():
            yield path
        elif path.resolve() not in entered:
            yield from _files(path, entered)


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, without what systems and editors hide there."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _in_order(names: Iterable[str]) -> list[str]:
    """1, 2, 10 where all are whole numbers; else as words."""
    words = sorted(names)
    return sorted(words, key=int) if all(word.isdecimal() for word in words) else words


def mean_and_std(x: Tensor, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of [B, C, H, W], to four decimals."""
    mean = tuple(round(value, 4) for value in x.mean((0, 2, 3)).tolist())
    std = tuple(round(value, 4) for value in x.std((0, 2, 3)).tolist())
    if min(std) == 0:
        raise InputError(
            f"{name}: a channel of the training images has a single value: two at least are needed"
        )
    return mean, std


def _read_images(files: list[Path]) -> tuple[Tensor, str]:
    """[B, C, H, W] in [0, 1], and what was done to make the images alike.

    Those of one size, 28x28 or 32x32, keep it. Others become 28x28, or 32x32 where there are
    colours; what is not square stands in the middle of a black square. Grey ones among colours
    become RGB.
    """
    kinds: Counter[tuple[str, tuple[int, int]]] = Counter()
    pixels: list[np.ndarray] = []
    for file in files:
        picture = _picture(file)
        kinds[picture.mode, picture.size] += 1
        if len(kinds) == 1 and picture.size in SIZES:
            pixels.append(np.asarray(picture))
    preparation = ""
    if len(pixels) < len(files):  # they are read again: all at once might fill the memory
        mode = "RGB" if any(mode == "RGB" for mode, _ in kinds) else "L"
        sizes = {size for _, size in kinds}
        kept = len(sizes) == 1 and sizes <= set(SIZES)
        side = sizes.pop()[0] if kept else SIDE[mode]
        pixels = [np.asarray(_fitted(_picture(file).convert(mode), side)) for file in files]
        done = Counter()
        for (own, (width, height)), n in kinds.items():
            done[f"resized to {side}x{side}"] += n * ((width, height) != (side, side))
            done["centred on a black square"] += n * (width != height)
            done["made RGB from grey"] += n * (own != mode)
        steps = (f"{n} of {len(files)} images {step}" for step, n in done.items() if n)
        preparation = ", ".join(steps)
    x = torch.from_numpy(np.stack(pixels)).float() / 255
    return x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2), preparation


def _picture(file: Path) -> Image.Image:
    """The image as a viewer shows it, in mode L or RGB; InputError names a file of which there is
    no such image."""
    if not file.is_file():
        raise InputError(f"{file} is no file, nor a link to one: replace or remove it")
    try:
        with Image.open(file) as image:
            return _shown(image)
    except InputError as error:
        raise InputError(f"{file} {error}") from None
    except Exception as error:  # Pillow's formats let struct.error, SyntaxError and others out
        raise InputError(f"{file} is not a whole image ({error}): replace or remove it") from error


def _shown(image: ImageFile.ImageFile) -> Image.Image:
    """The right way up, in mode L or RGB; InputError where a conversion would invent pixels."""
    if _is_deep(image):
        raise InputError(
            f"has more than eight bits per channel (mode {image.mode}): eight are allowed, "
            "convert it first"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data and np.asarray(upright.convert("RGBA"))[..., 3].min() < 255:
        raise InputError("has transparent pixels: flatten it on a background first")
    upright.info.pop("transparency", None)  # or Pillow warns of it
    if upright.mode in ("1", "L", "LA"):
        return upright.convert("L")
    coloured = upright.convert("RGB")
    red, green, blue = coloured.split()
    return red if upright.mode == "P" and red == green == blue else coloured


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether the file has more than eight bits per channel. Of colours only the layout of its
    data says so: Pillow makes them eight without a word."""
    if image.mode[0] in "IF":
        return True
    for _, _, _, layout in image.tile:
        if image.format == "PPM" and isinstance(layout, tuple) and layout[1] > 255:  # its white
            return True
        if ";16" in str(layout) and image.format != "BMP":  # there, of the whole pixel
            return True
    return False


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """In the middle of a black square, scaled to a side; as it is where it has that size."""
    width, height = picture.size
    longer = max(width, height)
    square = Image.new(picture.mode, (longer, longer))
    square.paste(picture, ((longer - width) // 2, (longer - height) // 2))
    return square.resize((side, side), Image.Resampling.BILINEAR)


def _sha256(files: list[Path], root: Path) -> str:
    """Of the files' places below `root` (an image's folder is its label) and contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.relative_to(root)))
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


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
