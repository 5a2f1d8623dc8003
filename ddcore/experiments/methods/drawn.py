"""Images that are not distilled, trained on with learning rates that are learned or chosen: what
several baselines share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddcore import baselines
from ddcore.accuracy import evaluate
from ddcore.baselines import PAPERS_RATES, ImageSource, learned_rates
from ddcore.datasets import Dataset
from ddcore.distilled import DistilledData, class_major
from ddcore.experiments.methods.base import Made, Method, Task, Trained
from ddcore.networks import generator
from ddcore.unroll import train, train_in_float64

if TYPE_CHECKING:
    from ddcore.experiments.config import Config
    from ddcore.experiments.setup import Setup

RUNS = 20  # of a choice on the validation split, at most as many as there are test runs
DISTILLATION_ONLY = frozenset({"samples", "batch", "soft_labels", "faithful"})


class Drawn(Method):
    """Every test run has a network of its own and, where the images are random, images of its own,
    drawn from (seed, run)."""

    ignored = [(DISTILLATION_ONLY, "nothing is distilled")]

    def check(self, config: "Config", data: Dataset) -> None:
        baselines.members_of(data, config.ipc)

    def source(self, setup: "Setup") -> ImageSource:
        """Where the images come from."""
        raise NotImplementedError

    def images_of_run(self, draw: ImageSource, setup: "Setup", stream: str, j: int) -> Tensor:
        return draw(generator(setup.config.seed, stream, "images", j))

    def make(self, task: Task) -> Made:
        """The learning rates that are best on the validation split: one of the paper's six, the
        learned ones or, instead, the given one. With the images of the first test run."""
        setup = task.setup
        draw = self.source(setup)
        first = self.images_of_run(draw, setup, "test", 0)
        name, own = self._learned_or_given(task, draw)
        rates = {name: own}
        for rate in PAPERS_RATES:
            rates[f"{rate:g}"] = _everywhere(rate, setup)
        accuracy = self._accuracy_by_rate(setup, draw, rates)
        best = max(accuracy, key=accuracy.__getitem__)
        details = {"rate": best, "validation_accuracy_by_rate": accuracy}
        images = class_major(setup.data, first, rates[best], setup.labelled)
        return Made(images, details)

    def _learned_or_given(self, task: Task, draw: ImageSource) -> tuple[str, Tensor]:
        """What stands for it in the record, and the learning rates [E, S]."""
        setup = task.setup
        config = setup.config
        if config.given_rate:
            return "given", _everywhere(config.given_rate, setup)
        learned = learned_rates(
            setup.network,
            setup.outer_data,
            setup.init_law(),
            draw,
            config.epochs,
            iterations=config.iterations,
            seed=config.seed,
            step_functions=task.step_functions,
            labelled=setup.labelled,
        )
        return "learned", learned

    def _accuracy_by_rate(
        self, setup: "Setup", draw: ImageSource, rates: dict[str, Tensor]
    ) -> dict[str, float]:
        """Mean accuracy on the validation split with each of the learning rates."""
        config = setup.config
        runs = min(RUNS, config.nets)
        if config.pretrained_on:
            runs = config.validation_networks
        trials = [
            (
                self.images_of_run(draw, setup, "validation", j),
                setup.weights(1, "validation", j),
            )
            for j in range(runs)
        ]
        validation = setup.outer_data.validation
        accuracy = {}
        for name, lrs in rates.items():
            ends = [self.train(setup, images, lrs, theta) for images, theta in trials]
            scores = [evaluate(setup.network, theta, *validation)[0] for theta in ends]
            accuracy[name] = torch.stack(scores).mean().item()
        return accuracy

    def train(self, setup: "Setup", images: Tensor, lrs: Tensor, theta: Tensor) -> Tensor:
        data = class_major(setup.data, images, lrs, setup.labelled)
        return train(setup.network, data, theta.to(images.device))

    def networks(
        self, setup: "Setup", images: DistilledData | None, details: dict[str, Any], total: int
    ) -> Iterator[Trained]:
        assert images is not None
        for j in range(total):
            theta = setup.weights(1, first=j)
            pixels = self.test_images(setup, images, details, j)
            data = class_major(setup.data, pixels, images.lrs, setup.labelled)
            yield Trained(theta, train_in_float64(setup.network, data, theta))

    def test_images(
        self, setup: "Setup", images: DistilledData, details: dict[str, Any], j: int
    ) -> Tensor:
        """The images of test run j: the same in all runs."""
        return images.images

    def validations(self, config: "Config") -> int:
        return (1 + len(PAPERS_RATES)) * RUNS


def _everywhere(rate: float, setup: "Setup") -> Tensor:
    """The same learning rate in all epochs and steps, [E, S]."""
    shape = (setup.config.epochs, setup.config.steps)
    return torch.full(shape, rate, device=setup.data.train[0].device)


class Neighbour(Method):
    """A nearest-neighbour classifier: nothing is trained."""

    drawn: Drawn  # where its images come from

    def __init__(self) -> None:
        from ddcore.experiments.config import OVERRIDES

        meaningful = {"dataset", "steps", "per_class", "seed", "nets"}
        untrained = frozenset(OVERRIDES) - meaningful - DISTILLATION_ONLY
        self.ignored = [
            (DISTILLATION_ONLY, "nothing is distilled"),
            (untrained, "nothing is trained"),
        ]

    def check(self, config: "Config", data: Dataset) -> None:
        self.drawn.check(config, data)

    def make(self, task: Task) -> Made:
        return Made(self._first_images(task.setup))

    def _first_images(self, setup: "Setup") -> DistilledData:
        """Those of the first test run; their learning rates are 0."""
        draw = self.drawn.source(setup)
        images = self.drawn.images_of_run(draw, setup, "test", 0)
        lrs = torch.zeros(setup.config.epochs, setup.config.steps, device=images.device)
        return class_major(setup.data, images, lrs)

    def classifiers(self, setup: "Setup", images: DistilledData, total: int) -> Iterator[Tensor]:
        """The images [S, n, C, H, W] of each test run."""
        raise NotImplementedError

    def metrics(
        self, setup: "Setup", images: DistilledData | None, details: dict[str, Any], total: int
    ) -> dict[str, Tensor]:
        """One value for each draw of the images."""
        assert images is not None
        queries, answers = setup.data.test
        labels = images.labels.flatten()
        accuracy = []
        for pixels in self.classifiers(setup, images, total):
            nearest = baselines.nearest_neighbour(pixels.flatten(0, 1), labels, queries)
            accuracy.append((nearest == answers).double().mean())
        return {"test_accuracy": torch.stack(accuracy)}

    def gradient_seconds(self, config: "Config") -> float:
        return 0.0

    def seconds(self, config: "Config") -> float:
        return 10.0
