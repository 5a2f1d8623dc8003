"""Distilled data: the file format that others read, and that nothing else is taken for it."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import ddcore
from ddcore.distilled import DistilledData
from ddcore.errors import InputError, MachineError
from ddcore.networks import LeNet

S, n, K, E = 2, 3, 3, 2
META = {"dataset": "digits", "architecture": "lenet", "classes": ["a", "b", "ü"], "mean": [0.1], "std": [0.3]}
INIT = {name: torch.randn(shape) for name, shape in LeNet(classes=K).shapes.items()}


def example(soft=False, init=None):
    rng = torch.Generator().manual_seed(0)
    images, lrs = torch.randn(S, n, 1, 28, 28, generator=rng), torch.rand(E, S, generator=rng)
    targets = torch.randn(S, n, K, generator=rng) if soft else None
    labels = targets.argmax(-1) if soft else torch.tensor([[0, 1, 2], [2, 1, 0]])
    return DistilledData(images, labels, lrs, targets, init, META)


def same(a, b):
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a == b


@pytest.mark.parametrize("init", [None, INIT])
@pytest.mark.parametrize("soft", [False, True])
def test_what_is_saved_is_what_is_loaded(tmp_path, soft, init):
    data = example(soft, init)
    data.save(tmp_path / "d.safetensors")
    found = DistilledData.load(tmp_path / "d.safetensors")
    for name in vars(data):
        assert same(getattr(found, name), getattr(data, name)), name
    assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors"]


def test_the_file_is_as_documented(tmp_path):
    for soft in (False, True):
        example(soft, INIT).save(tmp_path / "d.safetensors")
        with safe_open(tmp_path / "d.safetensors", "pt") as file:
            header = json.loads(file.metadata()["ddcore"])
            slices = {name: file.get_slice(name) for name in file.keys()}
            found = {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}
        labels = {"soft_labels": ([S, n, K], "F32")} if soft else {"labels": ([S, n], "I64")}
        expected = {"images": ([S, n, 1, 28, 28], "F32"), "lrs": ([E, S], "F32"), **labels}
        assert found == expected | {f"init.{name}": (list(t.shape), "F32") for name, t in INIT.items()}
        assert header == META | {"format": 1}


def test_half_precision_images_are_read_as_float32(tmp_path):
    data = example()
    DistilledData(data.images.half(), data.labels, data.lrs, meta=META).save(tmp_path / "d.safetensors")
    found = DistilledData.load(tmp_path / "d.safetensors").images
    assert found.dtype == torch.float32 and torch.equal(found, data.images.half().float())


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "d.safetensors"
    example().save(file)
    old = file.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddcore.distilled.Path.replace", full)
    with pytest.raises(OSError, match="No space left"):
        example(soft=True).save(file)
    assert file.read_bytes() == old


def test_a_full_disk_is_the_machine_s_error(tmp_path, monkeypatch):
    def full(tensors, path, header):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("ddcore.distilled.save_file", full)
    with pytest.raises(MachineError, match="No space left"):
        example().save(tmp_path / "d.safetensors")
    assert list(tmp_path.iterdir()) == []


def damaged(path, how):
    data = example()
    data.save(path)
    whole = path.read_bytes()
    tensors = {"images": data.images, "labels": data.labels, "lrs": data.lrs}
    if how in ("no images", "no labels", "no lrs"):
        del tensors[how[3:]]
    tensors |= {
        "no steps": {"images": data.images[:0], "labels": data.labels[:0], "lrs": data.lrs[:, :0]},
        "flat images": {"images": data.images.flatten(2)},
        "nan": {"images": data.images * torch.nan},
        "labels of another type": {"labels": data.labels.float()},
        "another number of classes": {"soft_labels": torch.ones(S, n, K + 1)},
    }.get(how, {})
    header = {"ddcore": json.dumps(META | {"format": 2 if how == "another version" else 1})}
    nameless = {"ddcore": json.dumps({"format": 1, "architecture": "lenet"})}
    header = {"no classes": nameless, "not JSON": {"ddcore": "{"}, "no format": {"ddcore": "{}"}}.get(how, header)
    if how == "another":
        header = {"pt": "x"}
    save_file(tensors, path, header)
    if how in ("empty", "cut", "half", "text"):
        path.write_bytes({"empty": b"", "cut": whole[:-1], "half": whole[:900], "text": b"not a tensor"}[how])
    if how == "a folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "how",
    ["empty", "cut", "half", "text", "a folder", "no images", "no labels", "no lrs"]
    + ["another", "not JSON", "no format", "another version", "no classes", "no steps", "flat images", "nan"]
    + ["labels of another type", "another number of classes"],
)
def test_any_other_file_is_named(tmp_path, how):
    path = tmp_path / "d.safetensors"
    damaged(path, how)
    with pytest.raises(InputError, match="is not a file of distilled data") as error:
        DistilledData.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_targets_are_one_hot_or_the_soft_labels():
    assert torch.equal(example().targets()[1], torch.eye(3).flip(0))
    soft = example(soft=True)
    assert torch.equal(soft.targets(), soft.soft_labels)


def test_the_order_passes_through_all_steps_of_an_epoch_first():
    assert example().order() == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_to_float64_keeps_the_labels():
    moved = example(init=INIT).to(torch.float64)
    assert moved.images.dtype == moved.lrs.dtype == moved.init["fc3.bias"].dtype == torch.float64
    assert moved.labels.dtype == torch.int64 and moved.targets().dtype == torch.float64


def test_load_distilled_by_file_by_folder_and_by_name(record, monkeypatch):
    by_name = ddcore.load_distilled("tiny")
    for path in (record, record / "distilled.safetensors", str(record)):
        assert torch.equal(ddcore.load_distilled(path).images, by_name.images)
    monkeypatch.chdir(record.parents[1])  # where a folder has the experiment's name
    assert torch.equal(ddcore.load_distilled("tiny").images, by_name.images)


@pytest.mark.parametrize("name", ["fig2a", "nothing", "missing.safetensors", "no/such/folder"])
def test_load_distilled_says_what_is_missing(apart, name):
    with pytest.raises(InputError, match=name[:10]):
        ddcore.load_distilled(name)


def test_train_on_starts_from_the_stored_weights(record):
    """By hand, in the order and with the rates of eq. 8."""
    data = ddcore.load_distilled("tiny")
    network = ddcore.network_of(data)
    w = {name: t.clone().requires_grad_() for name, t in data.init.items()}
    for e in range(2):
        logits = network({name: t[None] for name, t in w.items()}, data.images[0])[0]
        loss = torch.nn.functional.cross_entropy(logits, data.labels[0])
        gradient = dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))
        w = {name: (t - data.lrs[e, 0] * gradient[name]).detach().requires_grad_() for name, t in w.items()}
    trained = ddcore.train_on(data)
    for name, t in w.items():
        assert trained[name].shape == (1, *t.shape)
        assert torch.allclose(trained[name][0], t, atol=1e-5)
    with pytest.raises(InputError, match="no law named.*give weights"):
        ddcore.train_on(replace(data, init=None, meta={n: v for n, v in data.meta.items() if n != "init_law"}))


def test_data_for_a_module_of_your_own_is_used_with_it(tmp_path):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, K))
    path = tmp_path / "d.safetensors"
    replace(example(), meta=META | {"architecture": "Sequential", "init_law": "xavier"}).save(path)
    data = ddcore.load_distilled(path)
    with pytest.raises(InputError, match="network of your own, Sequential: give it"):
        ddcore.train_on(data)
    weights = ddcore.train_on(data, network=module, nets=2)
    assert weights["1.weight"].shape == (2, K, 784)
    assert ddcore.evaluate(module, weights, data.images[0], data.labels[0]).shape == (2,)
