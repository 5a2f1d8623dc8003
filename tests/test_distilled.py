"""Distilled data: the file format that others read, and that nothing else is taken for it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ddcore.datasets import load
from ddcore.distilled import DistilledData, Learned, class_major
from ddcore.errors import InputError, MachineError
from ddcore.networks import LeNet, generator

S, n, K, E = 2, 3, 3, 2
META = {
    "dataset": "digits",
    "architecture": "lenet",
    "classes": ["a", "b", "ü"],
    "mean": [0.1],
    "std": [0.3],
}


def init() -> dict[str, torch.Tensor]:
    rng = generator("init")
    shapes = LeNet(classes=K).shapes
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def example(*, soft: bool = False, fixed: bool = False) -> DistilledData:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(S, n, 1, 28, 28, generator=rng)
    lrs = torch.rand(E, S, generator=rng)
    labels = torch.tensor([[0, 1, 2], [2, 1, 0]])
    soft_labels = None
    if soft:
        soft_labels = torch.randn(S, n, K, generator=rng)
        labels = soft_labels.argmax(-1)
    return DistilledData(images, labels, lrs, soft_labels, init() if fixed else None, META)


every_kind = [
    pytest.param({"soft": soft, "fixed": fixed}, id=f"{labels}, {start}")
    for soft, labels in ((False, "hard labels"), (True, "soft labels"))
    for fixed, start in ((False, "random inits"), (True, "fixed init"))
]


def assert_same(found, expected) -> None:
    """Equal and of one type, whatever is nested in what."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    else:
        assert found == expected


class TestTheFile:
    @pytest.mark.parametrize("kind", every_kind)
    def test_what_is_saved_is_what_is_loaded(self, tmp_path, kind):
        data = example(**kind)
        data.save(tmp_path / "d.safetensors")
        found = DistilledData.load(tmp_path / "d.safetensors")
        assert_same(vars(found), vars(data))
        assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors"]

    @pytest.mark.parametrize(
        ("soft", "labels"),
        [
            pytest.param(False, {"labels": ([S, n], "I64")}, id="hard labels"),
            pytest.param(True, {"soft_labels": ([S, n, K], "F32")}, id="soft labels"),
        ],
    )
    def test_it_is_as_documented(self, tmp_path, soft, labels):
        example(soft=soft, fixed=True).save(tmp_path / "d.safetensors")
        with safe_open(tmp_path / "d.safetensors", "pt") as file:
            header = json.loads(file.metadata()["ddcore"])
            slices = {name: file.get_slice(name) for name in file.keys()}
            found = {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}
        expected = {"images": ([S, n, 1, 28, 28], "F32"), "lrs": ([E, S], "F32"), **labels}
        expected |= {f"init.{name}": (list(t.shape), "F32") for name, t in init().items()}
        assert found == expected
        assert header == META | {"format": 1}

    def test_half_precision_images_are_read_as_float32(self, tmp_path):
        data = example()
        replace(data, images=data.images.half()).save(tmp_path / "d.safetensors")
        found = DistilledData.load(tmp_path / "d.safetensors").images
        assert_same(found, data.images.half().float())

    def test_an_interrupted_save_leaves_the_old_file(self, tmp_path, monkeypatch):
        file = tmp_path / "d.safetensors"
        example().save(file)
        old = file.read_bytes()

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            example(soft=True).save(file)
        assert file.read_bytes() == old

    def test_a_full_disk_is_the_machine_s_error(self, tmp_path, monkeypatch):
        def full(tensors, path, header):
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device")

        monkeypatch.setattr("ddcore.distilled.save_file", full)
        with pytest.raises(MachineError, match="No space left"):
            example().save(tmp_path / "d.safetensors")
        assert list(tmp_path.iterdir()) == []


def tensors_of(data: DistilledData) -> dict[str, torch.Tensor]:
    return {"images": data.images, "labels": data.labels, "lrs": data.lrs}


class TestAnyOtherFile:
    """is named, and never half read."""

    def assert_refused(self, path: Path) -> None:
        with pytest.raises(InputError, match="is not a file of distilled data") as error:
            DistilledData.load(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda whole: b"", id="empty"),
            pytest.param(lambda whole: whole[:-1], id="cut"),
            pytest.param(lambda whole: whole[:900], id="half"),
            pytest.param(lambda whole: b"not a tensor", id="text"),
        ],
    )
    def test_damaged_bytes(self, tmp_path, damage):
        path = tmp_path / "d.safetensors"
        example().save(path)
        path.write_bytes(damage(path.read_bytes()))
        self.assert_refused(path)

    def test_a_folder(self, tmp_path):
        path = tmp_path / "d.safetensors"
        path.mkdir()
        self.assert_refused(path)

    def test_none_at_all(self, tmp_path):
        self.assert_refused(tmp_path / "d.safetensors")

    @pytest.mark.parametrize(
        "changed",
        [
            pytest.param(lambda d: {"images": None}, id="no images"),
            pytest.param(lambda d: {"labels": None}, id="no labels"),
            pytest.param(lambda d: {"lrs": None}, id="no rates"),
            pytest.param(
                lambda d: {"images": d.images[:0], "labels": d.labels[:0], "lrs": d.lrs[:, :0]},
                id="no steps",
            ),
            pytest.param(lambda d: {"images": d.images.flatten(2)}, id="flat images"),
            pytest.param(lambda d: {"images": d.images * torch.nan}, id="images that are nan"),
            pytest.param(lambda d: {"lrs": d.lrs / 0}, id="infinite rates"),
            pytest.param(lambda d: {"lrs": d.lrs[0]}, id="rates without epochs"),
            pytest.param(lambda d: {"lrs": d.lrs[:, :1]}, id="rates of fewer steps"),
            pytest.param(lambda d: {"labels": d.labels[:, :2]}, id="fewer labels"),
            pytest.param(lambda d: {"labels": d.labels.float()}, id="labels of another type"),
            pytest.param(lambda d: {"labels": d.labels + 1}, id="a label without a class"),
            pytest.param(lambda d: {"labels": d.labels - 1}, id="a negative label"),
            pytest.param(
                lambda d: {"soft_labels": torch.ones(S, n, K + 1)}, id="another number of classes"
            ),
        ],
    )
    def test_tensors_that_do_not_belong_together(self, tmp_path, changed):
        path = tmp_path / "d.safetensors"
        tensors = tensors_of(example()) | changed(example())
        whole = {name: t.contiguous() for name, t in tensors.items() if t is not None}
        save_file(whole, path, {"ddcore": json.dumps(META | {"format": 1})})
        self.assert_refused(path)

    @pytest.mark.parametrize(
        "header",
        [
            pytest.param({"pt": "x"}, id="another kind of file"),
            pytest.param(None, id="no header"),
            pytest.param({"ddcore": "{"}, id="not JSON"),
            pytest.param({"ddcore": "[]"}, id="a list"),
            pytest.param({"ddcore": "{}"}, id="no format"),
            pytest.param({"ddcore": json.dumps(META | {"format": 2})}, id="another version"),
            pytest.param(
                {"ddcore": json.dumps({"format": 1, "architecture": "lenet"})}, id="no classes"
            ),
        ],
    )
    def test_a_header_that_is_not_this_format_s(self, tmp_path, header):
        path = tmp_path / "d.safetensors"
        save_file(tensors_of(example()), path, header)
        self.assert_refused(path)


class TestDistilledData:
    def test_targets_are_one_hot(self):
        assert torch.equal(example().targets()[1], torch.eye(3).flip(0))

    def test_soft_labels_are_targets(self):
        soft = example(soft=True)
        assert torch.equal(soft.targets(), soft.soft_labels)

    def test_without_names_the_labels_show_how_many_classes_there_are(self):
        assert replace(example(), meta={}).targets().shape == (S, n, K)
        named = replace(example(), meta={"classes": "abcde"})
        assert named.targets().shape == (S, n, 5)

    def test_the_order_passes_through_all_steps_of_an_epoch_first(self):
        assert example().order() == [(0, 0), (0, 1), (1, 0), (1, 1)]

    def test_to_float64_keeps_the_labels(self):
        moved = example(fixed=True).to(torch.float64)
        assert moved.images.dtype == moved.lrs.dtype == torch.float64
        assert moved.init["fc3.bias"].dtype == torch.float64
        assert moved.labels.dtype == torch.int64
        assert moved.targets().dtype == torch.float64

    def test_what_is_learned_can_be_replaced(self):
        data = example(soft=True, fixed=True)
        doubled = data.with_learned(data.learned().map(lambda t: 2 * t))
        assert torch.equal(doubled.images, 2 * data.images)
        assert torch.equal(doubled.lrs, 2 * data.lrs)
        assert torch.equal(doubled.soft_labels, 2 * data.soft_labels)
        assert doubled.labels is data.labels
        assert doubled.init is data.init


class TestLearned:
    def test_a_function_maps_each_tensor_that_is_there(self):
        hard = Learned(torch.ones(2), torch.ones(3))
        assert hard.map(lambda t: 2 * t).soft_labels is None
        total = hard.map(torch.add, Learned(torch.ones(2), 2 * torch.ones(3)))
        assert total.images.tolist() == [2, 2]
        assert total.lrs.tolist() == [3, 3, 3]

    def test_tensors_are_named(self):
        hard = Learned(torch.ones(2), torch.ones(3))
        soft = hard._replace(soft_labels=torch.ones(4))
        assert list(hard.tensors()) == ["images", "lrs"]
        assert list(soft.tensors()) == ["images", "lrs", "soft_labels"]


class TestClassMajor:
    def test_each_class_has_its_images_in_a_row_and_the_dataset_s_names(self):
        digits = load("digits")
        data = class_major(digits, torch.zeros(2, 30, 1, 28, 28), torch.ones(4, 2))
        assert data.labels.tolist() == [sorted([*range(10)] * 3)] * 2
        expected = {"dataset": "digits", "classes": digits.classes, "steps": 2, "epochs": 4}
        assert {name: data.meta[name] for name in expected} == expected
        assert (data.meta["mean"], data.meta["std"]) == (digits.mean, digits.std)

    def test_a_class_may_carry_the_label_of_another(self):
        labelled = torch.tensor([0, 1, 2, 8, 4, 5, 6, 7, 8, 9])
        images = torch.zeros(1, 20, 1, 28, 28)
        data = class_major(load("digits"), images, torch.ones(1, 1), labelled)
        assert data.labels[0].tolist() == labelled.repeat_interleave(2).tolist()
