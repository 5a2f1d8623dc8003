"""Every gradient estimator against the definition, finite differences and a closed form, in
float64."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import nn

import ddcore
from ddcore.distilled import DistilledData
from ddcore.networks import AlexCifarNet, LeNet, ModuleStack, Network, generator
from ddcore.support.errors import InputError
from ddcore.unroll import (
    Objective,
    cross_entropy,
    meta_gradient,
    train,
    train_in_float64,
)


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3))


def squared(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.square().mean((1, 2)) + 0.1 * cross_entropy(logits, labels)


class Case(NamedTuple):
    """A network and what it is trained on."""

    network: Network = ModuleStack(small_net())
    shape: tuple[int, int] = (1, 8)  # channels, side
    steps: int = 2
    epochs: int = 2
    networks: int = 2
    soft: bool = False
    own_batch: bool = True
    objective: Objective = cross_entropy
    classes: int = 3


SIMPLEST = Case(steps=1, epochs=1, networks=1)
STEPS_AND_EPOCHS = Case(steps=3, epochs=2)
SOFT_LABELS = Case(soft=True, networks=3)
LENET = Case(LeNet(1, 28, classes=3), (1, 28), epochs=1, networks=1)
LENET_IN_COLOUR = Case(LeNet(3, 32, classes=3), (3, 32), steps=1, soft=True)
ALEXCIFARNET = Case(AlexCifarNet(classes=3), (3, 32), steps=1, own_batch=False)

CASES = [
    pytest.param(SIMPLEST, id="one step, one epoch"),
    pytest.param(STEPS_AND_EPOCHS, id="steps and epochs"),
    pytest.param(Case(own_batch=False), id="shared batch"),
    pytest.param(SOFT_LABELS, id="soft labels"),
    pytest.param(Case(objective=squared), id="another objective"),
    pytest.param(LENET, id="lenet"),
    pytest.param(LENET_IN_COLOUR, id="lenet, colour, 32"),
    pytest.param(ALEXCIFARNET, id="alexcifarnet"),
]
ESTIMATORS = ["autograd", "back-gradient"]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def inputs(case: Case, device: str = "cpu", dtype: torch.dtype = torch.float64):
    """Distilled data, theta_0 and a batch of real data; float64, as in float32 another order of a
    sum can switch a ReLU or a maximum."""
    rng = torch.Generator().manual_seed(0)
    channels, side = case.shape
    k = case.classes
    images = torch.randn(case.steps, k, channels, side, side, generator=rng, dtype=torch.float64)
    labels = torch.arange(k).expand(case.steps, k)
    lrs = 0.05 + 0.1 * torch.rand(case.epochs, case.steps, generator=rng, dtype=torch.float64)
    soft_labels = None
    if case.soft:
        soft_labels = torch.randn(case.steps, k, k, generator=rng, dtype=torch.float64)
    distilled = DistilledData(images, labels, lrs, soft_labels, meta={"classes": "abc"})
    draws = [case.network.init("xavier", generator(0, j)) for j in range(case.networks)]
    lead = (case.networks,) if case.own_batch else ()
    real = torch.randn(*lead, 5, channels, side, side, generator=rng, dtype=torch.float64)
    answers = torch.randint(k, (*lead, 5), generator=rng)
    theta = torch.stack(draws).double()
    batch = real.to(device, dtype), answers.to(device)
    return distilled.to(device, dtype), theta.to(device, dtype), batch


def relative_errors(found: DistilledData, exact: DistilledData) -> dict[str, float]:
    """|found - exact| / |exact| of images, learning rates and, where there are any, soft labels."""
    ours, right = found.learned().tensors(), exact.learned().tensors()
    assert ours.keys() == right.keys()
    return {
        name: ((ours[name].cpu() - t.cpu()).norm() / t.cpu().norm()).item()
        for name, t in right.items()
    }


class TestTheGradient:
    @pytest.mark.parametrize("case", CASES)
    def test_back_gradient_is_autograd_through_the_unrolled_loop(self, case):
        distilled, theta, batch = inputs(case)
        exact_losses, exact = meta_gradient(
            case.network, distilled, theta, batch, objective=case.objective, estimator="autograd"
        )
        losses, gradient = meta_gradient(
            case.network,
            distilled,
            theta,
            batch,
            objective=case.objective,
            estimator="back-gradient",
        )
        torch.testing.assert_close(losses, exact_losses, rtol=1e-12, atol=0)
        assert gradient.learned().tensors().keys() == distilled.learned().tensors().keys()
        assert max(relative_errors(gradient, exact).values()) < 1e-9

    @pytest.mark.parametrize("case", CASES)
    def test_the_gradient_is_the_slope_of_the_loss(self, case):
        """Central differences along a random direction of images, rates and soft labels."""
        distilled, theta, (real, labels) = inputs(case)
        _, gradient = meta_gradient(
            case.network, distilled, theta, (real, labels), objective=case.objective
        )
        rng = torch.Generator().manual_seed(1)
        for name, g in gradient.learned().tensors().items():
            direction = torch.randn(g.shape, generator=rng, dtype=g.dtype)
            if name == "images":
                direction *= g.norm() / direction.norm()

            def loss(step, name=name, direction=direction):
                moved = replace(distilled, **{name: getattr(distilled, name) + step * direction})
                trained = train(case.network, moved, theta)
                return case.objective(case.network(trained, real), labels).mean().item()

            h = 1e-6
            slope = (loss(h) - loss(-h)) / (2 * h)
            expected = pytest.approx(slope, rel=1e-5, abs=1e-8)
            assert (g * direction).sum().item() == expected, name

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_one_step_on_a_linear_model_has_the_closed_form(self, estimator):
        """eq. 2 and 3 for a linear map without bias: p = softmax(W x).

        With one image, one step from W_0 = 0 and a one-hot target y: W_1 = lr (y - 1/K) x^T, so the
        logits of a real image z are lr (y - 1/K) <x, z>, and dL/dlr = <x, z> (p - t) . (y - 1/K),
        dL/dx = lr ((p - t) . (y - 1/K)) z.
        """
        k = 3
        lr = 0.7
        rng = torch.Generator().manual_seed(0)
        x, z = torch.randn(2, 1, 2, 2, generator=rng, dtype=torch.float64)
        network = ModuleStack(nn.Sequential(nn.Flatten(), nn.Linear(4, k, bias=False)))
        distilled = DistilledData(
            x[None, None],
            torch.tensor([[1]]),
            torch.tensor([[lr]], dtype=torch.float64),
            meta={"classes": "abc"},
        )
        theta = torch.zeros(1, 4 * k, dtype=torch.float64)
        batch = z[None], torch.tensor([2])
        _, gradient = meta_gradient(network, distilled, theta, batch, estimator=estimator)

        y = torch.eye(k, dtype=torch.float64)[1] - 1 / k
        t = torch.eye(k, dtype=torch.float64)[2]
        inner = (x * z).sum()
        slope = ((lr * y * inner).softmax(0) - t) @ y
        assert gradient.lrs.item() == pytest.approx((inner * slope).item(), rel=1e-12)
        torch.testing.assert_close(gradient.images[0, 0], lr * slope * z, rtol=1e-12, atol=1e-15)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_a_soft_label_that_is_one_hot_is_a_label(self, estimator):
        network = STEPS_AND_EPOCHS.network
        hard, theta, batch = inputs(STEPS_AND_EPOCHS)
        soft = replace(hard, soft_labels=hard.targets())
        losses, gradient = meta_gradient(network, hard, theta, batch, estimator=estimator)
        soft_losses, soft_gradient = meta_gradient(network, soft, theta, batch, estimator=estimator)
        assert torch.equal(losses, soft_losses)
        assert torch.equal(gradient.images, soft_gradient.images)
        assert gradient.soft_labels is None
        assert soft_gradient.soft_labels.norm() > 0

    def test_stacking_changes_nothing_but_the_order_of_a_sum(self):
        network = SOFT_LABELS.network
        distilled, theta, (real, labels) = inputs(SOFT_LABELS)
        losses, together = meta_gradient(network, distilled, theta, (real, labels))
        alone = [
            meta_gradient(network, distilled, theta[j : j + 1], (real[j], labels[j]))
            for j in range(3)
        ]
        each_loss = torch.cat([loss for loss, _ in alone])
        torch.testing.assert_close(losses, each_loss, rtol=1e-12, atol=0)
        for name, g in together.learned().tensors().items():
            mean = sum(getattr(gradient, name) for _, gradient in alone) / 3
            torch.testing.assert_close(g, mean, rtol=1e-9, atol=1e-12)

    def test_the_public_function_takes_modules_and_weight_dicts(self):
        network = SIMPLEST.network
        distilled, theta, batch = inputs(SIMPLEST)
        weights = network.unflatten(theta)
        losses, gradient = ddcore.meta_gradient(small_net(), distilled, weights, batch)
        expected, same = meta_gradient(network, distilled, theta, batch)
        assert torch.equal(losses, expected)
        assert torch.equal(gradient.images, same.images)

    def test_another_estimator_is_refused(self):
        given = inputs(SIMPLEST)
        with pytest.raises(InputError, match="'forward': 'back-gradient' or 'autograd'"):
            ddcore.meta_gradient(small_net(), *given, estimator="forward")


class TestTraining:
    def test_training_is_plain_gradient_descent_in_the_stated_order(self):
        """eq. 8 written out: for each epoch, for each step, its own rate; the images tied over the
        epochs."""
        case = STEPS_AND_EPOCHS
        distilled, theta, _ = inputs(case)
        module = small_net().double()
        for j, found in enumerate(train(case.network, distilled, theta)):
            nn.utils.vector_to_parameters(theta[j], module.parameters())
            for e in range(case.epochs):
                for s in range(case.steps):
                    logits = module(distilled.images[s])
                    loss = nn.functional.cross_entropy(logits, distilled.labels[s])
                    gradients = torch.autograd.grad(loss, list(module.parameters()))
                    with torch.no_grad():
                        for parameter, g in zip(module.parameters(), gradients, strict=True):
                            parameter -= distilled.lrs[e, s] * g
            expected = nn.utils.parameters_to_vector(module.parameters())
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(
                lambda d: replace(d, images=d.images.flip(0), labels=d.labels.flip(0)),
                id="order of steps",
            ),
            pytest.param(lambda d: replace(d, lrs=d.lrs.flip(1)), id="rates over steps"),
            pytest.param(lambda d: replace(d, lrs=d.lrs.flip(0)), id="rates over epochs"),
        ],
    )
    def test_order_and_rates_matter(self, change):
        network = STEPS_AND_EPOCHS.network
        distilled, theta, _ = inputs(STEPS_AND_EPOCHS)
        one, other = (train(network, data, theta) for data in (distilled, change(distilled)))
        assert (one - other).norm() > 1e-6

    def test_the_trajectory_is_kept_where_it_is_asked_for(self):
        network = STEPS_AND_EPOCHS.network
        distilled, theta, _ = inputs(STEPS_AND_EPOCHS)
        trajectory = theta.new_empty(6, *theta.shape)
        train(network, distilled, theta, keep=trajectory)
        assert torch.equal(trajectory[0], theta)
        one_epoch = replace(distilled, lrs=distilled.lrs[:1])
        assert torch.equal(trajectory[3], train(network, one_epoch, theta))

    def test_float64_does_not_depend_on_the_order_of_a_sum(self):
        network = LENET.network
        distilled, theta, _ = inputs(LENET._replace(networks=3), dtype=torch.float32)
        together = train_in_float64(network, distilled, theta)
        alone = [train_in_float64(network, distilled, one) for one in theta.split(1)]
        in_float32 = train(network, distilled, theta)
        assert together.dtype == torch.float32
        torch.testing.assert_close(together, in_float32, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(together, torch.cat(alone), rtol=2e-7, atol=0)


@needs_cuda
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_agrees_with_the_cpu(case):
    _, expected = meta_gradient(case.network, *inputs(case, "cpu"))
    _, found = meta_gradient(case.network, *inputs(case, "cuda"))
    assert max(relative_errors(found, expected).values()) < 1e-9
