"""Random real images (section 4.2), fresh ones for each test network."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddcore import baselines
from ddcore.baselines import ImageSource
from ddcore.distilled import DistilledData, class_major
from ddcore.experiments.methods.base import Made, Task
from ddcore.experiments.methods.drawn import Drawn

if TYPE_CHECKING:
    from ddcore.experiments.config import Config
    from ddcore.experiments.records import Record
    from ddcore.experiments.setup import Setup


class RandomReal(Drawn):
    """Stores no image: they are drawn again from the seed. The record has their learning rates."""

    title = "random real images"
    stores_images = False

    def source(self, setup: "Setup") -> ImageSource:
        return baselines.random_real(setup.data, setup.config.steps, setup.config.per_class)

    def run_of(self, details: dict[str, Any], j: int) -> int:
        """The number of the set that test run j trains on."""
        return j

    def make(self, task: Task) -> Made:
        made = super().make(task)
        assert made.images is not None
        return Made(None, made.details | {"lrs": made.images.lrs.tolist()})

    def faults(
        self, config: "Config", record: "Record", images: DistilledData | None
    ) -> dict[str, bool]:
        """A record without a file must have the rates of all epochs and steps."""
        wrong = images is None and not _are_rates(record.distillation.get("lrs"), config)
        return {"its learning rates are not those of its configuration": wrong}

    def redraw(self, setup: "Setup", details: dict[str, Any]) -> DistilledData:
        """The images of the first test run."""
        draw = self.source(setup)
        images = self.images_of_run(draw, setup, "test", self.run_of(details, 0))
        lrs = torch.tensor(details["lrs"], device=images.device)
        return class_major(setup.data, images, lrs, setup.labelled)

    def test_images(
        self, setup: "Setup", images: DistilledData, details: dict[str, Any], j: int
    ) -> Tensor:
        draw = self.source(setup)
        return self.images_of_run(draw, setup, "test", self.run_of(details, j))


def _are_rates(lrs: Any, config: "Config") -> bool:
    try:
        return torch.tensor(lrs).shape == (config.epochs, config.steps)
    except (RuntimeError, TypeError, ValueError):
        return False


KIND = RandomReal()
