"""k-means centres of the training images of each class."""

from typing import TYPE_CHECKING

from ddcore import baselines
from ddcore.baselines import ImageSource
from ddcore.experiments.methods.drawn import Drawn

if TYPE_CHECKING:
    from ddcore.experiments.setup import Setup


class Centres(Drawn):
    title = "k-means centres of each class"

    def source(self, setup: "Setup") -> ImageSource:
        config = setup.config
        return baselines.centres(setup.data, config.steps, config.per_class, config.seed)


KIND = Centres()
