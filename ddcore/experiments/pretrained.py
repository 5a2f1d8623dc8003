"""Networks trained on a whole dataset: the pool of section 4.2, and "fully trained" networks.

A pool's networks are numbered in two streams: "pool", of which the first `config.pool` are
distilled with and the next are for choices, and "test". Network j of a stream follows from the
configuration, the stream and j alone. They are trained a few at a time, each few stored in the
user's cache when done: an interrupted pool goes on, and several processes share the work. Weights
are rounded to float16 before any use, so that the test networks that are committed with the records
are those that the records were tested on.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ddcore.accuracy import evaluate
from ddcore.datasets import Dataset, load
from ddcore.experiments import records
from ddcore.experiments.config import Config
from ddcore.networks import as_network
from ddcore.pretrain import pretrain
from ddcore.support.errors import InputError
from ddcore.support.files import whole
from ddcore.support.imported import source_sha256
from ddcore.support.registry import architecture, source


def training_of(config: Config) -> Config:
    """What the networks that a configuration starts from, or consists of, were trained on, and how
    long."""
    if config.images == "all":
        own = {"dataset", "images", "network", "init", "epochs", "batch", "seed"}
        return Config(**config.model_dump(include=own))
    entry = source(config.pretrained_on)
    return Config(
        dataset=config.pretrained_on,
        images="all",
        network=config.network,
        init=config.init,
        epochs=entry.pretrain_epochs,
        batch=entry.pretrain_batch,
    )


@dataclass(frozen=True)
class Pool:
    """The networks of one training configuration, stored a few to a file."""

    training: Config

    @staticmethod
    def of(config: Config) -> "Pool":
        return Pool(training_of(config))

    @property
    def together(self) -> int:
        """Networks that are trained at once and stored in one file."""
        return architecture(self.training.network).together

    def weights(self, stream: str, numbers: range) -> Tensor:
        """Networks of a stream, float32 [n, P], trained now where they are not stored."""
        parts = []
        for path in self.ensure(stream, numbers):
            with _opened(path) as file:
                parts.append(file.get_tensor("theta"))
        skipped = numbers.start % self.together
        return torch.cat(parts)[skipped : skipped + len(numbers)].float()

    def reads(self, download: bool = True) -> tuple[tuple[str, ...], int]:
        """The classes and channels of the dataset that they were trained on, which need not be
        here any more."""
        stored = self.paths("test", range(1))[0]
        if stored.is_file():
            header = _header(stored)
            return tuple(header["classes"]), header["channels"]
        data = load(self.training.dataset, download=download)
        return data.classes, data.shape[0]

    def paths(self, stream: str, numbers: range) -> dict[int, Path]:
        """The files that hold networks, by their first; one that is nowhere has its place in the
        user's cache."""
        roots = records.roots()
        folder = self.training.key
        if self.training.dataset.startswith("folder:"):  # whose images may change
            folder += f"-{load(self.training.dataset).sha256[:12]}"
        if own := source_sha256(self.training.network):  # and so may the source
            folder += f"-{own[:12]}"
        paths = {}
        start = numbers.start // self.together * self.together
        for first in range(start, numbers.stop, self.together):
            name = f"{stream}-{first:04}.safetensors"
            places = [root / "networks" / folder / name for root in roots]
            paths[first] = next(filter(Path.is_file, places), places[-1])
        return paths

    def ensure(self, stream: str, numbers: range, device: str = "cpu") -> list[Path]:
        """The files that hold networks, in order; those that are nowhere are made in the user's
        cache."""
        paths = self.paths(stream, numbers)
        missing = {first: path for first, path in paths.items() if not path.is_file()}
        if missing:
            self._train_missing(stream, missing, device)
        return list(paths.values())

    def _train_missing(self, stream: str, missing: dict[int, Path], device: str) -> None:
        data = load(self.training.dataset).to(device)
        next(iter(missing.values())).parent.mkdir(parents=True, exist_ok=True)
        title = f"networks trained on {self.training.dataset}"
        with tqdm(total=len(missing) * self.together, desc=title, file=sys.stderr) as bar:
            for timeout in (0, -1):  # first what nobody else is at, then wait for the rest
                for first, path in missing.items():
                    try:
                        with FileLock(path.with_suffix(".lock"), timeout=timeout):
                            if not path.exists():
                                self._train(data, stream, first, path)
                                bar.update(self.together)
                    except Timeout:
                        pass

    def _train(self, data: Dataset, stream: str, first: int, path: Path) -> None:
        began = time.monotonic()
        training = self.training
        network = as_network(training.network, *data.shape, len(data.classes))
        numbers = range(first, first + self.together)
        theta = pretrain(
            network,
            data,
            training.init,
            numbers,
            epochs=training.epochs,
            batch=training.batch,
            seed=training.seed,
            stream=stream,
        ).half()
        header = {
            "dataset": data.name,
            "sha256": data.sha256,
            "classes": data.classes,
            "channels": data.shape[0],
            "accuracy": evaluate(network, theta.float(), *data.validation).tolist(),
            "seconds": time.monotonic() - began,
        }
        with whole(path) as part:
            save_file({"theta": theta.cpu()}, part, {"ddcore": json.dumps(header)})


def needed(config: Config) -> list[tuple[str, range]]:
    """The networks that are tested, distilled with and chosen on, by stream."""
    tested = range(1 if config.fixed else config.nets)
    if not config.pool:
        return [("test", tested)]
    return [("test", tested), ("pool", range(config.pool + config.validation_networks))]


def train_pool(config: Config, device: str = "cpu") -> dict[str, Any]:
    """Train what is missing of a configuration's networks; for its record: their training's key,
    how they do on the source's validation images, the seconds that training took, and the source
    files' sha256."""
    pool = Pool.of(config)
    headers = []
    accuracy = []
    for stream, numbers in needed(config):
        of_stream = [_header(path) for path in pool.ensure(stream, numbers, device)]
        accuracies = [a for header in of_stream for a in header["accuracy"]]
        accuracy += accuracies[: len(numbers)]
        headers += of_stream
    return {
        "training": pool.training.key,
        "networks": len(accuracy),
        "validation_accuracy": sum(accuracy) / len(accuracy),
        "lowest": min(accuracy),
        "seconds": round(sum(header["seconds"] for header in headers)),
        "sha256": headers[0]["sha256"],
    }


def untrained(config: Config) -> int:
    """How many of a configuration's networks are stored nowhere."""
    pool = Pool.of(config)
    paths = [path for request in needed(config) for path in pool.paths(*request).values()]
    return pool.together * sum(not path.is_file() for path in paths)


def committed(config: Config) -> int:
    """How many test networks are kept beside the records."""
    return min(config.nets, architecture(config.network).committed)


def keep_beside_records(config: Config, root: Path) -> None:
    """Copy the first test networks beside the records in `root`, so that these can be verified in
    a minute."""
    for path in Pool.of(config).ensure("test", range(committed(config))):
        copy = root / "networks" / path.parent.name / path.name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with whole(copy) as part:
                shutil.copyfile(path, part)


def _header(path: Path) -> dict[str, Any]:
    with _opened(path) as file:
        return json.loads(file.metadata()["ddcore"])


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise InputError(
            f"{path} is damaged ({error}); delete it and its networks are trained again"
        ) from error
