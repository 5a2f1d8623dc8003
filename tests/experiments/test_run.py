"""`run`: one configuration in, one record out, computed once; and what adding a network takes."""

import os
import shutil

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_RANDOM, tree

from ddcore.experiments import records
from ddcore.experiments import run as runner
from ddcore.experiments.catalogue import configure
from ddcore.experiments.run import Request, plan, run
from ddcore.experiments.verify import verify
from ddcore.networks import Network
from ddcore.support.errors import InputError
from ddcore.support.registry import ARCHITECTURES, Architecture

pytestmark = pytest.mark.usefixtures("apart")


class TestRequest:
    def test_it_says_what_is_asked_for(self, apart):
        request = Request("law-mnist-xavier", "smoke", {"seed": "4"})
        assert request.experiment == "fig3a"
        assert request.config == configure("fig3a", "smoke", {"seed": "4"})
        assert request.checkpoint_folder == apart / "cache/ddcore/checkpoints"
        assert Request("fig3a", checkpoints=apart).checkpoint_folder == apart

    @pytest.mark.parametrize(
        ("overrides", "changes"),
        [
            pytest.param(None, {}, id="nothing"),
            pytest.param({"seed": "4"}, {"seed": 4}, id="a change"),
            pytest.param({"steps": "10", "epochs": "3"}, {}, id="as defined"),
            pytest.param({"steps": "10", "nets": "7"}, {"nets": 7}, id="some"),
            pytest.param({"dataset": "usps"}, {}, id="the dataset, which the record has"),
            pytest.param({"faithful": "true"}, {"faithful": True}, id="the papers settings"),
        ],
    )
    def test_what_changes_something_is_recorded(self, overrides, changes):
        assert Request("fig3a", overrides=overrides).changes == changes

    def test_where_its_record_is_written(self, apart, monkeypatch):
        monkeypatch.delenv("DDCORE_RESULTS")
        project = apart / "project/results"
        cache = apart / "cache/ddcore/results"
        assert Request("fig3a").root == project
        assert Request("fig3a", overrides={"steps": "10"}).root == project
        assert Request("fig3a", overrides={"seed": "1"}).root == project
        assert Request("fig3a", overrides={"epochs": "2"}).root == cache
        assert Request("fig3a", "smoke").root == cache


class TestPlan:
    """What `ddcore run --dry-run` prints."""

    def test_it_has_the_configuration_the_seconds_and_the_folder(self, apart):
        *fields, estimate, folder = plan(Request("fig2b", "laptop", {"seed": "7"})).splitlines()
        config = configure("fig2b", "laptop", {"seed": "7"})
        assert fields == [f"{name}: {value}" for name, value in config.model_dump().items()]
        assert estimate.startswith("estimated: ") and estimate.endswith(" s of one core")
        assert folder == str(apart / "results" / "fig2b" / config.key)
        assert tree(apart) == []

    def test_a_record_that_is_there_is_named(self, record):
        *_, there, folder = plan(Request("tiny")).splitlines()
        assert (there, folder) == ("there is a record", str(record))

    def test_bad_input_is_refused(self):
        with pytest.raises(InputError, match="unknown experiment"):
            plan(Request("fig2"))
        with pytest.raises(InputError, match="--device tpu"):
            plan(Request("fig2a", device="tpu"))


class TestRun:
    def test_a_record_that_is_there_is_returned(self, record, monkeypatch):
        monkeypatch.setattr(runner, "prepare", None)
        assert run("tiny").folder == record

    def test_fewer_outer_steps_than_comparisons_still_learn(self):
        """Otherwise the noise that the images start from would be taken for the best."""
        found = run("tiny", overrides={"iterations": "1"})
        assert [look["step"] for look in found.distillation["history"]] == [1]

    def test_changes_stand_in_the_record(self):
        found = run("tiny-random", overrides={"iterations": "1", "nets": "1", "epochs": "1"})
        assert found.overrides == {"iterations": 1, "nets": 1}
        assert found.config["iterations"] == found.config["nets"] == 1
        assert found.scale == "paper" and found.experiment == "tiny-random"

    def test_the_environment_is_this_machines(self, record):
        environment = records.find("tiny").environment
        assert environment["torch"] == torch.__version__ and environment["world_size"] == 1
        assert environment["device"].endswith(f" CPU, {os.cpu_count()} cores")
        assert environment["compiled"] is True and environment["seconds"] >= 0

    def test_it_says_where_nothing_was_compiled(self, apart):
        record = run("tiny", compile="off")
        assert record.environment["compiled"] is False

    def test_images_in_a_folder_may_change(self, pictures):
        folder = pictures()
        said = {"dataset": f"folder:{folder}", "iterations": "1", "nets": "1"}
        first = run("tiny-random", overrides=said)
        assert run("tiny-random", overrides=said).environment == first.environment
        shutil.copyfile(folder / "train" / "a" / "0.png", folder / "train" / "a" / "1.png")
        again = run("tiny-random", overrides=said)
        assert again.data["sha256"] != first.data["sha256"] and again.folder == first.folder


class Mine(Network):
    """One linear layer."""

    name = "mine"

    def __init__(self, channels=1, size=28, classes=10):
        self.channels = channels
        self.size = size
        self.shapes = {"weight": (classes, channels * size * size), "bias": (classes,)}

    def forward(self, weights, images):
        pixels = images.flatten(-3)
        logits = pixels @ weights["weight"].transpose(1, 2)
        return logits + weights["bias"][:, None]


class TestAnotherNetwork:
    """Adding an architecture is one entry of the registry."""

    @pytest.fixture(autouse=True)
    def mine(self, monkeypatch):
        monkeypatch.setitem(ARCHITECTURES, "mine", Architecture(f"{__name__}:Mine"))

    def test_it_is_a_linear_layer(self):
        theta = torch.stack([Mine().init("xavier") for _ in range(2)])
        images = torch.randn(3, 1, 28, 28)
        weights = Mine().unflatten(theta)
        expected = F.linear(images.flatten(1), weights["weight"][1], weights["bias"][1])
        torch.testing.assert_close(Mine()(theta, images)[1], expected)

    def test_it_runs_and_is_verified(self, ddcore, apart):
        words = ["--scale", "smoke", "-p", "network=mine", "-p", "iterations=2"]
        done = ddcore("run", "fig2a", *words)
        assert done.status == 0
        key = configure("fig2a", "smoke", {"network": "mine", "iterations": "2"}).key
        assert done.out == [str(apart / "results" / "fig2a" / key)]
        record = records.at("fig2a", key)
        assert record.config["network"] == record.distilled.meta["architecture"] == "mine"
        shapes = {name: tuple(t.shape) for name, t in record.distilled.init.items()}
        assert shapes == Mine().shapes
        assert verify(record).agrees

    def test_it_can_be_pretrained_and_has_a_cost(self, ddcore, experiment):
        experiment("all-mine", TINY_RANDOM.model_copy(update={"images": "all", "network": "mine"}))
        planned = ddcore("run", "all-mine", "--dry-run")
        assert planned.status == 0 and "network: mine" in planned.out
        done = ddcore("run", "all-mine", "-p", "nets=2")
        assert done.status == 0 and ddcore("run", "all-mine", "-p", "nets=2").out == done.out


def test_a_record_whose_images_are_lost_is_made_again(apart):
    first = run("tiny-random")
    (first.folder / "distilled.safetensors").unlink()
    assert not first.has_images
    again = run("tiny-random")
    assert again.has_images and again.metrics == first.metrics
