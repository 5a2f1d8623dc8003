"""Datasets: what they hold, and that whatever is missing or damaged is named and never half used."""

import math
import shutil
import socket

import pytest
import torch
from conftest import DATA_ROOT, tree
from PIL import Image

from ddcore import datasets
from ddcore.datasets import Dataset, load
from ddcore.errors import InputError

pytestmark = pytest.mark.usefixtures("apart")
SPLITS = ("train", "validation", "test")


def refused(name, *said, **how):
    with pytest.raises(InputError) as error:
        load(name, **how)
    assert "\n" not in str(error.value)
    for text in said:
        assert str(text) in str(error.value)


def idx(path, *sizes, fill=0):
    """A whole file of MNIST's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, len(sizes)]) + b"".join(n.to_bytes(4, "big") for n in sizes)
    path.write_bytes(head + bytes(i % 10 if fill is None else fill for i in range(math.prod(sizes))))


def tiny_mnist(root, train=20, test=10):
    for part, n in (("train", train), ("t10k", test)):
        idx(root / f"MNIST/raw/{part}-images-idx3-ubyte", n, 28, 28, fill=None)
        idx(root / f"MNIST/raw/{part}-labels-idx1-ubyte", n, fill=None)
    return root / "MNIST/raw"


# ---- what is in a dataset


def test_digits_are_normalised_and_split():
    data = load("digits")
    assert [len(getattr(data, s)[1]) for s in SPLITS] == [1295, 143, 359] and data.shape == (1, 28)
    seen = torch.cat([data.train[0], data.validation[0]])
    assert abs(seen.mean()) < 1e-3 and abs(seen.std() - 1) < 1e-3
    assert all(getattr(data, s)[0].dtype == torch.float32 and getattr(data, s)[1].dtype == torch.int64 for s in SPLITS)
    rows = torch.cat([getattr(data, s)[0].flatten(1) for s in SPLITS])
    assert len(rows.unique(dim=0)) == 1797  # no image in two splits
    assert data.validation[1].bincount(minlength=10).min() >= 5  # every class can be validated


def test_the_split_is_the_same_for_everyone():
    """Records depend on it: these sums change only with what is held out."""
    data = load("digits")
    assert [getattr(data, s)[1].sum().item() for s in SPLITS] == [5644, 664, 1762]
    assert data.sha256.startswith("f6d9e39f37dc")


@pytest.mark.parametrize(("images", "held_out"), [(19_990, 1_999), (20_000, 5_000)])
def test_a_tenth_is_held_out_of_a_small_set(monkeypatch, apart, images, held_out):
    part = torch.zeros(images, 1, 28, 28), torch.arange(images) % 10
    monkeypatch.setattr(datasets, "_digits", lambda: ((part, part), ((0.0,), (1.0,)), datasets.DIGITS, ""))
    assert len(load("digits").validation[1]) == held_out


def test_batches_are_training_images_with_their_labels_and_repeat_by_seed():
    data = load("digits")
    x, y = data.batch(50, torch.Generator().manual_seed(1))
    again, _ = data.batch(50, torch.Generator().manual_seed(1))
    other, _ = data.batch(50, torch.Generator().manual_seed(2))
    assert torch.equal(x, again) and not torch.equal(x, other)
    for image, label in zip(x, y, strict=True):
        (found,) = (data.train[0] == image).flatten(1).all(1).nonzero()[:1]
        assert data.train[1][found] == label


def test_augmentation_is_a_shifted_crop_and_a_flip_of_cifar10_only():
    part = torch.arange(3 * 32 * 32.0).view(1, 3, 32, 32), torch.zeros(1).long()
    cifar, digits = (Dataset(n, part, part, part, (0.0,), (1.0,), ("a",), "") for n in ("cifar10-jpeg", "digits"))
    x = part[0].expand(64, -1, -1, -1)
    assert digits.augment(x, torch.Generator()) is x
    padded = torch.nn.functional.pad(part[0], (4, 4, 4, 4), mode="reflect")[0]
    crops = {}
    for i in range(9):
        for j in range(9):
            crop = padded[:, i : i + 32, j : j + 32]
            crops |= {crop.numpy().tobytes(): (i, j, 0), crop.flip(2).contiguous().numpy().tobytes(): (i, j, 1)}
    augmented = cifar.augment(x, torch.Generator().manual_seed(0)).contiguous()
    drawn = [crops[image.numpy().tobytes()] for image in augmented]
    assert {d[2] for d in drawn} == {0, 1} and len(set(drawn)) > 40
    assert {d[0] for d in drawn} == {d[1] for d in drawn} == set(range(9))


def test_to_moves_every_split():
    moved = load("digits").to("meta")
    assert all(t.device.type == "meta" for s in SPLITS for t in getattr(moved, s))


@pytest.mark.data
def test_mnist(real):
    data = real("mnist")
    assert [len(getattr(data, s)[1]) for s in SPLITS] == [55_000, 5_000, 10_000] and data.shape == (1, 28)
    assert abs(data.train[0].mean()) < 1e-2 and abs(data.train[0].std() - 1) < 1e-2
    assert data.test[1][:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.data
def test_usps_is_enlarged(real):
    data = real("usps")
    assert [len(getattr(data, s)[1]) for s in SPLITS] == [6_562, 729, 2_007] and data.shape == (1, 28)
    assert data.train[1].unique().tolist() == list(range(10))


# ---- what is missing


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "usps", "svhn", "cifar10"])
def test_a_missing_dataset_is_named_without_a_download(name, apart):
    refused(name, f"{name} is not there", apart / "data", "DDCORE_DATA", download=False)
    assert not datasets.is_available(name) and not (apart / "data").exists()


@pytest.mark.parametrize("name", ["mnist", "usps", "cifar10"])
def test_offline_a_download_ends_in_one_line(name, apart, monkeypatch, capsys):
    def offline(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    refused(name, f"{name} is not there", apart / "data", "Name or service not known", "go online once")
    out, err = capsys.readouterr()
    assert out == "" and f"downloading {name} to {apart / 'data'}" in err


def test_cifar10_jpeg_is_never_a_stand_in_and_never_downloaded(apart):
    refused("cifar10-jpeg", "cifar10-jpeg is not there", apart / "data" / "cifar10-jpeg")


def test_the_data_root(apart, monkeypatch):
    assert datasets.data_root() == apart / "data"
    monkeypatch.delenv("DDCORE_DATA")
    assert datasets.data_root() == apart / "cache" / "ddcore" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(apart / "home"))
    assert datasets.data_root() == apart / "home" / ".cache" / "ddcore" / "data"


def test_no_home_folder(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(datasets.Path, "home", unknown)
    with pytest.raises(InputError, match="set XDG_CACHE_HOME"):
        datasets.cache_folder()


# ---- what is damaged


def test_a_whole_tiny_mnist_is_read(apart):
    tiny_mnist(apart / "data")
    data = load("mnist", download=False)
    assert [len(getattr(data, s)[1]) for s in SPLITS] == [18, 2, 10]
    expected = (torch.arange(10 * 784) % 10).view(10, 1, 28, 28) / 255
    assert torch.allclose(data.test[0], (expected - 0.1307) / 0.3081) and data.test[1].tolist() == list(range(10))


def test_another_data_root_is_another_dataset(apart, monkeypatch):
    tiny_mnist(apart / "data")
    first = load("mnist", download=False)
    assert load("mnist") is first  # read once, however it is asked for
    monkeypatch.setenv("DDCORE_DATA", str(apart / "other"))
    tiny_mnist(apart / "other", test=7)
    assert len(load("mnist", download=False).test[1]) == 7


@pytest.mark.parametrize("kept", [0, 3, 4, 8, 15, 16, 500, -1])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_truncated_idx_file_is_named(apart, name, kept):
    file = tiny_mnist(apart / "data") / name
    whole = file.read_bytes()
    file.write_bytes(whole[:kept])
    if file.read_bytes() == whole:
        file.write_bytes(whole + b"x")
    refused("mnist", file, "truncated or damaged", download=False)


@pytest.mark.parametrize("wrong", ["fewer images", "label out of range", "labels for images"])
def test_a_wrong_idx_file_is_named_and_not_half_used(apart, wrong):
    raw = tiny_mnist(apart / "data")
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    if wrong == "fewer images":
        shutil.copy(raw / "t10k-images-idx3-ubyte", images)
    elif wrong == "label out of range":
        idx(labels, 20, fill=10)
    else:
        shutil.copy(labels, images)
    refused("mnist", f"{images} or {labels} is damaged", download=False)


@pytest.mark.data
@pytest.mark.parametrize("file", ["usps.bz2", "usps.t.bz2"])
def test_a_truncated_usps_file_is_named(apart, file, real, monkeypatch):
    real("usps")
    monkeypatch.setenv("DDCORE_DATA", str(apart / "data"))
    (apart / "data" / "USPS").mkdir(parents=True)
    for name in ("usps.bz2", "usps.t.bz2"):
        whole = (DATA_ROOT / "USPS" / name).read_bytes()
        (apart / "data" / "USPS" / name).write_bytes(whole[: len(whole) // 2] if name == file else whole)
    with pytest.raises(InputError) as error:
        load("usps", download=False)
    assert str(error.value).split(" is damaged")[0] == str(apart / "data" / "USPS" / file)


def test_wrong_cifar_files_are_named(apart):
    for name in datasets.CIFAR_FILES:
        (apart / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (apart / "data" / name).write_bytes(b"\x80")
    refused("cifar10", apart / "data" / "cifar-10-batches-py/data_batch_1", "damaged", download=False)


# ---- folders of images


@pytest.mark.parametrize(("mode", "side", "channels"), [("L", 28, 1), ("1", 28, 1), ("RGB", 32, 3), ("P", 32, 3)])
def test_a_folder_of_images(pictures, mode, side, channels):
    folder = pictures("abc", mode=mode, side=side)
    (folder / "train" / "a" / "notes.txt").write_text("not an image")
    data = load(f"folder:{folder}")
    assert data.shape == (channels, side) and data.classes == ("a", "b", "c") and data.name == f"folder:{folder}"
    assert [len(getattr(data, s)[1]) for s in SPLITS] == [27, 3, 6]
    seen = torch.cat([data.train[0], data.validation[0]])
    assert seen.mean((0, 2, 3)).abs().max() < 1e-2 and (seen.std((0, 2, 3)) - 1).abs().max() < 1e-2


def test_a_folder_s_pixels_and_labels_belong_together(pictures):
    folder = pictures()
    Image.new("L", (28, 28), 255).save(folder / "test" / "b" / "1.png")
    data = load(f"folder:{folder}")
    white = data.test[0][3] * data.std[0] + data.mean[0]
    assert torch.allclose(white, torch.ones(())) and data.test[1].tolist() == [0, 0, 1, 1]


def test_a_folder_is_read_once_until_a_file_changes(pictures, monkeypatch):
    folder, reads, read = pictures(), [], datasets._read_images
    monkeypatch.setattr(datasets, "_read_images", lambda files: reads.append(1) or read(files))
    assert load(f"folder:{folder}") is load(f"folder:{folder}") and len(reads) == 1
    Image.new("L", (30, 30)).save(folder / "test" / "b" / "1.png")
    with pytest.raises(InputError):  # of another size than the others
        load(f"folder:{folder}")
    assert len(reads) == 2


def test_an_image_moved_to_another_class_changes_the_hash(pictures):
    one, two = (pictures(name=name) for name in ("one", "two"))
    assert load(f"folder:{one}").sha256 == load(f"folder:{two}").sha256  # where the folder stands does not count
    for folder in (one, two):
        for i in (0, 1):
            (folder / "test" / "b" / f"{i}.png").replace(folder / "test" / "b" / f"{i + 2}.png")
    (two / "test" / "a" / "1.png").replace(two / "test" / "b" / "1.png")  # the same files in the same order
    datasets._load.cache_clear()
    assert load(f"folder:{one}").sha256 != load(f"folder:{two}").sha256


def test_a_folder_that_is_not_there(apart):
    refused("folder:/nowhere", "folder:/nowhere is not there", "train and test")
    refused("folder:" + "x" * 5000, "is not there")
    refused("folder:a\0b", "is not there")
    refused("nowhere", "unknown dataset", "folder:PATH", "digits, mnist")


def damage(folder, how):
    file = folder / "train" / "b" / "3.png"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:200])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "text":
        file.write_text("not an image")
    elif how == "larger":
        Image.new("L", (32, 32)).save(file)
    elif how == "colour":
        Image.new("RGB", (28, 28)).save(file)
    elif how == "16 bits":
        Image.new("I;16", (28, 28), 3000).save(file)
    return file


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "larger", "colour", "16 bits"])
def test_a_bad_image_is_named(pictures, how):
    folder = pictures()
    said = {"larger": "32x32 pixels", "colour": "3 channels", "16 bits": "mode I;16"}.get(how, "not a whole image")
    refused(f"folder:{folder}", damage(folder, how), said)


def test_a_bad_folder_is_named(pictures):
    folder = pictures("abc", name="class")
    shutil.rmtree(folder / "test" / "c")
    refused(f"folder:{folder}", folder, "class c", "only one of train and test")
    folder = pictures("ab", name="empty")
    shutil.rmtree(folder / "train" / "b")
    (folder / "train" / "b").mkdir()
    refused(f"folder:{folder}", folder, "classes b")
    folder = pictures("ab", name="flat")
    shutil.rmtree(folder / "train")
    refused(f"folder:{folder}", folder, "train and test")
    (folder / "train").mkdir()
    refused(f"folder:{folder}", folder / "train")
    folder = pictures("ab", side=30, name="side")
    refused(f"folder:{folder}", folder, "30x30", "28x28 or 32x32 is allowed")


def test_a_folder_that_cannot_be_split_or_normalised(pictures):
    folder = pictures("a", name="few")
    (folder / "train" / "a" / "0.png").unlink()
    refused(f"folder:{folder}", folder, "9 training images", "at least 10")
    folder = pictures("ab", name="flat")
    for file in folder.rglob("*.png"):
        Image.new("L", (28, 28), 7).save(file)
    refused(f"folder:{folder}", folder, "single value")


def test_nothing_is_written(pictures, apart):
    folder = pictures()
    before = tree(apart)
    load(f"folder:{folder}")
    assert tree(apart) == before
