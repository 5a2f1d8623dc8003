"""The ledger: the paper's claims, held against the records at the paper's scale.

The claims stand in claims.yml (its notations and kinds: claims.py). A `Judge` looks up the records
that answer them and applies the rules of rules.py, which states them in full. The tables here feed
the book's results page, the README and `ddcore report`. Nothing is rounded in our favour.
"""

from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN
from functools import cache
from typing import Any, cast

import pandas as pd

from ddcore.experiments import records
from ddcore.experiments.records import Record
from ddcore.paper import rules
from ddcore.paper.claims import (
    TEST_ACCURACY,
    Claim,
    Comparison,
    Curve,
    Discrepancy,
    MetricReference,
    Number,
    Repeat,
    Result,
    Setup,
    Statement,
    Std,
    Verdict,
    expand,
    load,
)
from ddcore.paper.rules import Measurement

__all__ = [
    "Judge",
    "Unrecorded",
    "counts",
    "discrepancies",
    "expand",
    "headlines",
    "load",
    "markdown",
    "table",
]

PAPER_POOL = 2000  # pretrained networks that the paper distils with
CLASSES = 10  # of every dataset in the paper
COPIES = {
    "cifar10-png": "CIFAR-10, 98 of its images from a JPEG copy",
    "cifar10-jpeg": "JPEG copy of CIFAR-10",
    "usps": "torchvision's copy of USPS",
    "usps-pooled": "stand-in for the paper's copy of USPS",
}
WORDS = {  # of a verdict, on the line that `Judge.line` gives; else the verdict itself
    Verdict.NOT_REPRODUCED: "FAIL",
    Verdict.REPRODUCED: "PASS",
    Verdict.EXCEEDED: "PASS",
}
ROUNDING = {"at least": ROUND_FLOOR, "at most": ROUND_CEILING, "close": ROUND_HALF_EVEN}


class Unrecorded(LookupError):
    """No record, or a record that does not say."""


class Judge:
    """Gives verdicts on claims.

    Args:
        find: the record of an experiment, None where there is none; by default that of
            `records.find`, at the paper's scale.
        faithful: its record with the paper's own settings; by default that of `records.faithful`.
        claims: the claims by id; by default those of claims.yml.
    """

    def __init__(
        self,
        find: Callable[[str], Record | None] | None = None,
        claims: dict[str, Claim] | None = None,
        faithful: Callable[[str], Record | None] | None = None,
    ) -> None:
        self.claims = claims or load()
        self._faithful = cache(faithful or records.faithful)
        self._find = cache(find or records.find)

    # ---- What the records say

    def record(self, experiment: str) -> Record:
        """The experiment's record; Unrecorded where there is none."""
        record = self._find(experiment)
        if record is None:
            raise Unrecorded(experiment)
        return record

    def measure(self, experiment: str, metric: str = TEST_ACCURACY) -> Measurement:
        """What the experiment's record says of a metric, written as in `MetricReference.parse`.

        Returns:
            Mean and std in percent; a std or a learned rate (as it is) as a mean alone.

        Raises:
            Unrecorded: there is no record, or it does not say.
        """
        return self._measurement(f"{experiment}:{metric}")

    def _measurement(self, name: str) -> Measurement:
        reference = MetricReference.parse(name)
        record = self.record(reference.experiment)
        if reference.name == "lrs":
            return Measurement(_rate(record, reference.index))
        measurement = _metric(record, reference)
        if measurement is None:
            raise Unrecorded(name)
        return measurement

    # ---- Verdicts

    def verdict(self, claim: Claim) -> Verdict:
        """The claim's verdict; a discrepancy's is "not run"."""
        match claim:
            case Number():
                return self._number(claim)
            case Curve() | Repeat() if claim.same_as:
                return self.verdict(self.claims[claim.same_as])
            case Curve():
                return self._point(claim)
            case Setup():
                names = expand(claim.experiments)
                return rules.all_parts([self._found_again(claim, name) for name in names])
            case Statement():
                return self._statement(claim)
        return Verdict.NOT_RUN

    def _number(self, claim: Number) -> Verdict:
        try:
            ours = self.measure(claim.experiment, claim.metric)
        except Unrecorded:
            return Verdict.NOT_RUN
        verdict = rules.number(claim, ours)
        if isinstance(claim, Std):
            return rules.standard_deviation(self.verdict(self.claims[claim.mean]), verdict)
        return verdict

    def _point(self, claim: Curve) -> Verdict:
        try:
            self.measure(claim.experiment, claim.metric)
        except Unrecorded:
            return Verdict.NOT_RUN
        return Verdict.NO_VALUE

    def _found_again(self, claim: Setup, experiment: str) -> Verdict:
        try:
            record = self.record(experiment)
        except Unrecorded:
            return Verdict.NOT_RUN
        if claim.deviation:
            return Verdict.PARTLY
        return rules.equal(_setting(record, claim.field), claim.value)

    def _statement(self, claim: Statement) -> Verdict:
        if claim.verdict:
            is_shown = (records.PROJECT / claim.evidence).is_file()
            return claim.verdict if is_shown else Verdict.NOT_RUN
        parts = [
            self._comparison(comparison, a, others)
            for comparison in claim.compare
            for a, others in comparison.pairs()
        ]
        parts += [self.verdict(self.claims[name]) for name in expand(claim.claims)]
        return rules.all_parts(parts)

    def _comparison(self, comparison: Comparison, name: str, others: list[str]) -> Verdict:
        try:
            a = self._measurement(name)
            b = rules.mean_of([self._measurement(other) for other in others])
        except Unrecorded:
            return Verdict.NOT_RUN
        return rules.comparison(comparison, a, b)

    # ---- What the reader sees

    def row(self, claim: Claim) -> dict[str, str]:
        """One line of the table."""
        answer = self._answer(claim)
        verdict = self.verdict(claim)
        ours = ""
        if isinstance(answer, Number | Curve) and verdict is not Verdict.NOT_RUN:
            ours = shown(self.measure(answer.experiment, answer.metric), answer)
        return {
            "id": claim.id,
            "place": claim.place,
            "kind": claim.kind,
            "paper": answer.printed,
            "paper's recipe": self._by_the_papers_recipe(answer),
            "ours": ours,
            "verdict": verdict.value,
            "beside": self._beside(answer),
        }

    def _by_the_papers_recipe(self, claim: Claim) -> str:
        """What the paper's own settings give here; empty where they were not run."""
        if not isinstance(claim, Result | Std):
            return ""
        record = self._faithful(claim.experiment)
        found = record and _metric(
            record, MetricReference.parse(f"{claim.experiment}:{claim.metric}")
        )
        return shown(found, claim) if found else ""

    def line(self, name: str) -> str:
        """A claim's verdict and rule, the same on every machine with the same records."""
        answer = self._answer(self.claims[name])
        verdict = self.verdict(answer)
        return f"{name} {WORDS.get(verdict, verdict)} ({answer.criterion})"

    def _answer(self, claim: Claim) -> Claim:
        """The claim whose verdict this one takes, mostly itself."""
        if isinstance(claim, Curve | Repeat):
            return self.claims.get(claim.same_as, claim)
        return claim

    def _beside(self, claim: Claim) -> str:
        """What a reader must know: a deviation, where a written verdict is shown, another copy of
        the data, a pool of networks smaller than the paper's."""
        facts = []
        if isinstance(claim, Setup):
            facts.append(claim.deviation)
        if isinstance(claim, Statement):
            facts.append(claim.evidence)
        for experiment in self._experiments(claim):
            record = self._find(experiment)
            if record is not None:
                facts += _particulars(record)
        return ", ".join(dict.fromkeys(filter(None, facts)))

    def _experiments(self, claim: Claim) -> list[str]:
        """The experiments that answer a claim."""
        match claim:
            case Number():
                return [claim.experiment]
            case Curve() if claim.experiment:
                return [claim.experiment]
            case Setup():
                return expand(claim.experiments)
            case Statement():
                names = [name for comparison in claim.compare for name in comparison.references()]
                experiments = [MetricReference.parse(name).experiment for name in names]
                for other in expand(claim.claims):
                    experiments += self._experiments(self.claims[other])
                return experiments
        return []


def _rate(record: Record, index: tuple[int, ...]) -> float:
    """A learned rate by epoch and step, or by epoch alone the mean over its steps."""
    epoch, *step = index
    rates = record.distilled.lrs[epoch]
    if step:
        return float(rates[step[0]])
    return float(sum(rates) / len(rates))


def _metric(record: Record, reference: MetricReference) -> Measurement | None:
    """The metric's mean with its std and values, or its std alone; None where there is none."""
    metric = record.metrics.get(reference.name)
    if metric is None:
        return None
    mean = _percent_at(metric["mean"], reference.index)
    std = _percent_at(metric["std"], reference.index)
    wanted = std if reference.of_std else mean
    if wanted is None:
        return None
    if reference.of_std:
        return Measurement(wanted)
    if reference.index:  # a class's values are not compared network by network
        return Measurement(wanted, std, metric["n"])
    values = cast(list[float], metric["values"])
    return Measurement(wanted, std, metric["n"], tuple(percent(value) for value in values))


def _percent_at(fractions: Any, index: tuple[int, ...]) -> float | None:
    """A metric's number in percent, or that of the class at `index`; None where there is none."""
    if fractions is None:
        return None
    for position in index:
        fractions = fractions[position]
    return percent(fractions)


def percent(fraction: float) -> float:
    """100 times as much, without the noise of floating point."""
    return round(100 * fraction, rules.DECIMALS)


def _setting(record: Record, field: str) -> object:
    """A setting as the record has it: images in all, held-out nets, fixed rates, or by its name in
    the configuration."""
    if field == "images":
        return record.config["per_class"] * record.config["steps"] * CLASSES
    if field == "nets":
        first = next(iter(record.metrics.values()))
        return first["n"]
    if field == "rates":
        tried = record.distillation.get("validation_accuracy_by_rate", {})
        return [float(rate) for rate in tried if rate != "learned"]
    return record.config[field]


def _particulars(record: Record) -> list[str]:
    """What sets a record apart from the paper's experiment."""
    facts = []
    for dataset in (record.data["name"], record.config.get("source")):
        if dataset in COPIES:
            facts.append(COPIES[dataset])
    pool = record.config.get("pool")
    if pool and pool < PAPER_POOL:
        facts.append(f"pool of {pool} networks")
    if record.config.get("fixed"):
        facts.append("one init, one seed")
    return facts


def shown(ours: Measurement, claim: Number | Curve) -> str:
    """Our number to two decimals, rounded against us: down where higher is better, up where lower
    is; a rate to six."""
    if claim.metric.startswith("lrs"):
        return f"{ours.mean:.6f}"
    mean = records.rounded(ours.mean, ROUNDING[claim.rule])
    if ours.std is None:
        return mean
    return f"{mean} ± {records.rounded(ours.std, ROUND_CEILING)}"


# ---- Tables


def table(judge: Judge) -> pd.DataFrame:
    """A row for each claim but discrepancies, which have no verdict: id, place, kind, paper, the
    paper's recipe run here, ours, verdict, beside."""
    claims = judge.claims.values()
    return pd.DataFrame([judge.row(c) for c in claims if not isinstance(c, Discrepancy)])


def discrepancies() -> pd.DataFrame:
    """Where the paper's parts, its page and its code disagree, what decides and what came of it."""
    columns = ["place", "text", "decided_by", "finding"]
    found = [claim for claim in load().values() if isinstance(claim, Discrepancy)]
    return pd.DataFrame([{name: getattr(claim, name) for name in columns} for claim in found])


def headlines(judge: Judge) -> pd.DataFrame:
    """The README's table of paper against ours."""
    rows = []
    for claim in judge.claims.values():
        if isinstance(claim, Result) and claim.headline:
            row = judge.row(claim)
            by_paper = row["paper's recipe"] or Verdict.NOT_RUN.value
            rows.append(row | {"result": claim.headline, "paper's recipe": by_paper})
    columns = ["result", "paper", "paper's recipe", "ours", "verdict", "beside"]
    return pd.DataFrame(rows, columns=columns)


def counts(frame: pd.DataFrame) -> pd.DataFrame:
    """How many claims of each kind have each verdict, best first."""
    best_first = [verdict.value for verdict in reversed(Verdict)]
    return pd.crosstab(frame["kind"], frame["verdict"]).reindex(columns=best_first, fill_value=0)


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table without the index."""
    rows = [list(frame.columns), ["---"] * frame.shape[1]]
    rows += frame.astype(str).values.tolist()
    return "\n".join(_markdown_row(row) for row in rows)


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
