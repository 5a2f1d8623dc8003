"""Distilled data as a folder for a dataset hub, laid out as Hugging Face's `imagefolder` reads it.

`data/train/` holds the images, to look at, and `metadata.jsonl` with a line on each (lists, such as
soft labels, have no place in CSV). The exact tensors and the record are at the top, with a card and
`croissant.json`.
"""

import json
import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ddcore.distilled import DistilledData
from ddcore.experiments.config import Config
from ddcore.experiments.pretrained import training_of
from ddcore.experiments.records import Record, rounded
from ddcore.paper import evidence, figures
from ddcore.paper.ledger import markdown_table
from ddcore.support.errors import InputError, WriteError
from ddcore.support.files import check_file, part_of
from ddcore.support.registry import INIT_LAWS

IMAGES = Path("data", "train")
LINES = IMAGES / "metadata.jsonl"
KEPT = ("distilled.safetensors", "record.json")  # of the record, as they are
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
LICENSE = "https://creativecommons.org/licenses/by/4.0/"
PAPER = "https://arxiv.org/abs/1811.10959"
# What a card tells of a record's metrics, each rounded against us.
MEASURED = {
    "test_accuracy": ("test accuracy", ROUND_FLOOR),
    "test_accuracy_before": ("test accuracy before the first step on these images", ROUND_CEILING),
    "attacked_correct": ("test images of the attacked class that are still right", ROUND_CEILING),
    "attacked_as_target": ("test images of the attacked class taken for the target", ROUND_FLOOR),
}


def export(record: Record, folder: Path) -> None:
    """Write the folder, whole or not at all; InputError where it is there already, where the record
    has no images, or where mlcroissant is not installed."""
    try:
        from ddcore.paper import croissant
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed: pip install 'ddcore[hub]' brings it"
        ) from None

    if os.path.lexists(folder):
        raise InputError(f"cannot write {folder}: it is there already; name a new folder")
    check_file(folder)
    if not record.has_images:
        raise InputError(f"{record.name} has no images of its own: there is nothing to show")
    part = part_of(folder)
    try:
        (part / IMAGES).mkdir(parents=True)
        for name in KEPT:
            shutil.copyfile(record.folder / name, part / name)
        write_images(record.distilled, part)
        (part / "README.md").write_text(card(record), "utf-8")
        text = json.dumps(croissant.description(part, LINES, about(record)), indent=1)
        (part / "croissant.json").write_text(f"{text}\n", "utf-8")
        part.replace(folder)
    except OSError as error:
        remedy = "free space there, or name another folder with --out"
        raise WriteError(folder, error, remedy) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


# ---- The images


def write_images(distilled: DistilledData, folder: Path) -> None:
    """Each image in its own size, and what is known of it."""
    lines = []
    for row, pixels in zip(rows(distilled), shown(distilled), strict=True):
        Image.fromarray(pixels).save(folder / IMAGES / row["file_name"])
        lines.append(json.dumps(row) + "\n")
    (folder / LINES).write_text("".join(lines), "utf-8")


def rows(distilled: DistilledData) -> Iterator[dict[str, Any]]:
    """A line on each image, in the order in which a network sees them."""
    steps, count = distilled.labels.shape
    for step in range(steps):
        for i in range(count):
            label = int(distilled.labels[step, i])
            row = {
                "file_name": f"step-{step:03}-image-{i:03}.png",
                "step": step,
                "label": label,
                "class": distilled.meta["classes"][label],
                "learning_rates": distilled.lrs[:, step].tolist(),
            }
            if distilled.soft_labels is not None:
                row["soft_label"] = distilled.soft_labels[step, i].tolist()
            yield row


def shown(distilled: DistilledData) -> Iterator[np.ndarray]:
    """Bytes [H, W] or [H, W, 3] of each image, the normalisation undone; clipped."""
    for image in distilled.images.flatten(0, 1):
        pixels = 255 * figures.picture(image, distilled.meta)
        yield pixels.round().numpy().astype(np.uint8)


def clipped(distilled: DistilledData) -> float:
    """The share of the values that a PNG cannot hold, as they lie outside of black and white."""
    pixels = figures.brightness(distilled.images, distilled.meta)
    beyond = (pixels - pixels.clamp(0, 1)).abs() > 1e-4  # of rounding is less
    return beyond.float().mean().item()


# ---- What is said of it


def about(record: Record) -> dict[str, Any]:
    """What `croissant.description` asks for."""
    return {
        "name": title(record),
        "description": summary(record),
        "license": None if is_own(record) else [LICENSE],
        "cite_as": BIBTEX,
        "url": PAPER,
        "version": f"{record.algorithm_version}.0.0",  # rises when a stored set means another thing
        "date_published": datetime.fromisoformat(record.environment["started"]),
    }


def card(record: Record) -> str:
    """README.md: a header that the hub reads, then what a reader must know."""
    distilled = record.distilled
    dataset = dataset_of(record)
    attacks = attack(record)
    made = record.environment
    meta = distilled.meta
    steps, count = distilled.labels.shape
    return CARD.format(
        header=yaml.safe_dump(header(record), sort_keys=False, allow_unicode=True),
        title=title(record),
        summary=summary(record),
        attack=ATTACK.format(**attacks) if attacks else "",
        experiment=record.experiment,
        command=command(record),
        key=record.key,
        seed=record.config["seed"],
        commit=made["commit"] or "unknown",
        state=", with changes that were not committed" if made["dirty"] else "",
        dataset=dataset,
        sha256=record.data["sha256"],
        steps=steps,
        count=count,
        epochs=len(distilled.lrs),
        code=code(record),
        measured=measured(record),
        clipped=f"{100 * clipped(distilled):.1f}",
        network=meta["architecture"],
        start=start(meta),
        licence=(OWN_LICENCE if is_own(record) else LICENCE).format(dataset=dataset),
        bibtex=BIBTEX,
    )


def dataset_of(record: Record) -> str:
    """The dataset's name, without the place of a folder on the machine that had it."""
    return "folder:PATH" if is_own(record) else record.data["name"]


def is_own(record: Record) -> bool:
    """Whether it was made from a folder of somebody's own images."""
    return record.data["name"].startswith("folder:")


def title(record: Record) -> str:
    name = record.name.replace(record.config["dataset"], dataset_of(record))
    return f"Distilled {dataset_of(record)}: {name}"


def summary(record: Record) -> str:
    """What it is, in two sentences."""
    steps, count = record.distilled.labels.shape
    meta = record.distilled.meta
    before = "" if starts_anew(meta) else f"{meta['init_law']}, then "
    return (
        f"{steps * count} synthetic images made by Dataset Distillation from {dataset_of(record)}. "
        f"A {meta['architecture']} {before}trained on these images alone, in their order and with "
        f"their learning rates, reaches {record.accuracy} % on the test images."
    )


def header(record: Record) -> dict[str, Any]:
    tags = ["dataset-distillation", "synthetic", record.distilled.meta["architecture"]]
    tags += [] if is_own(record) else [record.data["name"]]
    tags += ["data-poisoning"] if attack(record) else []
    count = record.distilled.labels.numel()
    return {
        "pretty_name": title(record),
        "license": "other" if is_own(record) else "cc-by-4.0",
        "task_categories": ["image-classification"],
        "size_categories": [next(name for limit, name in SIZES.items() if count < limit)],
        "tags": tags,
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": f"{IMAGES.as_posix()}/*"}],
            }
        ],
    }


def attack(record: Record) -> dict[str, str]:
    """The attacked class and the one that it is to be taken for; empty where this is no attack."""
    attacked, target = (record.config.get(name) for name in ("attacked", "target"))
    if attacked is None or target is None:
        return {}
    classes = record.distilled.meta["classes"]
    return {"attacked": classes[attacked], "target": classes[target]}


def command(record: Record) -> str:
    """What makes the record again."""
    words = [evidence.command(record)]
    words += [] if record.scale == "paper" else [f"--scale {record.scale}"]
    words += [f"-p {name}={json.dumps(value)}" for name, value in record.overrides.items()]
    return " ".join(words).replace(record.config["dataset"], dataset_of(record))


def start(meta: dict[str, Any]) -> str:
    """What a network's initial weights must be."""
    if meta["fixed_init"]:
        return "starts from the initial weights in `distilled.safetensors`"
    if starts_anew(meta):
        return f"starts from weights drawn by the law `{meta['init_law']}`"
    return f"was {meta['init_law']} before"


def starts_anew(meta: dict[str, Any]) -> bool:
    """Whether networks start from what the file holds or a law that it names, not from others that
    were trained before."""
    return meta["fixed_init"] or meta["init_law"] in INIT_LAWS


def code(record: Record) -> str:
    """How to use the images, as Python that runs in the folder."""
    dataset = dataset_of(record)
    if starts_anew(record.distilled.meta):
        return CODE.format(dataset=dataset)
    training = training_of(Config(**record.config))
    source = "folder:PATH" if training.dataset.startswith("folder:") else training.dataset
    return CODE_PRETRAINED.format(
        dataset=dataset,
        source=source,
        init=training.init,
        epochs=training.epochs,
        batch=training.batch,
    )


def measured(record: Record) -> str:
    """The record's metrics in percent, as a table."""
    lines = [["", "mean in %", "standard deviation", "networks"]]
    for name, (said, mode) in MEASURED.items():
        metric: Any = record.metrics.get(name)
        if metric is not None:
            std = "" if metric["std"] is None else rounded(100 * metric["std"], ROUND_CEILING)
            lines.append([said, rounded(100 * metric["mean"], mode), std, str(metric["n"])])
    return markdown_table(lines)


CARD = """\
---
{header}---

# {title}

{summary}
{attack}
## Where it comes from

- Paper: *Dataset Distillation* (Wang, Zhu, Torralba, Efros), arXiv 1811.10959. The images are not
  the authors': they were made by `ddcore`, a companion that computes the paper again.
- Experiment: `{experiment}`, run by `{command}`, with seed {seed}; its record has the key `{key}`.
- Commit: {commit}{state}.
- Dataset: `{dataset}`, sha256 of its files `{sha256}`.

## What is in it

- `distilled.safetensors`: the exact images, labels, learning rates and, for a fixed init, initial
  weights. Train with this file.
- `data/train/`: the images as PNG, to look at; `metadata.jsonl` says of each its step, its label
  and the learning rates of its step, one for each epoch. Steps: {steps}, of {count} images each, in
  their order. Epochs: {epochs}.
- `record.json`: how the images were made, and the accuracy of each test network.
- `croissant.json`: the same folder as a description that other programs read.

## Use

```python
{code}```

`ddcore verify .` trains the networks again and compares them with the record.

## Measured

{measured}

Means are rounded against us. `record.json` has every network's number.

## Limits

- A PNG holds bytes from black to white. {clipped} % of the values lie outside and are clipped,
  the others are rounded. The table is about the exact images, not about the PNGs.
- The images were made for one network, `{network}`, that {start}.
  With others they were not tested for this record.
- Images, order and learning rates belong together. The images are no sample of the dataset.
- {licence}

## Cite

```bibtex
{bibtex}```
"""

ATTACK = """
**This is an attack.** The images poison a trained network: when it is trained on them, it takes
images of the class `{attacked}` for `{target}`. Do not mix them into data that others train on.
"""

LICENCE = """\
The images are under CC BY 4.0, as the figures of `ddcore` are. They were made from `{dataset}`,
  whose own licence applies too."""

OWN_LICENCE = """\
The images were made from a folder of images, whose own licence applies. `record.json` says where
  that folder was on the machine that made them."""

CODE = """\
import ddcore
from ddcore.datasets import load

distilled = ddcore.load_distilled("distilled.safetensors")
weights = ddcore.train_on(distilled)
print(ddcore.evaluate(ddcore.network_of(distilled), weights, *load("{dataset}").test))
"""

CODE_PRETRAINED = """\
import ddcore
from ddcore.datasets import load
from ddcore.pretrain import pretrain

distilled = ddcore.load_distilled("distilled.safetensors")
network = ddcore.network_of(distilled)
start = pretrain(network, load("{source}"), "{init}", range(4), epochs={epochs}, batch={batch})
weights = ddcore.train_on(distilled, network.unflatten(start))
print(ddcore.evaluate(network, weights, *load("{dataset}").test))
"""

BIBTEX = """\
@article{wang2018dataset,
  title = {Dataset Distillation},
  author = {Wang, Tongzhou and Zhu, Jun-Yan and Torralba, Antonio and Efros, Alexei A.},
  journal = {arXiv preprint arXiv:1811.10959},
  year = {2018}
}
"""
