"""The command: what it prints, its exit statuses, and one line for whatever a user gets wrong, with nothing written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import TINY, TINY_RANDOM, tree

from ddcore import cli
from ddcore.experiments import catalogue, records, run
from ddcore.paper import notebooks as book
from ddcore.datasets import Dataset
from ddcore.distilled import DistilledData
from ddcore.errors import MachineError


def refused(call, folder, *words):
    """Exit status 2, one line on stderr, nothing on stdout, nothing written. Returns the line."""
    before = tree(folder)
    done = call(*words)
    assert done.status == 2 and done.out == [] and len(done.err) == 1, done
    assert done.err[0].startswith("ddcore: ") and tree(folder) == before
    return done.err[0]


# ---- list


def test_list(ddcore, record):
    done = ddcore("list")
    assert done.status == 0 and done.err == []
    rows = {line.split()[0]: line for line in done.out}
    assert set(rows) == {*experiments.EXPERIMENTS, "notebooks:"}
    accuracy = records.find("tiny").metrics["test_accuracy"]["mean"]
    assert f"{100 * accuracy:.2f} %" in rows["tiny"] and "1 step x 2 epochs" in rows["tiny"]
    assert "no record" in rows["tiny-random"] and rows["fig3a"].endswith("= fig4b-mnist-3, law-mnist-xavier")
    assert all(path.stem in rows["notebooks:"] for path in book.FOLDER.glob("*.ipynb"))


# ---- run


def test_run_ends_with_the_folder_and_leaves_no_checkpoint(ddcore, apart):
    done = ddcore("run", "tiny")
    folder = apart / "results" / "tiny" / TINY.key
    assert done.status == 0 and done.out == [str(folder)]
    assert any("outer steps" in line for line in done.err)
    assert tree(apart / "results") == ["tiny", f"tiny/{TINY.key}", *(f"tiny/{TINY.key}/{f}" for f in tree(folder))]
    assert tree(folder) == ["distilled.safetensors", "record.json"]
    assert not [f for f in tree(apart / "cache") if f.endswith((".safetensors", ".distilled", ".part"))]


def test_a_rank_without_a_launcher_changes_nothing(ddcore, record, monkeypatch):
    """Schedulers set RANK as well, and nobody would answer."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert ddcore("run", "tiny").out == [str(record)]


def test_run_returns_the_record_that_is_there(ddcore, record, monkeypatch):
    before = (record / "record.json").stat().st_mtime_ns
    monkeypatch.setattr(run.inits, "load", None)  # the data need not be there
    done = ddcore("run", "tiny")
    assert done.status == 0 and done.out == [str(record)] and len(done.err) == 1
    assert (record / "record.json").stat().st_mtime_ns == before


def test_force_ignores_the_record_and_gives_the_same_numbers(ddcore, record, edit):
    expected = (record / "distilled.safetensors").read_bytes()
    metrics = records.find("tiny").metrics
    edit(lambda c: c["metrics"]["test_accuracy"].update(mean=0.99))
    assert ddcore("run", "tiny").err[-1].startswith("tiny: test accuracy 99.00 %")
    assert ddcore("run", "tiny", "--force").status == 0
    assert records.find("tiny").metrics == metrics
    assert (record / "distilled.safetensors").read_bytes() == expected


def test_parameters_change_the_configuration(ddcore, apart):
    words = ["steps=3", "epochs=2", "per_class=2", "soft_labels=TRUE", "seed=3", "nets=2", "iterations=2", "batch=8"]
    words += ["samples=2", "init=he", "network=lenet", "dataset=digits", "faithful=false"]
    done = ddcore("run", "tiny-random", *(w for word in words for w in ("-p", word)))
    content = json.loads((apart / "results/tiny-random" / done.out[-1].split("/")[-1] / "record.json").read_text())
    said = {"steps": 3, "epochs": 2, "per_class": 2, "soft_labels": True, "seed": 3, "nets": 2, "iterations": 2}
    said |= {"batch": 8, "samples": 2, "init": "he"}
    assert content["overrides"] == said and {n: content["config"][n] for n in said} == said  # the others change nothing
    distilled = DistilledData.load(records.Path(done.out[-1]) / "distilled.safetensors")
    assert distilled.images.shape == (3, 20, 1, 28, 28) and distilled.soft_labels.shape == (3, 20, 10)
    assert content["metrics"]["test_accuracy"]["n"] == 2 and done.err[-1].endswith("(n = 2)")


def test_without_ddcore_results_a_changed_run_goes_to_the_cache(ddcore, apart, monkeypatch):
    monkeypatch.delenv("DDCORE_RESULTS")
    folder = apart / "cache" / "ddcore" / "results" / "tiny-random"
    done = ddcore("run", "tiny-random", "-p", "iterations=2", "-p", "nets=1")
    assert done.out[-1].startswith(str(folder)) and not (apart / "project").exists()


def test_a_parameter_at_its_default_changes_nothing(ddcore, apart, monkeypatch):
    monkeypatch.delenv("DDCORE_RESULTS")
    done = ddcore("run", "tiny-random", "-p", "epochs=1", "-p", "dataset=digits")
    assert done.out[-1] == str(apart / "project" / "results" / "tiny-random" / TINY_RANDOM.key)
    assert records.find("tiny-random").overrides == {}


SMOKE = ("run", "fig2a", "--scale", "smoke")
BAD_VALUES = [
    ("steps=0", "steps=0", "1"), ("steps=-1", "steps=-1", "1"), ("steps=1001", "1001", "1000"),
    ("steps=1e3", "steps=1e3", "whole number"), ("steps=1.0", "steps=1.0", "whole number"),
    ("steps=", "steps=", "whole number"), ("steps=two", "steps=two", "whole number"), ("steps=nan", "whole number"),
    ("epochs=0", "epochs=0", "1"), ("per_class=0", "per_class=0"), ("samples=0", "samples=0"), ("batch=0", "batch=0"),
    ("iterations=0", "iterations=0"), ("nets=0", "nets=0"), ("seed=-1", "seed=-1", "0"), ("seed=1.5", "seed=1.5"),
    ("seed=99999999999", "seed=99999999999", "2147483648"), ("seed=" + "9" * 5000, "whole number"),
    ("soft_labels=yes", "soft_labels=yes", "true or false"), ("faithful=1", "faithful=1", "true or false"),
    ("network=LeNet", "network=LeNet", "'lenet'"), ("init=xavir", "init=xavir", "'xavier'"),
    ("dataset=mnits", "mnits", "did you mean mnist?"), ("dataset=", "digits, mnist"), ("dataset=\udcff", "digits"),
    ("dataset=folder:/no/where", "/no/where", "train and test"), ("dataset=folder:", "train and test"),
    ("dataset=folder:" + "x" * 5000, "train and test"), ("dataset=folder:a\0b", "train and test"),
    ("stepz=2", "stepz", "did you mean steps?"), ("STEPS=2", "STEPS", "allowed: dataset"), ("ü=2", "ü", "allowed"),
    ("fixed=true", "fixed", "allowed: dataset"), ("clip=1", "clip", "allowed"),
    ("steps", "-p steps", "NAME=VALUE"), ("=2", "-p =2", "NAME=VALUE"), ("", "NAME=VALUE"),
    ("steps=1\n2", "steps=1 2", "whole number"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_VALUES, ids=lambda case: ascii(case[0])[:30])
def test_a_bad_parameter_is_refused(ddcore, apart, case):
    text, *said = case
    line = refused(ddcore, apart, *SMOKE, "-p", text)
    assert all(part in line for part in said), line


BAD_WORDS = {
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
    "missing dataset": (["run", "fig2b", "-p", "dataset=cifar10-jpeg"], "cifar10-jpeg is not there"),
    "checkpoints in a file": ([*SMOKE, "--checkpoints", __file__], "checkpoints", "is a file"),
    "verify unknown": (["verify", "fig9"], "unknown experiment 'fig9'"),
    "verify without a record": (["verify", "fig2a"], "fig2a has no record here", "ddcore run fig2a"),
    "verify nothing": (["verify"], "no record here"),
    "verify no networks": (["verify", "fig2a", "--nets", "0"], "--nets", "1"),
    "unknown dataset": (["data", "mnits"], "unknown dataset 'mnits'", "digits, mnist"),
    "missing copy": (["data", "cifar10-jpeg"], "cifar10-jpeg is not there", "train and test"),
    "unknown notebook": (["notebook", "99"], "no notebook's name begins with '99'"),
    "no notebook": (["notebook"], "Missing argument"),
    "images too few": (["run", "baseline-random-real-mnist", *SMOKE[2:], "-p", "per_class=50"], "500 are asked for"),
    "endless budget": (["reproduce", "--budget", "inf"], "--budget"),
    "strange shard": (["reproduce", "--shard", "1/" + 5000 * "9"], "K/N with 1 <= K <= N"),
    "notebook parameter": (["notebook", "99", "-p", "steps"], "NAME=VALUE"),
}


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_input_is_refused(ddcore, apart, case):
    words, *said = BAD_WORDS[case]
    line = refused(ddcore, apart, *words)
    assert all(part in line for part in said), line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_refused_where_there_is_none(ddcore, apart):
    assert "no CUDA device" in refused(ddcore, apart, *SMOKE, "--device", "cuda")


def test_a_damaged_record_is_one_line(ddcore, apart, record):
    (record / "record.json").write_text("{")
    for words in (["run", "tiny"], ["verify", "tiny"], ["verify"]):
        assert str(record) in refused(ddcore, apart, *words)
    done = ddcore("list")
    assert done.status == 2 and len(done.err) == 1 and str(record) in done.err[0]


# ---- folders of images


def test_run_on_a_folder_of_images(ddcore, pictures, apart, monkeypatch):
    pictures("abc", mode="RGB", side=32)
    monkeypatch.chdir(apart)
    words = ["run", "tiny-random", "-p", "iterations=2", "-p", "nets=1", "-p"]
    done = ddcore(*words, "dataset=folder:pictures")
    distilled = DistilledData.load(records.Path(done.out[-1]) / "distilled.safetensors")
    assert distilled.images.shape == (2, 3, 3, 32, 32) and distilled.meta["classes"] == ["a", "b", "c"]
    assert ddcore(*words, f"dataset=folder:{apart}/pictures").out == done.out  # the same folder: the same record


@pytest.mark.parametrize("how", ["damaged", "sizes", "class"])
def test_a_bad_folder_of_images_is_refused(ddcore, pictures, apart, how):
    folder = pictures()
    file = folder / "train" / "a" / "7.png"
    if how == "damaged":
        file.write_bytes(file.read_bytes()[:99])
    elif how == "sizes":
        shutil.copy(pictures(side=32, name="large") / "train" / "a" / "7.png", file)
    else:
        shutil.rmtree(folder / "test" / "b")
    line = refused(ddcore, apart, *SMOKE, "-p", f"dataset=folder:{folder}")
    assert {"damaged": str(file), "sizes": str(file), "class": "class b"}[how] in line


# ---- interrupted, killed, no disk


def interrupt_at(monkeypatch, n, how):
    """Do `how` where the n-th batch is drawn."""
    draw, calls = Dataset.batch, []

    def batch(*args):
        calls.append(1)
        if len(calls) == n:
            how()
        return draw(*args)

    monkeypatch.setattr(Dataset, "batch", batch)


def test_an_interrupted_run_goes_on(ddcore, apart, made, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["ddcore.distill"], "CHECKPOINT_SECONDS", 0)
        interrupt_at(patch, 8, lambda: signal.raise_signal(signal.SIGINT))
        done = ddcore("run", "tiny")
    assert done.status == 130 and done.out == [] and not (apart / "results").exists()
    assert done.err[-1] == "ddcore: interrupted; the same command goes on from the last checkpoint"
    done = ddcore("run", "tiny")
    assert "resuming at outer step 7 of 12" in done.err and done.status == 0
    file = f"tiny/{TINY.key}/distilled.safetensors"
    assert (apart / "results" / file).read_bytes() == (made / file).read_bytes()


def test_a_full_disk_is_one_line(ddcore, apart, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(records.shutil, "copyfile", full)
        done = ddcore("run", "tiny")
    assert done.status == 1 and done.out == [] and done.err[-1].startswith("ddcore: ")
    assert "No space left" in done.err[-1] and tree(apart / "results") == ["tiny"]
    assert ddcore("run", "tiny").status == 0


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MachineError("a worker\ndied"), "ddcore: a worker died"),
        (RuntimeError("can't allocate memory:\n9 bytes"), "ddcore: not enough memory: can't allocate memory: 9 bytes"),
    ],
)
def test_a_failing_machine_is_one_line(ddcore, monkeypatch, error, line):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(run, "run", fail)
    done = ddcore("run", "tiny")
    assert done.status == 1 and done.err == [line]


def test_another_error_that_speaks_of_memory_keeps_its_traceback(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("it refers to a single memory location")

    monkeypatch.setattr(run, "run", fail)
    monkeypatch.setattr(sys, "argv", ["ddcore", "run", "tiny"])
    with pytest.raises(RuntimeError, match="single memory location"):
        cli.main()


def test_a_mistake_of_ours_keeps_its_traceback(ddcore, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(run, "run", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        ddcore("run", "tiny")


def test_a_results_folder_that_cannot_be_written(ddcore, apart, monkeypatch):
    (apart / "results").write_text("a file")
    done = ddcore("run", "tiny-random")
    assert done.status == 1 and done.out == [] and str(apart / "results") in done.err[-1]


@pytest.mark.slow
def test_killed_as_a_process_and_resumed(ddcore, apart):
    """The real command, killed at a moment of its own choosing; what it leaves is a checkpoint and no record."""
    key = experiments.configure("fig2a", "smoke", {"iterations": "30", "seed": "9"}).key
    checkpoint = apart / "cache" / "ddcore" / "checkpoints" / f"{key}.eager.safetensors"
    words = [*SMOKE, "-p", "seed=9", "-p", "iterations=30"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ddcore", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )
    until = time.monotonic() + 100
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    out, err = process.communicate()
    assert process.returncode == -signal.SIGKILL and out == b"", err.decode()[-500:]
    assert not (apart / "results").exists()
    done = ddcore(*words, "--compile", "on")  # which a checkpoint that was made without overrules
    assert done.status == 0 and any("resuming at outer step" in line for line in done.err)
    assert json.loads(apart.joinpath(done.out[-1], "record.json").read_text())["environment"]["compiled"] is False


# ---- verify and data


def test_verify(ddcore, record, edit):
    done = ddcore("verify", "tiny")
    assert done.status == 0 and done.err == [] and len(done.out) == 1 and done.out[0].startswith("tiny PASS")
    assert ddcore("verify").out == done.out  # every record
    assert ddcore("verify", "tiny", "tiny", "--nets", "1").out == done.out
    edit(lambda c: c["metrics"]["test_accuracy"].update(mean=0.99, values=[0.99]))
    done = ddcore("verify")
    assert done.status == 1 and done.err == [] and done.out[0].startswith("tiny FAIL (record 99.00 %")


def test_verify_checks_the_others_where_one_s_data_is_missing(ddcore, record, edit, apart):
    config = experiments.configure("fig2a")
    content = json.loads((record / "record.json").read_text())
    content |= {"experiment": "fig2a", "key": config.key, "config": config.model_dump()}
    records.write(apart / "results", content, record / "distilled.safetensors")
    done = ddcore("verify")
    assert done.status == 2 and len(done.err) == 1 and "fig2a is not checked: mnist is not there" in done.err[0]
    assert len(done.out) == 1 and done.out[0].startswith("tiny PASS")
    edit(lambda c: c["metrics"]["test_accuracy"].update(values=[0.99]))
    assert ddcore("verify").status == 1  # worse than not checked


def test_data(ddcore, apart):
    done = ddcore("data")
    assert done.status == 0 and done.err == [] and done.out[0] == f"data root: {apart / 'data'}"
    assert done.out[1] == "digits         1,295/143/359 images of 1x28x28, sha256 f6d9e39f37dc"
    assert [line.split() for line in done.out[2:]] == [[name, "not", "here"] for name in cli.NAMES[1:]]
    assert ddcore("data", "digits").out == done.out[1:2] and not (apart / "data").exists()


def test_data_says_which_file_is_damaged(ddcore, apart):
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        file = apart / "data" / "MNIST" / "raw" / f"{name}-ubyte"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\0\0\x08\x01")
    assert "train-images-idx3-ubyte is truncated or damaged" in ddcore("data").out[2]
    assert "train-images-idx3-ubyte is truncated or damaged" in refused(ddcore, apart, "data", "mnist")


# ---- notebook (its own tests: test_notebooks.py)


def test_notebook(ddcore, apart, monkeypatch):
    def execute(name, overrides, out):
        assert (name, overrides, out) == ("03-1", {"steps": "2", "text": "a=b"}, apart / "x.ipynb")
        return out

    monkeypatch.setattr(book, "run", execute)
    done = ddcore("notebook", "03-1", "-p", "steps=2", "-p", "text=a=b", "--out", apart / "x.ipynb")
    assert done.status == 0 and done.out == [str(apart / "x.ipynb")] and done.err == []


# ---- the real command


def test_as_a_process(apart):
    command = [sys.executable, "-m", "ddcore", "run", "fig2a", "-p", "steps=x"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ddcore: steps=x: a whole number is allowed\n"
    assert tree(apart) == []
