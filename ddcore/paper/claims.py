"""The contract with the paper: what claims.yml says, one class for each kind of claim.

Every printed number and every checkable statement of the paper is one claim, with the experiment
and metric that answer it and the rule for its verdict. The file is a list of groups; what stands
beside a group's `entries` is the default of each of them. Three small notations occur in it:

- braces, as in a shell, name several experiments or claims at once: `fig{2,3}a` (see `expand`);
- `experiment:metric` names a number of a record (see `MetricReference`);
- `x+y` names the mean of two of them (see `Comparison`).

How a verdict follows from a claim and a record stands in rules.py; who asks for it, in ledger.py.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ddcore.support.errors import InputError

FILE = Path(__file__).with_name("claims.yml")
TEST_ACCURACY = "test_accuracy"


class Verdict(StrEnum):
    """What became of a claim: of a number, then of a statement or a setting, from worst to best."""

    NOT_RUN = "not run"
    UNREADABLE = "unreadable"
    NOT_REPRODUCED = "not reproduced"
    BELOW = "below"
    EQUAL = "equal"
    EXCEEDED = "exceeded"

    NOT_MEASURED = "not measured"
    CONTRADICTED = "contradicted"
    CONTRADICTED_IN_PART = "contradicted in part"
    SHORT = "short of the threshold"
    HOLDS_WHERE_RUN = "holds where it was run"
    HOLDS = "holds"


WRITTEN = list(Verdict)[list(Verdict).index(Verdict.NOT_MEASURED) :]  # a statement's words

# ---- The notations


def expand(pattern: str) -> list[str]:
    """`a-{b,c} d` -> a-b, a-c, d, as in a shell."""
    names = []
    for word in pattern.split():
        choices = [part.split(",") for part in re.split(r"[{}]", word)]
        names += ["".join(choice) for choice in product(*choices)]
    return names


@dataclass(frozen=True)
class MetricReference:
    """A number of a record: a metric's mean or its std over the networks, or a learned rate.

    `index` is (class,) where the metric has a number for each class, (epoch, step) or (epoch,) of
    the rates `lrs`, else ().
    """

    experiment: str
    name: str = TEST_ACCURACY
    index: tuple[int, ...] = ()
    of_std: bool = False

    @classmethod
    def parse(cls, text: str) -> "MetricReference":
        """`experiment`, `experiment:name` or `experiment:name.k`, the last two also with `.std`;
        `experiment:lrs.e.s` or, for the mean over an epoch's steps, `experiment:lrs.e`."""
        experiment, _, metric = text.partition(":")
        name, *index = metric.removesuffix(".std").split(".")
        return cls(
            experiment,
            name or TEST_ACCURACY,
            tuple(int(number) for number in index),
            of_std=metric.endswith(".std"),
        )


# ---- The kinds


class Strict(BaseModel):
    """No field too many, none of another type, and none that changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Entry(Strict):
    """What every claim has."""

    id: str
    place: str  # in the paper
    note: str = ""

    def references(self) -> list[str]:
        """The ids of other claims that this one names."""
        return []


class Answered(Entry):
    """What a number of a record answers."""

    experiment: str
    metric: str = TEST_ACCURACY
    rule: Literal["at least", "at most", "close"]

    @property
    def reference(self) -> MetricReference:
        return MetricReference.parse(f"{self.experiment}:{self.metric}")


class Number(Answered):
    """A number of the paper that a record answers."""

    value: float | None  # percent as printed, a rate as it is; null: printed, but unreadable
    std: float | None = None  # likewise; absent: none is printed
    tolerance: float | None = None  # in the value's unit; absent: the rule's own
    extracted: str = ""  # the characters in the paper's text where no number can be read
    intervals: list[list[float]] = []  # [low, high]: what these characters can be read as
    earlier: list[float] = []  # what runs of ours gave whose record the present one replaced
    also: str = ""  # the same experiment on another copy of the data, shown beside

    @property
    def printed(self) -> str:
        """What the paper prints."""
        if self.intervals:
            return " or ".join(f"{low:g} to {high:g}" for low, high in self.intervals)
        if self.value is None:
            return "unreadable"
        if not self.std:
            return f"{self.value:g}"
        return f"{self.value:g} ± {self.std:g}"


class Result(Number):
    """What the paper's method reaches. Only a result can be exceeded."""

    kind: Literal["result"]
    headline: str = ""  # its label in the README's table


class Context(Number):
    """What stands beside a result, mostly the accuracy before training on the images."""

    kind: Literal["context"]


class Baseline(Number):
    """What another method reaches."""

    kind: Literal["baseline"]


class Std(Number):
    """The printed standard deviation of a number, whose id is `mean`. Made by `load`."""

    kind: Literal["std"]
    mean: str

    def references(self) -> list[str]:
        return [self.mean]


class Rate(Number):
    """A printed learning rate."""

    kind: Literal["rate"]


class Curve(Answered):
    """A point of a curve, which prints no value; some have one elsewhere in the text."""

    kind: Literal["curve"]
    value: None = None
    std: None = None
    printed_as: str = ""  # the result whose number the text prints for this point

    def references(self) -> list[str]:
        return [self.printed_as] if self.printed_as else []

    @property
    def printed(self) -> str:
        return "not printed"


class Repeat(Entry):
    """The same number printed again: it takes the verdict of the claim `same_as`."""

    kind: Literal["repeat"]
    value: float
    same_as: str

    def references(self) -> list[str]:
        return [self.same_as]

    @property
    def printed(self) -> str:
        return f"{self.value:g}"


class Setup(Entry):
    """A setting of the paper's experiments, to be found again in ours."""

    kind: Literal["setup"]
    value: float | list[float]
    experiments: str  # in braces
    field: str = ""  # of the record's config, or images (in all), nets (held out), rates (fixed)
    deviation: str = ""  # instead of a field: what we do, in words

    @model_validator(mode="after")
    def _one_answer(self) -> "Setup":
        if bool(self.field) == bool(self.deviation):
            raise ValueError("a setup has one of field, deviation")
        return self

    @property
    def printed(self) -> str:
        if isinstance(self.value, list):
            return ", ".join(f"{value:g}" for value in self.value)
        return f"{self.value:g}"


class Comparison(Strict):
    """Experiment a against b, pair by pair: `a` and `b` are references in braces.

    A reference of `b` may be a mean, `x+y`. With `by`, a is the larger one by so many points;
    with `within`, the two differ by so many points at most.
    """

    a: str
    b: str
    by: float = 0
    within: float | None = None

    def references(self) -> list[str]:
        """All references, a's before b's."""
        return expand(self.a) + expand(self.b.replace("+", " "))

    def pairs(self) -> list[tuple[str, list[str]]]:
        """Each a with the references whose mean it is compared with."""
        right = [names.split("+") for names in expand(self.b)]
        return list(zip(expand(self.a), right, strict=True))


class Statement(Entry):
    """A sentence of the paper. Other claims, comparisons or a written verdict decide it."""

    kind: Literal["statement"]
    text: str
    claims: str = ""  # the ids of the claims that decide, in braces
    compare: list[Comparison] = []
    evidence: str = ""  # the project's file that shows why the written verdict is right
    verdict: Annotated[Verdict, Field(strict=False)] | None = None  # written beside the evidence

    @model_validator(mode="after")
    def _one_answer(self) -> "Statement":
        answers = [bool(self.claims), bool(self.compare), bool(self.evidence)]
        if sum(answers) != 1 or bool(self.evidence) != bool(self.verdict):
            raise ValueError("a statement has one of claims, compare, evidence with verdict")
        if self.verdict is not None and self.verdict not in WRITTEN:
            raise ValueError(f"a statement's verdict is one of {', '.join(WRITTEN)}")
        return self

    def references(self) -> list[str]:
        return expand(self.claims)

    @property
    def printed(self) -> str:
        return self.text


class Discrepancy(Entry):
    """Where the paper disagrees with itself, its project page or its code. It has no verdict."""

    kind: Literal["discrepancy"]
    text: str
    about: list[str] = []  # the ids that it concerns
    decided_by: str
    finding: str = ""

    def references(self) -> list[str]:
        return self.about

    @property
    def printed(self) -> str:
        return self.text


Measurable = Result | Context | Baseline | Std | Rate
Claim = Measurable | Curve | Repeat | Setup | Statement | Discrepancy
ANY_KIND: TypeAdapter[Claim] = TypeAdapter(Annotated[Claim, Field(discriminator="kind")])


# ---- The file


def load(path: Path = FILE) -> dict[str, Claim]:
    """The claims by id, in the file's order; a printed std follows its mean as `<id>.std`.

    Raises:
        InputError: the file cannot be read, an entry is not a claim, or an id is used twice or
            unknown; one line that says which.
    """
    try:
        groups = yaml.safe_load(path.read_text(encoding="utf-8"))
        listed = list(_claims(groups))
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path.name} cannot be used: {' '.join(str(error).split())}") from None
    claims = {claim.id: claim for claim in listed}
    named = {name for claim in listed for name in claim.references()}
    wrong = sorted(named - claims.keys())
    wrong += [
        name
        for claim in listed
        if isinstance(claim, Statement | Curve)
        for name in claim.references()
        if not isinstance(claims.get(name), Number)
    ]
    wrong += [claim.id for claim in listed if claim is not claims[claim.id]]
    if wrong:
        raise InputError(
            f"{path.name}: an id is used twice, unknown or no number: {', '.join(wrong)}"
        )
    return claims


def _claims(groups: list[dict[str, Any]]) -> Iterator[Claim]:
    for group in groups:
        defaults = {name: value for name, value in group.items() if name != "entries"}
        for entry in group["entries"]:
            fields = {**defaults, **entry}
            std_intervals = fields.pop("std_intervals", [])
            claim = _claim(fields)
            yield claim
            if isinstance(claim, Number) and "std" in fields:
                yield _std(claim, std_intervals)


def _claim(fields: dict[str, Any]) -> Claim:
    try:
        return ANY_KIND.validate_python(fields)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ValueError(f"{fields.get('id')}: {'; '.join(problems)}") from None


def _std(number: Number, intervals: list[list[float]]) -> Std:
    """The claim on a number's std."""
    return Std(
        id=f"{number.id}.std",
        place=number.place,
        note=number.note,
        kind="std",
        value=number.std,
        experiment=number.experiment,
        metric=f"{number.metric}.std",
        rule="at most",
        extracted=number.extracted,
        intervals=intervals,
        mean=number.id,
    )
