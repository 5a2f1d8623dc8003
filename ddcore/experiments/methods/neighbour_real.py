"""The nearest neighbour among random real images."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ddcore.distilled import DistilledData
from ddcore.experiments.methods import random_real
from ddcore.experiments.methods.base import Made, Task
from ddcore.experiments.methods.drawn import Neighbour

if TYPE_CHECKING:
    from ddcore.experiments.setup import Setup


class NeighbourReal(Neighbour):
    title = "nearest neighbour on random real images"
    stores_images = False
    drawn = random_real.KIND

    def make(self, task: Task) -> Made:
        return Made(None)

    def redraw(self, setup: "Setup", details: dict[str, Any]) -> DistilledData:
        return self._first_images(setup)

    def classifiers(self, setup: "Setup", images: DistilledData, total: int) -> Iterator[Tensor]:
        draw = self.drawn.source(setup)
        for j in range(total):
            yield self.drawn.images_of_run(draw, setup, "test", j)


KIND = NeighbourReal()
