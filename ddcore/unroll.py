"""Gradient descent on distilled data, and its exact gradient (equations 2, 3 and 8, section 3.4).

`train` runs, for e in 0..E-1 and s in 0..S-1,

    theta <- theta - lrs[e, s] * grad_theta loss(images[s], targets[s]; theta)

for N networks at once. `meta_gradient` (in later work: hypergradient) differentiates the loss that
the trained networks have on real data with respect to the images, the learning rates and, where
they are learned, the soft labels. Two estimators give the same numbers:

- "autograd", the definition: PyTorch records the unrolled loop and differentiates it. Memory grows
  by one graph for each step.
- "back-gradient" (Domke, 2012; Maclaurin et al., 2015; section 3.4): the loop runs forward and
  keeps only the weights [T, N, P]; then, from the last step to the first, with
  v = dL/dtheta_{t+1},

      phi(theta, x, y) = <v, grad_theta loss(x, y; theta)> = d/de loss(x, y; theta + e v) at e = 0
      dL/dtheta_t = v - lr * d phi/d theta      (a Hessian-vector product: Pearlmutter, 1994)
      dL/dx      += -lr * d phi/dx,   dL/dy += -lr * d phi/dy,   dL/dlr = -phi

  One directional derivative and one gradient of it give all of these. Memory grows by one weight
  vector a step. (Such mixed differentiation in other problems: MixFlow-MG, Kemaev et al., 2025.)
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddcore.distilled import DistilledData, Learned
from ddcore.networks import Network, Weights, as_network
from ddcore.support.errors import InputError

# (logits [N, B, K], labels [B] or [N, B]) -> losses [N]
Objective = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each network, in nats (the loss of section 3).

    Args:
        logits: [N, B, K].
        labels: int64 [B], or [N, B] for each network's own.

    Returns:
        Losses [N].
    """
    labels = labels.expand(logits.shape[:2])
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view(labels.shape).mean(1)


def inner_loss(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Sum over networks of the mean of -sum_k t_k log p_k: images [n, C, H, W], targets [n, K] ->
    scalar.

    The networks do not interact, so its gradient with respect to theta [N, P] is each network's
    own.
    """
    log_p = network(theta, images).log_softmax(-1)  # [N, n, K]
    return -(targets * log_p).sum() / len(images)


def forward_step(
    network: Network, theta: Tensor, images: Tensor, targets: Tensor, lr: Tensor
) -> Tensor:
    """One step of gradient descent (eq. 2): theta [N, P] -> theta [N, P]."""
    if kernel := network.kernel(theta, images, targets, lr):
        return kernel.forward_step(theta, images, targets, lr)
    return theta - lr * torch.func.grad(inner_loss, argnums=1)(network, theta, images, targets)


def reverse_step(
    network: Network, theta: Tensor, v: Tensor, images: Tensor, targets: Tensor, lr: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same step backwards: v = dL/dtheta_{t+1} [N, P] -> dL/dtheta_t, dL/dimages, dL/dtargets,
    dL/dlr."""
    if kernel := network.kernel(theta, images, v, targets, lr):
        return kernel.reverse_step(theta, v, images, targets, lr)
    derivatives = forward_over_reverse if network.forward_over_reverse else reverse_over_forward
    phi, (hv, dx, dt) = derivatives(network, theta, v, images, targets)
    return v - lr * hv, -lr * dx, -lr * dt, -phi


def reverse_over_forward(
    network: Network, theta: Tensor, v: Tensor, images: Tensor, targets: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """phi = <v, grad_theta loss>, and its derivatives by theta, images and targets, as the gradient
    of a directional derivative. Compiled, a LeNet's takes three quarters of the other order's time.
    """

    def phi(theta: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros((), dtype=theta.dtype, device=theta.device)

        def along(e: Tensor) -> Tensor:
            return inner_loss(network, theta + e * v, images, targets)

        slope = torch.func.jvp(along, (zero,), (torch.ones_like(zero),))[1]
        return slope, slope

    derivatives, slope = torch.func.grad(phi, argnums=(0, 1, 2), has_aux=True)(
        theta, images, targets
    )
    return slope, derivatives


def forward_over_reverse(
    network: Network, theta: Tensor, v: Tensor, images: Tensor, targets: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The same as the directional derivative of a gradient: where a module has an `nn.LayerNorm`,
    PyTorch 2.13's other order is wrong, without a message. This one cannot be compiled."""

    def gradients(theta: Tensor) -> tuple[Tensor, ...]:
        return torch.func.grad(inner_loss, argnums=(1, 2, 3))(network, theta, images, targets)

    primal, derivatives = torch.func.jvp(gradients, (theta,), (v,))[:2]
    return (primal[0] * v).sum(), derivatives


def real_gradient(
    network: Network, theta: Tensor, images: Tensor, labels: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    """The gradient, with respect to theta [N, P], of the networks' mean loss on real data, and
    their losses [N]."""
    kernel = network.kernel(theta, images) if objective is cross_entropy else None
    if kernel and labels.dim() <= images.dim() - 3:
        return kernel.real_gradient(theta, images, labels)

    def mean_loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        losses = objective(network(theta, images), labels)
        return losses.mean(), losses

    return torch.func.grad(mean_loss, has_aux=True)(theta)


class StepFunctions(NamedTuple):
    """A gradient step there and back, as they stand above or compiled."""

    forward: Callable[..., Tensor] = forward_step
    reverse: Callable[..., tuple[Tensor, ...]] = reverse_step


EAGER = StepFunctions()


def train(
    network: Network,
    distilled: DistilledData,
    theta: Tensor,
    step: Callable[..., Tensor] = forward_step,
    keep: Tensor | None = None,
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


def train_in_float64(
    network: Network, distilled: DistilledData, theta: Tensor, keep: Tensor | None = None
) -> Tensor:
    """`train` in float64, rounded to theta's type at the end (and `keep` to its own as it is
    written): what machines agree on that start from the same weights.

    In float32 the order of a sum decides which of two nearly equal pixels a maximum takes and which
    side of 0 a ReLU is on. Such changes set off others, and some networks end elsewhere.
    """
    return train(network, distilled.to(torch.double), theta.double(), keep=keep).to(theta.dtype)


def meta_gradient(
    network: Network | nn.Module | str,
    distilled: DistilledData,
    weights: Tensor | Weights,
    batch: tuple[Tensor, Tensor],
    *,
    objective: Objective = cross_entropy,
    estimator: str = "back-gradient",
    step_functions: StepFunctions = EAGER,
) -> tuple[Tensor, DistilledData]:
    """The loss of networks trained on distilled data, and its gradient (eq. 3, and 4 as a mean).

    Args:
        network: a name, a `Network` or any suitable `nn.Module`.
        distilled: what the networks are trained on.
        weights: theta_0 of N networks, [N, P] or {name: [N, *shape]}.
        batch: real images [B, C, H, W] and labels [B], shared by the networks, or [N, B, C, H, W]
            and [N, B].
        objective: (logits [N, B, K], labels) -> losses [N].
        estimator: "back-gradient" or "autograd", which give the same numbers.

    Returns:
        The losses [N], and the gradient of their mean in the shape of `distilled`: `images`, `lrs`
        and, where `distilled` has them, `soft_labels` hold the derivatives.

    Raises:
        InputError: where these do not belong together, for a module that cannot be differentiated
            twice, or another estimator.
    """
    # these files know this one
    from ddcore.support.doors import check_batch, check_distilled, check_readable
    from ddcore.support.modules import check_second_derivatives

    targets = check_distilled(distilled).targets()
    channels, side = distilled.images.shape[2:4]
    classes = targets.shape[-1]
    stack = as_network(network, channels, side, classes)
    theta = stack.flatten(weights)
    check_readable(stack, theta, distilled.images, classes)
    check_batch(stack, theta, batch, classes, labelled=objective is cross_entropy)
    if estimator == "back-gradient":
        return back_gradient(stack, distilled, theta, batch, objective, step_functions)
    if estimator != "autograd":
        raise InputError(f"estimator {estimator!r}: 'back-gradient' or 'autograd' is allowed")
    try:
        return _autograd(stack, distilled, theta, batch, objective)
    except RuntimeError:
        check_second_derivatives(stack, theta, distilled.images[0], targets[0], by_autograd=True)
        raise


@torch.no_grad()
def back_gradient(
    network: Network,
    distilled: DistilledData,
    theta: Tensor,
    batch: tuple[Tensor, Tensor],
    objective: Objective = cross_entropy,
    step_functions: StepFunctions = EAGER,
) -> tuple[Tensor, DistilledData]:
    """`meta_gradient` by back-gradient, of weights theta [N, P], for those who call it often: of
    what it is given, nothing is checked but a module's second derivatives, once."""
    order = distilled.order()
    targets = distilled.targets()
    if not network.checked:
        from ddcore.support.modules import check_second_derivatives

        check_second_derivatives(network, theta, distilled.images[0], targets[0])
    trajectory = theta.new_empty(len(order), *theta.shape)
    theta = train(network, distilled, theta, step_functions.forward, keep=trajectory)
    v, losses = real_gradient(network, theta, *batch, objective)

    gradient = Learned(distilled.images, distilled.lrs, targets).map(torch.zeros_like)
    images, lrs, labels = gradient
    assert labels is not None
    for t, (e, s) in reversed(list(enumerate(order))):
        inputs = distilled.images[s], targets[s], distilled.lrs[e, s]
        v, dx, dt, dlr = step_functions.reverse(network, trajectory[t], v, *inputs)
        images[s] += dx
        labels[s] += dt
        lrs[e, s] = dlr
    soft_labels = None if distilled.soft_labels is None else labels
    return losses, distilled.with_learned(Learned(images, lrs, soft_labels))


@torch.enable_grad()
def _autograd(
    network: Network,
    distilled: DistilledData,
    theta: Tensor,
    batch: tuple[Tensor, Tensor],
    objective: Objective,
) -> tuple[Tensor, DistilledData]:
    leaves = distilled.learned().map(lambda t: t.detach().clone().requires_grad_())
    copy = distilled.with_learned(leaves)
    theta = theta.detach().clone().requires_grad_()

    def step(network: Network, theta: Tensor, x: Tensor, t: Tensor, lr: Tensor) -> Tensor:
        loss = inner_loss(network, theta, x, t)
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        return theta - lr * gradient

    images, labels = batch
    losses = objective(network(train(network, copy, theta, step), images), labels)
    gradients = torch.autograd.grad(losses.mean(), list(leaves.tensors().values()))
    return losses.detach(), distilled.with_learned(Learned(*gradients))
