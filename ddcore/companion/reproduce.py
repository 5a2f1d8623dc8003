"""Run what has no record yet at the paper's scale, most valuable first. Idempotent; can be stopped and split."""

import re
import signal
import statistics
import sys
import time
from functools import cache
from typing import NamedTuple

from ddcore.companion import inits, records
from ddcore.companion.cost import cost
from ddcore.companion.experiments import EXPERIMENTS, Config
from ddcore.companion.run import check_device, run
from ddcore.errors import InputError, MachineError, full_memory_named


class Missing(NamedTuple):
    """An experiment without a record, with the copy of its data that is here (where none is, what is `absent`)."""

    name: str
    config: Config
    dataset: str
    absent: str
    seconds: float


def missing(shard: tuple[int, int] = (1, 1)) -> list[Missing]:
    """What is to be done, in order; `shard` (k, n) takes every n-th experiment, from the k-th."""
    found, seen, as_recorded = [], set(), ratios()
    here = cache(records.here)
    for name in list(EXPERIMENTS)[shard[0] - 1 :: shard[1]]:
        config = EXPERIMENTS[name]
        if records.find(name) is None:
            absent = next((n for n in (config.dataset, config.source) if n and here(n) is None), "")
            ratio = as_recorded.get(config.network, 1.0)
            seconds = ratio * cost(config)
            training = inits.training_of(config)
            if config.pretrained_on and training.key not in seen:  # the first trains the pool
                seen.add(training.key)
                seconds += ratio * inits.untrained(config) * cost(training.model_copy(update={"nets": 1}))
            found.append(Missing(name, config, here(config.dataset), absent, seconds))
    return found


def ratios() -> dict[str, float]:
    """By network: the median of what processors took for its records, in core-seconds, over what `cost` says."""
    found: dict[str, list[float]] = {}
    for record in records.everywhere():
        config, made = EXPERIMENTS[record.folder.parent.name], record.environment
        if re.fullmatch(r"[^;]* cores", made["device"]):
            seconds = made["seconds"] * made["threads"] * made["world_size"]
            found.setdefault(config.network, []).append(seconds / cost(config))
    return {network: statistics.median(values) for network, values in found.items()}


def plan(shard: tuple[int, int] = (1, 1)) -> str:
    """A line for each missing experiment and their sum."""
    todo = missing(shard)
    where = [f"{m.absent} is not here" if m.absent else m.dataset for m in todo]
    lines = [f"{m.name:42} {said:20} {m.seconds:10,.0f} s" for m, said in zip(todo, where, strict=True)]
    hours, waiting = sum(m.seconds for m in todo) / 3600, sum(bool(m.absent) for m in todo)
    said = f"{len(todo)} of {len(EXPERIMENTS)} experiments missing, about {hours:.1f} core-hours"
    return "\n".join([*lines, said + (f"; {waiting} wait for their data" if waiting else "")])


class OutOfTime(BaseException):
    """Raised by the alarm that ends the budget; not an Exception, so that nothing takes it for a failure."""


def reproduce(budget: float | None = None, shard: tuple[int, int] = (1, 1), device: str = "cpu") -> bool:
    """Run them one after the other; False where one failed. After `budget` seconds the finished ones are kept, and the
    same command goes on: a distillation from its checkpoint, at most ten seconds and an outer step old, a pool from its
    last file; a baseline starts again."""
    check_device(device)

    def ring(*_: object) -> None:
        raise OutOfTime

    if budget is not None:
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, budget)
    failed, todo, done = False, None, []
    try:
        todo = missing(shard)
        for m in todo:
            if m.absent:
                print(f"{m.name}: not run, {m.absent} is not here")
                continue
            began, copy = time.monotonic(), {"dataset": m.dataset} if m.dataset != m.config.dataset else None
            try:
                with full_memory_named():
                    record = run(m.name, overrides=copy, device=device)
            except (InputError, MachineError) as error:
                failed = True
                print(f"{m.name}: failed, {error}", flush=True)
                continue
            done.append((m.name, f"{record.accuracy} %", f"{time.monotonic() - began:,.0f} s", record.data["name"]))
            print(f"{m.name}: {record.accuracy} % in {done[-1][2]}, {record.folder}", flush=True)
    except OutOfTime:
        print("the budget is spent; the same command goes on from here", file=sys.stderr)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if done:
        print("\n" + "\n".join(f"{name:42} {accuracy:>10} {took:>10}  {data}" for name, accuracy, took, data in done))
    if todo is not None:
        left = [m.name for m in todo if records.find(m.name) is None]
        print(f"{len(todo) - len(left)} done, {len(left)} still missing" + (f": {', '.join(left)}" if left else ""))
        if absent := sorted({m.absent for m in todo if m.absent}):
            print(f"`ddcore data {' '.join(absent)}` fetches what is not here, or says why not", file=sys.stderr)
    return not failed
