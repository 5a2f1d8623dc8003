"""What is read from files: that it is whole, and that whatever is missing or damaged is named and
never half used."""

import hashlib
import os
import shutil
import socket
import struct
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.io import savemat
from test_datasets import assert_normalised, idx, seen, sizes, tiny_mnist

from ddcore.datasets import is_available, load
from ddcore.support import readers
from ddcore.support.errors import InputError
from ddcore.support.files import data_root
from ddcore.support.readers import torchvision_datasets
from ddcore.support.registry import CIFAR, DATASETS

pytestmark = pytest.mark.usefixtures("apart")
DATA_ROOT = data_root()  # before any test changes the environment


def refusal(name: str, **options) -> str:
    """What `load` says, in one line."""
    with pytest.raises(InputError) as error:
        load(name, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_digits_are_those_that_scikit_learn_loads():
    from sklearn.datasets import load_digits

    table = load_digits()
    pixels = torch.tensor(table.images, dtype=torch.float32)[:, None] / 16
    enlarged = F.interpolate(pixels, size=28, mode="bilinear", align_corners=False)
    data = load("digits")
    mean, std = data.mean[0], data.std[0]
    assert torch.equal(data.test[0], (enlarged[4::5] - mean) / std)
    assert data.test[1].tolist() == table.target[4::5].tolist()


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

    def test_usps_pooled_is_the_same_digits_split_anew_in_a_frame(self, real):
        pooled = real("usps-pooled")
        usps = real("usps")
        assert sizes(pooled) == [6_695, 743, 1_860]
        counts = [
            torch.cat([y for _, y in splits]).bincount()
            for splits in (
                (pooled.train, pooled.validation, pooled.test),
                (usps.train, usps.validation, usps.test),
            )
        ]
        assert counts[0].tolist() == counts[1].tolist()
        black = (0 - pooled.mean[0]) / pooled.std[0]
        x = pooled.test[0]
        frame = torch.ones(28, 28, dtype=torch.bool)
        frame[1:26, 1:26] = False
        assert torch.allclose(x[:, 0, frame], torch.tensor(black))
        assert (x[:, 0, 1, 1:26] > black + 0.01).any() and (x[:, 0, 25, 1:26] > black + 0.01).any()
        assert pooled.mean[0] / pooled.std[0] == pytest.approx(0.1597 / 0.2573, abs=0.006)

    def test_cifar10_png_is_the_jpeg_copy_without_its_losses(self, real):
        png, jpeg = real("cifar10-png"), real("cifar10-jpeg")
        assert sizes(png) == sizes(jpeg) == [45_000, 5_000, 10_000]
        assert torch.equal(png.test[1], jpeg.test[1])
        difference = (png.test[0] - jpeg.test[0]).abs().mean((1, 2, 3)) * png.std[1] * 255
        assert 1 < difference.mean() < 6
        assert (difference == 0).sum() >= 21  # those that are still from the JPEG copy

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


def test_svhn_is_read_from_its_matlab_files(apart, monkeypatch):
    """On made-up files: 0 is written as 10 there, and the axes are the other way round."""
    folder = apart / "data" / "SVHN"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels, labels = {}, {}
    for part, n in (("train", 30), ("test", 20)):
        pixels[part] = rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        labels[part] = (np.arange(n) % 10 + 1)[:, None].astype(np.uint8)
        savemat(folder / f"{part}_32x32.mat", {"X": pixels[part], "y": labels[part]})
    svhn = torchvision_datasets().SVHN
    monkeypatch.setattr(svhn, "_check_integrity", lambda self: True)  # of the published files
    data = load("svhn", download=False)
    assert sizes(data) == [27, 3, 20] and data.shape == (3, 32)
    assert data.test[1].tolist() == [*range(1, 10), 0, *range(1, 10), 0]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (data.mean, data.std))
    restored = (data.test[0][7] * std + mean) * 255
    assert torch.allclose(restored, torch.tensor(pixels["test"][..., 7]).permute(2, 0, 1).float())


class TestMissing:
    @pytest.mark.parametrize("name", ["mnist", "fashionmnist", "usps", "svhn", "cifar10"])
    def test_a_dataset_is_named_without_a_download(self, name, apart):
        said = refusal(name, download=False)
        assert f"{name} is not there" in said
        assert str(apart / "data") in said
        assert "DDCORE_DATA" in said
        assert not is_available(name)
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

    @pytest.mark.parametrize("name", ["mnist", "usps", "svhn", "cifar10"])
    @pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt()])
    def test_a_download_that_fails_leaves_nothing(self, apart, monkeypatch, name, failure):
        """What was there stays."""
        entry = DATASETS[name]
        root = apart / "data" / entry.folder
        one, other = root / entry.train_files[0], root / entry.test_files[0]
        one.parent.mkdir(parents=True)
        one.write_bytes(b"mine")
        (root / "another.txt").write_bytes(b"mine")

        def half(*_, **__):
            halves = [other]
            halves += [one.parent / "deeper" / "half"] if one.parent != root else []
            halves += [root / "cifar-10-python.tar.gz"] if name == "cifar10" else []
            for file in halves:
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(b"half")
            raise failure

        monkeypatch.setattr(readers, "_split", half)
        with pytest.raises((InputError, KeyboardInterrupt)):
            load(name)
        left = {path for path in root.rglob("*") if path.suffix != ".lock"}
        assert left - {*one.parents} == {one, root / "another.txt"}

    def test_a_data_root_that_cannot_be_written_is_named(self, apart):
        (apart / "data").write_text("a file")
        said = refusal("mnist")
        assert said.startswith(f"cannot write to {apart / 'data'}: Not a directory; for mnist, set")

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


def deep_png(file, kind: int, channels: int) -> None:
    """A PNG of 16 bits per channel, which Pillow does not write; kind: 2 RGB, 4 LA, 6 RGBA."""
    row = bytes(1 + 28 * 2 * channels)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 28, 28, 16, kind, 0, 0, 0),
        b"IDAT": zlib.compress(28 * row),
        b"IEND": b"",
    }
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in parts.items()
        )
    )


DEEP = "more than eight bits per channel"


def dangling(file) -> None:
    file.unlink()
    file.symlink_to("nowhere.png")


def some_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def in_bytes(data, k: int = 0) -> np.ndarray:
    """Test image k, [H, W] or [H, W, 3], as it was before normalisation."""
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (data.mean, data.std))
    pixels = ((data.test[0][k] * std + mean) * 255).round().byte()
    return pixels.permute(1, 2, 0).squeeze(2).numpy()


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
        Image.new("L", (28, 28)).save(folder / "test" / "b" / "1.png")
        assert load(f"folder:{folder}").sha256 != first.sha256

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
                lambda file: Image.new("I;16", (28, 28), 3000).save(file),
                "mode I;16",
                id="16 bits",
            ),
            pytest.param(lambda file: deep_png(file, 2, 3), DEEP, id="16 bits of RGB"),
            pytest.param(lambda file: deep_png(file, 4, 2), DEEP, id="16 bits of LA"),
            pytest.param(lambda file: deep_png(file, 6, 4), DEEP, id="16 bits of RGBA"),
            pytest.param(
                lambda file: file.write_bytes(b"P6 28 28 65535\n" + bytes(28 * 28 * 6)),
                DEEP,
                id="16 bits of PPM",
            ),
            pytest.param(
                lambda file: Image.new("F", (28, 28)).save(file, "TIFF"), DEEP, id="floats"
            ),
            pytest.param(
                lambda file: Image.new("RGBA", (28, 28), (9, 9, 9, 254)).save(file),
                "has transparent pixels: flatten it",
                id="RGBA",
            ),
            pytest.param(
                lambda file: Image.new("LA", (28, 28), (9, 0)).save(file), "transparent", id="LA"
            ),
            pytest.param(
                lambda file: Image.new("L", (28, 28), 3).convert("P").save(file, transparency=3),
                "transparent",
                id="palette",
            ),
            pytest.param(
                lambda file: Image.new("L", (28, 28), 3).save(file, transparency=3),
                "transparent",
                id="one grey",
            ),
            pytest.param(dangling, "is no file", id="link to nothing"),
        ],
    )
    def test_a_bad_image_is_named(self, pictures, damage, said):
        folder = pictures()
        file = folder / "train" / "b" / "3.png"
        damage(file)
        refused = refusal(f"folder:{folder}")
        assert str(file) in refused
        assert said in refused

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_a_class_in_only_one_part_is_named(self, pictures, part):
        folder = pictures("abc")
        shutil.rmtree(folder / part / "c")
        said = refusal(f"folder:{folder}")
        assert said.startswith(f"the class c is missing in {folder / part}:")

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_an_empty_class_is_named(self, pictures, part):
        folder = pictures("ab")
        for file in (folder / part / "b").iterdir():
            file.rename(file.with_suffix(".txt"))
        said = refusal(f"folder:{folder}")
        assert said.startswith(f"the class b is empty in {folder / part}: images are needed (.jpg,")

    @pytest.mark.parametrize(("classes", "said"), [("a", "hold a"), ("", "hold none")])
    def test_one_class_is_too_few(self, pictures, classes, said):
        folder = pictures(classes)
        for part in ("train", "test"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        assert f"{folder}: at least 2 classes are needed, and train and test {said}" == refusal(
            f"folder:{folder}"
        )

    def test_a_missing_part_is_named(self, pictures):
        folder = pictures("ab")
        shutil.rmtree(folder / "train")
        assert f"{folder} must hold train and test" in refusal(f"folder:{folder}")
        (folder / "train").mkdir()
        assert str(folder / "train") in refusal(f"folder:{folder}")

    def test_too_few_images_cannot_be_split(self, pictures):
        folder = pictures("ab")
        for k in range(1, 10):
            (folder / "train" / "a" / f"{k}.png").unlink()
            (folder / "train" / "b" / f"{k}.png").unlink()
        said = refusal(f"folder:{folder}")
        assert f"{folder} holds 2 training images: at least 10 are needed" in said

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


class TestFilesInFolders:
    """Which files are images, of which class, and in which order."""

    def test_hidden_ones_are_passed_over(self, pictures, capsys):
        folder = pictures()
        before = load(f"folder:{folder}")
        image = folder / "train" / "a" / "0.png"
        for place in (folder / "train", folder / "train" / "b", folder / "test"):
            (place / ".ipynb_checkpoints").mkdir()
            shutil.copy(image, place / ".ipynb_checkpoints" / "0.png")
        shutil.copy(image, folder / "test" / "a" / ".0.png")
        (folder / "test" / "b" / ".DS_Store").write_bytes(b"\0")
        data = load(f"folder:{folder}")
        assert (data.classes, data.sha256) == (before.classes, before.sha256)
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            pytest.param(["notes.txt"], "1 file that is no image", id="one"),
            pytest.param(["a.gif", "b.json", "c"], "3 files that are no images", id="three"),
        ],
    )
    def test_other_kinds_are_counted(self, pictures, capsys, names, said):
        folder = pictures()
        for name in names:
            (folder / "train" / "b" / name).write_text("not an image")
        assert sizes(load(f"folder:{folder}")) == [18, 2, 4]
        first = folder / "train" / "b" / names[0]
        assert capsys.readouterr().err == f"passed over: {said}, such as {first}\n"

    def test_links_and_capitals_are_images_as_well(self, pictures):
        folder = pictures()
        (folder / "test" / "a" / "0.png").rename(folder / "0.png")
        (folder / "test" / "a" / "2.png").symlink_to(folder / "0.png")
        (folder / "test" / "a" / "1.png").rename(folder / "test" / "a" / "1.PNG")
        assert sizes(load(f"folder:{folder}")) == [18, 2, 4]

    @pytest.mark.parametrize("target", [".", "..", "../..", "../../train/a"])
    def test_links_in_a_circle_repeat_no_image(self, pictures, target):
        folder = pictures()
        for name in ("one", "two"):
            (folder / "train" / "a" / name).symlink_to(target, target_is_directory=True)
        assert sizes(load(f"folder:{folder}")) == [18, 2, 4]

    @pytest.mark.parametrize(
        "classes",
        [
            pytest.param(("1", "2", "10"), id="numbers"),
            pytest.param(tuple("0123456789"), id="digits"),
            pytest.param(("1", "10", "2b"), id="words"),
            pytest.param(("B", "a", "b"), id="capitals"),
        ],
    )
    def test_classes_are_in_order(self, pictures, classes):
        data = load(f"folder:{pictures(classes)}")
        assert data.classes == classes
        assert data.test[1].tolist() == [k for k in range(len(classes)) for _ in range(2)]

    def test_the_hash_is_of_the_files_in_torchvisions_order(self, pictures):
        """Records hold it."""
        folder = pictures("ab")
        for name in ("x/z", "x-y", "x"):
            (folder / "train" / "a" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "test" / "a" / "0.png", folder / "train" / "a" / name / "0.png")
        digest = hashlib.sha256()
        for part in ("train", "test"):
            for file, _ in torchvision_datasets().ImageFolder(folder / part).samples:
                digest.update(os.fsencode(os.path.relpath(file, folder)))
                with open(file, "rb") as image:
                    digest.update(hashlib.sha256(image.read()).digest())
        assert load(f"folder:{folder}").sha256 == digest.hexdigest()


class TestPixelsInFolders:
    """They are what a viewer shows."""

    @pytest.mark.parametrize("shape", [(28, 28), (32, 32), (28, 28, 3), (32, 32, 3)])
    def test_those_of_one_size_are_left_as_they_are(self, pictures, capsys, shape):
        folder = pictures(mode="RGB" if len(shape) == 3 else "L", side=shape[0])
        Image.fromarray(some_pixels(*shape)).save(folder / "test" / "a" / "0.png")
        data = load(f"folder:{folder}")
        assert np.array_equal(in_bytes(data), some_pixels(*shape))
        assert (data.preparation, capsys.readouterr().err) == ("", "")

    @pytest.mark.parametrize(
        ("mode", "side", "other", "shape", "said"),
        [
            pytest.param("L", 30, None, (1, 28), ["24 of 24 images resized to 28x28"], id="grey"),
            pytest.param("P", 9, None, (3, 32), ["24 of 24 images resized to 32x32"], id="colour"),
            pytest.param(
                "L", 28, ("L", 32, 32), (1, 28), ["1 of 24 images resized to 28x28"], id="one"
            ),
            pytest.param(
                "RGB",
                32,
                ("RGB", 60, 40),
                (3, 32),
                ["1 of 24 images resized to 32x32", "1 of 24 images centred on a black square"],
                id="wide",
            ),
            pytest.param(
                "L", 28, ("RGB", 28, 28), (3, 28), ["23 of 24 images made RGB from grey"], id="mix"
            ),
        ],
    )
    def test_others_are_made_alike(self, pictures, capsys, mode, side, other, shape, said):
        folder = pictures(mode=mode, side=side)
        if other is not None:
            own, width, height = other
            colours = Image.fromarray(some_pixels(height, width, 3))
            colours.convert(own).save(folder / "train" / "b" / "3.png")
        data = load(f"folder:{folder}")
        assert data.shape == shape
        assert data.preparation == ", ".join(said)
        assert capsys.readouterr().err == f"{folder}: {data.preparation}\n"

    @pytest.mark.parametrize("transposed", [False, True])
    def test_one_that_is_not_square_stands_in_the_middle_of_a_black_one(self, pictures, transposed):
        folder = pictures()
        size = (14, 56) if transposed else (56, 14)
        Image.new("L", size, 200).save(folder / "test" / "a" / "0.png")
        pixels = in_bytes(load(f"folder:{folder}"))
        pixels = pixels.T if transposed else pixels
        assert (pixels[:10] == 0).all() and (pixels[18:] == 0).all()
        assert (pixels[11:17] == 200).all()

    @pytest.mark.parametrize("format", ["PNG", "TIFF"])
    @pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
    def test_they_are_upright(self, pictures, format, orientation, turns):
        folder = pictures()
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = folder / "test" / "a" / "0.png"
        Image.fromarray(some_pixels(28, 28)).save(file, format, exif=exif)
        assert np.array_equal(
            in_bytes(load(f"folder:{folder}")), np.rot90(some_pixels(28, 28), turns)
        )

    @pytest.mark.parametrize(
        ("stored", "options"),
        [
            pytest.param(lambda grey: grey.convert("LA"), {}, id="opaque"),
            pytest.param(lambda grey: grey.convert("P"), {}, id="palette"),
            pytest.param(
                lambda grey: grey.convert("P"), {"transparency": b"\xff" * 256}, id="opaque palette"
            ),
            pytest.param(
                lambda grey: grey.point(lambda x: max(x, 1)), {"transparency": 0}, id="unused grey"
            ),
        ],
    )
    def test_grey_ones_are_grey_however_they_are_stored(self, pictures, stored, options):
        folder = pictures()
        grey = Image.fromarray(np.maximum(some_pixels(28, 28), 1))
        stored(grey).save(folder / "test" / "a" / "0.png", **options)
        data = load(f"folder:{folder}")
        assert data.shape == (1, 28)
        assert np.array_equal(in_bytes(data), np.asarray(grey))

    def test_an_opaque_layer_is_dropped(self, pictures):
        folder = pictures(mode="RGB", side=32)
        colours = Image.fromarray(some_pixels(32, 32, 3))
        colours.convert("RGBA").save(folder / "test" / "a" / "0.png")
        assert np.array_equal(in_bytes(load(f"folder:{folder}")), np.asarray(colours))
