"""The contract with the paper: claims.yml, held against the records at the paper's scale.

Every printed number and every checkable statement is one claim. Its verdict is computed here, not stored;
only a statement that no metric decides has a written verdict, beside the file that shows it. With d our
mean minus the paper's in percentage points and noise twice the standard error of d (200 runs in the paper):

- `at least`: exceeded if d > max(1, noise) (results only), reproduced if d >= 0, partly if d >= -tolerance,
  else not reproduced. Tolerance: the claim's own, else the paper's std (5 at most), else 2.
- `at most` (attacked class still right): the same with -d. So is a result's std, with half of it as
  tolerance; where its mean is not reproduced, neither is the std.
- `close` (contexts, baselines, rates): reproduced if |d| <= tolerance, partly if within twice that.
  Tolerance: the claim's own, else the paper's std, else 1. A context's or baseline's std: half of it.
- A setup or statement has parts. All hold: reproduced. None of those that were run: not reproduced. Else
  partly. A setup's part is one experiment, and holds if equal. A statement's is another claim's verdict, or
  experiment a against b: holds if a - b >= by and beyond its noise (or |a - b| <= within), half if a > b (or
  within twice that).
- not run: no record says. no value: one does, but the paper's number cannot be read in its text.
"""

import re
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN
from functools import cache
from itertools import product
from math import hypot, sqrt
from pathlib import Path
from statistics import stdev
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ddcore.errors import InputError
from ddcore.experiments import records

FILE = Path(__file__).with_name("claims.yml")
# from worst to best
Verdict = Literal["not run", "no value", "not reproduced", "partly", "reproduced", "exceeded"]
NUMBER = {"value", "experiment", "rule"}
NEEDS = {  # what a claim of each kind must say
    "result": NUMBER, "context": NUMBER, "baseline": NUMBER, "std": NUMBER, "rate": NUMBER, "curve": set(),
    "repeat": {"value", "same_as"}, "setup": {"value", "experiments"}, "statement": {"text"},
    "discrepancy": {"text", "decided_by"},
}  # fmt: skip
COPIES = {"cifar10-jpeg": "JPEG copy of CIFAR-10", "usps": "torchvision's copy of USPS"}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Compare(Strict):
    """`experiment:metric` a against b, pair by pair (braces as in a shell); b may be a mean, `x+y`."""

    a: str
    b: str
    by: float = 0
    within: float | None = None


class Claim(Strict):
    id: str
    place: str
    kind: Literal[tuple(NEEDS)]
    value: float | list[float] | None = None  # percent as printed, a rate as it is; null: unreadable
    std: float | None = None  # likewise; absent: none printed
    experiment: str = ""
    metric: str = "test_accuracy"
    rule: Literal["at least", "at most", "close"] | None = None
    tolerance: float | None = None
    same_as: str = ""  # the claim whose verdict this one takes
    extracted: str = ""  # the characters in the paper's text, where they cannot be read as numbers
    experiments: str = ""  # of a setup; braces as in a shell
    field: str = ""  # of the record's config, or images (in all), nets (held out), rates (fixed ones)
    deviation: str = ""  # instead of a field: what we do, in words; partly at best
    text: str = ""
    claims: str = ""  # ids whose verdicts decide a statement; braces as in a shell
    compare: list[Compare] = []
    evidence: str = ""  # the file that shows a written verdict
    verdict: Verdict | None = None  # beside evidence
    about: list[str] = []  # ids that a discrepancy concerns
    decided_by: str = ""
    finding: str = ""
    headline: str = ""  # label in the README's table
    note: str = ""

    @model_validator(mode="after")
    def _complete(self) -> "Claim":
        ways = sum(map(bool, (self.claims, self.compare, self.evidence)))
        if lacks := NEEDS[self.kind] - self.model_fields_set:
            raise ValueError(f"{self.id}: a {self.kind} needs {', '.join(sorted(lacks))}")
        if ways != (self.kind == "statement") or bool(self.evidence) != bool(self.verdict):
            raise ValueError(f"{self.id}: a statement has one of claims, compare, evidence+verdict")
        return self


def load(path: Path = FILE) -> dict[str, Claim]:
    """id -> claim, in the file's order; a printed std follows its mean as `<id>.std`.

    The file is a list of groups; what stands beside a group's `entries` is the default of each of them.
    """
    found = []
    try:
        for group in yaml.safe_load(path.read_text(encoding="utf-8")):
            entries = group.pop("entries")
            for fields in ({**group, **entry} for entry in entries):
                found.append(claim := Claim(**fields))
                if "std" in fields:
                    how = {"id": f"{claim.id}.std", "kind": "std", "value": claim.std, "std": None,
                           "metric": f"{claim.metric}.std", "tolerance": (claim.std or 0) / 2, "headline": "",
                           "rule": "at most" if claim.kind == "result" else "close"}  # fmt: skip
                    found.append(claim.model_copy(update=how))
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{path.name} cannot be used: {' '.join(str(error).split())}") from None
    claims = {claim.id: claim for claim in found}
    named = {i for c in found for i in (c.same_as or c.id, *expand(c.claims), *c.about)}
    if odd := sorted(named - claims.keys()) + [c.id for c in found if c is not claims[c.id]]:
        raise InputError(f"{path.name}: an id is used twice or unknown: {', '.join(odd)}")
    return claims


class Unrecorded(LookupError):
    """No record, or a record that does not say."""


class Measured(NamedTuple):
    """Mean and std in percent over n networks, and their values in order."""

    mean: float
    std: float | None = None
    n: int = 1
    values: tuple[float, ...] = ()

    def noise(self, std: float | None, n: int) -> float:
        return 2 * hypot((self.std or 0) / sqrt(self.n), (std or 0) / sqrt(n))


def expand(pattern: str) -> list[str]:
    """`a-{b,c} d` -> a-b, a-c, d, as in a shell."""
    words = [[part.split(",") for part in re.split(r"[{}]", word)] for word in pattern.split()]
    return ["".join(choice) for word in words for choice in product(*word)]


class Judge:
    """Gives verdicts on claims from the records that `find(experiment)` returns (None: there is none)."""

    def __init__(self, find: Callable[[str], Any] | None = None, claims: dict[str, Claim] | None = None):
        self.claims, self._find = claims or load(), cache(find or records.find)

    def record(self, experiment: str) -> Any:
        if (record := self._find(experiment)) is None:
            raise Unrecorded(experiment)
        return record

    def measure(self, experiment: str, metric: str = "test_accuracy") -> Measured:
        """`name` or `name.k` (class k), either with `.std`; a rate `lrs.e.s` or the epoch's mean `lrs.e`."""
        record, (name, *at) = self.record(experiment), metric.removesuffix(".std").split(".")
        if name == "lrs":
            rates = record.distilled.lrs[int(at[0])]
            return Measured(float(rates[int(at[1])] if at[1:] else sum(rates) / len(rates)))
        found = record.metrics.get(name, {})
        both = found.get("mean"), found.get("std")
        mean, std = (percent(each[int(at[0])] if at and each else each) for each in both)
        wanted = std if metric.endswith(".std") else mean
        if wanted is None:
            raise Unrecorded(f"{experiment}: {metric}")
        if metric.endswith(".std"):
            return Measured(wanted)
        return Measured(wanted, std, found["n"], () if at else tuple(map(percent, found["values"])))

    def verdict(self, claim: Claim) -> str:
        if claim.evidence:
            return claim.verdict if (records.PROJECT / claim.evidence).is_file() else "not run"
        if claim.same_as:
            return self.verdict(self.claims[claim.same_as])
        if claim.experiment:
            ours = _or_none(self.measure, claim.experiment, claim.metric)
            return "not run" if ours is None else self._number(claim, ours)
        parts = self._parts(claim)
        if not any(parts):
            return "not reproduced" if 0 in parts else "not run"
        return "reproduced" if all(part == 1 for part in parts) else "partly"

    def _number(self, claim: Claim, ours: Measured) -> str:
        if claim.value is None:
            return "no value"
        d = round(ours.mean - claim.value, 9) * (-1 if claim.rule == "at most" else 1)
        if claim.kind == "std" and self.verdict(self.claims[claim.id[:-4]]) == "not reproduced":
            return "not reproduced"
        if claim.rule == "close":
            tolerance = claim.tolerance or claim.std or 1
            holds, half = abs(d) <= tolerance, abs(d) <= 2 * tolerance
        else:
            if claim.kind == "result" and d > max(1, ours.noise(claim.std, 200)):
                return "exceeded"
            holds, half = d >= 0, d >= -(claim.tolerance or min(claim.std or 2, 5))
        return "reproduced" if holds else "partly" if half else "not reproduced"

    def _parts(self, claim: Claim) -> list[float | None]:
        """1: holds, 0.5: half, 0: fails, None: not run."""
        if claim.kind == "setup":
            return [_or_none(self._setup, claim, experiment) for experiment in expand(claim.experiments)]
        pairs = [(c, *ab) for c in claim.compare for ab in zip(expand(c.a), expand(c.b), strict=True)]
        score = {"not run": None, "no value": None, "not reproduced": 0, "partly": 0.5}
        return [_or_none(self._compare, *pair) for pair in pairs] + [
            score.get(self.verdict(self.claims[i]), 1) for i in expand(claim.claims)]  # fmt: skip

    def _compare(self, how: Compare, a: str, b: str) -> float:
        x, *ys = (self.measure(*name.split(":")) for name in (a, *b.split("+")))
        y = ys[0]
        if ys[1:]:
            y = Measured(sum(y.mean for y in ys) / len(ys), hypot(*(y.std or 0 for y in ys)) / len(ys), y.n)
        d, noise = round(x.mean - y.mean, 9), x.noise(y.std, y.n)
        if how.within is not None:
            return 1 if abs(d) <= how.within else 0.5 if abs(d) <= 2 * how.within else 0
        if len(x.values) == len(y.values) > 1:  # network by network: both records hold them in one order
            noise = 2 * stdev(p - q for p, q in zip(x.values, y.values, strict=True)) / sqrt(x.n)
        return 1 if d >= how.by and d > noise else 0.5 if d > 0 else 0

    def _setup(self, claim: Claim, experiment: str) -> float:
        record = self.record(experiment)
        said = dict(record.config, nets=next(iter(record.metrics.values()))["n"])
        said["images"] = said["per_class"] * said["steps"] * 10  # ten classes everywhere
        tried = record.distillation.get("validation_accuracy_by_rate", {})
        said["rates"] = [float(rate) for rate in tried if rate != "learned"]
        if claim.deviation:
            return 0.5
        return float(said[claim.field] == claim.value)

    def row(self, claim: Claim) -> dict[str, str]:
        """One line of the table."""
        number, verdict = self.claims.get(claim.same_as, claim), self.verdict(claim)
        ours = ""
        if number.experiment and verdict != "not run":
            ours = shown(self.measure(number.experiment, number.metric), number)
        paper = "not printed" if claim.kind == "curve" else "unreadable"
        if number.value is not None:
            values = number.value if isinstance(number.value, list) else [number.value]
            paper = ", ".join(f"{value:g}" for value in values) + (f" ± {number.std:g}" if number.std else "")
        return {"id": claim.id, "place": claim.place, "kind": claim.kind, "paper": claim.text or paper,
                "ours": ours, "verdict": verdict, "beside": self._beside(number)}  # fmt: skip

    def line(self, name: str) -> str:
        """One claim's verdict and rule on a line that is the same on every machine with the same records."""
        number = self.claims.get(self.claims[name].same_as, self.claims[name])
        verdict = self.verdict(number)
        word = "PASS" if verdict in ("reproduced", "exceeded") else "FAIL" if verdict == "not reproduced" else verdict
        if number.value is None:
            return f"{name} {word} ({number.text or 'no value printed'})"
        return f"{name} {word} (paper {number.value:g}, {number.rule} {number.value:g})"

    def _beside(self, claim: Claim) -> str:
        """What a reader must know: another copy of the data, a pool of networks smaller than the paper's."""
        sides = [side for c in claim.compare for side in expand(c.a) + expand(c.b.replace("+", " "))]
        names = expand(claim.experiments) + [side.split(":")[0] for side in sides] + [claim.experiment]
        names += [self.claims[i].experiment for i in expand(claim.claims)]
        facts = [claim.deviation, claim.evidence]
        for record in filter(None, map(self._find, filter(None, names))):
            pool = record.config.get("pool") or 2000
            facts += [COPIES.get(name) for name in (record.data["name"], record.config.get("source"))]
            facts += [f"pool of {pool} networks" if pool < 2000 else None]
            facts.append("one init, one seed" if record.config.get("fixed") else None)
        return ", ".join(dict.fromkeys(filter(None, facts)))


def _or_none(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Unrecorded:
        return None


def percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 9)  # far finer than one image in 200 networks


def shown(ours: Measured, claim: Claim) -> str:
    """Our number to two decimals, rounded against us: down where higher is better, up where lower is."""
    if claim.metric.startswith("lrs"):
        return f"{ours.mean:.6f}"
    towards = {"at least": ROUND_FLOOR, "at most": ROUND_CEILING}.get(claim.rule, ROUND_HALF_EVEN)
    spread = "" if ours.std is None else f" ± {records.rounded(ours.std, ROUND_CEILING)}"
    return records.rounded(ours.mean, towards) + spread


def table(judge: Judge) -> pd.DataFrame:
    """A row for each claim: id, place, kind, paper, ours, verdict, beside. Discrepancies have no verdict."""
    return pd.DataFrame([judge.row(claim) for claim in judge.claims.values() if claim.kind != "discrepancy"])


def discrepancies() -> pd.DataFrame:
    """Where the paper's parts, its page and its code disagree, what decides and what came of it."""
    said = ["place", "text", "decided_by", "finding"]
    return pd.DataFrame([{n: getattr(c, n) for n in said} for c in load().values() if c.kind == "discrepancy"])


def headlines(judge: Judge) -> pd.DataFrame:
    """The README's table of paper against ours."""
    rows = [judge.row(c) | {"result": c.headline} for c in judge.claims.values() if c.headline]
    return pd.DataFrame(rows)[["result", "paper", "ours", "verdict", "beside"]]


def counts(frame: pd.DataFrame) -> pd.DataFrame:
    """How many claims of each kind have each verdict, best first."""
    return pd.crosstab(frame["kind"], frame["verdict"]).reindex(columns=get_args(Verdict)[::-1], fill_value=0)


def markdown(frame: pd.DataFrame) -> str:
    """A markdown table without the index."""
    lines = [list(frame.columns), ["---"] * frame.shape[1], *frame.astype(str).values.tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
