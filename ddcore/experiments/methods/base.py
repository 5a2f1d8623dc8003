"""What every kind of training images has: how it is made and tested, what it costs, which overrides
mean something."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ddcore.accuracy import attack_scores, evaluate
from ddcore.datasets import Dataset
from ddcore.distilled import DistilledData
from ddcore.support.registry import architecture
from ddcore.unroll import EAGER, StepFunctions

if TYPE_CHECKING:
    from ddcore.experiments.config import Config
    from ddcore.experiments.records import Record
    from ddcore.experiments.setup import Setup

TOGETHER = 10  # networks tested at once


@dataclass(frozen=True)
class Task:
    """What a kind needs beside the setup to make its images."""

    setup: "Setup"
    step_functions: StepFunctions = EAGER
    checkpoint: Path | None = None
    device_name: str = ""


@dataclass(frozen=True)
class Made:
    """Images (None: the kind has none) and how they came about, for the record; seconds_before:
    those that killed processes spent on them; devices: the names of what computed."""

    images: DistilledData | None
    details: dict[str, Any] = field(default_factory=dict)
    seconds_before: float = 0.0
    devices: list[str] = field(default_factory=list)


class Trained(NamedTuple):
    """Weights [n, P] of some networks before (None: there is no before) and after training."""

    before: Tensor | None
    after: Tensor


class Method:
    """One kind of training images. `images` below are those that a record stores, or that are drawn
    again in their place; `details` is the record's "distillation"."""

    title: str
    stores_images = True
    always_pretrained = False
    ignored: list[tuple[frozenset[str], str]] = []  # overrides that mean nothing, and why

    def check(self, config: "Config", data: Dataset) -> None:
        """InputError where the dataset has too few images."""

    def make(self, task: Task) -> Made:
        raise NotImplementedError

    def redraw(self, setup: "Setup", details: dict[str, Any]) -> DistilledData | None:
        """The images of a kind that stores none, drawn again."""
        return None

    def networks(
        self, setup: "Setup", images: DistilledData | None, details: dict[str, Any], total: int
    ) -> Iterator[Trained]:
        """The test networks before and after training on the images, some at a time."""
        raise NotImplementedError

    def tested(self, config: "Config") -> int:
        """How many values each of a record's metrics has."""
        return 1 if config.fixed else config.nets

    def metrics(
        self, setup: "Setup", images: DistilledData | None, details: dict[str, Any], total: int
    ) -> dict[str, Tensor]:
        """What the test networks score, by name, one value for each network."""
        scores: dict[str, list[Tensor]] = {}
        for before, after in self.networks(setup, images, details, total):
            values = test_scores(setup, after)
            if before is not None:
                at_start = test_scores(setup, before)
                values |= {f"{name}_before": score for name, score in at_start.items()}
            for name, score in values.items():
                scores.setdefault(name, []).append(score)
        return {name: torch.cat(parts) for name, parts in scores.items()}

    def faults(
        self, config: "Config", record: "Record", images: DistilledData | None
    ) -> dict[str, bool]:
        """What may be wrong with a record of this kind, and whether it is."""
        return {}

    def gradient_seconds(self, config: "Config") -> float:
        """Core-seconds of a run's gradients, roughly, without those of training a pool."""
        network = architecture(config.network)
        # as measured: more images per class cost less than in proportion
        inner = config.steps * config.epochs * config.per_class**0.5 * network.seconds_inner
        real = config.batch * network.seconds_real
        return config.iterations * config.samples * (inner + real)

    def validations(self, config: "Config") -> int:
        """How many times a network is tested on the validation split."""
        return 0

    def seconds(self, config: "Config") -> float:
        """Core-seconds of a run, roughly: gradients, choices on the validation split, and the test
        before and after."""
        images = 5_000 * self.validations(config) + 2 * config.nets * 10_000
        return self.gradient_seconds(config) + images * architecture(config.network).seconds_logits


def test_scores(setup: "Setup", theta: Tensor) -> dict[str, Tensor]:
    """Accuracy [n] on the test images; of an attack also Table 3's columns [n] and Fig. 6's
    accuracies [n, K]."""
    config = setup.config
    images, labels = setup.data.test
    if config.attacked is None or config.target is None:
        return {"test_accuracy": evaluate(setup.network, theta, images, labels)}
    return attack_scores(setup.network, theta, images, labels, config.attacked, config.target)
