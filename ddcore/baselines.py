"""What distilled images are held against (section 4.2, and more of ours): as many real images,
averages or centres of real images, trained on in the same steps, and a nearest-neighbour classifier
on them.

Every source gives S batches of n images, class-major as in distilled data: images [S, K*per_class,
C, H, W].
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ddcore.datasets import Dataset
from ddcore.distilled import class_major
from ddcore.networks import InitLaw, Network, as_network, generator
from ddcore.support.errors import InputError
from ddcore.unroll import EAGER, StepFunctions, back_gradient

PAPERS_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # section 4.2: the fixed learning rates

ImageSource = Callable[[torch.Generator], Tensor]  # draws images [S, K*per_class, C, H, W]


def random_real(data: Dataset, steps: int, per_class: int) -> ImageSource:
    """Training images drawn without replacement, fresh ones at each call; InputError where a class
    has too few."""
    members = members_of(data, steps * per_class)

    def draw(rng: torch.Generator) -> Tensor:
        by_class = []
        for images in members:
            order = torch.randperm(len(images), generator=rng)[: steps * per_class]
            by_class.append(data.train[0][images[order.to(images.device)]])
        return _class_major(by_class, steps)

    return draw


def averages(data: Dataset, steps: int, per_class: int) -> ImageSource:
    """The average training image of each class, the same in all steps and for all images of a
    class."""
    means = [data.train[0][members].mean(0) for members in members_of(data, 1)]
    images = _class_major([mean.expand(steps * per_class, *mean.shape) for mean in means], steps)
    return lambda rng: images


def centres(data: Dataset, steps: int, per_class: int, seed: int = 0) -> ImageSource:
    """k-means centres of the training images of each class, as many as there are distilled images
    of it; InputError where a class has too few."""
    from sklearn.cluster import KMeans  # here, as importing it takes as long as PyTorch

    by_class = []
    for members in members_of(data, steps * per_class):
        x = data.train[0][members]
        k_means = KMeans(
            steps * per_class,
            n_init=1,  # pyright: ignore[reportArgumentType]
            random_state=seed,
        )
        means = k_means.fit(x.flatten(1).cpu().numpy()).cluster_centers_
        by_class.append(torch.tensor(means, dtype=x.dtype, device=x.device).view(-1, *x.shape[1:]))
    images = _class_major(by_class, steps)
    return lambda rng: images


def members_of(data: Dataset, needed: int) -> list[Tensor]:
    """The training images of each class, by number; InputError where a class has fewer than
    `needed`."""
    members = [(data.train[1] == k).nonzero()[:, 0] for k in range(len(data.classes))]
    fewest = min(map(len, members))
    if fewest < needed:
        raise InputError(
            f"{data.name} has a class of {fewest} training images; {needed} are asked for"
        )
    return members


def _class_major(by_class: list[Tensor], steps: int) -> Tensor:
    """K tensors [S*m, C, H, W] -> [S, K*m, C, H, W]."""
    per_step = torch.stack(by_class, 1).unflatten(0, (steps, -1))  # [S, m, K, C, H, W]
    return per_step.transpose(1, 2).flatten(1, 2).contiguous()


def learned_rates(
    network: Network | str,
    data: Dataset,
    init: InitLaw,
    source: ImageSource,
    epochs: int,
    *,
    iterations: int = 200,
    samples: int = 4,
    batch: int = 256,
    seed: int = 0,
    step_functions: StepFunctions = EAGER,
    labelled: Tensor | None = None,
) -> Tensor:
    """Learning rates [E, S], learned for images that are not.

    Eq. (4) over the raw learning rates alone (learning rate = softplus(raw)), with fresh images of
    the source, networks of init and real batches at each outer step. Adam at 0.05, falling to zero;
    gradients are clipped to a norm of 0.1. labelled: as in `class_major`.
    """
    network = as_network(network, *data.shape, len(data.classes))
    steps = len(source(generator(seed)))
    start = torch.full((epochs, steps), 0.02, device=data.train[0].device)
    raw = start.expm1().log()
    adam = torch.optim.Adam([raw], lr=0.05, betas=(0.5, 0.999))
    for k in range(iterations):
        rng = generator(seed, "rates", k)
        theta = torch.stack([init(rng) for _ in range(samples)]).to(raw.device)
        images = class_major(data, source(rng), F.softplus(raw), labelled)
        real = data.batch(batch, rng)
        _, derivatives = back_gradient(network, images, theta, real, step_functions=step_functions)
        gradient = derivatives.lrs
        raw.grad = gradient * (0.1 / gradient.norm()).clamp(max=1) * torch.sigmoid(raw)
        adam.param_groups[0]["lr"] = 0.05 * (1 - k / iterations)
        adam.step()
    return F.softplus(raw)


def nearest_neighbour(images: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """The label of the nearest of `images` [n, C, H, W] for each of `queries` [B, C, H, W]
    (Euclidean distance)."""
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(1)
    classifier.fit(images.flatten(1).cpu().numpy(), labels.cpu().numpy())
    nearest = classifier.predict(queries.flatten(1).cpu().numpy())
    return torch.tensor(nearest, device=labels.device)
