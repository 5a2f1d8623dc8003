"""The baselines as configurations: fit what is learned, choose on the validation split, test.

Every test run has a network of its own and, where the images are random, images of its own, drawn from (seed, run).
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddcore import baselines
from ddcore.companion import inits
from ddcore.companion.experiments import Config
from ddcore.datasets import Dataset
from ddcore.distill import InitLaw
from ddcore.distilled import DistilledData, class_major
from ddcore.evaluate import evaluate
from ddcore.networks import Network, generator
from ddcore.objectives import relabelled
from ddcore.unroll import Steps, train, train_in_float64

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
    draw, labelled = source(config, data), _labelled(config, data)
    images = draw(_run(config, "test", 0))
    if config.images.startswith("neighbour"):
        return class_major(data, images, torch.zeros(config.epochs, config.steps, device=images.device)), {}
    asked = inits.asked(config, data)
    learned = baselines.learned_rates(
        network, asked, p, draw, config.epochs, iterations=config.iterations, seed=config.seed, step_functions=steps,
        labelled=labelled,
    )  # fmt: skip
    rates = {"learned": learned, **{f"{r:g}": torch.full_like(learned, r) for r in baselines.PAPERS_RATES}}

    def trained(images: Tensor, lrs: Tensor, theta: Tensor) -> Tensor:
        return train(network, class_major(data, images, lrs, labelled), theta.to(images.device))

    runs = inits.choosing(config) if config.pretrained_on else min(RUNS, config.nets)
    tries = [
        (draw(_run(config, "validation", j)), inits.networks(config, network, 1, "validation", j)) for j in range(runs)
    ]
    accuracy = {}
    for name, lrs in rates.items():
        ends = [trained(tried, lrs, theta) for tried, theta in tries]
        accuracy[name] = torch.stack([evaluate(network, theta, *asked.validation)[0] for theta in ends]).mean().item()
    best = max(accuracy, key=accuracy.__getitem__)
    how = {"rate": best, "validation_accuracy_by_rate": accuracy}
    if config.images == "best-of-many":
        few, scores = inits.networks(config, network, 5, "validation"), []
        for j in range(config.nets):
            theta = trained(draw(_run(config, "test", j)), rates[best], few)
            scores.append(evaluate(network, theta, *asked.validation).mean())
        how["sets"] = torch.stack(scores).argsort(descending=True)[: max(1, config.nets // 5)].tolist()
        images = draw(_run(config, "test", how["sets"][0]))
    return class_major(data, images, rates[best], labelled), how


def runs(
    config: Config, network: Network, stored: DistilledData, how: dict, data: Dataset, total: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The networks of `total` test runs, before and after; images that are the same in all runs are those stored."""
    drawn = config.images in ("random-real", "best-of-many")
    draw: Callable = source(config, data) if drawn else lambda rng: stored.images
    labelled = _labelled(config, data)
    for j in range(total):
        theta = inits.networks(config, network, 1, first=j).to(stored.images.device)
        images = draw(_run(config, "test", how["sets"][j % len(how["sets"])] if "sets" in how else j))
        yield theta, train_in_float64(network, class_major(data, images, stored.lrs, labelled), theta)


def neighbours(config: Config, stored: DistilledData, data: Dataset, total: int) -> Tensor:
    """Test accuracy of the nearest-neighbour classifier, one value for each draw of its images."""
    drawn = config.images == "neighbour-real"
    draw = source(config, data) if drawn else lambda rng: stored.images
    labels, (x, y) = stored.labels.flatten(), data.test
    images = [draw(_run(config, "test", j)).flatten(0, 1) for j in range(total if drawn else 1)]
    return torch.stack([(baselines.nearest_neighbour(i, labels, x) == y).double().mean() for i in images])


def _labelled(config: Config, data: Dataset) -> Tensor | None:
    """The labels that the images of each class carry, where an attack gives those of one class another's."""
    if config.attacked is None:
        return None
    return relabelled(torch.arange(len(data.classes)), config.attacked, config.target)


def _run(config: Config, stream: str, j: int) -> torch.Generator:
    return generator(config.seed, stream, "images", j)
