"""A table of what users get wrong, beside that in test_cli.py: each is one line that says what,
exit status 2, and nothing is written."""

import json

import numpy as np
import pytest
import torch
from conftest import edit_record
from PIL import Image
from safetensors.torch import save_file
from test_cli import refused

from ddcore.distilled import DistilledData

ATTACK = "run table3-mnist-10 --scale smoke"
ADAPT = "run table2-mnist-usps-random --scale smoke"
CHAPTER = "notebook 03-1"
# What is written, its words apart, and what the line must hold. `file` is a file, `dir` an empty
# folder, `page.html` another.
COMMANDS = {
    # run
    "run ''": "unknown experiment ''; `ddcore list` shows them",
    "run FIG2A": "unknown experiment 'FIG2A'",
    "run fig2a --scale": "Option '--scale' requires an argument",
    "run fig2a --scale Smoke": "unknown scale 'Smoke': one of smoke, laptop, paper",
    "run fig2a --scale ''": "unknown scale ''",
    "run fig2a --device ''": "--device : one of cpu, cuda",
    "run fig2a --compile ON": "--compile ON: one of auto, on, off",
    "run fig2a --dry-run=1": "Option '--dry-run' does not take a value",
    "run fig2a --seed 1": "No such option: --seed",
    "run fig2a -p pool=3": "pool means nothing to fig2a",
    "run fig2a -p source=usps": "source means nothing to fig2a",
    "run fig2a -p target=1": "target means nothing to fig2a",
    "run fig2a -p nets=2": "nets=2: a fixed init is one network; only 1 is allowed",
    "run fig2a -p samples=1001": "less than or equal to 1000",
    "run fig2a -p iterations=1000001": "less than or equal to 1000000",
    "run fig2a -p batch=1.5": "batch=1.5: a whole number is allowed",
    "run full-mnist -p steps=2": "steps means nothing to full-mnist",
    "run fig2a --scale smoke --checkpoints file/c": "cannot write to file/c: Not a directory",
    f"{ATTACK} -p attacked=cat": "attacked=cat is no class of digits",
    f"{ATTACK} -p attacked=-1": "attacked=-1: Input should be greater than or equal to 0",
    f"{ATTACK} -p attacked=10": "attacked=10",
    f"{ATTACK} -p target=11": "target=11",
    f"{ATTACK} -p attacked=1 -p target=1": "two different classes are allowed",
    f"{ATTACK} -p pool=0": "pool=0: at least 1 pretrained network",
    f"{ATTACK} -p pool=10001": "less than or equal to 10000",
    f"{ADAPT} -p source=mnits": "unknown dataset 'mnits'; did you mean mnist?",
    f"{ADAPT} -p source=folder:dir": "/dir must hold train and test",
    # notebook
    f"{CHAPTER} -p stpes=2": "has no parameter stpes; did you mean steps?",
    f"{CHAPTER} -p steps=0": "steps=0: a whole number from 1 to ",
    f"{CHAPTER} -p steps=1.5": "steps=1.5: a whole number from 1 to ",
    f"{CHAPTER} -p steps=": "steps=: a whole number from 1 to ",
    f"{CHAPTER} -p steps=1 -p steps=2": "-p steps is given twice",
    f"{CHAPTER} -p =1": "-p =1: NAME=VALUE is allowed",
    f"{CHAPTER} --out dir": "cannot write dir: it is a folder",
    f"{CHAPTER} --out no/x.ipynb": "cannot write no/x.ipynb: No such file or directory",
    f"{CHAPTER} --out file/x.ipynb": "cannot write file/x.ipynb: Not a directory",
    f"{CHAPTER} --out page.ipynb": "cannot write page.html: it is a folder",
    f"{CHAPTER} --out x.html": "cannot write x.html: the copy is a notebook",
    "notebook 03": "is the beginning of several notebooks: 03-1",
    "notebook ''": "is the beginning of several notebooks",
    "notebook 99 --help": "no notebook's name begins with '99'",
    f"{CHAPTER} 03-2": "Got unexpected extra argument",
    # export
    "export": "Missing argument 'EXPERIMENT | FOLDER | FILE'",
    "export fig2aa --to png": "unknown experiment 'fig2aa'; did you mean fig2a?",
    "export fig2a --to PNG": "--to PNG: one of png, npz, hf is allowed",
    "export table2-mnist-usps-random --to npz": "table2-mnist-usps-random has no record here",
    "export no.safetensors --to png": "no.safetensors is not a file of distilled data",
    "export file --to png": "file is not a file of distilled data",
    "export dir --to npz": "dir is a folder without distilled.safetensors; it holds nothing",
    "export fig2a --to png --out dir": "cannot write dir: it is a folder",
    "export fig2a --to npz --out file/x.npz": "cannot write file/x.npz: Not a directory",
    # verify
    "verify tiny --nets x": "Invalid value for '--nets'",
    "verify tiny --nets -1": "Invalid value for '--nets'",
    "verify tiny --scale big": "unknown scale 'big'",
    "verify tiny -p stepz=1": "unknown parameter 'stepz'; did you mean steps?",
    "verify tiny -p steps": "-p steps: NAME=VALUE is allowed",
    "verify -p seed=1": "say which run of an experiment: name one",
    "verify file": "record.json is not a record",
    "verify --log dir": "cannot write dir: it is a folder",
    "verify --log file/x": "cannot write file/x: Not a directory",
    # the others
    "list all": "Got unexpected extra argument",
    "list --jsn": "No such option: --jsn",
    "report fig2a": "Got unexpected extra argument",
    "report --format JSON": "--format JSON: one of text, md, json, junit",
    "data ''": "unknown dataset ''",
    "data MNIST": "unknown dataset 'MNIST'",
    "data folder:file": "/file must hold train and test",
    "data folder:dir": "/dir must hold train and test",
    "data --all": "No such option: --all",
    "reproduce --budget 0": "Invalid value for '--budget'",
    "reproduce --budget nan": "--budget",
    "reproduce --budget 1h": "Invalid value for '--budget'",
    "reproduce --shard 0/2": "--shard 0/2: K/N with 1 <= K <= N is allowed",
    "reproduce --shard 2": "--shard 2: K/N",
    "reproduce --shard 1/2/3": "--shard 1/2/3: K/N",
    "reproduce --device tpu": "--device tpu: one of cpu, cuda",
    "reproduce fig2a": "Got unexpected extra argument",
}


def save(folder, changes=(), header=None):
    """The file of distilled data again, with other tensors, or another header."""
    file = folder / "distilled.safetensors"
    stored = DistilledData.load(file)
    tensors = {"images": stored.images, "labels": stored.labels, "lrs": stored.lrs, **dict(changes)}
    tensors = {name: t for name, t in tensors.items() if t is not None}
    meta = json.dumps({"format": 1, **stored.meta}) if header is None else header
    save_file(tensors, file, {"ddcore": meta})


def cut(name, size):
    def damage(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return damage


NOT_DISTILLED = "distilled.safetensors is not a file of distilled data: "
IMAGES = torch.zeros(1, 10, 1, 28, 28)
# A record's damage, the command on it, and what the line must hold.
RECORDS = {
    "no file of images": (
        lambda f: (f / "distilled.safetensors").unlink(),
        "export tiny --to png",
        "tiny has no images of its own",
    ),
    "no JSON": (cut("record.json", 700), "run tiny", "record.json is not a record: "),
    "no byte of JSON": (cut("record.json", 0), "export tiny --to npz", "is not a record"),
    "bytes that are no text": (
        lambda f: (f / "record.json").write_bytes(b"\xff{}"),
        "verify tiny",
        "record.json is not a record: UnicodeDecodeError",
    ),
    "a folder for the JSON": (
        lambda f: (f / "record.json").unlink() or (f / "record.json").mkdir(),
        "verify {record}",
        "record.json is not a record: IsADirectoryError",
    ),
    "a number for the key": (
        lambda f: edit_record(f, lambda c: c.update(key=7)),
        "run tiny",
        "key: Input should be a valid string",
    ),
    "no configuration": (
        lambda f: edit_record(f, lambda c: c.pop("config")),
        "verify tiny",
        "config: Field required",
    ),
    "no dataset in it": (
        lambda f: edit_record(f, lambda c: c["config"].pop("dataset")),
        "verify {record}",
        "dataset must be the name of one",
    ),
    "an accuracy above 1": (
        lambda f: edit_record(f, lambda c: c["metrics"]["test_accuracy"].update(mean=95.3)),
        "run tiny",
        "metrics.test_accuracy.mean",
    ),
    "no metrics": (
        lambda f: edit_record(f, lambda c: c.update(metrics={})),
        "verify tiny",
        "test_accuracy is missing",
    ),
    "half a file of images": (
        cut("distilled.safetensors", 5000),
        "export tiny --to png",
        NOT_DISTILLED,
    ),
    "no byte of it": (cut("distilled.safetensors", 0), "export tiny --to npz", NOT_DISTILLED),
    "text for it": (
        lambda f: (f / "distilled.safetensors").write_text("images"),
        "export {record} --to png",
        NOT_DISTILLED,
    ),
    "no images in it": (
        lambda f: save(f, {"images": None}),
        "export tiny --to png",
        f"{NOT_DISTILLED}'images'",
    ),
    "no labels in it": (
        lambda f: save(f, {"labels": None}),
        "export tiny --to png",
        f"{NOT_DISTILLED}'labels'",
    ),
    "no rates in it": (
        lambda f: save(f, {"lrs": None}),
        "export tiny --to png",
        f"{NOT_DISTILLED}'lrs'",
    ),
    "images that are no numbers": (
        lambda f: save(f, {"images": IMAGES / 0}),
        "export tiny --to npz",
        "not finite",
    ),
    "a label without a class": (
        lambda f: save(f, {"labels": torch.arange(1, 11)[None]}),
        "export tiny --to png",
        "labels from 1 to 10",
    ),
    "images of more steps": (
        lambda f: save(f, {"images": IMAGES.repeat(2, 1, 1, 1, 1)}),
        "export tiny --to png",
        "labels has shape [1, 10]",
    ),
    "rates of more steps": (
        lambda f: save(f, {"lrs": torch.ones(2, 3)}),
        "export tiny --to png",
        "lrs has shape [2, 3]",
    ),
    "another format": (
        lambda f: save(f, header='{"format": 2}'),
        "export tiny --to png",
        "another format version than 1",
    ),
    "a header that is no JSON": (
        lambda f: save(f, header="{"),
        "export tiny --to png",
        NOT_DISTILLED,
    ),
    "a header without classes": (
        lambda f: save(f, header='{"format": 1}'),
        "export tiny --to png",
        f"{NOT_DISTILLED}'classes'",
    ),
}


def noise(*shape):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))


# A folder's damage (ten training images of `a` and of `b`, two test images), and what the line must
# hold.
FOLDERS = {
    "a file for train": (
        lambda f: (f / "train").rename(f / "x") and (f / "train").write_text(""),
        "must hold train and test",
    ),
    "a file for a class": (
        lambda f: (f / "test" / "b").rename(f / "x") and (f / "test" / "b").write_text(""),
        "the class b is missing in ",
    ),
    "capitals in one part": (
        lambda f: (f / "test" / "b").rename(f / "test" / "B"),
        "the class B is missing in ",
    ),
    "a hidden class": (
        lambda f: [(f / part / "b").rename(f / part / ".b") for part in ("train", "test")],
        "at least 2 classes are needed, and train and test hold a",
    ),
    "a class without a folder's name in test": (
        lambda f: (f / "train" / "c").mkdir(),
        "the class c is ",
    ),
    "an animation's kind alone": (
        lambda f: [p.rename(p.with_suffix(".gif")) for p in (f / "train" / "a").iterdir()],
        "the class a is empty in ",
    ),
    "an image without a pixel": (
        lambda f: (f / "train" / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n"),
        "0.png is not a whole image",
    ),
    "a folder by an image's name": (
        lambda f: (
            (f / "test" / "b" / "0.png").rename(f / "x")
            and (f / "test" / "b" / "0.png").mkdir()
            or [p.unlink() for p in (f / "test" / "b").glob("1.png")]
        ),
        "the class b is empty in ",
    ),
    "a deep TIFF": (
        lambda f: Image.new("I", (28, 28), 70000).save(f / "test" / "a" / "2.tiff"),
        "2.tiff has more than eight bits per channel",
    ),
    "a transparent WebP": (
        lambda f: noise(28, 28, 4).save(f / "train" / "b" / "x.webp", lossless=True),
        "x.webp has transparent pixels",
    ),
}


@pytest.fixture(autouse=True)
def here(apart, monkeypatch):
    """The folder that commands run in."""
    (apart / "file").write_text("here")
    (apart / "dir").mkdir()
    (apart / "page.html").mkdir()
    monkeypatch.chdir(apart)


def words(command):
    return ["" if word == "''" else word for word in command.split(" ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_refused(ddcore, apart, command):
    assert COMMANDS[command] in refused(ddcore, apart, *words(command))


@pytest.mark.parametrize("damage", RECORDS)
def test_a_damaged_record_is_refused(ddcore, apart, record, damage):
    how, command, said = RECORDS[damage]
    how(record)
    assert said in refused(ddcore, apart, *words(command.format(record=record)))


@pytest.mark.parametrize("damage", FOLDERS)
def test_a_folder_that_cannot_be_read_is_refused(ddcore, apart, pictures, damage):
    how, said = FOLDERS[damage]
    how(pictures())
    assert said in refused(ddcore, apart, "data", "folder:pictures")
