"""Run what has no record yet at the paper's scale, most valuable first. Idempotent; can be stopped
and split."""

import re
import signal
import statistics
import sys
import time
from functools import cache, partial
from typing import NamedTuple

from ddcore.experiments import pretrained, records
from ddcore.experiments.catalogue import EXPERIMENTS
from ddcore.experiments.config import Config
from ddcore.experiments.cost import cost
from ddcore.experiments.records import Record
from ddcore.experiments.run import run
from ddcore.support.errors import InputError, MachineError, full_memory_named
from ddcore.support.runtime import check_device

Shard = tuple[int, int]  # (k, n): every n-th experiment, from the k-th


class Missing(NamedTuple):
    """An experiment without a record, with the copy of its data that is here (where none is, what
    is `absent`)."""

    name: str
    config: Config
    dataset: str | None
    absent: str
    seconds: float


class Done(NamedTuple):
    """A line of the table at the end."""

    name: str
    record: Record
    seconds: float

    def __str__(self) -> str:
        accuracy = f"{self.record.accuracy} %"
        seconds = f"{self.seconds:,.0f} s"
        return f"{self.name:42} {accuracy:>10} {seconds:>10}  {self.record.data['name']}"


def missing(shard: Shard = (1, 1)) -> list[Missing]:
    """What is to be done, in order."""
    todo = []
    pools = set()
    measured = ratios()
    here = cache(records.here)
    first, step = shard
    for name in list(EXPERIMENTS)[first - 1 :: step]:
        if _recorded(name):
            continue
        config = EXPERIMENTS[name]
        datasets = [d for d in (config.dataset, config.source) if d]
        absent = next((d for d in datasets if here(d) is None), "")
        seconds = cost(config)
        training = pretrained.training_of(config)
        if config.pretrained_on and training.key not in pools:  # the first trains the pool
            pools.add(training.key)
            one = training.model_copy(update={"nets": 1})
            seconds += pretrained.untrained(config) * cost(one)
        seconds *= measured.get(config.network, 1.0)
        todo.append(Missing(name, config, here(config.dataset), absent, seconds))
    return todo


def _recorded(name: str) -> bool:
    """Whether it has a record that can be read."""
    return records.undamaged(partial(records.find, name)) is not None


def ratios() -> dict[str, float]:
    """By network: the median of what processors took for its records, in core-seconds, over what
    `cost` says."""
    by_network: dict[str, list[float]] = {}
    for record in records.everywhere():
        config = EXPERIMENTS[record.folder.parent.name]
        environment = record.environment
        if re.fullmatch(r"[^;]* cores", environment["device"]):
            cores = environment["threads"] * environment["world_size"]
            seconds = environment["seconds"] * cores
            by_network.setdefault(config.network, []).append(seconds / cost(config))
    return {network: statistics.median(values) for network, values in by_network.items()}


def plan(shard: Shard = (1, 1)) -> str:
    """A line for each missing experiment and their sum."""
    todo = missing(shard)
    lines = []
    for m in todo:
        place = f"{m.absent} is not here" if m.absent else m.dataset
        lines.append(f"{m.name:42} {place:20} {m.seconds:10,.0f} s")
    hours = sum(m.seconds for m in todo) / 3600
    waiting = sum(bool(m.absent) for m in todo)
    total = f"{len(todo)} of {len(EXPERIMENTS)} experiments missing, about {hours:.1f} core-hours"
    if waiting:
        total += f"; {waiting} wait for their data"
    return "\n".join([*lines, total])


class OutOfTime(BaseException):
    """Raised by the alarm that ends the budget; not an Exception, so that nothing takes it for a
    failure."""


def reproduce(budget: float | None = None, shard: Shard = (1, 1), device: str = "cpu") -> bool:
    """Run them one after the other; False where one failed.

    After `budget` seconds the finished ones are kept, and the same command goes on: a distillation
    from its checkpoint, at most ten seconds and an outer step old, a pool from its last file; a
    baseline starts again.
    """
    check_device(device)

    def ring(*_: object) -> None:
        raise OutOfTime

    if budget is not None:
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, budget)
    todo: list[Missing] = []
    done: list[Done] = []
    succeeded = True
    planned = False
    try:
        todo = missing(shard)
        planned = True
        for m in todo:
            succeeded &= _run_one(m, device, done)
    except OutOfTime:
        print("the budget is spent; the same command goes on from here", file=sys.stderr)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if done:
        print("\n" + "\n".join(map(str, done)))
    if planned:
        _print_rest(todo)
    return succeeded


def _run_one(m: Missing, device: str, done: list[Done]) -> bool:
    """Run one experiment and say how it went; False where it failed."""
    if m.absent:
        print(f"{m.name}: not run, {m.absent} is not here")
        return True
    began = time.monotonic()
    copy = None
    if m.dataset is not None and m.dataset != m.config.dataset:
        copy = {"dataset": m.dataset}
    try:
        with full_memory_named():
            record = run(m.name, overrides=copy, device=device)
    except (InputError, MachineError) as error:
        print(f"{m.name}: failed, {error}", flush=True)
        return False
    if record is not None:
        line = Done(m.name, record, time.monotonic() - began)
        done.append(line)
        print(
            f"{m.name}: {record.accuracy} % in {line.seconds:,.0f} s, {record.folder}", flush=True
        )
    return True


def _print_rest(todo: list[Missing]) -> None:
    rest = [m.name for m in todo if not _recorded(m.name)]
    names = f": {', '.join(rest)}" if rest else ""
    print(f"{len(todo) - len(rest)} done, {len(rest)} still missing{names}")
    if absent := sorted({m.absent for m in todo if m.absent}):
        command = f"`ddcore data {' '.join(absent)}`"
        print(f"{command} fetches what is not here, or says why not", file=sys.stderr)
