"""What can be asked for by name: each entry fits what it names, and adding one is one entry."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddcore.accuracy import evaluate
from ddcore.algorithm import distill
from ddcore.datasets import load
from ddcore.distilled import DistilledData
from ddcore.networks import Network, as_network, generator
from ddcore.pretrain import pretrain
from ddcore.recipe import Recipe
from ddcore.support import registry
from ddcore.support.errors import InputError
from ddcore.support.readers import torchvision_datasets
from ddcore.support.registry import ARCHITECTURES, DATASETS, INIT_LAWS, Architecture, Source
from ddcore.use import network_of, train_on


class Mine(Network):
    """A linear classifier of averages over 4x4 pixels."""

    name = "mine"

    def __init__(self, channels: int, size: int, classes: int):
        self.channels = channels
        self.size = size
        self.shapes = {
            "fc.weight": (classes, channels * (size // 4) ** 2),
            "fc.bias": (classes,),
        }

    def forward(self, weights: dict[str, Tensor], images: Tensor) -> Tensor:
        weight, bias = weights["fc.weight"], weights["fc.bias"]
        pooled = F.avg_pool2d(images.flatten(0, -4), 4).flatten(1)
        x = pooled.unflatten(0, images.shape[:-3]).expand(len(weight), -1, -1)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


@pytest.fixture
def mine(monkeypatch):
    """A network of your own under the name "mine": one entry."""
    entry = Architecture("test_registry:Mine", adam_peak=1e-2)
    monkeypatch.setitem(ARCHITECTURES, "mine", entry)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.mark.usefixtures("mine")
class TestANetworkOfYourOwn:
    recipe = Recipe(
        iterations=40, samples=3, batch=32, image_rate=0.1, raw_rate=0.05, first_lr=0.5, checks=4
    )

    def test_it_is_built_by_name_for_the_images(self):
        network = as_network("mine", 3, 32, 7)
        assert type(network).__name__ == "Mine"
        assert network.shapes == {"fc.weight": (7, 192), "fc.bias": (7,)}

    def test_it_is_distilled_for_and_the_data_is_used_by_its_name(self, digits, tmp_path):
        found = distill("mine", digits, "xavier", epochs=1, recipe=self.recipe, progress=False)
        assert found.history[-1]["accuracy"] > 0.4
        found.distilled.meta["init_law"] = "xavier"  # as a record has it
        found.distilled.save(tmp_path / "d.safetensors")
        distilled = DistilledData.load(tmp_path / "d.safetensors")
        assert network_of(distilled).name == "mine"
        weights = train_on(distilled, nets=5, generator=generator(0))
        assert evaluate("mine", weights, *digits.test).mean() > 0.4

    def test_it_is_pretrained_with_its_own_learning_rate(self, digits, monkeypatch):
        theta = pretrain("mine", digits, "xavier", range(2), epochs=3, batch=64)
        assert evaluate("mine", theta, *digits.test).min() > 0.8
        monkeypatch.setitem(
            ARCHITECTURES, "mine", Architecture("test_registry:Mine", adam_peak=1e-5)
        )
        slower = pretrain("mine", digits, "xavier", range(2), epochs=3, batch=64)
        assert evaluate("mine", slower, *digits.test).max() < 0.8

    def test_it_is_among_the_names_that_a_refusal_lists(self):
        with pytest.raises(InputError, match="one of lenet, alexcifarnet, mine"):
            as_network("yours")


def test_a_law_of_your_own_is_one_entry(mine, monkeypatch):
    monkeypatch.setitem(INIT_LAWS, "narrow", lambda fan_in, fan_out: 1e-3)
    weights = as_network("mine", 1, 28, 10).unflatten(as_network("mine").init("narrow")[None])
    assert weights["fc.weight"].std().item() == pytest.approx(1e-3, rel=0.2)


class TestArchitectures:
    @pytest.mark.parametrize(
        ("name", "shape"), [("lenet", (1, 28)), ("lenet", (3, 32)), ("alexcifarnet", (3, 32))]
    )
    def test_an_entry_is_the_network_of_that_name(self, name, shape):
        network = as_network(name, *shape, 7)
        assert network.name == name
        assert (network.channels, network.size) == shape
        images = torch.zeros(2, shape[0], shape[1], shape[1])
        assert network(network.init("xavier")[None], images).shape == (1, 2, 7)

    def test_these_are_all(self):
        assert list(ARCHITECTURES) == ["lenet", "alexcifarnet"]


class TestDatasets:
    def test_these_are_all(self):
        names = ["digits", "mnist", "fashionmnist", "usps", "usps-pooled", "svhn"]
        names += ["cifar10", "cifar10-png", "cifar10-jpeg"]
        assert list(DATASETS) == names

    @pytest.mark.parametrize("name", DATASETS)
    def test_what_an_entry_names_is_there(self, name):
        entry = DATASETS[name]
        assert len(entry.classes) == len(set(entry.classes)) == 10
        assert len(entry.mean) == len(entry.std)
        assert entry.network in ARCHITECTURES
        assert all(DATASETS[copy].classes == entry.classes for copy in entry.copies)
        if entry.torchvision:
            assert hasattr(torchvision_datasets(), entry.torchvision)
            assert entry.train_files and entry.test_files

    def test_cifar10_alone_is_augmented(self):
        augmented = [name for name, entry in DATASETS.items() if entry.augmented]
        assert augmented == ["cifar10", "cifar10-png", "cifar10-jpeg"]

    def test_a_folder_has_the_defaults(self):
        assert registry.source("folder:/somewhere") == Source(classes=())
        assert registry.source("mnist") is DATASETS["mnist"]
