"""Distilled images (Algorithm 1)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddcore.accuracy import evaluate
from ddcore.algorithm import distill
from ddcore.distilled import DistilledData
from ddcore.experiments.methods.base import TOGETHER, Made, Method, Task, Trained
from ddcore.recipe import Recipe
from ddcore.support.progress import Checkpoint
from ddcore.unroll import train_in_float64

if TYPE_CHECKING:
    from ddcore.experiments.config import Config
    from ddcore.experiments.setup import Setup


class Distilled(Method):
    title = "distilled images"

    def recipe(self, config: "Config") -> Recipe:
        return config.recipe

    def first_images(self, setup: "Setup") -> Tensor | None:
        """Where the images start; None: noise."""
        return None

    def make(self, task: Task) -> Made:
        setup = task.setup
        config = setup.config
        checkpoint = None
        if task.checkpoint is not None:
            identity = config.key + setup.network_sha256
            checkpoint = Checkpoint(task.checkpoint, identity, task.device_name)
        result = distill(
            setup.network,
            setup.outer_data,
            setup.init_law(),
            steps=config.steps,
            epochs=config.epochs,
            per_class=config.per_class,
            soft_labels=config.soft_labels,
            recipe=self.recipe(config),
            first_images=self.first_images(setup),
            validation_weights=setup.weights(config.validation_networks, "validation"),
            seed=config.seed,
            step_functions=task.step_functions,
            checkpoint=checkpoint,
        )
        details = {
            "best_step": result.best_step,
            "ended": result.ended,
            "returns": result.rollbacks,
            "history": result.history,
        }
        return Made(result.distilled, details, result.seconds_before, result.devices)

    def networks(
        self, setup: "Setup", images: DistilledData | None, details: dict[str, Any], total: int
    ) -> Iterator[Trained]:
        assert images is not None
        for first in range(0, total, TOGETHER):
            n = min(TOGETHER, total - first)
            if images.init is None:
                before = setup.weights(n, first=first)
            else:  # the stored weights are the truth, not what this PyTorch draws from the seed
                before = setup.network.flatten(images.init).to(setup.device)
            yield Trained(before, train_in_float64(setup.network, images, before))

    def metrics(
        self, setup: "Setup", images: DistilledData | None, details: dict[str, Any], total: int
    ) -> dict[str, Tensor]:
        """Of a fixed init also the accuracy after each gradient step."""
        scores = super().metrics(setup, images, details, total)
        if images is not None and images.init is not None:
            theta = setup.network.flatten(images.init).to(setup.device)
            path = theta.new_empty(len(images.order()), *theta.shape)
            last = train_in_float64(setup.network, images, theta, keep=path)
            steps = [evaluate(setup.network, w, *setup.data.test) for w in (*path, last)]
            scores["test_accuracy_by_step"] = torch.stack(steps, dim=1)
        return scores

    def validations(self, config: "Config") -> int:
        candidates = 2 if config.average else 1
        return config.checks * config.validation_networks * candidates


KIND = Distilled()
