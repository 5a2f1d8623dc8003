"""What a configuration's test networks score: the metrics of a record."""

from typing import Any

from ddcore.distilled import DistilledData
from ddcore.experiments import methods, records
from ddcore.experiments.records import Metric
from ddcore.experiments.setup import Setup


def measure(
    setup: Setup, images: DistilledData | None, details: dict[str, Any], nets: int | None = None
) -> dict[str, Metric]:
    """The scores of the test networks on the test images after and before training.

    Args:
        images: what they are trained on, as stored (None: on all images).
        details: the record's "distillation".
        nets: how many networks; by default all. A fixed init is one.
    """
    config = setup.config
    total = 1 if config.fixed else nets or config.nets
    scores = methods.get(config.images).metrics(setup, images, details, total)
    return {name: records.metric(values) for name, values in scores.items()}
