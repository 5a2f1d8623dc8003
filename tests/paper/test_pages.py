"""What generated pages say of the claims, the records and the images."""

import json
import re
from types import SimpleNamespace

import pytest

import ddcore
from ddcore.experiments import records
from ddcore.experiments.catalogue import ALIASES, EXPERIMENTS
from ddcore.paper import evidence, ledger, pages, places, rules
from ddcore.paper.claims import Discrepancy, Std, Verdict


@pytest.fixture(scope="module")
def judge():
    return ledger.Judge()


@pytest.fixture(scope="module")
def written(judge):
    return evidence.pages(judge)


class TestPlaces:
    def test_every_experiment_is_on_one_page(self):
        addresses = {name: places.address(name) for name in EXPERIMENTS}
        assert addresses["fig2a"] == "evidence/fixed.html#fig2a"
        assert addresses["table1-mnist-one-5"].startswith("evidence/distillation.html#")
        assert addresses["baseline-random-real-table3-mnist-10"].startswith("evidence/poisoning")

    def test_an_alias_leads_to_the_record_that_it_shares(self):
        for alias, name in ALIASES.items():
            assert places.address(alias) == places.address(name)


class TestHeadlines:
    def test_a_result_leads_to_its_chapter_and_its_evidence(self, judge):
        line = next(line for line in pages.headlines(judge).splitlines() if "77.28" in line)
        assert 'href="notebooks/03-2-random-initialization.html"' in line
        assert 'href="evidence/random.html#fig3a"' in line
        assert "exceeded" in line and "over seeds" in line

    def test_all_results_are_counted(self, judge):
        for sentence in pages.totals(judge).splitlines():
            total, *parts = map(int, re.findall(r"\b\d+\b", sentence))
            assert sum(parts) == total > 30


class TestClaims:
    def test_all_but_printed_spreads_are_there(self, judge):
        text = pages.claims(judge)
        for claim in judge.claims.values():
            if not isinstance(claim, Std | Discrepancy):
                assert re.search(rf"{re.escape(pages.breakable(claim))}[<,| ]", text), claim.id

    def test_our_numbers_lead_to_their_evidence(self, judge):
        text = pages.claims(judge)
        assert '<a href="evidence/fixed.html#fig2a">95.31</a>' in text

    def test_a_spread_that_differs_is_told_with_its_mean(self, judge):
        assert pages.spread(judge, judge.claims["fig3a.accuracy"]) == (
            "the spread is smaller than the paper's"
        )


class TestEvidence:
    def test_every_record_has_a_section(self, written):
        for record in records.everywhere():
            page = places.page_of(record.experiment).name
            assert f"\n## {record.experiment}\n" in written[page]

    def test_it_says_how_to_make_a_record_again(self, written):
        section = written["fixed"].split("## fig2a\n")[1].split("\n## ")[0]
        record = records.find("fig2a")
        for part in (
            "`ddcore run fig2a`",
            "`ddcore verify fig2a --nets 20`",
            str(record.environment["commit"])[:10],
            record.data["sha256"][:16],
            f"../files/fig2a/{record.key}/distilled.safetensors",
            "seed=1",
        ):
            assert part in section

    def test_the_command_names_the_copy_of_the_data(self, written):
        section = written["random"].split("## fig3b\n")[1].split("\n## ")[0]
        assert "`ddcore run fig3b -p dataset=cifar10-jpeg`" in section

    def test_each_network_is_a_dot(self, written):
        section = written["random"].split("## fig3a\n")[1].split("\n## ")[0]
        assert section.count("h0") == 200
        assert "the paper 77.28 %" in section

    def test_dots_lie_where_the_numbers_are(self, judge):
        metric = {"mean": 0.6, "std": 0.1, "n": 2, "values": [0.5, 0.7]}
        record = SimpleNamespace(experiment="law-mnist-he", metrics={"test_accuracy": metric})
        drawn = evidence.dots(judge, record, "test_accuracy")
        assert re.findall(r"M([\d.]+) \d+h0", drawn) == ["12.0", "628.0"]
        assert ">50 %</text>" in drawn and ">70 %</text>" in drawn


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (
            "fig2a.accuracy",
            "exceeded if higher by 1 and by two standard errors; "
            "equal if worse by one standard error at most; below if by 2 at most",
        ),
        ("fig2a.before", "equal within 5 of the paper's number"),
    ],
)
def test_rules_in_words(judge, claim, words):
    assert rules.in_words(judge.claims[claim]) == words


def test_the_images_to_download_are_those_of_all_runs():
    text = pages.images()
    for first in records.everywhere():
        for record in (first, *records.replicates(first.experiment)):
            listed = f"{record.key}/distilled.safetensors" in text
            assert listed == (record.has_images and not first.experiment.startswith("baseline"))


def test_every_verdict_has_a_symbol():
    assert set(ledger.SYMBOLS) == set(Verdict)


def test_every_public_name_is_described():
    text = pages.names()
    for name in ddcore.__all__:
        assert f"## {name}\n" in text
    assert "train_on(distilled, weights=None, *, nets=1, generator=None, network=None)" in text
    assert " at 0x" not in text


class TestReruns:
    def test_a_row_for_each_log_the_newest_first(self, tmp_path):
        machine = {"device": "a CPU, 2 cores", "threads": 1, "torch": "2.13.0"}
        fields = ("record", "verdict", "percent in the record", "percent now", "networks")
        results = [
            ("fig2a", "PASS", 94.0, 94.0, 1),
            ("fig3a", "FAIL", 88.0, 87.4301, 20),
            ("fig2b", "not checked", None, None, 0),
            ("soft-real", "FAIL", None, None, 0),
        ]
        log = {"machine": machine, "results": [dict(zip(fields, r, strict=True)) for r in results]}
        for name, date in (("a.json", "2026-01-02"), ("b.json", "2026-10-01")):
            (tmp_path / name).write_text(json.dumps({**log, "date": date}))
        _, _, first, second = pages.reruns(tmp_path).splitlines()
        assert "b.json" in first and "a.json" in second
        assert "1 of 3 records" in first and "| 21 |" in first
        assert "0.57 points (fig3a)" in first  # rounded against us

    def test_without_logs_there_is_the_head_alone(self, tmp_path):
        assert len(pages.reruns(tmp_path).splitlines()) == 2
