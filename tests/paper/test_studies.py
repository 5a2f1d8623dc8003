"""Studies: what the book measures beside the records, as committed and anew."""

import json

import pytest
import torch
from conftest import DATA_ROOT

from ddcore.experiments import records
from ddcore.paper import studies
from ddcore.paper.studies import STUDIES, Study, studied

NAMES = list(STUDIES)
PART = {  # of a study, where all of it takes long
    studies.other_networks: {"nets": 10},
    studies.frames: {"sides": []},
    studies.accuracy_by_size: {"sizes": [1]},
}
MINUTES = {  # each, on CIFAR-10: measured again by hand, with `python -m ddcore.paper.studies NAME`
    *(name for name, study in STUDIES.items() if study.measure is studies.on_these_pixels),
    "cifar10, accuracy by size",
}


@pytest.fixture
def sums(monkeypatch, tmp_path):
    """A study of one dataset that adds its arguments; committed is 3, of 1 and 2."""

    def total(data, *, a, b):
        return {"total": a + b, "data": data}

    entry = {"dataset": "mnist", "arguments": {"a": 1, "b": 2}, "result": {"total": 3}}
    monkeypatch.setitem(STUDIES, "sum", Study(total, "mnist", None, {"a": 1, "b": 2}))
    monkeypatch.setattr(studies, "_committed", lambda: {"sum": entry})
    monkeypatch.setattr(studies, "load", lambda name: f"the data of {name}")


class TestStudied:
    def test_it_is_the_committed_result(self, sums):
        assert studied("sum", b=2) == {"total": 3}

    def test_other_arguments_are_measured_where_the_dataset_is(self, sums, monkeypatch, capsys):
        monkeypatch.setattr(records, "here", lambda name: f"{name}-copy")
        assert studied("sum", b=5) == {"total": 6, "data": "the data of mnist-copy"}
        assert capsys.readouterr().out == ""

    def test_elsewhere_one_line_says_what_is_returned(self, sums, monkeypatch, capsys):
        monkeypatch.setattr(records, "here", lambda name: None)
        assert studied("sum", b=5) == {"total": 3}
        assert capsys.readouterr().out == "mnist is not here; as committed, with a=1, b=2:\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_results_are_of_these_arguments(name):
    committed = json.loads(studies.RESULTS.read_text("utf-8"))
    assert list(committed) == NAMES
    assert committed[name]["arguments"] == STUDIES[name].arguments


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in MINUTES])
def test_measured_again_the_results_are_the_committed_ones(name, monkeypatch):
    """A part of each that takes seconds. Single numbers may differ: rounding can send a network far
    from its place."""
    study = STUDIES[name]
    monkeypatch.setenv("DDCORE_DATA", str(DATA_ROOT))
    copy = records.here(study.dataset)
    if copy is None:
        pytest.skip(f"{study.dataset} is not here")
    kept = json.loads(studies.RESULTS.read_text("utf-8"))[name]["result"]
    few = PART.get(study.measure, {})
    found = numbers(study.result(copy, study.arguments | few))
    kept = numbers(kept)[: len(found)]
    assert ((found - kept).abs() / kept.abs().clamp(1e-9)).median() < 0.02


def numbers(result) -> torch.Tensor:
    """All numbers in a result, in order."""
    if isinstance(result, dict):
        return torch.cat([numbers(part) for part in result.values()])
    if isinstance(result, list):
        return torch.cat([numbers(part) for part in result])
    return torch.tensor([result or 0.0], dtype=torch.float64)
