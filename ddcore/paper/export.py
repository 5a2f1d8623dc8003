"""Distilled data for other programs: a sheet of its images, or arrays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ddcore.distilled import DistilledData
from ddcore.support.errors import InputError, did_you_mean
from ddcore.support.files import check_file, whole


def export(distilled: DistilledData, kind: str, file: Path) -> None:
    """Write distilled data as one of FORMATS, whole or not at all; InputError for another kind, or
    where the file cannot be written. What a hub takes is a folder: `ddcore.paper.hub`."""
    if kind not in FORMATS:
        kinds = [*FORMATS, "hf"]
        near = did_you_mean(kind, kinds)
        raise InputError(f"--to {kind}: one of {', '.join(kinds)} is allowed{near}")
    check_file(file)
    with whole(file) as part, part.open("wb") as opened:
        FORMATS[kind](distilled, opened)


def as_png(distilled: DistilledData, file: BinaryIO) -> None:
    """A row for each step, to look at: a PNG cannot hold values outside of black and white."""
    from ddcore.paper import figures  # matplotlib comes with it, which writes a cache

    Image.fromarray(figures.sheet(distilled)).save(file, "png")


def as_npz(distilled: DistilledData, file: BinaryIO) -> None:
    """What the file of distilled data holds, under its names; `ddcore` is its header, as JSON."""
    tensors = {"images": distilled.images, "lrs": distilled.lrs}
    if distilled.soft_labels is None:
        tensors["labels"] = distilled.labels
    else:
        tensors["soft_labels"] = distilled.soft_labels
    for name, t in (distilled.init or {}).items():
        tensors[f"init.{name}"] = t
    arrays: dict[str, Any] = {name: t.numpy() for name, t in tensors.items()}
    arrays["ddcore"] = json.dumps(distilled.meta, sort_keys=True)
    np.savez_compressed(file, **arrays)


FORMATS: dict[str, Callable[[DistilledData, BinaryIO], None]] = {"png": as_png, "npz": as_npz}
