"""Algorithm 1: learn distilled images and rates by gradient descent on what the trained networks lose (eq. 3, 4, 8).

Each outer step draws J samples (theta_0_j, batch_j), each from a generator of its own derived from (seed, outer step,
j), averages their meta-gradients and takes one step of Adam on the images and the raw rates (rate = softplus(raw)).
How samples are stacked or shared among processes therefore changes nothing but the order of a sum, and a run that was
killed goes on from its checkpoint as if nothing had happened.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from ddcore.datasets import Dataset
from ddcore.distilled import DistilledData, class_major
from ddcore.errors import MachineError, whole
from ddcore.evaluate import evaluate
from ddcore.networks import Network, as_network, generator
from ddcore.unroll import EAGER, CapturedMetaGradient, Objective, Steps, cross_entropy, meta_gradient, train

InitLaw = Callable[[torch.Generator], Tensor]  # draws theta_0 [P] of one network: p(theta_0)

CHECKPOINT_SECONDS = 10.0
LEARNED = ("images", "raw", "soft_labels")
EXPLODED = 1e4  # a loss so many times the one at the last comparison, or not finite, has diverged
RETURNS = 5  # how often that is answered by going back to the best images with half the step size


@dataclass(frozen=True)
class Recipe:
    """How the outer loop runs. The defaults differ from the settings of the paper's code, `Recipe.faithful()`, in this:

    - images start as normal noise of standard deviation `noise` instead of 1;
    - every network has a real batch of its own, of `batch` images drawn independently, instead of one common batch of
      1,024 images;
    - the mean meta-gradient is clipped so that its image part has a norm of `clip` at most (the rates by the same
      factor, soft labels not at all);
    - Adam's steps are `image_rate`, `raw_rate` and `label_rate` instead of 0.01 for all; they fall to zero along a
      line, with 20 outer steps of warm-up, instead of being halved every tenth of the run;
    - the images that were best on the validation split are returned, instead of the last ones (with `average`, a
      running mean of images and rates is compared too); a loss that explodes or is not finite is answered by going
      back to them with half the step size;
    - several networks per outer step for random inits, and far fewer outer steps (the paper: about 23,600 on MNIST).

    In both, batches are drawn with replacement (the paper's code goes through shuffled epochs) and 5,000 training
    images (of a small set a tenth) are held out for validation.
    """

    iterations: int = 500  # outer steps
    samples: int = 4  # J, networks per outer step
    batch: int = 256  # real images per network
    image_rate: float = 0.03  # Adam's step size, per pixel in normalised space
    raw_rate: float = 0.01  # Adam's step size of the raw rates
    label_rate: float = 0.03  # Adam's step size of soft labels
    first_lr: float = 0.02  # where every rate starts
    noise: float = 0.2
    clip: float = 0.1  # 0: never
    checks: int = 25  # comparisons on the validation split; 0: none, the last images are taken
    average: float = 0.0  # weight of the past in the running mean, 0.98: some 50 outer steps; 0: none is kept
    common_batch: bool = False
    halving: bool = False

    @staticmethod
    def faithful(iterations: int = 23_600, first_lr: float = 0.02) -> "Recipe":
        """The settings of the paper's code (first_lr: 0.001 on CIFAR-10)."""
        return Recipe(
            iterations, samples=1, batch=1024, image_rate=0.01, raw_rate=0.01, label_rate=0.01, first_lr=first_lr,
            noise=1.0, clip=0.0, checks=0, common_batch=True, halving=True,
        )  # fmt: skip

    def schedule(self, k: int) -> float:
        """The factor on Adam's step sizes at outer step k (from 0)."""
        if self.halving:
            return 0.5 ** (10 * k // self.iterations)
        return min(1.0, (k + 1) / 20) * (1 - k / self.iterations)


def distill(
    network, data: Dataset, p: InitLaw, *,
    steps: int = 1, epochs: int = 3, per_class: int = 1, soft_labels: bool = False,
    recipe: Recipe = Recipe(), objective: Objective = cross_entropy, held_out: Tensor | None = None, seed: int = 0,
    step_functions: Steps = EAGER, checkpoint: Path | None = None, identity: str = "", device_name: str = "",
    progress: bool = True,
) -> tuple[DistilledData, dict]:  # fmt: skip
    """Distil `data` into `steps` batches of `per_class` images per class, passed through `epochs` times.

    p draws theta_0 of one network (beside a GPU, in a thread); a fixed init is a p that ignores its generator.
    held_out: the networks [V, P] on which images are compared (by default 10 draws of p; for a fixed init one is
    enough). objective: what the trained networks are asked for on real data. checkpoint: a file that is written every
    10 s and read when it is there and belongs to the same arguments; identity says what these do not: p and the
    objective. device_name: of what computes, which the checkpoint keeps.

    Returns the distilled data (its `init` and the name of p are the caller's to add) and how it went: "best_step", the
    outer step of the images; "ended", the last one; "returns", how often it went back; "history" [{step, loss,
    accuracy, seconds}]; "before", the seconds spent before this process resumed; "devices", the names of those that
    computed. A loss that diverges however small the step ends the run early; MachineError where there are no
    good images to return by then (without checks: at once).
    """
    network = as_network(network, *data.shape, len(data.classes))
    device, (rank, _) = data.train[0].device, process()
    if held_out is None:
        held_out = torch.stack([p(generator(seed, "validation", j)) for j in range(10)]).to(device)
    checkpoint = checkpoint and Path(checkpoint)
    asked = (steps, epochs, per_class, soft_labels, recipe, seed)
    start = _start(data, *asked)
    start.meta.update(architecture=network.name, objective=getattr(objective, "__name__", "objective"))
    state = OuterState(start, recipe)
    identity = f"{identity} {data.sha256} {network.name} {network.shapes} {asked}"
    before = state.share(state.load(checkpoint, identity) if checkpoint and rank == 0 else 0.0)
    if device_name and device_name not in state.devices:
        state.devices.append(device_name)
    started = time.monotonic() - before
    saved = -math.inf
    every = max(1, recipe.iterations // recipe.checks) if recipe.checks else 0
    quiet = not progress or rank > 0
    gradient_of = partial(meta_gradient, network, objective=objective, step_functions=step_functions)
    if device.type == "cuda":
        gradient_of = CapturedMetaGradient(network, objective, step_functions)
    samples = _samples(p, recipe, seed, state.k, ahead=device.type == "cuda")
    bar = tqdm(total=recipe.iterations, initial=state.k, desc="outer steps", disable=quiet, file=sys.stderr)
    with closing(samples), bar:
        while state.k < recipe.iterations:
            loss, gradient = _mean_meta_gradient(gradient_of, state, data, next(samples), seed)
            state.step(gradient)
            known = abs(state.history[-1]["loss"]) if state.history else math.inf
            diverged = not abs(loss) < EXPLODED * max(1.0, known)  # NaN is not less than anything
            if every and not diverged and (state.k % every == 0 or state.k == recipe.iterations):
                look = {"step": state.k, "loss": loss}
                for name, learned in state.candidates().items():
                    accuracy = _from_first_process(_accuracy(network, state.distilled(learned), held_out, data))
                    look[name] = accuracy
                    if accuracy > state.best_accuracy:
                        state.remember(accuracy, learned)
                state.history.append({**look, "seconds": time.monotonic() - started})
                bar.set_postfix(loss=f"{loss:.3f}", validation=f"{100 * look['accuracy']:.2f}%")
            if diverged and not (every and state.go_back() and state.k < recipe.iterations):
                rates = ", ".join(f"{r:.3g}" for r in state.distilled().lrs.flatten()[:5].tolist())
                where = f"at outer step {state.k}{' however small the step' if every else ''}; rates {rates}"
                if state.best_step == 0:
                    raise MachineError(f"distillation diverged {where}")
                if rank == 0:
                    print(f"diverged {where}; the images of outer step {state.best_step} are kept", file=sys.stderr)
                break
            bar.update()
            if checkpoint and rank == 0 and time.monotonic() - saved > CHECKPOINT_SECONDS:
                state.save(checkpoint, identity, time.monotonic() - started)
                saved = time.monotonic()
    if state.best_step:
        state.restore()
    how = {"best_step": state.best_step or state.k, "ended": state.k, "returns": state.returns}
    return state.distilled(), {**how, "history": state.history, "before": before, "devices": state.devices}


def _start(
    data: Dataset, steps: int, epochs: int, per_class: int, soft_labels: bool, recipe: Recipe, seed: int
) -> DistilledData:
    """Noise images, class-major labels, equal rates (line 1 of Algorithm 1)."""
    (channels, side), classes, device = data.shape, len(data.classes), data.train[0].device
    n = classes * per_class
    images = recipe.noise * torch.randn(steps, n, channels, side, side, generator=generator(seed, "images"))
    start = class_major(data, images, torch.full((epochs, steps), recipe.first_lr))
    return replace(start, soft_labels=start.targets() if soft_labels else None).to(device)


def _accuracy(network: Network, distilled: DistilledData, held_out: Tensor, data: Dataset) -> Tensor:
    """Mean accuracy of the held-out networks [V, P] on the validation split, ten at a time; 0 for one that diverged."""
    right = []
    for some in held_out.split(10):
        theta = train(network, distilled, some)
        right.append(torch.where(theta.isfinite().all(1), evaluate(network, theta, *data.validation), 0.0))
    return torch.cat(right).mean()


def _samples(
    p: InitLaw, recipe: Recipe, seed: int, first: int, ahead: bool
) -> Iterator[list[tuple[Tensor, torch.Generator]]]:
    """theta_0 of this process's samples, and the generators that go on to draw their batches, for outer step `first`
    and those after it. `ahead`: threads call p for the next step meanwhile."""
    rank, world = process()
    mine, steps = range(rank, recipe.samples, world), range(first, recipe.iterations)

    def draw(k: int, j: int) -> tuple[Tensor, torch.Generator]:
        rng = generator(seed, k, j)
        return p(rng), rng

    threads = ThreadPoolExecutor(4)  # which it starts when they are first asked for
    begin = threads.map if ahead else map  # map draws when the list is made
    try:
        coming = begin(draw, repeat(first), mine)
        for k in steps:
            now, coming = coming, begin(draw, repeat(k + 1), mine) if k + 1 in steps else ()
            yield list(now)
    finally:
        threads.shutdown(cancel_futures=True)


def _mean_meta_gradient(gradient_of: Callable, state: "OuterState", data: Dataset, drawn: list, seed: int):
    """Mean loss and mean meta-gradient over the J samples of outer step k (lines 3 to 8), all processes together."""
    recipe, distilled, device = state.recipe, state.distilled(), data.train[0].device
    total = [torch.zeros((), device=device), *map(torch.zeros_like, distilled.learned())]
    if drawn:
        theta = torch.stack([theta for theta, _ in drawn]).to(device)
        if recipe.common_batch:
            batch = data.batch(recipe.batch, generator(seed, state.k, "batch"))
        else:
            batches = [data.batch(recipe.batch, rng) for _, rng in drawn]
            batch = batches[0] if len(batches) == 1 else tuple(map(torch.stack, zip(*batches, strict=True)))
        losses, gradient = gradient_of(distilled, theta, batch)
        total = [losses.sum() / recipe.samples, *(g * (len(drawn) / recipe.samples) for g in gradient.learned())]
    if dist.is_initialized():
        for t in total:
            dist.all_reduce(t)
    return total[0].item(), total[1:]


class OuterState:
    """What one outer step leaves for the next: images, raw rates, soft labels, Adam's moments, the best so far."""

    def __init__(self, start: DistilledData, recipe: Recipe):
        self.start, self.recipe = start, recipe
        self.learned = [t.clone() for t in start.learned()]
        self.learned[1] = start.lrs.expm1().log()  # raw: softplus(raw) = rate
        self.adam = torch.optim.Adam([{"params": [t]} for t in self.learned], betas=(0.5, 0.999))
        for t in self.learned:  # Adam makes its state at the first step; made here, it can always be saved
            self.adam.state[t] = {
                "step": torch.zeros(()), "exp_avg": torch.zeros_like(t), "exp_avg_sq": torch.zeros_like(t)
            }  # fmt: skip
        self.mean = [t.clone() for t in self.learned] if recipe.average else []
        self.k, self.returns, self.history, self.devices = 0, 0, [], []
        self.remember(0.0, self.learned)

    def candidates(self) -> dict[str, list[Tensor]]:
        """What is compared on the validation split: the last images, rates and soft labels, and their running mean."""
        return {"accuracy": self.learned} | ({"accuracy_of_mean": self.mean} if self.mean else {})

    def distilled(self, learned: list[Tensor] | None = None) -> DistilledData:
        images, raw, *soft = (t.clone() for t in learned or self.learned)
        return self.start.with_learned([images, F.softplus(raw), *soft])

    def step(self, gradient: list[Tensor]) -> None:
        """Line 9 of Algorithm 1, with Adam; gradient: of images, rates and soft labels."""
        clip, norm = self.recipe.clip, gradient[0].norm()
        factor = (clip / norm).clamp(max=1) if clip else 1.0
        scaled = [gradient[0] * factor, gradient[1] * factor * torch.sigmoid(self.learned[1]), *gradient[2:]]
        pace = self.recipe.schedule(self.k) * 0.5**self.returns
        rates = (self.recipe.image_rate, self.recipe.raw_rate, self.recipe.label_rate)
        for t, g, group, rate in zip(self.learned, scaled, self.adam.param_groups, rates, strict=False):
            t.grad, group["lr"] = g, rate * pace
        self.adam.step()
        for mean, t in zip(self.mean, self.learned, strict=False):
            mean.lerp_(t, 1 - self.recipe.average)
        self.k += 1

    def remember(self, accuracy: float, learned: list[Tensor]) -> None:
        self.best_step, self.best_accuracy = self.k, accuracy
        kept = self._tensors() | dict(zip(LEARNED, learned, strict=False))
        self.best = {name: t.clone() for name, t in kept.items()}

    def restore(self) -> None:
        for name, t in self._tensors().items():
            t.copy_(self.best[name])

    def go_back(self) -> bool:
        """Return to the best images with half the step size; False where that has been done often enough."""
        self.returns += 1
        self.restore()
        return self.returns <= RETURNS

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that changes from step to step, by name; the tensors themselves, not copies."""
        found = {}
        for name, t in zip(LEARNED, self.learned, strict=False):
            found |= {name: t} | {f"{name}.{what}": moment for what, moment in self.adam.state[t].items()}
        return found | {f"{name}.mean": t for name, t in zip(LEARNED, self.mean, strict=False)}

    def _stored(self) -> dict[str, Tensor]:
        return self._tensors() | {f"best.{n}": t for n, t in self.best.items()}

    def _numbers(self) -> dict:
        return {n: getattr(self, n) for n in ("k", "returns", "best_step", "best_accuracy", "history", "devices")}

    def share(self, seconds: float) -> float:
        """Bring all processes to the state of the first, the only one that reads the checkpoint; its `seconds` too."""
        if not dist.is_initialized():
            return seconds
        sent = [self._numbers(), seconds]
        dist.broadcast_object_list(sent)
        vars(self).update(sent[0])
        for t in self._stored().values():
            on_device = t.to(self.start.images.device)  # Adam counts its steps on the CPU
            dist.broadcast(on_device, 0)
            t.copy_(on_device)
        return sent[1]

    def save(self, path: Path, identity: str, seconds: float) -> None:
        """Write the checkpoint atomically: temporary file, fsync, rename."""
        header = {"identity": identity, "state": json.dumps({**self._numbers(), "seconds": seconds})}
        with whole(path) as part, part.open("wb") as file:
            file.write(save({n: t.cpu().contiguous() for n, t in self._stored().items()}, header))
            file.flush()
            os.fsync(file.fileno())

    def load(self, path: Path, identity: str) -> float:
        """Go on from a checkpoint where there is a whole one of this configuration; returns the seconds spent on it."""
        if not path.exists():
            return 0.0
        try:
            with safe_open(path, "pt") as file:
                header, stored = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}
            if header["identity"] != identity:
                raise ValueError("it belongs to another configuration")
            numbers, now = json.loads(header["state"]), self._stored()
            if {n: t.shape for n, t in stored.items()} != {n: t.shape for n, t in now.items()}:
                raise ValueError("it holds other tensors")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            print(f"checkpoint {path} is not used ({error}); set aside as {aside.name}", file=sys.stderr)
            return 0.0
        for name, t in now.items():
            t.copy_(stored[name])
        seconds = numbers.pop("seconds")
        vars(self).update(numbers)
        print(f"resuming at outer step {self.k} of {self.recipe.iterations}", file=sys.stderr)
        return seconds


def process() -> tuple[int, int]:
    """(rank, world size) under torchrun, else (0, 1)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _from_first_process(value: Tensor) -> float:
    """The first process's value, so that all processes choose alike."""
    if dist.is_initialized():
        dist.broadcast(value, 0)
    return value.item()
