"""A folder of images for each class, below `train` and `test`, as tensors: of any size and shape,
with the pixels that a viewer shows; what cannot be read so is refused by name."""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from ddcore.support.errors import InputError
from ddcore.support.registry import Source

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SIZES = ((28, 28), (32, 32))  # of images that are left as they are
SIDE = {"L": 28, "RGB": 32}  # of images that are made alike, grey or coloured
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


def image_folder(name: str, entry: Source, folder: Path) -> Files:
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
        sha256=sha256_of(files, folder),
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


def sha256_of(files: list[Path], root: Path) -> str:
    """Of the files' places below `root` (an image's folder is its label) and contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.relative_to(root)))
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


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
