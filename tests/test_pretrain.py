"""Networks trained on the whole training set, on the embedded digits."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ddcore.accuracy import evaluate
from ddcore.datasets import load
from ddcore.networks import LeNet, generator
from ddcore.pretrain import pretrain
from ddcore.support.registry import ARCHITECTURES


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def few(digits):
    """Twenty training images."""
    return replace(digits, train=tuple(part[:20] for part in digits.train))


def test_a_network_trained_on_everything_does_not_depend_on_its_company(digits):
    beside = pretrain("lenet", digits, "xavier", range(3), epochs=8, batch=64)
    alone = pretrain("lenet", digits, "xavier", range(1, 2), epochs=8, batch=64)
    torch.testing.assert_close(beside[1:2], alone, rtol=0, atol=1e-4)
    assert not torch.equal(beside[0], beside[1])
    assert evaluate("lenet", beside, *digits.test).min() > 0.93


def test_it_is_adam_whose_learning_rate_rises_and_falls(few):
    network = LeNet()
    found = pretrain(network, few, "xavier", range(1), epochs=10, batch=8)
    rng = generator(0, "pool", 0)
    theta = network.init("xavier", rng)[None].requires_grad_()
    adam = torch.optim.Adam([theta])
    images, labels = few.train
    for k in range(20):
        if k % 2 == 0:  # an epoch: two batches, four images are left over
            order = torch.randperm(20, generator=rng)
        picked = order[8 * (k % 2) :][:8]
        adam.zero_grad()
        F.cross_entropy(network(theta, images[picked])[0], labels[picked]).backward()
        adam.param_groups[0]["lr"] = ARCHITECTURES["lenet"].adam_peak * min(
            (k + 1) / 2, (20 - k) / 18
        )
        adam.step()
    torch.testing.assert_close(found, theta.detach(), rtol=0, atol=1e-4)


def test_fewer_images_than_a_batch_are_trained_on_all_the_same(few):
    network = LeNet()
    start = network.init("xavier", generator(0))
    theta = pretrain(network, few, lambda rng: start, range(1), epochs=40, batch=64)
    assert evaluate(network, theta, *few.train) > 0.9


def test_an_init_by_name_is_the_law_of_that_name(few):
    by_name = pretrain("lenet", few, "he", range(2), epochs=2)
    by_function = pretrain(LeNet(), few, lambda rng: LeNet().init("he", rng), range(2), epochs=2)
    assert torch.equal(by_name, by_function)


@pytest.mark.parametrize("change", [{"seed": 1}, {"stream": "test"}], ids=str)
def test_another_seed_or_stream_is_another_network(few, change):
    one = pretrain("lenet", few, "xavier", range(1), epochs=1)
    other = pretrain("lenet", few, "xavier", range(1), epochs=1, **change)
    assert not torch.equal(one, other)
