"""Use distilled data: find it by name, and train networks on it."""

from pathlib import Path

import torch
from torch import nn

from ddcore.distilled import DistilledData
from ddcore.networks import Network, Weights, as_network
from ddcore.support.doors import check_distilled, check_readable
from ddcore.support.errors import InputError
from ddcore.support.ranges import Small, check_value
from ddcore.support.registry import ARCHITECTURES, INIT_LAWS
from ddcore.unroll import train_in_float64

SHIPPED = Path(__file__).parent / "data"  # the sets that come with the package


def load_distilled(path_or_name: str | Path) -> DistilledData:
    """Read distilled data from a file, from a record's folder, or by the name of an experiment.

    By name: of the experiment's record, where there is one here; else one of the sets that come
    with the package (fig2a, fig3a, fig3b, soft-mnist-10).

    Raises:
        InputError: for a name that is none, for an experiment without a record, for a folder
            without images, and for a file of another kind.
    """
    if not isinstance(path_or_name, str | Path):
        raise InputError(f"{path_or_name!r}: a path or the name of an experiment is allowed")
    path = Path(path_or_name)
    name = str(path_or_name)
    if (path / "distilled.safetensors").is_file():
        return DistilledData.load(path / "distilled.safetensors")
    if path.is_file() or path.suffix and not path.is_dir():
        return DistilledData.load(path)
    from ddcore.experiments import catalogue, records  # not before a record is asked for

    if path.is_dir() and name not in {*catalogue.EXPERIMENTS, *catalogue.ALIASES}:
        found = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
        raise InputError(f"{path} is a folder without distilled.safetensors; it holds {found}")
    record = records.find(name)
    if record is not None and record.has_images:
        return record.distilled
    if record is not None:
        raise InputError(
            f"{name} has no images of its own: its networks were trained on "
            f"{'all' if record.config.get('images') == 'all' else 'drawn'} training images"
        )
    shipped = SHIPPED / f"{name}.safetensors"
    if not shipped.is_file():
        raise InputError(f"{name} has no record here; `ddcore run {name}` makes one")
    return DistilledData.load(shipped)


def network_of(distilled: DistilledData) -> Network:
    """The architecture that the data was distilled for.

    Raises:
        InputError: where the data does not name one, or names one that is not the package's.
    """
    meta = check_distilled(distilled).meta
    if "architecture" not in meta:
        raise InputError("the distilled data does not say which architecture it was distilled for")
    if meta["architecture"] not in ARCHITECTURES:
        raise InputError(
            f"the distilled data is for a network of your own, {meta['architecture']}: give it as "
            "network"
        )
    channels, side = distilled.images.shape[2:4]
    return as_network(meta["architecture"], channels, side, distilled.targets().shape[-1])


@torch.no_grad()
def train_on(
    distilled: DistilledData,
    weights: Weights | None = None,
    *,
    nets: int = 1,
    generator: torch.Generator | None = None,
    network: Network | nn.Module | None = None,
) -> Weights:
    """Train networks on distilled data, in its order and with its learning rates (eq. 8), in
    float64 as for the records.

    Args:
        weights: where to start, {name: [N, *shape]}, the format of
            `torch.func.stack_module_state`. Without them: the stored initial weights of a fixed
            init (one network, whatever `nets` is), else `nets` networks drawn by `generator`
            (PyTorch's own without one) from the law that the data was distilled for.
        network: the `nn.Module` that it was distilled for, where that is one of your own.

    Returns:
        The trained weights, {name: [N, *shape]}.

    Raises:
        InputError: where the weights are another network's, or none are known to start from, and
            for data or a module that no network can be trained on.
    """
    classes = check_distilled(distilled).targets().shape[-1]
    channels, side = distilled.images.shape[2:4]
    check_value("nets", nets, Small)
    if network is None:
        network = network_of(distilled)
    else:
        network = as_network(network, channels, side, classes)
    law = distilled.meta.get("init_law", "no law named")
    if weights is not None:
        theta = network.flatten(weights)
    elif distilled.init is not None:
        theta = network.flatten(distilled.init)
    elif law in INIT_LAWS:
        theta = torch.stack([network.init(law, generator) for _ in range(nets)])
    else:
        raise InputError(
            f"the distilled data is for networks of no known init law ({law}); give weights to "
            "start from"
        )
    theta = theta.to(distilled.images.device)
    check_readable(network, theta.double(), distilled.images.double(), classes)
    trained = train_in_float64(network, distilled, theta)
    return network.unflatten(trained)
