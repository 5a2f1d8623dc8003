"""The paper's figures, drawn from records. Colours are safe for colour-blind readers (Okabe and
Ito)."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ddcore.distilled import DistilledData
from ddcore.experiments.records import Record

BLUE = "#0072B2"
ORANGE = "#D55E00"
GREY = "#777777"


def picture(image: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """An image as matplotlib shows it.

    Args:
        image: [C, H, W], normalised.
        meta: with `mean` and `std` of each channel.

    Returns:
        [H, W] or [H, W, 3] in [0, 1], the normalisation undone; clipped for display only.
    """
    shown = brightness(image, meta).clamp(0, 1)
    if len(shown) == 1:
        return shown[0]
    return shown.permute(1, 2, 0)


def brightness(images: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """[..., C, H, W] with the normalisation undone: 0 is black, 1 white; some lie outside."""
    mean = torch.tensor(meta["mean"]).view(-1, 1, 1)
    std = torch.tensor(meta["std"]).view(-1, 1, 1)
    return images.cpu() * std + mean


def tiles(images: Tensor, meta: Mapping[str, Any]) -> Tensor:
    """Images side by side, each in a white frame of one pixel.

    Args:
        images: [R, K, C, H, W], normalised: R rows of K images.
        meta: with `mean` and `std` of each channel.

    Returns:
        [R (H + 2), K (W + 2)] or [R (H + 2), K (W + 2), 3] in [0, 1].
    """
    rows = []
    for row in images:
        framed = [_framed(picture(image, meta)) for image in row]
        rows.append(torch.cat(framed, dim=1))
    return torch.cat(rows)


def _framed(pixels: Tensor) -> Tensor:
    height, width = pixels.shape[:2]
    frame = torch.ones(height + 2, width + 2, *pixels.shape[2:])
    frame[1:-1, 1:-1] = pixels
    return frame


def sheet(distilled: DistilledData) -> np.ndarray:
    """All images side by side, twice as large: bytes [Y, X] or [Y, X, 3]. A row holds a step's
    images of one kind, one for each class."""
    classes = len(distilled.meta["classes"])
    images = distilled.images.unflatten(1, (classes, -1)).transpose(1, 2)  # [S, per class, K, ...]
    shown = tiles(images.flatten(0, 1), distilled.meta)
    large = shown.repeat_interleave(2, 0).repeat_interleave(2, 1)
    return (255 * large).round().byte().numpy()


def distilled_images(distilled: DistilledData, steps: Sequence[int] | None = None) -> Figure:
    """One row for each step, with one image of each class (Figs 2 and 3).

    At the left of a row stands the step's rate in every epoch. `steps` are those shown, by default
    all.
    """
    if steps is None:
        steps = range(len(distilled.images))
    classes = distilled.meta["classes"]
    per_class = distilled.images.shape[1] // len(classes)
    images = distilled.images[list(steps), ::per_class]
    height, width = images.shape[-2] + 2, images.shape[-1] + 2  # of a tile

    size = (8, 0.8 * len(steps) + 0.3)  # inches
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    axis.imshow(tiles(images, distilled.meta).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_xticks(
        [width * (k + 0.5) - 0.5 for k in range(len(classes))],
        [f"label {name}" if name.isdigit() else name for name in classes],
        size=9,
    )
    axis.set_yticks(
        [height * (row + 0.5) - 0.5 for row in range(len(steps))],
        [_rates(step, distilled.lrs[:, step].tolist()) for step in steps],
        size=8,
    )
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_frame_on(False)
    return figure


def _rates(step: int, rates: list[float]) -> str:
    """The step and its rate in every epoch, a line each."""
    return "\n".join([f"step {step}", "rates", *(f"{rate:.4f}" for rate in rates)])


def progress(record: Record, paper: float | None = None) -> Figure:
    """Validation accuracy against outer steps, and the step whose images were kept.

    The accuracy is that of the last images or of their running mean, whichever is higher.

    Args:
        record: of a distillation, with its history.
        paper: the paper's test accuracy in percent, drawn beside it.
    """
    history = record.distillation["history"]
    steps = [entry["step"] for entry in history]
    percents = [_best_percent(entry) for entry in history]
    kept = [i for i, step in enumerate(steps) if step == record.distillation["best_step"]]

    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    axis.plot(steps, percents, color=BLUE, label="validation images")
    axis.plot([steps[i] for i in kept], [percents[i] for i in kept], "o", color=BLUE, label="kept")
    if paper is not None:
        label = f"the paper's test accuracy, {paper} %"
        axis.axhline(paper, color=ORANGE, ls="--", label=label)
    axis.set(xlabel="outer steps", ylabel="accuracy in %", ylim=(0, 100))
    axis.legend(loc="lower right")
    return figure


def _best_percent(entry: Mapping[str, float]) -> float:
    """Of one entry of a distillation's history."""
    return 100 * max(entry["accuracy"], entry.get("accuracy_of_mean", 0))


def training_step(
    accuracies: Sequence[float],
    k: int,
    filters: Tensor,
    answers: Tensor,
    classes: Sequence[str],
) -> Figure:
    """A network after k gradient steps, in three panels.

    Args:
        accuracies: on test images before the first and after each step, as fractions.
        k: the step shown.
        filters: of the first layer after k steps, [6, 1, 5, 5].
        answers: the network's probabilities on the distilled images, [n, K].
        classes: the K names.
    """
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 2.9), layout="constrained")
    _accuracy_panel(panels[0], accuracies, k)
    _filters_panel(panels[1], filters)
    _answers_panel(panels[2], answers, classes)
    return figure


def _accuracy_panel(axis: Axes, accuracies: Sequence[float], k: int) -> None:
    percents = [100 * accuracy for accuracy in accuracies[: k + 1]]
    axis.plot(range(k + 1), percents, "o-", color=BLUE)
    axis.set(
        xlim=(-0.2, len(accuracies) - 0.8),
        ylim=(0, 100),
        xlabel="gradient steps",
        ylabel="test accuracy in %",
        xticks=range(len(accuracies)),
        title=f"{percents[k]:.1f} % of the test images",
    )


def _filters_panel(axis: Axes, filters: Tensor) -> None:
    """Six filters as 2 x 3 tiles, each in a frame of one empty pixel."""
    framed = torch.nn.functional.pad(filters[:, 0], (1, 1, 1, 1), value=float("nan"))  # [6, 7, 7]
    tiles = framed.reshape(2, 3, 7, 7).permute(0, 2, 1, 3)  # row of tiles, y, column of tiles, x
    axis.imshow(tiles.reshape(14, 21).numpy(), cmap="gray")
    axis.set(xticks=[], yticks=[], title="first-layer filters")


def _answers_panel(axis: Axes, answers: Tensor, classes: Sequence[str]) -> None:
    axis.imshow(answers.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set(
        xlabel="class the network sees",
        ylabel="label of the image",
        title="its answers on the ten images",
    )
    axis.set_xticks(range(len(classes)), classes)
    axis.set_yticks(range(len(classes)), classes)
