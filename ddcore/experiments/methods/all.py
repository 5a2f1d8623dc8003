"""All training images, epoch by epoch: what "fully trained" means in section 4."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ddcore.distilled import DistilledData
from ddcore.experiments.methods.base import TOGETHER, Made, Method, Task, Trained
from ddcore.experiments.methods.drawn import DISTILLATION_ONLY
from ddcore.experiments.pretrained import Pool
from ddcore.support.registry import architecture, source

if TYPE_CHECKING:
    from ddcore.experiments.config import Config
    from ddcore.experiments.setup import Setup


class All(Method):
    title = "all training images"
    stores_images = False
    always_pretrained = True
    ignored = [
        (DISTILLATION_ONLY, "nothing is distilled"),
        (
            frozenset({"steps", "per_class", "iterations"}),
            "it goes through all images, epoch by epoch",
        ),
    ]

    def make(self, task: Task) -> Made:
        return Made(None)

    def networks(
        self, setup: "Setup", images: DistilledData | None, details: dict[str, Any], total: int
    ) -> Iterator[Trained]:
        pool = Pool.of(setup.config)
        for first in range(0, total, TOGETHER):
            numbers = range(first, min(first + TOGETHER, total))
            yield Trained(None, pool.weights("test", numbers).to(setup.device))

    def gradient_seconds(self, config: "Config") -> float:
        images = source(config.dataset).train_images
        seconds = architecture(config.network).seconds_real
        return config.nets * config.epochs * images * seconds


KIND = All()
