"""The paper's two networks, each written once as a stack: N networks of one shape, in one call.

A stack's weights are one tensor `theta` [N, P]: row j is network j's parameters, flattened in
PyTorch's order. Gradient descent is then `theta - lr * gradient`, as in the paper. `unflatten`
gives the same numbers as a dict of tensors [N, *shape], the format of
`torch.func.stack_module_state`; `flatten` turns it back; `evaluate`, `meta_gradient` and `train_on`
take either.

Speed on a CPU comes from identities, none of which changes a result beyond rounding: a convolution
of images that all networks share is one convolution with N times the filters; taking the maximum
before applying ReLU gives the same value with a quarter of the work; the maximum over 2x2 pixels of
a convolution is the maximum of four convolutions of stride 2 (so LeNet's first layer sees few
images; where maxima tie, the derivative there is another subgradient); sums over neighbouring
channels are a product with a banded matrix. tests/test_networks.py holds both networks against
their textbook form.
"""

import hashlib
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddcore.support.checks import check_module, check_weights
from ddcore.support.errors import InputError
from ddcore.support.kernel import Kernel, kernel_for
from ddcore.support.ranges import Small, check_value
from ddcore.support.registry import INIT_LAWS, architecture

Weights = dict[str, Tensor]
InitLaw = Callable[[torch.Generator], Tensor]  # draws theta_0 [P] of one network: p(theta_0)


def generator(*key: int | str) -> torch.Generator:
    """A random generator of its own for every `key`, for example (seed, outer step, sample), on
    the CPU.

    Keys that differ anywhere give independent streams, so results do not depend on which process
    draws which sample, nor on how many were drawn before.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


class Network:
    """N networks of one architecture as a pure function of their weights.

    `shapes` names the parameters of one network; `forward(weights, images)` maps weights {name: [N,
    *shape]} and images [B, C, H, W] (the same for all) or [N, B, C, H, W] (each its own) to logits
    [N, B, classes].
    """

    name: str
    shapes: dict[str, tuple[int, ...]]
    channels: int
    size: int
    start: Weights = {}  # of parameters with a single axis; those not named start at 0
    forward_over_reverse = False  # the order in which its second derivatives are taken: `unroll`
    checked = True  # whether that order is known to be right

    def forward(self, weights: Weights, images: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, theta: Tensor | Weights, images: Tensor) -> Tensor:
        return self.forward(self.unflatten(theta), images)

    def kernel(self, theta: Tensor, images: Tensor, *others: Tensor | float) -> Kernel | None:
        """What computes a step with these tensors faster than PyTorch, where something does."""
        return None

    def unflatten(self, theta: Tensor | Weights) -> Weights:
        """theta [N, P] -> {name: [N, *shape]}, as views; weights as they are."""
        if isinstance(theta, dict):
            return theta
        pieces = theta.split([math.prod(shape) for shape in self.shapes.values()], dim=1)
        return {
            name: piece.view(-1, *shape)
            for piece, (name, shape) in zip(pieces, self.shapes.items(), strict=True)
        }

    def flatten(self, weights: Tensor | Weights) -> Tensor:
        """{name: [N, *shape]} or {name: [*shape]} (one network) -> theta [N, P]; a tensor as it is.

        InputError where the weights are those of another network.
        """
        check_weights(self.name, self.shapes, weights)
        if isinstance(weights, Tensor):
            return weights
        rows = [weights[name].reshape(-1, math.prod(s)) for name, s in self.shapes.items()]
        return torch.cat(rows, dim=1)

    def init(self, law: str, rng: torch.Generator | None = None) -> Tensor:
        """theta_0 [P] of one network: weights normal with the law's standard deviation, biases 0.

        InputError for a law that is not known.
        """
        if law not in INIT_LAWS:
            raise InputError(f"unknown init law {law!r}: one of {', '.join(INIT_LAWS)}")
        pieces = []
        for name, shape in self.shapes.items():
            if len(shape) > 1:
                receptive = math.prod(shape[2:])
                std = INIT_LAWS[law](shape[1] * receptive, shape[0] * receptive)
                pieces.append(std * torch.randn(math.prod(shape), generator=rng))
            else:
                pieces.append(self.start.get(name, torch.zeros(shape)).flatten())
        return torch.cat(pieces)


class LeNet(Network):
    """LeCun et al. (1998): two 5x5 convolutions (6, 16) with ReLU and 2x2 maxima, then
    400-120-84-classes.

    28x28 images are padded by 2, 32x32 are not, so that both sizes share the shapes of the weights.
    61,706 parameters for one channel and ten classes.
    """

    name = "lenet"

    def __init__(self, channels: int = 1, size: int = 28, classes: int = 10):
        if size not in (28, 32):
            raise InputError(f"LeNet takes images of 28x28 or 32x32, not {size}x{size}")
        self.channels = channels
        self.size = size
        self.shapes = {
            "conv1.weight": (6, channels, 5, 5),
            "conv1.bias": (6,),
            "conv2.weight": (16, 6, 5, 5),
            "conv2.bias": (16,),
            "fc1.weight": (120, 400),
            "fc1.bias": (120,),
            "fc2.weight": (84, 120),
            "fc2.bias": (84,),
            "fc3.weight": (classes, 84),
            "fc3.bias": (classes,),
        }

    def kernel(self, theta: Tensor, images: Tensor, *others: Tensor | float) -> Kernel | None:
        check_shape(images, self)
        parameters = sum(map(math.prod, self.shapes.values()))
        if type(self) is not LeNet or theta.shape[1:] != (parameters,):
            return None
        return kernel_for(self.shapes["fc3.bias"][0], theta, images, *others)

    def forward(self, weights: Weights, images: Tensor) -> Tensor:
        w = weights
        check_shape(images, self)
        if self.size == 28:
            images = F.pad(images, (2,) * 4)  # [B, C, 32, 32]
        if images.dim() == 4 and len(images) <= 200:  # distilled images: what compiles well
            x = conv_max2x2(images, w["conv1.weight"], w["conv1.bias"])  # [B, N*6, 14, 14]
            x = max2x2(conv(F.relu(x), w["conv2.weight"], w["conv2.bias"]))  # [B, N*16, 5, 5]
        else:  # real ones: what is fast as it stands
            x = F.max_pool2d(conv(images, w["conv1.weight"], w["conv1.bias"]), 2)
            x = F.max_pool2d(conv(F.relu(x), w["conv2.weight"], w["conv2.bias"]), 2)
        x = features(F.relu(x), len(w["conv1.bias"]))  # [N, B, 400]
        x = F.relu(linear(x, w["fc1.weight"], w["fc1.bias"]))
        x = F.relu(linear(x, w["fc2.weight"], w["fc2.bias"]))
        return linear(x, w["fc3.weight"], w["fc3.bias"])  # [N, B, classes]


class AlexCifarNet(Network):
    """Krizhevsky (2012) with the locally connected layers replaced by fully connected ones, for
    32x32 colour.

    Two 5x5 convolutions (64, 64) with ReLU, 3x3 maxima of stride 2 and local response
    normalisation (first maximum then normalisation, in the second layer the other way round), then
    4096-384-192-classes. 1,756,426 parameters for ten classes.
    """

    name = "alexcifarnet"

    def __init__(self, channels: int = 3, size: int = 32, classes: int = 10):
        if size != 32:
            raise InputError(
                f"AlexCifarNet takes images of 32x32, not {size}x{size}; LeNet takes both"
            )
        self.channels = channels
        self.size = size
        self.shapes = {
            "conv1.weight": (64, channels, 5, 5),
            "conv1.bias": (64,),
            "conv2.weight": (64, 64, 5, 5),
            "conv2.bias": (64,),
            "fc1.weight": (384, 4096),
            "fc1.bias": (384,),
            "fc2.weight": (192, 384),
            "fc2.bias": (192,),
            "fc3.weight": (classes, 192),
            "fc3.bias": (classes,),
        }

    def forward(self, weights: Weights, images: Tensor) -> Tensor:
        w = weights
        n = len(weights["conv1.bias"])
        check_shape(images, self)
        x = conv(images, w["conv1.weight"], w["conv1.bias"], padding=2)  # [B, N*64, 32, 32]
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # [B, N*64, 16, 16]
        x = response_norm(F.relu(x), n)
        x = conv(x, w["conv2.weight"], w["conv2.bias"], padding=2)  # [B, N*64, 16, 16]
        x = response_norm(F.relu(x), n)
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # [B, N*64, 8, 8]
        x = features(x, n)  # [N, B, 4096]
        x = F.relu(linear(x, w["fc1.weight"], w["fc1.bias"]))
        x = F.relu(linear(x, w["fc2.weight"], w["fc2.bias"]))
        return linear(x, w["fc3.weight"], w["fc3.bias"])  # [N, B, classes]


class ModuleStack(Network):
    """Any `nn.Module` that maps [B, C, H, W] to logits [B, classes], stacked with `torch.func`
    (section 3 asks only for a twice-differentiable loss).

    Modules whose output depends on the other images of the batch, or that carry buffers or
    randomness, are refused: theta_1 must be a function of theta_0, the distilled images and the
    learning rates alone. Parameters that ask for no gradient stay what they are.
    """

    checked = False

    def __init__(self, module: nn.Module):
        check_module(module)
        self.name = type(module).__name__
        self.module = module
        parameters = dict(module.named_parameters())
        trained = {n: p for n, p in parameters.items() if p.requires_grad}
        self.shapes = {n: tuple(p.shape) for n, p in trained.items()}
        self.constant = {n: p for n, p in parameters.items() if n not in trained}
        self.start = {  # the scales of a normalisation: where its module put them
            n: p.detach().float().cpu().clone()
            for n, p in trained.items()
            if p.dim() < 2 and not n.endswith("bias")
        }

    def one(self, weights: Weights, images: Tensor) -> Tensor:
        """The logits [B, classes] of one network, weights {name: [*shape]}."""
        like = images.device, images.dtype
        constant = {name: p.detach().to(*like) for name, p in self.constant.items()}
        return torch.func.functional_call(self.module, constant | weights, (images,))

    def forward(self, weights: Weights, images: Tensor) -> Tensor:
        own_images = images.dim() == 5
        return torch.vmap(self.one, in_dims=(0, 0 if own_images else None))(weights, images)


def as_network(
    network: Network | nn.Module | str, channels: int = 1, size: int = 28, classes: int = 10
) -> Network:
    """A stack of networks by its name, from a module, or as it is.

    Args:
        network: any `nn.Module` that maps [B, C, H, W] to [B, classes], or a name: "lenet",
            "alexcifarnet", or "module:Class", which is imported and called with the next three.
        channels, size, classes: of the images, for a network by name.

    Returns:
        The `Network`, a pure function of weights and images.

    Raises:
        InputError: for a name that is unknown or cannot be imported, images that it does not take,
            or a module with batch statistics, active dropout, buffers, or nothing to train.
    """
    if isinstance(network, Network):
        return network
    if isinstance(network, nn.Module):
        return ModuleStack(network)
    if not isinstance(network, str):
        raise InputError(
            f"network: {type(network).__name__} is given, a name, a Network or an nn.Module is "
            "allowed"
        )
    for name, number in {"channels": channels, "size": size, "classes": classes}.items():
        check_value(name, number, Small)
    made = architecture(network).build(channels, size, classes)
    if not isinstance(made, Network | nn.Module):
        maker = f"network {network}: {network.partition(':')[2]}"
        raise InputError(f"{maker} returns {type(made).__name__}: an nn.Module is allowed")
    stack = as_network(made)
    stack.name = network  # what it is asked for by, whatever its class says
    return stack


def as_init_law(network: Network, init: str | InitLaw) -> InitLaw:
    """p(theta_0) from the name of a law, or as it is."""
    if not isinstance(init, str):
        return init
    name = init
    return lambda rng: network.init(name, rng)


def check_shape(images: Tensor, network: Network) -> None:
    """InputError for images of another shape than the network's."""
    shape = network.channels, network.size, network.size
    if images.shape[-3:] != shape:
        actual = tuple(images.shape[-3:])
        raise InputError(f"{network.name} takes images of {shape}, not of {actual}")


# The layers of a stack. Activations are [B, N*C, H, W] in channels-last memory: network j has
# channels j*C to (j+1)*C.


def conv(x: Tensor, weight: Tensor, bias: Tensor, padding: int = 0) -> Tensor:
    """x [B, C, H, W] shared by all, [N, B, C, H, W], or [B, N*C, H, W]; weight [N, O, C, k, k],
    bias [N, O] -> [B, N*O, H', W']."""
    channels = weight.shape[2]
    if x.dim() == 5:
        x = x.transpose(0, 1).flatten(1, 2)  # [B, N*C, H, W]
    groups = x.shape[1] // channels
    weight = weight.reshape(-1, *weight.shape[2:])  # [N*O, C, k, k]
    x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    return F.conv2d(x, weight, bias.flatten(), padding=padding, groups=groups)


def max2x2(x: Tensor) -> Tensor:
    """[B, C, 2H, 2W] -> [B, C, H, W]; H and W even."""
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def conv_max2x2(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`max2x2(conv(x, weight, bias))` of shared images with few channels, as the maximum of four
    convolutions of stride 2, whose kernels are one pixel larger: each a matrix product with the
    same patches.

    x [B, C, H, W], weight [N, O, C, k, k], bias [N, O], H-k+1 and W-k+1 even -> [B, N*O, (H-k+1)/2,
    (W-k+1)/2]. Faster than the convolution, with its derivatives, for few images.
    """
    filters = weight.shape[:2].numel()
    size = weight.shape[-1] + 1
    patches = x.unfold(2, size, 2).unfold(3, size, 2)
    patches = patches.permute(0, 2, 3, 1, 4, 5)  # [B, H', W', C, k+1, k+1]
    shifted = [  # [N, O, C, k+1, k+1] each
        F.pad(weight, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)
    ]
    rows = patches.flatten(3).flatten(0, 2)
    a, b, c, d = (
        rows @ kernels.reshape(filters, -1).t() for kernels in shifted
    )  # [B*H'*W', N*O] each
    largest = torch.maximum(torch.maximum(a, b), torch.maximum(c, d)) + bias.flatten()
    return largest.view(*patches.shape[:3], filters).permute(0, 3, 1, 2)


def response_norm(x: Tensor, n: int) -> Tensor:
    """Local response normalisation over 4 neighbouring channels of each network (Krizhevsky, 2012):

    x_c / (1 + alpha * mean of x_k^2 for k from c-2 to c+1)^0.75 with alpha = 0.001/9, as
    F.local_response_norm.
    """
    channels = x.shape[1] // n
    near = torch.ones(channels, channels, dtype=x.dtype, device=x.device)
    near = near.triu(-1).tril(2)  # k from c-2 to c+1
    y = x.permute(0, 2, 3, 1).unflatten(-1, (n, channels))  # [B, H, W, N, C]
    root = (1 + (0.001 / 9 / 4) * ((y * y) @ near)).rsqrt()
    y = y * (root * root.sqrt())  # root^1.5: a root is faster than a power
    return y.flatten(-2).permute(0, 3, 1, 2)


def features(x: Tensor, n: int) -> Tensor:
    """[B, N*C, H, W] -> [N, B, C*H*W] in PyTorch's order."""
    return x.contiguous().view(len(x), n, -1).transpose(0, 1)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [N, B, in], weight [N, out, in], bias [N, out] -> [N, B, out]."""
    # F.linear's derivative is laid out as the weights are, baddbmm's transposed: to copy that costs
    # more than N calls where N is 1 or the weights are large.
    if len(weight) == 1 or weight.shape[1:].numel() > 500_000:
        networks = zip(x.unbind(), weight.unbind(), bias.unbind(), strict=True)
        return torch.stack([F.linear(*one) for one in networks])
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
