"""What a run costs, roughly, before it is run: for the plan of `ddcore reproduce` and to see if
compiling pays."""

from ddcore.experiments import methods
from ddcore.experiments.config import Config

COMPILE_FROM = 150  # core-seconds of gradients: compiling takes 20 to 70 s, saves a third or more


def gradients(config: Config) -> float:
    """Core-seconds of a run's gradients, without those of training a pool."""
    return methods.get(config.images).gradient_seconds(config)


def cost(config: Config) -> float:
    """Core-seconds of a run: gradients, choices, and the test before and after."""
    return methods.get(config.images).seconds(config)
