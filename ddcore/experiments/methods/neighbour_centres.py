"""The nearest of the k-means centres of each class."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from ddcore.distilled import DistilledData
from ddcore.experiments.methods import centres
from ddcore.experiments.methods.drawn import Neighbour

if TYPE_CHECKING:
    from ddcore.experiments.config import Config
    from ddcore.experiments.setup import Setup


class NeighbourCentres(Neighbour):
    title = "nearest neighbour on k-means centres"
    drawn = centres.KIND

    def tested(self, config: "Config") -> int:
        return 1

    def classifiers(self, setup: "Setup", images: DistilledData, total: int) -> Iterator[Tensor]:
        yield images.images


KIND = NeighbourCentres()
