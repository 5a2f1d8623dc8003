"""The stacks against the same networks as plain PyTorch modules, one at a time."""

import pytest
import torch
from torch import nn

from ddcore.distilled import DistilledData
from ddcore.errors import InputError
from ddcore.accuracy import confusion, evaluate
from ddcore.networks import INIT_LAWS, AlexCifarNet, LeNet, ModuleStack, as_network, generator
from ddcore.unroll import meta_gradient


def textbook_lenet(channels: int, size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2 if size == 28 else 0), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def textbook_alexcifarnet() -> nn.Module:
    norm = nn.LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1)
    return nn.Sequential(
        nn.Conv2d(3, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1), norm,
        nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(), norm, nn.MaxPool2d(3, 2, padding=1), nn.Flatten(),
        nn.Linear(4096, 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU(), nn.Linear(192, 10),
    )  # fmt: skip


CASES = [
    (LeNet(1, 28), textbook_lenet(1, 28), 61_706),
    (LeNet(3, 32), textbook_lenet(3, 32), 62_006),
    (AlexCifarNet(), textbook_alexcifarnet(), 1_756_426),
]
NAMES = ["lenet-28", "lenet-32", "alexcifarnet"]


@pytest.mark.parametrize(("stack", "module", "parameters"), CASES, ids=NAMES)
@pytest.mark.parametrize("own_images", [False, True])
def test_a_stack_is_its_networks_one_by_one(stack, module, parameters, own_images):
    n, images = 3, torch.randn(3, 4, stack.channels, stack.size, stack.size).double()
    theta = torch.stack([stack.init("xavier", generator(0, j)) for j in range(n)]).double()
    theta += 0.05 * torch.randn_like(theta)  # so that biases count
    logits = stack(theta, images if own_images else images[0])

    assert theta.shape[1] == parameters == sum(p.numel() for p in module.parameters())
    for j in range(n):
        nn.utils.vector_to_parameters(theta[j], module.double().parameters())
        expected = module(images[j] if own_images else images[0])
        torch.testing.assert_close(logits[j], expected, rtol=1e-10, atol=1e-10)


def test_few_images_and_many_agree_though_they_take_different_paths():
    network, images = LeNet(3, 32), torch.randn(201, 3, 32, 32).double()
    theta = torch.stack([network.init("xavier", generator(0, j)) for j in range(2)]).double()
    torch.testing.assert_close(network(theta, images)[:, :9], network(theta, images[:9]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("law", INIT_LAWS)
def test_the_init_law_has_its_standard_deviation(law):
    weights = AlexCifarNet().unflatten(AlexCifarNet().init(law, generator(0))[None])
    for name, (i, o) in {"conv2.weight": (1600, 1600), "fc1.weight": (4096, 384)}.items():
        expected = {
            "xavier": (2 / (i + o)) ** 0.5, "xavier-half": 0.5 * (2 / (i + o)) ** 0.5,
            "xavier-double": 2 * (2 / (i + o)) ** 0.5, "he": (2 / i) ** 0.5,
        }[law]  # fmt: skip
        assert weights[name].std().item() == pytest.approx(expected, rel=0.01)
    assert not weights["fc1.bias"].any()


def test_generators_are_reproducible_and_differ_with_every_part_of_the_key():
    def draw(*key):
        return torch.randn(3, generator=generator(*key)).tolist()

    assert draw(1, "test", 2) == draw(1, "test", 2)
    assert len({tuple(draw(*k)) for k in [(1, 2, 3), (1, 3, 2), (2, 1, 3), (1, "2", 3), (1, 2), (1, 2, 3, 0)]}) == 6


def test_flatten_and_unflatten_are_inverse_and_follow_pytorchs_order():
    network, module = LeNet(), textbook_lenet(1, 28)
    theta = nn.utils.parameters_to_vector(module.parameters()).detach()[None]
    weights = network.unflatten(theta)
    for tensor, parameter in zip(weights.values(), module.parameters(), strict=True):
        assert torch.equal(tensor[0], parameter)
    assert torch.equal(network.flatten(weights), theta)
    assert torch.equal(network.flatten({n: w[0] for n, w in weights.items()}), theta)
    with pytest.raises(InputError, match="fc1.bias"):
        network.flatten({n: w for n, w in weights.items() if n != "fc1.bias"})


def test_any_module_without_batch_statistics_becomes_a_stack():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 10))
    stack, images = as_network(module), torch.randn(5, 1, 8, 8)
    theta = torch.stack([stack.init("xavier", generator(j)) for j in range(2)])
    assert torch.equal(stack.unflatten(theta)["1.weight"], torch.ones(2, 4))
    for j in range(2):
        nn.utils.vector_to_parameters(theta[j], module.parameters())
        torch.testing.assert_close(stack(theta, images)[j], module(images))


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(1), nn.Dropout(), nn.InstanceNorm2d(1, track_running_stats=True)])
def test_a_module_whose_output_is_no_function_of_its_parameters_is_refused(layer):
    with pytest.raises(InputError, match="refused|without|buffers"):
        ModuleStack(nn.Sequential(layer, nn.Flatten(), nn.Linear(784, 10)))


@pytest.mark.parametrize("call", [lambda: as_network("resnet"), lambda: LeNet(1, 27), lambda: AlexCifarNet(3, 28)])
def test_unknown_names_and_sizes_are_refused(call):
    with pytest.raises(InputError):
        call()


@pytest.mark.parametrize("network", [LeNet(), AlexCifarNet()])
@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 32, 32), (1, 27, 28)])
def test_images_of_another_shape_are_named(network, shape):
    with pytest.raises(InputError, match="takes images of"):
        network(network.init("xavier")[None], torch.zeros(2, *shape))


@pytest.mark.parametrize(
    "change, said",
    [(lambda w: w.pop("fc1.bias"), "missing or unknown"), (lambda w: w.update(fc=w["fc1.bias"]), "missing or unknown"),
     (lambda w: w.update({"fc1.weight": w["fc1.weight"].mT}), r"fc1.weight is \(1, 400, 120\), not \(120, 400\)")],
)  # fmt: skip
def test_weights_of_another_network_are_named(change, said):
    weights = LeNet().unflatten(LeNet().init("xavier")[None])
    change(weights)
    with pytest.raises(InputError, match=said):
        LeNet().flatten(weights)


def test_a_network_s_name_is_enough_where_the_images_are_at_hand():
    rng = generator(0)
    network, images, labels = LeNet(3, 32, 10), torch.randn(6, 3, 32, 32, generator=rng), torch.arange(6)
    weights = network.init("xavier", rng)[None]
    distilled = DistilledData(images[None], labels[None], torch.full((1, 1), 0.1), meta={"classes": "0123456789"})
    by_name, as_it_is = (
        (evaluate(of, weights, images, labels), meta_gradient(of, distilled, weights, (images, labels))[1].images)
        for of in ("lenet", network)
    )
    assert all(map(torch.equal, by_name, as_it_is))


def test_confusion_counts_the_classes_of_any_network():
    network = ModuleStack(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    images, labels = torch.randn(5, 1, 4, 4), torch.tensor([0, 0, 1, 1, 1])
    found = confusion(network, torch.stack([network.init("xavier") for _ in range(2)]), images, labels)
    assert found.shape == (2, 3, 3) and found.sum(2).tolist() == [[2, 3, 0]] * 2
