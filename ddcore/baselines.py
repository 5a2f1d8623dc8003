"""What distilled images are held against (section 4.2, and more of ours): as many real images, averages or centres of
real images, trained on in the same steps, and a nearest-neighbour classifier on them.

Every source gives S batches of n images, class-major as in distilled data: images [S, K*per_class, C, H, W].
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ddcore.datasets import Dataset
from ddcore.distilled import class_major
from ddcore.errors import InputError
from ddcore.networks import as_network, generator
from ddcore.unroll import EAGER, Steps, meta_gradient

PAPERS_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # section 4.2: the fixed rates that the paper tries

Source = Callable[[torch.Generator], Tensor]  # draws images [S, K*per_class, C, H, W]


def random_real(data: Dataset, steps: int, per_class: int) -> Source:
    """Training images drawn without replacement, fresh ones at each call; InputError where a class has too few."""
    members = members_of(data, steps * per_class)

    def draw(rng: torch.Generator) -> Tensor:
        picked = [m[torch.randperm(len(m), generator=rng)[: steps * per_class].to(m.device)] for m in members]
        return _class_major([data.train[0][p] for p in picked], steps)

    return draw


def averages(data: Dataset, steps: int, per_class: int) -> Source:
    """The average training image of each class, the same in all steps and for all images of a class."""
    means = [data.train[0][found].mean(0) for found in members_of(data, 1)]
    images = _class_major([m.expand(steps * per_class, *m.shape) for m in means], steps)
    return lambda rng: images


def centres(data: Dataset, steps: int, per_class: int, seed: int = 0) -> Source:
    """k-means centres of the training images of each class, as many as there are distilled images of it; InputError
    where a class has too few."""
    from sklearn.cluster import KMeans  # here, as importing it takes as long as PyTorch

    found = []
    for members in members_of(data, steps * per_class):
        x = data.train[0][members]
        means = KMeans(steps * per_class, n_init=1, random_state=seed).fit(x.flatten(1).cpu().numpy()).cluster_centers_
        found.append(torch.tensor(means, dtype=x.dtype, device=x.device).view(-1, *x.shape[1:]))
    images = _class_major(found, steps)
    return lambda rng: images


def members_of(data: Dataset, needed: int) -> list[Tensor]:
    """The training images of each class, by number; InputError where a class has fewer than `needed`."""
    members = [(data.train[1] == k).nonzero()[:, 0] for k in range(len(data.classes))]
    if (fewest := min(map(len, members))) < needed:
        raise InputError(f"{data.name} has a class of {fewest} training images; {needed} are asked for")
    return members


def _class_major(by_class: list[Tensor], steps: int) -> Tensor:
    """K tensors [S*m, C, H, W] -> [S, K*m, C, H, W]."""
    per_step = torch.stack(by_class, 1).unflatten(0, (steps, -1))  # [S, m, K, C, H, W]
    return per_step.transpose(1, 2).flatten(1, 2).contiguous()


def learned_rates(
    network, data: Dataset, p: Callable[[torch.Generator], Tensor], source: Source, epochs: int, *,
    iterations: int = 200, samples: int = 4, batch: int = 256, seed: int = 0, step_functions: Steps = EAGER,
    labelled: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Rates [E, S] learned for images that are not: eq. (4) over the raw rates alone (rate = softplus(raw)), with fresh
    images of the source, networks of p and real batches at each outer step. Adam at 0.05, falling to zero; gradients
    are clipped to a norm of 0.1. labelled: as in `class_major`."""
    network = as_network(network, *data.shape, len(data.classes))
    raw = torch.full((epochs, len(source(generator(seed)))), 0.02, device=data.train[0].device).expm1().log()
    adam = torch.optim.Adam([raw], lr=0.05, betas=(0.5, 0.999))
    for k in range(iterations):
        rng = generator(seed, "rates", k)
        theta = torch.stack([p(rng) for _ in range(samples)]).to(raw.device)
        tried = class_major(data, source(rng), F.softplus(raw), labelled)
        gradient = meta_gradient(network, tried, theta, data.batch(batch, rng), step_functions=step_functions)[1].lrs
        raw.grad = gradient * (0.1 / gradient.norm()).clamp(max=1) * torch.sigmoid(raw)
        adam.param_groups[0]["lr"] = 0.05 * (1 - k / iterations)
        adam.step()
    return F.softplus(raw)


def nearest_neighbour(images: Tensor, labels: Tensor, of: Tensor) -> Tensor:
    """The label of the nearest of `images` [n, C, H, W] for each of `of` [B, C, H, W] (Euclidean distance)."""
    from sklearn.neighbors import KNeighborsClassifier

    fitted = KNeighborsClassifier(1).fit(images.flatten(1).cpu().numpy(), labels.cpu().numpy())
    return torch.tensor(fitted.predict(of.flatten(1).cpu().numpy()), device=labels.device)
