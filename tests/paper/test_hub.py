"""A folder for a dataset hub: what lies in it, what its card says, and that other programs read
it."""

import hashlib
import importlib.util
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from conftest import tree
from PIL import Image

from ddcore.distilled import DistilledData
from ddcore.experiments import records
from ddcore.paper import hub

# of rdflib, which mlcroissant reads with
pytestmark = pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")
SOFT = torch.linspace(-1, 2, 100).reshape(1, 10, 10)


@pytest.fixture
def library():
    """mlcroissant; where it is not, the test is skipped, but never in CI."""
    if importlib.util.find_spec("mlcroissant") is None:
        assert not os.environ.get("CI"), "mlcroissant is needed: pip install -e '.[hub]'"
        pytest.skip("mlcroissant is not here")
    import mlcroissant

    return mlcroissant


@pytest.fixture
def here(apart, monkeypatch):
    """The folder that commands run in."""
    (apart / "here").mkdir()
    monkeypatch.chdir(apart / "here")
    return apart / "here"


@pytest.fixture
def change(record):
    """Change the record's distilled data: change(soft_labels=...), its meta: change(name=...)."""

    def apply(soft_labels=None, **meta):
        file = record / "distilled.safetensors"
        distilled = DistilledData.load(file)
        soft = distilled.soft_labels if soft_labels is None else soft_labels
        replace(distilled, soft_labels=soft, meta=distilled.meta | meta).save(file)

    return apply


@pytest.fixture
def attack(edit, change):
    """Make the record one of an attack, 3 to be taken for 5."""
    edit(lambda content: content["config"].update(attacked=3, target=5, fixed=False, pool=2))
    accuracy = {"mean": 0.04321, "std": 0.1, "n": 200, "values": []}
    edit(lambda content: content["metrics"].update(attacked_correct=accuracy))
    change(init_law="trained on digits", fixed_init=False)


def card(record):
    """The card's header and its text."""
    _, header, text = hub.card(records.read(record)).split("---\n", 2)
    return yaml.safe_load(header), text


def images(record, folder):
    """What is written of the images: their lines."""
    (folder / hub.IMAGES).mkdir(parents=True)
    hub.write_images(records.read(record).distilled, folder)
    return [json.loads(line) for line in (folder / hub.LINES).read_text("utf-8").splitlines()]


class TestImages:
    def test_each_is_a_picture_in_its_own_size(self, record, here):
        distilled = DistilledData.load(record / "distilled.safetensors")
        lines = images(record, here)
        assert len(lines) == distilled.labels.numel() == 10
        mean, std = (np.array(distilled.meta[name]) for name in ("mean", "std"))
        for line, exact in zip(lines, distilled.images.flatten(0, 1), strict=True):
            with Image.open(here / hub.IMAGES / line["file_name"]) as picture:
                assert picture.mode == "L" and picture.size == (28, 28)
                bytes_ = np.asarray(picture, dtype=float)
            pixels = 255 * np.clip(exact[0].numpy() * std + mean, 0, 1)
            assert np.abs(bytes_ - pixels).max() <= 0.51

    def test_a_line_says_what_is_known_of_an_image(self, record, here, change):
        change(soft_labels=SOFT)
        distilled = DistilledData.load(record / "distilled.safetensors")
        line = images(record, here)[7]
        assert line == {
            "file_name": "step-000-image-007.png",
            "step": 0,
            "label": int(SOFT[0, 7].argmax()),
            "class": str(int(SOFT[0, 7].argmax())),
            "learning_rates": distilled.lrs[:, 0].tolist(),
            "soft_label": SOFT[0, 7].tolist(),
        }
        assert len(line["learning_rates"]) == 2

    def test_black_and_white_are_not_clipped(self, record):
        distilled = DistilledData.load(record / "distilled.safetensors")
        mean, std = (torch.tensor(distilled.meta[name]).item() for name in ("mean", "std"))
        brightness = torch.zeros_like(distilled.images)
        brightness[0, :5] = 1
        brightness[0, 9] = -0.5
        images = (brightness - mean) / std
        assert hub.clipped(replace(distilled, images=images)) == pytest.approx(0.1)

    def test_without_soft_labels_none_are_told(self, record, here):
        assert "soft_label" not in images(record, here)[0]


class TestCard:
    def test_its_header_is_what_the_hub_reads(self, record, here):
        header, _ = card(record)
        assert header["license"] == "cc-by-4.0" and header["size_categories"] == ["n<1K"]
        assert header["task_categories"] == ["image-classification"]
        assert {"dataset-distillation", "digits"} <= set(header["tags"])
        (config,) = header["configs"]
        (split,) = config["data_files"]
        images(record, here)
        assert split["split"] == "train" and len(list(here.glob(split["path"]))) == 11

    def test_it_tells_where_the_images_come_from(self, record, edit):
        edit(lambda content: content["environment"].update(commit="abc123", dirty=True))
        edit(lambda content: content.update(overrides={"seed": 4}))
        edit(lambda content: content["config"].update(seed=4))
        made = records.read(record)
        text = card(record)[1]
        for said in (
            *("`ddcore run tiny -p seed=4`", "with seed 4", "abc123, with changes"),
            *(made.key, made.data["sha256"], "Epochs: 2"),
        ):
            assert said in text

    def test_it_tells_what_was_measured(self, record, edit):
        accuracy = {"mean": 0.87659, "std": 0.01231, "n": 200, "values": []}
        edit(lambda content: content["metrics"].update(test_accuracy=accuracy))
        text = card(record)[1]
        assert "| test accuracy | 87.65 | 1.24 | 200 |" in text
        assert "reaches 87.65 %" in text

    def test_it_tells_how_much_a_png_loses(self, record):
        file = record / "distilled.safetensors"
        distilled = DistilledData.load(file)
        beyond = torch.zeros_like(distilled.images)  # the mean: a grey
        beyond[:, :, :, :7] = 100.0  # a quarter is whiter than white
        replace(distilled, images=beyond, meta=distilled.meta | {"mean": [0.5]}).save(file)
        assert " 25.0 % of the values lie outside" in card(record)[1]

    def test_an_attack_is_called_one(self, record, attack):
        header, text = card(record)
        assert "data-poisoning" in header["tags"]
        assert "**This is an attack.**" in text and "the class `3` for `5`" in text
        assert "still right | 4.33 | 10.00 | 200 |" in text
        assert "A lenet trained on digits, then trained on these images" in text

    def test_what_is_none_is_not(self, record):
        header, text = card(record)
        assert "data-poisoning" not in header["tags"] and "attack" not in text

    def test_the_place_of_own_images_is_not_told(self, record, edit):
        place = "folder:/somebody/private"
        edit(lambda content: content["config"].update(dataset=place))
        edit(lambda content: content["data"].update(name=place))
        header, text = card(record)
        assert "private" not in text and "private" not in str(header)
        assert "-p dataset=folder:PATH" in text
        assert header["license"] == "other" and "CC BY" not in text

    def test_its_code_gives_the_accuracy_of_the_record(self, record, monkeypatch, capsys):
        measured = records.read(record).metrics["test_accuracy"]["mean"]
        assert run_code(record, monkeypatch, capsys) == pytest.approx(measured, abs=1e-4)

    @pytest.mark.slow
    def test_its_code_runs_on_networks_that_were_trained_before(
        self, record, attack, monkeypatch, capsys
    ):
        code = re.search(r"```python\n(.*?)```", card(record)[1], re.S)[1]
        assert 'pretrain(network, load("digits"), "xavier", range(4), epochs=8, batch=64)' in code
        assert run_code(record, monkeypatch, capsys) > 0.3


def run_code(record, monkeypatch, capsys):
    """The accuracy that the card's code prints, run in the folder."""
    code = re.search(r"```python\n(.*?)```", card(record)[1], re.S)[1]
    monkeypatch.chdir(record)
    capsys.readouterr()
    exec(code, {})
    return float(re.search(r"\d\.\d+", capsys.readouterr().out)[0])


class TestFolder:
    FILES = ["README.md", "croissant.json", "distilled.safetensors", "record.json"]

    def test_all_lies_in_it(self, ddcore, library, record, here):
        assert ddcore("export", "tiny", "--to", "hf").out == ["tiny-hf"]
        pngs = [f"step-000-image-{i:03}.png" for i in range(10)]
        below = ["data", "data/train", *(f"data/train/{n}" for n in ["metadata.jsonl", *pngs])]
        assert tree(here / "tiny-hf") == sorted([*self.FILES, *below])
        for name in ("distilled.safetensors", "record.json"):
            assert (here / "tiny-hf" / name).read_bytes() == (record / name).read_bytes()
        assert os.listdir(here) == ["tiny-hf"]
        assert ddcore("verify", "tiny-hf").status == 0

    def test_the_same_record_gives_the_same_folder(self, ddcore, library, record, here):
        for name in ("a", "b"):
            assert ddcore("export", record, "--to", "hf", "--out", name).status == 0
        for path in tree(here / "a"):
            if (here / "a" / path).is_file():
                assert (here / "a" / path).read_bytes() == (here / "b" / path).read_bytes(), path

    def test_other_programs_read_it(self, ddcore, library, record, change, here):
        change(soft_labels=SOFT)
        ddcore("export", "tiny", "--to", "hf")
        dataset = library.Dataset(here / "tiny-hf" / "croissant.json")
        assert not dataset.metadata.ctx.issues.report()
        found = list(dataset.records("images"))
        lines = (here / "tiny-hf" / hub.LINES).read_text("utf-8").splitlines()
        assert len(found) == len(lines) == 10
        for read, line in zip(found, map(json.loads, lines), strict=True):
            with Image.open(here / "tiny-hf" / hub.IMAGES / line["file_name"]) as picture:
                shown = np.asarray(picture.convert("RGB"))
            assert (np.asarray(read["images/image"]) == shown).all()
            assert read["images/file_name"] == line["file_name"].encode()
            assert read["images/class"] == line["class"].encode()
            assert [read["images/step"], read["images/label"]] == [line["step"], line["label"]]
            for name in ("learning_rates", "soft_label"):
                assert read[f"images/{name}"] == pytest.approx(line[name])

    def test_its_files_are_known_by_their_sums(self, ddcore, library, record, here):
        ddcore("export", "tiny", "--to", "hf")
        described = json.loads((here / "tiny-hf" / "croissant.json").read_text("utf-8"))
        sums = {one["@id"]: one.get("sha256") for one in described["distribution"]}
        assert sums.keys() == {"data/train/metadata.jsonl", *self.FILES[2:], "png"}
        written = (record / "record.json").read_bytes()
        assert sums["record.json"] == hashlib.sha256(written).hexdigest()

    def test_one_that_is_there_is_left_alone(self, ddcore, library, record, here):
        (here / "tiny-hf").mkdir()
        done = ddcore("export", "tiny", "--to", "hf")
        assert done.status == 2 and "it is there already; name a new folder" in done.err[0]
        assert tree(here) == ["tiny-hf"]
        nowhere = ddcore("export", "tiny", "--to", "hf", "--out", "no/x")
        assert nowhere.status == 2 and "cannot write no/x: No such file" in nowhere.err[0]

    def test_a_failure_leaves_nothing(self, ddcore, library, record, here, monkeypatch):
        def full(record):
            raise OSError("no space left")

        monkeypatch.setattr(hub, "card", full)
        assert ddcore("export", "tiny", "--to", "hf").status == 1
        assert tree(here) == []

    def test_without_images_there_is_none(self, ddcore, library, record, here):
        (record / "distilled.safetensors").unlink()
        done = ddcore("export", "tiny", "--to", "hf")
        assert done.status == 2 and "tiny has no images of its own" in done.err[0]
        assert tree(here) == []
