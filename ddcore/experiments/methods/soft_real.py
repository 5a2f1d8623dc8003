"""Random real images that stay as they are, with learned labels and learning rates: what of soft
labels' gain is the labels'."""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from ddcore import baselines
from ddcore.datasets import Dataset
from ddcore.experiments.methods.distilled import Distilled
from ddcore.networks import generator
from ddcore.recipe import Recipe
from ddcore.support.errors import InputError

if TYPE_CHECKING:
    from ddcore.experiments.config import Config
    from ddcore.experiments.setup import Setup


class SoftReal(Distilled):
    title = "random real images, labels learned"

    def check(self, config: "Config", data: Dataset) -> None:
        baselines.members_of(data, config.ipc)
        if not config.soft_labels:
            raise InputError("images: soft-real learns labels, so soft_labels=true is needed")

    def recipe(self, config: "Config") -> Recipe:
        return replace(config.recipe, image_rate=0.0)

    def first_images(self, setup: "Setup") -> Tensor:
        draw = baselines.random_real(setup.data, setup.config.steps, setup.config.per_class)
        return draw(generator(setup.config.seed, "images"))


KIND = SoftReal()
