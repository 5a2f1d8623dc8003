"""What PyTorch cannot do with a module of a reader's own: read such images, compute it for several
networks at once, or differentiate it twice. Each refusal names the layer, and what will do."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddcore.networks import ModuleStack, Network, generator
from ddcore.support.errors import InputError
from ddcore.unroll import inner_loss, reverse_step

SAME_DERIVATIVE = 1e-6  # in float64, relative: 1e-15 to 1e-12 are measured
ATTENTION = (
    "in training mode, with dropout=0 and inside "
    "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), it will do"
)
WAYS_OUT = {  # of a layer
    nn.MultiheadAttention: ATTENTION,
    nn.TransformerEncoderLayer: ATTENTION,
    nn.RNNBase: "nn.GRUCell, nn.LSTMCell or nn.RNNCell, called in a loop, will do",
    nn.RReLU: "nn.LeakyReLU will do",
    nn.Hardsigmoid: "nn.Sigmoid will do",
    nn.Module: "the same written out in elementary operations will do",
}


def classes_of(network: Network, theta: Tensor, images: Tensor) -> int:
    """How many classes a network tells apart: what its logits of one image show.

    Args:
        theta: [N, P].
        images: [B, C, H, W] or [N, B, C, H, W].

    Raises:
        InputError: where it cannot read such images, or gives no logits.
    """
    if images.dtype != theta.dtype:
        raise InputError(f"images of {images.dtype}, weights of {theta.dtype}: one is allowed")
    image = images.flatten(0, -4)[:1]
    try:
        with torch.no_grad():
            kernel = network.kernel(theta[:1], image)  # faster by far
            logits: Any = (kernel.logits if kernel else network)(theta[:1], image)
    except RuntimeError as error:
        raise InputError(_refusal(network, theta, image, error)) from None
    if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[:2] != (1, 1):
        shape = list(logits.shape[1:]) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"{network.name} gives {shape} for one image: [1, classes] is allowed")
    return logits.shape[-1]


# An attempt: (network, theta [1, P], images [n, C, H, W], targets [n, K]) -> why it fails, or "".
Attempt = Callable[[Network, Tensor, Tensor, Tensor], str]


def check_second_derivatives(
    network: Network, theta: Tensor, images: Tensor, targets: Tensor, *, by_autograd: bool = False
) -> None:
    """InputError where PyTorch's second derivatives of a module are missing or wrong.

    By autograd they are right where PyTorch has them. Otherwise this chooses the order in which
    they are taken, for one step of one network with a random v, in float64.
    """
    given = theta[:1].double(), images.double(), targets.double()
    attempt = autograd if by_autograd else order_of_derivatives
    if reason := attempt(network, *given):
        layer, way_out = layer_at_fault(network, *given[:2], attempt)
        if not by_autograd and not autograd(network, *given):
            way_out += ', and so will meta_gradient with estimator="autograd"'
        place = f" in its layer {layer}" if layer else ""
        raise InputError(
            f"{network.name} cannot be distilled: it needs second derivatives, and {reason}"
            f"{place}; {way_out}"
        )


def order_of_derivatives(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> str:
    """Set the first of the two orders that gives what autograd gives; else say why none does."""
    reason = "PyTorch has none"
    v = _direction(theta)
    for network.forward_over_reverse in (False, True):
        try:
            ours = reverse_step(network, theta, v, images, targets, theta.new_ones(()))[:2]
            error = _difference(ours, _by_autograd(network, theta, v, images, targets))
        except RuntimeError:
            continue
        if error < SAME_DERIVATIVE:
            network.checked = True
            return ""
        reason = f"PyTorch's are wrong by {100 * error:.2g} %"
    return reason


def autograd(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> str:
    """Nothing else is known that autograd could be held against."""
    try:
        _by_autograd(network, theta, _direction(theta), images, targets)
    except RuntimeError:
        return "PyTorch has none"
    return ""


def forward(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> str:
    """The logits alone."""
    try:
        network(theta, images)
    except RuntimeError as error:
        return str(error)
    return ""


def _direction(theta: Tensor) -> Tensor:
    rng = generator("second derivatives")
    v = torch.randn(theta.shape, generator=rng, dtype=theta.dtype).to(theta.device)
    return v / v.norm()


@torch.enable_grad()
def _by_autograd(
    network: Network, theta: Tensor, v: Tensor, images: Tensor, targets: Tensor
) -> tuple[Tensor, ...]:
    """What `reverse_step` gives for the weights and for the images."""
    leaves = theta.detach().requires_grad_(), images.detach().requires_grad_()
    loss = inner_loss(network, *leaves, targets)
    (gradient,) = torch.autograd.grad(loss, leaves[0], create_graph=True)
    return torch.autograd.grad(((leaves[0] - gradient) * v).sum(), leaves)


def _difference(ours: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """The relative difference: the larger of those of the weights and of the images."""
    smallest = torch.finfo(exact[0].dtype).tiny  # a derivative may be 0, and both agree
    differences = [
        (a - b).norm() / b.norm().clamp(min=smallest) for a, b in zip(ours, exact, strict=True)
    ]
    return torch.stack(differences).max().item()


# The layer at fault


class Call(nn.Module):
    """A layer as it was called, as a network of its own: of its first input, with a weight more, so
    that there is one."""

    def __init__(self, layer: nn.Module, others: tuple[Any, ...], options: dict[str, Any]):
        super().__init__()
        self.layer = layer
        self.others = others
        self.options = options
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.scale * x, *self.others, **self.options)
        return (y[0] if isinstance(y, tuple) else y).reshape(1, -1)


def calls(network: ModuleStack, theta: Tensor, images: Tensor) -> list[tuple[Call, Tensor]]:
    """Each call of a layer in a forward pass of one network, the innermost first, and its first
    input."""
    found = []

    def note(
        layer: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any
    ) -> None:
        first = [part[0] if isinstance(part, tuple) else part for part in (inputs or (0,), output)]
        if all(isinstance(t, Tensor) and t.is_floating_point() for t in first):
            found.append((Call(layer, inputs[1:], options), inputs[0]))

    hooks = [
        part.register_forward_hook(note, with_kwargs=True) for part in network.module.modules()
    ]
    try:
        network.one({name: w[0] for name, w in network.unflatten(theta).items()}, images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def layer_at_fault(
    network: Network, theta: Tensor, images: Tensor, attempt: Attempt
) -> tuple[str, str]:
    """The first layer that an attempt fails for alone, "" where that is none, and what will do."""
    if isinstance(network, ModuleStack):
        names = {part: name for name, part in network.module.named_modules()}
        for call, x in calls(network, theta, images):
            alone = ModuleStack(call)
            weights = {name: p.detach() for name, p in call.named_parameters() if p.requires_grad}
            if attempt(alone, alone.flatten(weights).double(), x, x.new_ones(1)):
                name = f"{type(call.layer).__name__} ({names[call.layer] or 'itself'})"
                ways_out = (way for kind, way in WAYS_OUT.items() if isinstance(call.layer, kind))
                return name, next(ways_out)
    return "", WAYS_OUT[nn.Module]


def _refusal(network: Network, theta: Tensor, image: Tensor, error: RuntimeError) -> str:
    """Why a network has no logits of an image."""
    reason = str(error).strip().partition("\n")[0]
    try:
        layer, way_out = layer_at_fault(network, theta[:1].double(), image.double(), forward)
    except RuntimeError:  # one network alone cannot read it either
        layer = way_out = ""
    if not layer:
        return f"{network.name} cannot read images of {list(image.shape[1:])}: {reason}"
    if "random" in reason:
        return (
            f"{network.name} draws random numbers in its layer {layer}: without them (of dropout: "
            "p=0 or module.eval()) it is allowed"
        )
    return (
        f"{network.name} cannot be computed for several networks at once, as PyTorch does not "
        f"stack its layer {layer}; {way_out}"
    )
