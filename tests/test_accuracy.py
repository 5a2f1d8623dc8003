"""What networks take images for: accuracy, confusion, and the columns of an attack."""

import pytest
import torch
from torch import nn

from ddcore.accuracy import CHUNK, attack_scores, confusion, evaluate, predict
from ddcore.datasets import load
from ddcore.distilled import DistilledData
from ddcore.networks import LeNet, ModuleStack, generator
from ddcore.support.errors import InputError
from ddcore.unroll import meta_gradient


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def lenets(count: int) -> torch.Tensor:
    return torch.stack([LeNet().init("xavier", generator(j)) for j in range(count)])


class TestAccuracy:
    def test_it_is_the_share_of_right_answers_of_each_network(self, digits):
        theta = lenets(3)
        x, y = digits.test
        logits = LeNet()(theta, x)
        for found, own in zip(evaluate(LeNet(), theta, x, y), logits, strict=True):
            right = sum(int(row.argmax()) == int(k) for row, k in zip(own, y, strict=True))
            assert found.item() == right / len(y)

    @pytest.mark.parametrize("networks", [1, 3, CHUNK + 1])
    def test_predictions_come_in_the_images_order_however_many_at_once(self, networks):
        network = ModuleStack(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        images = torch.randn(CHUNK + 5, 1, 2, 2, generator=generator(0))
        theta = torch.randn(networks, 15, generator=generator(1))
        expected = network(theta, images).argmax(-1)
        assert torch.equal(predict(network, theta, images), expected)

    def test_a_network_s_name_is_enough_where_the_images_are_at_hand(self):
        rng = generator(0)
        network = LeNet(3, 32, 10)
        images = torch.randn(6, 3, 32, 32, generator=rng)
        labels = torch.arange(6)
        weights = network.init("xavier", rng)[None]
        by_name, as_it_is = (evaluate(of, weights, images, labels) for of in ("lenet", network))
        assert torch.equal(by_name, as_it_is)

        meta = {"classes": "0123456789"}
        distilled = DistilledData(images[None], labels[None], torch.full((1, 1), 0.1), meta=meta)
        batch = images, labels
        _, by_name = meta_gradient("lenet", distilled, weights, batch)
        _, as_it_is = meta_gradient(network, distilled, weights, batch)
        assert torch.equal(by_name.images, as_it_is.images)

    def test_weights_of_another_network_are_refused(self, digits):
        with pytest.raises(InputError, match="the weights do not belong to lenet"):
            evaluate("lenet", {"fc1.weight": torch.zeros(1, 2, 2)}, *digits.test)


class TestConfusion:
    def test_it_counts_every_image_once(self, digits):
        network = LeNet()
        theta = lenets(3)
        x, y = digits.test
        taken = confusion(network, theta, x, y)
        right = taken.diagonal(dim1=1, dim2=2).sum(1) / len(y)
        torch.testing.assert_close(
            right.double(), evaluate(network, theta, x, y), rtol=0, atol=1e-6
        )
        assert (taken.sum(2) == y.bincount()).all()
        seen = network(theta, x).argmax(-1)
        assert taken[1, 4, 7] == ((y == 4) & (seen[1] == 7)).sum()

    def test_it_counts_the_classes_of_any_network(self):
        network = ModuleStack(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
        images = torch.randn(5, 1, 4, 4, generator=generator(0))
        labels = torch.tensor([0, 0, 1, 1, 1])
        theta = torch.stack([network.init("xavier", generator(j)) for j in range(2)])
        taken = confusion(network, theta, images, labels)
        assert taken.shape == (2, 3, 3)
        assert taken.sum(2).tolist() == [[2, 3, 0]] * 2


class TestAttackScores:
    def test_they_are_what_they_are_called(self, digits):
        network = LeNet()
        theta = lenets(3)
        x, y = digits.test
        attacked, target = 5, 6  # which one of the networks takes some images for
        scores = attack_scores(network, theta, x, y, attacked, target)
        seen = network(theta, x).argmax(-1)  # [N, B]
        modified = torch.where(y == attacked, target, y)
        of_class = [(seen[:, y == k] == k).double().mean(1) for k in range(10)]
        expected = {
            "test_accuracy": (seen == y).double().mean(1),
            "attacked_correct": (seen[:, y == attacked] == attacked).double().mean(1),
            "attacked_as_target": (seen[:, y == attacked] == target).double().mean(1),
            "accuracy_wrt_modified": (seen == modified).double().mean(1),
            "class_accuracy": torch.stack(of_class, 1),
        }
        assert scores.keys() == expected.keys()
        assert min(t.max() for t in expected.values()) > 0
        for name, t in expected.items():
            torch.testing.assert_close(scores[name], t, rtol=0, atol=1e-12, msg=name)
