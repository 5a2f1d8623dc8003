"""Datasets: what they hold, and that whatever is missing or damaged is named and never half
used."""

import math
import shutil
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore import datasets
from ddcore.algorithm import distill
from ddcore.datasets import Dataset, load
from ddcore.errors import InputError
from ddcore.files import data_root
from ddcore.networks import generator
from ddcore.recipe import Recipe
from ddcore.registry import CIFAR, DATASETS

pytestmark = pytest.mark.usefixtures("apart")
DATA_ROOT = data_root()  # before any test changes the environment
SPLITS = ("train", "validation", "test")


def sizes(data: Dataset) -> list[int]:
    """Of the training, validation and test split."""
    found = []
    for split in SPLITS:
        images, labels = getattr(data, split)
        assert len(images) == len(labels)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        found.append(len(labels))
    return found


def seen(data: Dataset) -> torch.Tensor:
    """The images that are not test images."""
    return torch.cat([data.train[0], data.validation[0]])


def assert_normalised(images: torch.Tensor, tolerance: float) -> None:
    assert images.mean((0, 2, 3)).abs().max() < tolerance
    assert (images.std((0, 2, 3)) - 1).abs().max() < tolerance


def refusal(name: str, **options) -> str:
    """What `load` says, in one line."""
    with pytest.raises(InputError) as error:
        load(name, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def idx(path, *sizes, fill=0):
    """A whole file of MNIST's format; without a `fill`, the numbers 0 to 9 over and over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, len(sizes)]) + b"".join(n.to_bytes(4, "big") for n in sizes)
    body = bytes(i % 10 if fill is None else fill for i in range(math.prod(sizes)))
    path.write_bytes(head + body)


def tiny_mnist(root, train=20, test=10):
    for part, n in (("train", train), ("t10k", test)):
        idx(root / f"MNIST/raw/{part}-images-idx3-ubyte", n, 28, 28, fill=None)
        idx(root / f"MNIST/raw/{part}-labels-idx1-ubyte", n, fill=None)
    return root / "MNIST/raw"


def pixels(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Images of random bytes, uint8."""
    return torch.randint(256, (count, *shape), generator=generator(seed), dtype=torch.uint8)


def labels_of(count: int, classes: int = 10) -> torch.Tensor:
    return torch.arange(count) % classes


class TestDigits:
    def test_they_are_normalised_and_split(self):
        data = load("digits")
        assert sizes(data) == [1295, 143, 359]
        assert data.shape == (1, 28)
        assert_normalised(seen(data), 1e-3)

    def test_no_image_is_in_two_splits(self):
        rows = torch.cat([getattr(load("digits"), split)[0].flatten(1) for split in SPLITS])
        assert len(rows.unique(dim=0)) == 1797

    def test_every_class_can_be_validated(self):
        assert load("digits").validation[1].bincount(minlength=10).min() >= 5

    def test_the_split_is_the_same_for_everyone(self):
        """Records depend on it: these sums change only with what is held out."""
        data = load("digits")
        sums = [getattr(data, split)[1].sum().item() for split in SPLITS]
        assert sums == [5644, 664, 1762]
        assert data.sha256.startswith("f6d9e39f37dc")

    def test_to_moves_every_split(self):
        moved = load("digits").to("meta")
        tensors = [t for split in SPLITS for t in getattr(moved, split)]
        assert all(t.device.type == "meta" for t in tensors)


class TestBatches:
    def test_they_are_training_images_with_their_labels(self):
        data = load("digits")
        x, y = data.batch(50, generator(1))
        for image, label in zip(x, y, strict=True):
            (found,) = (data.train[0] == image).flatten(1).all(1).nonzero()[:1]
            assert data.train[1][found] == label

    def test_they_repeat_by_seed(self):
        one, same, other = (load("digits").batch(50, generator(seed))[0] for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_augmentation_is_a_shifted_crop_and_a_flip(self):
        part = torch.arange(3 * 32 * 32.0).view(1, 3, 32, 32), torch.zeros(1).long()
        data = Dataset("one", part, part, part, (0.0,), (1.0,), ("a",), "", augmented=True)
        padded = torch.nn.functional.pad(part[0], (4, 4, 4, 4), mode="reflect")[0]
        crops = {}
        for i in range(9):
            for j in range(9):
                crop = padded[:, i : i + 32, j : j + 32]
                crops[crop.numpy().tobytes()] = (i, j, 0)
                crops[crop.flip(2).contiguous().numpy().tobytes()] = (i, j, 1)
        x = part[0].expand(64, -1, -1, -1)
        augmented = data.augment(x, torch.Generator().manual_seed(0)).contiguous()
        drawn = [crops[image.numpy().tobytes()] for image in augmented]
        rows, columns, flips = (set(one) for one in zip(*drawn, strict=True))
        assert rows == columns == set(range(9))
        assert flips == {0, 1}
        assert len(set(drawn)) > 40

    def test_other_data_is_not_augmented(self):
        data = load("digits")
        assert not data.augmented
        assert data.augment(data.test[0], torch.Generator()) is data.test[0]


@pytest.mark.data
class TestTheRealOnes:
    def test_mnist(self, real):
        data = real("mnist")
        assert sizes(data) == [55_000, 5_000, 10_000]
        assert data.shape == (1, 28)
        assert_normalised(data.train[0], 1e-2)
        assert data.test[1][:5].tolist() == [7, 2, 1, 0, 4]

    def test_usps_is_enlarged(self, real):
        data = real("usps")
        assert sizes(data) == [6_562, 729, 2_007]
        assert data.shape == (1, 28)
        assert data.train[1].unique().tolist() == list(range(10))

    @pytest.mark.parametrize("file", ["usps.bz2", "usps.t.bz2"])
    def test_a_truncated_usps_file_is_named(self, apart, file, real, monkeypatch):
        real("usps")
        monkeypatch.setenv("DDCORE_DATA", str(apart / "data"))
        folder = apart / "data" / "USPS"
        folder.mkdir(parents=True)
        for name in ("usps.bz2", "usps.t.bz2"):
            whole = (DATA_ROOT / "USPS" / name).read_bytes()
            (folder / name).write_bytes(whole[: len(whole) // 2] if name == file else whole)
        said = refusal("usps", download=False)
        assert said.split(" is damaged")[0] == str(folder / file)


class TestMissing:
    @pytest.mark.parametrize("name", ["mnist", "fashionmnist", "usps", "svhn", "cifar10"])
    def test_a_dataset_is_named_without_a_download(self, name, apart):
        said = refusal(name, download=False)
        assert f"{name} is not there" in said
        assert str(apart / "data") in said
        assert "DDCORE_DATA" in said
        assert not datasets.is_available(name)
        assert not (apart / "data").exists()

    @pytest.mark.parametrize("name", ["mnist", "usps", "cifar10"])
    def test_offline_a_download_ends_in_one_line(self, name, apart, monkeypatch, capsys):
        def offline(*_, **__):
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", offline)
        said = refusal(name)
        assert f"{name} is not there" in said
        assert str(apart / "data") in said
        assert "Name or service not known" in said
        assert "go online once" in said
        out, err = capsys.readouterr()
        assert out == ""
        assert f"downloading {name} to {apart / 'data'}" in err

    def test_cifar10_jpeg_is_never_a_stand_in_and_never_downloaded(self, apart, capsys):
        said = refusal("cifar10-jpeg")
        assert "cifar10-jpeg is not there" in said
        assert str(apart / "data" / "cifar10-jpeg") in said
        assert "downloading" not in capsys.readouterr().err

    def test_an_unknown_name_is_refused_with_those_that_there_are(self):
        said = refusal("nowhere")
        for text in ("unknown dataset 'nowhere'", "digits, mnist", "folder:PATH"):
            assert text in said

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param("folder:/nowhere", id="no folder"),
            pytest.param("folder:" + "x" * 5000, id="name too long"),
            pytest.param("folder:a\0b", id="NUL in the name"),
        ],
    )
    def test_a_folder_that_is_not_there(self, name):
        said = refusal(name)
        assert "is not there" in said
        assert "train and test" in said


class TestFilesOfMnistsFormat:
    def test_whole_ones_are_read(self, apart):
        tiny_mnist(apart / "data")
        data = load("mnist", download=False)
        assert sizes(data) == [18, 2, 10]
        expected = (torch.arange(10 * 784) % 10).view(10, 1, 28, 28) / 255
        assert torch.allclose(data.test[0], (expected - 0.1307) / 0.3081)
        assert data.test[1].tolist() == list(range(10))

    def test_another_data_root_is_another_dataset(self, apart, monkeypatch):
        tiny_mnist(apart / "data")
        first = load("mnist", download=False)
        assert load("mnist") is first  # read once, however it is asked for
        monkeypatch.setenv("DDCORE_DATA", str(apart / "other"))
        tiny_mnist(apart / "other", test=7)
        assert sizes(load("mnist", download=False)) == [18, 2, 7]

    @pytest.mark.parametrize("kept", [0, 3, 4, 8, 15, 16, 500, -1])
    @pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
    def test_a_truncated_one_is_named(self, apart, name, kept):
        file = tiny_mnist(apart / "data") / name
        whole = file.read_bytes()
        file.write_bytes(whole[:kept])
        if file.read_bytes() == whole:
            file.write_bytes(whole + b"x")
        said = refusal("mnist", download=False)
        assert f"{file} is truncated or damaged" in said

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(
                lambda raw, images, labels: shutil.copy(raw / "t10k-images-idx3-ubyte", images),
                id="fewer images",
            ),
            pytest.param(lambda raw, images, labels: idx(labels, 20, fill=10), id="no such class"),
            pytest.param(
                lambda raw, images, labels: shutil.copy(labels, images), id="labels for images"
            ),
        ],
    )
    def test_a_wrong_one_is_named_and_not_half_used(self, apart, damage):
        raw = tiny_mnist(apart / "data")
        images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
        damage(raw, images, labels)
        assert f"{images} or {labels} is damaged" in refusal("mnist", download=False)

    def test_wrong_cifar_files_are_named(self, apart):
        entry = DATASETS["cifar10"]
        for name in (*entry.train_files, *entry.test_files):
            (apart / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (apart / "data" / name).write_bytes(b"\x80")
        said = refusal("cifar10", download=False)
        assert str(apart / "data" / "cifar-10-batches-py/data_batch_1") in said
        assert "damaged" in said
        assert "test_batch" not in said  # of the training images alone


class TestFolders:
    @pytest.mark.parametrize(
        ("mode", "side", "channels"),
        [
            pytest.param("L", 28, 1, id="grey"),
            pytest.param("1", 28, 1, id="black and white"),
            pytest.param("RGB", 32, 3, id="colour"),
            pytest.param("P", 32, 3, id="palette"),
        ],
    )
    def test_a_folder_of_images(self, pictures, mode, side, channels):
        folder = pictures("abc", mode=mode, side=side)
        (folder / "train" / "a" / "notes.txt").write_text("not an image")
        data = load(f"folder:{folder}")
        assert data.shape == (channels, side)
        assert data.classes == ("a", "b", "c")
        assert data.name == f"folder:{folder}"
        assert sizes(data) == [27, 3, 6]
        assert_normalised(seen(data), 1e-2)
        assert not data.augmented

    def test_pixels_and_labels_belong_together(self, pictures):
        folder = pictures()
        Image.new("L", (28, 28), 255).save(folder / "test" / "b" / "1.png")
        data = load(f"folder:{folder}")
        white = data.test[0][3] * data.std[0] + data.mean[0]
        assert torch.allclose(white, torch.ones(()))
        assert data.test[1].tolist() == [0, 0, 1, 1]

    def test_the_jpegs_of_cifar10_have_its_names_statistics_and_augmentation(self, pictures):
        own = ("airplane", "automobile", *CIFAR[2:])  # the folders' names
        folder = pictures(own, mode="RGB", side=32, name="data/cifar10-jpeg")
        assert folder.is_dir()
        data = load("cifar10-jpeg")
        entry = DATASETS["cifar10"]
        assert data.name == "cifar10-jpeg"
        assert (data.classes, data.mean, data.std) == (entry.classes, entry.mean, entry.std)
        assert data.augmented

    def test_it_is_read_once_until_a_file_changes(self, pictures, monkeypatch):
        folder = pictures()
        opened = []
        read = Image.open
        monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or read(file))
        first = load(f"folder:{folder}")
        assert len(opened) == 24
        assert load(f"folder:{folder}") is first
        assert len(opened) == 24
        Image.new("L", (30, 30)).save(folder / "test" / "b" / "1.png")
        assert "30x30" in refusal(f"folder:{folder}")  # of another size than the others

    def test_where_it_stands_does_not_count(self, pictures):
        one, two = (pictures(name=name) for name in ("one", "two"))
        assert load(f"folder:{one}").sha256 == load(f"folder:{two}").sha256

    def test_an_image_moved_to_another_class_changes_the_hash(self, pictures):
        """The same files in the same order."""
        one, two = (pictures(name=name) for name in ("one", "two"))
        for folder in (one, two):
            for i in (0, 1):
                (folder / "test" / "b" / f"{i}.png").replace(folder / "test" / "b" / f"{i + 2}.png")
        (two / "test" / "a" / "1.png").replace(two / "test" / "b" / "1.png")
        assert load(f"folder:{one}").sha256 != load(f"folder:{two}").sha256

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            pytest.param(
                lambda file: file.write_bytes(file.read_bytes()[:200]),
                "not a whole image",
                id="truncated",
            ),
            pytest.param(lambda file: file.write_bytes(b""), "not a whole image", id="empty"),
            pytest.param(lambda file: file.write_text("no"), "not a whole image", id="text"),
            pytest.param(
                lambda file: Image.new("L", (32, 32)).save(file), "32x32 pixels", id="larger"
            ),
            pytest.param(
                lambda file: Image.new("RGB", (28, 28)).save(file), "3 channels", id="colour"
            ),
            pytest.param(
                lambda file: Image.new("I;16", (28, 28), 3000).save(file),
                "mode I;16",
                id="16 bits",
            ),
        ],
    )
    def test_a_bad_image_is_named(self, pictures, damage, said):
        folder = pictures()
        file = folder / "train" / "b" / "3.png"
        damage(file)
        refused = refusal(f"folder:{folder}")
        assert str(file) in refused
        assert said in refused

    def test_a_class_in_only_one_part_is_named(self, pictures):
        folder = pictures("abc")
        shutil.rmtree(folder / "test" / "c")
        said = refusal(f"folder:{folder}")
        assert f"{folder}: the class c is in only one of train and test" in said

    def test_an_empty_class_is_named(self, pictures):
        folder = pictures("ab")
        shutil.rmtree(folder / "train" / "b")
        (folder / "train" / "b").mkdir()
        said = refusal(f"folder:{folder}")
        assert str(folder) in said
        assert "classes b" in said

    def test_a_missing_part_is_named(self, pictures):
        folder = pictures("ab")
        shutil.rmtree(folder / "train")
        assert f"{folder} must hold train and test" in refusal(f"folder:{folder}")
        (folder / "train").mkdir()
        assert str(folder / "train") in refusal(f"folder:{folder}")

    def test_another_size_is_named(self, pictures):
        folder = pictures("ab", side=30)
        said = refusal(f"folder:{folder}")
        for text in (str(folder), "30x30", "28x28 or 32x32 is allowed"):
            assert text in said

    def test_too_few_images_cannot_be_split(self, pictures):
        folder = pictures("a")
        (folder / "train" / "a" / "0.png").unlink()
        said = refusal(f"folder:{folder}")
        assert f"{folder} holds 9 training images: at least 10 are needed" in said

    def test_images_of_one_value_cannot_be_normalised(self, pictures):
        folder = pictures("ab")
        for file in folder.rglob("*.png"):
            Image.new("L", (28, 28), 7).save(file)
        said = refusal(f"folder:{folder}")
        assert str(folder) in said
        assert "single value" in said

    def test_nothing_is_written(self, pictures, apart):
        folder = pictures()
        before = sorted(apart.rglob("*"))
        load(f"folder:{folder}")
        assert sorted(apart.rglob("*")) == before


class TestFromTensors:
    @pytest.mark.parametrize("outside", [-0.1, 1.5])
    def test_pixels_outside_0_to_1_are_refused(self, outside):
        images = torch.rand(20, 1, 28, 28)
        images[3, 0, 5, 5] = outside
        labels = torch.arange(20) % 5
        with pytest.raises(InputError, match="pixels outside 0 to 1"):
            Dataset.from_tensors((images, labels), (images, labels))

    def test_bytes_are_normalised_and_split(self):
        train = pixels(50, 3, 32, 32), labels_of(50)
        test = pixels(7, 3, 32, 32, seed=1), labels_of(7)
        data = Dataset.from_tensors(train, test)
        assert sizes(data) == [45, 5, 7]
        assert data.shape == (3, 32)
        assert_normalised(seen(data), 1e-3)
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (data.mean, data.std))
        assert torch.allclose(data.test[0] * std + mean, test[0] / 255, atol=1e-6)
        assert torch.equal(data.test[1], test[1])

    def test_no_image_is_in_two_splits(self):
        train = pixels(50, 1, 28, 28), labels_of(50)
        data = Dataset.from_tensors(train, train)
        rows = seen(data).flatten(1)
        assert len(rows.unique(dim=0)) == 50
        whole, order = data.test[0].flatten(1), torch.cat([data.train[1], data.validation[1]])
        nearest = torch.cdist(rows, whole).argmin(1)
        assert torch.equal(rows, whole[nearest])
        assert torch.equal(order, labels_of(50)[nearest])

    def test_numbers_in_the_unit_interval_are_the_same_images(self):
        train, test = (pixels(20, 1, 8, 8), labels_of(20)), (pixels(4, 1, 8, 8), labels_of(4))
        of_bytes = Dataset.from_tensors(train, test)
        of_floats = Dataset.from_tensors(
            (train[0].float() / 255, train[1]), (test[0].double() / 255, test[1].int())
        )
        assert of_bytes.sha256 == of_floats.sha256
        assert (of_bytes.mean, of_bytes.std) == (of_floats.mean, of_floats.std)
        for split in SPLITS:
            assert all(map(torch.equal, getattr(of_bytes, split), getattr(of_floats, split)))

    def test_classes_are_numbered_or_named(self):
        train, test = (pixels(20, 1, 8, 8), labels_of(20, 3)), (pixels(4, 1, 8, 8), labels_of(4))
        numbered = Dataset.from_tensors(train, test)
        assert numbered.classes == ("0", "1", "2", "3")  # one among the test images alone
        named = Dataset.from_tensors(train, test, classes="abcde", name="letters")
        assert named.classes == ("a", "b", "c", "d", "e")
        assert (numbered.name, named.name) == ("tensors", "letters")

    def test_other_contents_have_another_hash(self):
        train, test = (pixels(20, 1, 8, 8), labels_of(20)), (pixels(4, 1, 8, 8), labels_of(4))
        others = {
            "train": ((train[0].flip(0), train[1]), test),
            "test": (train, (test[0].flip(0), test[1])),
            "labels": ((train[0], train[1].flip(0)), test),
        }
        hashes = [Dataset.from_tensors(*splits).sha256 for splits in others.values()]
        assert len({Dataset.from_tensors(train, test).sha256, *hashes}) == 4

    @pytest.mark.parametrize(
        ("images", "validation"),
        [(10, 1), (19, 1), (19_990, 1_999), (19_999, 1_999), (20_000, 5_000), (30_000, 5_000)],
    )
    def test_a_tenth_of_a_small_set_is_held_out(self, images, validation):
        train = torch.rand(images, 1, 1, 1, generator=generator(0)), labels_of(images)
        data = Dataset.from_tensors(train, train)
        assert sizes(data) == [images - validation, validation, images]

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            pytest.param({"images": pixels(20, 8, 8)}, r"\[B, C, H, H\] and", id="no channels"),
            pytest.param({"images": pixels(20, 1, 8, 9)}, r"\[20, 1, 8, 9\]", id="not square"),
            pytest.param({"labels": labels_of(20)[:, None]}, r"\[20, 1\]", id="labels in rows"),
            pytest.param({"labels": labels_of(19)}, "do not match", id="fewer labels"),
            pytest.param({"test": pixels(4, 3, 8, 8)}, "do not match", id="other test images"),
            pytest.param(
                {"images": pixels(9, 1, 8, 8), "labels": labels_of(9)}, "9 training", id="few"
            ),
            pytest.param({"labels": labels_of(20) - 1}, "without a class: 0 to 9", id="negative"),
            pytest.param({"labels": labels_of(20, 11)}, "without a class: 0 to 9", id="no name"),
            pytest.param(
                {"images": torch.full((20, 1, 8, 8), 7, dtype=torch.uint8)},
                "single value",
                id="of one value",
            ),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, changed, said):
        parts = {"images": pixels(20, 1, 8, 8), "labels": labels_of(20), "test": pixels(4, 1, 8, 8)}
        parts |= changed
        train, test = (parts["images"], parts["labels"]), (parts["test"], labels_of(4))
        with pytest.raises(InputError, match=said) as error:
            Dataset.from_tensors(train, test, classes="0123456789", name="mine")
        assert str(error.value).startswith("mine")
        assert "\n" not in str(error.value)


class Items(list):
    """A map-style dataset: a list of (image, label), with names of the classes."""

    classes = ("zero", "one")


def items(of, count: int, mode: str = "L") -> Items:
    shape = (3, 28, 28) if mode == "RGB" else (1, 28, 28)
    return Items((of(image), k % 2) for k, image in enumerate(pixels(count, *shape)))


def as_picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(np.asarray(image.permute(1, 2, 0).squeeze(2)))


class TestFromTorchvision:
    def test_an_empty_dataset_is_refused(self):
        with pytest.raises(InputError, match="list has no images"):
            Dataset.from_torchvision([], [])

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    @pytest.mark.parametrize(
        "of",
        [
            pytest.param(as_picture, id="pictures"),
            pytest.param(lambda image: image, id="bytes"),
            pytest.param(lambda image: image.float() / 255, id="as ToTensor gives them"),
        ],
    )
    def test_items_are_the_images_and_labels_of_tensors(self, of, mode):
        data = Dataset.from_torchvision(items(of, 20, mode), items(of, 6, mode))
        shape = (3, 28, 28) if mode == "RGB" else (1, 28, 28)
        expected = Dataset.from_tensors(
            (pixels(20, *shape), labels_of(20, 2)), (pixels(6, *shape), labels_of(6, 2))
        )
        assert data.sha256 == expected.sha256
        assert sizes(data) == sizes(expected) == [18, 2, 6]
        for split in SPLITS:
            assert all(map(torch.equal, getattr(data, split), getattr(expected, split)))

    def test_it_has_the_names_of_the_dataset(self):
        train, test = items(as_picture, 20), items(as_picture, 6)
        data = Dataset.from_torchvision(train, test)
        assert (data.name, data.classes) == ("items", ("zero", "one"))
        assert Dataset.from_torchvision(train, test, name="bits").name == "bits"

    def test_without_names_classes_are_numbered(self):
        data = Dataset.from_torchvision(list(items(as_picture, 20)), list(items(as_picture, 6)))
        assert (data.name, data.classes) == ("list", ("0", "1"))

    def test_one_of_torchvision_s_own(self, apart):
        tiny_mnist(apart)
        mnist = datasets.torchvision_datasets().MNIST
        data = Dataset.from_torchvision(mnist(apart), mnist(apart, train=False))
        assert data.name == "mnist"
        assert sizes(data) == [18, 2, 10]
        assert data.classes[3] == "3 - three"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            lambda: Dataset.from_tensors(
                (pixels(40, 1, 28, 28), labels_of(40, 2)), (pixels(6, 1, 28, 28), labels_of(6, 2))
            ),
            id="tensors",
        ),
        pytest.param(
            lambda: Dataset.from_torchvision(items(as_picture, 40), items(as_picture, 6)),
            id="torchvision",
        ),
    ],
)
def test_a_dataset_of_your_own_can_be_distilled(data):
    recipe = Recipe(iterations=3, samples=2, batch=8, checks=1)
    found = distill("lenet", data(), "xavier", epochs=1, recipe=recipe, progress=False)
    assert found.distilled.images.shape == (1, 2, 1, 28, 28)
    assert found.distilled.images.isfinite().all()
    assert len(found.history) == 1
