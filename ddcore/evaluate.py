"""Accuracy of many networks at once (section 4: means and standard deviations over 200 runs)."""

import torch
from torch import Tensor

from ddcore.networks import Network, Weights, as_network

CHUNK = 2_000  # images times networks per forward pass: activations that fit the cache are faster


@torch.no_grad()
def predict(network: Network, theta: Tensor, images: Tensor) -> Tensor:
    """Predicted classes int64 [N, B] of N networks on images [B, C, H, W]."""
    chunks = images.split(max(1, CHUNK // len(theta)))
    return torch.cat([network(theta, x).argmax(-1) for x in chunks], dim=1)


def evaluate(network, weights: Tensor | Weights, images: Tensor, labels: Tensor) -> Tensor:
    """Accuracy [N], in [0, 1], of N networks on images [B, C, H, W] with labels int64 [B]."""
    network = as_network(network)
    return (predict(network, network.flatten(weights), images) == labels).double().mean(1)


def confusion(network: Network, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Of each network, how many test images of class k it takes for class c: int64 [N, k, c]."""
    k = network.classes
    cells = labels * k + predict(network, theta, images)  # [N, B]
    return torch.stack([row.bincount(minlength=k * k) for row in cells]).view(len(theta), k, k)
