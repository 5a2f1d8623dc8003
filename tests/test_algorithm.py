"""Algorithm 1 on the embedded digits: one outer step is the paper's, and the loop around it learns
and is reproducible."""

import math
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from ddcore.accuracy import evaluate
from ddcore.algorithm import (
    Samples,
    adam_step,
    clipped,
    distill,
    initial_noise,
    mean_of_samples,
    no_gradient,
    outer_step,
    samples_of_steps,
    validation_accuracy,
)
from ddcore.datasets import load
from ddcore.distilled import DistilledData, Learned
from ddcore.networks import LeNet, ModuleStack, Network, generator
from ddcore.recipe import Recipe
from ddcore.support.errors import MachineError
from ddcore.support.progress import ROLLBACKS, Distillation, OuterState
from ddcore.support.runtime import Process
from ddcore.unroll import meta_gradient, train

SMALL = ModuleStack(nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 10)))
QUICK = Recipe(
    iterations=40, samples=3, batch=32, image_rate=0.1, raw_rate=0.05, first_lr=0.5, checks=4
)


def law(rng: torch.Generator) -> torch.Tensor:
    return SMALL.init("xavier", rng)


def distillation(recipe: Recipe = QUICK, init=law, network=SMALL, **options) -> Distillation:
    options = {"epochs": 1, "progress": False, **options}
    return distill(network, load("digits"), init, recipe=recipe, **options)


def noise(recipe: Recipe = QUICK, *, steps=1, epochs=1, soft_labels=False) -> DistilledData:
    return initial_noise(load("digits"), steps, epochs, 1, soft_labels, recipe, seed=0)


def random_gradient(distilled: DistilledData, seed: int = 0) -> Learned:
    """Numbers of very different sizes in the shapes of what is learned."""
    rng = generator("gradient", seed)
    return distilled.learned().map(
        lambda t: (
            torch.randn(t.shape, generator=rng, dtype=t.dtype)
            * 10.0 ** torch.randint(-6, 2, t.shape, generator=rng)
        )
    )


def is_same(a: Learned | None, b: Learned | None) -> bool:
    if a is None or b is None:
        return a is b
    one, other = a.tensors(), b.tensors()
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


class TestLearning:
    def test_a_fixed_init_learns_to_read_digits(self):
        network = LeNet()
        data = load("digits")
        theta = network.init("xavier", generator(0, "init"))
        recipe = replace(QUICK, samples=1, first_lr=0.2)
        found = distillation(
            recipe, lambda rng: theta, network, epochs=3, validation_weights=theta[None]
        )
        trained = train(network, found.distilled, theta[None])
        before = evaluate(network, theta[None], *data.test).item()
        after = evaluate(network, trained, *data.test).item()
        assert after > before + 0.3
        assert [look["step"] for look in found.history] == [10, 20, 30, 40]

    def test_random_inits_learn(self):
        assert distillation().history[-1]["accuracy"] > 0.4

    def test_the_same_seed_gives_the_same_images_and_another_others(self):
        first, again = (distillation().distilled for _ in range(2))
        other = distillation(seed=1).distilled
        assert is_same(first.learned(), again.learned())
        assert not torch.equal(first.images, other.images)

    def test_images_rates_and_soft_labels_are_all_learned(self):
        distilled = distillation(soft_labels=True, steps=2, epochs=2).distilled
        assert distilled.images.shape == (2, 10, 1, 28, 28)
        assert distilled.lrs.shape == (2, 2)
        assert distilled.lrs.unique().numel() == 4
        assert (distilled.lrs > 0).all()
        assert not torch.equal(distilled.soft_labels, torch.eye(10).expand(2, 10, 10))

    @pytest.mark.parametrize("name", ["xavier", "he"])
    def test_an_init_by_name_is_the_law_of_that_name(self, name):
        recipe = replace(QUICK, iterations=8)
        by_name = distillation(recipe, name)
        by_function = distillation(recipe, lambda rng: SMALL.init(name, rng))
        assert is_same(by_name.distilled.learned(), by_function.distilled.learned())

    def test_a_network_by_name_is_built_for_the_images(self):
        recipe = replace(QUICK, iterations=2, checks=1)
        by_name = distillation(recipe, "xavier", "lenet")
        as_it_is = distillation(recipe, "xavier", LeNet())
        assert is_same(by_name.distilled.learned(), as_it_is.distilled.learned())
        assert by_name.distilled.meta["architecture"] == "lenet"

    def test_the_distilled_data_says_what_it_was_made_of(self):
        recipe = replace(QUICK, iterations=2, checks=0)
        found = distillation(recipe, steps=2, epochs=3)
        meta = found.distilled.meta
        expected = {
            "dataset": "digits",
            "architecture": "Sequential",
            "objective": "cross_entropy",
            "steps": 2,
            "epochs": 3,
        }
        assert {name: meta[name] for name in expected} == expected
        assert found.distilled.init is None
        assert (found.best_step, found.ended, found.rollbacks) == (2, 2, 0)
        assert (found.history, found.seconds_before, found.devices) == ([], 0.0, [])


class TestInitialNoise:
    def test_it_is_noise_with_equal_rates_and_class_major_labels(self):
        start = initial_noise(load("digits"), 3, 2, 2, False, QUICK, seed=0)
        assert start.images.std().item() == pytest.approx(QUICK.noise, rel=0.02)
        assert torch.equal(start.lrs, torch.full((2, 3), QUICK.first_lr))
        assert torch.equal(start.labels, torch.arange(10).repeat_interleave(2).expand(3, -1))
        assert start.soft_labels is None

    def test_soft_labels_start_as_the_labels(self):
        start = noise(soft_labels=True)
        assert torch.equal(start.soft_labels, noise().targets())


def algorithm_1(
    network: Network,
    distilled: DistilledData,
    recipe: Recipe,
    paces: list[float],
    samples: list[Samples],
) -> tuple[list[float], DistilledData]:
    """Lines 3 to 9 of the paper's Algorithm 1 as they are printed, for one outer step after the
    other, by PyTorch's autograd and Adam alone.

    What the paper does not print: learning rates are softplus(raw), and the gradient is clipped.
    """

    def loss(theta, images, targets):
        log_p = network(theta[None], images)[0].log_softmax(-1)
        return -(targets * log_p).sum(-1).mean()

    images, lrs, soft_labels = distilled.learned()
    raw = torch.log(torch.exp(lrs) - 1)
    rates = {"images": recipe.image_rate, "raw": recipe.raw_rate, "labels": recipe.label_rate}
    leaves = {"images": images, "raw": raw}
    if soft_labels is not None:
        leaves["labels"] = soft_labels
    leaves = {name: t.clone().requires_grad_() for name, t in leaves.items()}
    groups = [{"params": [t], "lr": rates[name]} for name, t in leaves.items()]
    adam = torch.optim.Adam(groups, betas=(0.5, 0.999))
    losses = []
    for pace, (weights, (real, labels)) in zip(paces, samples, strict=True):
        rate = nn.functional.softplus(leaves["raw"])
        targets = leaves.get("labels", distilled.targets())
        epochs, steps = rate.shape
        total = torch.zeros((), dtype=images.dtype)
        for j in range(recipe.samples):  # lines 3 to 5: a batch of real data, theta_0 ~ p
            theta = weights[j].clone().requires_grad_()
            for e in range(epochs):  # line 6, as eq. 8 repeats it
                for s in range(steps):
                    inner = loss(theta, leaves["images"][s], targets[s])
                    (gradient,) = torch.autograd.grad(inner, theta, create_graph=True)
                    theta = theta - rate[e, s] * gradient
            one_hot = nn.functional.one_hot(labels[j], 10)
            total = total + loss(theta, real[j], one_hot)  # line 7
        adam.zero_grad()
        (total / recipe.samples).backward()  # lines 8 and 9
        if recipe.clip:
            factor = min(1.0, recipe.clip / leaves["images"].grad.norm().item())
            leaves["images"].grad *= factor
            leaves["raw"].grad *= factor
        for group, rate_of_group in zip(adam.param_groups, rates.values(), strict=False):
            group["lr"] = rate_of_group * pace
        adam.step()
        losses.append(total.item() / recipe.samples)
    found = {name: t.detach() for name, t in leaves.items()}
    lrs = nn.functional.softplus(found["raw"])
    learned = Learned(found["images"], lrs, found.get("labels"))
    return losses, distilled.with_learned(learned)


def double_samples(recipe: Recipe, count: int) -> list[Samples]:
    """Samples of the first outer steps in float64."""
    drawn = samples_of_steps(law, load("digits"), recipe, 0, 0, ahead=False)
    singles = [next(drawn) for _ in range(count)]
    return [Samples(theta.double(), (x.double(), y)) for theta, (x, y) in singles]


def gradient_of(distilled, theta, batch):
    return meta_gradient(SMALL, distilled, theta, batch)


class TestOuterStep:
    @pytest.mark.parametrize(
        ("changes", "options"),
        [
            pytest.param({}, {}, id="one step"),
            pytest.param({}, {"steps": 2, "epochs": 3}, id="steps and epochs"),
            pytest.param({}, {"steps": 2, "soft_labels": True}, id="soft labels"),
            pytest.param({"clip": 0.0}, {"epochs": 2}, id="without clipping"),
            pytest.param({"clip": 1e-3}, {"soft_labels": True}, id="clipped"),
            pytest.param({"samples": 1}, {}, id="one sample"),
        ],
    )
    def test_it_is_the_paper_s_algorithm_written_out(self, changes, options):
        recipe = replace(QUICK, **changes)
        distilled = noise(recipe, **options).to(torch.double)
        # the learning rates differ, so that none can stand for another
        spread = torch.linspace(0.5, 1.5, distilled.lrs.numel(), dtype=torch.double)
        distilled = replace(distilled, lrs=distilled.lrs * spread.view_as(distilled.lrs))
        samples = double_samples(recipe, 3)
        if recipe.samples == 1:  # whose batch has no axis of samples
            written = [Samples(theta, (x[None], y[None])) for theta, (x, y) in samples]
        else:
            written = samples
        paces = [1.0, 0.5, 0.25]
        losses, expected = algorithm_1(SMALL, distilled, recipe, paces, written)

        state = OuterState.start(distilled, recipe)
        for pace, sample, loss in zip(paces, samples, losses, strict=True):
            state, found = outer_step(state, sample, gradient_of, recipe, pace)
            assert found == pytest.approx(loss, rel=1e-12)
        assert state.updates == 3
        for name, t in expected.learned().tensors().items():
            found = getattr(state.distilled(), name)
            torch.testing.assert_close(found, t, rtol=0, atol=1e-9, msg=name)
            assert not torch.equal(found, getattr(distilled, name))

    def test_it_leaves_the_state_it_is_given_as_it_was(self):
        recipe = replace(QUICK, average=0.5)
        distilled = noise(recipe, steps=2, soft_labels=True).to(torch.double)
        first, second = double_samples(recipe, 2)
        state, _ = outer_step(OuterState.start(distilled, recipe), first, gradient_of, recipe, 1.0)
        groups = ("learned", "first", "second", "mean")
        before = {name: getattr(state, name).map(torch.clone) for name in groups}
        after, _ = outer_step(state, second, gradient_of, recipe, 1.0)
        assert all(is_same(getattr(state, name), before[name]) for name in groups)
        assert not any(is_same(getattr(after, name), before[name]) for name in groups)
        assert (state.updates, after.updates) == (1, 2)

    def test_what_a_state_gives_away_is_a_copy(self):
        state = OuterState.start(noise(soft_labels=True), QUICK)
        before = state.learned.map(torch.clone)
        for t in state.distilled().learned().tensors().values():
            t.zero_()
        assert is_same(state.learned, before)

    def test_the_state_starts_as_the_distilled_data(self):
        distilled = noise(steps=2, epochs=2, soft_labels=True)
        found = OuterState.start(distilled, QUICK).distilled()
        assert torch.equal(found.images, distilled.images)
        assert torch.equal(found.soft_labels, distilled.soft_labels)
        torch.testing.assert_close(found.lrs, distilled.lrs)  # softplus(raw) rounds


class TestAdam:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("soft_labels", [False, True], ids=["hard labels", "soft labels"])
    def test_a_step_is_pytorch_s_bit_for_bit(self, soft_labels, dtype):
        recipe = replace(QUICK, image_rate=0.1, raw_rate=0.05, label_rate=0.02)
        distilled = noise(steps=2, epochs=2, soft_labels=soft_labels).to(dtype)
        state = OuterState.start(distilled, recipe)
        own = list(state.learned.map(torch.clone).tensors().values())
        rates = [0.1, 0.05, 0.02][: len(own)]
        adam = torch.optim.Adam([{"params": [t]} for t in own], betas=(0.5, 0.999))
        for k, pace in enumerate([0.05, 0.1, 1.0, 0.7, 0.5, 0.25]):
            gradient = random_gradient(distilled, k)
            for t, g, group, rate in zip(
                own, gradient.tensors().values(), adam.param_groups, rates, strict=True
            ):
                t.grad = g
                group["lr"] = rate * pace
            adam.step()
            state = adam_step(state, gradient, recipe, pace)
            for ours, pytorchs in zip(state.learned.tensors().values(), own, strict=True):
                assert torch.equal(ours, pytorchs)

    def test_the_running_mean_follows_images_rates_and_soft_labels(self):
        recipe = replace(QUICK, average=0.75)
        distilled = noise(soft_labels=True)
        states = [OuterState.start(distilled, recipe)]
        for k in range(2):
            states.append(adam_step(states[-1], random_gradient(distilled, k), recipe, 1.0))
        for name, mean in states[-1].mean.tensors().items():
            a, b, c = (getattr(state.learned, name) for state in states)
            torch.testing.assert_close(mean, 0.75**2 * a + 0.75 * 0.25 * b + 0.25 * c)

    def test_the_running_mean_is_a_candidate_where_it_is_kept(self):
        without = OuterState.start(noise(), QUICK)
        with_mean = OuterState.start(noise(), replace(QUICK, average=0.5))
        assert list(without.candidates()) == ["accuracy"]
        assert list(with_mean.candidates()) == ["accuracy", "accuracy_of_mean"]


class TestClipping:
    def test_it_bounds_the_images_norm_and_keeps_the_direction(self):
        gradient = Learned(100 * torch.randn(1, 10, 1, 28, 28), torch.ones(1, 1))
        bounded = clipped(gradient, 0.1)
        assert bounded.images.norm().item() == pytest.approx(0.1)
        direction = gradient.images / gradient.images.norm()
        torch.testing.assert_close(bounded.images / bounded.images.norm(), direction)
        torch.testing.assert_close(bounded.lrs, 0.1 / gradient.images.norm() * gradient.lrs)

    def test_it_leaves_a_small_gradient_and_soft_labels_as_they_are(self):
        small = Learned(torch.full((1, 1, 2), 1e-3), torch.ones(1, 1), torch.full((1, 1, 3), 9.0))
        assert is_same(clipped(small, 0.1), small)
        large = small._replace(images=100 * small.images)
        assert torch.equal(clipped(large, 0.1).soft_labels, small.soft_labels)

    def test_without_a_norm_nothing_is_clipped(self):
        gradient = Learned(torch.full((1, 1, 2), 1e6), torch.ones(1, 1))
        assert clipped(gradient, 0.0) is gradient


def of_rank(monkeypatch, rank: int, world_size: int) -> None:
    """As if torchrun had started this process and others."""
    monkeypatch.setattr("ddcore.algorithm.process", lambda: Process(rank, world_size))


class TestSamples:
    recipe = Recipe(6, samples=3, batch=8)

    def samples(self, recipe=recipe, *, init=law, ahead=False, first=0) -> list[Samples]:
        return list(samples_of_steps(init, load("digits"), recipe, 0, first, ahead=ahead))

    def test_threads_draw_the_samples_that_would_be_drawn_without_them(self):
        drawn = []

        def counted(rng):
            drawn.append(rng)
            return torch.randn(5, generator=rng)

        plain = self.samples(init=counted, first=2)
        assert (len(plain), len(drawn)) == (4, 12)
        ahead = self.samples(init=counted, first=2, ahead=True)
        assert (len(ahead), len(drawn)) == (4, 24)
        for (theta, batch), (same, same_batch) in zip(plain, ahead, strict=True):
            assert torch.equal(theta, same)
            assert all(map(torch.equal, batch, same_batch))

    def test_threads_that_draw_are_gone_when_the_run_is_cut_off(self):
        before = threading.active_count()
        recipe = Recipe(9, samples=2)
        samples = samples_of_steps(law, load("digits"), recipe, 0, 0, ahead=True)
        next(samples)
        assert threading.active_count() > before
        samples.close()
        assert threading.active_count() == before

    def test_a_later_start_draws_what_would_have_come_then(self):
        whole, rest = self.samples(), self.samples(first=4)
        assert len(rest) == 2
        for one, other in zip(whole[4:], rest, strict=True):
            assert torch.equal(one.theta, other.theta)
            assert all(map(torch.equal, one.batch, other.batch))

    def test_each_network_has_weights_and_a_batch_of_its_own(self):
        theta, (images, labels) = self.samples()[0]
        assert theta.shape == (3, law(generator()).numel())
        assert images.shape == (3, 8, 1, 28, 28)
        assert labels.shape == (3, 8)
        assert len(theta.unique(dim=0)) == len(images.unique(dim=0)) == 3

    def test_a_common_batch_is_shared_by_the_networks_and_new_in_each_step(self):
        first, second, *_ = self.samples(replace(self.recipe, common_batch=True))
        for theta, (images, labels) in (first, second):
            assert len(theta) == 3
            assert images.shape == (8, 1, 28, 28)
            assert labels.shape == (8,)
        assert not torch.equal(first.batch[0], second.batch[0])


class TestProcesses:
    """Samples are shared among processes, each of which adds its part of the mean."""

    def test_together_they_draw_the_samples_of_one(self, monkeypatch):
        alone = next(samples_of_steps(law, load("digits"), QUICK, 0, 0, ahead=False))
        for rank, own in {0: [0, 2], 1: [1]}.items():
            of_rank(monkeypatch, rank, 2)
            part = next(samples_of_steps(law, load("digits"), QUICK, 0, 0, ahead=False))
            assert torch.equal(part.theta, alone.theta[own])
            assert torch.equal(part.batch[0].view(-1, 32, 1, 28, 28), alone.batch[0][own])
            assert torch.equal(part.batch[1].view(-1, 32), alone.batch[1][own])

    def test_the_parts_add_up_to_the_mean(self):
        distilled = noise(steps=2, soft_labels=True).to(torch.double)
        theta, (images, labels) = double_samples(QUICK, 1)[0]
        losses, gradients = gradient_of(distilled, theta, (images, labels))
        total_loss, total = mean_of_samples(losses, gradients, 3)
        torch.testing.assert_close(total_loss, losses.mean())
        assert is_same(total, gradients.learned())

        two = gradient_of(distilled, theta[:2], (images[:2], labels[:2]))
        one = gradient_of(distilled, theta[2:], (images[2], labels[2]))
        none = no_gradient(distilled, torch.zeros(0), (torch.zeros(0), torch.zeros(0)))
        parts = [mean_of_samples(*part, 3) for part in (two, one, none)]
        assert sum(loss for loss, _ in parts).item() == pytest.approx(total_loss.item(), rel=1e-12)
        for name, t in total.tensors().items():
            summed = sum(getattr(learned, name) for _, learned in parts)
            torch.testing.assert_close(summed, t, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("soft_labels", [False, True], ids=["hard labels", "soft labels"])
    def test_one_without_a_sample_contributes_zero(self, monkeypatch, soft_labels):
        of_rank(monkeypatch, 3, 4)  # of three samples
        samples = next(samples_of_steps(law, load("digits"), QUICK, 0, 0, ahead=False))
        assert len(samples.theta) == 0
        distilled = noise(soft_labels=soft_labels)
        loss, gradient = mean_of_samples(*no_gradient(distilled, *samples), QUICK.samples)
        assert loss.item() == 0
        assert gradient.tensors().keys() == distilled.learned().tensors().keys()
        for name, t in gradient.tensors().items():
            assert torch.equal(t, torch.zeros_like(getattr(distilled, name)))

    def test_one_without_a_sample_goes_through_the_loop(self, monkeypatch):
        of_rank(monkeypatch, 3, 4)
        start = OuterState.start(noise(), QUICK).distilled()
        found = distillation(replace(QUICK, iterations=3, checks=0))
        assert found.ended == 3
        assert is_same(found.distilled.learned(), start.learned())


class TestSchedules:
    def test_ours_rises_and_falls_along_lines(self):
        recipe = Recipe(iterations=1000)
        assert recipe.schedule(0) == 0.05
        assert recipe.schedule(500) == 0.5
        assert recipe.schedule(999) == pytest.approx(0.001)

    def test_the_paper_s_is_halved_every_tenth_of_the_run(self):
        recipe = Recipe.faithful(iterations=1000)
        assert recipe.schedule(0) == recipe.schedule(99) == 1
        assert recipe.schedule(100) == 0.5
        assert recipe.schedule(999) == 0.5**9

    def test_the_paper_s_other_settings(self):
        recipe = Recipe.faithful()
        assert (recipe.iterations, recipe.samples, recipe.batch) == (23_600, 1, 1024)
        assert (recipe.noise, recipe.clip, recipe.checks) == (1.0, 0.0, 0)
        assert recipe.image_rate == recipe.raw_rate == recipe.label_rate == 0.01
        assert recipe.common_batch
        assert recipe.first_lr == 0.02
        assert Recipe.faithful(first_lr=0.001).first_lr == 0.001


class TestChoices:
    @pytest.mark.parametrize("average", [0, 0.5, 0.9])
    def test_the_images_returned_are_the_best_ones_on_the_validation_split(self, average):
        theta = torch.stack([law(generator("held out", j)) for j in range(4)])
        found = distillation(replace(QUICK, average=average), validation_weights=theta)
        trained = train(SMALL, found.distilled, theta)
        correct = evaluate(SMALL, trained, *load("digits").validation).mean().item()
        names = ["accuracy", "accuracy_of_mean"] if average else ["accuracy"]
        assert correct == max(look[name] for look in found.history for name in names)

    def test_networks_that_are_not_finite_are_right_about_nothing(self):
        """Else their class 0 everywhere would be right for a tenth of the images, and they the best
        so far."""
        theta = SMALL.init("xavier", generator(0))[None] * math.nan
        assert validation_accuracy(SMALL, noise(), theta, load("digits")) == 0
        found = distillation(validation_weights=theta)
        assert [look["accuracy"] for look in found.history] == [0, 0, 0, 0]
        last = distillation(replace(QUICK, checks=0))
        assert found.best_step == QUICK.iterations  # and not the first noise
        assert torch.equal(found.distilled.images, last.distilled.images)


def broken_after(calls: int, factor: float):
    """An objective that is tiny at first and then broken."""
    seen = []

    def objective(logits, labels):
        seen.append(1)
        return logits.sum((1, 2)) * (factor if len(seen) > calls else 1e-3)

    return objective


class TestDivergence:
    @pytest.mark.parametrize(
        "factor", [pytest.param(math.nan, id="nan"), pytest.param(1e30, id="explodes")]
    )
    def test_it_goes_back_with_half_the_step_and_gives_up_in_the_end(self, capsys, factor):
        found = distillation(objective=broken_after(25, factor))
        assert found.rollbacks == ROLLBACKS + 1
        assert torch.isfinite(found.distilled.images).all()
        assert found.best_step in (10, 20)
        assert found.ended == 25 + ROLLBACKS + 1
        kept = f"the images of outer step {found.best_step} are kept"
        assert kept in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("iterations", "checks"),
        [
            pytest.param(40, 4, id="before the first look"),
            pytest.param(4, 4, id="in the first steps of a short run"),
            pytest.param(40, 0, id="without a look"),
        ],
    )
    def test_without_good_images_it_is_the_machine_s_error(self, iterations, checks):
        recipe = replace(QUICK, iterations=iterations, checks=checks)
        with pytest.raises(MachineError, match="diverged at outer step"):
            distillation(recipe, objective=broken_after(0, math.nan))
