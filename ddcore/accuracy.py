"""Accuracy of many networks at once (section 4: means and standard deviations over 200 runs)."""

import torch
from torch import Tensor, nn

from ddcore.networks import Network, Weights, as_network
from ddcore.support.checks import check_devices, check_labels, check_tensor
from ddcore.support.modules import classes_of

CHUNK = 400  # images times networks per forward pass: more is no faster, and activations are large


@torch.no_grad()
def predict(network: Network, theta: Tensor, images: Tensor) -> Tensor:
    """Predicted classes int64 [N, B] of N networks on images [B, C, H, W]."""
    if kernel := network.kernel(theta, images):
        return kernel.predictions(theta, images)
    chunks = images.split(max(1, CHUNK // len(theta)))
    return torch.cat([network(theta, x).argmax(-1) for x in chunks], dim=1)


def evaluate(
    network: Network | nn.Module | str, weights: Tensor | Weights, images: Tensor, labels: Tensor
) -> Tensor:
    """The accuracy of networks.

    Args:
        network: a name, a `Network` or any suitable `nn.Module`.
        weights: of N networks, [N, P] or {name: [N, *shape]}.
        images: [B, C, H, W], normalised.
        labels: int64 [B].

    Returns:
        The share of the images that each network is right about, float64 [N], in [0, 1].

    Raises:
        InputError: where the weights, images or labels are those of another network, or there is
            not one label for each image.
    """
    check_tensor("images", images, "[B, C, H, W]")
    check_tensor("labels", labels, "[B]", whole=True)
    network = as_network(network, images.shape[-3], images.shape[-1])
    theta = network.flatten(weights)
    check_devices({"weights": theta, "images": images, "labels": labels})
    check_labels(labels, images, 1, classes_of(network, theta, images))
    correct = predict(network, theta, images) == labels
    return correct.double().mean(1)


def confusion(network: Network, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Of each network, how many test images of class k it takes for class c: int64 [N, k, c]."""
    classes = network(theta[:1], images[:1]).shape[-1]
    cells = labels * classes + predict(network, theta, images)  # [N, B]
    counts = torch.stack([row.bincount(minlength=classes**2) for row in cells])
    return counts.view(len(theta), classes, classes)


def attack_scores(
    network: Network, theta: Tensor, images: Tensor, labels: Tensor, attacked: int, target: int
) -> dict[str, Tensor]:
    """Table 3's columns [N] and Fig. 6's accuracy of each class [N, K], all in [0, 1], by name.

    attacked_correct: images of the attacked class that are still right; attacked_as_target: those
    taken for the target; accuracy_wrt_modified: right answers where the attacked class is labelled
    as the target.
    """
    taken = confusion(network, theta, images, labels).double()  # [N, class, taken for]
    correct = taken.diagonal(dim1=1, dim2=2)
    total = taken.sum(2)
    kept = correct[:, attacked]
    sent = taken[:, attacked, target]
    return {
        "test_accuracy": correct.sum(1) / total.sum(1),
        "attacked_correct": kept / total[:, attacked],
        "attacked_as_target": sent / total[:, attacked],
        "accuracy_wrt_modified": (correct.sum(1) - kept + sent) / total.sum(1),
        "class_accuracy": correct / total,
    }
