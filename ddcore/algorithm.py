"""Algorithm 1: learn distilled images and learning rates by gradient descent on what the trained
networks lose (eq. 3, 4, 8).

Each outer step draws J samples (theta_0_j, batch_j), each from a generator of its own derived from
(seed, outer step, j), averages their meta-gradients and takes one step of Adam on the images and
the raw learning rates (learning rate = softplus(raw)). How samples are stacked or shared among
processes therefore changes nothing but the order of a sum, and a run that was killed goes on from
its checkpoint as if nothing had happened.

`outer_step` is lines 3 to 9 of the paper; `distill` is the loop around it, with what a long run
needs: choices on the validation split, a way back from divergence, checkpoints, processes.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from ddcore.accuracy import evaluate
from ddcore.datasets import Dataset
from ddcore.distilled import DistilledData, Learned, class_major
from ddcore.networks import InitLaw, Network, as_init_law, as_network, generator
from ddcore.recipe import Recipe
from ddcore.support.checks import check_like, check_type
from ddcore.support.compiled import CapturedMetaGradient
from ddcore.support.doors import check_readable
from ddcore.support.progress import Checkpoint, Distillation, OuterState, Run
from ddcore.support.ranges import Seed, Small, check_value
from ddcore.support.runtime import in_rounds, process, value_of_first_process
from ddcore.unroll import (
    EAGER,
    Objective,
    StepFunctions,
    back_gradient,
    cross_entropy,
    train,
)

BETAS = (0.5, 0.999)  # of Adam, as in the paper's code


# One outer step


class Samples(NamedTuple):
    """theta_0 [J, P] of an outer step and the networks' real images and labels."""

    theta: Tensor
    batch: tuple[Tensor, Tensor]


def outer_step(
    state: OuterState,
    samples: Samples,
    gradient_of: Callable[..., tuple[Tensor, DistilledData]],
    recipe: Recipe,
    pace: float,
) -> tuple[OuterState, float]:
    """Lines 3 to 9 of Algorithm 1.

    Args:
        samples: J initial weights and their real images, drawn by `samples_of_steps`.
        gradient_of: (distilled, theta_0, batch) -> losses [J] and the gradient of their mean:
            `meta_gradient` of a network and an objective.
        pace: the factor on the step sizes.

    Returns:
        The state after this step, and the mean loss before it.
    """
    theta_0, batch = samples  # lines 3 and 4: J initial weights and their real images
    distilled = state.distilled()
    losses, gradients = gradient_of(distilled, theta_0, batch)  # lines 5 to 8: eq. 2, 3 and 8
    loss, gradient = mean_of_samples(losses, gradients, recipe.samples)  # eq. 4
    gradient = clipped(gradient, recipe.clip)
    d_softplus = torch.sigmoid(state.learned.lrs)  # learning rate = softplus(raw)
    raw_gradient = gradient._replace(lrs=gradient.lrs * d_softplus)
    return adam_step(state, raw_gradient, recipe, pace), loss.item()  # line 9


def mean_of_samples(
    losses: Tensor, gradients: DistilledData, samples: int
) -> tuple[Tensor, Learned]:
    """The mean loss and gradient of all samples, from the losses [n] of this process's and the
    gradient of their mean."""
    share = len(losses) / samples
    loss = losses.sum() / samples
    gradient = gradients.learned().map(lambda g: g * share)
    if dist.is_initialized():
        for t in (loss, *gradient.tensors().values()):
            dist.all_reduce(t)
    return loss, gradient


def no_gradient(
    distilled: DistilledData, theta: Tensor, batch: tuple[Tensor, Tensor]
) -> tuple[Tensor, DistilledData]:
    """Of a process that has none of the samples."""
    zeros = distilled.learned().map(torch.zeros_like)
    return zeros.images.new_zeros(0), distilled.with_learned(zeros)


def clipped(gradient: Learned, norm: float) -> Learned:
    """Images and learning rates scaled so that the images' norm is at most `norm` (0: any)."""
    if not norm:
        return gradient
    factor = (norm / gradient.images.norm()).clamp(max=1)
    return gradient._replace(images=gradient.images * factor, lrs=gradient.lrs * factor)


def adam_step(state: OuterState, gradient: Learned, recipe: Recipe, pace: float) -> OuterState:
    """One step of Adam (Kingma and Ba, 2015), as `torch.optim.Adam` takes it, on a state that
    stays as it is."""
    updates = state.updates + 1
    beta1, beta2 = BETAS
    first = state.first.map(lambda m, g: m.lerp(g, 1 - beta1), gradient)
    second = state.second.map(lambda v, g: (v * beta2).addcmul(g, g, value=1 - beta2), gradient)

    def moved(t: Tensor, m: Tensor, v: Tensor, step: float) -> Tensor:
        root = (v.sqrt() / (1 - beta2**updates) ** 0.5).add(1e-8)
        return t.addcdiv(m, root, value=-(step * pace) / (1 - beta1**updates))

    steps = {
        "images": recipe.image_rate,
        "lrs": recipe.raw_rate,
        "soft_labels": recipe.label_rate,
    }
    means = first.tensors()
    squares = second.tensors()
    tensors = state.learned.tensors()
    learned = Learned(**{n: moved(t, means[n], squares[n], steps[n]) for n, t in tensors.items()})
    mean = state.mean
    if mean is not None:
        mean = mean.map(lambda old, new: old.lerp(new, 1 - recipe.average), learned)
    return replace(state, learned=learned, first=first, second=second, updates=updates, mean=mean)


def samples_of_steps(
    init: InitLaw, data: Dataset, recipe: Recipe, seed: int, first: int, *, ahead: bool
) -> Generator[Samples]:
    """This process's samples of outer step `first` and of those after it.

    Sample j of step k has the generator (seed, k, j), which draws its weights and then its batch.
    ahead: threads draw the weights of the next step meanwhile.
    """
    rank, world = process()
    own = range(rank, recipe.samples, world)
    device = data.train[0].device

    def draw(k: int, j: int) -> tuple[Tensor, torch.Generator]:
        rng = generator(seed, k, j)
        return init(rng), rng

    steps = range(first, recipe.iterations)
    with closing(in_rounds(draw, ([(k, j) for j in own] for k in steps), ahead=ahead)) as rounds:
        for k, drawn in zip(steps, rounds, strict=True):
            yield _stacked(drawn, data, recipe, generator(seed, k, "batch"), device)


def _stacked(
    drawn: list[tuple[Tensor, torch.Generator]],
    data: Dataset,
    recipe: Recipe,
    common: torch.Generator,
    device: torch.device,
) -> Samples:
    """The weights with their real batches; one batch for all where the recipe says so."""
    if not drawn:
        return Samples(torch.zeros(0), (torch.zeros(0), torch.zeros(0)))
    theta = torch.stack([theta for theta, _ in drawn]).to(device)
    if recipe.common_batch:
        return Samples(theta, data.batch(recipe.batch, common))
    batches = [data.batch(recipe.batch, rng) for _, rng in drawn]
    if len(batches) == 1:
        return Samples(theta, batches[0])
    images, labels = zip(*batches, strict=True)
    return Samples(theta, (torch.stack(images), torch.stack(labels)))


# The loop


@torch.no_grad()
def distill(
    network: Network | nn.Module | str,
    data: Dataset,
    init: str | InitLaw,
    *,
    steps: int = 1,
    epochs: int = 3,
    per_class: int = 1,
    soft_labels: bool = False,
    recipe: Recipe = Recipe(),
    objective: Objective = cross_entropy,
    first_images: Tensor | None = None,
    validation_weights: Tensor | None = None,
    seed: int = 0,
    step_functions: StepFunctions = EAGER,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
) -> Distillation:
    """Distil a dataset (Algorithm 1): `steps` batches of `per_class` images per class, passed
    through `epochs` times.

    Args:
        network: a name, a `Network` or any suitable `nn.Module`.
        data: the real images; its validation split is what choices are made on.
        init: the name of a law of initial weights, or a function that draws theta_0 [P] of one
            network (beside a GPU, in a thread); a fixed init ignores its generator.
        soft_labels: learn the labels too.
        objective: what the trained networks are asked for on real data.
        first_images: [S, n, C, H, W], class-major, where the images start; by default noise.
        validation_weights: [V, P], the networks that images are chosen on; by default 10 draws of
            init. They are never tested on.
        seed: of the noise, the samples and the batches.

    Returns:
        The distilled data, without an `init`, and how the run went.

    Raises:
        InputError: for a number outside its range, for a network that does not read the dataset's
            images or cannot be differentiated twice, and for images or weights of other shapes.
        MachineError: where the loss diverges however small the step and there are no good images
            to return by then (without looks at the validation split: at once).
    """
    check_type("data", data, Dataset)
    check_type("recipe", recipe, Recipe)
    for name, number in {"steps": steps, "epochs": epochs, "per_class": per_class}.items():
        check_value(name, number, Small)
    check_value("seed", seed, Seed)
    network = as_network(network, *data.shape, len(data.classes))
    init = as_init_law(network, init)
    device = data.train[0].device
    if validation_weights is None:
        draws = [init(generator(seed, "validation", j)) for j in range(10)]
        validation_weights = torch.stack(draws)
    validation_weights = network.flatten(validation_weights).to(device)
    check_readable(network, validation_weights, data.train[0], len(data.classes))
    arguments = (steps, epochs, per_class, soft_labels, recipe, seed)
    start = initial_noise(data, *arguments)
    if first_images is not None:
        check_like("first_images", first_images, start.images)
        start = replace(start, images=first_images.to(device))
    start.meta.update(
        architecture=network.name, objective=getattr(objective, "__name__", "objective")
    )
    identity = f"{data.sha256} {network.name} {network.shapes} {arguments}"
    run = Run(OuterState.start(start, recipe), recipe, checkpoint, identity)
    run.resume()
    every = max(1, recipe.iterations // recipe.checks) if recipe.checks else 0
    gradient_of = partial(
        back_gradient, network, objective=objective, step_functions=step_functions
    )
    on_gpu = device.type == "cuda"
    if on_gpu:
        gradient_of = CapturedMetaGradient(network, objective, step_functions)
    if process().rank >= recipe.samples:
        gradient_of = no_gradient
    samples = samples_of_steps(init, data, recipe, seed, run.step, ahead=on_gpu)
    quiet = not progress or process().rank > 0
    bar = tqdm(
        total=recipe.iterations,
        initial=run.step,
        desc="outer steps",
        disable=quiet,
        file=sys.stderr,
    )
    with closing(samples), bar:
        while run.step < recipe.iterations:
            run.state, loss = outer_step(run.state, next(samples), gradient_of, recipe, run.pace)
            run.step += 1
            last = run.step == recipe.iterations
            if run.diverged(loss):
                if not every or not run.roll_back() or last:
                    run.give_up(bool(every))
                    break
            elif every and (run.step % every == 0 or last):
                look: dict[str, Any] = {"step": run.step, "loss": loss}
                for name, learned in run.state.candidates().items():
                    distilled = run.state.distilled(learned)
                    look[name] = validation_accuracy(network, distilled, validation_weights, data)
                    run.compare(look[name], learned)
                run.history.append({**look, "seconds": run.seconds})
                bar.set_postfix(loss=f"{loss:.3f}", validation=f"{100 * look['accuracy']:.2f}%")
            bar.update()
            run.save()
    return run.result()


def initial_noise(
    data: Dataset,
    steps: int,
    epochs: int,
    per_class: int,
    soft_labels: bool,
    recipe: Recipe,
    seed: int,
) -> DistilledData:
    """Noise images, class-major labels, equal learning rates (line 1 of Algorithm 1)."""
    channels, side = data.shape
    n = len(data.classes) * per_class
    rng = generator(seed, "images")
    images = recipe.noise * torch.randn(steps, n, channels, side, side, generator=rng)
    start = class_major(data, images, torch.full((epochs, steps), recipe.first_lr))
    if soft_labels:
        start = replace(start, soft_labels=start.targets())
    return start.to(data.train[0].device)


def validation_accuracy(
    network: Network, distilled: DistilledData, weights: Tensor, data: Dataset
) -> float:
    """Mean accuracy on the validation split of networks [V, P] trained on distilled data, ten at a
    time; 0 for one that diverged. The first process's, so that all choose alike."""
    accuracies = []
    for theta_0 in weights.split(10):
        theta = train(network, distilled, theta_0)
        correct = evaluate(network, theta, *data.validation)
        accuracies.append(torch.where(theta.isfinite().all(1), correct, 0.0))
    return value_of_first_process(torch.cat(accuracies).mean())
