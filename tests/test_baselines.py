"""Real images, averages, centres and neighbours: the sources on the embedded digits."""

from dataclasses import replace

import pytest
import torch

from ddcore.accuracy import evaluate
from ddcore.baselines import (
    PAPERS_RATES,
    averages,
    centres,
    learned_rates,
    members_of,
    nearest_neighbour,
    random_real,
)
from ddcore.datasets import load
from ddcore.distilled import class_major
from ddcore.networks import LeNet, generator
from ddcore.support.errors import InputError
from ddcore.unroll import train


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def law(rng: torch.Generator) -> torch.Tensor:
    return LeNet().init("xavier", rng)


class TestRandomRealImages:
    def test_they_are_distinct_training_images_in_class_major_order(self, digits):
        images = random_real(digits, steps=3, per_class=2)(generator(0))
        assert images.shape == (3, 20, 1, 28, 28)
        flat = images.flatten(0, 1).flatten(1)
        real = digits.train[0].flatten(1)
        found = torch.cdist(flat, real).argmin(1)
        assert torch.equal(real[found], flat)
        assert len(set(found.tolist())) == 60
        expected = torch.arange(10).repeat_interleave(2).repeat(3)
        assert torch.equal(digits.train[1][found], expected)
        data = class_major(digits, images, torch.ones(1, 3))
        assert torch.equal(data.labels.flatten(), expected)

    def test_they_are_fresh_each_time(self, digits):
        draw = random_real(digits, steps=3, per_class=2)
        assert not torch.equal(draw(generator(0)), draw(generator(1)))
        assert torch.equal(draw(generator(0)), draw(generator(0)))


class TestAverages:
    def test_they_are_the_class_means_in_every_place(self, digits):
        images = averages(digits, steps=2, per_class=3)(generator(0)).unflatten(1, (10, 3))
        for k in range(10):
            mean = digits.train[0][digits.train[1] == k].mean(0)
            torch.testing.assert_close(images[:, k], mean.expand(2, 3, *mean.shape))


class TestCentres:
    def test_they_are_means_of_the_images_nearest_to_them(self, digits):
        images = centres(digits, steps=2, per_class=2)(generator(0)).unflatten(1, (10, 2))
        x = digits.train[0][digits.train[1] == 7].flatten(1)
        found = images[:, 7].reshape(4, -1)
        nearest = torch.cdist(x, found).argmin(1)
        for j in range(4):
            torch.testing.assert_close(found[j], x[nearest == j].mean(0), rtol=1e-3, atol=1e-3)

    def test_they_follow_from_the_seed(self, digits):
        one, same, other = (
            centres(digits, steps=1, per_class=2, seed=seed)(generator(0)) for seed in (0, 0, 1)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


class TestTooFewImages:
    @pytest.mark.parametrize("source", [random_real, centres], ids=lambda source: source.__name__)
    def test_a_class_with_too_few_is_named(self, digits, source):
        said = "digits has a class of [0-9]+ training images; 300 are asked for"
        with pytest.raises(InputError, match=said):
            source(digits, steps=150, per_class=2)

    def test_a_class_without_any_has_no_average(self, digits):
        others = digits.train[1] != 3
        none_left = replace(digits, train=tuple(part[others] for part in digits.train))
        with pytest.raises(InputError, match="a class of 0 training images"):
            averages(none_left, steps=1, per_class=1)

    def test_enough_are_numbered_by_class(self, digits):
        members = members_of(digits, 100)
        assert sum(map(len, members)) == len(digits.train[1])
        for k, own in enumerate(members):
            assert (digits.train[1][own] == k).all()


class TestLearnedRates:
    def test_they_train_better_than_where_they_start(self, digits):
        network = LeNet()
        draw = random_real(digits, steps=3, per_class=2)
        learned = learned_rates(
            network, digits, law, draw, epochs=2, iterations=40, samples=2, batch=64
        )
        assert learned.shape == (2, 3)
        assert learned.min() > 0
        theta = torch.stack([law(generator(9, j)) for j in range(6)])

        def accuracy(lrs):
            trained = train(network, class_major(digits, draw(generator(5)), lrs), theta)
            return evaluate(network, trained, *digits.validation).mean().item()

        assert accuracy(learned) > accuracy(torch.full_like(learned, 0.02)) + 0.05

    def test_they_follow_from_the_seed(self, digits):
        draw = random_real(digits, steps=2, per_class=1)  # of one rate only the sign would show
        one, same, other = (
            learned_rates("lenet", digits, law, draw, epochs=2, iterations=3, batch=8, seed=seed)
            for seed in (0, 0, 1)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_the_paper_s_fixed_rates_are_six(self):
        assert PAPERS_RATES == (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


class TestNearestNeighbour:
    def test_it_is_the_nearest(self, digits):
        images, labels = (part[:50] for part in digits.train)
        queries = digits.test[0][:40]
        expected = labels[torch.cdist(queries.flatten(1), images.flatten(1)).argmin(1)]
        assert torch.equal(nearest_neighbour(images, labels, queries), expected)
