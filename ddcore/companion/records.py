"""Records, the unit of evidence: `results/<experiment>/<key>/` with record.json and distilled.safetensors."""

import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddcore.companion.experiments import EXPERIMENTS, configure, resolve
from ddcore.datasets import cache_folder
from ddcore.distilled import DistilledData
from ddcore.errors import InputError

PROJECT = Path(__file__).parents[2]
COPIES = {"cifar10": "cifar10-jpeg"}  # another copy of the same data, used where the original cannot be had


FIELDS = ("experiment", "scale", "key", "config", "overrides", "metrics", "environment", "data", "algorithm_version")


@dataclass(frozen=True)
class Record:
    """One run of one configuration, as read from `folder`."""

    folder: Path
    content: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        """experiment, scale, key, config, overrides, metrics, environment, data, distillation, algorithm_version."""
        try:
            return self.content[name]
        except KeyError:
            raise AttributeError(name) from None

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
    try:
        content = json.loads((folder / "record.json").read_text("utf-8"))
        sum(content["metrics"]["test_accuracy"]["values"], content["metrics"]["test_accuracy"]["mean"])
        if missing := [name for name in FIELDS if name not in content]:
            raise ValueError(f"{missing[0]} is missing")
        return Record(folder, content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder / 'record.json'} is not a record: {error!r}") from error


def at(experiment: str, key: str) -> Record | None:
    """The record of a configuration's key, where there is one."""
    folders = [root / resolve(experiment) / key for root in roots()]
    return next((read(f) for f in folders if (f / "record.json").is_file()), None)


def find(experiment: str) -> Record | None:
    """The record of an experiment as defined, of the paper's dataset or else of another copy of it."""
    dataset = configure(experiment).dataset
    copies = filter(None, (dataset, COPIES.get(dataset)))
    found = (at(experiment, configure(experiment, overrides={"dataset": copy}).key) for copy in copies)
    return next(filter(None, found), None)


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
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
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


def environment(device: str, compiled: bool, world_size: int) -> dict[str, Any]:
    """What a record's numbers were computed with."""
    name = torch.cuda.get_device_name() if device == "cuda" else _cpu_name()
    return {
        "python": platform.python_version(), "torch": torch.__version__, "device": name,
        "threads": torch.get_num_threads(), "world_size": world_size, "compiled": compiled,
        "commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain", "--", "ddcore")),
    }  # fmt: skip


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model} CPU, {os.cpu_count()} cores"


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(PROJECT), *args], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
