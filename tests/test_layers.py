"""Every layer of torch.nn that can stand in an image classifier: its meta-gradient is exact, or it
is refused by name."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ddcore import unroll
from ddcore.distilled import DistilledData
from ddcore.networks import ModuleStack, generator
from ddcore.support.compiled import compiled_steps, is_compiled
from ddcore.support.errors import InputError
from ddcore.unroll import meta_gradient, train

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch's
SIDE, CLASSES = 8, 3
CONVOLUTION = nn.Conv2d(1, 4, 3, padding=1)  # gives the layer under test [B, 4, 8, 8]


class Attention(nn.Module):
    """Single-head attention over the 64 places of 4 channels, by PyTorch's own function or written
    out."""

    def __init__(self, fused: bool):
        super().__init__()
        self.fused = fused
        self.qkv = nn.Linear(4, 12)

    def forward(self, x):
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(1, 2) / 2).softmax(-1) @ v
        return y.transpose(1, 2).unflatten(2, (8, 8))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell = kind(4, 4, batch_first=True)

    def forward(self, x):
        return self.cell(x.flatten(2).transpose(1, 2))[0].transpose(1, 2).unflatten(2, (8, 8))


EXACT = {
    "CELU": nn.CELU(),
    "ELU": nn.ELU(),
    "GELU": nn.GELU(),
    "GELU tanh": nn.GELU("tanh"),
    "Hardshrink": nn.Hardshrink(),
    "Hardswish": nn.Hardswish(),
    "Hardtanh": nn.Hardtanh(),
    "LeakyReLU": nn.LeakyReLU(),
    "LogSigmoid": nn.LogSigmoid(),
    "LogSoftmax": nn.LogSoftmax(1),
    "Mish": nn.Mish(),
    "PReLU": nn.PReLU(),
    "ReLU": nn.ReLU(),
    "ReLU6": nn.ReLU6(),
    "SELU": nn.SELU(),
    "SiLU": nn.SiLU(),
    "Sigmoid": nn.Sigmoid(),
    "Softmax": nn.Softmax(1),
    "Softmax2d": nn.Softmax2d(),
    "Softmin": nn.Softmin(1),
    "Softplus": nn.Softplus(),
    "Softshrink": nn.Softshrink(),
    "Softsign": nn.Softsign(),
    "Tanh": nn.Tanh(),
    "Tanhshrink": nn.Tanhshrink(),
    "Threshold": nn.Threshold(0.1, 0.2),
    "AdaptiveAvgPool2d": nn.AdaptiveAvgPool2d(4),
    "AdaptiveMaxPool2d": nn.AdaptiveMaxPool2d(4),
    "AvgPool2d": nn.AvgPool2d(2),
    "LPPool2d": nn.LPPool2d(2, 2),
    "MaxPool2d": nn.MaxPool2d(3, 2, 1),
    "GroupNorm": nn.GroupNorm(2, 4),
    "InstanceNorm2d": nn.InstanceNorm2d(4),
    "InstanceNorm2d affine": nn.InstanceNorm2d(4, affine=True),
    "LayerNorm": nn.LayerNorm([4, 8, 8]),
    "LayerNorm plain": nn.LayerNorm([4, 8, 8], elementwise_affine=False),
    "LocalResponseNorm": nn.LocalResponseNorm(2),
    "RMSNorm": nn.RMSNorm([4, 8, 8]),
    "Conv2d": nn.Conv2d(4, 4, 3, stride=2),
    "Conv2d depthwise": nn.Conv2d(4, 4, 3, padding="same", groups=4, bias=False),
    "Conv2d dilated": nn.Conv2d(4, 4, 3, dilation=2, padding_mode="circular", padding=1),
    "ConvTranspose2d": nn.ConvTranspose2d(4, 2, 3, stride=2),
    "Bilinear upsampling": nn.Upsample(scale_factor=2, mode="bilinear"),
    "Nearest upsampling": nn.Upsample(scale_factor=2),
    "Bicubic upsampling": nn.Upsample(scale_factor=2, mode="bicubic"),
    "CircularPad2d": nn.CircularPad2d(1),
    "ConstantPad2d": nn.ConstantPad2d(1, 0.5),
    "ReflectionPad2d": nn.ReflectionPad2d(1),
    "ReplicationPad2d": nn.ReplicationPad2d(1),
    "ZeroPad2d": nn.ZeroPad2d(1),
    "ChannelShuffle": nn.ChannelShuffle(2),
    "PixelShuffle": nn.PixelShuffle(2),
    "PixelUnshuffle": nn.PixelUnshuffle(2),
    "Unfold": nn.Sequential(nn.Unfold(3), nn.Fold((8, 8), 3)),
    "Identity": nn.Identity(),
    "GLU": nn.GLU(1),
    "attention": Attention(fused=True),
    "attention written out": Attention(fused=False),
}


class Tokens(nn.Module):
    """A layer of the 64 places of 4 channels, as a sequence."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8))


class SelfAttention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.options = options

    def forward(self, x):
        return self.attention(x, x, x, **self.options)[0]


class Written(nn.Module):
    """A function of the images that has no layer of its own."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def encoder(dropout: float) -> nn.Module:
    return Tokens(nn.TransformerEncoderLayer(4, 2, 8, dropout, batch_first=True))


def half_frozen() -> nn.Module:
    layer = nn.Conv2d(4, 4, 3)
    layer.weight.requires_grad_(False)
    return layer


EXACT |= {
    "Dropout that drops nothing": nn.Dropout(0.0),
    "Dropout in eval mode": nn.Dropout().eval(),
    "MultiheadAttention with weights": Tokens(SelfAttention(need_weights=True)),
    "GRUCell": Tokens(nn.Sequential(nn.Flatten(0, 1), nn.GRUCell(4, 4), nn.Unflatten(0, (-1, 64)))),
    "half frozen": half_frozen(),
}
MATH = "SDPBackend.MATH"
REFUSED = {  # with the layer and the way out
    "BatchNorm2d": (nn.BatchNorm2d(4), "BatchNorm2d (1)", "GroupNorm"),
    "Dropout": (nn.Dropout(), "Dropout (1)", "p=0 or module.eval()"),
    "Dropout2d": (nn.Dropout2d(), "Dropout2d (1)", "p=0 or module.eval()"),
    "F.dropout": (Written(nn.functional.dropout), "Written (1)", "p=0 or module.eval()"),
    "RReLU": (nn.RReLU(), "RReLU (1)", "nn.LeakyReLU"),
    "random numbers": (Written(lambda x: x + torch.rand_like(x)), "Written (1)", "random numbers"),
    "Hardsigmoid": (nn.Hardsigmoid(), "Hardsigmoid (1)", "nn.Sigmoid"),
    "GRU": (Recurrent(nn.GRU), "GRU (1.cell)", "nn.GRUCell"),
    "LSTM": (Recurrent(nn.LSTM), "LSTM (1.cell)", "nn.LSTMCell"),
    "RNN": (Recurrent(nn.RNN), "RNN (1.cell)", "nn.RNNCell"),
    "MultiheadAttention": (
        Tokens(SelfAttention(need_weights=False)),
        "MultiheadAttention (1.layer.attention)",
        MATH,
    ),
    "TransformerEncoderLayer": (encoder(0.0), "MultiheadAttention (1.layer.self_attn)", MATH),
    "TransformerEncoderLayer in eval mode": (encoder(0.1).eval(), "(1.layer.self_attn)", MATH),
    "TransformerEncoderLayer, dropout": (encoder(0.1), "Dropout (1.layer.dropout)", "p=0"),
    "weight_norm": (
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
        "_WeightNorm (1.parametrizations.weight.0)",
        'estimator="autograd"',
    ),
    "spectral_norm": (
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
        "_SpectralNorm (1.parametrizations.weight.0)",
        "must be a parameter",
    ),
    "a branch": (Written(lambda x: x if x.sum() > 0 else -x), "Written (1)", "elementary"),
}


def classifier(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(CONVOLUTION, layer, nn.Flatten())
    features = body(torch.zeros(2, 1, SIDE, SIDE)).shape[1]
    return nn.Sequential(*body, nn.Linear(features, CLASSES))


def case(module: nn.Module):
    """The module as a stack, distilled data of two steps, one network's weights and real data, in
    float64."""
    network = ModuleStack(module)
    rng = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    labels = torch.arange(CLASSES).expand(2, -1)
    lrs = torch.tensor([[0.05, 0.1]], dtype=torch.float64)
    distilled = DistilledData(
        noise(2, CLASSES, 1, SIDE, SIDE), labels, lrs, meta={"classes": "abc"}
    )
    theta = network.init("xavier", generator(0))[None].double()
    return network, distilled, theta, (noise(5, 1, SIDE, SIDE), torch.tensor([0, 1, 2, 0, 1]))


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


class TestALayer:
    @pytest.mark.parametrize("name", EXACT)
    def test_a_layer_s_meta_gradient_is_exact(self, name):
        network, distilled, theta, (real, labels) = case(classifier(EXACT[name]))
        _, ours = meta_gradient(network, distilled, theta, (real, labels))
        _, exact = meta_gradient(network, distilled, theta, (real, labels), estimator="autograd")
        assert relative_error(ours.images, exact.images) < 1e-9
        assert relative_error(ours.lrs, exact.lrs) < 1e-9

        def loss(step: float) -> float:
            moved = replace(distilled, images=distilled.images + step * direction)
            logits = network(train(network, moved, theta), real)
            return unroll.cross_entropy(logits, labels).item()

        direction = ours.images / ours.images.norm()
        slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
        assert slope == pytest.approx(ours.images.norm().item(), rel=1e-4)

    @pytest.mark.parametrize("name", REFUSED)
    def test_a_layer_that_cannot_be_differentiated_twice_is_refused(self, name):
        layer, place, way_out = REFUSED[name]
        with pytest.raises(InputError, match="Sequential (contains|cannot|draws)") as refusal:
            meta_gradient(*case(classifier(layer)))
        said = str(refusal.value)
        assert place in said and way_out in said
        assert "\n" not in said

    @pytest.mark.parametrize("name", ["Hardsigmoid", "MultiheadAttention"])
    def test_autograd_refuses_one_that_it_cannot_differentiate_either(self, name):
        layer, place, way_out = REFUSED[name]
        with pytest.raises(InputError) as refusal:
            meta_gradient(*case(classifier(layer)), estimator="autograd")
        assert place in str(refusal.value) and way_out in str(refusal.value)

    def test_attention_is_exact_the_way_that_its_refusal_names(self):
        network, *given = case(classifier(encoder(0.0)))
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            _, ours = meta_gradient(network, *given)
            _, exact = meta_gradient(network, *given, estimator="autograd")
        assert relative_error(ours.images, exact.images) < 1e-9


class TestAFrozenParameter:
    def test_it_stays_what_it_is_and_is_no_weight(self):
        module = classifier(half_frozen())
        network, distilled, theta, (real, _) = case(module)
        assert "1.weight" not in network.shapes and "1.bias" in network.shapes
        trained = train(network, distilled, theta)
        weights = {name: w[0] for name, w in network.unflatten(trained).items()}
        whole = {"1.weight": module[1].weight.detach().double(), **weights}
        expected = torch.func.functional_call(module, whole, (real,))
        torch.testing.assert_close(network(trained, real)[0], expected)

    def test_a_module_with_nothing_else_is_refused(self):
        with pytest.raises(InputError, match="Sequential has no parameter to train"):
            ModuleStack(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False))


class TestTheCheckOfAModule:
    @pytest.mark.parametrize(("name", "other_order"), [("Tanh", False), ("LayerNorm", True)])
    def test_it_chooses_the_order_of_derivatives_that_is_right(self, name, other_order):
        """PyTorch 2.13 breaks the first one for LayerNorm; the second cannot be compiled."""
        network, *inputs = case(classifier(EXACT[name]))
        meta_gradient(network, *inputs)
        assert network.checked
        assert network.forward_over_reverse == other_order

    def test_a_module_that_no_order_is_right_for_is_refused_with_the_number(self, monkeypatch):
        monkeypatch.setattr(unroll, "forward_over_reverse", unroll.reverse_over_forward)
        with pytest.raises(
            InputError, match=r"PyTorch's are wrong by [0-9.]+ % in its layer LayerNorm \(1\)"
        ):
            meta_gradient(*case(classifier(EXACT["LayerNorm"])))

    def test_it_is_made_once_for_a_module(self, monkeypatch):
        networks = []

        def check(network, *_):
            networks.append(network)
            network.checked = True

        monkeypatch.setattr("ddcore.support.modules.check_second_derivatives", check)
        network, *inputs = case(classifier(nn.Tanh()))
        meta_gradient(network, *inputs)
        meta_gradient(network, *inputs)
        assert networks == [network]

    def test_the_other_order_is_not_compiled(self):
        network, *inputs = case(classifier(EXACT["LayerNorm"]))
        steps = compiled_steps()
        losses, gradient = meta_gradient(network, *inputs, step_functions=steps)
        assert not is_compiled(steps)
        assert torch.equal(gradient.images, meta_gradient(network, *inputs)[1].images)
