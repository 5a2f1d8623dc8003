"""Networks trained on the whole training set, on the embedded digits."""

from dataclasses import replace

import pytest
import torch

from ddcore.accuracy import evaluate
from ddcore.datasets import load
from ddcore.networks import LeNet, generator
from ddcore.pretrain import pretrain


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
