"""What a long run needs around Algorithm 1: the best images so far, and a checkpoint that a killed
run goes on from."""

import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from test_algorithm import QUICK, distillation, is_same, noise, random_gradient
from torch import nn

from ddcore.algorithm import adam_step
from ddcore.networks import ModuleStack
from ddcore.support.progress import Checkpoint, Distillation, OuterState, Run
from ddcore.unroll import cross_entropy


class TestTheBestSoFar:
    recipe = replace(QUICK, average=0.75)

    def run_of_two_steps(self) -> Run:
        run = Run(OuterState.start(noise(), self.recipe), self.recipe)
        for k in range(2):
            run.state = adam_step(run.state, random_gradient(noise(), k), self.recipe, run.pace)
            run.step += 1
        return run

    def test_a_run_can_go_back_to_the_running_mean(self):
        run = self.run_of_two_steps()
        best = run.state
        run.compare(0.5, best.mean)
        run.state = adam_step(best, random_gradient(noise(), 2), self.recipe, run.pace)
        run.step += 1
        assert run.roll_back()
        assert is_same(run.state.learned, best.mean)
        assert is_same(run.state.first, best.first)
        assert (run.state.updates, run.step, run.best_step) == (2, 3, 2)

    def test_only_better_images_replace_the_best(self):
        run = self.run_of_two_steps()
        run.compare(0.5, run.state.learned)
        run.compare(0.5, run.state.mean)
        run.compare(0.4, run.state.mean)
        assert is_same(run.result().distilled.learned(), run.state.distilled().learned())

    def test_each_way_back_halves_the_step(self):
        run = self.run_of_two_steps()
        pace = run.pace
        run.roll_back()
        assert run.pace == pace / 2

    @pytest.mark.parametrize(
        ("loss", "diverged"),
        [
            pytest.param(2.0, False, id="as before"),
            pytest.param(1.9e4, False, id="large"),
            pytest.param(2.1e4, True, id="10,000 times the last look"),
            pytest.param(-2.1e4, True, id="as much below zero"),
            pytest.param(float("inf"), True, id="infinite"),
            pytest.param(float("nan"), True, id="nan"),
        ],
    )
    def test_a_loss_has_diverged_when_it_explodes_or_is_no_number(self, loss, diverged):
        run = self.run_of_two_steps()
        run.history.append({"loss": 2.0})
        assert run.diverged(loss) == diverged


@cache
def undisturbed() -> Distillation:
    return distillation()


@pytest.fixture
def always_saved(monkeypatch):
    monkeypatch.setattr("ddcore.support.progress.CHECKPOINT_SECONDS", 0)


class Cut(Exception):
    """Where a run is cut off."""


def cut_after(calls: int):
    seen = []

    def objective(logits, labels):
        seen.append(1)
        if len(seen) == calls:
            raise Cut
        return cross_entropy(logits, labels)

    return objective


@pytest.mark.usefixtures("always_saved")
class TestCheckpoints:
    @pytest.mark.parametrize(
        ("changes", "options"),
        [
            pytest.param({}, {}, id="plain"),
            pytest.param({"average": 0.9}, {}, id="running mean"),
            pytest.param({}, {"soft_labels": True, "steps": 2}, id="soft labels"),
        ],
    )
    def test_a_run_that_was_cut_off_goes_on_bit_by_bit(self, tmp_path, capsys, changes, options):
        recipe = replace(QUICK, **changes)
        whole = distillation(recipe, **options)
        path = tmp_path / "c.safetensors"
        first, second = (Checkpoint(path, "a", device) for device in ("one", "another"))
        with pytest.raises(Cut):
            distillation(recipe, objective=cut_after(23), checkpoint=first, **options)
        resumed = distillation(recipe, checkpoint=second, **options)
        assert "resuming at outer step 22 of 40" in capsys.readouterr().err
        assert is_same(whole.distilled.learned(), resumed.distilled.learned())
        for name in ("step", "loss", "accuracy"):
            looks = [[look[name] for look in run.history] for run in (whole, resumed)]
            assert looks[0] == looks[1]
        assert resumed.best_step == whole.best_step
        assert resumed.seconds_before > 0
        assert resumed.devices == ["one", "another"]

    def test_the_best_images_are_read_again_with_adam_s_means(self, tmp_path, capsys):
        """A run that goes back after it was cut off takes the steps that it would have taken."""
        recipe = replace(QUICK, average=0.75)
        checkpoint = Checkpoint(tmp_path / "c.safetensors")
        start = OuterState.start(noise(), recipe)
        run = Run(start, recipe, checkpoint)
        for k in range(3):
            run.state = adam_step(run.state, random_gradient(noise(), k), recipe, run.pace)
            run.step += 1
            if k == 1:
                run.compare(0.5, run.state.mean)
        run.rollbacks = 2
        run.save()
        resumed = Run(start, recipe, checkpoint)
        resumed.resume()
        assert "resuming at outer step 3" in capsys.readouterr().err
        assert (resumed.step, resumed.rollbacks) == (3, 2)
        assert (resumed.best_step, resumed.best_accuracy) == (2, 0.5)
        gradient = random_gradient(noise(), 3)
        for one in (run, resumed):
            assert one.roll_back()
            one.state = adam_step(one.state, gradient, recipe, one.pace)
        for group in ("learned", "first", "second", "mean"):
            assert is_same(getattr(resumed.state, group), getattr(run.state, group)), group

    def test_a_finished_run_is_read_again_without_a_step(self, tmp_path):
        checkpoint = Checkpoint(tmp_path / "c.safetensors", "a")
        first = distillation(checkpoint=checkpoint)
        again = distillation(objective=cut_after(1), checkpoint=checkpoint)
        assert is_same(first.distilled.learned(), again.distilled.learned())

    @pytest.mark.parametrize("what", ["truncated", "not one at all"])
    def test_a_damaged_one_is_named_and_set_aside(self, tmp_path, capsys, what):
        path = tmp_path / "c.safetensors"
        distillation(checkpoint=Checkpoint(path, "a"))
        path.write_bytes(path.read_bytes()[:1000] if what == "truncated" else b"no")
        self.assert_set_aside(path, capsys)

    @pytest.mark.parametrize(
        ("identity", "options"),
        [
            pytest.param("b", {}, id="configuration"),
            pytest.param("a", {"seed": 1}, id="arguments"),
            pytest.param("a", {"recipe": replace(QUICK, clip=0.2)}, id="recipe"),
            pytest.param(
                "a",
                {
                    "network": ModuleStack(nn.Sequential(nn.Flatten(), nn.Linear(784, 10))),
                    "init": "xavier",
                },
                id="module",
            ),
        ],
    )
    def test_that_of_another_run_is_named_and_set_aside(self, tmp_path, capsys, identity, options):
        path = tmp_path / "c.safetensors"
        distillation(checkpoint=Checkpoint(path, identity), **options)
        self.assert_set_aside(path, capsys)

    def assert_set_aside(self, path: Path, capsys) -> None:
        fresh = distillation(checkpoint=Checkpoint(path, "a"))
        assert "set aside as c.damaged" in capsys.readouterr().err
        assert path.with_suffix(".damaged").exists()
        assert torch.equal(fresh.distilled.images, undisturbed().distilled.images)


def test_a_checkpoint_is_written_at_most_every_ten_seconds(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    run = Run(OuterState.start(noise(), QUICK), QUICK, checkpoint)
    now = time.monotonic()
    written = []
    for seconds in (0, 9, 11, 20, 22):
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: now + seconds)
        checkpoint.path.unlink(missing_ok=True)
        run.save()
        if checkpoint.path.exists():
            written.append(seconds)
    assert written == [0, 11, 22]


KILLED = """
import sys
from pathlib import Path
import torch
from test_algorithm import distillation
from ddcore.support import progress
progress.CHECKPOINT_SECONDS = 0
folder = Path(sys.argv[1])
found = distillation(checkpoint=progress.Checkpoint(folder / "c.safetensors", "a"))
torch.save(found.distilled.images, folder / "images.pt")
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_bit_by_bit(tmp_path):
    """kill -9 at several random moments, then the same command."""
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    checkpoint = tmp_path / "c.safetensors"

    def changed() -> float:
        return checkpoint.stat().st_mtime if checkpoint.exists() else 0

    for _ in range(2):
        before = changed()
        process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if changed() > before:
                time.sleep(random.uniform(0, 0.3))
                process.kill()
                break
            time.sleep(0.005)
        process.wait()
    subprocess.run(command, env=environment, check=True)
    images = torch.load(tmp_path / "images.pt")
    assert torch.equal(images, undisturbed().distilled.images)
