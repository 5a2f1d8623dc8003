"""Algorithm 1 on the embedded digits: it learns, it is reproducible, it survives being killed."""

import math
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import ddcore.distill  # noqa: F401 (the module, whose name the function takes in the package)
from ddcore.datasets import load
from ddcore.algorithm import OuterState, Recipe, distill
from ddcore.errors import MachineError
from ddcore.accuracy import evaluate
from ddcore.networks import LeNet, ModuleStack, generator
from ddcore.unroll import train

module = sys.modules["ddcore.distill"]
SMALL = ModuleStack(nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 10)))
QUICK = Recipe(iterations=40, samples=3, batch=32, image_rate=0.1, raw_rate=0.05, first_lr=0.5, checks=4)


def law(rng: torch.Generator) -> torch.Tensor:
    return SMALL.init("xavier", rng)


def quick(recipe=QUICK, p=law, network=SMALL, **kwargs):
    return distill(network, load("digits"), p, recipe=recipe, progress=False, **{"epochs": 1, **kwargs})


def test_a_fixed_init_learns_to_read_digits():
    network, data = LeNet(), load("digits")
    theta = network.init("xavier", generator(0, "init"))
    recipe = Recipe(iterations=40, samples=1, batch=32, image_rate=0.1, raw_rate=0.05, first_lr=0.2, checks=4)
    distilled, how = quick(recipe, lambda rng: theta, network, epochs=3, held_out=theta[None])
    before = evaluate(network, theta[None], *data.test).item()
    after = evaluate(network, train(network, distilled, theta[None]), *data.test).item()
    assert after > before + 0.3
    assert [h["step"] for h in how["history"]] == [10, 20, 30, 40]


def test_random_inits_learn_and_the_same_seed_gives_the_same_images():
    first, how = quick()
    again, _ = quick()
    other, _ = quick(seed=1)
    assert how["history"][-1]["accuracy"] > 0.4
    assert torch.equal(first.images, again.images) and torch.equal(first.lrs, again.lrs)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("average", [0, 0.5, 0.9])
def test_the_images_returned_are_the_best_ones_on_the_validation_split(average):
    held_out = torch.stack([law(generator("held out", j)) for j in range(4)])
    distilled, how = quick(replace(QUICK, average=average), held_out=held_out)
    accuracy = evaluate(SMALL, train(SMALL, distilled, held_out), *load("digits").validation).mean().item()
    names = ["accuracy", "accuracy_of_mean"] if average else ["accuracy"]
    assert accuracy == max(h[name] for h in how["history"] for name in names)


def test_the_running_mean_follows_images_and_rates_and_can_be_returned():
    start = module._start(load("digits"), 1, 1, 1, False, QUICK, 0)
    state = OuterState(start, replace(QUICK, average=0.75))
    gradient = [torch.randn_like(start.images), torch.ones_like(start.lrs)]
    seen = [[t.clone() for t in state.learned]]
    for _ in range(2):
        state.step(gradient)
        seen.append([t.clone() for t in state.learned])
    for mean, (a, b, c) in zip(state.mean, zip(*seen, strict=True), strict=True):
        torch.testing.assert_close(mean, 0.75**2 * a + 0.75 * 0.25 * b + 0.25 * c)
    state.remember(0.5, state.mean)
    expected = state.distilled(state.mean)
    state.step(gradient)
    state.restore()
    assert torch.equal(state.distilled().images, expected.images) and torch.equal(state.distilled().lrs, expected.lrs)


def test_images_rates_and_soft_labels_are_all_learned():
    distilled, _ = quick(soft_labels=True, steps=2, epochs=2)
    assert distilled.images.shape == (2, 10, 1, 28, 28) and distilled.lrs.shape == (2, 2)
    assert distilled.lrs.unique().numel() == 4 and (distilled.lrs > 0).all()
    assert not torch.equal(distilled.soft_labels, torch.eye(10).expand(2, 10, 10))


def test_clipping_bounds_the_step_and_keeps_the_direction():
    start = module._start(load("digits"), 1, 1, 1, False, QUICK, 0)
    gradient = [100 * torch.randn_like(start.images), torch.ones_like(start.lrs)]
    seen = []
    for clip in (0.1, 0.0):
        state = OuterState(start, replace(QUICK, clip=clip))
        state.step(gradient)
        seen.append(state.learned[0].grad)
    assert seen[0].norm().item() == pytest.approx(0.1)
    torch.testing.assert_close(seen[0] / seen[0].norm(), seen[1] / seen[1].norm())


def test_threads_draw_the_samples_that_would_be_drawn_without_them():
    recipe, drawn = Recipe(6, samples=3, batch=8), []

    def p(rng):
        drawn.append(rng)
        return torch.randn(5, generator=rng)

    plain = list(module._samples(p, recipe, 0, 2, ahead=False))
    assert len(plain) == 4 and len(drawn) == 12
    ahead = list(module._samples(p, recipe, 0, 2, ahead=True))
    assert len(drawn) == 24
    for (theta, rng), (other, same) in zip(sum(plain, []), sum(ahead, []), strict=True):
        assert theta.equal(other) and rng.get_state().equal(same.get_state())


def test_threads_that_draw_are_gone_when_the_run_is_cut_off():
    before, samples = threading.active_count(), module._samples(law, Recipe(9, samples=2), 0, 0, ahead=True)
    next(samples)
    assert threading.active_count() > before
    samples.close()
    assert threading.active_count() == before


def test_a_common_batch_is_shared_by_the_networks():
    state = OuterState(module._start(load("digits"), 1, 1, 1, False, QUICK, 0), replace(QUICK, common_batch=True))
    given = []
    module._mean_meta_gradient(
        lambda *args: given.append(args) or (torch.zeros(2), args[0]), state, load("digits"),
        [(torch.zeros(3), generator(j)) for j in range(2)], 0,
    )  # fmt: skip
    ((_, theta, (images, labels)),) = given
    assert theta.shape == (2, 3) and images.shape == (QUICK.batch, 1, 28, 28) and labels.shape == (QUICK.batch,)


def test_the_schedules():
    ours, papers = Recipe(iterations=1000), Recipe.faithful(iterations=1000)
    assert ours.schedule(0) == 0.05 and ours.schedule(500) == 0.5 and ours.schedule(999) == pytest.approx(0.001)
    assert papers.schedule(0) == papers.schedule(99) == 1 and papers.schedule(100) == 0.5
    assert papers.schedule(999) == 0.5**9
    assert (papers.samples, papers.batch, papers.noise, papers.clip) == (1, 1024, 1.0, 0.0)


@pytest.mark.parametrize("broken_from_now_on", [math.nan, 1e30])
def test_a_loss_that_diverges_goes_back_with_half_the_step_and_gives_up_in_the_end(capsys, broken_from_now_on):
    calls = []

    def broken(logits, labels):
        calls.append(1)
        return logits.sum((1, 2)) * (broken_from_now_on if len(calls) > 25 else 1e-3)

    distilled, how = quick(objective=broken)
    assert how["returns"] == module.RETURNS + 1 and torch.isfinite(distilled.images).all()
    assert how["best_step"] in (10, 20)
    assert f"the images of outer step {how['best_step']} are kept" in capsys.readouterr().err
    for iterations, checks in ((40, 4), (4, 4), (40, 0)):  # without checks there is nothing to go back to
        with pytest.raises(MachineError, match="diverged at outer step"):
            recipe = replace(QUICK, iterations=iterations, checks=checks)
            quick(recipe, objective=lambda logits, labels: logits.sum((1, 2)) * math.nan)


def test_networks_that_are_not_finite_are_right_about_nothing():
    """Else their class 0 everywhere would be right for a tenth of the images, and they the best so far."""
    held_out = SMALL.init("xavier", generator(0))[None] * math.nan
    distilled, how = quick(held_out=held_out)
    assert [h["accuracy"] for h in how["history"]] == [0, 0, 0, 0]
    last, _ = quick(replace(QUICK, checks=0))
    assert how["best_step"] == QUICK.iterations and torch.equal(distilled.images, last.images)  # not the first noise


@pytest.mark.parametrize("average", [0, 0.9])
def test_a_run_that_was_cut_off_goes_on_bit_by_bit(tmp_path, monkeypatch, average):
    recipe = replace(QUICK, average=average)
    whole, how = quick(recipe)
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0)

    class Cut(Exception):
        pass

    def cut(logits, labels, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 23:
            raise Cut
        return module.cross_entropy(logits, labels)

    with pytest.raises(Cut):
        quick(recipe, objective=cut, checkpoint=tmp_path / "c.safetensors", identity="a", device_name="one")
    resumed, again = quick(recipe, checkpoint=tmp_path / "c.safetensors", identity="a", device_name="another")
    assert torch.equal(whole.images, resumed.images) and torch.equal(whole.lrs, resumed.lrs)
    assert [h["loss"] for h in how["history"]] == [h["loss"] for h in again["history"]]
    assert again["before"] > 0 and again["devices"] == ["one", "another"]


@pytest.mark.parametrize(
    "damage", ["truncated", "another configuration", "other arguments", "another module", "not one at all"]
)
def test_a_checkpoint_that_cannot_be_used_is_named_and_set_aside(tmp_path, monkeypatch, capsys, damage):
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0)
    path = tmp_path / "c.safetensors"
    larger = ModuleStack(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
    other = {"other arguments": {"seed": 1}, "another module": {"network": larger, "p": partial(larger.init, "xavier")}}
    quick(checkpoint=path, identity="a", **other.get(damage, {}))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "not one at all":
        path.write_bytes(b"no")
    fresh, how = quick(checkpoint=path, identity="b" if damage == "another configuration" else "a")
    assert "set aside" in capsys.readouterr().err and (tmp_path / "c.damaged").exists()
    assert torch.equal(fresh.images, quick()[0].images)


SCRIPT = """
import sys, pathlib, torch
from tests.test_distill import quick, module
module.CHECKPOINT_SECONDS = 0
path = pathlib.Path(sys.argv[1])
distilled, _ = quick(checkpoint=path / "c.safetensors", identity="a")
torch.save(distilled.images, path / "images.pt")
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_bit_by_bit(tmp_path):
    """kill -9 at several random moments, then the same command."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    for _ in range(3):
        process = subprocess.Popen(command)
        before = (tmp_path / "c.safetensors").stat().st_mtime if (tmp_path / "c.safetensors").exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if (tmp_path / "c.safetensors").exists() and (tmp_path / "c.safetensors").stat().st_mtime > before:
                time.sleep(random.uniform(0, 0.3))
                process.kill()
                break
            time.sleep(0.005)
        process.wait()
    subprocess.run(command, check=True)
    assert torch.equal(torch.load(tmp_path / "images.pt"), quick()[0].images)
