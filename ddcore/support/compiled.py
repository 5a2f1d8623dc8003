"""How the steps of `ddcore.unroll` run faster: through `torch.compile`, or with the whole
meta-gradient recorded as one CUDA graph. Neither changes a result beyond rounding."""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ddcore.distilled import DistilledData, Learned
from ddcore.networks import Network
from ddcore.unroll import (
    EAGER,
    Objective,
    StepFunctions,
    back_gradient,
    cross_entropy,
    forward_step,
    reverse_step,
)

SECTIONS = ((40, 48), (58, 60), (60, 62))  # bytes of an ELF header: where, entry's size, entries


class Compiled:
    """A gradient step through `torch.compile`, which takes 20 to 70 s the first time and seconds
    from its cache.

    Where that fails (no C++ compiler), a line says so and the step is called as it stands; so is
    that of a module whose second derivatives are taken forward over reverse.
    """

    def __init__(self, step: Callable):
        self.step = step
        self.call = torch.compile(step, dynamic=False)

    def __call__(self, network: Network, *arguments):
        from torch._dynamo.exc import BackendCompilerFailed  # takes longer than PyTorch itself

        if network.forward_over_reverse:
            self.call = self.step
        try:
            return self.call(network, *arguments)
        except BackendCompilerFailed as error:
            self.call = self.step
            cause = error.inner_exception
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
            print(
                f"running without torch.compile, 1.5 to 2.5 times slower: {reason}",
                file=sys.stderr,
            )
            return self.step(network, *arguments)


def remove_unfinished_libraries() -> None:
    """What a process that was killed while it compiled left in the compiler's cache: to load part
    of a library ends the next process too."""
    from torch._inductor.codecache import get_lock_dir
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    for library in Path(cache_dir()).glob("*/*.so"):
        if not is_whole(library):
            lock = FileLock(Path(get_lock_dir()) / f"{library.name.split('.')[0]}.lock")
            with contextlib.suppress(Timeout), lock.acquire(timeout=0):  # else it is being written
                library.unlink(missing_ok=True)
                print(f"compiling anew what a killed process left: {library}", file=sys.stderr)


def is_whole(library: Path) -> bool:
    """Whether an ELF file (System V ABI) is as long as its header says: its last part is the table
    of its sections. Files of other formats pass."""
    with library.open("rb") as file:
        head = file.read(64)
    if head and not head.startswith(b"\x7fELF"):
        return True
    if len(head) < 64:
        return False
    start, size, count = (int.from_bytes(head[a:b], "little") for a, b in SECTIONS)
    return library.stat().st_size >= start + size * count


def compiled_steps() -> StepFunctions:
    """The steps of gradient descent compiled (`real_gradient` would gain nothing)."""
    remove_unfinished_libraries()
    torch.compiler.reset()  # other shapes do not count towards the limit of recompilations
    return StepFunctions(Compiled(forward_step), Compiled(reverse_step))


def is_compiled(step_functions: StepFunctions) -> bool:
    """Whether both steps are, and compiling has not failed."""
    return all(isinstance(step, Compiled) and step.call is not step.step for step in step_functions)


class CapturedMetaGradient:
    """`back_gradient` of one network and objective on a CUDA device, for many calls.

    The first call records its thousands of small kernels as one CUDA graph. The next ones copy
    their tensors to where the graph reads them and replay it, which spares Python starting each
    kernel. What a call returns is overwritten by the next, and the memory that the graph computes
    in stays reserved. Tensors of other shapes are recorded anew. Where recording fails, a line says
    so and `back_gradient` is called as it is.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective = cross_entropy,
        step_functions: StepFunctions = EAGER,
    ):
        self.plain = partial(
            back_gradient, network, objective=objective, step_functions=step_functions
        )
        self.signature: list | None = None
        self.replay: Callable | None = None

    def __call__(
        self, distilled: DistilledData, theta: Tensor, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, DistilledData]:
        learned = distilled.learned().tensors().values()
        inputs = [theta, *batch, distilled.labels, *learned]
        signature = [(t.shape, t.dtype, t.device) for t in inputs]
        if signature != self.signature:
            self.replay = None  # frees the memory of the last recording
            self.signature = signature
            self.replay = self._record(distilled, inputs)
        if self.replay is None:
            return self.plain(distilled, theta, batch)
        return self.replay(inputs)

    def _record(self, distilled: DistilledData, inputs: list[Tensor]) -> Callable | None:
        places = [t.clone() for t in inputs]
        theta, images, answers, labels, *learned = places
        copy = replace(distilled, labels=labels).with_learned(Learned(*learned))
        stream = torch.cuda.Stream(theta.device)
        stream.wait_stream(torch.cuda.current_stream(theta.device))
        with torch.cuda.stream(stream):  # and back to the caller's, also where recording fails
            # what happens only once, compiling too, is not recorded
            self.plain(copy, theta, (images, answers))
            graph = torch.cuda.CUDAGraph()
            try:  # other threads, NCCL's too, may use the device meanwhile
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    result = self.plain(copy, theta, (images, answers))
            except RuntimeError as error:
                # leaving `graph` raises an error of its own
                cause = f"{error.__context__ or error}".partition("\n")[0]
                print(
                    f"running without a CUDA graph, several times slower: {cause}", file=sys.stderr
                )
                return None
        torch.cuda.current_stream(theta.device).wait_stream(stream)

        def replay(inputs: list[Tensor]) -> tuple[Tensor, DistilledData]:
            for place, t in zip(places, inputs, strict=True):
                place.copy_(t)
            graph.replay()
            return result

        return replay
