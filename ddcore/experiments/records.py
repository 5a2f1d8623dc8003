"""Records, the unit of evidence: `results/<experiment>/<key>/` with record.json and, where a kind
of training images stores any, distilled.safetensors."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from decimal import ROUND_FLOOR, Decimal
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from typing_extensions import TypedDict

from ddcore.experiments.catalogue import EXPERIMENTS, configure, resolve
from ddcore.experiments.config import Config
from ddcore.support.errors import InputError, WriteError
from ddcore.support.files import PROJECT, cache_folder
from ddcore.support.registry import source

if TYPE_CHECKING:
    from torch import Tensor

    from ddcore.distilled import DistilledData


# What another run of an experiment at the paper's scale may have of its own: a replicate.
REPLICATED = {"seed", "faithful"}
Portion = Annotated[float, Field(ge=0, le=1)]  # of the test images


class Metric(TypedDict):
    """What `metric` returns, of one number for each network or of one for each of its classes."""

    mean: Portion | list[Portion]
    std: Portion | list[Portion] | None
    n: int
    values: list[float] | list[list[float]]


class Environment(TypedDict):
    """What the numbers were computed with, when the run started and how long it took."""

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
    preparation: NotRequired[str]  # what was done to make a folder's images alike


class Own(TypedDict, total=False):
    """A network of a reader's own, and the sha256 of its source; of another, nothing."""

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
    network: Own = {}
    distillation: dict[str, Any] = {}
    algorithm_version: int

    @field_validator("metrics")
    @classmethod
    def _tested(cls, metrics: dict[str, Metric]) -> dict[str, Metric]:
        if "test_accuracy" not in metrics:
            raise ValueError("test_accuracy is missing")
        if isinstance(metrics["test_accuracy"]["mean"], list):
            raise ValueError("test_accuracy has several means; one is allowed")
        return metrics

    @field_validator("config")
    @classmethod
    def _of_a_dataset(cls, config: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(config.get("dataset"), str):
            raise ValueError("dataset must be the name of one")
        return config

    @property
    def name(self) -> str:
        """The experiment, and what else a run has of its own: `fig3a, faithful=true` or
        `fig3a, laptop scale, dataset=folder:PATH, seed=1`."""
        parts = [self.experiment]
        if self.scale != "paper":
            parts.append(f"{self.scale} scale")
        dataset = self.config.get("dataset", "")
        if dataset.startswith("folder:"):
            parts.append(f"dataset={dataset}")
        parts += [f"{name}={json.dumps(value)}" for name, value in self.overrides.items()]
        return ", ".join(parts)

    @property
    def accuracy(self) -> str:
        """The mean test accuracy in percent, rounded down as in the ledger."""
        mean = self.metrics["test_accuracy"]["mean"]
        assert isinstance(mean, float | int)
        return rounded(100 * mean, ROUND_FLOOR)

    @property
    def has_images(self) -> bool:
        """Whether its images are stored; others are drawn again from the seed."""
        return (self.folder / "distilled.safetensors").is_file()

    @cached_property
    def distilled(self) -> "DistilledData":
        from ddcore.distilled import DistilledData

        return DistilledData.load(self.folder / "distilled.safetensors")


def roots() -> list[Path]:
    """Where records are read from, in order."""
    places = []
    if os.environ.get("DDCORE_RESULTS"):
        places.append(Path(os.environ["DDCORE_RESULTS"]))
    if is_checkout():
        places.append(PROJECT / "results")
    return [*places, cache_folder() / "results"]


def is_checkout() -> bool:
    """Whether the package is used from its project's folder, not installed from a wheel."""
    return PROJECT.name not in ("site-packages", "dist-packages")


def root_for(experiment: str, scale: str, dataset: str, overrides: dict[str, Any]) -> Path:
    """Where a new record is written: the project's results take the paper's scale, as defined and
    its replicates, of either copy of the data."""
    if os.environ.get("DDCORE_RESULTS"):
        return Path(os.environ["DDCORE_RESULTS"])
    defined = EXPERIMENTS[resolve(experiment)].dataset
    belongs = scale == "paper" and overrides.keys() <= REPLICATED and dataset in copies(defined)
    if belongs and is_checkout():
        return PROJECT / "results"
    return cache_folder() / "results"


def copies(dataset: str) -> list[str]:
    """A dataset and the copies that may stand in for it, best first."""
    return [dataset, *source(dataset).copies]


def read(folder: Path) -> Record:
    """The record in a folder; InputError where there is none or it is damaged."""
    file = folder / "record.json"
    try:
        return Record(**json.loads(file.read_text("utf-8")), folder=folder)
    except ValidationError as error:
        faults = error.errors()[:3]
        reason = "; ".join(f"{'.'.join(map(str, e['loc'][:4]))}: {e['msg']}" for e in faults)
    except (OSError, ValueError, TypeError) as error:
        reason = repr(error)
    raise InputError(f"{file} is not a record: {reason}")


def at(experiment: str, key: str) -> Record | None:
    """The record of a configuration's key, where there is one."""
    for root in roots():
        folder = root / resolve(experiment) / key
        if (folder / "record.json").is_file():
            return read(folder)
    return None


def of(config: Config) -> Record | None:
    """The record of a configuration, under whatever experiment it stands."""
    for root in roots():
        for file in sorted(root.glob(f"*/{config.key}/record.json")):
            return read(file.parent)
    return None


def find(
    experiment: str, scale: str = "paper", overrides: dict[str, str] | None = None
) -> Record | None:
    """The record of an experiment as defined, or at another scale and with a reader's overrides;
    of the dataset that it names or, where the overrides name none, of another copy."""
    config = configure(experiment, scale, overrides)
    named = "dataset" in (overrides or {})
    for dataset in [config.dataset] if named else copies(config.dataset):
        record = at(experiment, config.model_copy(update={"dataset": dataset}).key)
        if record is not None:
            return record
    return None


def here(dataset: str) -> str | None:
    """The dataset, or else the copy of it, that this machine has; None where it has neither."""
    from ddcore.datasets import is_available

    return next((name for name in copies(dataset) if is_available(name)), None)


damaged: set[str] = set()  # what was said of the records that were passed over


def undamaged(found: Callable[[], Record | None]) -> Record | None:
    """What is found, or None where it is damaged, which is said once on stderr."""
    try:
        return found()
    except InputError as error:
        if str(error) not in damaged:
            damaged.add(str(error))
            print(f"passed over: {error}", file=sys.stderr)
        return None


def everywhere() -> list[Record]:
    """All records at the paper's scale as defined, in the order of the experiments; damaged ones
    are passed over."""
    records = (undamaged(partial(find, name)) for name in EXPERIMENTS)
    return [record for record in records if record is not None]


def replicates(experiment: str) -> list[Record]:
    """The records of an experiment at the paper's scale with other seeds or the paper's own
    settings; damaged ones are passed over."""
    found = {}
    for root in roots():
        for file in sorted(root.glob(f"{resolve(experiment)}/*/record.json")):
            record = undamaged(partial(read, file.parent))
            if record is None:
                continue
            changed = record.overrides.keys()
            if record.scale == "paper" and changed and changed <= REPLICATED:
                found.setdefault(record.key, record)
    return list(found.values())


def faithful(experiment: str) -> Record | None:
    """Its replicate with the paper's own settings and the experiment's seed."""
    found = (one for one in replicates(experiment) if one.overrides == {"faithful": True})
    return next(found, None)


def write(root: Path, content: dict[str, Any], distilled: Path | None) -> Record:
    """Write a record's folder whole or not at all, with a copy of the file `distilled` in it;
    WriteError where the disk refuses."""
    folder = root / content["experiment"] / content["key"]
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        part.mkdir(parents=True)
        if distilled is not None:
            shutil.copyfile(distilled, part / "distilled.safetensors")
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        (part / "record.json").write_text(text, "utf-8")
        if folder.exists():
            folder.replace(old)
        part.replace(folder)
    except OSError as error:
        remedy = "free space there, or set DDCORE_RESULTS to another folder"
        raise WriteError(folder, error, remedy) from error
    finally:
        if old.exists() and not folder.exists():
            old.replace(folder)
        for path in (part, old):
            shutil.rmtree(path, ignore_errors=True)
    return read(folder)


def metric(values: "Tensor") -> Metric:
    """Mean, unbiased std (None for one network), n and the values themselves; of [N], or of [N, K]
    for each class."""
    values = values.double()
    return {
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist() if len(values) > 1 else None,
        "n": len(values),
        "values": values.round(decimals=6).tolist(),
    }


def rounded(number: float, mode: str) -> str:
    """A number to two decimals, rounded in one of decimal's modes; float noise far below one image
    is not seen."""
    return str(Decimal(repr(round(number, 9))).quantize(Decimal("0.01"), mode))
