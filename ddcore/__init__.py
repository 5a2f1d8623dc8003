"""Dataset Distillation (Wang, Zhu, Torralba, Efros), the paper you can run.

>>> import ddcore
>>> distilled = ddcore.load_distilled("fig2a")  # ten images of digits, with their three rates
>>> weights = ddcore.train_on(distilled)  # the network that they belong to, trained on them
"""

from pathlib import Path

import torch

from ddcore.distill import Recipe, distill
from ddcore.distilled import DistilledData
from ddcore.errors import InputError, MachineError
from ddcore.evaluate import evaluate
from ddcore.networks import INIT_LAWS, NETWORKS, AlexCifarNet, LeNet, Network, Weights, as_network, generator
from ddcore.unroll import cross_entropy, forward_step, meta_gradient, train_in_float64

__all__ = [
    "AlexCifarNet", "DistilledData", "InputError", "LeNet", "MachineError", "Network", "Recipe", "as_network",
    "cross_entropy", "distill", "evaluate", "forward_step", "generator", "load_distilled", "meta_gradient",
    "network_of", "train_on",
]  # fmt: skip


def load_distilled(path_or_name: str | Path) -> DistilledData:
    """Read distilled data from a file, from a record's folder, or by the name of an experiment with a record.

    InputError for a name that is none, for an experiment without a record and for a file of another kind.
    """
    path = Path(path_or_name)
    if (path / "distilled.safetensors").is_file():
        return DistilledData.load(path / "distilled.safetensors")
    if path.is_file() or path.suffix:
        return DistilledData.load(path)
    from ddcore.companion.records import find  # only here does the package look up its own records

    record = find(str(path_or_name))
    if record is None:
        raise InputError(f"{path_or_name} has no record here; `ddcore run {path_or_name}` makes one")
    if record.config.get("images") == "all":
        raise InputError(f"{path_or_name} has no images of its own: its networks were trained on the whole dataset")
    return record.distilled


def network_of(distilled: DistilledData) -> Network:
    """The architecture that the data was distilled for; InputError where it is not one of the package's."""
    images, meta = distilled.images, distilled.meta
    if "architecture" not in meta:
        raise InputError("the distilled data does not say which architecture it was distilled for")
    if meta["architecture"] not in NETWORKS:
        raise InputError(f"the distilled data is for a network of your own, {meta['architecture']}: give it as network")
    return as_network(meta["architecture"], images.shape[2], images.shape[3], len(meta["classes"]))


def train_on(
    distilled: DistilledData, weights: Weights | None = None, *, nets: int = 1,
    generator: torch.Generator | None = None, network=None,
) -> Weights:  # fmt: skip
    """Train networks on distilled data, in its order and with its rates (eq. 8): {name: [N, *shape]}. In float64, as
    for the records.

    weights: where to start, {name: [N, *shape]}. Without them: the stored initial weights of a fixed init (one network,
    whatever `nets` is), else `nets` networks drawn by `generator` (PyTorch's own without one) from the init law that
    the data was distilled for. network: the `nn.Module` that it was distilled for, where that is one of your own.
    """
    network = network_of(distilled) if network is None else as_network(network)
    if weights is not None:
        theta = network.flatten(weights)
    elif distilled.init is not None:
        theta = network.flatten(distilled.init)
    elif (law := distilled.meta.get("init_law", "no law named")) in INIT_LAWS:
        theta = torch.stack([network.init(law, generator) for _ in range(nets)])
    else:
        raise InputError(f"the distilled data is for networks of no known init law ({law}); give weights to start from")
    return network.unflatten(train_in_float64(network, distilled, theta.to(distilled.images.device)))
