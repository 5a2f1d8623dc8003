"""What is asked of one tensor or of a few: its type, its shape, labels that are classes, finite
numbers, one device. Each check raises an InputError of one line, or does nothing."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ddcore.support.errors import InputError


def check_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise InputError(f"{name}: {type(value).__name__} is given, {kind.__name__} is allowed")


def check_tensor(name: str, t: Any, *axes: str, whole: bool = False) -> None:
    """InputError where `t` has none of these lists of axes, such as "[B, C, H, W]", is empty, or
    holds other numbers than floating ones (whole: than int64)."""
    if whole:
        check_type(name, t, Tensor)
        if t.dtype != torch.int64:
            raise InputError(f"{name} is of {t.dtype}: torch.int64 is allowed")
    else:
        check_floating(name, t)
    if t.dim() not in [len(names.split(",")) for names in axes] or not t.numel():
        allowed = " or ".join(axes)
        raise InputError(f"{name} has shape {list(t.shape)}: {allowed} is allowed, not empty")


def check_floating(name: str, t: Any) -> None:
    check_type(name, t, Tensor)
    if not t.is_floating_point():
        raise InputError(f"{name} is of {t.dtype}: floating-point numbers are allowed")


def check_devices(tensors: dict[str, Tensor]) -> None:
    """InputError where tensors are on several devices."""
    first, *others = tensors
    for name in others:
        if tensors[name].device != tensors[first].device:
            raise InputError(
                f"{first} is on {tensors[first].device} and {name} on {tensors[name].device}: "
                "one device is allowed"
            )


def check_like(name: str, t: Any, like: Tensor) -> None:
    """InputError for images or weights of another shape, or with numbers that are not finite."""
    check_floating(name, t)
    check_shape(name, t, *like.shape)
    check_finite(name, t)


def check_finite(name: str, t: Tensor) -> None:
    if not t.isfinite().all():
        raise InputError(f"{name} has numbers that are not finite: all must be")


def check_classes(labels: Tensor, classes: int) -> None:
    """InputError for labels without a class."""
    low, high = (int(k) for k in labels.aminmax())
    if low < 0 or high >= classes:
        raise InputError(f"labels from {low} to {high}: 0 to {classes - 1} is allowed")


def check_labels(labels: Any, images: Tensor, networks: int, classes: int) -> None:
    """InputError where these are not the classes of images [B, C, H, W] or [N, B, C, H, W], one for
    each: [B], or each network's own [N, B]."""
    check_tensor("labels", labels, "[B]", "[N, B]", whole=True)
    count = images.shape[-4]
    if labels.shape not in ((count,), (networks, count)):
        raise InputError(
            f"labels {list(labels.shape)} for images {list(images.shape)}: one for each is allowed"
        )
    check_classes(labels, classes)


def check_weights(network: str, shapes: dict[str, tuple[int, ...]], weights: Any) -> None:
    """InputError where these are not the weights of networks whose parameters have these shapes:
    [N, P], or {name: [N, *shape]} or {name: [*shape]}."""
    refusal = f"the weights do not belong to {network}"
    if isinstance(weights, Tensor):
        size = sum(map(math.prod, shapes.values()))
        check_tensor("weights", weights, f"[N, {size}]")
        if weights.shape[1] != size:
            raise InputError(f"{refusal}: {list(weights.shape)}, not [N, {size}]")
        return
    check_type("weights", weights, dict)
    networks = set()
    for name in sorted({*weights, *shapes}):
        if name not in weights or name not in shapes:
            raise InputError(f"{refusal}: {name} is missing or unknown")
        check_floating(name, weights[name])
        actual = tuple(weights[name].shape)
        shape = shapes[name]
        if actual[len(actual) - len(shape) :] != shape:
            raise InputError(f"{refusal}: {name} is {actual}, not {shape}")
        networks.add(math.prod(actual[: len(actual) - len(shape)]))
    if len(networks) > 1 or 0 in networks:
        raise InputError(f"{refusal}: they are of {sorted(networks)} networks, not of as many each")
    check_devices(weights)


def check_module(module: nn.Module) -> None:
    """InputError for a module whose output is no function of its parameters and of one image, or
    that has nothing to train."""
    name = type(module).__name__
    for place, part in module.named_modules():
        layer = f"{name} contains {type(part).__name__} ({place or 'itself'})"
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"{layer}, whose output depends on the other images of the batch: GroupNorm or "
                "LayerNorm will do"
            )
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
            raise InputError(
                f"{layer}, which draws random numbers: p=0 or module.eval() takes dropout out"
            )
        for buffer, _ in part.named_buffers(recurse=False):
            raise InputError(
                f"{layer}, which has buffers ({buffer}): every quantity that training changes must "
                "be a parameter, and a constant one with requires_grad=False"
            )
    if not any(p.requires_grad for p in module.parameters()):
        raise InputError(f"{name} has no parameter to train: at least one is needed")


def check_batches(images: Any, labels: Any, lrs: Any, soft_labels: Any) -> None:
    """InputError where these are not the tensors of distilled data."""
    check_tensor("images", images, "[S, n, C, H, W]")
    check_tensor("labels", labels, "[S, n]", whole=True)
    check_tensor("lrs", lrs, "[E, S]")
    if soft_labels is not None:
        check_tensor("soft_labels", soft_labels, "[S, n, K]")
    steps, n = images.shape[:2]
    check_shape("labels", labels, steps, n)
    check_shape("lrs", lrs, len(lrs), steps)
    if soft_labels is not None:
        check_shape("soft_labels", soft_labels, steps, n, soft_labels.shape[-1])


def check_shape(name: str, t: Tensor, *shape: int) -> None:
    if t.shape != shape:
        raise InputError(f"{name} has shape {list(t.shape)}: {list(shape)} is allowed")


def check_values(
    images: Tensor, labels: Tensor, lrs: Tensor, soft_labels: Tensor | None, classes: int
) -> None:
    """InputError where distilled data has labels without a class, or numbers that are not
    finite."""
    check_finite("images", images)
    check_finite("lrs", lrs)
    check_classes(labels, classes)
    if soft_labels is not None:
        check_finite("soft_labels", soft_labels)
        check_shape("soft_labels", soft_labels, *labels.shape, classes)
