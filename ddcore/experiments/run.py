"""One configuration in, one record out: make images, store them, and test what was stored."""

import os
import platform
import re
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ddcore.datasets import load
from ddcore.distilled import DistilledData
from ddcore.experiments import methods, pretrained, records
from ddcore.experiments.catalogue import IMAGES_OF, configure, resolve
from ddcore.experiments.config import ALGORITHM_VERSION, Config
from ddcore.experiments.cost import COMPILE_FROM, cost, gradients
from ddcore.experiments.measure import measure
from ddcore.experiments.methods.base import Made, Task
from ddcore.experiments.records import Record
from ddcore.experiments.setup import Setup, prepare
from ddcore.support import kernel
from ddcore.support.compiled import compiled_steps, is_compiled
from ddcore.support.errors import MachineError, WriteError
from ddcore.support.files import PROJECT, cache_folder, check_folder
from ddcore.support.imported import is_own
from ddcore.support.registry import architecture
from ddcore.support.runtime import check_device, only_one, process, set_up, wait_for_all
from ddcore.unroll import EAGER


@dataclass(frozen=True)
class Request:
    """What is asked for: an experiment at a scale, with a reader's overrides and the machine's
    options."""

    name: str
    scale: str = "paper"
    overrides: dict[str, str] | None = None
    device: str = "cpu"
    compile: str = "auto"
    force: bool = False
    checkpoints: Path | None = None

    @property
    def config(self) -> Config:
        return configure(self.name, self.scale, self.overrides)

    @property
    def experiment(self) -> str:
        return resolve(self.name)

    @property
    def changes(self) -> dict[str, Any]:
        """The overrides that change something, `dataset` aside."""
        config = self.config
        defined = configure(self.name, self.scale)
        names = [name for name in self.overrides or () if name != "dataset"]
        values = {name: getattr(config, name) for name in names}
        return {name: v for name, v in values.items() if v != getattr(defined, name)}

    @property
    def exchanged(self) -> str:
        """What is said where the dataset exchanges the experiment's network, else nothing."""
        config = self.config
        defined = configure(self.name, self.scale).network
        if "network" in (self.overrides or {}) or config.network == defined:
            return ""
        channels, side = architecture(defined).images or ("?", "?")
        return (
            f"network: {config.network} on {config.dataset}; {self.experiment}'s {defined} is for "
            f"images of {channels}x{side}x{side}"
        )

    @property
    def root(self) -> Path:
        """Where its record is written."""
        dataset = self.config.dataset
        return records.root_for(self.experiment, self.scale, dataset, self.changes)

    @property
    def checkpoint_folder(self) -> Path:
        return self.checkpoints or cache_folder() / "checkpoints"


def run(
    name: str,
    scale: str = "paper",
    overrides: dict[str, str] | None = None,
    *,
    device: str = "cpu",
    compile: str = "auto",
    force: bool = False,
    checkpoints: Path | None = None,
) -> Record | None:
    """The record of an experiment: an existing one, or computed now, from its checkpoint where one
    was left.

    Under torchrun the first process returns what was computed now, the others None.
    """
    request = Request(name, scale, overrides, device, compile, force, checkpoints)
    config = request.config
    if not force and not may_change(config):
        record = existing(request)
        if record is not None:
            return record
    check_places(request)
    set_up(device)
    if request.experiment in IMAGES_OF:
        origin = IMAGES_OF[request.experiment]
        passed_on = {n: text for n, text in (overrides or {}).items() if n != "nets"}
        run(
            origin,
            scale,
            passed_on,
            device=device,
            compile=compile,
            checkpoints=checkpoints,
        )
    setup = prepare(config, device)
    request.checkpoint_folder.mkdir(parents=True, exist_ok=True)
    with only_one(request.checkpoint_folder / f"{config.key}.lock"):
        record = None if force else existing(request)
        if record is not None and (not may_change(config) or _is_of_these(record, setup)):
            return record
        return _compute(request, setup)


def existing(request: Request) -> Record | None:
    """The record that is there already; one whose images are lost is none."""
    config = request.config
    record = records.at(request.experiment, config.key)
    if record is None or record.has_images or not methods.get(config.images).stores_images:
        return record
    return None


def plan(request: Request) -> str:
    """What `run` would do: the configuration, the seconds that it would take on one core, and in
    the last line the folder that its record has or would have."""
    check_device(request.device)
    config = request.config
    record = existing(request)
    folder = record.folder if record else request.root / request.experiment / config.key
    lines = [f"{name}: {value}" for name, value in config.model_dump().items()]
    seconds = f"estimated: {cost(config):,.0f} s of one core"
    if is_own(config.network):
        seconds = "estimated: not known, for a network of your own"
    return "\n".join([*lines, "there is a record" if record else seconds, str(folder)])


def check_places(request: Request) -> None:
    """InputError, before anything is computed, where what a run writes could not be written."""
    config = request.config
    cache = "set XDG_CACHE_HOME to a folder that can be written to"
    option = "name another folder with --checkpoints" if request.checkpoints else cache
    check_folder(request.checkpoint_folder, option)
    check_folder(request.root, "set DDCORE_RESULTS to a folder that can be written to")
    if starts_pretrained(config):
        check_folder(cache_folder(), cache)


def starts_pretrained(config: Config) -> bool:
    """Whether a run trains networks on a whole dataset first."""
    return bool(config.pretrained_on) or methods.get(config.images).always_pretrained


def may_change(config: Config) -> bool:
    """Whether images or a network of a reader's own are used, which may change while their name
    does not."""
    return "folder:" in config.dataset + config.source or is_own(config.network)


def _is_of_these(record: Record, setup: Setup) -> bool:
    """Whether a record is of these images and of this source of the network."""
    if record.network.get("sha256", "") != setup.network_sha256:
        return False
    source = setup.config.source
    if source and record.distillation["pool"]["sha256"] != load(source).sha256:
        return False
    return record.data["sha256"] == setup.data.sha256


def _compute(request: Request, setup: Setup) -> Record | None:
    way, checkpoint = _plan_steps(request, setup.config)
    try:
        with kernel.allowed(way == "kernel"):
            return _compute_by(way, checkpoint, request, setup)
    except WriteError as error:
        if not checkpoint.exists():
            raise
        goes_on = f"what was computed is in {checkpoint}, and the same command goes on from it"
        raise MachineError(f"{error}; {goes_on}") from error


def _compute_by(way: str, checkpoint: Path, request: Request, setup: Setup) -> Record | None:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    began = time.monotonic()
    config = setup.config
    method = methods.get(config.images)
    pool = {}
    if starts_pretrained(config):
        pool = {"pool": pretrained.train_pool(config, setup.device)}
    step_functions = compiled_steps() if way == "compiled" else EAGER
    device = device_name(setup.device)
    made = method.make(Task(setup, step_functions, checkpoint, device))
    if process().rank > 0:
        return None
    details = made.details | pool
    stored = _store(setup, made, checkpoint.with_suffix(".distilled"))
    images = method.redraw(setup, details)
    if stored is not None:  # metrics are computed from what is stored
        images = DistilledData.load(stored).to(setup.device)
    metrics = measure(setup, images, details)
    compiled = is_compiled(step_functions) or way == "kernel" and kernel.is_built()
    machine = environment(made.devices or [device], compiled)
    seconds = round(time.monotonic() - began + made.seconds_before)
    data = {"name": setup.data.name, "sha256": setup.data.sha256}
    if setup.data.preparation:
        data["preparation"] = setup.data.preparation
    network = {}
    if setup.network_sha256:
        network = {"network": {"name": config.network, "sha256": setup.network_sha256}}
    content = {
        "experiment": request.experiment,
        "scale": request.scale,
        "key": config.key,
        "config": config.model_dump(),
        "overrides": request.changes,
        "metrics": metrics,
        "environment": machine | {"started": started, "seconds": seconds},
        "data": data,
        **network,
        "distillation": details,
        "algorithm_version": ALGORITHM_VERSION,
    }
    if pool:
        pretrained.keep_beside_records(config, request.root)
    record = records.write(request.root, content, stored)
    checkpoint.unlink(missing_ok=True)
    if stored is not None:
        stored.unlink(missing_ok=True)
    return record


WAYS = ("kernel", "compiled", "eager")  # to compute steps: lenet.cpp, torch.compile, as they stand


def _plan_steps(request: Request, config: Config) -> tuple[str, Path]:
    """The way in which steps are computed, and the checkpoint's file, whose name says so. A
    checkpoint that is there is obeyed."""
    way = "eager"
    if request.compile != "off":
        pays = not is_own(config.network) and gradients(config) >= COMPILE_FROM
        if request.device == "cpu" and architecture(config.network).kernel:
            way = "kernel"
        elif request.compile == "on" or pays:
            way = "compiled"
    folder = request.checkpoint_folder
    files = {way: folder / f"{config.key}.{way}.safetensors" for way in WAYS}
    if request.force and process().rank == 0:
        for file in files.values():
            file.unlink(missing_ok=True)
    wait_for_all()
    begun = [way for way, file in files.items() if file.exists()]
    if begun and way not in begun:
        way = begun[0]
    return way, files[way]


def _store(setup: Setup, made: Made, file: Path) -> Path | None:
    """Write the images with what belongs to them; None where there are none."""
    if made.images is None:
        return None
    config = setup.config
    init = None
    if config.fixed:
        weights = setup.network.unflatten(setup.weights(1))
        init = {name: t[0] for name, t in weights.items()}
    meta = made.images.meta | setup.header
    images = made.images
    DistilledData(images.images, images.labels, images.lrs, images.soft_labels, init, meta).save(
        file
    )
    return file


# The environment


def environment(devices: list[str], compiled: bool) -> dict[str, Any]:
    """What a record's numbers were computed with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": "; ".join(devices),
        "threads": torch.get_num_threads(),
        "world_size": process().world_size,
        "compiled": compiled,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", "ddcore")),
    }


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)", text, re.MULTILINE)
    name = model[1] if model else platform.processor() or platform.machine()
    return f"{name} CPU, {os.cpu_count()} cores"


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(PROJECT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
