"""The file format that others read, and that nothing else is taken for it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from test_distilled import META, E, K, S, example, init, n

from ddcore.distilled import DistilledData
from ddcore.support.errors import InputError, MachineError, WriteError

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
        with pytest.raises(WriteError, match="No space left"):
            example(soft=True).save(file)
        assert file.read_bytes() == old

    def test_a_full_disk_is_the_machine_s_error(self, tmp_path, monkeypatch):
        def full(tensors, path, header):
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device")

        monkeypatch.setattr("ddcore.support.stored.save_file", full)
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
