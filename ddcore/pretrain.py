"""Networks trained on the whole training set, several at once: what "fully trained" means in section 4, and the
weights that sections 3.5 and 4.2 start from."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddcore.datasets import Dataset
from ddcore.networks import as_network, generator
from ddcore.unroll import cross_entropy, real_gradient

PEAK = {"lenet": 4e-3, "alexcifarnet": 1e-3}  # the highest rate of Adam


def pretrain(
    network, data: Dataset, p: Callable[[torch.Generator], Tensor], which: range, *,
    epochs: int = 3, batch: int = 256, seed: int = 0, stream: str = "pool",
) -> Tensor:  # fmt: skip
    """Train the networks numbered `which` of a stream: weights [N, P].

    Network j has its own start, its own order of the images and its own augmentation, all drawn from (seed, stream, j),
    so it does not depend on which others it is trained beside. Adam with a rate that rises along a line for the first
    tenth of the run and then falls to zero along another.
    """
    network = as_network(network, *data.shape, len(data.classes))
    batch = min(batch, len(data.train[1]))
    device, per_epoch = data.train[0].device, len(data.train[1]) // batch
    draws = [generator(seed, stream, j) for j in which]
    theta = torch.stack([p(rng) for rng in draws]).to(device)
    adam, peak = torch.optim.Adam([theta]), PEAK.get(network.name, 1e-3)
    batches = [_batches(data, epochs, batch, rng) for rng in draws]
    for k in range(total := epochs * per_epoch):
        images, labels = (torch.stack(part) for part in zip(*map(next, batches), strict=True))
        gradient, _ = real_gradient(network, theta, images, labels, cross_entropy)
        theta.grad = gradient * len(which)  # the gradient of each network's own loss
        adam.param_groups[0]["lr"] = peak * min((k + 1) / (0.1 * total), (total - k) / (0.9 * total))
        adam.step()
    return theta


def _batches(data: Dataset, epochs: int, batch: int, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = data.train
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=rng).to(labels.device)
        for picked in order[: len(order) // batch * batch].split(batch):
            yield data.augment(images[picked], rng), labels[picked]
