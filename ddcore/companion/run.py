"""One configuration in, one record out: make images, store them, and test what was stored. And a record's check."""

import ctypes
import math
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from torch import Tensor

from ddcore.companion import baseline_runs, inits, records
from ddcore.companion.cost import COMPILE_FROM, gradients
from ddcore.companion.experiments import ALGORITHM_VERSION, BASELINES, Config, configure, resolve
from ddcore.companion.records import Record
from ddcore.datasets import Dataset, cache_folder, load
from ddcore.distill import distill, process
from ddcore.distilled import DistilledData
from ddcore.errors import InputError, MachineError
from ddcore.evaluate import attack_scores, evaluate
from ddcore.networks import Network
from ddcore.unroll import EAGER, compiled_steps, train_in_float64

STACK = 10  # networks tested at once
# Of a mean accuracy that is derived again: a tenth of a percentage point. In float32, which many records were measured
# in, rounding can send a single network far from its place, so of 20 and more the one that differs most is left out.
TOLERANCE = 0.001


def run(
    name: str, scale: str = "paper", overrides: dict[str, str] | None = None, *,
    device: str = "cpu", compile: str = "auto", force: bool = False, checkpoints: Path | None = None,
) -> Record | None:  # fmt: skip
    """The record of an experiment: an existing one, or computed now, from its checkpoint where one was left (of
    others-X after X, whose images it tests). Under torchrun the first process returns what was computed now, the others
    None."""
    config, experiment = configure(name, scale, overrides), resolve(name)
    defined = configure(name, scale)
    said = {n: getattr(config, n) for n in overrides or () if n != "dataset"}
    said = {n: value for n, value in said.items() if value != getattr(defined, n)}
    own_images = "folder:" in config.dataset + config.source  # which may have changed since a record was made
    if not (force or own_images) and (found := records.at(experiment, config.key)) is not None:
        return found
    check_device(device)
    keep_freed_memory()
    if config.images == "one-network":
        alone = {n: text for n, text in (overrides or {}).items() if n != "nets"}
        run(experiment.removeprefix("others-"), scale, alone, device=device, compile=compile, checkpoints=checkpoints)
    data, network = inits.prepare(config, device)
    folder = checkpoints or cache_folder() / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder / f"{config.key}.lock"):
        found = None if force else records.at(experiment, config.key)
        if found is not None and (not own_images or _of_these_images(found, config, data)):
            return found
        return _compute(experiment, scale, config, said, data, network, device, compile, force, folder)


def _of_these_images(record: Record, config: Config, data: Dataset) -> bool:
    source = record.distillation["pool"]["sha256"] == load(config.source).sha256 if config.source else True
    return source and record.data["sha256"] == data.sha256


def _compute(experiment, scale, config, said, data, network, device, compile, force, folder) -> Record | None:
    started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    compiled = compile == "on" or (compile == "auto" and gradients(config) >= COMPILE_FROM)
    left = {
        way: folder / f"{config.key}.{'compiled' if way else 'eager'}.safetensors" for way in (compiled, not compiled)
    }
    if force and process()[0] == 0:
        for path in left.values():
            path.unlink(missing_ok=True)
    if process()[1] > 1:
        dist.barrier()
    compiled = next((way for way, path in left.items() if path.exists()), compiled)  # a checkpoint is obeyed
    checkpoint = left[compiled]
    pretrained = bool(config.pretrained_on) or config.images == "all"
    pool = inits.pool(config, device) if pretrained else None
    p = inits.init_law(config, network)
    steps = compiled_steps() if compiled else EAGER
    environment = records.environment(device, compiled, process()[1])
    if config.images == "distilled":
        distilled, how = distill(
            network, inits.asked(config, data), p, steps=config.steps, epochs=config.epochs, per_class=config.per_class,
            soft_labels=config.soft_labels, recipe=config.recipe, seed=config.seed, step_functions=steps,
            held_out=inits.networks(config, network, inits.choosing(config), "validation").to(device),
            checkpoint=checkpoint, identity=config.key, device_name=environment["device"],
        )  # fmt: skip
    elif config.images == "one-network":
        distilled, how = records.of(config.alone).distilled, {}
    else:
        distilled, how = baseline_runs.fit(config, network, data, p, steps)
    if process()[0] > 0:
        return None
    before = how.pop("before", 0.0)
    environment["compiled"] = steps.compiled
    environment["device"] = "; ".join(how.pop("devices", [environment["device"]]))
    how |= {"pool": pool} if pretrained else {}
    stored = None
    if distilled is not None:
        init = None
        if config.fixed:
            init = {n: t[0] for n, t in network.unflatten(inits.networks(config, network, 1)).items()}
        law = f"trained on {config.pretrained_on}" if config.pretrained_on else config.init
        meta = {"objective": "cross_entropy", **distilled.meta, "architecture": config.network}
        meta |= {"init_law": law, "fixed_init": config.fixed}
        if config.attacked is not None:
            meta["objective"] = f"{data.classes[config.attacked]} taken for {data.classes[config.target]}"
        stored = checkpoint.with_suffix(".distilled")
        DistilledData(distilled.images, distilled.labels, distilled.lrs, distilled.soft_labels, init, meta).save(stored)
        distilled = DistilledData.load(stored).to(device)
    content = {
        "experiment": experiment, "scale": scale, "key": config.key, "config": config.model_dump(), "overrides": said,
        "metrics": measure(config, network, distilled, how, data),
        "environment": {**environment, "started": started, "seconds": round(time.monotonic() - began + before)},
        "data": {"name": data.name, "sha256": data.sha256},
        "distillation": how,
        "algorithm_version": ALGORITHM_VERSION,
    }  # fmt: skip
    root = records.root_for(experiment, scale, config.dataset, said)
    if pretrained:
        inits.keep(config, root)
    record = records.write(root, content, stored)
    for path in filter(None, (stored, checkpoint)):
        path.unlink(missing_ok=True)
    return record


def measure(
    config: Config, network: Network, distilled: DistilledData | None, how: dict, data: Dataset,
    nets: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What the held-out networks score on the test images after and before training on the distilled data; of a fixed
    init also the accuracy after each gradient step."""
    total = 1 if config.fixed else nets or config.nets
    if config.images.startswith("neighbour"):
        return {"test_accuracy": records.metric(baseline_runs.neighbours(config, distilled, data, total))}
    found: dict[str, list[Tensor]] = {}
    for before, after in _held_out(config, network, distilled, how, data, total):
        scores = _scores(config, network, after, data)
        if before is not None:
            scores |= {f"{name}_before": values for name, values in _scores(config, network, before, data).items()}
        for name, values in scores.items():
            found.setdefault(name, []).append(values)
    if config.fixed:
        path = before.new_empty(len(distilled.order()), *before.shape)
        train_in_float64(network, distilled, before, keep=path)
        along = [evaluate(network, theta, *data.test) for theta in (*path, after)]
        found["test_accuracy_by_step"] = [torch.stack(along, dim=1)]
    return {name: records.metric(torch.cat(parts)) for name, parts in found.items()}


def _held_out(config, network, distilled, how, data, total) -> Iterator[tuple[Tensor | None, Tensor]]:
    """The weights of the held-out networks before and after, some at a time; of those trained on everything there is
    no before."""
    device = data.test[0].device
    if config.images in BASELINES:
        yield from baseline_runs.runs(config, network, distilled, how, data, total)
        return
    for first in range(0, total, STACK):
        n = min(STACK, total - first)
        if config.images == "all":
            yield None, inits.weights(inits.training_of(config), "test", range(first, first + n)).to(device)
            continue
        # a fixed init's stored weights are the truth, not what this PyTorch draws from the seed
        stored = distilled.init
        theta = inits.networks(config, network, n, first=first) if stored is None else network.flatten(stored)
        yield theta.to(device), train_in_float64(network, distilled, theta.to(device))


def _scores(config: Config, network: Network, theta: Tensor, data: Dataset) -> dict[str, Tensor]:
    """Accuracy [n] on the test images; of an attack also Table 3's columns [n] and Fig. 6's accuracies [n, K]."""
    if config.attacked is None:
        return {"test_accuracy": evaluate(network, theta, *data.test)}
    return attack_scores(network, theta, *data.test, config.attacked, config.target)


def verify(record: Record, nets: int | None = None) -> tuple[bool, str]:
    """Re-derive a record's accuracies from its stored images: whether they agree, and a line that says so.

    Trains the first `nets` of the held-out networks anew (by default all; of pretrained ones at most those that are
    kept beside the records, since others, trained again on another machine, are others; of a fixed init the stored
    weights) and compares with the values in the record. InputError where the record's dataset is not there.
    """
    keep_freed_memory()
    try:
        config, how = Config(**record.config), record.distillation
        stored = record.distilled if config.images != "all" else None
    except ValueError as error:  # pydantic's and InputError
        return False, f"{record.experiment} FAIL ({' '.join(str(error).split())})"
    data, network = inits.prepare(config, download=False)
    pretrained = config.pretrained_on or config.images == "all"
    there = min(config.nets, inits.COMMITTED[config.network]) if pretrained else config.nets
    total = 1 if config.fixed else min(nets or there, there)
    tested = 1 if config.fixed or config.images == "neighbour-centres" else config.nets
    trained = how.get("pool", {}).get("training")
    made = records.of(config.alone) if config.images == "one-network" else None
    faults = {
        f"the files of {data.name} are not those of the record": data.sha256 != record.data["sha256"],
        "its key or folder is not that of its configuration": {record.key, record.folder.name} != {config.key},
        "its folder is another experiment's": record.folder.parent.name != record.experiment,
        "its images or rates are not those of its configuration": config.images != "all"
        and (
            stored.images.shape[:2] != (config.steps, config.per_class * len(data.classes))
            or stored.lrs.shape != (config.epochs, config.steps)
            or (stored.init is not None) != config.fixed
        ),
        "its images are not those that one network has here": config.images == "one-network"
        and (made is None or not all(map(torch.equal, made.distilled.learned(), stored.learned()))),
        "its networks are trained otherwise now": trained is not None
        and not config.fixed
        and trained != inits.training_of(config).key,
    }
    if said := _said(faults):
        return False, f"{record.experiment} FAIL ({said})"
    now = measure(config, network, stored, how, data, total)
    for name in {**now, **record.metrics}:
        if name not in now or not record.metrics.get(name, {}).get("values"):
            faults[f"{name} is not one of its metrics, or has no values"] = True
            continue
        stated = record.metrics[name]
        again = records.metric(torch.tensor(stated["values"], dtype=torch.float64))
        faults[f"{name} is another"] = _moved(stated["values"][:total], now[name]["values"])
        faults[f"{name} has not one value for each network"] = len(stated["values"]) != tested
        for what in ("mean", "std", "n"):
            faults[f"{name}'s {what} is not that of its values"] = _differ(again[what], stated.get(what, math.nan))
    said = _said(faults)
    stated = torch.tensor(record.metrics["test_accuracy"]["values"][:total], dtype=torch.float64).mean().item()
    ours = now["test_accuracy"]["mean"]
    numbers = f"record {100 * stated:.2f} %, now {100 * ours:.2f} %, n = {now['test_accuracy']['n']}"
    return not said, f"{record.experiment} {'FAIL' if said else 'PASS'} ({numbers}{'; ' if said else ''}{said})"


def _said(faults: dict[str, bool]) -> str:
    return "; ".join(fault for fault, holds in faults.items() if holds)


def _moved(stated: list, now: list) -> bool:
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (stated, now))
    if a.shape != b.shape:
        return True
    difference = a - b
    if len(a) >= 20:
        difference = difference[difference.abs().reshape(len(a), -1).amax(1).argsort()[:-1]]
    return not bool((difference.mean(0).abs() <= TOLERANCE).all())  # nan is moved


def _differ(a, b) -> bool:
    if a is None or b is None:
        return a is not b
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return a.shape != b.shape or not bool(((a - b).abs() <= TOLERANCE).all())  # nan differs


class _only_one:
    """A lock that the system frees when its holder dies; under torchrun the first process holds it for all."""

    def __init__(self, path: Path):
        self.lock = FileLock(path)

    def __enter__(self) -> None:
        if process()[0] == 0:
            try:
                self.lock.acquire(timeout=0)
            except Timeout:
                if process()[1] > 1:
                    raise MachineError("another process computes this configuration; run this again after it") from None
                print("another process computes this configuration: waiting for its record", file=sys.stderr)
                self.lock.acquire()
        if process()[1] > 1:
            dist.barrier()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def check_device(device: str) -> None:
    """InputError for a device that is not known or not here. Float32 means float32: no shortened products on a GPU."""
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: one of cpu, cuda is allowed")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device here; cpu is allowed")
    torch.backends.cudnn.allow_tf32 = False


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next tensors. By default it maps each one above 32 MB anew and gives the top
    of the heap back, and large batches pay for that in page faults."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block has a mapping of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give back only beyond 2 GB


def start_processes(device: str) -> None:
    """Join the other processes where torchrun started this one."""
    if {"RANK", "MASTER_ADDR"} <= os.environ.keys() and not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device == "cuda" else "gloo")


def end_processes() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
