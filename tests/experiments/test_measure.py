"""The metrics of a record: what the test networks score, before and after."""

from dataclasses import replace

import pytest
import torch

from ddcore.accuracy import evaluate
from ddcore.distilled import class_major
from ddcore.experiments.config import Config
from ddcore.experiments.measure import measure
from ddcore.experiments.methods import base
from ddcore.experiments.setup import prepare
from ddcore.networks import generator
from ddcore.unroll import train_in_float64

BEFORE_AND_AFTER = ["test_accuracy", "test_accuracy_before"]


@pytest.fixture
def measured(apart):
    """measured(nets=12): the setup of a configuration and the first images of each class."""

    def of(**fields):
        setup = prepare(Config(dataset="digits", steps=2, epochs=2, **fields))
        x, y = setup.data.train
        first = torch.stack([x[y == k][:2] for k in range(10)], dim=1)
        images = class_major(setup.data, first, torch.full((2, 2), 0.1))
        if setup.config.fixed:
            weights = setup.network.unflatten(setup.weights(1))
            images = replace(images, init={name: t[0] for name, t in weights.items()})
        return setup, images

    return of


def test_networks_are_tested_before_and_after(measured):
    setup, images = measured(nets=12)
    metrics = measure(setup, images, {})
    assert list(metrics) == BEFORE_AND_AFTER and metrics["test_accuracy"]["n"] == 12
    theta = setup.weights(12)
    scores = {
        "test_accuracy_before": evaluate(setup.network, theta, *setup.data.test),
        "test_accuracy": evaluate(
            setup.network, train_in_float64(setup.network, images, theta), *setup.data.test
        ),
    }
    for name, expected in scores.items():
        assert metrics[name]["values"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert metrics["test_accuracy"]["mean"] > metrics["test_accuracy_before"]["mean"] + 0.05


def test_the_first_may_be_tested_alone(measured):
    setup, images = measured(nets=12)
    all_values = measure(setup, images, {})["test_accuracy"]["values"]
    assert measure(setup, images, {}, nets=3)["test_accuracy"]["values"] == all_values[:3]


def test_a_fixed_init_is_one_network_tested_after_each_step(measured):
    setup, images = measured(fixed=True, nets=1)
    metrics = measure(setup, images, {}, nets=7)
    assert list(metrics) == [*BEFORE_AND_AFTER, "test_accuracy_by_step"]
    by_step = metrics["test_accuracy_by_step"]["mean"]
    assert len(by_step) == 5 and {metric["n"] for metric in metrics.values()} == {1}
    assert by_step[0] == metrics["test_accuracy_before"]["mean"]
    assert by_step[-1] == metrics["test_accuracy"]["mean"]


def test_an_attack_has_table_3s_columns_and_fig_6s(measured):
    setup, images = measured(attacked=3, target=8, pool=1)
    # a network drawn from a law in the place of a pretrained one, which would take long
    start = setup.network.init("xavier", generator(0))[None]
    scores = base.test_scores(setup, train_in_float64(setup.network, images, start))
    columns = ["attacked_correct", "attacked_as_target", "accuracy_wrt_modified", "class_accuracy"]
    assert list(scores) == ["test_accuracy", *columns]
    assert scores["class_accuracy"].shape == (1, 10)
    assert scores["attacked_correct"] == scores["class_accuracy"][:, 3]


def test_stored_initial_weights_are_the_truth(measured):
    """Not what this PyTorch draws from the seed."""
    setup, images = measured(fixed=True, nets=1)
    for t in images.init.values():
        t.zero_()
    assert measure(setup, images, {})["test_accuracy_before"]["mean"] < 0.15
    zeros = torch.zeros_like(setup.weights(1))
    expected = evaluate(setup.network, zeros, *setup.data.test).item()
    assert measure(setup, images, {})["test_accuracy_before"]["mean"] == expected
