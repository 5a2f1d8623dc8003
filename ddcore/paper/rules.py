"""The rules: how a verdict follows from the paper's number and ours.

Verdicts are computed, not stored; only a statement that no metric decides has a written verdict,
beside the file that shows it. Let d be our mean minus the paper's in percentage points, and noise
twice the standard error of d, with 200 runs in the paper.

- `at least`: exceeded if d > max(1, noise) (results only), reproduced if d >= 0, partly if
  d >= -tolerance, else not reproduced. The tolerance is the claim's own, else the paper's std (5
  at most), else 2.
- `at most` (attacked class still right): the same with -d. So is a result's std, with half of it
  as tolerance; where its mean is not reproduced, neither is the std.
- `close` (contexts, baselines, rates): reproduced if |d| <= tolerance, partly if within twice
  that. The tolerance is the claim's own, else the paper's std, else 1. A context's or a baseline's
  std: half of it.
- A setup or a statement has parts. All hold: reproduced. None of those that were run: not
  reproduced. Else partly. A setup's part is one experiment, and holds if its setting is equal; a
  deviation in words holds partly. A statement's part is another claim's verdict, or a comparison
  of experiment a with b: it holds if a - b >= by and beyond the noise of the difference, and
  partly if a > b; with `within`, it holds if |a - b| <= within, and partly if within twice that.
- not run: no record says. no value: one does, but the paper's number cannot be read in its text.
"""

from collections.abc import Sequence
from math import hypot, sqrt
from statistics import stdev
from typing import NamedTuple

from ddcore.paper.claims import Comparison, Number, Result, Verdict

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


def noise(a: Measurement, b: Measurement) -> float:
    """Twice the standard error of the difference of two independent means."""
    return 2 * hypot(a.standard_error, b.standard_error)


def paired_noise(a: Measurement, b: Measurement) -> float:
    """Likewise, of the differences network by network where both have the same networks in order.

    Records of the same experiment's networks hold them in one order.
    """
    if len(a.values) != len(b.values) or len(a.values) < 2:
        return noise(a, b)
    differences = [x - y for x, y in zip(a.values, b.values, strict=True)]
    return 2 * stdev(differences) / sqrt(a.n)


def mean_of(measurements: Sequence[Measurement]) -> Measurement:
    """The mean of several experiments' means, as if they were independent."""
    if len(measurements) == 1:
        return measurements[0]
    mean = sum(each.mean for each in measurements) / len(measurements)
    std = hypot(*(each.std or 0 for each in measurements)) / len(measurements)
    return Measurement(mean, std, measurements[0].n)


# ---- Numbers


def number(claim: Number, ours: Measurement) -> Verdict:
    """The verdict on our measurement by the claim's own rule."""
    if claim.value is None:
        return Verdict.NO_VALUE
    difference = round(ours.mean - claim.value, DECIMALS)
    if claim.rule == "close":
        return close(claim, difference)
    spread = noise(ours, Measurement(claim.value, claim.std, PAPER_RUNS))
    if claim.rule == "at most":
        return at_most(claim, difference, spread)
    return at_least(claim, difference, spread)


def at_least(claim: Number, difference: float, spread: float) -> Verdict:
    """Higher is better. `spread` is the noise of the difference."""
    if isinstance(claim, Result) and difference > max(RESULT_MARGIN, spread):
        return Verdict.EXCEEDED
    if difference >= 0:
        return Verdict.REPRODUCED
    tolerance = claim.tolerance or min(claim.std or RESULT_TOLERANCE, RESULT_TOLERANCE_LIMIT)
    if difference >= -tolerance:
        return Verdict.PARTLY
    return Verdict.NOT_REPRODUCED


def at_most(claim: Number, difference: float, spread: float) -> Verdict:
    """Lower is better."""
    return at_least(claim, -difference, spread)


def close(claim: Number, difference: float) -> Verdict:
    """Neither higher nor lower is better."""
    return within(difference, claim.tolerance or claim.std or CLOSE_TOLERANCE)


def within(difference: float, tolerance: float) -> Verdict:
    """Reproduced within the tolerance to either side, partly within twice that."""
    if abs(difference) <= tolerance:
        return Verdict.REPRODUCED
    if abs(difference) <= 2 * tolerance:
        return Verdict.PARTLY
    return Verdict.NOT_REPRODUCED


def standard_deviation(mean: Verdict, std: Verdict) -> Verdict:
    """The verdict on a std, given its mean's: a mean that is not reproduced has no std that is."""
    if mean is Verdict.NOT_REPRODUCED and std is not Verdict.NO_VALUE:
        return Verdict.NOT_REPRODUCED
    return std


# ---- Parts of a setup or a statement


def equal(ours: object, paper: object) -> Verdict:
    """A setting is equal or it is not."""
    return Verdict.REPRODUCED if ours == paper else Verdict.NOT_REPRODUCED


def comparison(how: Comparison, a: Measurement, b: Measurement) -> Verdict:
    """a beside b: `within` a number of points, or larger `by` a number of points."""
    difference = round(a.mean - b.mean, DECIMALS)
    if how.within is not None:
        return within(difference, how.within)
    return larger(difference, how.by, paired_noise(a, b))


def larger(difference: float, by: float, spread: float) -> Verdict:
    """Reproduced if larger by as much as asked and beyond the noise, partly if larger at all."""
    if difference >= by and difference > spread:
        return Verdict.REPRODUCED
    if difference > 0:
        return Verdict.PARTLY
    return Verdict.NOT_REPRODUCED


def all_parts(parts: Sequence[Verdict]) -> Verdict:
    """The verdict on the whole. A part that was not run keeps it from being reproduced."""
    unknown = (Verdict.NOT_RUN, Verdict.NO_VALUE)
    known = [part for part in parts if part not in unknown]
    if not known:
        return Verdict.NOT_RUN
    if all(part is Verdict.NOT_REPRODUCED for part in known):
        return Verdict.NOT_REPRODUCED
    holds = (Verdict.REPRODUCED, Verdict.EXCEEDED)
    if all(part in holds for part in parts):
        return Verdict.REPRODUCED
    return Verdict.PARTLY
