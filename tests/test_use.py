"""Distilled data in use: found by file, folder or name, and networks trained on it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ddcore
from ddcore.distilled import DistilledData
from ddcore.networks import LeNet, generator
from ddcore.support.errors import InputError
from ddcore.unroll import train_in_float64
from ddcore.use import load_distilled, network_of, train_on

META = {"dataset": "digits", "classes": "abc", "mean": [0.1], "std": [0.3]}
SHIPPED = Path(ddcore.__file__).parent / "data"


def example(**meta) -> DistilledData:
    """Two steps of three images for any network that reads 28x28."""
    images = torch.randn(2, 3, 1, 28, 28, generator=generator(0))
    labels = torch.arange(3).expand(2, 3).contiguous()
    return DistilledData(images, labels, torch.full((1, 2), 0.05), meta=META | meta)


def own_module() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 3))


class TestLoading:
    def test_by_file_by_folder_and_by_name(self, record, monkeypatch):
        by_name = load_distilled("tiny")
        for path in (record, record / "distilled.safetensors", str(record)):
            assert torch.equal(load_distilled(path).images, by_name.images)
        monkeypatch.chdir(record.parents[1])  # where a folder has the experiment's name
        assert torch.equal(load_distilled("tiny").images, by_name.images)

    @pytest.mark.parametrize(
        ("name", "dataset"),
        [
            ("fig2a", "mnist"),
            ("fig3a", "mnist"),
            ("fig3b", "cifar10-jpeg"),
            ("soft-mnist-10", "mnist"),
        ],
    )
    def test_without_a_record_a_name_is_a_set_of_the_package(self, apart, name, dataset):
        found = load_distilled(name)
        carried = DistilledData.load(SHIPPED / f"{name}.safetensors")
        assert torch.equal(found.images, carried.images)
        assert torch.equal(found.lrs, carried.lrs)
        assert found.meta == carried.meta
        assert found.meta["dataset"] == dataset

    def test_a_record_comes_before_a_set_of_the_package(self, record, monkeypatch):
        monkeypatch.setattr("ddcore.use.SHIPPED", record.parent)
        other = replace(load_distilled("tiny"), images=torch.zeros(1, 10, 1, 28, 28))
        other.save(record.parent / "tiny.safetensors")
        assert load_distilled("tiny").images.any()

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            pytest.param("fig2b", "no record here; `ddcore run fig2b` makes one", id="no record"),
            pytest.param("nothing", "unknown experiment 'nothing'", id="no experiment"),
            pytest.param("missing.safetensors", "missing.safetensors is not", id="no file"),
            pytest.param("no/such/folder", "no/such/folder", id="no folder"),
        ],
    )
    def test_what_is_missing_is_named(self, apart, name, said):
        with pytest.raises(InputError, match=said):
            load_distilled(name)

    def test_it_can_be_asked_of_the_package(self, apart):
        assert ddcore.load_distilled is load_distilled
        assert ddcore.train_on is train_on
        assert ddcore.network_of is network_of


class TestTraining:
    def test_it_starts_from_the_stored_weights(self, record):
        """By hand, in the order and with the rates of eq. 8."""
        data = load_distilled("tiny")
        network = network_of(data)
        w = {name: t.clone().requires_grad_() for name, t in data.init.items()}
        for e in range(2):
            logits = network({name: t[None] for name, t in w.items()}, data.images[0])[0]
            loss = torch.nn.functional.cross_entropy(logits, data.labels[0])
            gradients = torch.autograd.grad(loss, list(w.values()))
            w = {
                name: (t - data.lrs[e, 0] * g).detach().requires_grad_()
                for (name, t), g in zip(w.items(), gradients, strict=True)
            }
        trained = train_on(data)
        assert trained.keys() == w.keys()
        for name, t in w.items():
            assert trained[name].shape == (1, *t.shape)
            assert torch.allclose(trained[name][0], t, atol=1e-5)

    def test_weights_that_are_given_come_first(self, record):
        data = load_distilled("tiny")
        theta = torch.stack([LeNet().init("xavier", generator(j)) for j in range(2)])
        trained = train_on(data, LeNet().unflatten(theta))
        expected = train_in_float64(LeNet(), data, theta)
        assert torch.equal(LeNet().flatten(trained), expected)

    def test_networks_are_drawn_from_the_law_by_a_generator(self):
        data = example(architecture="lenet", init_law="he")
        network = LeNet(classes=3)
        one, same, other = (train_on(data, nets=2, generator=generator(j)) for j in (1, 1, 2))
        rng = generator(1)
        theta = torch.stack([network.init("he", rng) for _ in range(2)])
        expected = train_in_float64(network, data, theta)
        assert torch.equal(network.flatten(one), expected)
        assert torch.equal(network.flatten(same), expected)
        assert not torch.equal(network.flatten(other), expected)

    def test_data_for_a_module_of_your_own_is_used_with_it(self, tmp_path):
        path = tmp_path / "d.safetensors"
        example(architecture="Sequential", init_law="xavier").save(path)
        data = load_distilled(path)
        module = own_module()
        weights = train_on(data, network=module, nets=2)
        assert weights["1.weight"].shape == (2, 3, 784)
        assert ddcore.evaluate(module, weights, data.images[0], data.labels[0]).shape == (2,)


class TestRefusals:
    @pytest.mark.parametrize(
        ("meta", "said"),
        [
            pytest.param({}, "does not say which architecture", id="no architecture"),
            pytest.param(
                {"architecture": "Sequential", "init_law": "xavier"},
                "network of your own, Sequential: give it",
                id="a module of your own",
            ),
            pytest.param(
                {"architecture": "lenet"}, "no law named.*give weights", id="no law and no weights"
            ),
            pytest.param(
                {"architecture": "lenet", "init_law": "trained on digits"},
                "trained on digits.*give weights",
                id="pretrained networks",
            ),
        ],
    )
    def test_what_cannot_be_trained_says_what_is_missing(self, meta, said):
        with pytest.raises(InputError, match=said):
            train_on(example(**meta))

    def test_another_network_s_weights_are_refused(self):
        weights = {"fc1.weight": torch.zeros(1, 2, 2)}
        with pytest.raises(InputError, match="the weights do not belong to lenet"):
            train_on(example(architecture="lenet"), weights)


class TestThePackage:
    @pytest.mark.parametrize("name", ddcore.__all__)
    def test_every_name_it_offers_is_there(self, name):
        assert getattr(ddcore, name) is not None
        assert name in dir(ddcore)

    def test_every_name_is_imported_alone(self):
        offered: dict[str, object] = {}
        exec("from ddcore import *", offered)
        assert set(ddcore.__all__) <= set(offered)

    def test_another_name_is_an_error(self):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            ddcore.nothing  # noqa: B018

    def test_it_has_a_version(self):
        assert ddcore.__version__
