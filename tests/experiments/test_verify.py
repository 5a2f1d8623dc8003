"""`verify` derives accuracies again and trusts nothing that a record says."""

import json
import shutil

import pytest
import torch
from conftest import TINY_RANDOM, checked, set_apart
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ddcore.experiments import records
from ddcore.experiments.run import run
from ddcore.experiments.verify import ENOUGH, verify
from ddcore.support.errors import InputError

FAKE = [0.99]


def accuracy(content):
    return content["metrics"]["test_accuracy"]


def edit_tensors(file, how):
    """Change the tensors of a safetensors file, not its header."""
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    tensors = load_file(file)
    how(tensors)
    save_file(tensors, file, header)


@pytest.fixture(scope="session")
def made_random(tmp_path_factory):
    """The results folder of one `ddcore run tiny-random`: three networks."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = set_apart(monkeypatch, tmp_path_factory.mktemp("made-random"))
        run("tiny-random")
        return folder / "results"


@pytest.fixture
def random_record(made_random, apart):
    """A record of `tiny-random` that a test may damage."""
    shutil.copytree(made_random, apart / "results")
    return records.find("tiny-random")


class TestUntouched:
    def test_a_record_passes(self, record):
        verification = verify(records.find("tiny"))
        assert verification.agrees and verification.line.startswith("tiny PASS (record ")

    @pytest.mark.parametrize(("nets", "tested"), [(1, 1), (2, 2), (3, 3), (99, 3), (None, 3)])
    def test_the_first_networks_are_tested(self, random_record, nets, tested):
        values = random_record.metrics["test_accuracy"]["values"][:tested]
        agrees, line = checked(random_record, nets)
        mean = 100 * sum(values) / tested
        assert agrees and line == (
            f"tiny-random PASS (record {mean:.2f} %, now {mean:.2f} %, n = {tested})"
        )

    def test_a_fixed_init_is_one_network(self, record):
        assert verify(records.find("tiny"), 99).line.endswith("n = 1)")

    def test_missing_data_is_no_failure(self, edit):
        """It says nothing about the record, so it is bad input."""
        edit(lambda c: c["config"].update(dataset="mnist"))
        with pytest.raises(InputError, match="mnist is not there"):
            verify(records.find("tiny"))


class TestTampered:
    RECORD = {
        "accuracy": lambda c: accuracy(c).update(mean=0.99, values=FAKE),
        "mean": lambda c: accuracy(c).update(mean=0.99),
        "values": lambda c: accuracy(c).update(values=FAKE),
        "accuracy before": lambda c: c["metrics"]["test_accuracy_before"].update(
            mean=0.99, values=FAKE
        ),
        "accuracy by step": lambda c: c["metrics"]["test_accuracy_by_step"]["values"][0].reverse(),
        "no values": lambda c: accuracy(c).update(values=[]),
        "std": lambda c: accuracy(c).update(std=0.01),
        "n": lambda c: accuracy(c).update(n=200),
        "invented metric": lambda c: c["metrics"].update(invented=accuracy(c)),
        "metric left out": lambda c: c["metrics"].pop("test_accuracy_before"),
        "data": lambda c: c["data"].update(sha256="0" * 64),
        "seed": lambda c: c["config"].update(seed=5),
        "configuration": lambda c: c["config"].update(noise=0.4),
        "no configuration": lambda c: c["config"].update(steps=0),
        "unknown kind of images": lambda c: c["config"].update(images="real"),
        "key": lambda c: c.update(key="0123456789ab"),
        "not a number": lambda c: accuracy(c).update(values=[float("nan")]),
    }

    @pytest.mark.parametrize("what", RECORD)
    def test_a_tampered_record_fails(self, edit, what):
        edit(self.RECORD[what])
        agrees, line = checked(records.find("tiny"))
        assert not agrees and line.startswith("tiny FAIL (") and "\n" not in line

    IMAGES = {
        "images": lambda t: t["images"].neg_(),
        "rates": lambda t: t["lrs"].mul_(50),
        "labels": lambda t: t["labels"].copy_(t["labels"].flip(1)),
        "number of rates": lambda t: t.update(lrs=t["lrs"].repeat(1, 2)),
        "number of epochs": lambda t: t.update(lrs=t["lrs"][:1].clone()),
        "no class": lambda t: t["labels"].fill_(99),
        "number of labels": lambda t: t.update(labels=t["labels"][:, :5].clone()),
        "initial weights": lambda t: t["init.fc3.weight"].zero_(),
        "no initial weights": lambda t: [t.pop(n) for n in list(t) if n.startswith("init.")],
    }

    @pytest.mark.parametrize("what", IMAGES)
    def test_tampered_data_fails(self, record, what):
        edit_tensors(record / "distilled.safetensors", self.IMAGES[what])
        agrees, line = checked(records.find("tiny"))
        assert not agrees and line.startswith("tiny FAIL (") and "\n" not in line

    HEADER = {
        "dataset": "mnist",
        "mean": [0.5],
        "std": [0.5],
        "classes": [*"abcdefghij"],
        "architecture": "alexcifarnet",
        "objective": "0 taken for 1",
        "init_law": "he",
        "fixed_init": False,
    }

    @pytest.mark.parametrize("name", HEADER)
    def test_a_tampered_header_fails(self, record, name):
        file = record / "distilled.safetensors"
        with safe_open(file, "pt") as opened:
            header = json.loads(opened.metadata()["ddcore"])
        header[name] = self.HEADER[name]
        save_file(load_file(file), file, {"ddcore": json.dumps(header)})
        agrees, line = checked(records.find("tiny"))
        assert not agrees and f"its images say another {name}" in line

    def test_images_that_are_gone_fail(self, record):
        (record / "distilled.safetensors").unlink()
        agrees, line = checked(records.find("tiny"))
        assert not agrees and "is not a file of distilled data" in line

    def test_a_record_of_fewer_networks_fails(self, random_record):
        for name, stated in random_record.metrics.items():
            two = torch.tensor(stated["values"][:2], dtype=torch.float64)
            random_record.metrics[name] = records.metric(two)
        agrees, line = checked(random_record, 2)
        assert not agrees and "test_accuracy has not one value for each network" in line


class TestTolerance:
    """A mean may be off by a tenth of a point."""

    @pytest.mark.parametrize(
        ("off", "agrees"),
        [pytest.param(0.0009, True, id="less"), pytest.param(0.0011, False, id="more")],
    )
    def test_a_mean_may_be_off_by_no_more(self, random_record, off, agrees):
        stated = random_record.metrics["test_accuracy"]
        shifted = torch.tensor(stated["values"], dtype=torch.float64) + off
        random_record.metrics["test_accuracy"] = records.metric(shifted)
        assert verify(random_record).agrees == agrees

    def test_of_many_networks_one_may_be_off(self, apart):
        many = run("tiny-random", overrides={"nets": str(ENOUGH)})
        values = torch.tensor(many.metrics["test_accuracy"]["values"], dtype=torch.float64)

        def shifted(networks):
            others = values.clone()
            others[:networks] += 0.5
            return many.model_copy(
                update={"metrics": many.metrics | {"test_accuracy": records.metric(others)}}
            )

        assert verify(shifted(1)).agrees and not verify(shifted(2)).agrees
        assert not verify(shifted(1), nets=ENOUGH - 1).agrees


class TestPlace:
    def test_a_record_in_anothers_place_fails(self, record):
        shutil.copytree(record, record.with_name(TINY_RANDOM.key))
        agrees, line = checked(records.at("tiny", TINY_RANDOM.key))
        assert not agrees and "its folder is another configuration's" in line

    def test_a_record_that_names_another_experiment_fails(self, edit):
        edit(lambda c: c.update(experiment="tiny-random"))
        agrees, line = checked(records.find("tiny"))
        assert not agrees and "its folder is another experiment's" in line

    def test_one_that_is_given_may_lie_anywhere(self, record, apart):
        shutil.copytree(record, apart / "sent")
        given = records.read(apart / "sent")
        assert verify(given, in_place=False).agrees and not verify(given).agrees

    def test_the_experiment_need_not_be_known(self, record, monkeypatch):
        """As of a record that somebody sent."""
        found = records.find("tiny")
        monkeypatch.delitem(records.EXPERIMENTS, "tiny")
        assert verify(found).agrees
