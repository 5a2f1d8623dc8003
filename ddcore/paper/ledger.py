"""The ledger: the paper's claims, held against the records at the paper's scale.

The claims stand in claims.yml (its notations and kinds: claims.py). A `Judge` looks up the records
that answer them and applies the rules of rules.py, which states them in full. The tables here feed
the book's results page, the README and `ddcore report`. Nothing is rounded in our favour.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN
from functools import cache
from typing import Any, NamedTuple, cast

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
from ddcore.paper.places import Linked
from ddcore.paper.rules import Measurement

__all__ = [
    "MISSED",
    "SYMBOLS",
    "Judge",
    "Unrecorded",
    "counted",
    "counts",
    "discrepancies",
    "entries",
    "expand",
    "headlines",
    "load",
    "markdown",
    "markdown_table",
    "numbers",
    "statements",
    "table",
]

MISSED = [  # verdicts on what falls behind the paper
    *(Verdict.NOT_REPRODUCED, Verdict.BELOW),
    *(Verdict.CONTRADICTED, Verdict.CONTRADICTED_IN_PART, Verdict.SHORT),
]
SHOWN_PARTS = 2  # of a statement, among those that do not hold
PAPER_POOL = 2000  # pretrained networks that the paper distils with
CLASSES = 10  # of every dataset in the paper
COPIES = {
    "cifar10-png": "CIFAR-10, 98 of its images from a JPEG copy",
    "cifar10-jpeg": "JPEG copy of CIFAR-10",
    "usps": "torchvision's copy of USPS",
    "usps-pooled": "stand-in for the paper's copy of USPS",
}
SPREADS = {
    Verdict.BELOW: "smaller than the paper's",
    Verdict.NOT_REPRODUCED: "larger than the paper's",
}
SYMBOLS = {
    Verdict.EXCEEDED: "▲",
    Verdict.EQUAL: "=",
    Verdict.BELOW: "▽",
    Verdict.NOT_REPRODUCED: "✗",
    Verdict.NOT_RUN: "–",
    Verdict.UNREADABLE: "?",
    Verdict.HOLDS: "✓",
    Verdict.HOLDS_WHERE_RUN: "(✓)",
    Verdict.SHORT: "▽",
    Verdict.CONTRADICTED_IN_PART: "(✗)",
    Verdict.CONTRADICTED: "✗",
    Verdict.NOT_MEASURED: "–",
}
ROUNDING = {"at least": ROUND_FLOOR, "at most": ROUND_CEILING, "close": ROUND_HALF_EVEN}


class Part(NamedTuple):
    """What decides a statement with others: what is compared, and what became of it."""

    said: str
    verdict: Verdict


class Unrecorded(LookupError):
    """No record, or a record that does not say."""


class Judge:
    """Gives verdicts on claims.

    Args:
        find: the record of an experiment, None where there is none; by default that of
            `records.find`, at the paper's scale.
        claims: the claims by id; by default those of claims.yml.
        replicates: the experiment's other records at the paper's scale, with another seed or with
            the paper's own settings; by default those of `records.replicates`.
    """

    def __init__(
        self,
        find: Callable[[str], Record | None] | None = None,
        claims: dict[str, Claim] | None = None,
        replicates: Callable[[str], list[Record]] | None = None,
    ) -> None:
        self.claims = claims or load()
        self.find = cache(find or records.find)
        self._replicates = cache(replicates or records.replicates)

    # ---- What the records say

    def record(self, experiment: str) -> Record:
        """The experiment's record; Unrecorded where there is none."""
        record = self.find(experiment)
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
        return _measured(self.record(reference.experiment), reference)

    def over_seeds(self, claim: Number | Curve) -> list[Measurement]:
        """What the experiment's record says, and then its replicates of the same data that differ
        in their seed; Unrecorded where there is no record or it does not say."""
        return [_measured(record, claim.reference) for record in self._seeds(claim.experiment)]

    def _seeds(self, experiment: str) -> list[Record]:
        """The experiment's record, and then its replicates as in `over_seeds`."""
        record = self.record(experiment)
        found = [record]
        for other in self._replicates(experiment):
            if other.overrides.keys() == {"seed"} and other.data["name"] == record.data["name"]:
                found.append(other)
        return found

    # ---- Verdicts

    def with_symbol(self, claim: Claim) -> str:
        """The claim's verdict after its symbol."""
        verdict = self.verdict(claim)
        return f"{SYMBOLS[verdict]} {verdict.value}"

    def verdict(self, claim: Claim) -> Verdict:
        """The claim's verdict; a discrepancy's is "not run"."""
        match claim:
            case Number():
                return self._number(claim)
            case Repeat():
                return self.verdict(self.claims[claim.same_as])
            case Curve():
                return self._point(claim)
            case Setup():
                return self._setup(claim)
            case Statement():
                return self._statement(claim)
        return Verdict.NOT_RUN

    def _number(self, claim: Number) -> Verdict:
        try:
            ours = self.over_seeds(claim)
        except Unrecorded:
            return Verdict.NOT_RUN
        if isinstance(claim, Std):
            return rules.number(claim, ours[0])
        return rules.over_seeds([rules.number(claim, each) for each in ours])

    def _point(self, claim: Curve) -> Verdict:
        try:
            ours = self.over_seeds(claim)
        except Unrecorded:
            return Verdict.NOT_RUN
        if not claim.printed_as:
            return Verdict.UNREADABLE
        printed = cast(Number, self.claims[claim.printed_as])
        return rules.over_seeds([rules.number(printed, each) for each in ours])

    def _setup(self, claim: Setup) -> Verdict:
        parts = [self._found_again(claim, name) for name in expand(claim.experiments)]
        verdict = rules.all_parts(parts)
        return Verdict.NOT_RUN if verdict is Verdict.NOT_MEASURED else verdict

    def _found_again(self, claim: Setup, experiment: str) -> Verdict:
        try:
            record = self.record(experiment)
        except Unrecorded:
            return Verdict.NOT_MEASURED
        if claim.deviation:
            return Verdict.SHORT
        return rules.setting(_setting(record, claim.field), claim.value)

    def _statement(self, claim: Statement) -> Verdict:
        if claim.verdict:
            is_shown = (records.PROJECT / claim.evidence).is_file()
            return claim.verdict if is_shown else Verdict.NOT_MEASURED
        return rules.all_parts([part.verdict for part in self._parts(claim)])

    def _parts(self, claim: Statement) -> list["Part"]:
        """What decides a statement: comparisons, then other claims."""
        parts = [
            self._comparison(comparison, a, others)
            for comparison in claim.compare
            for a, others in comparison.pairs()
        ]
        for name in expand(claim.claims):
            number = self.claims[name]
            said = f"{name} {self._ours(number)} (paper {self.printed(number)})"
            parts.append(Part(said, rules.PARTS[self.verdict(number)]))
        return parts

    def _comparison(self, comparison: Comparison, name: str, others: list[str]) -> "Part":
        try:
            a = self._measurement(name)
            b = rules.mean_of([self._measurement(other) for other in others])
        except Unrecorded:
            return Part(name, Verdict.NOT_MEASURED)
        first, second = (records.rounded(each.mean, ROUND_FLOOR) for each in (a, b))
        said = f"{name} {first} beside {' and '.join(others)} {second}"
        return Part(said, rules.comparison(comparison, a, b))

    def _reason(self, claim: Statement) -> str:
        """How many parts hold, and the first that do not."""
        known = [p for p in self._parts(claim) if p.verdict is not Verdict.NOT_MEASURED]
        if not known:
            return ""
        missed = [part.said for part in known if part.verdict is not Verdict.HOLDS]
        said = f"{len(known) - len(missed)} of {len(known)} parts hold"
        if missed:
            said += f", not {'; '.join(missed[:SHOWN_PARTS])}"
        if len(missed) > SHOWN_PARTS:
            said += " and others"
        return said

    # ---- What the reader sees

    def row(self, claim: Claim) -> dict[str, str]:
        """One line of the table."""
        answer = self.answer(claim)
        return {
            "id": claim.id,
            "place": claim.place,
            "kind": claim.kind,
            "paper": self.printed(answer),
            "paper's recipe": self._by_the_papers_recipe(answer),
            "ours": self._ours(answer),
            "over seeds": self._over_seeds(answer),
            "verdict": self.verdict(claim).value,
            "beside": self._beside(answer),
            "note": claim.note,
        }

    def entry(self, claim: Claim) -> dict[str, Any]:
        """A row for programs: also the paper's number, what each seed gave, in percent (a rate as
        it is), and the keys of the records that answer, None where there is none."""
        answer = self.answer(claim)
        printed = answer
        if isinstance(answer, Curve) and answer.printed_as:
            printed = self.claims[answer.printed_as]
        is_number = isinstance(printed, Number)
        found = {name: self.find(name) for name in self._experiments(answer)}
        return {
            **self.row(claim),
            "paper value": printed.value if is_number else None,
            "paper std": printed.std if is_number else None,
            "measured": self._measured_by_seed(answer),
            "experiments": {name: record and record.key for name, record in found.items()},
        }

    def _measured_by_seed(self, claim: Claim) -> list[dict[str, Any]]:
        if not isinstance(claim, Number | Curve):
            return []
        try:
            seeds = self._seeds(claim.experiment)
            numbers = [_measured(record, claim.reference) for record in seeds]
        except Unrecorded:
            return []
        found = []
        for record, ours in zip(seeds, numbers, strict=True):
            metric = record.metrics.get(claim.reference.name)
            found.append(
                {
                    "seed": record.config["seed"],
                    "key": record.key,
                    "mean": ours.mean,
                    "std": ours.std,
                    "n": metric["n"] if metric else 1,
                }
            )
        return found

    def experiment(self, name: str) -> str:
        """The experiment that answers a claim on a number."""
        return cast(Number | Curve, self.answer(self.claims[name])).experiment

    def line(self, name: str) -> str:
        """A claim's verdict, the same on every machine with the same records."""
        answer = self.answer(self.claims[name])
        numbers = ""
        if not isinstance(answer, Statement | Setup):
            numbers = f" (paper {self.printed(answer)}, ours {self._ours(answer)})"
        return f"{name}: {self.verdict(answer)}{numbers}"

    def printed(self, claim: Claim) -> str:
        """What the paper prints."""
        if isinstance(claim, Curve) and claim.printed_as:
            return self.claims[claim.printed_as].printed
        return claim.printed

    def _ours(self, claim: Claim) -> str:
        """What our record says; empty where it does not or the claim is none on a number."""
        if not isinstance(claim, Number | Curve):
            return ""
        try:
            return shown(self.measure(claim.experiment, claim.metric), claim)
        except Unrecorded:
            return ""

    def _by_the_papers_recipe(self, claim: Claim) -> str:
        """What the paper's own settings give here, and the verdict on it; empty where they were not
        run."""
        if not isinstance(claim, Result | Std):
            return ""
        for record in self._replicates(claim.experiment):
            if record.overrides == {"faithful": True} and claim.reference.name in record.metrics:
                found = _measured(record, claim.reference)
                return f"{shown(found, claim)} ({rules.number(claim, found)})"
        return ""

    def _over_seeds(self, claim: Claim) -> str:
        """Mean and range of the means of several seeds; empty where there is one."""
        if not isinstance(claim, Result) or not self._ours(claim):
            return ""
        means = [each.mean for each in self.over_seeds(claim)]
        if len(means) == 1:
            return ""
        numbers = (sum(means) / len(means), min(means), max(means))
        mean, low, high = (records.rounded(number, ROUNDING[claim.rule]) for number in numbers)
        return f"{mean} ({low} to {high}, {len(means)} seeds)"

    def answer(self, claim: Claim) -> Claim:
        """The claim whose verdict this one takes, mostly itself."""
        return self.claims[claim.same_as] if isinstance(claim, Repeat) else claim

    def _beside(self, claim: Claim) -> str:
        """What a reader must know: a deviation, where a written verdict is shown, whether a std is
        smaller or larger, the runs before, another copy of the data, fewer networks than the
        paper's."""
        facts = []
        if isinstance(claim, Std):
            facts.append(SPREADS.get(self.verdict(claim), ""))
        if isinstance(claim, Number) and claim.earlier:
            facts.append("runs before: " + ", ".join(f"{value:.2f}" for value in claim.earlier))
        if isinstance(claim, Setup):
            facts.append(claim.deviation)
        if isinstance(claim, Statement):
            facts.append(claim.evidence or self._reason(claim))
        if isinstance(claim, Number) and claim.also:
            facts.append(self._on_another_copy(claim))
        for experiment in self._experiments(claim):
            record = self.find(experiment)
            if record is not None:
                facts += _particulars(record)
        return ", ".join(dict.fromkeys(filter(None, facts)))

    def _on_another_copy(self, claim: Number) -> str:
        """Our number on the other copy of the data; empty where it was not run there."""
        record = self.find(claim.also)
        if record is None:
            return ""
        copies = (record.data["name"], record.config.get("source"))
        copy = next(COPIES[name] for name in copies if name in COPIES)
        return f"on {copy} {shown(self.measure(claim.also, claim.metric), claim)}"

    def _experiments(self, claim: Claim) -> list[str]:
        """The experiments that answer a claim."""
        match claim:
            case Number() | Curve():
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


def _measured(record: Record, reference: MetricReference) -> Measurement:
    """The metric's mean with its std and values, its std alone, or a learned rate; Unrecorded where
    the record has none."""
    if reference.name == "lrs":
        return Measurement(_rate(record, reference.index))
    metric = record.metrics.get(reference.name)
    if metric is None:
        raise Unrecorded(reference.name)
    mean = _percent_at(metric["mean"], reference.index)
    std = _percent_at(metric["std"], reference.index)
    wanted = std if reference.of_std else mean
    if wanted is None:
        raise Unrecorded(reference.name)
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
        return [float(rate) for rate in tried if rate not in ("learned", "given")]
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
        facts.append("one init")
    elif record.config.get("nets", rules.PAPER_RUNS) < rules.PAPER_RUNS:
        facts.append(f"{record.config['nets']} test networks")
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
    paper's recipe run here, ours, ours over seeds, verdict, beside, note."""
    claims = judge.claims.values()
    return pd.DataFrame([judge.row(c) for c in claims if not isinstance(c, Discrepancy)])


def entries(judge: Judge) -> list[dict[str, Any]]:
    """The same rows for programs: the book's results.json, and `ddcore report --format json`."""
    claims = judge.claims.values()
    return [judge.entry(c) for c in claims if not isinstance(c, Discrepancy)]


def numbers(judge: Judge, names: list[str]) -> Linked:
    """Some claims on numbers as a chapter shows them, without columns that are empty for all. Ours
    lead to their evidence."""
    rows = [judge.row(judge.claims[name]) for name in names]
    columns = ["paper", "paper's recipe", "ours", "over seeds", "verdict", "beside"]
    filled = [column for column in columns if any(row[column] for row in rows)]
    frame = pd.DataFrame(rows, columns=["id", *filled]).set_index("id")
    ours = {row["id"] for row in rows if row["ours"]}
    return Linked(frame, {(name, "ours"): judge.experiment(name) for name in ours})


def statements(judge: Judge, names: list[str]) -> pd.DataFrame:
    """Some statements with their verdicts and what they were read as."""
    rows = []
    for name in names:
        row = judge.row(judge.claims[name])
        rows.append(row | {"statement": row["paper"], "read as": row["note"]})
    return pd.DataFrame(rows, columns=["id", "statement", "verdict", "read as"]).set_index("id")


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
    columns = ["result", "paper", "paper's recipe", "ours", "over seeds", "verdict", "beside"]
    return pd.DataFrame(rows, columns=columns)


def counts(frame: pd.DataFrame) -> pd.DataFrame:
    """How many claims of each kind have each verdict, best first."""
    rows = []
    for kind, verdicts in frame.groupby("kind")["verdict"]:
        rows.append({"kind": kind, "claims": len(verdicts), "verdicts": counted(verdicts)})
    return pd.DataFrame(rows).set_index("kind")


def counted(verdicts: Iterable[str]) -> str:
    """How many there are of each verdict, best first, in words."""
    number = Counter(verdicts)
    return ", ".join(f"{number[word]} {word}" for word in reversed(Verdict) if word in number)


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table without the index."""
    rows = [list(frame.columns), ["---"] * frame.shape[1]]
    rows += frame.astype(str).values.tolist()
    return "\n".join(_markdown_row(row) for row in rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first row is its head."""
    head, *body = rows
    return markdown(pd.DataFrame(body, columns=list(head)))


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
