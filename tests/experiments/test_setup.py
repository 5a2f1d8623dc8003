"""A configuration made concrete: its data, its network, and where initial weights come from."""

import pytest
import torch

from ddcore import datasets
from ddcore.experiments.config import Config
from ddcore.experiments.setup import prepare
from ddcore.networks import AlexCifarNet, LeNet, generator
from ddcore.support.errors import InputError

pytestmark = pytest.mark.usefixtures("apart")
DIGITS = Config(dataset="digits", seed=3)


class TestPrepare:
    def test_the_network_fits_the_data(self, pictures):
        folder = pictures("abc", mode="RGB", side=32)
        setup = prepare(Config(dataset=f"folder:{folder}", network="alexcifarnet"))
        assert isinstance(setup.network, AlexCifarNet) and setup.data.classes == ("a", "b", "c")
        assert setup.network.shapes == AlexCifarNet(3, 32, 3).shapes

    def test_a_network_that_does_not_take_the_images_is_refused(self):
        with pytest.raises(InputError, match="AlexCifarNet.*32x32"):
            prepare(Config(dataset="digits", network="alexcifarnet"))

    @pytest.mark.parametrize("images", ["random-real", "best-of-many", "centres", "neighbour-real"])
    def test_a_class_of_too_few_images_is_refused(self, images):
        with pytest.raises(InputError, match="training images; 1000 are asked for"):
            prepare(DIGITS.model_copy(update={"images": images, "steps": 1000}))

    @pytest.mark.parametrize("images", ["distilled", "averages", "all"])
    def test_kinds_that_choose_no_images_need_not_have_so_many(self, images):
        prepare(DIGITS.model_copy(update={"images": images, "steps": 1000}))

    def test_data_that_is_not_here_is_named(self):
        with pytest.raises(InputError, match="^mnist is not there"):
            prepare(Config(dataset="mnist"), download=False)

    def test_classes_that_are_not_the_sources_are_refused(self, pictures):
        config = Config(dataset=f"folder:{pictures()}", source="digits", pool=1)
        with pytest.raises(InputError, match="digits cannot be adapted to .*: 0 is a class of"):
            prepare(config)


class TestOuterData:
    """What the outer loss is computed on."""

    def test_it_is_the_dataset(self):
        setup = prepare(DIGITS)
        assert setup.outer_data is setup.data and setup.labelled is None

    def test_of_an_attack_it_has_one_class_relabelled(self):
        setup = prepare(DIGITS.model_copy(update={"attacked": 3, "target": 8}))
        true = setup.data.train[1]
        asked = setup.outer_data.train[1]
        assert setup.data.sha256 == datasets.load("digits").sha256
        assert (asked[true == 3] == 8).all() and torch.equal(asked[true != 3], true[true != 3])
        assert setup.labelled.tolist() == [0, 1, 2, 8, 4, 5, 6, 7, 8, 9]


class TestWeights:
    def test_networks_are_numbered_in_streams(self):
        setup = prepare(DIGITS)
        four = setup.weights(4)
        assert torch.equal(four[2:], setup.weights(2, first=2))
        expected = LeNet().init("xavier", generator(3, "test", 2))
        assert torch.equal(four[2], expected)

    def test_choices_are_made_on_others(self):
        setup = prepare(DIGITS)
        both = torch.cat([setup.weights(4), setup.weights(4, "validation")])
        assert len(both.unique(dim=0)) == 8

    def test_another_seed_and_another_law_give_others(self):
        theta = prepare(DIGITS).weights(1)
        for other in ({"seed": 4}, {"init": "he"}):
            assert not torch.equal(prepare(DIGITS.model_copy(update=other)).weights(1), theta)

    def test_a_fixed_init_is_one_network(self):
        setup = prepare(DIGITS.model_copy(update={"fixed": True}))
        theta = setup.weights(1)
        assert theta.shape[0] == 1 and torch.equal(setup.weights(9, "validation", 4), theta)
        law = setup.init_law()
        assert torch.equal(law(generator(0)), theta[0]) and torch.equal(law(generator(1)), theta[0])

    def test_a_law_draws_anew(self):
        law = prepare(DIGITS).init_law()
        assert torch.equal(law(generator(7)), LeNet().init("xavier", generator(7)))
        assert not torch.equal(law(generator(7)), law(generator(8)))
