"""Records: their keys, where they are, that they are whole, and that verify never trusts them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import TINY, TINY_RANDOM, tree
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ddcore.experiments import catalogue, records, run
from ddcore.experiments.catalogue import Config, configure
from ddcore.algorithm import Recipe
from ddcore.errors import InputError

pytestmark = pytest.mark.usefixtures("apart")


def content(key="0123456789ab", experiment="fig2a", **fields):
    accuracy = {"mean": 0.5, "std": None, "n": 1, "values": [0.5]}
    environment = records.environment("cpu", False, 1) | {"started": "2026-01-01T00:00:00+00:00", "seconds": 1}
    return {
        "experiment": experiment, "scale": "paper", "key": key, "config": TINY.model_dump(), "overrides": {},
        "metrics": {"test_accuracy": accuracy}, "environment": environment,
        "data": {"name": "digits", "sha256": "0" * 64}, "algorithm_version": 1, **fields,
    }  # fmt: skip


# ---- keys


def test_a_key_leaves_defaults_out():
    """A new field with a default, and saying a default aloud, change no key; any other value does."""

    class Later(Config):
        added: int = 7

    said = {"dataset": "mnist", "epochs": 3}
    key = Config(**said).key
    assert key == "12931be14fa6"  # keys of stored records are for ever
    assert Later(**said).key == Config(**said, steps=1, network="lenet").key == key
    others = [{"seed": 1}, {"steps": 2}, {"dataset": "usps"}, {"nets": 199}, {"soft_labels": True}, {"noise": 0.3}]
    assert len({key, *(Config(**{**said, **other}).key for other in others), Later(**said, added=8).key}) == 8


def test_the_algorithm_version_is_in_the_key(monkeypatch):
    key = TINY.key
    monkeypatch.setattr(experiments, "ALGORITHM_VERSION", 2)
    assert TINY.key != key


def test_every_experiment_has_a_key_of_its_own():
    assert len({configure(name).key for name in experiments.EXPERIMENTS}) == len(experiments.EXPERIMENTS)
    for alias, name in experiments.ALIASES.items():
        assert configure(alias).key == configure(name).key and alias not in experiments.EXPERIMENTS


def test_copies_of_a_dataset_are_different_data():
    assert configure("fig2b").key != configure("fig2b", overrides={"dataset": "cifar10-jpeg"}).key
    assert configure("fig2b").key == configure("fig2b", overrides={"dataset": "cifar10"}).key
    assert configure("fig2b", overrides={"dataset": "cifar10-jpeg"}).network == "alexcifarnet"
    assert configure("fig2b", "smoke", {"dataset": "cifar10"}).network == "alexcifarnet"
    assert configure("fig2b", overrides={"dataset": "mnist"}).network == "lenet"


def test_scales_change_only_the_numbers():
    paper, laptop, smoke = (configure("fig3b", scale) for scale in experiments.SCALES[::-1])
    assert paper.nets == 200 and laptop.nets == 50 and smoke.nets == 5
    assert paper.model_dump(exclude={"iterations", "nets"}) == laptop.model_dump(exclude={"iterations", "nets"})
    assert (smoke.dataset, smoke.network, smoke.steps, smoke.epochs) == ("digits", "lenet", paper.steps, paper.epochs)
    assert configure("fig2a", "laptop").nets == configure("fig2a").nets == 1
    assert configure("table1-cifar10-many-5", "laptop").samples == 4


def test_faithful_is_the_paper_s_recipe_and_its_record_says_so():
    config = configure("fig3a", overrides={"faithful": "true"})
    assert config.recipe == Recipe.faithful(23_600, 0.02)
    assert (config.batch, config.samples, config.iterations) == (1024, 1, 23_600)
    assert configure("fig2b", overrides={"faithful": "true"}).recipe == Recipe.faithful(19_600, 0.001)
    attack = configure("table3-mnist-10", overrides={"faithful": "true"}).recipe  # with networks of a pool
    assert attack == replace(Recipe.faithful(23_600, 0.02), samples=4, image_rate=0.02, raw_rate=0.02)
    other = configure("fig3a", "laptop", {"faithful": "true", "samples": "3"}).recipe
    assert other.samples == 3 and other.iterations == 187 and other.halving and other.common_batch


# ---- places


def test_where_records_are_read_from_and_written_to(apart, monkeypatch):
    project, cache, named = (apart / p for p in ("project/results", "cache/ddcore/results", "results"))
    assert records.roots() == [named, project, cache]
    for scale, said in (("paper", {}), ("smoke", {"seed": 1})):
        assert records.root_for("fig2a", scale, "mnist", said) == named
    monkeypatch.delenv("DDCORE_RESULTS")
    assert records.roots() == [project, cache]
    assert records.root_for("fig2a", "paper", "mnist", {}) == project
    assert records.root_for("fig2b", "paper", "cifar10-jpeg", {}) == project
    assert records.root_for("fig2a", "laptop", "mnist", {}) == cache
    assert records.root_for("fig2a", "paper", "mnist", {"seed": 1}) == cache
    assert records.root_for("fig2a", "paper", "fashionmnist", {}) == cache


def test_the_first_root_with_a_record_wins(apart):
    for k, root in reversed(list(enumerate(records.roots()))):
        records.write(root, content(overrides={"root": k}), None)
        assert records.at("fig2a", "0123456789ab").overrides == {"root": k}
    assert records.at("fig2a", "no key") is None


def test_find_takes_the_original_first_and_then_the_copy(apart):
    assert records.find("fig2b") is None
    for copy in ("cifar10-jpeg", "cifar10"):
        config = configure("fig2b", overrides={"dataset": copy})
        records.write(apart / "results", content(config.key, "fig2b", config=config.model_dump()), None)
        assert records.find("fig2b").config["dataset"] == copy
    assert [r.experiment for r in records.everywhere()] == ["fig2b"]


def test_an_alias_finds_the_record_of_its_first_name(apart):
    key = configure("fig3a").key
    records.write(apart / "results", content(key, "fig3a"), None)
    assert records.find("fig4b-mnist-3").folder == apart / "results" / "fig3a" / key


# ---- whole or nothing


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("failing", ["copyfile", "json", "first rename", "last rename"])
def test_a_write_that_fails_leaves_what_was_there(apart, monkeypatch, before, failing):
    root, file = apart / "results", apart / "d"
    file.write_bytes(b"new")
    if before:
        records.write(root, content(overrides={"old": 1}), None)
    there = tree(root) if before else ["fig2a"]

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    bad = content(overrides={"new": float("nan")}) if failing == "json" else content()
    if failing == "copyfile":
        monkeypatch.setattr(records.shutil, "copyfile", full)
    elif "rename" in failing:
        rename, calls, which = records.Path.replace, [], 2 if before and failing == "last rename" else 1
        monkeypatch.setattr(
            records.Path, "replace", lambda a, b: rename(a, b) if calls.append(b) or len(calls) != which else full()
        )
    with pytest.raises((OSError, ValueError)):
        records.write(root, bad, file)
    assert tree(root) == there
    if before:
        assert records.at("fig2a", "0123456789ab").overrides == {"old": 1}


def test_a_write_replaces_the_whole_folder(apart):
    (apart / "d").write_bytes(b"x")
    first = records.write(apart / "results", content(), apart / "d")
    assert tree(first.folder) == ["distilled.safetensors", "record.json"]
    second = records.write(apart / "results", content(overrides={"new": 1}), None)
    assert second.folder == first.folder and tree(second.folder) == ["record.json"]
    assert tree(apart / "results") == ["fig2a", "fig2a/0123456789ab", "fig2a/0123456789ab/record.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "7", '"x"', '{"metrics": {}}', "\x00", "half"])
def test_a_damaged_record_is_named(record, text):
    file = record / "record.json"
    file.write_text(file.read_text()[:300] if text == "half" else text)
    with pytest.raises(InputError, match="is not a record") as error:
        records.find("tiny")
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("field", "how"),
    [
        ("experiment", lambda c: c.pop("experiment")),
        ("algorithm_version", lambda c: c.pop("algorithm_version")),
        ("environment", lambda c: c.update(environment=[])),
        ("environment.seconds", lambda c: c["environment"].pop("seconds")),
        ("data.sha256", lambda c: c["data"].pop("sha256")),
        ("test_accuracy", lambda c: c["metrics"].pop("test_accuracy")),
        ("metrics.test_accuracy.std", lambda c: accuracy(c).pop("std")),
        ("metrics.test_accuracy.values", lambda c: accuracy(c).update(values=["many"])),
        ("metrics.invented", lambda c: c["metrics"].update(invented=7)),
    ],
)
def test_a_record_without_a_field_or_with_another_is_named(edit, field, how):
    edit(how)
    with pytest.raises(InputError, match=f"is not a record: .*{field}"):
        records.find("tiny")


def test_accuracy_is_rounded_down():
    for mean, said in ((0.87745, "87.74"), (0.9531, "95.31"), (0.57, "57.00"), (0.3979795, "39.79"), (1, "100.00")):
        metrics = {"test_accuracy": {"mean": mean, "std": None, "n": 1, "values": [mean]}}
        assert records.Record(folder=".", **content(metrics=metrics)).accuracy == said


def test_metrics_of_one_and_of_many_networks():
    one = records.metric(torch.tensor([0.25]))
    assert one == {"mean": 0.25, "std": None, "n": 1, "values": [0.25]}
    three = records.metric(torch.tensor([0.1, 0.2, 0.3]))
    assert three["mean"] == pytest.approx(0.2) and three["std"] == pytest.approx(0.1) and three["n"] == 3
    by_class = records.metric(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    assert by_class["mean"] == [0.5, 1.0] and by_class["n"] == 2 and by_class["std"][1] == 0


# ---- what `ddcore run` stores


def test_what_a_record_holds(record):
    found = records.find("tiny")
    assert found.folder == record and tree(record) == ["distilled.safetensors", "record.json"]
    assert (found.experiment, found.scale, found.key, found.overrides) == ("tiny", "paper", TINY.key, {})
    assert Config(**found.config) == TINY and found.algorithm_version == 1
    assert list(found.metrics)[0] == "test_accuracy" and "test_accuracy_before" in found.metrics
    accuracy = found.metrics["test_accuracy"]
    assert accuracy["std"] is None and accuracy["n"] == 1 and 0 < accuracy["mean"] < 1
    said = "python torch device threads world_size compiled commit dirty started seconds"
    assert set(found.environment) == set(said.split())
    assert found.data["name"] == "digits" and len(found.data["sha256"]) == 64
    assert found.distilled is found.distilled and len(found.distilled.init) == 10
    with pytest.raises(AttributeError):
        _ = found.nothing
    with safe_open(record / "distilled.safetensors", "pt") as file:
        meta = json.loads(file.metadata()["ddcore"])
    said = "dataset architecture init_law mean std classes steps epochs objective format"
    assert set(said.split()) <= set(meta)


PROJECT = records.PROJECT  # before a test moves it
COMMITTED = sorted((PROJECT / "results").glob("*/*/record.json"))


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.parent.name)
def test_a_committed_record_is_that_of_its_experiment_as_defined(file, monkeypatch):
    monkeypatch.setattr(records, "PROJECT", PROJECT)
    found = records.read(file.parent)
    assert found.key == file.parent.name == Config(**found.config).key and found.scale == "paper"
    assert found.overrides == {} and records.find(found.experiment).folder == file.parent


# ---- verify


def test_verify_passes_an_untouched_record(record):
    agrees, line = run.verify(records.find("tiny"))
    assert agrees and line.startswith("tiny PASS (record ")


def change(file, how):
    with safe_open(file, "pt") as opened:
        meta = opened.metadata()
    tensors = load_file(file)
    how(tensors)
    save_file(tensors, file, meta)


def accuracy(c):
    return c["metrics"]["test_accuracy"]


FAKE = [0.99]


@pytest.mark.parametrize(
    "how",
    [
        lambda c: accuracy(c).update(mean=0.99, values=FAKE),
        lambda c: accuracy(c).update(mean=0.99),
        lambda c: accuracy(c).update(values=FAKE),
        lambda c: c["metrics"]["test_accuracy_before"].update(mean=0.99, values=FAKE),
        lambda c: accuracy(c).update(values=[]),
        lambda c: accuracy(c).update(std=0.01),
        lambda c: accuracy(c).update(n=200),
        lambda c: c["metrics"].update(invented=accuracy(c)),
        lambda c: c["data"].update(sha256="0" * 64),
        lambda c: c["config"].update(seed=5),
        lambda c: c["config"].update(noise=0.4),
        lambda c: c["config"].update(steps=0),
        lambda c: c.update(key="0123456789ab"),
    ],
    ids="accuracy, mean, values, before, no values, std, n, invented, data, seed, config, no config, key".split(", "),
)
def test_verify_fails_a_tampered_record(edit, how):
    edit(how)
    agrees, line = run.verify(records.find("tiny"))
    assert not agrees and " FAIL " in line and "\n" not in line


@pytest.mark.parametrize(
    "how",
    [
        lambda t: t["images"].neg_(),
        lambda t: t["lrs"].mul_(50),
        lambda t: t["labels"].copy_(t["labels"].flip(1)),
        lambda t: t.update(lrs=t["lrs"].repeat(1, 2)),
        lambda t: t["labels"].fill_(99),
        lambda t: t.update(labels=t["labels"][:, :5]),
        lambda t: t["init.fc3.weight"].zero_(),
    ],
    ids=["images", "rates", "labels", "number of rates", "no class", "number of labels", "initial weights"],
)
def test_verify_fails_tampered_data(record, how):
    change(record / "distilled.safetensors", how)
    agrees, line = run.verify(records.find("tiny"))
    assert not agrees and " FAIL " in line


def test_verify_fails_a_record_in_another_s_place(record):
    other = record.with_name(TINY_RANDOM.key)
    shutil.copytree(record, other)
    assert not run.verify(records.at("tiny", TINY_RANDOM.key))[0]


def test_verify_fails_a_record_that_names_another_experiment(edit):
    edit(lambda c: c.update(experiment="tiny-random"))
    agrees, line = run.verify(records.find("tiny"))
    assert not agrees and "its folder is another experiment's" in line


def test_verify_takes_the_first_networks(apart):
    found = run.run("tiny-random")
    values = found.metrics["test_accuracy"]["values"]
    for nets in (1, 2, 3, 99):
        agrees, line = run.verify(found, nets)
        first = values[: min(nets, 3)]
        assert agrees and f"record {100 * sum(first) / len(first):.2f} %" in line and f"n = {len(first)}" in line


def test_verify_fails_a_record_of_fewer_networks(apart):
    found = run.run("tiny-random")
    for name, stated in found.metrics.items():
        found.metrics[name] = records.metric(torch.tensor(stated["values"][:2], dtype=torch.float64))
    agrees, line = run.verify(found, 2)
    assert not agrees and "test_accuracy has not one value for each network" in line


def test_fewer_outer_steps_than_comparisons_still_learn(apart):
    """Otherwise the noise that the images start from would be taken for the best."""
    found = run.run("tiny", overrides={"iterations": "1"})
    assert [h["step"] for h in found.distillation["history"]] == [1]
