"""Gradient descent on distilled data, and its exact gradient (equations 2, 3 and 8, section 3.4).

`train` runs, for e in 0..E-1 and s in 0..S-1,

    theta <- theta - lrs[e, s] * grad_theta loss(images[s], targets[s]; theta)

for N networks at once. `meta_gradient` differentiates the loss that the trained networks have on real data with
respect to the images, the rates and, where they are learned, the soft labels. Two estimators give the same numbers:

- "autograd", the definition: PyTorch records the unrolled loop and differentiates it. Memory grows by one graph
  for each step.
- "back-gradient" (Domke, 2012; Maclaurin et al., 2015; section 3.4): the loop runs forward and keeps only the weights
  [T, N, P]; then, from the last step to the first, with v = dL/dtheta_{t+1},

      phi(theta, x, y) = <v, grad_theta loss(x, y; theta)> = d/de loss(x, y; theta + e v) at e = 0
      dL/dtheta_t = v - lr * d phi/d theta      (a Hessian-vector product: Pearlmutter, 1994)
      dL/dx      += -lr * d phi/dx,   dL/dy += -lr * d phi/dy,   dL/dlr = -phi

  One directional derivative and one gradient of it give all of these. Memory grows by one weight vector a step.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor

from ddcore.distilled import DistilledData
from ddcore.errors import InputError
from ddcore.networks import Network, Weights, as_network, generator

SAME_DERIVATIVE = 1e-6  # in float64, relative: 1e-15 to 1e-12 are measured
Objective = Callable[[Tensor, Tensor], Tensor]  # (logits [N, B, K], labels [B] or [N, B]) -> losses [N]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each network: logits [N, B, K], labels int64 [B] or [N, B] -> losses [N], in nats."""
    labels = labels.expand(logits.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)


def inner_loss(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Sum over networks of the mean of -sum_k t_k log p_k: images [n, C, H, W], targets [n, K] -> scalar.

    The networks do not interact, so its gradient with respect to theta [N, P] is each network's own.
    """
    log_p = network(theta, images).log_softmax(-1)  # [N, n, K]
    return -(targets * log_p).sum() / len(images)


def forward_step(network: Network, theta: Tensor, images: Tensor, targets: Tensor, lr: Tensor) -> Tensor:
    """One step of gradient descent (eq. 2): theta [N, P] -> theta [N, P]."""
    return theta - lr * torch.func.grad(inner_loss, argnums=1)(network, theta, images, targets)


def reverse_step(
    network: Network, theta: Tensor, v: Tensor, images: Tensor, targets: Tensor, lr: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same step backwards: v = dL/dtheta_{t+1} [N, P] -> dL/dtheta_t, dL/dimages, dL/dtargets, dL/dlr."""
    derivatives = forward_over_reverse if network.forward_over_reverse else reverse_over_forward
    phi, (hv, dx, dt) = derivatives(network, theta, v, images, targets)
    return v - lr * hv, -lr * dx, -lr * dt, -phi


def reverse_over_forward(network: Network, theta: Tensor, v: Tensor, images: Tensor, targets: Tensor):
    """phi = <v, grad_theta loss> and its derivatives by theta, images and targets: the gradient of a directional
    derivative. Compiled, a LeNet's takes three quarters of the other order's time."""

    def phi(theta: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros((), dtype=theta.dtype, device=theta.device)

        def along(e: Tensor) -> Tensor:
            return inner_loss(network, theta + e * v, images, targets)

        _, slope = torch.func.jvp(along, (zero,), (torch.ones_like(zero),))
        return slope, slope

    derivatives, slope = torch.func.grad(phi, argnums=(0, 1, 2), has_aux=True)(theta, images, targets)
    return slope, derivatives


def forward_over_reverse(network: Network, theta: Tensor, v: Tensor, images: Tensor, targets: Tensor):
    """The same as the directional derivative of a gradient. For modules: PyTorch 2.13's other order is wrong, without a
    message, where a module has an `nn.LayerNorm`."""

    def gradients(theta: Tensor) -> tuple[Tensor, ...]:
        return torch.func.grad(inner_loss, argnums=(1, 2, 3))(network, theta, images, targets)

    (gradient, _, _), derivatives = torch.func.jvp(gradients, (theta,), (v,))
    return (gradient * v).sum(), derivatives


def check_second_derivatives(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> None:
    """InputError where `reverse_step` of a module is not what autograd gives, or PyTorch cannot compute one of them.

    Compares dL/dtheta_t and dL/dimages of one step with a random v, of one network, in float64.
    """
    theta, images, targets = theta[:1].double(), images.double(), targets.double()
    v = torch.randn(theta.shape, generator=generator("second derivatives"), dtype=theta.dtype).to(theta.device)
    v = v * (theta.norm() / v.norm())
    lr = torch.ones((), dtype=theta.dtype, device=theta.device)
    refusal = f"{network.name} cannot be distilled by back-gradient, which needs second derivatives"
    try:
        ours = reverse_step(network, theta, v, images, targets, lr)[:2]
        leaves = theta.detach().requires_grad_(), images.detach().requires_grad_()
        (g,) = torch.autograd.grad(inner_loss(network, *leaves, targets), leaves[0], create_graph=True)
        exact = torch.autograd.grad(((leaves[0] - g) * v).sum(), leaves)
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{refusal}: {reason}") from error
    for name, a, b in zip(("weights", "images"), ours, exact, strict=True):
        difference = ((a - b).norm() / b.norm()).item()
        if not difference < SAME_DERIVATIVE:
            raise InputError(
                f"{refusal}: PyTorch's forward and reverse modes give other gradients of the {name}, by "
                f'{100 * difference:.2g} %; estimator="autograd" needs the second alone'
            )


def real_gradient(network: Network, theta: Tensor, images: Tensor, labels: Tensor, objective: Objective):
    """The gradient, with respect to theta [N, P], of the networks' mean loss on real data, and their losses [N]."""

    def mean_loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        losses = objective(network(theta, images), labels)
        return losses.mean(), losses

    return torch.func.grad(mean_loss, has_aux=True)(theta)


class Compiled:
    """A gradient step through `torch.compile`, which takes 20 to 70 s the first time and seconds from its cache. Where
    that fails (no C++ compiler, a cache that a killed process left damaged), a line says so and the step is called as
    it stands."""

    def __init__(self, step: Callable):
        self.step, self.call = step, torch.compile(step, dynamic=False)

    def __call__(self, *given):
        try:
            return self.call(*given)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            self.call = self.step
            why = f"{type(error.inner_exception).__name__}: {error.inner_exception}".splitlines()[0]
            print(f"running without torch.compile, 1.5 to 2.5 times slower: {why}", file=sys.stderr)
            return self.step(*given)


class Steps(NamedTuple):
    """A gradient step there and back, as they stand above or compiled."""

    forward: Callable[..., Tensor] = forward_step
    reverse: Callable[..., tuple[Tensor, ...]] = reverse_step

    @property
    def compiled(self) -> bool:
        """Whether both are, and compiling has not failed."""
        return all(isinstance(way, Compiled) and way.call is not way.step for way in self)


EAGER = Steps()
_checked: WeakSet[Network] = WeakSet()  # modules whose second derivatives were found right


def compiled_steps() -> Steps:
    """The same functions compiled (`real_gradient` would gain nothing)."""
    torch.compiler.reset()  # another configuration's shapes do not count towards the limit of recompilations
    return Steps(Compiled(forward_step), Compiled(reverse_step))


def train(
    network: Network, distilled: DistilledData, theta: Tensor, step: Callable = forward_step, keep: Tensor | None = None
) -> Tensor:
    """Train N networks on the distilled data (eq. 8): theta_0 [N, P] -> theta_T [N, P].

    `keep` [T, N, P], where given, receives theta_0 .. theta_{T-1}.
    """
    targets = distilled.targets()
    for t, (e, s) in enumerate(distilled.order()):
        if keep is not None:
            keep[t] = theta
        theta = step(network, theta, distilled.images[s], targets[s], distilled.lrs[e, s])
    return theta


def train_in_float64(network: Network, distilled: DistilledData, theta: Tensor, keep: Tensor | None = None) -> Tensor:
    """`train` in float64, rounded to theta's type at the end (and `keep` to its own as it is written): what machines
    agree on that start from the same weights.

    In float32 the order of a sum decides which of two nearly equal pixels a maximum takes and which side of 0 a ReLU is
    on. Such changes set off others, and some networks end elsewhere.
    """
    return train(network, distilled.to(torch.double), theta.double(), keep=keep).to(theta.dtype)


def meta_gradient(
    network, distilled: DistilledData, weights: Tensor | Weights, batch: tuple[Tensor, Tensor], *,
    objective: Objective = cross_entropy, estimator: str = "back-gradient", step_functions: Steps = EAGER,
) -> tuple[Tensor, DistilledData]:  # fmt: skip
    """Losses [N] of the networks trained on `distilled`, and the gradient of their mean (eq. 3 and 4).

    weights: theta_0 of N networks, [N, P] or {name: [N, *shape]}. batch: real images [B, C, H, W] and labels [B],
    shared by the networks, or [N, B, C, H, W] and [N, B]. Returned in the shape of `distilled`: `images`, `lrs` and,
    where `distilled` has them, `soft_labels` hold the derivatives.
    """
    order, targets = distilled.order(), distilled.targets()
    network = as_network(network, *distilled.images.shape[2:4], targets.shape[-1])
    theta = network.flatten(weights)
    if estimator == "autograd":
        return _autograd(network, distilled, theta, batch, objective)
    if estimator != "back-gradient":
        raise ValueError(f"estimator {estimator!r}: 'back-gradient' or 'autograd'")
    if network.forward_over_reverse and network not in _checked:
        check_second_derivatives(network, theta, distilled.images[0], targets[0])
        _checked.add(network)
    trajectory = theta.new_empty(len(order), *theta.shape)
    theta = train(network, distilled, theta, step_functions.forward, keep=trajectory)
    v, losses = real_gradient(network, theta, *batch, objective)

    images, labels, lrs = (torch.zeros_like(t) for t in (distilled.images, targets, distilled.lrs))
    for t, (e, s) in reversed(list(enumerate(order))):
        now = distilled.images[s], targets[s], distilled.lrs[e, s]
        v, dx, dt, dlr = step_functions.reverse(network, trajectory[t], v, *now)
        images[s] += dx
        labels[s] += dt
        lrs[e, s] = dlr
    return losses, distilled.with_learned([images, lrs, labels][: len(distilled.learned())])


class CapturedMetaGradient:
    """`meta_gradient` of one network and objective on a CUDA device, for many calls.

    The first call records its thousands of small kernels as one CUDA graph. The next ones copy their tensors to where
    the graph reads them and replay it, which spares Python starting each kernel. What a call returns is overwritten by
    the next, and the memory that the graph computes in stays reserved. Tensors of other shapes are recorded anew. Where
    recording fails, a line says so and `meta_gradient` is called as it is.
    """

    def __init__(self, network: Network, objective: Objective = cross_entropy, step_functions: Steps = EAGER):
        self.plain = partial(meta_gradient, network, objective=objective, step_functions=step_functions)
        self.kind, self.replay = None, None

    def __call__(self, distilled: DistilledData, theta: Tensor, batch: tuple[Tensor, Tensor]):
        given = [theta, *batch, distilled.labels, *distilled.learned()]
        kind = [(t.shape, t.dtype, t.device) for t in given]
        if kind != self.kind:
            self.replay = None  # frees the memory of the last recording
            self.kind, self.replay = kind, self._record(distilled, given)
        return self.replay(given) if self.replay else self.plain(distilled, theta, batch)

    def _record(self, distilled: DistilledData, given: list[Tensor]) -> Callable | None:
        theta, images, answers, labels, *learned = places = [t.clone() for t in given]
        copy = replace(distilled, labels=labels).with_learned(learned)
        stream = torch.cuda.Stream(theta.device)
        stream.wait_stream(torch.cuda.current_stream(theta.device))
        with torch.cuda.stream(stream):  # and back to the caller's, also where recording fails
            self.plain(copy, theta, (images, answers))  # what happens only once, compiling too, is not recorded
            graph = torch.cuda.CUDAGraph()
            try:  # other threads, NCCL's too, may use the device meanwhile
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    result = self.plain(copy, theta, (images, answers))
            except RuntimeError as error:
                cause = f"{error.__context__ or error}".partition("\n")[0]  # leaving `graph` raises an error of its own
                print(f"running without a CUDA graph, several times slower: {cause}", file=sys.stderr)
                return None
        torch.cuda.current_stream(theta.device).wait_stream(stream)

        def replay(given: list[Tensor]) -> tuple[Tensor, DistilledData]:
            for place, t in zip(places, given, strict=True):
                place.copy_(t)
            graph.replay()
            return result

        return replay


def _autograd(network, distilled, theta, batch, objective):
    learned = [t.detach().clone().requires_grad_() for t in distilled.learned()]
    copy = distilled.with_learned(learned)
    theta = theta.detach().clone().requires_grad_()

    def step(network, theta, x, t, lr):
        (g,) = torch.autograd.grad(inner_loss(network, theta, x, t), theta, create_graph=True)
        return theta - lr * g

    losses = objective(network(train(network, copy, theta, step), batch[0]), batch[1])
    return losses.detach(), distilled.with_learned(torch.autograd.grad(losses.mean(), learned))
