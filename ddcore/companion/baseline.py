"""The baselines of section 4.1 as configurations: fit what is learned, choose on the validation split, test 200 times.

Every test run has a network of its own and, where the images are random, images of its own, drawn from (seed, run).
"""

import torch
from torch import Tensor

from ddcore import baselines
from ddcore.companion.experiments import Config, networks
from ddcore.datasets import Dataset
from ddcore.distill import InitLaw
from ddcore.distilled import DistilledData, class_major
from ddcore.evaluate import evaluate
from ddcore.networks import Network, generator
from ddcore.pretrain import pretrain
from ddcore.unroll import Steps, train

STACK = 4  # networks trained at once on all images
RUNS = 20  # of a choice on the validation split, at most as many as there are test runs


def source(config: Config, data: Dataset) -> baselines.Source:
    """Where the images of a baseline come from."""
    if config.images == "averages":
        return baselines.averages(data, config.steps, config.per_class)
    if config.images in ("centres", "neighbour-centres"):
        return baselines.centres(data, config.steps, config.per_class, config.seed)
    return baselines.random_real(data, config.steps, config.per_class)


def fit(config: Config, network: Network, data: Dataset, p: InitLaw, steps: Steps) -> tuple[DistilledData | None, dict]:
    """The rates that are best on the validation split: the learned ones or one of the paper's six; of as many random
    sets as there are test runs the fifth that is best there. Returned with the images of the first test run.
    Training on all images leaves nothing to fit or store."""
    if config.images == "all":
        return None, {}
    draw = source(config, data)
    images = draw(_run(config, "test", 0))
    if config.images.startswith("neighbour"):
        return class_major(data, images, torch.zeros(config.epochs, config.steps, device=images.device)), {}
    learned = baselines.learned_rates(
        network, data, p, draw, config.epochs, iterations=config.iterations, seed=config.seed, step_functions=steps
    )
    rates = {"learned": learned, **{f"{r:g}": torch.full_like(learned, r) for r in baselines.PAPERS_RATES}}
    tries = [
        (draw(_run(config, "validation", j)), networks(config, p, 1, "validation", j))
        for j in range(min(RUNS, config.nets))
    ]
    accuracy = {}
    for name, lrs in rates.items():
        trained = [_trained(network, data, tried, lrs, theta) for tried, theta in tries]
        accuracy[name] = torch.stack([evaluate(network, theta, *data.validation)[0] for theta in trained]).mean().item()
    best = max(accuracy, key=accuracy.__getitem__)
    how = {"rate": best, "validation_accuracy_by_rate": accuracy}
    if config.images == "best-of-many":
        few, scores = networks(config, p, 5, "validation"), []
        for j in range(config.nets):
            theta = _trained(network, data, draw(_run(config, "test", j)), rates[best], few)
            scores.append(evaluate(network, theta, *data.validation).mean())
        how["sets"] = torch.stack(scores).argsort(descending=True)[: max(1, config.nets // 5)].tolist()
        images = draw(_run(config, "test", how["sets"][0]))
    return class_major(data, images, rates[best]), how


def measure(
    config: Config, network: Network, stored: DistilledData | None, how: dict, data: Dataset, p: InitLaw, total: int,
    steps: Steps,
) -> dict[str, Tensor]:  # fmt: skip
    """Test accuracies [total], one of each run; images that are the same in all runs are those stored."""
    if config.images == "all":
        found = []
        for first in range(0, total, STACK):
            which = range(first, min(first + STACK, total))
            theta = pretrain(network, data, p, which, epochs=config.epochs, batch=config.batch, seed=config.seed,
                             stream="test", step_functions=steps)  # fmt: skip
            found.append(evaluate(network, theta, *data.test))
        return {"test_accuracy": torch.cat(found)}
    drawn = config.images in ("random-real", "best-of-many", "neighbour-real")
    draw = source(config, data) if drawn else lambda rng: stored.images
    if config.images.startswith("neighbour"):
        runs = range(total if drawn else 1)
        labels, (x, y) = stored.labels.flatten(), data.test
        found = [baselines.nearest_neighbour(draw(_run(config, "test", j)).flatten(0, 1), labels, x) for j in runs]
        return {"test_accuracy": torch.stack([(f == y).double().mean() for f in found])}
    after, before = [], []
    for j in range(total):
        theta = networks(config, p, 1, first=j).to(stored.images.device)
        images = draw(_run(config, "test", how["sets"][j % len(how["sets"])] if "sets" in how else j))
        before.append(evaluate(network, theta, *data.test))
        after.append(evaluate(network, _trained(network, data, images, stored.lrs, theta), *data.test))
    return {"test_accuracy": torch.cat(after), "test_accuracy_before": torch.cat(before)}


def _trained(network: Network, data: Dataset, images: Tensor, lrs: Tensor, theta: Tensor) -> Tensor:
    return train(network, class_major(data, images, lrs), theta.to(images.device))


def _run(config: Config, stream: str, j: int) -> torch.Generator:
    return generator(config.seed, stream, "images", j)
