"""Distilled data: what belongs together, in which order, and with which labels."""

from dataclasses import replace

import torch

from ddcore.datasets import load
from ddcore.distilled import DistilledData, Learned, class_major
from ddcore.networks import LeNet, generator

S, n, K, E = 2, 3, 3, 2
META = {
    "dataset": "digits",
    "architecture": "lenet",
    "classes": ["a", "b", "ü"],
    "mean": [0.1],
    "std": [0.3],
}


def init() -> dict[str, torch.Tensor]:
    rng = generator("init")
    shapes = LeNet(classes=K).shapes
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def example(*, soft: bool = False, fixed: bool = False) -> DistilledData:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(S, n, 1, 28, 28, generator=rng)
    lrs = torch.rand(E, S, generator=rng)
    labels = torch.tensor([[0, 1, 2], [2, 1, 0]])
    soft_labels = None
    if soft:
        soft_labels = torch.randn(S, n, K, generator=rng)
        labels = soft_labels.argmax(-1)
    return DistilledData(images, labels, lrs, soft_labels, init() if fixed else None, META)


class TestDistilledData:
    def test_targets_are_one_hot(self):
        assert torch.equal(example().targets()[1], torch.eye(3).flip(0))

    def test_soft_labels_are_targets(self):
        soft = example(soft=True)
        assert torch.equal(soft.targets(), soft.soft_labels)

    def test_without_names_the_labels_show_how_many_classes_there_are(self):
        assert replace(example(), meta={}).targets().shape == (S, n, K)
        named = replace(example(), meta={"classes": "abcde"})
        assert named.targets().shape == (S, n, 5)

    def test_the_order_passes_through_all_steps_of_an_epoch_first(self):
        assert example().order() == [(0, 0), (0, 1), (1, 0), (1, 1)]

    def test_to_float64_keeps_the_labels(self):
        moved = example(fixed=True).to(torch.float64)
        assert moved.images.dtype == moved.lrs.dtype == torch.float64
        assert moved.init["fc3.bias"].dtype == torch.float64
        assert moved.labels.dtype == torch.int64
        assert moved.targets().dtype == torch.float64

    def test_what_is_learned_can_be_replaced(self):
        data = example(soft=True, fixed=True)
        doubled = data.with_learned(data.learned().map(lambda t: 2 * t))
        assert torch.equal(doubled.images, 2 * data.images)
        assert torch.equal(doubled.lrs, 2 * data.lrs)
        assert torch.equal(doubled.soft_labels, 2 * data.soft_labels)
        assert doubled.labels is data.labels
        assert doubled.init is data.init


class TestLearned:
    def test_a_function_maps_each_tensor_that_is_there(self):
        hard = Learned(torch.ones(2), torch.ones(3))
        assert hard.map(lambda t: 2 * t).soft_labels is None
        total = hard.map(torch.add, Learned(torch.ones(2), 2 * torch.ones(3)))
        assert total.images.tolist() == [2, 2]
        assert total.lrs.tolist() == [3, 3, 3]

    def test_tensors_are_named(self):
        hard = Learned(torch.ones(2), torch.ones(3))
        soft = hard._replace(soft_labels=torch.ones(4))
        assert list(hard.tensors()) == ["images", "lrs"]
        assert list(soft.tensors()) == ["images", "lrs", "soft_labels"]


class TestClassMajor:
    def test_each_class_has_its_images_in_a_row_and_the_dataset_s_names(self):
        digits = load("digits")
        data = class_major(digits, torch.zeros(2, 30, 1, 28, 28), torch.ones(4, 2))
        assert data.labels.tolist() == [sorted([*range(10)] * 3)] * 2
        expected = {"dataset": "digits", "classes": digits.classes, "steps": 2, "epochs": 4}
        assert {name: data.meta[name] for name in expected} == expected
        assert (data.meta["mean"], data.meta["std"]) == (digits.mean, digits.std)

    def test_a_class_may_carry_the_label_of_another(self):
        labelled = torch.tensor([0, 1, 2, 8, 4, 5, 6, 7, 8, 9])
        images = torch.zeros(1, 20, 1, 28, 28)
        data = class_major(load("digits"), images, torch.ones(1, 1), labelled)
        assert data.labels[0].tolist() == labelled.repeat_interleave(2).tolist()
