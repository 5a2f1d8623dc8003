"""Datasets: what they hold, how they are split and drawn from, and those of your own."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ddcore.algorithm import distill
from ddcore.datasets import Dataset, load
from ddcore.networks import generator
from ddcore.recipe import Recipe
from ddcore.support.errors import InputError
from ddcore.support.readers import torchvision_datasets

pytestmark = pytest.mark.usefixtures("apart")
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
        mnist = torchvision_datasets().MNIST
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
