"""The rules: how a verdict follows from the paper's number and ours.

Verdicts are computed, not stored; only a statement that no metric decides has a written verdict,
beside the file that shows it. Let d be our mean minus the paper's in percentage points, and e the
standard error of d, with 200 runs in the paper.

- `at least`: exceeded if d > 1 and d > 2 e (results only), equal if d >= -e, below if d >=
  -tolerance, else not reproduced. The tolerance is the claim's own, else the paper's std (5 at
  most), else 2; where e is larger, it takes e's place.
- `at most` (attacked class still right): the same with -d.
- `close` (contexts, baselines, rates): equal if |d| <= tolerance, else not reproduced. The
  tolerance is the claim's own, else the paper's std, else 1.
- A std is equal within half of the printed one, below where it is smaller, not reproduced where it
  is larger.
- Of several seeds the worst verdict counts.
- Where a number can be read as one of several intervals, the verdict is what all of them agree on,
  each taken at its point nearest to ours; else it is unreadable.
- A setup or a statement has parts. Let a part be met, missed by the threshold alone, or wrong. All
  met: it holds; all that were run: it holds where it was run. Some missed, none wrong: it is short
  of the threshold. Some wrong: it is contradicted in part; all of them: contradicted. None was run:
  not measured (of a setup: not run).
- A setup's part is one experiment: met if its setting is equal, else wrong; a deviation in words
  is short of the threshold.
- A statement's part is a number's verdict (exceeded or equal: met; below: missed; not reproduced:
  wrong), or a comparison of experiment a with b. Let d be a - b and e its standard error. The part
  is met if d >= by - e and d > 2 e, missed if d > 0 at least, else wrong. With `within` it is met
  if |d| <= within + e, missed up to twice within, else wrong.
- not run: no record says. unreadable: one does, but the paper prints no number for it, or one that
  cannot be read in its text.
"""

from collections.abc import Sequence
from math import hypot, sqrt
from statistics import stdev
from typing import NamedTuple

from ddcore.paper.claims import Comparison, Curve, Number, Result, Std, Verdict

PAPER_RUNS = 200  # networks behind each mean of the paper
DECIMALS = 9  # of a difference in percent: far finer than one image in 200 networks
RESULT_MARGIN = 1.0  # points beyond the paper's number that a result must have to exceed it
RESULT_TOLERANCE = 2.0  # points short of the paper's number, where the paper prints no std
RESULT_TOLERANCE_LIMIT = 5.0  # points, however large the paper's std
CLOSE_TOLERANCE = 1.0  # points to either side, where the paper prints no std


class Measurement(NamedTuple):
    """Mean and std in percent over n networks, and their values in order."""

    mean: float
    std: float | None = None
    n: int = 1
    values: tuple[float, ...] = ()

    @property
    def standard_error(self) -> float:
        """Of the mean; 0 where there is no std."""
        return (self.std or 0) / sqrt(self.n)


def standard_error(a: Measurement, b: Measurement) -> float:
    """Of the difference of two independent means."""
    return hypot(a.standard_error, b.standard_error)


def paired_standard_error(a: Measurement, b: Measurement) -> float:
    """Likewise, of the differences network by network where both have the same networks in order.

    Records of the same experiment's networks hold them in one order.
    """
    if len(a.values) != len(b.values) or len(a.values) < 2:
        return standard_error(a, b)
    differences = [x - y for x, y in zip(a.values, b.values, strict=True)]
    return stdev(differences) / sqrt(a.n)


def mean_of(measurements: Sequence[Measurement]) -> Measurement:
    """The mean of several experiments' means, as if they were independent."""
    if len(measurements) == 1:
        return measurements[0]
    (n,) = {each.n for each in measurements}
    mean = sum(each.mean for each in measurements) / len(measurements)
    std = hypot(*(each.std or 0 for each in measurements)) / len(measurements)
    return Measurement(mean, std, n)


# ---- Numbers


def number(claim: Number, ours: Measurement) -> Verdict:
    """The verdict on our measurement by the claim's own rule."""
    if claim.intervals:
        return one_of(claim, ours)
    if claim.value is None:
        return Verdict.UNREADABLE
    paper = Measurement(claim.value, claim.std, PAPER_RUNS)
    return by_rule(claim, ours.mean, claim.value, standard_error(ours, paper))


def one_of(claim: Number, ours: Measurement) -> Verdict:
    """The paper's number lies in one of several intervals: the verdict that all of them agree on,
    else unreadable."""
    error = ours.standard_error
    readings = [min(max(ours.mean, low), high) for low, high in claim.intervals]  # the nearest
    verdicts = {by_rule(claim, ours.mean, reading, error) for reading in readings}
    return verdicts.pop() if len(verdicts) == 1 else Verdict.UNREADABLE


def by_rule(claim: Number, ours: float, paper: float, error: float) -> Verdict:
    """The verdict on two numbers, with the standard error of their difference."""
    difference = round(ours - paper, DECIMALS)
    if isinstance(claim, Std):
        return spread(difference, paper)
    if claim.rule == "close":
        return close(claim, difference)
    if claim.rule == "at most":
        return at_least(claim, -difference, error)
    return at_least(claim, difference, error)


def at_least(claim: Number, difference: float, error: float) -> Verdict:
    """Higher is better; `error` is the difference's standard error."""
    tolerance = result_tolerance(claim)
    if isinstance(claim, Result) and difference > max(RESULT_MARGIN, 2 * error):
        return Verdict.EXCEEDED
    if difference >= -min(error, tolerance):
        return Verdict.EQUAL
    if difference >= -tolerance:
        return Verdict.BELOW
    return Verdict.NOT_REPRODUCED


def close(claim: Number, difference: float) -> Verdict:
    """Neither higher nor lower is better."""
    return Verdict.EQUAL if abs(difference) <= close_tolerance(claim) else Verdict.NOT_REPRODUCED


def result_tolerance(claim: Number) -> float:
    """Points by which a result may be worse and is still "below"."""
    return claim.tolerance or min(claim.std or RESULT_TOLERANCE, RESULT_TOLERANCE_LIMIT)


def close_tolerance(claim: Number) -> float:
    """Points, or a rate's own unit, to either side."""
    return claim.tolerance or claim.std or CLOSE_TOLERANCE


def in_words(claim: Number | Curve) -> str:
    """The rule for one claim, as a reader of its evidence sees it."""
    if isinstance(claim, Curve):
        return "the rule of the number that the text prints for this point, where there is one"
    reading = "; of each reading of the number, and all must agree" if claim.intervals else ""
    if claim.rule == "close":
        return f"equal within {close_tolerance(claim):g} of the paper's number{reading}"
    better = "higher" if claim.rule == "at least" else "lower"
    exceeded = ""
    if isinstance(claim, Result):
        exceeded = f"exceeded if {better} by {RESULT_MARGIN:g} and by two standard errors; "
    return (
        f"{exceeded}equal if worse by one standard error at most; "
        f"below if by {result_tolerance(claim):g} at most{reading}"
    )


def spread(difference: float, paper: float) -> Verdict:
    """A standard deviation is about as large as the paper's, smaller or larger."""
    if abs(difference) <= paper / 2:
        return Verdict.EQUAL
    return Verdict.BELOW if difference < 0 else Verdict.NOT_REPRODUCED


def over_seeds(verdicts: Sequence[Verdict]) -> Verdict:
    """The worst of all seeds'."""
    return min(verdicts, key=list(Verdict).index)


# ---- Parts of a setup or a statement

PARTS = {  # what a number's verdict is worth as a part of a statement
    Verdict.EXCEEDED: Verdict.HOLDS,
    Verdict.EQUAL: Verdict.HOLDS,
    Verdict.BELOW: Verdict.SHORT,
    Verdict.NOT_REPRODUCED: Verdict.CONTRADICTED,
    Verdict.NOT_RUN: Verdict.NOT_MEASURED,
    Verdict.UNREADABLE: Verdict.NOT_MEASURED,
}


def setting(ours: object, paper: object) -> Verdict:
    """A setting is equal or it is not."""
    return Verdict.HOLDS if ours == paper else Verdict.CONTRADICTED


def comparison(how: Comparison, a: Measurement, b: Measurement) -> Verdict:
    """a beside b: `within` a number of points, or larger `by` a number of points."""
    difference = round(a.mean - b.mean, DECIMALS)
    error = paired_standard_error(a, b)
    if how.within is not None:
        return within(difference, how.within, error)
    return larger(difference, how.by, error)


def within(difference: float, points: float, error: float) -> Verdict:
    """So many points to either side at most."""
    if abs(difference) <= points + error:
        return Verdict.HOLDS
    if abs(difference) <= 2 * points:
        return Verdict.SHORT
    return Verdict.CONTRADICTED


def larger(difference: float, by: float, error: float) -> Verdict:
    """By as much as asked, or less by its standard error, and beyond the noise."""
    if difference >= by - error and difference > 2 * error:
        return Verdict.HOLDS
    return Verdict.SHORT if difference > 0 else Verdict.CONTRADICTED


def all_parts(parts: Sequence[Verdict]) -> Verdict:
    """The verdict on the whole, of parts that hold, are short of the threshold, contradicted or not
    measured."""
    known = [part for part in parts if part is not Verdict.NOT_MEASURED]
    if not known:
        return Verdict.NOT_MEASURED
    if set(known) == {Verdict.CONTRADICTED}:
        return Verdict.CONTRADICTED
    if Verdict.CONTRADICTED in known:
        return Verdict.CONTRADICTED_IN_PART
    if Verdict.SHORT in known:
        return Verdict.SHORT
    return Verdict.HOLDS if len(known) == len(parts) else Verdict.HOLDS_WHERE_RUN
