"""The command: what it prints, its exit statuses, and one line for whatever a user gets wrong, with
nothing written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_RANDOM, new_cache, tree
from PIL import Image

import ddcore as ddcore_package
from ddcore import __main__ as command
from ddcore import cli
from ddcore.distilled import DistilledData
from ddcore.experiments import records, run, setup
from ddcore.experiments.catalogue import ALIASES, EXPERIMENTS, configure
from ddcore.paper import notebooks as book
from ddcore.support import progress
from ddcore.support.errors import MachineError
from ddcore.support.registry import DATASETS

SMOKE = ("run", "fig2a", "--scale", "smoke")


def refused(call, folder, *words):
    """Exit status 2, one line on stderr, nothing on stdout, nothing written. Returns the line."""
    before = tree(folder)
    done = call(*words)
    assert done.status == 2 and done.out == [] and len(done.err) == 1, done
    assert done.err[0].startswith("ddcore: ") and tree(folder) == before
    return done.err[0]


def parameters(words):
    """["seed=1", "steps=2"] -> ["-p", "seed=1", "-p", "steps=2"]"""
    return [part for word in words for part in ("-p", word)]


@pytest.fixture
def replicate(record, apart):
    """Beside the record of `tiny`, one of another seed (in truth the same)."""
    content = json.loads((record / "record.json").read_text())
    content |= {"key": "another", "overrides": {"seed": 1}}
    return records.write(apart / "results", content, record / "distilled.safetensors").folder


class TestReplicates:
    def test_they_are_listed_below_their_experiment(self, ddcore, replicate):
        lines = ddcore("list").out
        at = next(k for k, line in enumerate(lines) if line.startswith("tiny "))
        assert lines[at + 1].startswith("  tiny, seed=1 ") and lines[at + 1].endswith(" %")
        listing = json.loads("\n".join(ddcore("list", "--json").out))
        assert listing["replicates"] == [str(replicate)]

    def test_they_are_verified_with_the_others(self, ddcore, replicate):
        done = ddcore("verify")
        assert [line.split(" PASS")[0] for line in done.out[:1]] == ["tiny"]
        assert done.out[1].startswith("tiny, seed=1 ")

    def test_they_are_reported(self, ddcore, replicate):
        assert ddcore("report").out[-1].startswith("tiny, seed=1: test accuracy ")


class TestReport:
    def test_programs_read_all_of_it(self, ddcore):
        entries = json.loads("\n".join(ddcore("report", "--format", "json").out))
        entry = next(entry for entry in entries if entry["id"] == "fig2a.accuracy")
        assert entry["place"] and entry["verdict"] == "not run" and entry["measured"] == []
        table = ddcore("report", "--format", "md").out
        assert table[0] == "| id | paper | paper's recipe | ours | verdict |"
        assert len(table) == len(entries) + 2


class TestList:
    def test_every_experiment_has_a_line(self, ddcore, record):
        done = ddcore("list")
        assert done.status == 0 and done.err == []
        rows = {line.split()[0]: line for line in done.out}
        assert set(rows) == {*EXPERIMENTS, "notebooks:"}
        accuracy = records.find("tiny").metrics["test_accuracy"]["mean"]
        assert f"{100 * accuracy:.2f} %" in rows["tiny"] and "1 step x 2 epochs" in rows["tiny"]
        assert "no record" in rows["tiny-random"]
        assert rows["fig3a"].endswith("= law-mnist-xavier")
        assert "all images x 3 epochs" in rows["full-mnist"]
        assert "1 step of 5 per class x 1 epoch " in rows["table1-mnist-one-5"]

    def test_notebooks_are_listed_too(self, ddcore):
        names = [path.stem for path in book.FOLDER.glob("*.ipynb")]
        last = ddcore("list").out[-1]
        assert names and last == "notebooks: " + ", ".join(sorted(names))

    def test_as_json(self, ddcore, record):
        """What other programs read: the form is fixed."""
        done = ddcore("list", "--json")
        assert done.status == 0 and done.err == []
        listing = json.loads("\n".join(done.out))
        assert set(listing) == {"experiments", "aliases", "replicates"}
        assert listing["replicates"] == []
        assert listing["aliases"] == ALIASES
        assert listing["experiments"]["tiny"] == {"key": TINY.key, "record": str(record)}
        expected = {name: {"key": c.key, "record": None} for name, c in EXPERIMENTS.items()}
        assert listing["experiments"] | {"tiny": expected["tiny"]} == expected
        assert list(listing["experiments"]) == list(EXPERIMENTS)

    def test_as_json_the_record_of_a_copy_is_found(self, ddcore, record, apart):
        config = configure("fig2b", overrides={"dataset": "cifar10-jpeg"})
        content = json.loads((record / "record.json").read_text())
        content |= {"experiment": "fig2b", "key": config.key, "config": config.model_dump()}
        records.write(apart / "results", content, None)
        listing = json.loads("\n".join(ddcore("list", "--json").out))
        assert listing["experiments"]["fig2b"] == {
            "key": configure("fig2b").key,
            "record": str(apart / "results" / "fig2b" / config.key),
        }


class TestRun:
    def test_it_ends_with_the_folder_and_leaves_no_checkpoint(self, ddcore, apart):
        done = ddcore("run", "tiny")
        folder = apart / "results" / "tiny" / TINY.key
        assert done.status == 0 and done.out == [str(folder)]
        assert any("outer steps" in line for line in done.err)
        files = [f"tiny/{TINY.key}/{file}" for file in tree(folder)]
        assert tree(apart / "results") == ["tiny", f"tiny/{TINY.key}", *files]
        assert tree(folder) == ["distilled.safetensors", "record.json"]
        left = (".safetensors", ".distilled", ".part")
        assert not [file for file in tree(apart / "cache") if file.endswith(left)]

    def test_the_accuracy_is_said_on_stderr(self, ddcore, record, edit):
        done = ddcore("run", "tiny")
        accuracy = records.find("tiny").accuracy
        assert done.err == [f"tiny: test accuracy {accuracy} % (n = 1)"]
        edit(lambda c: c["metrics"]["test_accuracy"].update(std=0.0123, n=3))
        assert ddcore("run", "tiny").err == [f"tiny: test accuracy {accuracy} +- 1.23 % (n = 3)"]

    def test_a_rank_without_a_launcher_changes_nothing(self, ddcore, record, monkeypatch):
        """Schedulers set RANK as well, and nobody would answer."""
        monkeypatch.setenv("RANK", "1")
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        assert ddcore("run", "tiny").out == [str(record)]

    def test_a_record_that_is_there_is_returned(self, ddcore, record, monkeypatch):
        before = (record / "record.json").stat().st_mtime_ns
        monkeypatch.setattr(setup, "load", None)  # the data need not be there
        monkeypatch.setattr(run, "load", None)
        done = ddcore("run", "tiny")
        assert done.status == 0 and done.out == [str(record)] and len(done.err) == 1
        assert (record / "record.json").stat().st_mtime_ns == before

    def test_force_ignores_the_record_and_gives_the_same_numbers(self, ddcore, record, edit):
        expected = (record / "distilled.safetensors").read_bytes()
        metrics = records.find("tiny").metrics
        edit(lambda c: c["metrics"]["test_accuracy"].update(mean=0.99))
        assert ddcore("run", "tiny").err[-1].startswith("tiny: test accuracy 99.00 %")
        assert ddcore("run", "tiny", "--force").status == 0
        assert records.find("tiny").metrics == metrics
        assert (record / "distilled.safetensors").read_bytes() == expected

    def test_parameters_change_the_configuration(self, ddcore):
        said = {
            "steps": 3,
            "epochs": 2,
            "per_class": 2,
            "soft_labels": True,
            "seed": 3,
            "nets": 2,
            "iterations": 2,
            "batch": 8,
            "samples": 2,
            "init": "he",
        }
        words = [f"{name}={value}" for name, value in said.items()]
        unchanged = ["network=lenet", "dataset=digits", "faithful=false"]
        done = ddcore("run", "tiny-random", *parameters(words + unchanged))
        record = records.read(Path(done.out[-1]))
        assert record.overrides == said
        assert {name: record.config[name] for name in said} == said
        assert record.distilled.images.shape == (3, 20, 1, 28, 28)
        assert record.distilled.soft_labels.shape == (3, 20, 10)
        assert record.metrics["test_accuracy"]["n"] == 2 and done.err[-1].endswith("(n = 2)")

    def test_a_changed_run_goes_to_the_cache(self, ddcore, apart, monkeypatch):
        """Where DDCORE_RESULTS names no place."""
        monkeypatch.delenv("DDCORE_RESULTS")
        folder = apart / "cache" / "ddcore" / "results" / "tiny-random"
        done = ddcore("run", "tiny-random", *parameters(["iterations=2", "nets=1"]))
        assert done.out[-1].startswith(str(folder)) and not (apart / "project").exists()

    def test_a_parameter_at_its_default_changes_nothing(self, ddcore, apart, monkeypatch):
        monkeypatch.delenv("DDCORE_RESULTS")
        done = ddcore("run", "tiny-random", *parameters(["epochs=1", "dataset=digits"]))
        folder = apart / "project" / "results" / "tiny-random" / TINY_RANDOM.key
        assert done.out[-1] == str(folder)
        assert records.find("tiny-random").overrides == {}


class TestDryRun:
    """What would be computed, without data and without a trace."""

    @pytest.mark.parametrize(
        ("name", "scale", "said"),
        [
            pytest.param("fig2b", "paper", {}, id="as defined"),
            pytest.param("law-mnist-xavier", "laptop", {"seed": "4", "nets": "7"}, id="alias"),
            pytest.param("others-fig2a", "smoke", {"faithful": "true"}, id="another's images"),
            pytest.param("table3-mnist-10", "paper", {"pool": "9"}, id="pool"),
            pytest.param("full-cifar10", "paper", {"dataset": "cifar10-jpeg"}, id="all images"),
            pytest.param("fig2a", "paper", {"dataset": "folder:/x"}, id="folder"),
        ],
    )
    def test_it_says_what_would_be_computed(self, ddcore, apart, name, scale, said):
        words = parameters(f"{n}={text}" for n, text in said.items())
        done = ddcore("run", name, "--scale", scale, *words, "--dry-run")
        assert done.status == 0 and done.err == [] and tree(apart) == []
        config = configure(name, scale, said)
        *fields, estimate, folder = done.out
        assert fields == [f"{field}: {value}" for field, value in config.model_dump().items()]
        seconds = estimate.removeprefix("estimated: ").removesuffix(" s of one core")
        assert float(seconds.replace(",", "")) > 0
        assert folder == str(apart / "results" / ALIASES.get(name, name) / config.key)

    @pytest.mark.parametrize(
        ("name", "dataset", "said"),
        [
            pytest.param(
                "fig2b",
                "mnist",
                ["network: lenet on mnist; fig2b's alexcifarnet is for images of 3x32x32"],
                id="another",
            ),
            pytest.param("fig2b", "svhn", [], id="the experiments"),
            pytest.param("fig2a", "usps", [], id="lenet"),
        ],
    )
    def test_another_network_is_said(self, ddcore, name, dataset, said):
        words = ["run", name, "--dry-run", "-p", f"dataset={dataset}"]
        assert ddcore(*words).err == said
        assert ddcore(*words, "-p", "network=lenet").err == []

    def test_the_folder_is_where_the_record_goes(self, ddcore):
        words = ["run", "tiny-random", *parameters(["iterations=1", "nets=1"])]
        planned = ddcore(*words, "--dry-run")
        assert planned.out[-1] == ddcore(*words).out[-1]
        *_, there, folder = ddcore(*words, "--dry-run").out
        assert (there, folder) == ("there is a record", planned.out[-1])

    def test_a_record_elsewhere_is_found(self, ddcore, apart, record):
        project = apart / "project" / "results" / "tiny" / TINY.key
        shutil.move(record, project)
        assert ddcore("run", "tiny", "--dry-run").out[-2:] == ["there is a record", str(project)]

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            pytest.param(["fig2"], "unknown experiment 'fig2'", id="experiment"),
            pytest.param(["fig2a", "--scale", "big"], "unknown scale 'big'", id="scale"),
            pytest.param(["fig2a", "-p", "steps=0"], "steps=0", id="value"),
            pytest.param(["fig2a", "-p", "stepz=1"], "did you mean steps?", id="parameter"),
            pytest.param(["fig2a", "-p", "pool=1"], "pool means nothing to fig2a", id="useless"),
            pytest.param(["fig2a", "-p", "steps"], "NAME=VALUE", id="no value"),
            pytest.param(["fig2a", "--device", "tpu"], "--device tpu", id="device"),
            pytest.param(["fig2a", "--compile", "yes"], "--compile yes", id="compile"),
        ],
    )
    def test_bad_input_is_refused(self, ddcore, apart, words, named):
        assert named in refused(ddcore, apart, "run", *words, "--dry-run")


class TestBadParameter:
    """`-p` with what is not allowed, and what the one line says."""

    TEXTS = {
        "steps=0": ["steps=0", "1"],
        "steps=-1": ["steps=-1", "1"],
        "steps=1001": ["1001", "1000"],
        "steps=1e3": ["steps=1e3", "whole number"],
        "steps=1.0": ["steps=1.0", "whole number"],
        "steps=": ["steps=", "whole number"],
        "steps=two": ["steps=two", "whole number"],
        "steps=nan": ["whole number"],
        "steps=1\n2": ["steps=1 2", "whole number"],
        "epochs=0": ["epochs=0", "1"],
        "per_class=0": ["per_class=0"],
        "samples=0": ["samples=0"],
        "batch=0": ["batch=0"],
        "iterations=0": ["iterations=0"],
        "nets=0": ["nets=0"],
        "seed=-1": ["seed=-1", "0"],
        "seed=1.5": ["seed=1.5"],
        "seed=99999999999": ["seed=99999999999", "2147483648"],
        "seed=" + "9" * 5000: ["whole number"],
        "soft_labels=yes": ["soft_labels=yes", "true or false"],
        "faithful=1": ["faithful=1", "true or false"],
        "network=LeNet": ["network=LeNet", "'lenet'"],
        "init=xavir": ["init=xavir", "'xavier'"],
        "dataset=mnits": ["mnits", "did you mean mnist?"],
        "dataset=": ["digits, mnist"],
        "dataset=\udcff": ["digits"],
        "dataset=folder:/no/where": ["/no/where", "train and test"],
        "dataset=folder:": ["train and test"],
        "dataset=folder:" + "x" * 5000: ["train and test"],
        "dataset=folder:a\0b": ["train and test"],
        "stepz=2": ["stepz", "did you mean steps?"],
        "STEPS=2": ["STEPS", "allowed: dataset"],
        "ü=2": ["ü", "allowed"],
        "fixed=true": ["fixed", "allowed: dataset"],
        "clip=1": ["clip", "allowed"],
        "steps": ["-p steps", "NAME=VALUE"],
        "=2": ["-p =2", "NAME=VALUE"],
        "": ["NAME=VALUE"],
    }

    @pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[1:30])
    def test_it_is_refused(self, ddcore, apart, text):
        line = refused(ddcore, apart, *SMOKE, "-p", text)
        assert all(part in line for part in self.TEXTS[text]), line


class TestBadInput:
    WORDS = {
        "no command": ([], "Missing command", "--help"),
        "unknown command": (["rum"], "No such command 'rum'", "'run'"),
        "no experiment": (["run"], "Missing argument"),
        "two experiments": (["run", "fig2a", "fig2b"], "fig2b"),
        "unknown experiment": (["run", "fig2"], "unknown experiment 'fig2'", "did you mean fig2"),
        "strange experiment": (["run", "../../etc"], "unknown experiment", "ddcore list"),
        "unknown option": (["run", "fig2a", "--nope"], "--nope"),
        "unknown scale": (["run", "fig2a", "--scale", "big"], "'big'", "smoke, laptop, paper"),
        "unknown device": ([*SMOKE, "--device", "tpu"], "--device tpu", "cpu, cuda"),
        "unknown compile": ([*SMOKE, "--compile", "yes"], "--compile yes", "auto, on, off"),
        "parameter twice": ([*SMOKE, "-p", "seed=1", "-p", "seed=2"], "seed is given twice"),
        "no value": ([*SMOKE, "-p"], "-p"),
        "network too large": ([*SMOKE, "-p", "network=alexcifarnet"], "AlexCifarNet", "32x32"),
        "missing dataset": (
            ["run", "fig2b", "-p", "dataset=cifar10-jpeg"],
            "cifar10-jpeg is not there",
        ),
        "checkpoints in a file": ([*SMOKE, "--checkpoints", __file__], "checkpoints", "is a file"),
        "images too few": (
            ["run", "baseline-random-real-mnist", "--scale", "smoke", "-p", "per_class=50"],
            "500 are asked for",
        ),
        "verify unknown": (["verify", "fig9"], "unknown experiment 'fig9'"),
        "verify without a record": (["verify", "fig2a"], "fig2a has no record", "ddcore run fig2a"),
        "verify nothing": (["verify"], "no record here"),
        "notebook without a name": (["notebook"], "Missing argument 'NAME'"),
        "export to another kind": (["export", "fig3a", "--to", "gif"], "one of png, npz"),
        "export nowhere": (["export", "fig3a", "--to", "png", "--out", "no/x.png"], "no/x.png"),
        "export without a kind": (["export", "fig3a"], "--to"),
        "verify another scale of nothing": (["verify", "--scale", "smoke"], "name one"),
        "verify a run that was not": (
            ["verify", "tiny", "-p", "seed=9"],
            "`ddcore run tiny -p seed=9` makes one",
        ),
        "verify an empty folder": (["verify", "."], "is not a record"),
        "verify in another format": (["verify", "--format", "xml"], "text, md, json, junit"),
        "verify, a log nowhere": (["verify", "--log", "no/log.json"], "cannot write no/log.json"),
        "report in another format": (["report", "--format", "xml"], "text, md, json, junit"),
        "verify no networks": (["verify", "fig2a", "--nets", "0"], "--nets", "1"),
        "unknown dataset": (["data", "mnits"], "unknown dataset 'mnits'", "digits, mnist"),
        "missing copy": (["data", "cifar10-jpeg"], "cifar10-jpeg is not there", "train and test"),
        "unknown notebook": (["notebook", "99"], "no notebook's name begins with '99'"),
        "no notebook": (["notebook"], "Missing argument"),
        "notebook parameter": (["notebook", "99", "-p", "steps"], "NAME=VALUE"),
        "endless budget": (["reproduce", "--budget", "inf"], "--budget"),
        "strange shard": (
            ["reproduce", "--shard", "1/" + 5000 * "9"],
            "K/N with 1 <= K <= N",
        ),
        "shard that is none": (["reproduce", "--shard", "3/2"], "K/N with 1 <= K <= N"),
    }

    @pytest.mark.parametrize("case", WORDS)
    def test_it_is_refused(self, ddcore, apart, case):
        words, *said = self.WORDS[case]
        line = refused(ddcore, apart, *words)
        assert all(part in line for part in said), line

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
    def test_cuda_is_refused_where_there_is_none(self, ddcore, apart):
        assert "no CUDA device" in refused(ddcore, apart, *SMOKE, "--device", "cuda")

    def test_a_damaged_record_is_one_line(self, ddcore, apart, record):
        (record / "record.json").write_text("{")
        for words in (["run", "tiny"], ["verify", "tiny"]):
            assert str(record) in refused(ddcore, apart, *words)

    @pytest.mark.parametrize(
        ("words", "status"),
        [(["list"], 0), (["list", "--json"], 0), (["report"], 0)],
        ids=["list", "list as JSON", "report"],
    )
    def test_a_damaged_record_does_not_stop_the_others(
        self, ddcore, record, replicate, words, status
    ):
        (record / "record.json").write_text("{")
        done = ddcore(*words)
        assert done.status == status and len(done.err) == 1 and str(record) in done.err[0]
        assert "seed=1" in "".join(done.out) or str(replicate) in "".join(done.out)


class TestFolders:
    """Images of a reader's own."""

    def test_they_are_distilled(self, ddcore, pictures, apart, monkeypatch):
        pictures("abc", mode="RGB", side=40)
        monkeypatch.chdir(apart)
        words = ["run", "tiny-random", *parameters(["iterations=2", "nets=1"]), "-p"]
        done = ddcore(*words, "dataset=folder:pictures")
        distilled = DistilledData.load(Path(done.out[-1]) / "distilled.safetensors")
        assert distilled.images.shape == (2, 3, 3, 32, 32)
        assert distilled.meta["classes"] == ["a", "b", "c"]
        resized = "36 of 36 images resized to 32x32"
        assert f"{apart}/pictures: {resized}" in done.err
        assert records.read(Path(done.out[-1])).data["preparation"] == resized
        (said,) = [line for line in done.err if "test accuracy" in line]
        assert said.startswith(
            f"tiny-random, dataset=folder:{apart}/pictures, iterations=2, nets=1:"
        )
        same_folder = f"dataset=folder:{apart}/pictures"
        assert ddcore(*words, same_folder).out == done.out

    def test_their_names_may_be_any_bytes(self, apart, pictures):
        folder = pictures()
        name = os.fsencode(apart / "odd") + b"\xff"
        os.rename(folder, name)
        command = [sys.executable, "-m", "ddcore", "data", b"folder:" + name]
        strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
        done = subprocess.run(command, capture_output=True, env=strict)
        assert done.returncode == 0 and done.stdout.startswith(b"folder:" + name), done.stderr

    def test_a_damaged_image_is_named(self, ddcore, pictures, apart):
        folder = pictures()
        file = folder / "train" / "a" / "7.png"
        file.write_bytes(file.read_bytes()[:99])
        assert str(file) in refused(ddcore, apart, *SMOKE, "-p", f"dataset=folder:{folder}")

    @pytest.mark.parametrize(
        ("classes", "attacked", "target", "numbers"),
        [
            pytest.param(["dog", "cat", "ant"], "cat", "dog", (1, 2), id="names"),
            pytest.param(["1", "2", "10"], "2", "0", (2, 0), id="numbers, not names"),
        ],
    )
    def test_a_class_is_attacked_by_name_or_number(
        self, ddcore, pictures, classes, attacked, target, numbers
    ):
        words = [f"dataset=folder:{pictures(classes)}", f"attacked={attacked}", f"target={target}"]
        done = ddcore("run", "table3-mnist-10", *parameters(words), "--dry-run")
        assert f"attacked: {numbers[0]}" in done.out and f"target: {numbers[1]}" in done.out

    def test_a_class_without_test_images_is_named(self, ddcore, pictures, apart):
        folder = pictures()
        shutil.rmtree(folder / "test" / "b")
        assert "class b" in refused(ddcore, apart, *SMOKE, "-p", f"dataset=folder:{folder}")


class TestInterrupted:
    @pytest.fixture
    def interrupted(self, interrupted_in):
        """What `ddcore run tiny` said that was interrupted in outer step 8."""
        return interrupted_in(8, "run", "tiny")

    def test_it_says_how_to_go_on(self, interrupted, apart):
        assert interrupted.status == 130 and interrupted.out == []
        line = "ddcore: interrupted; the same command goes on from the last checkpoint"
        assert interrupted.err[-1] == line and not (apart / "results").exists()

    def test_while_it_is_loaded(self, monkeypatch, capsys):
        class Interrupting:
            def find_spec(self, name, *_):
                if name == "ddcore.cli":
                    raise KeyboardInterrupt

        monkeypatch.delitem(sys.modules, "ddcore.cli")
        monkeypatch.delattr(ddcore_package, "cli")
        monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert ended.value.code == 130 and capsys.readouterr().err == "ddcore: interrupted\n"

    def test_the_same_command_goes_on(self, interrupted, ddcore, apart, made):
        done = ddcore("run", "tiny")
        assert "resuming at outer step 7 of 12" in done.err and done.status == 0
        file = f"tiny/{TINY.key}/distilled.safetensors"
        assert (apart / "results" / file).read_bytes() == (made / file).read_bytes()

    def test_a_checkpoint_overrules_compile(self, interrupted, ddcore):
        """The images would not be the same."""
        done = ddcore("run", "tiny", "--compile", "off")
        assert "resuming at outer step 7 of 12" in done.err
        assert records.read(Path(done.out[-1])).environment["compiled"] is True

    def test_force_begins_again(self, interrupted, ddcore):
        done = ddcore("run", "tiny", "--force")
        assert done.status == 0 and not any("resuming" in line for line in done.err)

    def test_checkpoints_may_be_elsewhere(self, interrupted, ddcore, apart):
        left = apart / "cache" / "ddcore" / "checkpoints"
        shutil.move(left, apart / "mine")
        done = ddcore("run", "tiny", "--checkpoints", apart / "mine")
        assert "resuming at outer step 7 of 12" in done.err

    @pytest.mark.slow
    def test_a_killed_process_is_resumed(self, ddcore, apart):
        """The real command, killed at a moment of its own choosing; what it leaves is a checkpoint
        and no record."""
        new_cache(apart / "cache")
        key = configure("fig2a", "smoke", {"iterations": "30", "seed": "9"}).key
        checkpoint = apart / "cache" / "ddcore" / "checkpoints" / f"{key}.kernel.safetensors"
        words = [*SMOKE, *parameters(["seed=9", "iterations=30"])]
        process = subprocess.Popen(
            [sys.executable, "-m", "ddcore", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ,
        )
        until = time.monotonic() + 100
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
        out, err = process.communicate()
        assert process.returncode == -signal.SIGKILL and out == b"", err.decode()[-500:]
        assert not (apart / "results").exists()
        done = ddcore(*words, "--compile", "off")
        assert done.status == 0 and any("resuming at outer step" in line for line in done.err)
        assert records.read(Path(done.out[-1])).environment["compiled"] is True


class TestMachine:
    """What the machine cannot do is exit status 1 and one line; a mistake of ours keeps its
    traceback."""

    def test_a_full_disk_is_one_line(self, ddcore, apart, monkeypatch):
        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(records.shutil, "copyfile", full)
            done = ddcore("run", "tiny")
        folder = apart / "results" / "tiny" / TINY.key
        (checkpoint,) = (apart / "cache" / "ddcore" / "checkpoints").glob("*.safetensors")
        assert done.status == 1 and done.out == []
        assert done.err[-1] == (
            f"ddcore: cannot write {folder}: No space left on device; free space there, or set "
            f"DDCORE_RESULTS to another folder; what was computed is in {checkpoint}, and the same "
            "command goes on from it"
        )
        assert tree(apart / "results") == ["tiny"]
        again = ddcore("run", "tiny")
        assert again.status == 0 and any("resuming at outer step" in line for line in again.err)

    def test_one_that_is_full_from_the_first_checkpoint_on(self, ddcore, apart, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(progress.os, "fsync", full)
        done = ddcore("run", "tiny")
        folder = apart / "cache" / "ddcore" / "checkpoints"
        assert done.status == 1 and done.err[-1].startswith(f"ddcore: cannot write {folder}/")
        assert done.err[-1].endswith("; free space there, or let its folder take files")
        assert not list(folder.glob("*.safetensors")) and not list(folder.glob(".*.part"))

    PLACES = {
        "results": ("DDCORE_RESULTS", [], "set DDCORE_RESULTS to a folder"),
        "cache": ("XDG_CACHE_HOME", [], "set XDG_CACHE_HOME to a folder"),
        "checkpoints": ("", ["--checkpoints", "a-file/c"], "with --checkpoints"),
    }

    @pytest.mark.parametrize("place", PLACES)
    def test_a_place_that_cannot_be_written_is_found_before_computing(
        self, ddcore, apart, monkeypatch, place
    ):
        variable, words, remedy = self.PLACES[place]
        (apart / "a-file").write_text("here")
        monkeypatch.chdir(apart)
        if variable:
            monkeypatch.setenv(variable, str(apart / "a-file"))
        monkeypatch.setattr(run, "prepare", None)
        line = refused(ddcore, apart, "run", "tiny", *words)
        assert line.startswith("ddcore: cannot write to ") and "a-file" in line and remedy in line

    def test_so_is_that_of_pretrained_networks(self, ddcore, apart, monkeypatch):
        (apart / "a-file").write_text("here")
        monkeypatch.setenv("XDG_CACHE_HOME", str(apart / "a-file"))
        words = ["run", "full-mnist", "--scale", "smoke", "--checkpoints", apart / "c"]
        assert "set XDG_CACHE_HOME" in refused(ddcore, apart, *words)

    def test_a_place_that_cannot_be_read_is_named(self, ddcore, apart, monkeypatch):
        place = apart / ("x" * 300)
        monkeypatch.setenv("DDCORE_RESULTS", str(place))
        done = ddcore("list")
        assert done.status == 1 and len(done.err) == 1
        assert f"ddcore: {place}" in done.err[0] and "let it be read and written" in done.err[0]

    @pytest.fixture
    def failing(self, monkeypatch):
        """failing(error): a run raises it."""

        def let_fail(error):
            def fail(*args, **kwargs):
                raise error

            monkeypatch.setattr(run, "run", fail)

        return let_fail

    @pytest.mark.parametrize(
        ("error", "line"),
        [
            pytest.param(MachineError("a worker\ndied"), "a worker died", id="worker"),
            pytest.param(
                RuntimeError("can't allocate memory:\n9 bytes"),
                "not enough memory: can't allocate memory: 9 bytes",
                id="memory",
            ),
        ],
    )
    def test_a_failing_machine_is_one_line(self, ddcore, failing, error, line):
        failing(error)
        done = ddcore("run", "tiny")
        assert done.status == 1 and done.err == [f"ddcore: {line}"]

    @pytest.mark.parametrize(
        "message",
        [
            pytest.param("it refers to a single memory location", id="of memory, but not full"),
            pytest.param("shapes do not fit", id="of shapes"),
        ],
    )
    def test_a_mistake_of_ours_keeps_its_traceback(self, apart, failing, monkeypatch, message):
        failing(RuntimeError(message))
        monkeypatch.setattr(sys, "argv", ["ddcore", "run", "tiny"])
        with pytest.raises(RuntimeError, match=message):
            cli.main()


class TestVerify:
    def test_a_record_passes(self, ddcore, record):
        done = ddcore("verify", "tiny")
        assert done.status == 0 and done.err == [] and len(done.out) == 1
        assert done.out[0].startswith("tiny PASS")
        assert ddcore("verify").out == done.out  # every record
        assert ddcore("verify", "tiny", "tiny", "--nets", "1").out == done.out

    def test_a_tampered_record_fails(self, ddcore, record, edit):
        edit(lambda c: c["metrics"]["test_accuracy"].update(mean=0.99, values=[0.99]))
        done = ddcore("verify")
        assert done.status == 1 and done.err == []
        assert done.out[0].startswith("tiny FAIL (record 99.00 %")

    def test_the_others_are_checked_where_one_is_damaged(self, ddcore, record, apart):
        damaged = apart / "results" / "tiny-random" / TINY_RANDOM.key / "record.json"
        damaged.parent.mkdir(parents=True)
        damaged.write_text("{")
        done = ddcore("verify")
        assert done.status == 2 and len(done.err) == 1 and str(damaged) in done.err[0]
        assert len(done.out) == 1 and done.out[0].startswith("tiny PASS")

    def test_what_is_asked_for_is_checked(self, ddcore, record, apart):
        """A run with other parameters, and a folder or a file wherever it lies."""
        asked = ["tiny", "-p", "seed=3", "-p", "iterations=2"]
        folder = Path(ddcore("run", *asked).out[-1])
        assert ddcore("verify", *asked).out[0].startswith("tiny, seed=3, iterations=2 PASS")
        shutil.copytree(folder, apart / "sent")
        for place in (folder, apart / "sent", apart / "sent" / "record.json"):
            assert ddcore("verify", place).out[0].startswith("tiny, seed=3, iterations=2 PASS")

    def test_formats(self, ddcore, record, edit):
        (row,) = json.loads("\n".join(ddcore("verify", "--format", "json").out))
        assert (row["record"], row["verdict"], row["faults"]) == ("tiny", "PASS", "")
        assert row["percent now"] == pytest.approx(row["percent in the record"], abs=0.1)
        head, _, line = ddcore("verify", "--format", "md").out
        assert head.startswith("| record | verdict |") and line.startswith("| tiny | PASS |")
        edit(lambda c: c["metrics"]["test_accuracy"].update(mean=0.99, values=[0.99]))
        done = ddcore("verify", "--format", "junit")
        suite = ElementTree.fromstring("\n".join(done.out))
        assert done.status == 1 and suite.get("failures") == "1"
        assert "test_accuracy is another" in suite[0][0].get("message", "")

    def test_a_log_says_who_found_what(self, ddcore, record, apart):
        file = apart / "log.json"
        assert ddcore("verify", "--log", file).status == 0
        log = json.loads(file.read_text())
        assert log["machine"]["torch"] == torch.__version__ and log["machine"]["device"]
        assert [row["verdict"] for row in log["results"]] == ["PASS"]

    @pytest.fixture
    def without_data(self, record, apart):
        """A record of `fig2a` beside that of `tiny`, whose data is not here."""
        config = configure("fig2a")
        content = json.loads((record / "record.json").read_text())
        content |= {"experiment": "fig2a", "key": config.key, "config": config.model_dump()}
        records.write(apart / "results", content, record / "distilled.safetensors")

    def test_the_others_are_checked_where_ones_data_is_missing(self, ddcore, without_data):
        done = ddcore("verify")
        assert done.status == 2 and len(done.err) == 1
        assert "fig2a is not checked: mnist is not there" in done.err[0]
        assert len(done.out) == 1 and done.out[0].startswith("tiny PASS")

    def test_a_failure_is_worse_than_not_checked(self, ddcore, without_data, edit):
        edit(lambda c: c["metrics"]["test_accuracy"].update(values=[0.99]))
        assert ddcore("verify").status == 1


class TestExport:
    @pytest.fixture(autouse=True)
    def here(self, apart, monkeypatch):
        (apart / "here").mkdir()
        monkeypatch.chdir(apart / "here")

    def test_a_sheet_of_the_images(self, ddcore, record):
        assert ddcore("export", "tiny", "--to", "png").out == ["tiny.png"]
        with Image.open("tiny.png") as sheet:
            assert sheet.width >= 10 * 28 and sheet.height >= 28

    def test_arrays(self, ddcore, record):
        assert ddcore("export", record, "--to", "npz", "--out", "x.npz").out == ["x.npz"]
        stored = DistilledData.load(record / "distilled.safetensors")
        with np.load("x.npz") as arrays:
            assert (arrays["images"] == stored.images.numpy()).all()
            assert (arrays["labels"] == stored.labels.numpy()).all()
            assert (arrays["lrs"] == stored.lrs.numpy()).all()
            assert json.loads(str(arrays["ddcore"])) == stored.meta
            assert {"init.fc3.weight"} <= {*arrays}

    def test_a_folder_for_a_hub_needs_a_library(self, ddcore, record, apart, monkeypatch):
        monkeypatch.setitem(sys.modules, "mlcroissant", None)
        monkeypatch.delitem(sys.modules, "ddcore.paper.croissant", raising=False)
        monkeypatch.delattr("ddcore.paper.croissant", raising=False)
        said = refused(ddcore, apart, "export", "tiny", "--to", "hf")
        assert "mlcroissant is not installed: pip install 'ddcore[hub]'" in said

    def test_of_another_kind(self, ddcore, record, apart):
        said = refused(ddcore, apart, "export", "tiny", "--to", "hff")
        assert "one of png, npz, hf is allowed; did you mean hf?" in said


class TestData:
    def test_it_says_what_is_here(self, ddcore, apart):
        done = ddcore("data")
        assert done.status == 0 and done.err == []
        assert done.out[0] == f"data root: {apart / 'data'}"
        digits = "digits         1,295/143/359 images of 1x28x28, sha256 f6d9e39f37dc"
        assert done.out[1] == digits
        others = [name for name in DATASETS if name != "digits"]
        assert [line.split() for line in done.out[2:]] == [[n, "not", "here"] for n in others]
        assert ddcore("data", "digits").out == [digits] and not (apart / "data").exists()

    def test_it_names_the_classes_of_a_folder(self, ddcore, pictures, apart):
        name = f"folder:{pictures(['1', '2', '10'], mode='RGB', side=32)}"
        line, classes = ddcore("data", name).out
        assert line.startswith(f"{name} 27/3/6 images of 3x32x32, sha256 ")
        assert classes.split(": ") == [f"{'':14} classes", "1, 2, 10"]
        shutil.rmtree(apart / "pictures" / "test" / "2")
        assert "the class 2 is missing in" in refused(ddcore, apart, "data", name)

    def test_it_says_which_file_is_damaged(self, ddcore, apart):
        folder = apart / "data" / "MNIST" / "raw"
        folder.mkdir(parents=True)
        parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        for part in parts:
            (folder / f"{part}-ubyte").write_bytes(b"\0\0\x08\x01")
        said = "train-images-idx3-ubyte is truncated or damaged"
        assert said in ddcore("data").out[2]
        assert said in refused(ddcore, apart, "data", "mnist")


class TestNotebook:
    """Its own tests are in tests/paper."""

    def test_it_is_executed_with_parameters(self, ddcore, apart, monkeypatch):
        asked = []

        def execute(*arguments):
            asked.append(arguments)
            return arguments[-1]

        monkeypatch.setattr(book, "run", execute)
        copy = apart / "x.ipynb"
        words = parameters(["steps=2", "text=a=b"])
        done = ddcore("notebook", "03-1", *words, "--out", copy)
        assert done.status == 0 and done.err == []
        assert done.out == [str(copy.with_suffix(".html")), str(copy)]
        assert asked == [("03-1", {"steps": "2", "text": "a=b"}, copy)]

    def test_the_page_is_shown_where_that_is_asked_for(self, ddcore, apart, monkeypatch):
        shown = []
        monkeypatch.setattr(book, "run", lambda *arguments: arguments[-1])
        monkeypatch.setattr(cli.webbrowser, "open", shown.append)
        ddcore("notebook", "03-1", "--out", apart / "x.ipynb", "--open")
        assert shown == [(apart / "x.html").as_uri()]

    def test_its_parameters_are_told(self, ddcore):
        told = "\n".join(ddcore("notebook", "03-1", "--help").out)
        assert "03-1-fixed-initialization" in told
        assert "-p steps=" in told and "gradient steps" in told
        assert "one of lenet, alexcifarnet, or module:Class of your own: " in told

    def test_without_a_name_the_command_is_told(self, ddcore):
        assert "--out" in "\n".join(ddcore("notebook", "--help").out)


class TestProcess:
    """The real command."""

    def test_bad_input(self, apart):
        command = [sys.executable, "-m", "ddcore", "run", "fig2a", "-p", "steps=x"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "ddcore: steps=x: a whole number is allowed\n"
        assert tree(apart) == []
