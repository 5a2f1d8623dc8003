"""Where a configuration's initial weights come from: a law (section 4.1), or a pool of pretrained networks (4.2).

A pool's networks are numbered in two streams: "pool", of which the first `config.pool` are distilled with and the next
are for choices, and "test", which nothing but the test sees (a fixed init is the first of it). Network j of a stream
follows from the configuration, the stream and j alone. They are trained a few at a time, each few stored in the user's
cache when done: an interrupted pool goes on, and several processes share the work. Weights are rounded to float16
before any use, so that the held-out networks that are committed with the records are those that the records were
tested on.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ddcore import baselines, objectives
from ddcore.companion import records
from ddcore.companion.experiments import BASELINES, Config
from ddcore.datasets import Dataset, load
from ddcore.distill import InitLaw
from ddcore.errors import InputError, whole
from ddcore.evaluate import evaluate
from ddcore.networks import Network, as_network, generator
from ddcore.pretrain import pretrain

TOGETHER = {"lenet": 4, "alexcifarnet": 1}  # networks trained at once and stored in one file
COMMITTED = {"lenet": 20, "alexcifarnet": 4}  # held-out networks of a pool that are kept beside the records
TRAINING = {  # MNIST and what is not named: three epochs
    "digits": {"epochs": 8, "batch": 64}, "usps": {"epochs": 6, "batch": 128}, "svhn": {"epochs": 4},
    "cifar10": {"epochs": 8},
}  # fmt: skip


def training_of(config: Config) -> Config:
    """What the networks that a configuration starts from, or consists of, were trained on, and how long."""
    if config.images == "all":
        return Config(**config.model_dump(include={"dataset", "images", "network", "init", "epochs", "batch", "seed"}))
    source = config.pretrained_on
    how = TRAINING.get(source.removesuffix("-jpeg"), {"epochs": 3})
    return Config(dataset=source, images="all", network=config.network, init=config.init, **how)


def prepare(config: Config, device: str = "cpu", download: bool = True) -> tuple[Dataset, Network]:
    """The configuration's dataset, as its networks can read it, and the architecture; InputError where they do not
    match, or where a class to be attacked is not there."""
    data = load(config.dataset, download=download)
    if config.source:
        stored = _places(training_of(config), "test", range(1))[0]
        if stored.is_file():  # what they were trained on need not be here any more
            header = _header(stored)
            classes, channels = header["classes"], header["channels"]
        else:
            source = load(config.source, download=download)
            classes, channels = source.classes, source.shape[0]
        data = objectives.matched(data, config.source, classes, channels)
    asked(config, data)  # raises where there is no such class
    if config.images in BASELINES:
        baselines.members_of(data, 1 if config.images == "averages" else config.steps * config.per_class)
    data = data.to(device)
    return data, as_network(config.network, *data.shape, len(data.classes))


def asked(config: Config, data: Dataset) -> Dataset:
    """What the outer loss is computed on: the dataset, or of an attack the one with the attacked class relabelled."""
    return data if config.attacked is None else objectives.poisoned(data, config.attacked, config.target)


def init_law(config: Config, network: Network) -> InitLaw:
    """p(theta_0). A fixed init ignores its generator; a pool is drawn from with replacement."""
    if config.fixed:
        theta = networks(config, network, 1)[0]
        return lambda rng: theta
    if config.pretrained_on:
        pool = weights(training_of(config), "pool", range(config.pool))
        return lambda rng: pool[torch.randint(len(pool), (), generator=rng)]
    return lambda rng: network.init(config.init, rng)


def networks(config: Config, network: Network, n: int, stream: str = "test", first: int = 0) -> Tensor:
    """Networks `first` .. `first + n - 1` of "validation" or "test", [n, P]; of a fixed init the one there is."""
    which = range(first, first + n)
    if config.pretrained_on:
        if config.fixed:
            return weights(training_of(config), "test", range(1))
        if stream == "validation":
            stream, which = "pool", range(config.pool + first, config.pool + first + n)
        return weights(training_of(config), stream, which)
    if config.fixed:
        return network.init(config.init, generator(config.seed, "init"))[None]
    return torch.stack([network.init(config.init, generator(config.seed, stream, j)) for j in which])


def choosing(config: Config) -> int:
    """How many networks choices are made on."""
    return 1 if config.fixed else min(20, max(4, config.pool // 10)) if config.pretrained_on else config.chosen_on


def weights(training: Config, stream: str, which: range) -> Tensor:
    """Networks `which` of a pool's stream, float32 [n, P], trained now where they are not stored."""
    files, skipped = _stored(training, stream, which), which.start % TOGETHER[training.network]
    parts = []
    for path in files:
        with _opened(path) as file:
            parts.append(file.get_tensor("theta"))
    return torch.cat(parts)[skipped : skipped + len(which)].float()


def pool(config: Config, device: str = "cpu") -> dict:
    """Train what is missing of a configuration's networks; for its record: their training's key, how they do on the
    source's validation images, the seconds that training took, and the source files' sha256."""
    training, headers, accuracy = training_of(config), [], []
    for stream, which in _needed(config):
        found = [_header(path) for path in _stored(training, stream, which, device)]
        accuracy += [a for header in found for a in header["accuracy"]][: len(which)]
        headers += found
    return {
        "training": training.key, "networks": len(accuracy),
        "validation_accuracy": sum(accuracy) / len(accuracy), "lowest": min(accuracy),
        "seconds": round(sum(header["seconds"] for header in headers)), "sha256": headers[0]["sha256"],
    }  # fmt: skip


def untrained(config: Config) -> int:
    """How many of a configuration's networks are stored nowhere."""
    training = training_of(config)
    paths = [path for stream, which in _needed(config) for path in _places(training, stream, which).values()]
    return TOGETHER[training.network] * sum(not path.is_file() for path in paths)


def _needed(config: Config) -> list[tuple[str, range]]:
    """The networks that are tested, distilled with and chosen on."""
    mine = [("pool", range(config.pool + choosing(config)))] if config.pool else []
    return [("test", range(1 if config.fixed else config.nets)), *mine]


def keep(config: Config, root: Path) -> None:
    """Copy the first held-out networks beside the records in `root`, so that these can be verified in a minute."""
    for path in _stored(training_of(config), "test", range(min(config.nets, COMMITTED[config.network]))):
        to = root / "networks" / path.parent.name / path.name
        if not to.exists():
            to.parent.mkdir(parents=True, exist_ok=True)
            with whole(to) as part:
                shutil.copyfile(path, part)


def _places(training: Config, stream: str, which: range) -> dict[int, Path]:
    """The files that hold networks `which`, by their first; one that is nowhere has its place in the user's cache."""
    together, roots, found, name = TOGETHER[training.network], records.roots(), {}, training.key
    if training.dataset.startswith("folder:"):  # whose images may change
        name += f"-{load(training.dataset).sha256[:12]}"
    for first in range(which.start // together * together, which.stop, together):
        places = [root / "networks" / name / f"{stream}-{first:04}.safetensors" for root in roots]
        found[first] = next(filter(Path.is_file, places), places[-1])
    return found


def _stored(training: Config, stream: str, which: range, device: str = "cpu") -> list[Path]:
    """The files that hold networks `which`, in order; those that are nowhere are made in the user's cache."""
    places, together = _places(training, stream, which), TOGETHER[training.network]
    if missing := {first: path for first, path in places.items() if not path.is_file()}:
        data = load(training.dataset).to(device)
        next(iter(missing.values())).parent.mkdir(parents=True, exist_ok=True)
        said = f"networks trained on {training.dataset}"
        with tqdm(total=len(missing) * together, desc=said, file=sys.stderr) as bar:
            for patience in (0, -1):  # first what nobody else is at, then wait for the rest
                for first, path in missing.items():
                    try:
                        with FileLock(path.with_suffix(".lock"), timeout=patience):
                            if not path.exists():
                                _train(training, data, stream, range(first, first + together), path)
                                bar.update(together)
                    except Timeout:
                        pass
    return list(places.values())


def _train(training: Config, data: Dataset, stream: str, which: range, path: Path) -> None:
    began, network = time.monotonic(), as_network(training.network, *data.shape, len(data.classes))
    how = {"epochs": training.epochs, "batch": training.batch, "seed": training.seed, "stream": stream}
    theta = pretrain(network, data, lambda rng: network.init(training.init, rng), which, **how).half()
    accuracy = evaluate(network, theta.float(), *data.validation).tolist()
    header = {
        "dataset": data.name, "sha256": data.sha256, "classes": data.classes, "channels": data.shape[0],
        "accuracy": accuracy, "seconds": time.monotonic() - began,
    }  # fmt: skip
    with whole(path) as part:
        save_file({"theta": theta.cpu()}, part, {"ddcore": json.dumps(header)})


def _header(path: Path) -> dict:
    with _opened(path) as file:
        return json.loads(file.metadata()["ddcore"])


def _opened(path: Path):
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); delete it and its networks are trained again") from error
