"""The average training image of each class."""

from typing import TYPE_CHECKING

from ddcore import baselines
from ddcore.baselines import ImageSource
from ddcore.datasets import Dataset
from ddcore.experiments.methods.drawn import Drawn

if TYPE_CHECKING:
    from ddcore.experiments.config import Config
    from ddcore.experiments.setup import Setup


class Averages(Drawn):
    title = "the average image of each class"

    def check(self, config: "Config", data: Dataset) -> None:
        baselines.members_of(data, 1)

    def source(self, setup: "Setup") -> ImageSource:
        return baselines.averages(setup.data, setup.config.steps, setup.config.per_class)


KIND = Averages()
