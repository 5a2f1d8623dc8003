"""Derive a record's accuracies again from its stored images. The record is never trusted."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ddcore.distilled import DistilledData
from ddcore.experiments import methods, pretrained, records
from ddcore.experiments.config import Config
from ddcore.experiments.measure import measure
from ddcore.experiments.records import Metric, Record
from ddcore.experiments.run import device_name, environment, starts_pretrained
from ddcore.experiments.setup import Setup, prepare
from ddcore.support.files import whole
from ddcore.support.runtime import set_up

# Of a mean accuracy that is derived again: a tenth of a percentage point. In float32, which many
# records were measured in, rounding can send a single network far from its place, so of 20 and more
# the one that differs most is left out.
TOLERANCE = 0.001
ENOUGH = 20


@dataclass(frozen=True)
class Verification:
    """What a record says beside what its images do.

    record, now: mean test accuracies in percent of the first `n` networks, as the record has them
    and as derived again; None where it did not come to that. faults: what does not agree.
    """

    name: str
    record: float | None = None
    now: float | None = None
    n: int = 0
    faults: str = ""

    @property
    def agrees(self) -> bool:
        return not self.faults

    @property
    def line(self) -> str:
        verdict = "PASS" if self.agrees else "FAIL"
        said = [self.faults] if self.faults else []
        if self.now is not None:
            said = [f"record {self.record:.2f} %, now {self.now:.2f} %, n = {self.n}", *said]
        return f"{self.name} {verdict} ({'; '.join(said)})"


def verify(record: Record, nets: int | None = None, *, in_place: bool = True) -> Verification:
    """Re-derive a record's accuracies from its images.

    Trains the first `nets` of the test networks anew (by default all; of pretrained ones at most
    those that are kept beside the records, since others, trained again on another machine, are
    others; of a fixed init the stored weights) and compares with the values in the record.

    Args:
        in_place: its folder must be that of its experiment and key, as of a record that was looked
            up; one that is given by its folder may lie anywhere.

    Raises:
        InputError: where the record's dataset is not there.
    """
    set_up("cpu")
    try:
        config = Config(**record.config)
        stored = record.has_images or methods.get(config.images).stores_images
        images = record.distilled if stored else None
    except ValueError as error:  # pydantic's and InputError
        return Verification(record.name, faults=" ".join(str(error).split()))
    setup = prepare(config, download=False)
    method = methods.get(config.images)
    faults = _identity_faults(record, setup, images)
    if in_place:
        faults |= _place_faults(record)
    if message := _message(faults):
        return Verification(record.name, faults=message)
    if images is None:
        images = method.redraw(setup, record.distillation)
    total = _networks_at_hand(config, nets)
    again = measure(setup, images, record.distillation, total)
    faults = _metric_faults(record, again, total, method.tested(config))
    stated = torch.tensor(record.metrics["test_accuracy"]["values"][:total], dtype=torch.float64)
    now = again["test_accuracy"]
    return Verification(
        record.name,
        record=100 * stated.mean().item(),
        now=100 * _number(now["mean"]),
        n=now["n"],
        faults=_message(faults),
    )


def row(result: Verification, verdict: str = "") -> dict[str, Any]:
    """What other programs read of a verification."""
    return {
        "record": result.name,
        "verdict": verdict or ("PASS" if result.agrees else "FAIL"),
        "percent in the record": result.record,
        "percent now": result.now,
        "networks": result.n,
        "faults": result.faults,
    }


def write_log(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write which machine found what, whole or not at all."""
    content = {
        "machine": environment([device_name("cpu")], compiled=False),
        "date": datetime.now(UTC).date().isoformat(),
        "results": rows,
    }
    with whole(file) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _networks_at_hand(config: Config, nets: int | None) -> int:
    """How many test networks are trained anew."""
    if config.fixed:
        return 1
    at_hand = config.nets
    if starts_pretrained(config):
        at_hand = pretrained.committed(config)
    return min(nets or at_hand, at_hand)


def _identity_faults(record: Record, setup: Setup, images: DistilledData | None) -> dict[str, bool]:
    """Whether the record is of this data, this configuration and these networks."""
    config = setup.config
    data = setup.data
    faults = {
        f"the files of {data.name} are not those of the record": data.sha256
        != record.data["sha256"],
        f"the source of {config.network} is not that of the record": setup.network_sha256
        != record.network.get("sha256", ""),
        "its key is not that of its configuration": record.key != config.key,
    }
    if images is not None:
        n = config.per_class * len(data.classes)
        alike = images.images.shape[:2] == (config.steps, n)
        alike = alike and images.lrs.shape == (config.epochs, config.steps)
        alike = alike and (images.init is not None) == config.fixed
        faults["its images or rates are not those of its configuration"] = not alike
    method = methods.get(config.images)
    if images is not None and method.stores_images:
        for name, value in setup.header.items():
            faults[f"its images say another {name}"] = images.meta.get(name) != value
    faults |= method.faults(config, record, images)
    trained = record.distillation.get("pool", {}).get("training")
    if trained is not None and not config.fixed:
        now = pretrained.training_of(config).key
        faults["its networks are trained otherwise now"] = trained != now
    return faults


def _place_faults(record: Record) -> dict[str, bool]:
    folder = record.folder
    return {
        "its folder is another configuration's": folder.name != record.key,
        "its folder is another experiment's": folder.parent.name != record.experiment,
    }


def _metric_faults(
    record: Record, again: dict[str, Metric], total: int, tested: int
) -> dict[str, bool]:
    """Whether each metric's values are those that are derived again, and its mean, std and n
    theirs."""
    faults = {}
    for name in {**again, **record.metrics}:
        stated = record.metrics.get(name)
        if name not in again or stated is None or not stated["values"]:
            faults[f"{name} is not one of its metrics, or has no values"] = True
            continue
        values = stated["values"]
        of_values = records.metric(torch.tensor(values, dtype=torch.float64))
        faults[f"{name} is another"] = _moved(values[:total], again[name]["values"])
        faults[f"{name} has not one value for each network"] = len(values) != tested
        for key in ("mean", "std", "n"):
            differs = _differ(of_values[key], stated.get(key, math.nan))
            faults[f"{name}'s {key} is not that of its values"] = differs
    return faults


def _message(faults: dict[str, bool]) -> str:
    return "; ".join(fault for fault, holds in faults.items() if holds)


def _moved(stated: list, now: list) -> bool:
    """Whether the mean of the values is another, the one that differs most left out."""
    a = torch.tensor(stated, dtype=torch.float64)
    b = torch.tensor(now, dtype=torch.float64)
    if a.shape != b.shape:
        return True
    difference = a - b
    if len(a) >= ENOUGH:
        largest = difference.abs().reshape(len(a), -1).amax(1)
        difference = difference[largest.argsort()[:-1]]
    return not bool((difference.mean(0).abs() <= TOLERANCE).all())  # nan is moved


def _differ(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is not b
    first = torch.as_tensor(a)
    second = torch.as_tensor(b)
    if first.shape != second.shape:
        return True
    return not bool(((first - second).abs() <= TOLERANCE).all())  # nan differs


def _number(value: float | list[float]) -> float:
    assert not isinstance(value, list)
    return value
