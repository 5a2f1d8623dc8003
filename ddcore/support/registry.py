"""What can be asked for by name: networks, laws of initial weights, datasets.

Adding one is one entry here (of a network also its class). The tables need no PyTorch, so that the
commands which only read configurations answer at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ddcore.support import imported
from ddcore.support.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Architecture:
    """One network: its class, and what is known of training it.

    seconds_*: of one processor core, for one network: a gradient step on ten images there and
    back, the gradient of one real image, the logits of one image. They estimate what a run costs.
    """

    network: str  # module:class, called with (channels, size, classes)
    images: tuple[int, int] | None = None  # (channels, side) of those it was made for
    adam_peak: float = 1e-3  # highest learning rate of Adam in `pretrain`
    kernel: bool = False  # whether processors compute its steps with lenet.cpp
    together: int = 1  # networks that are pretrained at once and stored in one file
    committed: int = 4  # pretrained test networks that are kept beside the records
    seconds_inner: float = 0.1
    seconds_real: float = 0.002
    seconds_logits: float = 0.0008

    def build(self, channels: int, size: int, classes: int) -> Any:
        """The `Network`, or `nn.Module`, for images of this shape; InputError where it does not
        take them."""
        return imported.build(self.network, channels, size, classes)


ARCHITECTURES = {
    "lenet": Architecture(
        "ddcore.networks:LeNet",
        images=(1, 28),
        adam_peak=4e-3,
        kernel=True,
        together=4,
        committed=20,
        seconds_inner=0.0011,
        seconds_real=0.000025,
        seconds_logits=0.000014,
    ),
    "alexcifarnet": Architecture("ddcore.networks:AlexCifarNet", images=(3, 32)),
}


def architecture(name: str) -> Architecture:
    """The entry of a network by name; one of a reader's own, `module:Class`, has the defaults.
    Nothing is imported. InputError for another name."""
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if imported.is_own(name):
        return Architecture(name)
    near = did_you_mean(name, ARCHITECTURES)
    known = ", ".join(ARCHITECTURES)
    raise InputError(f"unknown network {name!r}: one of {known}, or module:Class of your own{near}")


def xavier(fan_in: int, fan_out: int) -> float:
    """Glorot and Bengio (2010), gain 1."""
    return math.sqrt(2 / (fan_in + fan_out))


# The standard deviation of a weight with fan_in inputs and fan_out outputs.
INIT_LAWS: dict[str, Callable[[int, int], float]] = {
    "xavier": xavier,
    "xavier-half": lambda fan_in, fan_out: 0.5 * xavier(fan_in, fan_out),
    "xavier-double": lambda fan_in, fan_out: 2.0 * xavier(fan_in, fan_out),
    "he": lambda fan_in, fan_out: math.sqrt(2 / fan_in),  # He et al. (2015)
}

DIGITS = tuple("0123456789")
CIFAR = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLOTHES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "boot"),
)


@dataclass(frozen=True)
class Source:
    """One dataset: its files, its splits, its statistics, and what goes with it.

    A torchvision dataset is read by the class of that name, its files below `folder` of the data
    root; without one, it is a tree of images below the data root, or has a reader of its own.
    """

    classes: tuple[str, ...] = ()  # (): those of the folders of images
    renamed: tuple[tuple[str, str], ...] = ()  # folders, and what their class is called
    mean: tuple[float, ...] = ()  # of the pixels in [0, 1]; (): measured on the training images
    std: tuple[float, ...] = ()
    torchvision: str = ""
    folder: str = ""
    train_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    train_split: tuple[tuple[str, Any], ...] = (("train", True),)  # as torchvision is asked
    test_split: tuple[tuple[str, Any], ...] = (("train", False),)
    augmented: bool = False  # random crops and flips of real batches
    network: str = "lenet"  # that experiments on it use, but for those whose own suits its images
    copies: tuple[str, ...] = ()  # of the same data, used where this one cannot be had, best first
    train_images: int = 50_000  # roughly, to estimate what a run costs
    pretrain_epochs: int = 3
    pretrain_batch: int = 256
    paper_iterations: int = 23_600  # outer steps of the paper's code: 400 epochs
    paper_first_lr: float = 0.02


def _idx(part: str, folder: str) -> tuple[str, ...]:
    kinds = "images-idx3", "labels-idx1"
    return tuple(f"{folder}/raw/{part}-{kind}-ubyte" for kind in kinds)


USPS = Source(
    DIGITS,
    mean=(0.1597,),
    std=(0.2573,),
    torchvision="USPS",
    folder="USPS",
    train_files=("usps.bz2",),
    test_files=("usps.t.bz2",),
    pretrain_epochs=6,
    pretrain_batch=128,
)
DATASETS = {
    "digits": Source(DIGITS, train_images=1_500, pretrain_epochs=8, pretrain_batch=64),
    "mnist": Source(
        DIGITS,
        mean=(0.1307,),
        std=(0.3081,),
        torchvision="MNIST",
        train_files=_idx("train", "MNIST"),
        test_files=_idx("t10k", "MNIST"),
    ),
    "fashionmnist": Source(
        CLOTHES,
        mean=(0.2860,),
        std=(0.3530,),
        torchvision="FashionMNIST",
        train_files=_idx("train", "FashionMNIST"),
        test_files=_idx("t10k", "FashionMNIST"),
    ),
    "usps": USPS,
    "usps-pooled": replace(USPS, mean=(), std=(), train_images=7_438),  # see `readers.pooled`
    "svhn": Source(
        DIGITS,
        mean=(0.43791, 0.44398, 0.47293),
        std=(0.19803, 0.20102, 0.19704),
        torchvision="SVHN",
        folder="SVHN",
        train_files=("train_32x32.mat",),
        test_files=("test_32x32.mat",),
        train_split=(("split", "train"),),
        test_split=(("split", "test"),),
        pretrain_epochs=4,
    ),
    "cifar10": Source(
        CIFAR,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.247, 0.243, 0.261),
        torchvision="CIFAR10",
        train_files=tuple(f"cifar-10-batches-py/data_batch_{k}" for k in range(1, 6)),
        test_files=("cifar-10-batches-py/test_batch",),
        augmented=True,
        network="alexcifarnet",
        copies=("cifar10-png", "cifar10-jpeg"),
        pretrain_epochs=8,
        paper_iterations=19_600,
        paper_first_lr=0.001,
    ),
    **dict.fromkeys(
        ("cifar10-png", "cifar10-jpeg"),
        Source(
            CIFAR,
            renamed=(("airplane", "plane"), ("automobile", "car")),  # the paper's names
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.247, 0.243, 0.261),
            augmented=True,
            network="alexcifarnet",
            pretrain_epochs=8,
            paper_iterations=19_600,
            paper_first_lr=0.001,
        ),
    ),
}


def source(dataset: str) -> Source:
    """The entry of a dataset by name; that of a folder of images is the default."""
    return DATASETS.get(dataset, Source())
