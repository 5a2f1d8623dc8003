"""The paper's figures, drawn from records. Colours are safe for colour-blind readers (Okabe and Ito)."""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ddcore.distilled import DistilledData
from ddcore.experiments.records import Record

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"


def picture(image: Tensor, meta: dict) -> Tensor:
    """A normalised image [C, H, W] as [H, W] or [H, W, 3] in [0, 1]: undone normalisation, clipped for display only."""
    mean, std = (torch.tensor(meta[key]).view(-1, 1, 1) for key in ("mean", "std"))
    shown = (image.cpu() * std + mean).clamp(0, 1)
    return shown[0] if len(shown) == 1 else shown.permute(1, 2, 0)


def distilled_images(distilled: DistilledData, steps: list[int] | None = None) -> Figure:
    """One row for each step, with its rate in every epoch at the left, and one image of each class (Figs 2 and 3)."""
    steps = list(range(len(distilled.images))) if steps is None else steps
    classes = distilled.meta["classes"]
    per_class = distilled.images.shape[1] // len(classes)
    figure, axes = plt.subplots(
        len(steps), len(classes), figsize=(8, 0.95 * len(steps) + 0.3), squeeze=False, layout="constrained"
    )
    for row, s in zip(axes, steps, strict=True):
        rates = "\n".join(f"{rate:.4f}" for rate in distilled.lrs[:, s].tolist())
        row[0].text(
            -0.15, 0.5, f"step {s}\nrates\n{rates}", transform=row[0].transAxes, ha="right", va="center", size=8
        )
        for k, axis in enumerate(row):
            axis.imshow(picture(distilled.images[s, k * per_class], distilled.meta), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
    for k, axis in enumerate(axes[0]):
        axis.set_title(f"label {classes[k]}" if classes[k].isdigit() else classes[k], size=9)
    return figure


def progress(record: Record, paper: float | None = None) -> Figure:
    """Validation accuracy against outer steps (of the last images or their running mean, whichever is higher), the step
    whose images were kept, and the paper's number (percent)."""
    history = [
        {**h, "accuracy": max(h["accuracy"], h.get("accuracy_of_mean", 0))} for h in record.distillation["history"]
    ]
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    axis.plot(
        [h["step"] for h in history], [100 * h["accuracy"] for h in history], color=BLUE, label="validation images"
    )
    kept = [h for h in history if h["step"] == record.distillation["best_step"]]
    axis.plot([h["step"] for h in kept], [100 * h["accuracy"] for h in kept], "o", color=BLUE, label="kept")
    if paper is not None:
        axis.axhline(paper, color=ORANGE, ls="--", label=f"the paper's test accuracy, {paper} %")
    axis.set(xlabel="outer steps", ylabel="accuracy in %", ylim=(0, 100))
    axis.legend(loc="lower right")
    return figure


def training_step(
    accuracies: list[float], k: int, filters: Tensor, answers: Tensor, classes: tuple[str, ...]
) -> Figure:
    """A network after k gradient steps: accuracies so far (fractions), first-layer filters [6, 1, 5, 5], and its
    probabilities [n, K] on the distilled images."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.5, 2.9), layout="constrained")
    left.plot(range(k + 1), [100 * a for a in accuracies[: k + 1]], "o-", color=BLUE)
    left.set(xlim=(-0.2, len(accuracies) - 0.8), ylim=(0, 100), xlabel="gradient steps", ylabel="test accuracy in %")
    left.set(xticks=range(len(accuracies)), title=f"{100 * accuracies[k]:.1f} % of the test images")
    tiles = torch.nn.functional.pad(filters[:, 0], (1, 1, 1, 1), value=float("nan")).reshape(2, 3, 7, 7)
    middle.imshow(tiles.permute(0, 2, 1, 3).reshape(14, 21), cmap="gray")
    middle.set(xticks=[], yticks=[], title="first-layer filters")
    right.imshow(answers, cmap="Blues", vmin=0, vmax=1)
    right.set(xlabel="class the network sees", ylabel="label of the image", title="its answers on the ten images")
    right.set_xticks(range(len(classes)), classes)
    right.set_yticks(range(len(classes)), classes)
    return figure
