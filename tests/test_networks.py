"""The stacks against the same networks as plain PyTorch modules, one at a time."""

import pytest
import torch
from torch import nn

from ddcore.networks import (
    AlexCifarNet,
    LeNet,
    ModuleStack,
    as_init_law,
    as_network,
    conv,
    conv_max2x2,
    generator,
    max2x2,
)
from ddcore.support.errors import InputError
from ddcore.support.registry import INIT_LAWS


def textbook_lenet(channels: int, size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2 if size == 28 else 0),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def textbook_alexcifarnet() -> nn.Module:
    norm = nn.LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1)
    return nn.Sequential(
        nn.Conv2d(3, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        norm,
        nn.Conv2d(64, 64, 5, padding=2),
        nn.ReLU(),
        norm,
        nn.MaxPool2d(3, 2, padding=1),
        nn.Flatten(),
        nn.Linear(4096, 384),
        nn.ReLU(),
        nn.Linear(384, 192),
        nn.ReLU(),
        nn.Linear(192, 10),
    )


def lenet_weights() -> dict[str, torch.Tensor]:
    return LeNet().unflatten(LeNet().init("xavier", generator(0))[None])


class TestStacks:
    @pytest.mark.parametrize("own_images", [False, True], ids=["shared images", "own images"])
    @pytest.mark.parametrize(
        ("stack", "module", "parameters"),
        [
            pytest.param(LeNet(1, 28), textbook_lenet(1, 28), 61_706, id="lenet, 28"),
            pytest.param(LeNet(3, 32), textbook_lenet(3, 32), 62_006, id="lenet, colour, 32"),
            pytest.param(AlexCifarNet(), textbook_alexcifarnet(), 1_756_426, id="alexcifarnet"),
        ],
    )
    def test_a_stack_is_its_networks_one_by_one(self, stack, module, parameters, own_images):
        n = 3
        rng = generator(1)
        images = torch.randn(n, 4, stack.channels, stack.size, stack.size, generator=rng).double()
        theta = torch.stack([stack.init("xavier", generator(0, j)) for j in range(n)]).double()
        theta += 0.05 * torch.randn(theta.shape, generator=rng)  # so that biases count
        logits = stack(theta, images if own_images else images[0])

        assert theta.shape[1] == parameters == sum(p.numel() for p in module.parameters())
        for j in range(n):
            nn.utils.vector_to_parameters(theta[j], module.double().parameters())
            expected = module(images[j] if own_images else images[0])
            torch.testing.assert_close(logits[j], expected, rtol=1e-10, atol=1e-10)

    def test_few_images_and_many_agree_though_they_take_different_paths(self):
        network = LeNet(3, 32)
        images = torch.randn(201, 3, 32, 32, generator=generator(1)).double()
        theta = torch.stack([network.init("xavier", generator(0, j)) for j in range(2)]).double()
        many = network(theta, images)[:, :9]
        few = network(theta, images[:9])
        torch.testing.assert_close(many, few, rtol=1e-10, atol=1e-10)

    def test_the_maximum_of_a_convolution_is_one_of_four_convolutions(self):
        rng = generator(0)
        x = torch.randn(3, 2, 12, 12, generator=rng).double()
        weight = torch.randn(4, 6, 2, 5, 5, generator=rng).double()
        bias = torch.randn(4, 6, generator=rng).double()
        expected = max2x2(conv(x, weight, bias))
        torch.testing.assert_close(conv_max2x2(x, weight, bias), expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("network", [LeNet(), AlexCifarNet()], ids=lambda network: network.name)
    @pytest.mark.parametrize("shape", [(3, 28, 28), (1, 32, 32), (1, 27, 28)], ids=str)
    def test_images_of_another_shape_are_named(self, network, shape):
        with pytest.raises(InputError, match="takes images of"):
            network(network.init("xavier")[None], torch.zeros(2, *shape))


class TestWeights:
    def test_flatten_and_unflatten_are_inverse_and_follow_pytorchs_order(self):
        network = LeNet()
        module = textbook_lenet(1, 28)
        theta = nn.utils.parameters_to_vector(module.parameters()).detach()[None]
        weights = network.unflatten(theta)
        for tensor, parameter in zip(weights.values(), module.parameters(), strict=True):
            assert torch.equal(tensor[0], parameter)
        assert torch.equal(network.flatten(weights), theta)
        of_one = {name: w[0] for name, w in weights.items()}
        assert torch.equal(network.flatten(of_one), theta)

    def test_weights_that_are_a_tensor_or_a_dict_already_stay_as_they_are(self):
        weights = lenet_weights()
        theta = LeNet().flatten(weights)
        assert LeNet().flatten(theta) is theta
        assert LeNet().unflatten(weights) is weights

    def test_a_missing_parameter_is_named(self):
        weights = lenet_weights()
        del weights["fc1.bias"]
        with pytest.raises(InputError, match="fc1.bias is missing or unknown"):
            LeNet().flatten(weights)

    def test_an_unknown_parameter_is_named(self):
        weights = lenet_weights()
        weights["fc"] = weights["fc1.bias"]
        with pytest.raises(InputError, match="fc is missing or unknown"):
            LeNet().flatten(weights)

    def test_a_parameter_of_another_shape_is_named(self):
        weights = lenet_weights()
        weights["fc1.weight"] = weights["fc1.weight"].mT
        said = r"fc1.weight is \(1, 400, 120\), not \(120, 400\)"
        with pytest.raises(InputError, match=said):
            LeNet().flatten(weights)


class TestInitLaws:
    @pytest.mark.parametrize(
        ("law", "variance"),
        [
            pytest.param("xavier", lambda i, o: 2 / (i + o), id="xavier"),
            pytest.param("xavier-half", lambda i, o: 0.5 / (i + o), id="xavier-half"),
            pytest.param("xavier-double", lambda i, o: 8 / (i + o), id="xavier-double"),
            pytest.param("he", lambda i, o: 2 / i, id="he"),
        ],
    )
    def test_weights_have_the_law_s_standard_deviation_and_biases_are_0(self, law, variance):
        network = AlexCifarNet()
        weights = network.unflatten(network.init(law, generator(0))[None])
        for name, fans in {"conv2.weight": (1600, 1600), "fc1.weight": (4096, 384)}.items():
            expected = pytest.approx(variance(*fans) ** 0.5, rel=0.01)
            assert weights[name].std().item() == expected
        assert not weights["fc1.bias"].any()

    def test_these_are_all_laws(self):
        assert set(INIT_LAWS) == {"xavier", "xavier-half", "xavier-double", "he"}

    def test_an_unknown_law_is_refused_with_those_that_there_are(self):
        with pytest.raises(InputError, match="unknown init law 'uniform': one of xavier, "):
            LeNet().init("uniform")

    def test_a_law_by_name_draws_what_the_network_draws(self):
        by_name = as_init_law(LeNet(), "he")
        assert torch.equal(by_name(generator(3)), LeNet().init("he", generator(3)))

    def test_a_law_that_is_a_function_stays_as_it_is(self):
        assert as_init_law(LeNet(), torch.zeros_like) is torch.zeros_like


class TestGenerators:
    def test_the_same_key_gives_the_same_stream(self):
        one, same = (generator(1, "test", 2) for _ in range(2))
        assert torch.equal(torch.randn(3, generator=one), torch.randn(3, generator=same))

    def test_every_part_of_the_key_makes_another_stream(self):
        keys = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (1, "2", 3), (1, 2), (1, 2, 3, 0)]
        draws = {tuple(torch.randn(3, generator=generator(*key)).tolist()) for key in keys}
        assert len(draws) == len(keys)


class TestModules:
    def test_any_module_without_batch_statistics_becomes_a_stack(self):
        module = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.GroupNorm(2, 4),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(4 * 36, 10),
        )
        stack = as_network(module)
        images = torch.randn(5, 1, 8, 8, generator=generator(1))
        theta = torch.stack([stack.init("xavier", generator(j)) for j in range(2)])
        assert torch.equal(stack.unflatten(theta)["1.weight"], torch.ones(2, 4))
        for j in range(2):
            nn.utils.vector_to_parameters(theta[j], module.parameters())
            torch.testing.assert_close(stack(theta, images)[j], module(images))

    @pytest.mark.parametrize(
        ("layer", "said"),
        [
            pytest.param(nn.BatchNorm2d(1), "contains BatchNorm2d", id="batch statistics"),
            pytest.param(nn.Dropout(), "contains Dropout", id="dropout"),
            pytest.param(
                nn.InstanceNorm2d(1, track_running_stats=True), ".* has buffers", id="buffers"
            ),
        ],
    )
    def test_one_whose_output_is_no_function_of_its_parameters_is_refused(self, layer, said):
        with pytest.raises(InputError, match=f"Sequential {said}"):
            ModuleStack(nn.Sequential(layer, nn.Flatten(), nn.Linear(784, 10)))


class TestNames:
    def test_a_network_stays_as_it_is(self):
        network = LeNet()
        assert as_network(network) is network

    @pytest.mark.parametrize(
        ("call", "said"),
        [
            pytest.param(lambda: as_network("resnet"), "unknown network 'resnet'", id="name"),
            pytest.param(lambda: as_network("lenett"), r"did you mean lenet\?", id="near name"),
            pytest.param(lambda: LeNet(1, 27), "28x28 or 32x32, not 27x27", id="lenet's size"),
            pytest.param(lambda: AlexCifarNet(3, 28), "32x32, not 28x28", id="alexcifarnet's size"),
        ],
    )
    def test_unknown_names_and_sizes_are_refused(self, call, said):
        with pytest.raises(InputError, match=said):
            call()
