"""Real images, averages, centres and neighbours: the sources on the embedded digits, and their records."""

import shutil
from dataclasses import replace
from itertools import product

import pytest
import torch

from ddcore import baselines, datasets
from ddcore.experiments import catalogue
from ddcore.experiments.catalogue import BASELINES, Config
from ddcore.experiments.run import run, verify
from ddcore.distilled import class_major
from ddcore.errors import InputError
from ddcore.accuracy import evaluate
from ddcore.networks import LeNet, generator
from ddcore.pretrain import pretrain
from ddcore.unroll import train

KINDS = [*BASELINES, "all"]


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def test_random_real_images_are_distinct_training_images_in_class_major_order_and_fresh_each_time(digits):
    draw = baselines.random_real(digits, steps=3, per_class=2)
    images, again = draw(generator(0)), draw(generator(1))
    assert images.shape == (3, 20, 1, 28, 28) and not torch.equal(images, again)
    flat, train_x = images.flatten(0, 1).flatten(1), digits.train[0].flatten(1)
    found = torch.cdist(flat, train_x).argmin(1)
    assert torch.equal(train_x[found], flat) and len(set(found.tolist())) == 60
    expected = torch.arange(10).repeat_interleave(2).repeat(3)
    assert torch.equal(digits.train[1][found], expected)
    data = class_major(digits, images, torch.ones(1, 3))
    assert torch.equal(data.labels.flatten(), expected)


@pytest.mark.parametrize("source", [baselines.random_real, baselines.centres])
def test_a_class_with_too_few_images_is_named(digits, source):
    with pytest.raises(InputError, match="has a class of [0-9]+ training images; 300 are asked for"):
        source(digits, steps=150, per_class=2)


def test_a_class_without_training_images_has_no_average(digits):
    others = digits.train[1] != 3
    none_left = replace(digits, train=tuple(part[others] for part in digits.train))
    with pytest.raises(InputError, match="a class of 0 training images"):
        baselines.averages(none_left, steps=1, per_class=1)


def test_averages_are_the_class_means_in_every_place(digits):
    images = baselines.averages(digits, steps=2, per_class=3)(generator(0)).unflatten(1, (10, 3))
    for k in range(10):
        mean = digits.train[0][digits.train[1] == k].mean(0)
        torch.testing.assert_close(images[:, k], mean.expand(2, 3, *mean.shape))


def test_centres_are_means_of_the_images_nearest_to_them(digits):
    images = baselines.centres(digits, steps=2, per_class=2)(generator(0)).unflatten(1, (10, 2))
    x = digits.train[0][digits.train[1] == 7].flatten(1)
    found = images[:, 7].reshape(4, -1)
    nearest = torch.cdist(x, found).argmin(1)
    for j in range(4):
        torch.testing.assert_close(found[j], x[nearest == j].mean(0), rtol=1e-3, atol=1e-3)


def test_learned_rates_train_better_than_where_they_start(digits):
    network, p = LeNet(), lambda rng: LeNet().init("xavier", rng)
    draw = baselines.random_real(digits, steps=3, per_class=2)
    learned = baselines.learned_rates(network, digits, p, draw, epochs=2, iterations=40, samples=2, batch=64)
    assert learned.shape == (2, 3) and learned.min() > 0
    theta = torch.stack([p(generator(9, j)) for j in range(6)])

    def accuracy(lrs):
        trained = train(network, class_major(digits, draw(generator(5)), lrs), theta)
        return evaluate(network, trained, *digits.validation).mean().item()

    assert accuracy(learned) > accuracy(torch.full_like(learned, 0.02)) + 0.05


def test_the_nearest_neighbour_is_the_nearest(digits):
    images, labels, of = digits.train[0][:50], digits.train[1][:50], digits.test[0][:40]
    expected = labels[torch.cdist(of.flatten(1), images.flatten(1)).argmin(1)]
    assert torch.equal(baselines.nearest_neighbour(images, labels, of), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_baselines_record_is_verified_from_what_it_stores(kind, apart, monkeypatch):
    config = Config(dataset="digits", images=kind, steps=2, nets=3, iterations=2, batch=64)
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny-baseline", config)
    record = run("tiny-baseline", compile="off")
    assert verify(record)[0] and verify(record, nets=1)[0]

    half = {"mean": 0.5, "std": None, "n": 1, "values": [0.5]}
    assert not verify(record.model_copy(update={"metrics": {"test_accuracy": half}}))[0]


def test_images_of_one_network_are_those_of_its_record_and_meet_others(apart, monkeypatch):
    alone = Config(dataset="digits", fixed=True, nets=1, steps=2, iterations=40, batch=64, image_rate=0.1)
    others = alone.model_copy(update={"images": "one-network", "fixed": False, "nets": 5})
    monkeypatch.setitem(experiments.EXPERIMENTS, "small", alone)
    monkeypatch.setitem(experiments.EXPERIMENTS, "others-small", others)
    record = run("others-small", overrides={"soft_labels": "true", "nets": "4"}, compile="off")
    made = run("small", overrides={"soft_labels": "true"}, compile="off")
    assert made.environment["started"] <= record.environment["started"]  # it was made first, and is found here
    assert all(map(torch.equal, record.distilled.learned(), made.distilled.learned())) and record.distilled.init is None
    scores = [r.metrics["test_accuracy"] for r in (record, made)]
    assert scores[0]["n"] == 4 and max(scores[0]["values"]) < scores[1]["mean"] and verify(record)[0]
    images = made.distilled.images
    replace(made.distilled, images=images + 1).save(made.folder / "distilled.safetensors")
    assert "its images are not those that one network has here" in verify(record)[1]
    shutil.rmtree(made.folder)
    assert not verify(record)[0]


@pytest.mark.parametrize(("name", "scale"), [*product(("fig2a", "fig2b"), experiments.SCALES)])
def test_others_are_tested_on_what_the_figures_experiment_makes(name, scale):
    said = {"seed": "3", "faithful": "true"}
    others, alone = (experiments.configure(n, scale, said) for n in (f"others-{name}", name))
    assert others.alone.key == alone.key


def test_an_option_that_a_baseline_does_not_have_is_refused(ddcore):
    done = ddcore("run", "baseline-averages-mnist", "--scale", "smoke", "-p", "soft_labels=true")
    assert done.status == 2 and "soft_labels" in done.err[-1]


def test_fewer_images_than_a_batch_are_trained_on_all_the_same(digits):
    few = replace(digits, train=tuple(part[:20] for part in digits.train))
    network = LeNet()
    start = network.init("xavier", generator(0))
    theta = pretrain(network, few, lambda rng: start, range(1), epochs=40, batch=64)
    assert evaluate(network, theta, *few.train) > 0.9


def test_a_network_trained_on_everything_does_not_depend_on_its_company(digits):
    network, p = LeNet(), lambda rng: LeNet().init("xavier", rng)
    beside = pretrain(network, digits, p, range(3), epochs=8, batch=64)
    alone = pretrain(network, digits, p, range(1, 2), epochs=8, batch=64)
    torch.testing.assert_close(beside[1:2], alone, rtol=0, atol=1e-4)
    assert not torch.equal(beside[0], beside[1]) and evaluate(network, beside, *digits.test).min() > 0.93
