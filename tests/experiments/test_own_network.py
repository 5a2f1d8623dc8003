"""A network of a reader's own, `-p network=module:Class`, from a run to its record and back."""

import re
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import TINY_RANDOM, edit_record, tree

from ddcore.distilled import DistilledData
from ddcore.experiments import pretrained, records
from ddcore.experiments.catalogue import configure
from ddcore.support.registry import DATASETS
from ddcore.use import network_of

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
SOURCE = re.search(r"## Your own network\n\n```python\n(.*?)```", README, re.DOTALL)[1]
OTHER = SOURCE.replace("tanh", "sigmoid")
SAID = ["-p", "network=mine:Net", "-p", "iterations=1", "-p", "nets=2"]


@pytest.fixture
def mine(module):
    """The README's network in the current folder."""
    module("mine", SOURCE)
    return lambda source: module("mine", source)


@pytest.fixture
def ran(ddcore, mine):
    """The folder of a record of it."""
    done = ddcore("run", "tiny-random", *SAID)
    assert done.status == 0, done.err
    return Path(done.out[-1])


class TestRecord:
    def test_it_names_the_network_and_its_source(self, ran):
        record = records.read(ran)
        digest = sha256(SOURCE.encode()).hexdigest()
        assert record.network == {"name": "mine:Net", "sha256": digest}
        assert record.config["network"] == record.distilled.meta["architecture"] == "mine:Net"
        said = {"network": "mine:Net", "iterations": "1", "nets": "2"}
        assert ran.name == configure("tiny-random", overrides=said).key

    def test_that_of_the_packages_network_does_not(self, record):
        assert '"network": {' not in (record / "record.json").read_text()

    def test_it_is_returned_while_the_source_is_the_same(self, ran, ddcore, mine):
        before = (ran / "record.json").read_bytes()
        assert ddcore("run", "tiny-random", *SAID).out == [str(ran)]
        assert (ran / "record.json").read_bytes() == before

    def test_another_source_is_run_again(self, ran, ddcore, mine):
        first = records.read(ran)
        mine(OTHER)
        again = ddcore("run", "tiny-random", *SAID)
        assert again.out == [str(ran)]
        assert records.read(ran).network["sha256"] == sha256(OTHER.encode()).hexdigest()
        assert records.read(ran).metrics != first.metrics

    def test_it_is_verified(self, ran, ddcore, mine):
        (line,) = ddcore("verify", ran).out
        assert " PASS (record " in line
        mine(OTHER)
        changed = ddcore("verify", ran)
        assert changed.status == 1
        assert "FAIL (the source of mine:Net is not that of the record)" in changed.out[0]

    def test_without_the_module_it_is_not_checked(self, ran, ddcore, mine, tmp_path):
        mine("")
        (tmp_path / "mine.py").unlink()
        done = ddcore("verify", ran)
        assert (done.status, done.out, len(done.err)) == (2, [], 1)
        assert done.err[0].endswith(
            "is not checked: network mine:Net: there is no module mine in the current folder or "
            "the environment"
        )

    def test_only_a_run_and_a_check_import_it(self, ran, ddcore, mine, tmp_path):
        mine("raise SystemExit('imported')")
        edit_record(ran, lambda content: content.update(scale="paper", overrides={"seed": 1}))
        for words in (
            ["list"],
            ["list", "--json"],
            ["report"],
            ["export", ran, "--to", "npz"],
            ["run", "tiny-random", *SAID, "--dry-run"],
        ):
            assert ddcore(*words).status == 0, words
        with pytest.raises(ValueError, match="for a network of your own, mine:Net"):
            network_of(DistilledData.load(ran / "distilled.safetensors"))
        assert "mine" not in sys.modules
        assert "imported" in ddcore("run", "tiny-random", *SAID).err[-1]


class TestRun:
    def test_its_estimate_is_not_known(self, ddcore, apart):
        done = ddcore("run", "fig3a", "-p", "network=mine:Net", "--dry-run")
        assert done.status == 0 and "network: mine:Net" in done.out
        assert done.out[-2] == "estimated: not known, for a network of your own"

    def test_a_name_without_a_colon_is_refused(self, ddcore, apart):
        done = ddcore("run", "fig3a", "-p", "network=mine")
        assert (done.status, tree(apart)) == (2, [])
        assert done.err == [
            "ddcore: network=mine: one of 'lenet', 'alexcifarnet', or module:Class of your own is "
            "allowed"
        ]

    def test_a_layer_that_cannot_be_distilled_is_named(self, ddcore, mine, apart):
        mine(SOURCE.replace("return ", "return nn.functional.hardsigmoid(").rstrip() + ")\n")
        done = ddcore("run", "tiny-random", *SAID)
        assert done.status == 2 and not (apart / "results").exists()
        assert "second derivatives, and PyTorch has none in its layer Net (itself)" in done.err[-1]

    @pytest.mark.parametrize(
        ("source", "resumes"),
        [pytest.param(SOURCE, True, id="same"), pytest.param(OTHER, False, id="another")],
    )
    def test_a_checkpoint_is_of_one_source(self, ddcore, interrupted_in, mine, source, resumes):
        words = ["run", "tiny-random", "-p", "network=mine:Net", "-p", "nets=1"]
        assert interrupted_in(3, *words).status == 130
        mine(source)
        done = ddcore(*words)
        assert done.status == 0
        assert any("resuming" in line for line in done.err) == resumes

    def test_a_pool_is_of_one_source(self, mine, apart):
        training = TINY_RANDOM.model_copy(
            update={"images": "all", "network": "mine:Net", "nets": 1}
        )
        (first,) = pretrained.Pool.of(training).ensure("test", range(1))
        mine(OTHER)
        (other,) = pretrained.Pool.of(training).ensure("test", range(1))
        assert first != other and first.read_bytes() != other.read_bytes()

    def test_a_class_is_attacked(self, ddcore, mine, monkeypatch):
        monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], pretrain_epochs=1))
        words = ["--scale", "smoke", "-p", "network=mine:Net", "-p", "iterations=1", "-p", "pool=1"]
        done = ddcore("run", "table3-mnist-10", *words, "-p", "nets=1")
        assert done.status == 0, done.err
        assert ddcore("verify", done.out[-1]).status == 0


def test_it_is_found_where_python_alone_would_not_look(mine, apart):
    """As by an installed script: its own folder stands first in Python's path, not the current."""
    program = "import ddcore; print(ddcore.as_network('mine:Net').name)"
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "mine:Net\n", done.stderr
