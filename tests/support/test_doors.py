"""What public functions refuse, in one line that names it, and what they take beside it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import ddcore
from ddcore import DistilledData, InputError, Recipe, as_network, distill, evaluate, meta_gradient
from ddcore.datasets import load
from ddcore.networks import ModuleStack, generator
from ddcore.use import load_distilled, network_of, train_on

N, S, n, E, K, SIDE = 2, 2, 3, 2, 3, 4


def linear(side: int = SIDE, classes: int = K) -> ModuleStack:
    return ModuleStack(nn.Sequential(nn.Flatten(), nn.Linear(side * side, classes)))


NETWORK = linear()
DIGITS = load("digits")
OF_DIGITS = linear(28, 10)
THETA = torch.randn(N, 51, generator=generator("theta"))
IMAGES = torch.randn(8, 1, SIDE, SIDE, generator=generator("images"))
LABELS = torch.arange(8) % K
DATA = DistilledData(
    torch.randn(S, n, 1, SIDE, SIDE, generator=generator("data")),
    torch.arange(K).expand(S, n),
    torch.full((E, S), 0.1),
    meta={"classes": "abc", "architecture": "Sequential", "init_law": "xavier"},
)
SOFT = replace(DATA, soft_labels=DATA.targets())
QUICK = Recipe(iterations=2, samples=1, batch=4, checks=1)


def of(images=IMAGES, labels=LABELS, weights=THETA, network=NETWORK):
    return evaluate(network, weights, images, labels)


def data(**fields) -> DistilledData:
    return replace(DATA, **fields)


def trained(distilled=DATA, weights=None, network=NETWORK, **options):
    return train_on(distilled, weights, network=network, **options)


def gradient(distilled=DATA, weights=THETA, batch=(IMAGES, LABELS), network=NETWORK, **options):
    return meta_gradient(network, distilled, weights, batch, **options)


def distilled(network=OF_DIGITS, dataset=DIGITS, init="xavier", recipe=QUICK, **options):
    options = {"epochs": 1, "progress": False, **options}
    return distill(network, dataset, init, recipe=recipe, **options)


def elsewhere(t: torch.Tensor) -> torch.Tensor:
    return t.to("meta")


def two_heads() -> nn.Module:
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, K)

        def forward(self, x):
            return self.fc(x.flatten(1)), x

    return TwoHeads()


BAD = {  # what is called, and what its message must say
    # evaluate
    "fewer labels": (lambda: of(labels=LABELS[:1]), "labels [1] for images [8, 1, 4, 4]"),
    "more labels": (lambda: of(labels=torch.cat([LABELS, LABELS])), "labels [16]"),
    "labels of each network": (lambda: of(labels=LABELS.expand(N, 8)), "[B] is allowed"),
    "no images": (lambda: of(IMAGES[:0], LABELS[:0]), "not empty"),
    "one image alone": (lambda: of(IMAGES[0], LABELS[:1]), "[B, C, H, W] is allowed"),
    "whole pixels": (lambda: of((255 * IMAGES).to(torch.uint8)), "floating-point"),
    "images as a list": (lambda: of([1.0, 2.0]), "images: list is given"),
    "float labels": (lambda: of(labels=LABELS.float()), "torch.int64 is allowed"),
    "int32 labels": (lambda: of(labels=LABELS.int()), "torch.int64 is allowed"),
    "a label too large": (lambda: of(labels=LABELS + 1), "labels from 1 to 3: 0 to 2"),
    "a negative label": (lambda: of(labels=LABELS - 1), "labels from -1 to 1: 0 to 2"),
    "double images": (lambda: of(IMAGES.double()), "torch.float64"),
    "images elsewhere": (lambda: of(elsewhere(IMAGES)), "one device is allowed"),
    "labels elsewhere": (lambda: of(labels=elsewhere(LABELS)), "one device is allowed"),
    "another side": (lambda: of(torch.zeros(8, 1, 5, 5)), "cannot read images of [1, 5, 5]"),
    "weights of one network": (lambda: of(weights=THETA[0]), "weights has shape [51]"),
    "no networks": (lambda: of(weights=THETA[:0]), "not empty"),
    "too few weights": (lambda: of(weights=THETA[:, :50]), "[2, 50], not [N, 51]"),
    "whole weights": (lambda: of(weights=THETA.long()), "floating-point"),
    "weights as a list": (lambda: of(weights=[1.0]), "dict is allowed"),
    "weights of some networks": (
        lambda: of(weights={"1.weight": torch.zeros(2, 3, 16), "1.bias": torch.zeros(3, 3)}),
        "of [2, 3] networks",
    ),
    "weights that are no tensor": (
        lambda: of(weights={"1.weight": torch.zeros(2, 3, 16), "1.bias": 0.0}),
        "1.bias: float is given",
    ),
    "a module with two heads": (lambda: of(network=two_heads()), "[1, classes] is allowed"),
    # as_network
    "an unknown network": (lambda: as_network("lenett"), "did you mean lenet?"),
    "a number as network": (lambda: as_network(3), "network: int is given"),  # type: ignore
    "a class as network": (lambda: as_network(nn.Linear), "network: type is given"),  # type: ignore
    "no classes": (lambda: as_network("lenet", classes=0), "classes=0"),
    "half a channel": (lambda: as_network("lenet", 1.5), "channels=1.5"),  # type: ignore
    # DistilledData
    "flat images": (lambda: data(images=DATA.images.flatten(2)), "[S, n, C, H, W] is allowed"),
    "whole images": (lambda: data(images=DATA.images.long()), "floating-point"),
    "fewer distilled labels": (lambda: data(labels=DATA.labels[:, :1]), "labels has shape [2, 1]"),
    "float distilled labels": (lambda: data(labels=DATA.labels.float()), "torch.int64"),
    "rates of fewer steps": (lambda: data(lrs=DATA.lrs[:, :1]), "lrs has shape [2, 1]: [2, 2]"),
    "one rate": (lambda: data(lrs=0.1), "lrs: float is given"),
    "rates without epochs": (lambda: data(lrs=DATA.lrs[0]), "[E, S] is allowed"),
    "soft labels of fewer images": (
        lambda: data(soft_labels=torch.ones(S, 1, K)),
        "soft_labels has shape [2, 1, 3]",
    ),
    # train_on
    "something else to train on": (lambda: trained(3), "distilled: int is given"),
    "a result to train on": (
        lambda: trained(ddcore.Distillation(DATA, 0, 0, 0, [], 0.0, [])),
        "DistilledData is allowed",
    ),
    "no nets": (lambda: trained(nets=0), "nets=0: Input should be greater than or equal to 1"),
    "half a net": (lambda: trained(nets=1.5), "nets=1.5: Input should be a valid integer"),
    "nan images": (lambda: trained(data(images=DATA.images * math.nan)), "not finite"),
    "infinite rates": (lambda: trained(data(lrs=DATA.lrs / 0)), "lrs has numbers"),
    "a class without a name": (lambda: trained(data(labels=DATA.labels + 1)), "labels from 1 to 3"),
    "negative labels": (
        lambda: trained(data(labels=DATA.labels - 1, meta={"init_law": "xavier"})),
        "labels from -1",
    ),
    "soft labels of more classes": (
        lambda: trained(data(soft_labels=torch.ones(S, n, K + 1))),
        "soft_labels has shape [2, 3, 4]",
    ),
    "rates elsewhere": (lambda: trained(data(lrs=elsewhere(DATA.lrs))), "one device"),
    "a network of more classes": (
        lambda: trained(network=linear(classes=5)),
        "tells 5 classes apart and the data has 3",
    ),
    "a network of larger images": (lambda: trained(network=linear(6)), "cannot read images"),
    "a module that cannot be stacked": (
        lambda: trained(network=nn.Sequential(nn.RReLU(), nn.Flatten(), nn.Linear(16, K))),
        "RReLU (0)",
    ),
    "data for nothing": (lambda: network_of(3), "distilled: int is given"),  # type: ignore
    # meta_gradient
    "no pair": (lambda: gradient(batch=IMAGES), "pair of images and labels"),
    "real images of more networks": (
        lambda: gradient(batch=(IMAGES.expand(3, 8, 1, 4, 4), LABELS)),
        "images has shape [3, 8, 1, 4, 4]: [2, 8, 1, 4, 4]",
    ),
    "real labels of more networks": (
        lambda: gradient(batch=(IMAGES, LABELS.expand(3, 8))),
        "labels [3, 8]",
    ),
    "fewer real labels": (lambda: gradient(batch=(IMAGES, LABELS[:1])), "labels [1]"),
    "real labels without a class": (lambda: gradient(batch=(IMAGES, LABELS + 1)), "from 1 to 3"),
    "double weights": (lambda: gradient(weights=THETA.double()), "torch.float64"),
    "nan rates": (lambda: gradient(data(lrs=DATA.lrs * math.nan)), "lrs has numbers"),
    "a network of fewer classes": (
        lambda: gradient(weights=torch.zeros(1, 34), network=linear(classes=2)),
        "tells 2 classes apart",
    ),
    "an estimator": (lambda: gradient(estimator="forward"), "'back-gradient' or 'autograd'"),
    # distill
    "images as dataset": (lambda: distilled(dataset=DIGITS.train), "data: tuple is given"),
    "a recipe by name": (lambda: distilled(recipe="faithful"), "Recipe is allowed"),
    "no steps": (lambda: distilled(steps=0), "steps=0"),
    "no epochs": (lambda: distilled(epochs=0), "epochs=0"),
    "half an image": (lambda: distilled(per_class=0.5), "per_class=0.5"),
    "a negative seed": (lambda: distilled(seed=-1), "seed=-1"),
    "a law": (lambda: distilled(init="xavir"), "unknown init law 'xavir'"),
    "first images of one class": (
        lambda: distilled(first_images=torch.zeros(1, 1, 1, 28, 28)),
        "first_images has shape [1, 1, 1, 28, 28]: [1, 10, 1, 28, 28]",
    ),
    "first images that are nan": (
        lambda: distilled(first_images=torch.full((1, 10, 1, 28, 28), math.nan)),
        "not finite",
    ),
    "validation networks of another kind": (
        lambda: distilled(validation_weights=THETA),
        "[2, 51], not [N, 7850]",
    ),
    "a draw of another size": (lambda: distilled(init=lambda rng: THETA[0]), "not [N, 7850]"),
    "a dataset of more classes": (
        lambda: distilled(linear(28, 3)),
        "tells 3 classes apart and the data has 10",
    ),
    # load_distilled
    "a name like another": (lambda: load_distilled("fig2aa"), "did you mean fig2a?"),
    "a name like none": (lambda: load_distilled("zzz"), "`ddcore list` shows them"),
    "a folder without images": (
        lambda: load_distilled(Path(ddcore.__file__).parent),
        "a folder without distilled.safetensors; it holds __init__.py",
    ),
    "a file of another kind": (lambda: load_distilled(__file__), "not a file of distilled data"),
    "a number to load": (lambda: load_distilled(3), "a path or the name"),  # type: ignore
}
OUTSIDE = [  # of a recipe, and the word that the commands say
    ("iterations", 0, "greater than or equal to 1"),
    ("iterations", 10**7, "less than or equal to 1000000"),
    ("iterations", 2.5, "valid integer"),
    ("iterations", True, "valid integer"),
    ("iterations", "5", "valid integer"),
    ("samples", 0, "greater than or equal to 1"),
    ("batch", -1, "greater than or equal to 1"),
    ("image_rate", -0.1, "greater than or equal to 0"),
    ("image_rate", math.nan, "finite"),
    ("raw_rate", 11.0, "less than or equal to 10"),
    ("label_rate", math.inf, "finite"),
    ("first_lr", -0.02, "greater than 0"),
    ("noise", None, "valid number"),
    ("clip", -0.1, "greater than or equal to 0"),
    ("clip", math.nan, "finite"),
    ("checks", -1, "greater than or equal to 0"),
    ("average", 1.0, "less than 1"),
    ("common_batch", 1, "valid boolean"),
]
INSIDE = [
    {"iterations": 1, "samples": 1, "batch": 1},
    {"clip": 0, "checks": 0, "average": 0},
    {"average": 0.999, "image_rate": 10, "first_lr": 1e-6},
]


class TestRefusals:
    @pytest.mark.parametrize("name", BAD)
    def test_what_is_wrong_is_said_in_one_line(self, apart, name):
        call, said = BAD[name]
        with pytest.raises(InputError) as refusal:
            call()
        assert said in str(refusal.value)
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize(("name", "value", "said"), OUTSIDE)
    def test_a_number_outside_a_recipe_s_range(self, name, value, said):
        with pytest.raises(InputError) as refusal:
            Recipe(**{name: value})
        assert str(refusal.value).startswith(f"{name}={value!r}: Input should be ")
        assert said in str(refusal.value)


def test_a_message_is_one_line_whatever_it_quotes():
    with pytest.raises(InputError) as refusal:
        load_distilled("no\nname\u2028here")
    assert str(refusal.value).startswith("unknown experiment 'no\\nname")
    assert str(InputError("no\nname\u2028here\x1e.")) == "no name here ."


class TestBesideTheBorder:
    @pytest.mark.parametrize("fields", INSIDE, ids=str)
    def test_a_recipe_at_the_end_of_its_ranges(self, fields):
        assert vars(Recipe(**fields)).items() >= fields.items()

    @pytest.mark.parametrize(
        "call",
        [
            pytest.param(lambda: of(IMAGES[:1], LABELS[:1]), id="one image"),
            pytest.param(lambda: of(weights=NETWORK.unflatten(THETA)), id="weights by name"),
            pytest.param(lambda: of(weights=THETA * math.nan), id="networks that diverged"),
            pytest.param(lambda: of(IMAGES.double(), weights=THETA.double()), id="all double"),
            pytest.param(lambda: trained(data(lrs=DATA.lrs.double())), id="double rates"),
            pytest.param(lambda: trained(data(meta={"init_law": "xavier"})), id="no class names"),
            pytest.param(lambda: trained(SOFT), id="soft labels"),
            pytest.param(lambda: gradient(SOFT), id="gradient of soft labels"),
            pytest.param(
                lambda: gradient(batch=(IMAGES.expand(N, 8, 1, 4, 4), LABELS.expand(N, 8))),
                id="each its own batch",
            ),
            pytest.param(
                lambda: gradient(batch=(IMAGES, LABELS.expand(N, 8))), id="each its own labels"
            ),
            pytest.param(
                lambda: gradient(
                    batch=(IMAGES, torch.rand(8, K)),
                    objective=lambda logits, y: (logits - y).square().mean((1, 2)),
                ),
                id="another objective's labels",
            ),
        ],
    )
    def test_it_is_allowed(self, call):
        assert call() is not None


class TestResults:
    """carry no graph, whatever they were computed from."""

    def assert_plain(self, *tensors: torch.Tensor | None) -> None:
        assert not [t for t in tensors if t is not None and (t.requires_grad or t.grad_fn)]

    def leaf(self, t: torch.Tensor) -> torch.Tensor:
        return t.clone().requires_grad_()

    def learned(self) -> DistilledData:
        return SOFT.with_learned(SOFT.learned().map(self.leaf))

    def test_of_evaluate(self):
        self.assert_plain(of(self.leaf(IMAGES), weights=self.leaf(THETA)))

    def test_of_train_on(self):
        self.assert_plain(*trained(self.learned(), NETWORK.unflatten(self.leaf(THETA))).values())
        lenet = as_network("lenet", classes=K)
        theta = self.leaf(lenet.init("xavier", generator(0))[None])
        images = data(images=self.leaf(torch.zeros(S, n, 1, 28, 28)))
        self.assert_plain(*train_on(images, lenet.unflatten(theta), network=lenet).values())

    @pytest.mark.parametrize("estimator", ["back-gradient", "autograd"])
    def test_of_meta_gradient(self, estimator):
        batch = self.leaf(IMAGES), LABELS
        losses, found = gradient(self.learned(), self.leaf(THETA), batch, estimator=estimator)
        self.assert_plain(losses, *found.learned())
        expected = gradient(SOFT, estimator=estimator)[1]
        torch.testing.assert_close(found.images, expected.images)

    def test_of_distill(self):
        theta = self.leaf(OF_DIGITS.init("xavier", generator(0)))
        first = self.leaf(torch.zeros(1, 10, 1, 28, 28))
        found = distilled(
            init=lambda rng: theta,
            first_images=first,
            validation_weights=theta[None],
            soft_labels=True,
        )
        self.assert_plain(*found.distilled.learned())
        assert first.requires_grad and theta.requires_grad
