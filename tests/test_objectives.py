"""Adaptation and poisoning (sections 3.5 and 4.2): the data that the outer loss is asked on."""

import pytest
import torch

from ddcore.datasets import load
from ddcore.objectives import matched, poisoned, relabelled
from ddcore.support.errors import InputError

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def digits():
    return load("digits")


class TestPoisoning:
    @pytest.mark.parametrize("split", SPLITS)
    def test_poisoned_data_differs_in_the_labels_of_one_class(self, digits, split):
        x, y = getattr(digits, split)
        same, changed = getattr(poisoned(digits, 3, 8), split)
        assert (y == 3).any()
        assert x is same
        assert (changed[y == 3] == 8).all()
        assert torch.equal(changed[y != 3], y[y != 3])

    def test_labels_of_any_shape_are_changed(self):
        labels = torch.tensor([[0, 1], [2, 1]])
        assert relabelled(labels, 1, 2).tolist() == [[0, 2], [2, 2]]

    @pytest.mark.parametrize(
        ("attacked", "target", "said"),
        [
            pytest.param(3, 3, "attacked=3 and target=3: two different classes", id="the same"),
            pytest.param(10, 1, "attacked=10 is no class of digits", id="no such attacked"),
            pytest.param(0, -1, "target=-1 is no class of digits", id="no such target"),
        ],
    )
    def test_classes_that_cannot_be_attacked_are_named(self, digits, attacked, target, said):
        with pytest.raises(InputError, match=said):
            poisoned(digits, attacked, target)


class TestAdaptation:
    def test_grey_images_are_repeated_for_networks_that_read_colours(self, digits):
        wide = matched(digits, "svhn", list(digits.classes), 3)
        assert wide.shape == (3, 28)
        for split in SPLITS:
            for channel in range(3):
                grey = getattr(digits, split)[0][:, 0]
                assert torch.equal(getattr(wide, split)[0][:, channel], grey)
        assert wide.mean == digits.mean * 3
        assert wide.std == digits.std * 3

    def test_data_that_fits_stays_as_it_is(self, digits):
        assert matched(digits, "mnist", list(digits.classes), 1) is digits

    def test_colours_are_refused_where_networks_read_grey(self, digits):
        wide = matched(digits, "svhn", digits.classes, 3)
        said = "images of 1 channels and digits has 3"
        with pytest.raises(InputError, match=said):
            matched(wide, "mnist", digits.classes, 1)

    def test_a_class_of_only_one_is_named(self, digits):
        with pytest.raises(InputError, match="digits: 9 is a class of only one"):
            matched(digits, "nine", digits.classes[:9], 1)

    def test_another_order_of_the_classes_is_refused(self, digits):
        with pytest.raises(InputError, match="their order"):
            matched(digits, "mixed", digits.classes[::-1], 1)
