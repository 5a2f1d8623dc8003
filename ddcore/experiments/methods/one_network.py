"""Images that were distilled for one network, tested on others (section 3.2)."""

from typing import TYPE_CHECKING

import torch

from ddcore.distilled import DistilledData
from ddcore.experiments import records
from ddcore.experiments.methods.base import Made, Task
from ddcore.experiments.methods.distilled import Distilled
from ddcore.support.errors import InputError

if TYPE_CHECKING:
    from ddcore.experiments.config import Config
    from ddcore.experiments.records import Record


class OneNetwork(Distilled):
    title = "images distilled for one other network"

    def make(self, task: Task) -> Made:
        origin = records.of(task.setup.config.for_one_network)
        if origin is None:
            raise InputError("the images to test have no record here")
        return Made(origin.distilled)

    def faults(
        self, config: "Config", record: "Record", images: DistilledData | None
    ) -> dict[str, bool]:
        origin = records.of(config.for_one_network)
        return {
            "its images are not those that one network has here": origin is None
            or images is None
            or not _same(origin.distilled, images)
        }

    def gradient_seconds(self, config: "Config") -> float:
        return 0.0

    def validations(self, config: "Config") -> int:
        return 0


def _same(a: DistilledData, b: DistilledData) -> bool:
    first = a.learned().tensors()
    second = b.learned().tensors()
    return first.keys() == second.keys() and all(
        torch.equal(t, second[n]) for n, t in first.items()
    )


KIND = OneNetwork()
