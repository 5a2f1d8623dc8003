"""The file of distilled data, in the format `safetensors`.

`images` [S, n, C, H, W] in normalised space; `labels` int64 [S, n] or `soft_labels` float32
[S, n, K]; `lrs` float32 [E, S]; for a fixed init `init.<parameter>`. The header's `ddcore` entry is
JSON.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddcore.support.checks import check_batches, check_values
from ddcore.support.errors import InputError
from ddcore.support.files import whole

FORMAT = 1


def write(
    path: Path,
    *,
    images: Tensor,
    labels: Tensor,
    lrs: Tensor,
    soft_labels: Tensor | None,
    init: dict[str, Tensor] | None,
    meta: dict[str, Any],
) -> None:
    """Write the fields of a `DistilledData`; a reader sees the old file or the whole new one."""
    tensors = {"images": images, "lrs": lrs}
    if soft_labels is None:
        tensors["labels"] = labels
    else:
        tensors["soft_labels"] = soft_labels
    for name, t in (init or {}).items():
        tensors[f"init.{name}"] = t
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    header = {"ddcore": json.dumps({"format": FORMAT, **meta}, sort_keys=True)}
    with whole(path) as part:
        save_file(tensors, part, header)


def read(path: Path | str) -> dict[str, Any]:
    """The fields of a `DistilledData`; InputError where the file is none."""
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


def _checked(tensors: dict[str, Tensor], meta: dict[str, Any]) -> dict[str, Any]:
    """The fields in a file's tensors; ValueError where they do not belong together."""
    images = tensors["images"].float()
    lrs = tensors["lrs"].float()
    soft_labels = None
    if "soft_labels" in tensors:
        soft_labels = tensors["soft_labels"].float()
        labels = soft_labels.argmax(-1)
    else:
        labels = tensors["labels"]
    check_batches(images, labels, lrs, soft_labels)
    check_values(images, labels, lrs, soft_labels, len(meta["classes"]))
    init = {
        name.removeprefix("init."): t for name, t in tensors.items() if name.startswith("init.")
    }
    return {
        "images": images,
        "labels": labels,
        "lrs": lrs,
        "soft_labels": soft_labels,
        "init": init or None,
        "meta": meta,
    }
