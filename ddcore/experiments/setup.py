"""A configuration made concrete: its dataset, its network, and where initial weights come from.

Initial weights follow a law (section 4.1), or come from a pool of pretrained networks (section
4.2). They are numbered in streams: what images are distilled with, "validation", which choices are
made on, and "test", which nothing but the test sees (a pretrained fixed init is the first of it).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddcore.datasets import Dataset, load
from ddcore.experiments import methods
from ddcore.experiments.config import Config
from ddcore.experiments.pretrained import Pool
from ddcore.networks import InitLaw, Network, as_network, generator
from ddcore.objectives import matched, poisoned, relabelled
from ddcore.support.doors import check_readable
from ddcore.support.imported import is_own, source_sha256, told


@dataclass(frozen=True)
class Setup:
    """A configuration with its dataset, as its networks can read it, and its architecture.

    network_sha256: of the source of a network of a reader's own, else "".
    """

    config: Config
    data: Dataset
    network: Network
    device: str = "cpu"
    network_sha256: str = ""

    @property
    def outer_data(self) -> Dataset:
        """What the outer loss is computed on: the dataset, or of an attack the one with the
        attacked class relabelled."""
        return outer_data(self.config, self.data)

    @property
    def labelled(self) -> Tensor | None:
        """The labels [K] that real images of each class carry, where an attack gives those of one
        class another's."""
        config = self.config
        if config.attacked is None or config.target is None:
            return None
        classes = torch.arange(len(self.data.classes))
        return relabelled(classes, config.attacked, config.target)

    @property
    def header(self) -> dict[str, Any]:
        """What a file of distilled data says of its images, beside their number and rates."""
        config = self.config
        objective = "cross_entropy"
        if config.attacked is not None and config.target is not None:
            classes = self.data.classes
            objective = f"{classes[config.attacked]} taken for {classes[config.target]}"
        trained = f"trained on {config.pretrained_on}"
        return {
            "dataset": self.data.name,
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "classes": list(self.data.classes),
            "architecture": config.network,
            "objective": objective,
            "init_law": trained if config.pretrained_on else config.init,
            "fixed_init": config.fixed,
        }

    def init_law(self) -> InitLaw:
        return init_law(self.config, self.network)

    def weights(self, n: int, stream: str = "test", first: int = 0) -> Tensor:
        """Networks `first` .. `first + n - 1` of a stream, [n, P], on the device."""
        weights = initial_weights(self.config, self.network, n, stream, first)
        return weights.to(self.device)


def prepare(config: Config, device: str = "cpu", download: bool = True) -> Setup:
    """InputError where the dataset, the network and the experiment do not match, where a class to
    be attacked is not there, or for what is wrong with a network of a reader's own."""
    data = load(config.dataset, download=download)
    if config.source:
        classes, channels = Pool.of(config).reads(download)
        data = matched(data, config.source, classes, channels)
    outer_data(config, data)  # raises where there is no such class
    methods.get(config.images).check(config, data)
    data = data.to(device)
    network = as_network(config.network, *data.shape, len(data.classes))
    if is_own(config.network):
        with told(f"network {config.network}: its forward pass"):
            theta = network.init(config.init, generator("forward pass"))[None].to(device)
            check_readable(network, theta, data.train[0], len(data.classes))
    return Setup(config, data, network, device, source_sha256(config.network))


def outer_data(config: Config, data: Dataset) -> Dataset:
    if config.attacked is None or config.target is None:
        return data
    return poisoned(data, config.attacked, config.target)


def init_law(config: Config, network: Network) -> InitLaw:
    """p(theta_0). A fixed init ignores its generator; a pool is drawn from with replacement."""
    if config.fixed:
        theta = initial_weights(config, network, 1)[0]
        return lambda rng: theta
    if config.pretrained_on:
        pool = Pool.of(config).weights("pool", range(config.pool))
        return lambda rng: pool[torch.randint(len(pool), (), generator=rng)]
    return lambda rng: network.init(config.init, rng)


def initial_weights(
    config: Config, network: Network, n: int, stream: str = "test", first: int = 0
) -> Tensor:
    """Networks `first` .. `first + n - 1` of "validation" or "test", [n, P]; of a fixed init the
    one there is."""
    numbers = range(first, first + n)
    if config.pretrained_on:
        pool = Pool.of(config)
        if config.fixed:
            return pool.weights("test", range(1))
        if stream == "validation":  # those after the ones that images are distilled with
            after = config.pool + first
            return pool.weights("pool", range(after, after + n))
        return pool.weights(stream, numbers)
    if config.fixed:
        return network.init(config.init, generator(config.seed, "init"))[None]
    rngs = [generator(config.seed, stream, j) for j in numbers]
    return torch.stack([network.init(config.init, rng) for rng in rngs])
