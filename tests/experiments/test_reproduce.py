"""`ddcore reproduce`: what has no record is run once, what cannot be is said, and it can be stopped and split."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import SHARED, TINY_RANDOM

from ddcore.experiments import catalogue, reproduce
from ddcore.experiments.cost import COMPILE_FROM, cost, gradients
from ddcore.experiments.catalogue import EXPERIMENTS, Config, configure
from ddcore.experiments.run import run
from ddcore.errors import MachineError


@pytest.fixture
def few(apart, monkeypatch):
    """`tiny`, `tiny-random`, one on data that is not here and one from networks trained on such."""
    for name in list(experiments.EXPERIMENTS):
        if not name.startswith("tiny"):
            monkeypatch.delitem(experiments.EXPERIMENTS, name)
    monkeypatch.setitem(experiments.EXPERIMENTS, "elsewhere", Config(**SHARED | {"dataset": "usps"}))
    monkeypatch.setitem(experiments.EXPERIMENTS, "adapted", Config(**SHARED, source="svhn", pool=2, nets=2))
    return apart


def test_everything_is_run_once_and_what_cannot_be_is_named(few, ddcore):
    first = ddcore("reproduce")
    assert first.status == 0 and "2 done, 2 still missing: elsewhere, adapted" in first.out[-1]
    assert "elsewhere: not run, usps is not here" in first.out and "adapted: not run, svhn is not here" in first.out
    assert sum(bool(re.match(r"tiny.*: \d+\.\d\d % in", line)) for line in first.out) == 2
    assert [line.split()[0] for line in first.out[-3:-1]] == ["tiny", "tiny-random"]  # the table
    again = ddcore("reproduce")
    assert again.status == 0 and again.out[-1].startswith("0 done")


def test_the_plan_names_what_is_missing_and_computes_nothing(few, ddcore):
    plan = ddcore("reproduce", "--plan")
    assert [line.split()[0] for line in plan.out] == ["tiny", "tiny-random", "elsewhere", "adapted", "4"]
    assert "svhn is not here" in plan.out[3] and re.fullmatch(
        r"4 of 4 experiments missing, about \d+\.\d core-hours; 2 wait for their data", plan.out[-1]
    )
    assert not (few / "results").exists()


def test_the_plan_takes_the_time_of_records_that_processors_made_with_the_same_network(few, monkeypatch):
    made = [("tiny", 200, 2, "AMD EPYC CPU, 2 cores"), ("tiny-random", 9, 4, "NVIDIA H200")]
    made += [("tiny", 5, 1, "NVIDIA H200; AMD EPYC CPU, 2 cores")]
    there = [
        SimpleNamespace(
            folder=Path("results") / name / "key",
            environment={"seconds": seconds, "threads": threads, "world_size": 3, "device": device},
        )
        for name, seconds, threads, device in made
    ]
    monkeypatch.setattr(reproduce.records, "everywhere", lambda: there)
    assert reproduce.ratios() == {"lenet": 1200 / cost(experiments.EXPERIMENTS["tiny"])}
    plan = {m.name: m for m in reproduce.missing()}
    assert plan["tiny"].seconds == pytest.approx(1200)


def test_shards_share_the_work_without_overlap(few, ddcore):
    parts = [[line.split()[0] for line in ddcore("reproduce", "--plan", "--shard", f"{k}/2").out[:-1]] for k in (1, 2)]
    assert sorted(parts[0] + parts[1]) == sorted(experiments.EXPERIMENTS) and len(parts[0]) == len(parts[1]) == 2
    assert ddcore("reproduce", "--plan", "--shard", "3/2").status == 2


def test_a_spent_budget_keeps_what_is_finished_and_is_no_failure(few, ddcore, monkeypatch):
    long = TINY_RANDOM.model_copy(update={"iterations": 1_900})  # not compiled; longer than the budget everywhere
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny-random", long)
    done = ddcore("reproduce", "--budget", "8")
    assert done.status == 0 and "budget is spent" in "\n".join(done.err)
    assert (few / "results" / "tiny").is_dir() and "still missing: tiny-random" in done.out[-1]
    assert list((few / "cache" / "ddcore" / "checkpoints").glob(f"{long.key}*.safetensors"))


@pytest.mark.parametrize("error", [MachineError("distillation diverged"), RuntimeError("CUDA out of memory")])
def test_a_failure_is_named_and_does_not_end_the_rest(few, ddcore, monkeypatch, error):
    def broken(name, **kwargs):
        if name == "tiny":
            raise error
        return run(name, **kwargs)

    monkeypatch.setattr(reproduce, "run", broken)
    done = ddcore("reproduce")
    failed = [line for line in done.out if line.startswith("tiny: failed")]
    assert done.status == 1 and len(failed) == 1 and str(error) in failed[0]
    assert any(line.startswith("tiny-random: ") for line in done.out)


def test_a_runs_cost_counts_its_choices_and_a_nearest_neighbour_has_no_gradients_to_compile():
    config = EXPERIMENTS["fig3a"]
    assert cost(config.model_copy(update={"average": 0.98})) > cost(config) > gradients(config) >= COMPILE_FROM
    assert gradients(EXPERIMENTS["baseline-neighbour-real-mnist"]) == 0
    assert gradients(configure("full-mnist", "smoke")) < COMPILE_FROM < gradients(EXPERIMENTS["full-mnist"])
