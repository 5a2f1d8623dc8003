"""What public functions are given, checked where a caller comes in and not in their loops: whether
data, networks and weights belong together."""

from typing import Any

from torch import Tensor

from ddcore.distilled import DistilledData
from ddcore.networks import Network
from ddcore.support.checks import (
    check_devices,
    check_labels,
    check_shape,
    check_tensor,
    check_type,
    check_values,
)
from ddcore.support.errors import InputError
from ddcore.support.modules import classes_of


def check_distilled(distilled: Any) -> DistilledData:
    """As it is; InputError for labels without a class, numbers that are not finite, and tensors on
    several devices."""
    check_type("distilled", distilled, DistilledData)
    images, lrs, soft_labels = distilled.learned()
    check_devices({**distilled.learned().tensors(), "labels": distilled.labels})
    classes = len(distilled.meta.get("classes", ()))
    shown = int(distilled.labels.max()) + 1 if soft_labels is None else soft_labels.shape[-1]
    check_values(images, distilled.labels, lrs, soft_labels, classes or shown)
    return distilled


def check_readable(network: Network, theta: Tensor, images: Tensor, classes: int) -> None:
    """InputError where networks cannot read images, or do not tell so many classes apart."""
    check_devices({"weights": theta, "images": images})
    own = classes_of(network, theta, images)
    if own != classes:
        raise InputError(
            f"{network.name} tells {own} classes apart and the data has {classes}: as many are "
            "allowed"
        )


def check_batch(
    network: Network, theta: Tensor, batch: Any, classes: int, *, labelled: bool
) -> None:
    """InputError where a batch is not real images and labels that networks can read; labelled:
    where the labels are classes."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InputError("batch: a pair of images and labels is allowed")
    images, labels = batch
    check_tensor("images", images, "[B, C, H, W]", "[N, B, C, H, W]")
    if images.dim() == 5:
        check_shape("images", images, len(theta), *images.shape[1:])
    check_readable(network, theta, images, classes)
    check_type("labels", labels, Tensor)
    check_devices({"images": images, "labels": labels})
    if labelled:
        check_labels(labels, images, len(theta), classes)
