"""Records: where they are, that they are whole or not there, and what they state."""

import json

import pytest
import torch
from conftest import TINY, tree
from safetensors import safe_open

from ddcore.experiments import records
from ddcore.experiments.catalogue import configure
from ddcore.experiments.config import Config
from ddcore.support.errors import InputError, WriteError

pytestmark = pytest.mark.usefixtures("apart")
PROJECT = records.PROJECT  # before a test moves it
COMMITTED = sorted((PROJECT / "results").glob("*/*/record.json"))
KEY = "0123456789ab"
ENVIRONMENT = {
    "python": "3.12.0",
    "torch": "2.13.0",
    "device": "a CPU, 2 cores",
    "threads": 2,
    "world_size": 1,
    "compiled": False,
    "commit": None,
    "dirty": False,
    "started": "2026-01-01T00:00:00+00:00",
    "seconds": 1,
}


def content(key=KEY, experiment="fig2a", **fields):
    """What a record.json holds."""
    return {
        "experiment": experiment,
        "scale": "paper",
        "key": key,
        "config": TINY.model_dump(),
        "overrides": {},
        "metrics": {"test_accuracy": {"mean": 0.5, "std": None, "n": 1, "values": [0.5]}},
        "environment": ENVIRONMENT,
        "data": {"name": "digits", "sha256": "0" * 64},
        "algorithm_version": 1,
        **fields,
    }


class TestPlaces:
    @pytest.fixture
    def places(self, apart):
        """The named folder, the project's, and the cache."""
        return [apart / p for p in ("results", "project/results", "cache/ddcore/results")]

    def test_they_are_read_from_three_places_in_order(self, places, monkeypatch):
        assert records.roots() == places
        monkeypatch.delenv("DDCORE_RESULTS")
        assert records.roots() == places[1:]

    def test_an_installed_package_has_none_in_its_project(self, apart, places, monkeypatch):
        monkeypatch.setattr(records, "PROJECT", apart / "site-packages")
        assert records.roots() == [places[0], places[2]]
        monkeypatch.delenv("DDCORE_RESULTS")
        assert records.root_for("fig2a", "paper", "mnist", {}) == places[2]

    def test_a_named_folder_takes_all_new_ones(self, places):
        assert records.root_for("fig2a", "paper", "mnist", {}) == places[0]
        assert records.root_for("fig2a", "smoke", "mnist", {"seed": 1}) == places[0]

    @pytest.mark.parametrize(
        ("name", "scale", "dataset", "overrides", "place"),
        [
            pytest.param("fig2a", "paper", "mnist", {}, "project", id="as defined"),
            pytest.param("fig2b", "paper", "cifar10-jpeg", {}, "project", id="a copy"),
            pytest.param("law-mnist-xavier", "paper", "mnist", {}, "project", id="alias"),
            pytest.param("fig2a", "laptop", "mnist", {}, "cache", id="another scale"),
            pytest.param("fig2a", "paper", "mnist", {"seed": 1}, "project", id="another seed"),
            pytest.param("fig2a", "paper", "mnist", {"faithful": True}, "project", id="faithful"),
            pytest.param("fig2a", "laptop", "mnist", {"seed": 1}, "cache", id="both"),
            pytest.param("fig2a", "paper", "mnist", {"seed": 1, "epochs": 2}, "cache", id="more"),
            pytest.param("fig2a", "paper", "fashionmnist", {}, "cache", id="other data"),
        ],
    )
    def test_the_projects_results_take_what_is_as_defined(
        self, places, monkeypatch, name, scale, dataset, overrides, place
    ):
        monkeypatch.delenv("DDCORE_RESULTS")
        expected = places[1] if place == "project" else places[2]
        assert records.root_for(name, scale, dataset, overrides) == expected

    def test_the_first_place_with_a_record_wins(self):
        for k, root in reversed(list(enumerate(records.roots()))):
            records.write(root, content(overrides={"root": k}), None)
            assert records.at("fig2a", KEY).overrides == {"root": k}
        assert records.at("fig2a", "no key") is None

    def test_the_original_is_found_before_its_copy(self, apart):
        assert records.find("fig2b") is None
        for copy in ("cifar10-jpeg", "cifar10"):
            config = configure("fig2b", overrides={"dataset": copy})
            fields = content(config.key, "fig2b", config=config.model_dump())
            records.write(apart / "results", fields, None)
            assert records.find("fig2b").config["dataset"] == copy
        assert [record.experiment for record in records.everywhere()] == ["fig2b"]

    def test_an_alias_finds_the_record_of_its_experiment(self, apart):
        key = configure("fig3a").key
        records.write(apart / "results", content(key, "fig3a"), None)
        assert records.find("law-mnist-xavier").folder == apart / "results" / "fig3a" / key

    def test_replicates_change_no_more_than_seed_and_settings(self, apart):
        roots = apart / "results", apart / "cache/ddcore/results"
        changes = {
            "a": {},
            "b": {"seed": 1},
            "c": {"faithful": True, "seed": 2},
            "d": {"epochs": 2},
        }
        for key, overrides in changes.items():
            for root in roots:
                records.write(root, content(key, "fig3a", overrides=overrides), None)
        records.write(roots[0], content("e", "fig3a", overrides={"seed": 3}, scale="smoke"), None)
        found = records.replicates("law-mnist-xavier")  # an alias
        assert [record.folder for record in found] == [roots[0] / "fig3a" / key for key in "bc"]
        assert [record.name for record in found] == [
            "fig3a, seed=1",
            "fig3a, faithful=true, seed=2",
        ]
        assert records.faithful("fig3a") is None
        records.write(roots[1], content("f", "fig3a", overrides={"faithful": True}), None)
        assert records.faithful("fig3a").folder == roots[1] / "fig3a" / "f"

    def test_a_configuration_is_found_under_whatever_experiment(self, apart):
        assert records.of(TINY) is None
        records.write(apart / "cache/ddcore/results", content(TINY.key, "mine"), None)
        assert records.of(TINY).experiment == "mine"


class TestWrite:
    """Whole or not at all."""

    @pytest.mark.parametrize("before", [False, True], ids=["nothing there", "a record there"])
    @pytest.mark.parametrize("failing", ["copyfile", "json", "first rename", "last rename"])
    def test_a_write_that_fails_leaves_what_was_there(self, apart, monkeypatch, before, failing):
        root = apart / "results"
        file = apart / "d"
        file.write_bytes(b"new")
        if before:
            records.write(root, content(overrides={"old": 1}), None)
        there = tree(root) if before else ["fig2a"]

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        rename = records.Path.replace
        renamed = []

        def rename_until(old, new):
            renamed.append(new)
            last = 2 if before and failing == "last rename" else 1
            return full() if len(renamed) == last else rename(old, new)

        fields = content()
        if failing == "copyfile":
            monkeypatch.setattr(records.shutil, "copyfile", full)
        elif failing == "json":
            fields = content(overrides={"new": float("nan")})
        else:
            monkeypatch.setattr(records.Path, "replace", rename_until)
        with pytest.raises(ValueError if failing == "json" else WriteError) as error:
            records.write(root, fields, file)
        if failing != "json":
            assert str(error.value).startswith(f"cannot write {root / 'fig2a' / KEY}: No space")
        assert tree(root) == there
        if before:
            assert records.at("fig2a", KEY).overrides == {"old": 1}

    def test_the_whole_folder_is_replaced(self, apart):
        (apart / "d").write_bytes(b"x")
        first = records.write(apart / "results", content(), apart / "d")
        assert tree(first.folder) == ["distilled.safetensors", "record.json"]
        second = records.write(apart / "results", content(overrides={"new": 1}), None)
        assert second.folder == first.folder and tree(second.folder) == ["record.json"]
        folders = ["fig2a", f"fig2a/{KEY}", f"fig2a/{KEY}/record.json"]
        assert tree(apart / "results") == folders


class TestRead:
    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="empty"),
            pytest.param("{", id="no JSON"),
            pytest.param("[]", id="list"),
            pytest.param("{}", id="nothing in it"),
            pytest.param("7", id="number"),
            pytest.param('"x"', id="text"),
            pytest.param('{"metrics": {}}', id="no metric"),
            pytest.param("\x00", id="zero"),
            pytest.param("half", id="half of one"),
        ],
    )
    def test_a_damaged_record_is_named(self, record, text):
        file = record / "record.json"
        file.write_text(file.read_text()[:300] if text == "half" else text)
        with pytest.raises(InputError, match="is not a record") as error:
            records.find("tiny")
        assert str(file) in str(error.value)

    FAULTS = {
        "experiment": lambda c: c.pop("experiment"),
        "algorithm_version": lambda c: c.pop("algorithm_version"),
        "environment": lambda c: c.update(environment=[]),
        "environment.seconds": lambda c: c["environment"].pop("seconds"),
        "data.sha256": lambda c: c["data"].pop("sha256"),
        "test_accuracy": lambda c: c["metrics"].pop("test_accuracy"),
        "config: .*dataset must be the name of one": lambda c: c["config"].update(dataset=None),
        "metrics: .*one is allowed": lambda c: c["metrics"]["test_accuracy"].update(mean=[0.5, 1]),
        "metrics.test_accuracy.mean": lambda c: c["metrics"]["test_accuracy"].update(mean=1e300),
        "metrics.test_accuracy.std": lambda c: c["metrics"]["test_accuracy"].pop("std"),
        "metrics.test_accuracy.values": lambda c: c["metrics"]["test_accuracy"].update(
            values=["many"]
        ),
        "metrics.invented": lambda c: c["metrics"].update(invented=7),
    }

    @pytest.mark.parametrize("field", FAULTS)
    def test_a_record_without_a_field_or_with_another_is_named(self, edit, field):
        edit(self.FAULTS[field])
        with pytest.raises(InputError, match=f"is not a record: .*{field}"):
            records.find("tiny")


class TestNumbers:
    @pytest.mark.parametrize(
        ("mean", "said"),
        [
            (0.87745, "87.74"),
            (0.9531, "95.31"),
            (0.57, "57.00"),
            (0.3979795, "39.79"),
            (1, "100.00"),
        ],
    )
    def test_accuracy_is_rounded_down(self, mean, said):
        metrics = {"test_accuracy": {"mean": mean, "std": None, "n": 1, "values": [mean]}}
        assert records.Record(folder=".", **content(metrics=metrics)).accuracy == said

    def test_a_metric_of_one_network_has_no_spread(self):
        metric = records.metric(torch.tensor([0.25]))
        assert metric == {"mean": 0.25, "std": None, "n": 1, "values": [0.25]}

    def test_a_metric_of_many_has_an_unbiased_spread(self):
        metric = records.metric(torch.tensor([0.1, 0.2, 0.3]))
        assert metric["mean"] == pytest.approx(0.2) and metric["n"] == 3
        assert metric["std"] == pytest.approx(0.1)

    def test_a_metric_may_have_a_number_for_each_class(self):
        metric = records.metric(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
        assert metric["mean"] == [0.5, 1.0] and metric["n"] == 2 and metric["std"][1] == 0


class TestStored:
    """What `ddcore run` writes."""

    def test_what_a_record_holds(self, record):
        found = records.find("tiny")
        assert found.folder == record
        assert tree(record) == ["distilled.safetensors", "record.json"]
        assert (found.experiment, found.scale, found.overrides) == ("tiny", "paper", {})
        assert Config(**found.config) == TINY and found.key == TINY.key
        assert found.algorithm_version == 1
        assert set(found.environment) == set(ENVIRONMENT)
        assert found.data["name"] == "digits" and len(found.data["sha256"]) == 64
        with pytest.raises(AttributeError):
            _ = found.nothing

    def test_its_metrics(self, record):
        metrics = records.find("tiny").metrics
        names = ["test_accuracy", "test_accuracy_before", "test_accuracy_by_step"]
        assert list(metrics) == names
        accuracy = metrics["test_accuracy"]
        assert accuracy["std"] is None and accuracy["n"] == 1 and 0 < accuracy["mean"] < 1

    def test_how_its_images_came_about(self, record):
        details = records.find("tiny").distillation
        assert set(details) == {"best_step", "ended", "returns", "history"}
        assert details["ended"] == 12 and details["returns"] == 0
        assert [look["step"] for look in details["history"]] == [6, 12]
        assert set(details["history"][0]) == {"step", "loss", "accuracy", "seconds"}

    def test_its_images_are_read_once_and_say_what_they_are(self, record):
        found = records.find("tiny")
        assert found.has_images and found.distilled is found.distilled
        assert len(found.distilled.init) == 10
        with safe_open(record / "distilled.safetensors", "pt") as file:
            meta = json.loads(file.metadata()["ddcore"])
        said = "dataset architecture init_law fixed_init mean std classes steps epochs objective"
        assert set(meta) == {*said.split(), "format"}
        assert meta["objective"] == "cross_entropy" and meta["fixed_init"] is True

    @pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.parent.name)
    def test_a_committed_record_is_that_of_its_experiment(self, file, monkeypatch):
        """As defined, or a replicate: another seed, or the settings of the paper's code."""
        monkeypatch.setattr(records, "PROJECT", PROJECT)
        found = records.read(file.parent)
        assert found.key == file.parent.name == Config(**found.config).key
        assert found.scale == "paper" and found.overrides.keys() <= {"seed", "faithful"}
        replicate = {name: str(value).lower() for name, value in found.overrides.items()}
        replicate["dataset"] = found.config["dataset"]
        assert configure(found.experiment, overrides=replicate).key == found.key
        if not found.overrides:
            assert records.find(found.experiment).folder == file.parent
