"""The paper's own way to the meta-gradient gives what the package's gives."""

import pytest
import torch
from torch import nn

from ddcore import unroll
from ddcore.distilled import DistilledData
from ddcore.networks import as_network, generator
from ddcore.paper import kept_graphs


@pytest.mark.parametrize("epochs", [1, 3])
def test_it_is_the_same_meta_gradient(epochs):
    rng = generator("kept graphs")
    net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3))
    network = as_network(net)
    images = torch.randn(2, 3, 1, 8, 8, generator=rng, dtype=torch.double)
    distilled = DistilledData(
        images, torch.arange(3).expand(2, 3), torch.full((epochs, 2), 0.3, dtype=torch.double)
    )
    theta = torch.stack([network.init("xavier", rng) for _ in range(2)]).double()
    batch = torch.randn(5, 1, 8, 8, generator=rng).double(), torch.arange(5) % 3
    ours = unroll.meta_gradient(network, distilled, theta, batch)
    theirs = kept_graphs.meta_gradient(network, distilled, theta, batch)
    torch.testing.assert_close(theirs[0], ours[0])
    torch.testing.assert_close(theirs[1].images, ours[1].images)
    torch.testing.assert_close(theirs[1].lrs, ours[1].lrs)
