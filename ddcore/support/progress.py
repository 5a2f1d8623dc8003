"""Where a distillation is: what an outer step leaves for the next, the best images so far, the way
back from divergence, and a checkpoint that a killed run goes on from."""

import json
import math
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ddcore.distilled import DistilledData, Learned
from ddcore.recipe import Recipe
from ddcore.support.errors import MachineError
from ddcore.support.files import whole
from ddcore.support.runtime import process

CHECKPOINT_SECONDS = 10.0
EXPLODED = 1e4  # a loss so many times the one at the last validation, or not finite, has diverged
ROLLBACKS = 5  # how often that is answered by the best images and half the step size
GROUPS = ("learned", "first", "second", "mean")  # of a state's tensors


@dataclass(frozen=True)
class OuterState:
    """What one outer step leaves for the next.

    template: distilled data with the labels and what else stays; learned: images, raw learning
    rates and soft labels; first, second: Adam's running means of their gradient and of its square,
    over `updates` updates; mean: the running mean of `learned`, where one is kept.
    """

    template: DistilledData
    learned: Learned
    first: Learned
    second: Learned
    updates: int = 0
    mean: Learned | None = None

    @staticmethod
    def start(distilled: DistilledData, recipe: Recipe) -> "OuterState":
        raw = distilled.lrs.expm1().log()  # softplus(raw) = learning rate
        learned = distilled.learned()._replace(lrs=raw).map(torch.clone)
        zeros = learned.map(torch.zeros_like)
        mean = learned if recipe.average else None
        return OuterState(distilled, learned, zeros, zeros, mean=mean)

    def distilled(self, learned: Learned | None = None) -> DistilledData:
        """The distilled data of these or of other learned tensors."""
        learned = (learned or self.learned).map(torch.clone)
        return self.template.with_learned(learned._replace(lrs=F.softplus(learned.lrs)))

    def candidates(self) -> dict[str, Learned]:
        """What is compared on the validation split: the last images, and their running mean."""
        if self.mean is None:
            return {"accuracy": self.learned}
        return {"accuracy": self.learned, "accuracy_of_mean": self.mean}


class Distillation(NamedTuple):
    """Distilled data and how it came about.

    best_step: the outer step that the images are of; ended: the last one; rollbacks: how often a
    diverging run went back; history: [{step, loss, accuracy, seconds}] of each look at the
    validation split; seconds_before: those spent before this process resumed; devices: the names
    of what computed.
    """

    distilled: DistilledData
    best_step: int
    ended: int
    rollbacks: int
    history: list[dict[str, Any]]
    seconds_before: float
    devices: list[str]


@dataclass(frozen=True)
class Checkpoint:
    """A file that a run is written to every 10 s, and goes on from where it belongs to the same
    arguments.

    identity: what tells runs apart beside the arguments of `distill`: the law of initial weights
    and the objective. device: the name of what computes.
    """

    path: Path
    identity: str = ""
    device: str = ""


class Run:
    """Where a distillation is: the outer state, the best one so far, and what happened."""

    def __init__(
        self,
        state: OuterState,
        recipe: Recipe,
        checkpoint: Checkpoint | None = None,
        arguments: str = "",
    ):
        self.state = state
        self.recipe = recipe
        self.checkpoint = checkpoint
        self.identity = f"{checkpoint.identity if checkpoint else ''} {arguments}"
        self.step = 0  # outer steps taken; unlike the state, it never goes back
        self.rollbacks = 0
        self.best = state
        self.best_step = 0
        self.best_accuracy = 0.0
        self.history: list[dict[str, Any]] = []
        self.devices: list[str] = []
        self.seconds_before = 0.0
        self.began = time.monotonic()
        self.saved = -math.inf

    @property
    def seconds(self) -> float:
        """Those spent on this run, by processes that were killed too."""
        return time.monotonic() - self.began + self.seconds_before

    @property
    def pace(self) -> float:
        """The factor on the step sizes."""
        return self.recipe.schedule(self.step) * 0.5**self.rollbacks

    def compare(self, accuracy: float, learned: Learned) -> None:
        """Keep these images where they are better than the best so far."""
        if accuracy > self.best_accuracy:
            self.best_accuracy = accuracy
            self.best_step = self.step
            self.best = replace(self.state, learned=learned)

    def diverged(self, loss: float) -> bool:
        known = abs(self.history[-1]["loss"]) if self.history else math.inf
        return not abs(loss) < EXPLODED * max(1.0, known)  # NaN is not less than anything

    def roll_back(self) -> bool:
        """Return to the best images with half the step size; False where that has been done often
        enough."""
        self.rollbacks += 1
        self.state = self.best
        return self.rollbacks <= ROLLBACKS

    def give_up(self, looked: bool) -> None:
        """Say that the best images are kept; MachineError where there are none."""
        lrs = self.state.distilled().lrs.flatten()[:5].tolist()
        rates = ", ".join(f"{lr:.3g}" for lr in lrs)
        however = " however small the step" if looked else ""
        place = f"at outer step {self.step}{however}; rates {rates}"
        if self.best_step == 0:
            raise MachineError(f"distillation diverged {place}")
        if process().rank == 0:
            kept = f"the images of outer step {self.best_step} are kept"
            print(f"diverged {place}; {kept}", file=sys.stderr)

    def result(self) -> Distillation:
        """The best images, or without a look at the validation split the last ones."""
        state = self.best if self.best_step else self.state
        return Distillation(
            distilled=state.distilled(),
            best_step=self.best_step or self.step,
            ended=self.step,
            rollbacks=self.rollbacks,
            history=self.history,
            seconds_before=self.seconds_before,
            devices=self.devices,
        )

    # Checkpoints

    def save(self) -> None:
        """Write the checkpoint, at most every 10 s: temporary file, fsync, rename."""
        due = time.monotonic() - self.saved > CHECKPOINT_SECONDS
        if self.checkpoint is None or process().rank > 0 or not due:
            return
        header = {"identity": self.identity, "state": json.dumps(self._numbers())}
        tensors = {name: t.cpu().clone() for name, t in self._tensors().items()}
        with whole(self.checkpoint.path) as part, part.open("wb") as file:
            file.write(save(tensors, header))
            file.flush()
            os.fsync(file.fileno())
        self.saved = time.monotonic()

    def resume(self) -> None:
        """Go on from the checkpoint where there is a whole one of these arguments. The first
        process reads it and tells the others."""
        if self.checkpoint is not None and process().rank == 0 and self.checkpoint.path.exists():
            self._read(self.checkpoint.path)
        if dist.is_initialized():
            numbers = [self._numbers()]
            dist.broadcast_object_list(numbers)
            self._set_numbers(numbers[0])
            # the state and the best one may still be the same tensors
            tensors = {name: t.clone() for name, t in self._tensors().items()}
            for t in tensors.values():
                dist.broadcast(t, 0)
            self._set_tensors(tensors)
        device = self.checkpoint.device if self.checkpoint else ""
        if device and device not in self.devices:
            self.devices.append(device)

    def _read(self, path: Path) -> None:
        current = self._tensors()
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if header["identity"] != self.identity:
                raise ValueError("it belongs to another configuration")
            numbers = json.loads(header["state"])
            if _shapes(tensors) != _shapes(current):
                raise ValueError("it holds other tensors")
            self._set_numbers(numbers)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            print(
                f"checkpoint {path} is not used ({error}); set aside as {aside.name}",
                file=sys.stderr,
            )
            return
        self._set_tensors({name: t.to(current[name].device) for name, t in tensors.items()})
        print(f"resuming at outer step {self.step} of {self.recipe.iterations}", file=sys.stderr)

    def _numbers(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "rollbacks": self.rollbacks,
            "best_step": self.best_step,
            "best_accuracy": self.best_accuracy,
            "history": self.history,
            "devices": self.devices,
            "seconds": self.seconds,
            "updates": self.state.updates,
            "best_updates": self.best.updates,
        }

    def _set_numbers(self, numbers: dict[str, Any]) -> None:
        self.step = numbers["step"]
        self.rollbacks = numbers["rollbacks"]
        self.best_step = numbers["best_step"]
        self.best_accuracy = numbers["best_accuracy"]
        self.history = numbers["history"]
        self.devices = numbers["devices"]
        self.seconds_before = numbers["seconds"]
        self.began = time.monotonic()
        self.state = replace(self.state, updates=numbers["updates"])
        self.best = replace(self.best, updates=numbers["best_updates"])

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors of the state and of the best one, by name."""
        tensors = {}
        for prefix, state in (("", self.state), ("best.", self.best)):
            for group in GROUPS:
                learned = getattr(state, group)
                for name, t in learned.tensors().items() if learned else ():
                    tensors[f"{prefix}{group}.{name}"] = t
        return tensors

    def _set_tensors(self, tensors: dict[str, Tensor]) -> None:
        def state_from(prefix: str, old: OuterState) -> OuterState:
            groups = {}
            for group in GROUPS:
                start = f"{prefix}{group}."
                row = {n: tensors[start + n] for n in Learned._fields if start + n in tensors}
                groups[group] = Learned(**row) if row else None
            return replace(old, **groups)

        self.state = state_from("", self.state)
        self.best = state_from("best.", self.best)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: t.shape for name, t in tensors.items()}
