"""The best of many random sets of real images, chosen on validation images."""

from typing import TYPE_CHECKING, Any

import torch

from ddcore.accuracy import evaluate
from ddcore.distilled import DistilledData
from ddcore.experiments.methods.base import Made, Task
from ddcore.experiments.methods.random_real import RandomReal

if TYPE_CHECKING:
    from ddcore.experiments.config import Config
    from ddcore.experiments.records import Record

FEW = 5  # networks that a set is judged by


class BestOfMany(RandomReal):
    """Of as many random sets as there are test runs, the fifth that is best on the validation
    split."""

    title = "the best fifth of 200 random sets"

    def make(self, task: Task) -> Made:
        made = super().make(task)
        setup = task.setup
        config = setup.config
        draw = self.source(setup)
        lrs = torch.tensor(made.details["lrs"], device=setup.device)
        few = setup.weights(FEW, "validation")
        scores = []
        for j in range(config.nets):
            theta = self.train(setup, self.images_of_run(draw, setup, "test", j), lrs, few)
            scores.append(evaluate(setup.network, theta, *setup.outer_data.validation).mean())
        order = torch.stack(scores).argsort(descending=True)
        best = order[: max(1, config.nets // 5)].tolist()
        return Made(None, made.details | {"sets": best})

    def faults(
        self, config: "Config", record: "Record", images: DistilledData | None
    ) -> dict[str, bool]:
        sets = record.distillation.get("sets")
        known = isinstance(sets, list) and all(j in range(config.nets) for j in sets)
        wrong = {"its sets are not some of those drawn": not (known and sets)}
        return super().faults(config, record, images) | wrong

    def run_of(self, details: dict[str, Any], j: int) -> int:
        sets = details["sets"]
        return sets[j % len(sets)]

    def validations(self, config: "Config") -> int:
        return super().validations(config) + FEW * config.nets


KIND = BestOfMany()
