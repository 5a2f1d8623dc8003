"""Records, the unit of evidence: `results/<experiment>/<key>/` with record.json and distilled.safetensors."""

import json
import os
import platform
import re
import shutil
import subprocess
from decimal import ROUND_FLOOR, Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from torch import Tensor
from typing_extensions import TypedDict

from ddcore.companion.experiments import EXPERIMENTS, Config, configure, resolve
from ddcore.datasets import cache_folder, is_available
from ddcore.distilled import DistilledData
from ddcore.errors import InputError

PROJECT = Path(__file__).parents[2]
COPIES = {"cifar10": "cifar10-jpeg"}  # another copy of the same data, used where the original cannot be had


class Metric(TypedDict):
    """What `metric` returns, of one number for each network or of one for each of its classes."""

    mean: float | list[float]
    std: float | list[float] | None
    n: int
    values: list[float] | list[list[float]]


class Environment(TypedDict):
    """What `environment` returns, and when the run started and how long it took."""

    python: str
    torch: str
    device: str
    threads: int
    world_size: int
    compiled: bool
    commit: str | None
    dirty: bool
    started: str
    seconds: float


class Data(TypedDict):
    name: str
    sha256: str


class Record(BaseModel):
    """One run of one configuration: what record.json in `folder` says."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    experiment: str
    scale: str
    key: str
    config: dict[str, Any]
    overrides: dict[str, Any]
    metrics: dict[str, Metric]
    environment: Environment
    data: Data
    distillation: dict[str, Any] = {}
    algorithm_version: int

    @field_validator("metrics")
    @classmethod
    def _tested(cls, metrics: dict[str, Metric]) -> dict[str, Metric]:
        if "test_accuracy" not in metrics:
            raise ValueError("test_accuracy is missing")
        return metrics

    @property
    def accuracy(self) -> str:
        """The mean test accuracy in percent, rounded down as in the ledger."""
        return rounded(100 * self.metrics["test_accuracy"]["mean"], ROUND_FLOOR)

    @cached_property
    def distilled(self) -> DistilledData:
        return DistilledData.load(self.folder / "distilled.safetensors")


def roots() -> list[Path]:
    """Where records are read from, in order."""
    named = [Path(os.environ["DDCORE_RESULTS"])] if os.environ.get("DDCORE_RESULTS") else []
    return [*named, PROJECT / "results", cache_folder() / "results"]


def root_for(experiment: str, scale: str, dataset: str, overrides: dict[str, Any]) -> Path:
    """Where a new record is written: the project's results take the paper's scale as defined, of either copy."""
    if os.environ.get("DDCORE_RESULTS"):
        return Path(os.environ["DDCORE_RESULTS"])
    defined = EXPERIMENTS[resolve(experiment)].dataset
    as_defined = scale == "paper" and not overrides and dataset in (defined, COPIES.get(defined))
    return PROJECT / "results" if as_defined else cache_folder() / "results"


def read(folder: Path) -> Record:
    """The record in a folder; InputError where there is none or it is damaged."""
    file = folder / "record.json"
    try:
        return Record(**json.loads(file.read_text("utf-8")), folder=folder)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'][:4]))}: {e['msg']}" for e in error.errors()[:3])
    except (OSError, ValueError, TypeError) as error:
        wrong = repr(error)
    raise InputError(f"{file} is not a record: {wrong}")


def at(experiment: str, key: str) -> Record | None:
    """The record of a configuration's key, where there is one."""
    folders = [root / resolve(experiment) / key for root in roots()]
    return next((read(f) for f in folders if (f / "record.json").is_file()), None)


def of(config: Config) -> Record | None:
    """The record of a configuration, under whatever experiment it stands."""
    found = (file.parent for root in roots() for file in sorted(root.glob(f"*/{config.key}/record.json")))
    return next(map(read, found), None)


def find(experiment: str) -> Record | None:
    """The record of an experiment as defined, of the paper's dataset or else of another copy of it."""
    config = configure(experiment)
    copies = (config.model_copy(update={"dataset": d}) for d in (config.dataset, COPIES.get(config.dataset)) if d)
    return next(filter(None, (at(experiment, copy.key) for copy in copies)), None)


def here(dataset: str) -> str | None:
    """The dataset, or else the copy of it, that this machine has; None where it has neither."""
    return next((name for name in (dataset, COPIES.get(dataset)) if name and is_available(name)), None)


def everywhere() -> list[Record]:
    """All records at the paper's scale as defined, in the order of the experiments."""
    return [record for name in EXPERIMENTS if (record := find(name)) is not None]


def write(root: Path, content: dict[str, Any], distilled: Path | None) -> Record:
    """Write a record's folder whole or not at all, with a copy of the file `distilled` in it."""
    folder = root / content["experiment"] / content["key"]
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{suffix}") for suffix in ("part", "old"))
    try:
        part.mkdir(parents=True)
        if distilled is not None:
            shutil.copyfile(distilled, part / "distilled.safetensors")
        (part / "record.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
        if folder.exists():
            folder.replace(old)
        part.replace(folder)
    finally:
        if old.exists() and not folder.exists():
            old.replace(folder)
        for path in (part, old):
            shutil.rmtree(path, ignore_errors=True)
    return read(folder)


def metric(values: Tensor) -> dict[str, Any]:
    """Mean, unbiased std (None for one network), n and the values themselves; of [N], or of [N, K] for each class."""
    values = values.double()
    return {
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist() if len(values) > 1 else None,
        "n": len(values),
        "values": values.round(decimals=6).tolist(),
    }


def rounded(number: float, towards: str) -> str:
    """A number to two decimals, rounded as one of decimal's modes says; float noise far below one image is not seen."""
    return str(Decimal(repr(round(number, 9))).quantize(Decimal("0.01"), towards))


def environment(device: str, compiled: bool, world_size: int) -> dict[str, Any]:
    """What a record's numbers were computed with."""
    name = torch.cuda.get_device_name() if device == "cuda" else _cpu_name()
    return {
        "python": platform.python_version(), "torch": torch.__version__, "device": name,
        "threads": torch.get_num_threads(), "world_size": world_size, "compiled": compiled,
        "commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain", "--", "ddcore")),
    }  # fmt: skip


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)", info.read_text() if info.exists() else "", re.MULTILINE)
    return f"{found[1] if found else platform.processor() or platform.machine()} CPU, {os.cpu_count()} cores"


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(PROJECT), *args], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
