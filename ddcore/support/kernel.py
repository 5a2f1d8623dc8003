"""LeNet's gradient steps, reverse steps and logits in C++ (`lenet.cpp`), for processors.

They are what `unroll` and `accuracy` compute, several times faster: a 5x5 filter is visited only
where it wins its 2x2 maximum, once that is known, and nothing is stored that the next loop could
take from a register. The first call builds the library for one type of number and one shape of
image, which takes seconds, and keeps it in the user's cache folder.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad

from ddcore.support.errors import MachineError
from ddcore.support.files import cache_folder, whole

SOURCES = [Path(__file__).with_name(name) for name in ("layers.h", "lenet.cpp")]
REALS = {torch.float32: "float", torch.float64: "double"}
FLAGS = ["-std=c++17", "-O3", "-march=native", "-shared", "-fPIC"]
if sys.platform == "linux":
    FLAGS.append("-fopenmp")  # the same threads as PyTorch's
LOGITS = 100_000  # images times networks at once: 4 MB of logits

_allowed = True
_libraries: list[ctypes.CDLL] = []  # that are loaded


@contextmanager
def allowed(yes: bool) -> Iterator[None]:
    """Whether the kernel may be used inside, by all threads."""
    global _allowed
    before = _allowed
    _allowed = yes
    try:
        yield
    finally:
        _allowed = before


class Kernel:
    """What `unroll` asks for, of LeNets with images of one shape. Tensors are on the processor and
    of one type; none needs a gradient."""

    def __init__(self, library: ctypes.CDLL, classes: int):
        self.library = library
        self.classes = classes

    def forward_step(
        self, theta: Tensor, images: Tensor, targets: Tensor, lr: Tensor | float
    ) -> Tensor:
        out = theta.clone(memory_format=torch.contiguous_format)
        targets = targets.expand(len(images), self.classes)
        self._gradient_step(out, theta, images, targets, float(lr))
        return out

    def real_gradient(self, theta: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of the networks' mean cross-entropy; and their losses [N]."""
        out = torch.zeros_like(theta, memory_format=torch.contiguous_format)
        targets = F.one_hot(labels.expand(images.shape[:-3]), self.classes).to(theta.dtype)
        losses = self._gradient_step(out, theta, images, targets, -1 / len(theta))
        return out, losses.mean(1)

    def _gradient_step(
        self, out: Tensor, theta: Tensor, images: Tensor, targets: Tensor, lr: float
    ) -> Tensor:
        own = images.dim() == 5
        n = images.shape[own]
        losses = theta.new_empty(len(theta), n)
        tensors = [theta.contiguous(), images.contiguous(), targets.contiguous()]
        self.library.gradient_step(
            *_pointers(tensors),
            ctypes.c_bool(own),
            ctypes.c_double(lr),
            *_pointers([out, losses]),
            *_sizes(theta, n, images),
        )
        return losses

    def reverse_step(
        self, theta: Tensor, v: Tensor, images: Tensor, targets: Tensor, lr: Tensor | float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n = len(images)
        v = v.expand_as(theta)
        targets = targets.expand(n, self.classes)
        out = v.clone(memory_format=torch.contiguous_format)
        d_images = images.new_empty(len(theta), *images.shape)
        d_targets = targets.new_empty(len(theta), *targets.shape)
        d_lr = theta.new_empty(len(theta), n)
        tensors = [t.contiguous() for t in (theta, v, images, targets)]
        self.library.reverse_step(
            *_pointers(tensors),
            ctypes.c_double(float(lr)),
            *_pointers([out, d_images, d_targets, d_lr]),
            *_sizes(theta, n, images),
        )
        return out, d_images.sum(0), d_targets.sum(0), d_lr.sum()

    def predictions(self, theta: Tensor, images: Tensor) -> Tensor:
        """Classes int64 [N, B]."""
        chunks = images.split(max(1, LOGITS // len(theta)))
        return torch.cat([self.logits(theta, x).argmax(-1) for x in chunks], dim=1)

    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        """[N, B, classes] of images [B, C, H, W] or [N, B, C, H, W]."""
        own = images.dim() == 5
        n = images.shape[own]
        out = theta.new_empty(len(theta), n, self.classes)
        tensors = [theta.contiguous(), images.contiguous()]
        self.library.logits(
            *_pointers(tensors), ctypes.c_bool(own), *_pointers([out]), *_sizes(theta, n, images)
        )
        return out


def _pointers(tensors: list[Tensor]) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(t.data_ptr()) for t in tensors]


def _sizes(theta: Tensor, n: int, images: Tensor) -> list:
    side, threads = images.shape[-1], torch.get_num_threads()
    return [*map(ctypes.c_int64, (len(theta), n)), *map(ctypes.c_int, (side, threads))]


def kernel_for(
    classes: int, theta: Tensor, images: Tensor, *others: Tensor | float
) -> Kernel | None:
    """For a step with these tensors; None where PyTorch must compute it or refuse it: on another
    device, where the call is differentiated, vectorised or traced, and without a C++ compiler."""
    if torch.compiler.is_compiling() or not _allowed or forward_ad._current_level >= 0:
        return None
    if theta.dtype not in REALS or images.shape[-3] not in (1, 3):
        return None
    if images.dim() not in (4, 5) or (images.dim() == 5 and len(images) != len(theta)):
        return None
    tensors = (theta, images, *map(torch.as_tensor, others))
    if not all(_is_plain(t, theta.dtype) for t in tensors):
        return None
    library = _library(REALS[theta.dtype], images.shape[-3], classes)
    return Kernel(library, classes) if library else None


def _is_plain(t: Tensor, dtype: torch.dtype) -> bool:
    """Whether these are numbers of that type (one alone may have another) in this machine's memory,
    and no more."""
    differentiated = t.requires_grad and torch.is_grad_enabled()
    vectorised = is_functorch_wrapped_tensor(t)
    right = t.dtype == dtype or t.dim() == 0
    here = t.device.type == "cpu" and t.numel() > 0
    return right and here and not differentiated and not vectorised


def is_built() -> bool:
    """Whether this process computes with it."""
    return any(_libraries)


@cache
def _library(real: str, channels: int, classes: int) -> ctypes.CDLL | None:
    """Built where the cache folder has none of this source, compiler and processor. None, after one
    line, where that is not possible."""
    try:
        _libraries.append(ctypes.CDLL(str(build(real, channels, classes))))
        return _libraries[-1]
    except (OSError, MachineError) as error:
        print(f"running LeNet in PyTorch, several times slower: {error}", file=sys.stderr)
        return None


def build(real: str, channels: int, classes: int) -> Path:
    """The library's file. MachineError where it cannot be compiled."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler:
        raise MachineError("there is no C++ compiler (c++, g++, or CXX) here")
    constants = [f"-DREAL={real}", f"-DCHANNELS={channels}", f"-DCLASSES={classes}"]
    digest = hashlib.sha256(_run([compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull]))
    for part in (*(path.read_bytes() for path in SOURCES), repr(FLAGS + constants).encode()):
        digest.update(part)
    file = cache_folder() / "kernels" / f"lenet-{digest.hexdigest()[:16]}.so"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as part:
            _run([compiler, *FLAGS, *constants, str(SOURCES[-1]), "-o", str(part)])
    return file


def _run(command: list[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True)
    except OSError as error:
        raise MachineError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise MachineError(f"{command[0]} failed: {lines[0]}")
    return done.stdout
