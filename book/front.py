"""What computes in the front page: its scripts, their data, and the elements of its two blocks.

The sources are in `browser/`. A page that is opened as a file may neither fetch nor start a worker
from another file. So all data lies in scripts, which are loaded once a button is pressed, and the
worker's source is a text within the page's script.
"""

import base64
import gzip
import io
import json
from pathlib import Path
from string import Template
from typing import cast

import numpy as np
import torch
from PIL import Image

import ddcore
from ddcore.distilled import DistilledData
from ddcore.experiments import records
from ddcore.experiments.records import Record
from ddcore.paper import figures

BROWSER = Path(__file__).parent / "browser"
DIGITS = BROWSER / "digits.npz"


def scripts() -> dict[str, str]:
    """The page's scripts by name: what it starts with, and the data for each of its blocks."""
    network = source("lenet.js") + source("distillation.js")
    worker = json.dumps(network + source("worker.js"))
    page = "".join(source(name) for name in ("data.js", "train.js", "distil.js"))
    digits = np.load(DIGITS)
    distilled = fig2a().distilled
    data = {
        "theta": floats(theta_0(distilled)[0]),
        "images": floats(distilled.images),
        "test": packed(digits["test_images"], digits["test_labels"]),
    }
    training = packed(digits["training_images"], digits["training_labels"])
    return {
        "front.js": f"{network}\nconst WORKER = {worker};\n{page}",
        "fig2a.js": f"const FIG2A = {json.dumps(data)};\n",
        "training.js": f"const TRAINING = {json.dumps(training)};\n",
    }


def source(name: str) -> str:
    return (BROWSER / name).read_text("utf-8")


def fig2a() -> Record:
    """The record whose images the page trains on."""
    record = records.find("fig2a")
    assert record is not None  # it is committed
    return record


def theta_0(distilled: DistilledData) -> torch.Tensor:
    """The initial weights [1, P] that the images are made for."""
    assert distilled.init is not None
    return ddcore.network_of(distilled).flatten(distilled.init)


def rates(distilled: DistilledData) -> list[float]:
    """The learning rates of the steps, in their order."""
    return distilled.lrs.flatten().double().tolist()


def floats(tensor: torch.Tensor) -> str:
    """float32, little-endian."""
    return coded(tensor.numpy().astype("<f4").tobytes())


def packed(images: np.ndarray, labels: np.ndarray) -> dict[str, str]:
    """Images of bytes, zipped, and their labels."""
    return {
        "images": coded(gzip.compress(images.tobytes(), mtime=0)),
        "labels": coded(labels.tobytes()),
    }


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


# ---- Elements


def blocks() -> dict[str, str]:
    """The elements of the two blocks by name, with what stands there before a script runs: the
    images, their learning rates, what the network is worth before it is trained, and what the
    record says."""
    record = fig2a()
    by_step = cast(list[float], record.metrics["test_accuracy_by_step"]["mean"])
    distilled = record.distilled
    steps = list(enumerate(rates(distilled), start=1))
    texts = {
        "before": f"{100 * untrained(distilled):.1f}",
        "digits": len(np.load(DIGITS)["test_labels"]),
        "recorded_before": f"{100 * by_step[0]:.2f}",
        "recorded_after": record.accuracy,
        "images": "\n".join(picture(distilled, k) for k in range(10)),
        "bars": "\n".join(BAR.substitute(step=step) for step, _ in steps),
        "rates": "\n".join(
            SLIDER.substitute(step=step, rate=rate, shown=f"{rate:.3f}", most=2 * rate)
            for step, rate in steps
        ),
    }
    return {
        name: Template(source(name)).substitute(texts) for name in ("train.html", "distil.html")
    }


BAR = Template(
    '<li><label><span>after step $step</span> <meter min="0" max="100" value="0"></meter></label> '
    "<span></span></li>"
)
SLIDER = Template(
    '<label class="dd-rate">step $step <input type="range" min="0" max="$most" step="any" '
    'value="$rate"><output>$shown</output></label>'
)


def untrained(distilled: DistilledData) -> float:
    """The part of the page's test digits that the network names rightly before training."""
    digits = np.load(DIGITS)
    pixels = torch.tensor(digits["test_images"])[:, None] / 255
    mean, std = distilled.meta["mean"][0], distilled.meta["std"][0]
    labels = torch.tensor(digits["test_labels"]).long()
    network = ddcore.network_of(distilled)
    return ddcore.evaluate(network, theta_0(distilled), (pixels - mean) / std, labels).item()


def picture(distilled: DistilledData, k: int) -> str:
    """The image of class k as an element that carries its pixels."""
    grey = 255 * figures.picture(distilled.images[0, k], distilled.meta)
    png = io.BytesIO()
    Image.fromarray(grey.round().byte().numpy()).save(png, "png")
    data = f"data:image/png;base64,{coded(png.getvalue())}"
    return f'<img src="{data}" alt="Distilled image of a {k}" width="28" height="28">'
