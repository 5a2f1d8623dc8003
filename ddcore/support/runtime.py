"""The machine: device, memory, processes, threads, and a lock that frees itself."""

import ctypes
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from torch import Tensor

from ddcore.support.errors import InputError, MachineError

Result = TypeVar("Result")


class Process(NamedTuple):
    rank: int
    world_size: int


def process() -> Process:
    """This process among those that torchrun started; alone: (0, 1)."""
    if not dist.is_initialized():
        return Process(0, 1)
    return Process(dist.get_rank(), dist.get_world_size())


def start_processes(device: str) -> None:
    """Join the other processes where torchrun started this one."""
    if {"RANK", "MASTER_ADDR"} <= os.environ.keys() and not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device == "cuda" else "gloo")


def end_processes() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Return when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def value_of_first_process(value: Tensor) -> float:
    if dist.is_initialized():
        dist.broadcast(value, 0)
    return value.item()


def in_rounds(
    function: Callable[..., Result], rounds: Iterable[list[tuple]], *, ahead: bool
) -> Generator[list[Result]]:
    """The results of a function for each round of arguments. ahead: threads compute those of the
    next round meanwhile."""
    threads = ThreadPoolExecutor(4)  # which it starts when they are first asked for

    def begin(arguments: list[tuple]) -> list[Callable[[], Result]]:
        if ahead:
            return [threads.submit(function, *given).result for given in arguments]
        return [partial(function, *given) for given in arguments]

    try:
        begun = map(begin, rounds)
        pending = next(begun, None)
        while pending is not None:
            following = next(begun, None)
            yield [result() for result in pending]
            pending = following
    finally:
        threads.shutdown(cancel_futures=True)


def check_device(device: str) -> None:
    """InputError for a device that is not known or not here."""
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: one of cpu, cuda is allowed")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device here; cpu is allowed")


def set_up(device: str) -> None:
    """Prepare this process to compute: float32 means float32 (no shortened products on a GPU), and
    freed memory is kept.

    By default glibc maps each tensor above 32 MB anew and gives the top of the heap back, and large
    batches pay for that in page faults.
    """
    check_device(device)
    torch.backends.cudnn.allow_tf32 = False
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block has a mapping of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give back only beyond 2 GB


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """A lock that the system frees when its holder dies; under torchrun the first process holds it
    for all."""
    lock = FileLock(path)
    if process().rank == 0:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if process().world_size > 1:
                raise MachineError(
                    "another process computes this configuration; run this again after it"
                ) from None
            print(
                "another process computes this configuration: waiting for its record",
                file=sys.stderr,
            )
            lock.acquire()
    wait_for_all()
    try:
        yield
    finally:
        lock.release()
