"""Back-gradient as the paper's own code does it, to be held against the package's (section 3.4).

The code keeps each step's gradient with the graph that it came from. On the way back every graph
gives one Hessian-vector product. So no step is computed twice, and memory grows by a graph a step;
`unroll.meta_gradient` keeps a weight vector a step and computes each step again.
"""

import torch
from torch import Tensor

from ddcore.distilled import DistilledData
from ddcore.networks import Network
from ddcore.unroll import cross_entropy, inner_loss, real_gradient


def meta_gradient(
    network: Network, distilled: DistilledData, theta: Tensor, batch: tuple[Tensor, Tensor]
) -> tuple[Tensor, DistilledData]:
    """The losses [N] of networks theta_0 [N, P] trained on distilled data, and the gradient of
    their mean, as `unroll.meta_gradient` gives it: of images and learning rates."""
    targets = distilled.targets()
    kept = []
    for e, s in distilled.order():
        theta = theta.detach().requires_grad_()
        x = distilled.images[s].detach().requires_grad_()
        lr = distilled.lrs[e, s].detach().requires_grad_()
        loss = inner_loss(network, theta, x, targets[s])
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        update = lr * gradient
        kept.append((e, s, update, (theta, x, lr)))
        theta = theta - update

    v, losses = real_gradient(network, theta.detach(), *batch, cross_entropy)
    images = torch.zeros_like(distilled.images)
    lrs = torch.zeros_like(distilled.lrs)
    for e, s, update, inputs in reversed(kept):
        hessian_product, dx, lrs[e, s] = torch.autograd.grad(update, inputs, grad_outputs=-v)
        images[s] += dx
        v = v + hessian_product
    learned = distilled.learned()._replace(images=images, lrs=lrs)
    return losses, distilled.with_learned(learned)
