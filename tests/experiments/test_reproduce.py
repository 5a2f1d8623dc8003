"""`ddcore reproduce`: what has no record is run once, what cannot be is said, and it can be
stopped and split."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import SHARED, TINY_RANDOM

from ddcore.experiments import reproduce
from ddcore.experiments.catalogue import EXPERIMENTS
from ddcore.experiments.config import Config
from ddcore.experiments.cost import cost
from ddcore.experiments.run import run
from ddcore.support.errors import MachineError


def first_words(lines):
    return [line.split()[0] for line in lines]


@pytest.fixture
def few(apart, monkeypatch, experiment):
    """`tiny`, `tiny-random`, one on data that is not here and one from networks trained on such."""
    for name in list(EXPERIMENTS):
        if not name.startswith("tiny"):
            monkeypatch.delitem(EXPERIMENTS, name)
    experiment("elsewhere", Config(**SHARED | {"dataset": "usps"}))
    experiment("adapted", Config(**SHARED, source="svhn", pool=2, nets=2))
    return apart


class TestRun:
    def test_everything_is_run_once_and_what_cannot_be_is_named(self, few, ddcore):
        first = ddcore("reproduce")
        assert first.status == 0
        assert "2 done, 2 still missing: elsewhere, adapted" in first.out[-1]
        assert "elsewhere: not run, usps is not here" in first.out
        assert "adapted: not run, svhn is not here" in first.out
        assert len([line for line in first.out if re.match(r"tiny.*: \d+\.\d\d % in", line)]) == 2
        table = first.out[-3:-1]
        assert first_words(table) == ["tiny", "tiny-random"]
        assert "`ddcore data svhn usps` fetches" in first.err[-1]
        again = ddcore("reproduce")
        assert again.status == 0 and again.out[-1].startswith("0 done")

    def test_a_damaged_record_does_not_stop_the_others(self, few, ddcore):
        damaged = few / "results" / "tiny" / EXPERIMENTS["tiny"].key / "record.json"
        damaged.parent.mkdir(parents=True)
        damaged.write_text("{")
        planned = ddcore("reproduce", "--plan")
        assert planned.status == 0 and first_words(planned.out)[:2] == ["tiny", "tiny-random"]
        assert len(planned.err) == 1 and str(damaged) in planned.err[0]
        done = ddcore("reproduce")
        assert done.status == 1 and done.out[0].startswith(f"tiny: failed, {damaged} is not a")
        assert "1 done, 3 still missing: tiny, elsewhere, adapted" in done.out[-1]

    def test_a_copy_stands_in_for_data_that_is_not_here(self, few, experiment, ddcore, monkeypatch):
        experiment("elsewhere", Config(**SHARED | {"dataset": "cifar10"}))
        here = {"cifar10": "cifar10-jpeg", "digits": "digits"}
        monkeypatch.setattr(reproduce.records, "here", here.get)
        asked = []

        def note(name, overrides, device):
            asked.append((name, overrides))

        monkeypatch.setattr(reproduce, "run", note)
        assert ddcore("reproduce").status == 0
        assert ("elsewhere", {"dataset": "cifar10-jpeg"}) in asked and ("tiny", None) in asked

    @pytest.mark.parametrize(
        "error",
        [
            pytest.param(MachineError("distillation diverged"), id="diverged"),
            pytest.param(RuntimeError("CUDA out of memory"), id="memory"),
        ],
    )
    def test_a_failure_is_named_and_does_not_end_the_rest(self, few, ddcore, monkeypatch, error):
        def broken(name, **kwargs):
            if name == "tiny":
                raise error
            return run(name, **kwargs)

        monkeypatch.setattr(reproduce, "run", broken)
        done = ddcore("reproduce")
        failed = [line for line in done.out if line.startswith("tiny: failed")]
        assert done.status == 1 and len(failed) == 1 and str(error) in failed[0]
        assert any(line.startswith("tiny-random: ") for line in done.out)

    def test_a_spent_budget_keeps_what_is_finished_and_is_no_failure(self, few, ddcore, experiment):
        # longer than the budget on any machine
        long = experiment("tiny-random", TINY_RANDOM.model_copy(update={"iterations": 50_000}))
        done = ddcore("reproduce", "--budget", "4")
        assert done.status == 0 and "budget is spent" in "\n".join(done.err)
        assert (few / "results" / "tiny").is_dir()
        assert "still missing: tiny-random" in done.out[-1]
        checkpoints = few / "cache" / "ddcore" / "checkpoints"
        assert list(checkpoints.glob(f"{long.key}*.safetensors"))


class TestPlan:
    def test_it_names_what_is_missing_and_computes_nothing(self, few, ddcore):
        plan = ddcore("reproduce", "--plan")
        assert first_words(plan.out) == ["tiny", "tiny-random", "elsewhere", "adapted", "4"]
        assert "svhn is not here" in plan.out[3]
        total = r"4 of 4 experiments missing, about \d+\.\d core-hours; 2 wait for their data"
        assert re.fullmatch(total, plan.out[-1])
        assert not (few / "results").exists()

    def test_it_takes_the_time_of_records_that_processors_made(self, few, monkeypatch):
        """With the same network; those of a GPU say nothing of it."""

        def made(name, seconds, threads, device):
            environment = {
                "seconds": seconds,
                "threads": threads,
                "world_size": 3,
                "device": device,
            }
            return SimpleNamespace(folder=Path("results") / name / "key", environment=environment)

        there = [
            made("tiny", 200, 2, "AMD EPYC CPU, 2 cores"),
            made("tiny-random", 9, 4, "NVIDIA H200"),
            made("tiny", 5, 1, "NVIDIA H200; AMD EPYC CPU, 2 cores"),
        ]
        monkeypatch.setattr(reproduce.records, "everywhere", lambda: there)
        assert reproduce.ratios() == {"lenet": 1200 / cost(EXPERIMENTS["tiny"])}
        plan = {m.name: m for m in reproduce.missing()}
        assert plan["tiny"].seconds == pytest.approx(1200)

    def test_the_first_of_a_pool_pays_for_it(self, few, experiment):
        config = EXPERIMENTS["adapted"]
        experiment("adapted-too", config)
        plan = {m.name: m.seconds for m in reproduce.missing()}
        assert plan["adapted"] > plan["adapted-too"] == pytest.approx(cost(config))

    def test_shards_share_the_work_without_overlap(self, few, ddcore):
        def shard(k):
            return first_words(ddcore("reproduce", "--plan", "--shard", f"{k}/2").out[:-1])

        parts = [shard(1), shard(2)]
        assert sorted(parts[0] + parts[1]) == sorted(EXPERIMENTS)
        assert len(parts[0]) == len(parts[1]) == 2
        assert ddcore("reproduce", "--plan", "--shard", "3/2").status == 2
