"""Accuracy of many networks at once (section 4: means and standard deviations over 200 runs)."""

import torch
from torch import Tensor

from ddcore.networks import Network, Weights, as_network

CHUNK = 400  # images times networks per forward pass: more is no faster, and an AlexCifarNet's activations are large


@torch.no_grad()
def predict(network: Network, theta: Tensor, images: Tensor) -> Tensor:
    """Predicted classes int64 [N, B] of N networks on images [B, C, H, W]."""
    chunks = images.split(max(1, CHUNK // len(theta)))
    return torch.cat([network(theta, x).argmax(-1) for x in chunks], dim=1)


def evaluate(network, weights: Tensor | Weights, images: Tensor, labels: Tensor) -> Tensor:
    """Accuracy [N], in [0, 1], of N networks on images [B, C, H, W] with labels int64 [B]."""
    network = as_network(network, images.shape[-3], images.shape[-1])
    return (predict(network, network.flatten(weights), images) == labels).double().mean(1)


def confusion(network: Network, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Of each network, how many test images of class k it takes for class c: int64 [N, k, c]."""
    k = network(theta[:1], images[:1]).shape[-1]
    cells = labels * k + predict(network, theta, images)  # [N, B]
    return torch.stack([row.bincount(minlength=k * k) for row in cells]).view(len(theta), k, k)


def attack_scores(network: Network, theta: Tensor, images: Tensor, labels: Tensor, attacked: int, target: int):
    """Table 3's columns [N] and Fig. 6's accuracy of each class [N, K], all in [0, 1], by name.

    attacked_correct: images of the attacked class that are still right; attacked_as_target: those taken for the target;
    accuracy_wrt_modified: right answers where the attacked class is labelled as the target.
    """
    taken = confusion(network, theta, images, labels).double()  # [N, class, taken for]
    right, of_class = taken.diagonal(dim1=1, dim2=2), taken.sum(2)
    kept, sent = right[:, attacked], taken[:, attacked, target]
    return {
        "test_accuracy": right.sum(1) / of_class.sum(1),
        "attacked_correct": kept / of_class[:, attacked],
        "attacked_as_target": sent / of_class[:, attacked],
        "accuracy_wrt_modified": (right.sum(1) - kept + sent) / of_class.sum(1),
        "class_accuracy": right / of_class,
    }
