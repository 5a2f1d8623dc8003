"""What a run costs, roughly."""

import pytest

from ddcore.experiments import methods
from ddcore.experiments.catalogue import EXPERIMENTS, SCALES, configure
from ddcore.experiments.config import Config
from ddcore.experiments.cost import COMPILE_FROM, cost, gradients

MNIST = Config(dataset="mnist")


@pytest.mark.parametrize("scale", SCALES)
def test_every_run_has_a_cost(scale):
    for name in EXPERIMENTS:
        config = configure(name, scale)
        assert cost(config) > 0 and cost(config) >= gradients(config) >= 0


def test_choices_and_the_test_count_too():
    config = EXPERIMENTS["fig3a"]
    compared_twice = config.model_copy(update={"average": 0.98})
    assert cost(compared_twice) > cost(config) > gradients(config)
    assert gradients(compared_twice) == gradients(config)


@pytest.mark.parametrize(
    "more",
    [
        {"iterations": 2000},
        {"samples": 8},
        {"batch": 512},
        {"steps": 2},
        {"epochs": 2},
        {"per_class": 2},
        {"network": "alexcifarnet"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_more_of_anything_costs_more(more):
    assert gradients(MNIST.model_copy(update=more)) > gradients(MNIST)


def test_twice_the_images_per_class_cost_less_than_twice():
    few = MNIST.model_copy(update={"per_class": 10})
    many = MNIST.model_copy(update={"per_class": 20})
    assert gradients(few) < gradients(many) < 2 * gradients(few)


class TestCompiling:
    """It takes half a minute, so it must save more."""

    @pytest.mark.parametrize(
        ("name", "scale", "pays"),
        [
            pytest.param("fig3b", "paper", True, id="a long distillation"),
            pytest.param("fig3b", "smoke", False, id="a short one"),
            pytest.param("full-cifar10", "paper", True, id="full training"),
            pytest.param("full-cifar10", "smoke", False, id="full training on digits"),
        ],
    )
    def test_it_pays_for_long_runs(self, name, scale, pays):
        assert (gradients(configure(name, scale)) >= COMPILE_FROM) == pays

    @pytest.mark.parametrize("kind", ["neighbour-real", "neighbour-centres", "one-network"])
    def test_where_nothing_is_learned_there_is_nothing_to_compile(self, kind):
        assert gradients(MNIST.model_copy(update={"images": kind})) == 0

    @pytest.mark.parametrize("kind", methods.NAMES)
    def test_every_kind_has_a_cost(self, kind):
        assert cost(MNIST.model_copy(update={"images": kind})) > 0
