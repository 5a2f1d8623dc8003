"""What the book measures on stored images and datasets beside the records, each in seconds.

The results are kept in results/studies.json, so that the book shows them where a dataset is not
there; `python -m ddcore.paper.studies [NAME ...]` measures them again.
"""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddcore import linear
from ddcore.accuracy import evaluate, predict
from ddcore.algorithm import distill
from ddcore.datasets import Dataset, load
from ddcore.distilled import DistilledData
from ddcore.experiments import records
from ddcore.experiments.catalogue import configure
from ddcore.experiments.config import Config
from ddcore.experiments.measure import measure
from ddcore.experiments.pretrained import committed
from ddcore.experiments.records import Record
from ddcore.experiments.setup import initial_weights, prepare
from ddcore.networks import Network, as_network, generator
from ddcore.pretrain import pretrain
from ddcore.recipe import Recipe
from ddcore.support import readers
from ddcore.support.errors import InputError
from ddcore.support.files import PROJECT, data_root, whole
from ddcore.support.registry import INIT_LAWS, source
from ddcore.support.runtime import set_up
from ddcore.unroll import cross_entropy, inner_loss, meta_gradient, train

RESULTS = PROJECT / "results" / "studies.json"
DIGITS = 5  # significant ones, of what is kept


@dataclass(frozen=True)
class Study:
    """A function of the experiment's distilled images where one is named, the dataset, and the
    arguments; it returns what JSON can hold."""

    measure: Callable[..., Any]
    dataset: str
    experiment: str | None
    arguments: dict[str, Any]

    def result(self, copy: str, arguments: dict[str, Any]) -> Any:
        given = [_record(self.experiment).distilled] if self.experiment else []
        found = self.measure(*given, load(copy), **arguments)
        return json.loads(
            json.dumps(found), parse_float=lambda text: float(f"{float(text):.{DIGITS}g}")
        )


def studied(name: str, **arguments: Any) -> Any:
    """The result of a study: as committed, or with other arguments measured now.

    Where the dataset is not there one line says so, and the committed result is returned.
    """
    study = STUDIES[name]
    committed = _committed()[name]
    wanted = study.arguments | arguments
    if wanted == committed["arguments"]:
        return committed["result"]
    copy = records.here(study.dataset)
    if copy:
        return study.result(copy, wanted)
    print(f"{study.dataset} is not here; as committed, with {_told(committed['arguments'])}:")
    return committed["result"]


def _told(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in arguments.items())


@cache
def _committed() -> dict[str, Any]:
    return json.loads(RESULTS.read_text("utf-8"))


def _record(experiment: str) -> Record:
    record = records.find(experiment)
    if record is None:
        raise InputError(f"{experiment} has no record yet; `ddcore run {experiment}` makes it")
    return record


def _config(experiment: str) -> Config:
    """That of the record, which says what copy of the data it is of."""
    return Config(**_record(experiment).config)


def _network(distilled: DistilledData) -> Network:
    channels, side = distilled.images.shape[2:4]
    classes = len(distilled.meta["classes"])
    return as_network(distilled.meta["architecture"], channels, side, classes)


def accuracy_by_size(
    data: Dataset,
    *,
    network: str,
    init: str,
    per_class: int,
    iterations: int,
    samples: int,
    nets: int,
    seed: int,
    sizes: list[int],
) -> dict[str, Any]:
    """Section 2: test accuracies of networks trained on everything, and on so many steps of
    distilled images, as [number of images, accuracy]."""
    net = as_network(network, *data.shape, len(data.classes))

    def p(rng: torch.Generator) -> Tensor:
        return net.init(init, rng)

    small = len(data.train[1]) < 5000
    epochs, batch = (8, 64) if small else (3, 256)
    full = pretrain(net, data, p, range(4), epochs=epochs, batch=batch)
    fresh = torch.stack([p(generator(seed, "fresh", j)) for j in range(nets)])
    recipe = Recipe(
        iterations, samples, batch=64, image_rate=0.1, raw_rate=0.03, first_lr=0.1, checks=3
    )
    curve = []
    for steps in sizes:
        result = distill(
            net,
            data,
            p,
            steps=steps,
            epochs=1,
            per_class=per_class,
            recipe=recipe,
            seed=seed,
            progress=False,
        )
        theta = train(net, result.distilled, fresh)
        accuracy = evaluate(net, theta, *data.test).mean().item()
        curve.append([steps * per_class * len(data.classes), accuracy])
    return {"everything": evaluate(net, full, *data.test).mean().item(), "curve": curve}


def distances(distilled: DistilledData, data: Dataset) -> dict[str, list[float]]:
    """Section 3.1, in normalised space: Euclidean distances to the nearest training image, of the
    distilled images and of 1,000 test images; how far each distilled image lies outside of the
    values that pixels have; and the part of the pixels that do."""
    training = data.train[0].flatten(1)
    images = distilled.images

    def nearest(x: Tensor) -> list[float]:
        return torch.cat([torch.cdist(some, training).amin(1) for some in x.split(100)]).tolist()

    beyond = (images - images.clamp(training.min(), training.max())).flatten(2)
    return {
        "distilled": nearest(images.flatten(0, 1).flatten(1)),
        "test": nearest(data.test[0][:1000].flatten(1)),
        "beyond": beyond.norm(dim=2).flatten().tolist(),
        "part": [(beyond.abs() > 1e-4).double().mean().item()],
    }


def resemblance(distilled: DistilledData, data: Dataset) -> list[list[list[float]]]:
    """Section 3.2: correlation of every image with the average of each class, both less the average
    over classes, [S, 10, 10]; rows are the images' own classes."""
    averages = class_averages(data)
    averages = F.normalize(averages - averages.mean(0), dim=-1)
    images = distilled.images.flatten(2)
    return (F.normalize(images - images.mean(1, keepdim=True), dim=-1) @ averages.T).tolist()


def class_averages(data: Dataset) -> Tensor:
    """[K, pixels]"""
    x, y = data.train
    return torch.stack([x[y == k].flatten(1).mean(0) for k in range(len(data.classes))])


def shown_classes(distilled: DistilledData, data: Dataset) -> list[list[float]]:
    """Section 4.2: correlation of the mean image of each label with the average of each class less
    the average of all, [labels, K]. Nothing that the labels' images share is taken away."""
    averages = class_averages(data)
    averages = averages - averages.mean(0)
    means = _mean_images(distilled)
    return [[_correlation(mean, average).item() for average in averages] for mean in means]


def _mean_images(distilled: DistilledData) -> list[Tensor]:
    """Of each label, over all steps, [K] of [pixels]."""
    images, labels = distilled.images.flatten(0, 1).flatten(1), distilled.labels.flatten()
    return [images[labels == k].mean(0) for k in range(len(distilled.meta["classes"]))]


def shown_domains(
    distilled: DistilledData, data: Dataset, *, source: str
) -> dict[str, list[float]]:
    """Section 4.2: correlation of the mean image of each label with its class's average in the
    target and in the source, and of these two averages, [K] each."""
    target, other = (_averages_in_pixels(one) for one in (data, load(source)))
    means = _mean_images(distilled)

    def correlations(one: Iterable[Tensor], other: Iterable[Tensor]) -> list[float]:
        return [_correlation(*pair).item() for pair in zip(one, other, strict=True)]

    return {
        "target": correlations(means, target),
        "source": correlations(means, other),
        "target and source": correlations(target, other),
    }


def _averages_in_pixels(data: Dataset) -> Tensor:
    """`class_averages` before normalisation, of one channel."""
    return class_averages(data) * data.std[0] + data.mean[0]


def frames(
    data: Dataset, *, sides: list[int], nets: int, epochs: int, mnist_epochs: int
) -> list[dict[str, float]]:
    """Section 4.2: what USPS is like when its digits fill `side` of 28 pixels and are split anew,
    and as torchvision has it (side 0). Mean over standard deviation of the pixels; accuracies in
    percent of networks trained on it, of MNIST's networks on it, and of its networks on MNIST."""
    mnist = load("mnist")
    network = as_network("lenet", *mnist.shape, len(mnist.classes))
    of_mnist = pretrain(network, mnist, "xavier", range(nets), epochs=mnist_epochs, batch=256)
    entry = source("usps")
    rows = []
    for side in (0, *sides):
        usps = data
        if side:
            files = readers.pooled(entry, data_root() / entry.folder, side)
            usps = Dataset.from_tensors(files.train, files.test)
            pixels = files.train[0]
        else:
            pixels = readers.read("usps", data_root()).train[0]
        trained = pretrain(network, usps, "xavier", range(nets), epochs=epochs, batch=128)

        def percent(theta: Tensor, test: tuple[Tensor, Tensor]) -> float:
            return 100 * evaluate(network, theta, *test).mean().item()

        rows.append(
            {
                "side": side,
                "mean over std": (pixels.mean() / pixels.std()).item(),
                "full training": percent(trained, usps.test),
                "mnist to usps": percent(of_mnist, usps.test),
                "usps to mnist": percent(trained, mnist.test),
            }
        )
    return rows


def destinations(
    distilled: DistilledData, data: Dataset, *, experiment: str
) -> dict[str, list[float]]:
    """Section 4.2: where an attack's class goes. The share in percent of its test images that the
    committed networks take for each class, before the step and after, [K]."""
    config = _config(experiment)
    network = _network(distilled)
    before = initial_weights(config, network, committed(config))
    x, y = data.test
    attacked = x[y == config.attacked]

    def shares(theta: Tensor) -> list[float]:
        found = predict(network, theta, attacked).flatten()
        return (100 * found.bincount(minlength=len(data.classes)) / len(found)).tolist()

    return {"before": shares(before), "after": shares(train(network, distilled, before))}


def on_these_pixels(
    distilled: DistilledData, data: Dataset, *, experiment: str, nets: int
) -> dict[str, list[float]]:
    """Section 4: what a record's first test networks score in percent on another copy of its test
    images, and what the record says of them, [nets] by metric."""
    record = _record(experiment)
    setup = replace(prepare(_config(experiment)), data=data)
    now = measure(setup, distilled, record.distillation, nets)
    found = {}
    for name in ("test_accuracy", "attacked_correct", "attacked_as_target"):
        if name in now:
            found[name] = [100 * value for value in now[name]["values"]]
            kept = record.metrics[name]["values"][: len(found[name])]
            found[f"{name}, record"] = [100 * value for value in kept]
    return found


def likeness(distilled: DistilledData, data: Dataset) -> list[float]:
    """Section 4.1: correlation of the images with the average image of their class, of each step's
    the mean [S]."""
    averages = class_averages(data)
    pairs = zip(distilled.images.flatten(2), distilled.labels, strict=True)
    return [
        torch.stack([_correlation(image, averages[k]) for image, k in zip(*step, strict=True)])
        .mean()
        .item()
        for step in pairs
    ]


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


def accuracy_by_step(
    distilled: DistilledData, data: Dataset, *, nets: int, test_images: int, seed: int
) -> list[list[float]]:
    """Section 3.2: test accuracies in percent of fresh networks before the first gradient step and
    after each, [E S + 1, nets]."""
    network = _network(distilled)
    draws = [generator(seed, "companion", j) for j in range(nets)]
    theta = torch.stack([network.init("xavier", rng) for rng in draws])
    path = torch.empty(len(distilled.order()), *theta.shape)
    end = train(network, distilled, theta, keep=path)
    test = [part[:test_images] for part in data.test]
    return [(100 * evaluate(network, weights, *test)).tolist() for weights in (*path, end)]


def accuracy_by_law(
    distilled: DistilledData, data: Dataset, *, nets: int, test_images: int, seed: int
) -> dict[str, list[float]]:
    """Section 3.2: test accuracies in percent of fresh networks of each law of initial weights."""
    network = _network(distilled)
    test = [part[:test_images] for part in data.test]

    def accuracies(law: str) -> list[float]:
        draws = [generator(seed, "companion", j) for j in range(nets)]
        theta = torch.stack([network.init(law, rng) for rng in draws])
        return (100 * evaluate(network, train(network, distilled, theta), *test)).tolist()

    return {law: accuracies(law) for law in INIT_LAWS}


def parities(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Section 3.3: pixels [N, D] and the targets +1 of an even digit, -1 of an odd one [N]."""
    return pixels.flatten(1).double(), (1 - 2 * (labels % 2)).double()


def excess_by_size(
    problem: linear.LeastSquares,
    *,
    init_std: float,
    rate: float,
    seed: int,
    sizes: Iterable[int],
    distilled: Iterable[int],
    iterations: int,
    search: int,
) -> dict[str, Any]:
    """Section 3.3: the least expected excess loss V(M) after one step, by the closed form (`search`
    iterations for its direction), its bound, and what distillation finds, as [M, loss]."""
    inits = linear.Inits(torch.zeros(len(problem.optimum), dtype=torch.float64), init_std)
    rng = generator(seed, "starts")

    def found(m: int) -> float:
        sets = linear.distil(problem, inits, m, rate, rng, starts=1, iterations=iterations)
        return sets[2].min().item()

    sizes = [m for m in sizes if m < problem.rank]
    return {
        "init_std": init_std,
        "features": len(problem.optimum),
        "rank": problem.rank,
        "floor": float(problem.floor),
        "closed form": [[m, linear.best(problem, inits, m, search)[0]] for m in sizes],
        "bound": [[m, linear.lower_bound(problem, inits, m)] for m in sizes],
        "distilled": [[m, found(m)] for m in distilled],
    }


def excess_on_mnist(data: Dataset, *, init_std: float, rate: float, seed: int) -> dict[str, Any]:
    """The same for the parity of MNIST's digits."""
    return excess_by_size(
        linear.LeastSquares.of(*parities(*data.train)),
        init_std=init_std,
        rate=rate,
        seed=seed,
        sizes=(1, 2, 5, 10, 20, 50, 100, 200, 400, 600),
        distilled=(1, 10),
        iterations=30,
        search=1,
    )


def other_networks(distilled: DistilledData, data: Dataset, *, nets: int, seed: int) -> list[float]:
    """Section 4.1: test accuracies in percent of networks of another seed [nets]."""
    network = _network(distilled)
    theta = initial_weights(Config(dataset="mnist", seed=seed), network, nets)
    trained = (train(network, distilled, some) for some in theta.split(10))
    return (100 * torch.cat([evaluate(network, some, *data.test) for some in trained])).tolist()


def accuracy_of_real(data: Dataset, *, images_seen: int) -> list[list[float]]:
    """Section 4.1: mean test accuracy in percent of two networks trained with Adam on the first n
    training images of each class, as [n, accuracy]."""
    x, y = data.train
    network = as_network("lenet", *data.shape, len(data.classes))
    found = []
    for n in (10, 20, 40, 80, 160):
        kept = torch.cat([torch.nonzero(y == k)[:n, 0] for k in range(len(data.classes))])
        subset = replace(data, train=(x[kept], y[kept]))
        epochs = images_seen // len(kept)
        theta = pretrain(
            network, subset, "xavier", range(2), epochs=epochs, batch=100, stream="subset"
        )
        found.append([n, 100 * evaluate(network, theta, *data.test).mean().item()])
    return found


def gradient_norms(
    distilled: DistilledData, data: Dataset, *, experiment: str, nets: int, seed: int
) -> dict[str, Any]:
    """Section 4.2: norms of the images' meta-gradients of single held-out networks, and that of the
    mean over as many as an outer step takes."""
    config = configure(experiment)
    network, found = _network(distilled), []
    for j, theta in enumerate(initial_weights(config, network, nets)):
        batch = data.batch(config.batch, generator(seed, "norms", j))
        found.append(meta_gradient(network, distilled, theta[None], batch)[1].images)
    gradients = torch.stack(found).flatten(1)
    return {
        "norms": gradients.norm(dim=1).tolist(),
        "norm of the mean": gradients[: config.samples].mean(0).norm().item(),
    }


LENGTHS = (0, 0.03, 0.1, 0.3, 1, 3, 10)  # of a step, all pixels together


def spread(distilled: DistilledData, data: Dataset, *, nets: int, seed: int) -> dict[str, Any]:
    """Minutes: norms of single networks' meta-gradients; norms of their mean, and of the mean
    without the four loudest; and the median loss after steps of LENGTHS along each."""
    network = _network(distilled)
    draws = [generator(seed, "spread", j) for j in range(nets)]
    starts = torch.stack([network.init("xavier", rng) for rng in draws])
    batches = [data.batch(256, rng) for rng in draws]
    found = [
        meta_gradient(network, distilled, theta[None], batch)[1].images
        for theta, batch in zip(starts, batches, strict=True)
    ]
    gradients = torch.stack(found)
    norms = gradients.flatten(1).norm(dim=1)
    quiet = norms < norms.sort().values[-4]
    means = {"of all": gradients.mean(0), "without the four loudest": gradients[quiet].mean(0)}

    def loss(direction: Tensor, length: float) -> float:
        images = distilled.images - length * direction / direction.norm()
        theta = train(network, replace(distilled, images=images), starts)
        each = [
            cross_entropy(network(own[None], x), y)
            for own, (x, y) in zip(theta, batches, strict=True)
        ]
        return torch.cat(each).median().item()

    return {
        "norms": norms.tolist(),
        "means": {name: mean.norm().item() for name, mean in means.items()},
        "losses": {
            name: [loss(mean, length) for length in LENGTHS] for name, mean in means.items()
        },
    }


def changed(d: DistilledData) -> dict[str, DistilledData]:
    """The same distilled data with one thing changed."""
    shuffled = torch.randperm(len(d.images), generator=generator(1))
    mean, std = (torch.tensor(d.meta[name]).view(-1, 1, 1) for name in ("mean", "std"))
    clipped = ((d.images * std + mean).clamp(0, 1) - mean) / std
    backwards = {"images": d.images.flip(0), "labels": d.labels.flip(0), "lrs": d.lrs.flip(1)}
    mixed = {"images": d.images[shuffled], "labels": d.labels[shuffled]}
    return {
        "as stored": d,
        "steps in reverse order": replace(d, **backwards),
        "images in another order, rates in theirs": replace(d, **mixed),
        "all rates equal to their mean": replace(d, lrs=d.lrs.mean().expand_as(d.lrs)),
        "rates halved": replace(d, lrs=d.lrs / 2),
        "rates doubled": replace(d, lrs=d.lrs * 2),
        "all rates 0.001": replace(d, lrs=torch.full_like(d.lrs, 0.001)),
        "images clipped to what a PNG can hold": replace(d, images=clipped),
        "images rounded to float16": replace(d, images=d.images.half().float()),
    }


def other_uses(
    distilled: DistilledData, data: Dataset, *, nets: int, seed: int
) -> dict[str, list[float | None]]:
    """What belongs together: mean and standard deviation of the test accuracy in percent, of each
    other way to use distilled data, on the first 2,000 test images."""
    network, law = _network(distilled), distilled.meta["init_law"]

    def fresh(network: Network, law: str) -> Tensor:
        return torch.stack([network.init(law, generator(seed, "other", j)) for j in range(nets)])

    fixed = distilled.init
    theta = fresh(network, law) if fixed is None else network.flatten(fixed)
    trained = {
        said: (network, train(network, other, theta)) for said, other in changed(distilled).items()
    }
    trained["Adam at 0.001 instead"] = network, with_adam(network, distilled, theta)
    if fixed is not None:
        strangers = fresh(network, law)
        said = "other initial weights of the same law"
        trained[said] = network, train(network, distilled, strangers)
    for other in INIT_LAWS:
        if other != law:
            theta = train(network, distilled, fresh(network, other))
            trained[f"initial weights of the law {other}"] = network, theta
    other = perceptron(distilled)
    theta = train(other, distilled, fresh(other, law))
    trained["another network (a perceptron)"] = other, theta
    test = [part[:2000] for part in data.test]
    rows = {}
    for said, (user, theta) in trained.items():
        accuracy = 100 * evaluate(user, theta, *test)
        std = accuracy.std().item() if len(accuracy) > 1 else None
        rows[said] = [accuracy.mean().item(), std]
    return rows


def with_adam(network: Network, d: DistilledData, theta: Tensor, rate: float = 0.001) -> Tensor:
    """As many steps of Adam instead of gradient descent."""
    theta, targets = theta.clone(), d.targets()
    adam = torch.optim.Adam([theta], lr=rate)
    for _, s in d.order():
        theta.grad = torch.func.grad(inner_loss, argnums=1)(network, theta, d.images[s], targets[s])
        adam.step()
    return theta


def perceptron(d: DistilledData) -> Network:
    """Another network of about as many parameters."""
    shape, classes = d.images.shape[2:], len(d.meta["classes"])
    layers = nn.Linear(shape.numel(), 75), nn.ReLU(), nn.Linear(75, classes)
    return as_network(nn.Sequential(nn.Flatten(), *layers))


FEW = {
    "network": "lenet",
    "init": "xavier",
    "per_class": 1,
    "iterations": 60,
    "samples": 4,
    "nets": 20,
    "seed": 0,
    "sizes": [1, 3, 6, 10],
}
STUDIES = {
    **{
        f"{name}, accuracy by size": Study(accuracy_by_size, name, None, FEW)
        for name in ("fashionmnist", "mnist", "usps", "cifar10")
    },
    "fig2a, distances": Study(distances, "mnist", "fig2a", {}),
    "fig2a, resemblance": Study(resemblance, "mnist", "fig2a", {}),
    "fig3a, resemblance": Study(resemblance, "mnist", "fig3a", {}),
    "fig2b, resemblance": Study(resemblance, "cifar10", "fig2b", {}),
    "fig3b, resemblance": Study(resemblance, "cifar10", "fig3b", {}),
    "fig3a, likeness": Study(likeness, "mnist", "fig3a", {}),
    "fig3b, likeness": Study(likeness, "cifar10", "fig3b", {}),
    "fig3a, accuracy by step": Study(
        accuracy_by_step, "mnist", "fig3a", {"nets": 20, "test_images": 1000, "seed": 0}
    ),
    "fig3a, accuracy by law": Study(
        accuracy_by_law, "mnist", "fig3a", {"nets": 20, "test_images": 1000, "seed": 0}
    ),
    "mnist, excess by size": Study(
        excess_on_mnist, "mnist", None, {"init_std": 1.0, "rate": 0.02, "seed": 0}
    ),
    "mnist, accuracy of real images": Study(
        accuracy_of_real, "mnist", None, {"images_seen": 20_000}
    ),
    "fig3a, spread": Study(spread, "mnist", "fig3a", {"nets": 40, "seed": 0}),
    **{
        f"{name}, other networks": Study(other_networks, "mnist", name, {"nets": 200, "seed": 1})
        for name in (f"table1-mnist-one-{n}" for n in (1, 5, 10, 20, 30))
    },
    **{
        f"{name}, gradient norms": Study(
            gradient_norms, data, name, {"experiment": name, "nets": 20, "seed": 0}
        )
        for name, data in (
            ("table2-mnist-usps-random", "usps"),
            ("table2-usps-mnist-random", "mnist"),
        )
    },
    **{
        f"{name}, other uses": Study(other_uses, "mnist", name, {"nets": 20, "seed": 0})
        for name in ("fig2a", "fig3a")
    },
    **{
        f"{name}, shown classes": Study(shown_classes, "mnist", name, {})
        for name in ("table3-mnist-10", "table3-mnist-300")
    },
    **{
        f"table2-{source}-{target}-random, shown domains": Study(
            shown_domains, target, f"table2-{source}-{target}-random", {"source": source}
        )
        for source, target in (
            ("mnist", "usps"),
            ("usps", "mnist"),
        )
    },
    "usps, frames": Study(
        frames,
        "usps",
        None,
        {"sides": [28, 26, 25, 24, 20], "nets": 4, "epochs": 6, "mnist_epochs": 3},
    ),
    **{
        f"{name}, destinations": Study(destinations, data, name, {"experiment": name})
        for name, data in (
            ("table3-mnist-10", "mnist"),
            ("table3-cifar10-10", "cifar10-jpeg"),
            ("table3-cifar10-300", "cifar10-jpeg"),
        )
    },
    **{
        f"{name}, on CIFAR-10's own pixels": Study(
            on_these_pixels, "cifar10-png", name, {"experiment": name, "nets": nets}
        )
        for name, nets in (
            ("fig2b", 1),
            ("fig3b", 20),
            ("table1-cifar10-many-30", 20),
            ("table3-cifar10-300", 4),
        )
    },
}


def main(names: list[str]) -> None:
    """Measure again, by default everything, and keep the results."""
    for name in names:
        if name not in STUDIES:
            raise InputError(f"unknown study {name!r}; one of: {'; '.join(STUDIES)}")
    set_up("cpu")
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for name in names or STUDIES:
        study = STUDIES[name]
        copy = records.here(study.dataset)
        if copy is None:
            raise InputError(f"{study.dataset} is not here, which {name!r} needs")
        result = study.result(copy, study.arguments)
        kept[name] = {"dataset": copy, "arguments": study.arguments, "result": result}
        print(name, flush=True)
        lines = [f" {json.dumps(key)}: {json.dumps(kept[key])}" for key in STUDIES if key in kept]
        with whole(RESULTS) as part:
            part.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        print("ddcore:", error, file=sys.stderr)
        sys.exit(2)
