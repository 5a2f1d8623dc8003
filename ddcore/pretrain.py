"""Networks trained on the whole training set, several at once: what "fully trained" means in
section 4, and the weights that sections 3.5 and 4.2 start from."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ddcore.datasets import Dataset
from ddcore.networks import InitLaw, Network, as_init_law, as_network, generator
from ddcore.support.registry import ARCHITECTURES, Architecture
from ddcore.unroll import cross_entropy, real_gradient


def pretrain(
    network: Network | nn.Module | str,
    data: Dataset,
    init: str | InitLaw,
    numbers: range,
    *,
    epochs: int = 3,
    batch: int = 256,
    seed: int = 0,
    stream: str = "pool",
) -> Tensor:
    """Train networks on the whole training set, with Adam.

    Network j has its own start, its own order of the images and its own augmentation, all drawn
    from (seed, stream, j), so it does not depend on which others it is trained beside. Adam's
    learning rate rises along a line for the first tenth of the run and then falls to zero along
    another.

    Args:
        init: the name of a law of initial weights, or a function that draws theta_0 [P].
        numbers: of the networks in the stream.

    Returns:
        Weights [N, P].
    """
    network = as_network(network, *data.shape, len(data.classes))
    init = as_init_law(network, init)
    batch = min(batch, len(data.train[1]))
    rngs = [generator(seed, stream, j) for j in numbers]
    theta = torch.stack([init(rng) for rng in rngs]).to(data.train[0].device)
    adam = torch.optim.Adam([theta])
    peak = ARCHITECTURES.get(network.name, Architecture("")).adam_peak
    streams = [_batches(data, epochs, batch, rng) for rng in rngs]
    total = epochs * (len(data.train[1]) // batch)
    for k in range(total):
        batches = zip(*map(next, streams), strict=True)
        images, labels = (torch.stack(part) for part in batches)
        gradient, _ = real_gradient(network, theta, images, labels, cross_entropy)
        theta.grad = gradient * len(numbers)  # the gradient of each network's own loss
        pace = min((k + 1) / (0.1 * total), (total - k) / (0.9 * total))
        adam.param_groups[0]["lr"] = peak * pace
        adam.step()
    return theta


def _batches(
    data: Dataset, epochs: int, batch: int, rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches, the images in a new order in each epoch; a smaller last one is dropped."""
    images, labels = data.train
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=rng).to(labels.device)
        for picked in order[: len(order) // batch * batch].split(batch):
            yield data.augment(images[picked], rng), labels[picked]
