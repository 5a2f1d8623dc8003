"""What a run costs, roughly, before it is run: for the plan of `ddcore reproduce` and to see if compiling pays."""

from ddcore import baselines
from ddcore.companion import baseline_runs, inits
from ddcore.companion.experiments import Config

COMPILE_FROM = 150  # core-seconds of gradients: compiling takes 20 to 70 s and saves a third to three fifths
# Core-seconds, one network: a gradient step on ten images there and back, the gradient of one real image, its logits.
INNER = {"lenet": 0.004, "alexcifarnet": 0.1}
REAL = {"lenet": 0.00006, "alexcifarnet": 0.002}
LOGITS = {"lenet": 0.000025, "alexcifarnet": 0.0008}


def gradients(config: Config) -> float:
    """Core-seconds of a run's gradients, roughly, without those of training a pool."""
    if config.images == "all":
        images = 1_500 if config.dataset == "digits" else 50_000
        return config.nets * config.epochs * images * REAL[config.network]
    if config.images.startswith("neighbour") or config.images == "one-network":
        return 0.0
    sample = config.steps * config.epochs * config.per_class**0.5 * INNER[config.network]  # as measured
    return config.iterations * config.samples * (sample + config.batch * REAL[config.network])


def cost(config: Config) -> float:
    """Core-seconds of a run, roughly: gradients, choices on the validation split, and the test before and after."""
    if config.images.startswith("neighbour"):
        return 10.0
    rates = (1 + len(baselines.PAPERS_RATES)) * baseline_runs.RUNS
    choices = {
        "distilled": config.checks * inits.choosing(config) * (2 if config.average else 1),
        "all": 0,
        "one-network": 0,
        "best-of-many": rates + 5 * config.nets,
    }.get(config.images, rates)
    return gradients(config) + (5_000 * choices + 2 * config.nets * 10_000) * LOGITS[config.network]
