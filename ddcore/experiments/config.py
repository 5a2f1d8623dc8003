"""The configuration of a run: everything that its numbers follow from, and the key that names it.

A key hashes the configuration with defaults left out, so that a new field changes no old key: never
change the default or the name of a field.
"""

import hashlib
import json
from dataclasses import fields
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ddcore.experiments import methods
from ddcore.recipe import Recipe
from ddcore.support.errors import InputError, did_you_mean
from ddcore.support.files import absolute
from ddcore.support.imported import is_own
from ddcore.support.ranges import Count, CountOrZero, Norm, Rate, Seed, Share, Small
from ddcore.support.registry import ARCHITECTURES, DATASETS, INIT_LAWS

ALGORITHM_VERSION = 1  # rises only when the meaning of a stored set changes


class Config(BaseModel):
    """Everything that a record's numbers follow from.

    Fields that -p may name are those in OVERRIDES; the others are an experiment's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    images: str = "distilled"  # the kind of training images: a name of `methods`
    network: str = "lenet"
    init: str = "xavier"  # the law of initial weights
    fixed: bool = False  # one theta_0, drawn from the seed, instead of a distribution
    steps: Small = 1  # S, gradient steps in each epoch
    epochs: Small = 1  # E
    per_class: Small = 1  # images per class in each step
    soft_labels: bool = False
    source: str = ""  # the dataset that the initial weights were trained on (adaptation); "": none
    attacked: Annotated[int, Field(ge=0)] | None = None  # poisoning: this class is to be taken for
    target: Annotated[int, Field(ge=0)] | None = None  # that one
    pool: Annotated[int, Field(ge=0, le=10_000)] = 0  # pretrained networks to distil with
    seed: Seed = 0
    nets: Small = 200  # test networks (a fixed init: 1)
    faithful: bool = False  # the settings of the paper's code
    iterations: Count = 1000  # outer steps
    samples: Small = 4  # networks per outer step
    batch: Count = 256  # real images per network
    image_rate: Rate = 0.03  # the rest as in `algorithm.Recipe`
    raw_rate: Rate = 0.01
    label_rate: Rate = 0.03
    first_lr: Rate = 0.02
    given_rate: Rate | None = (
        None  # of real images: tried with the paper's, instead of a learned one
    )
    noise: Rate = 0.2
    clip: Norm = 0.1
    checks: CountOrZero = 25
    average: Share = 0.0
    chosen_on: Small = 10  # networks, drawn from the law, that images are chosen on along the way

    @field_validator("images")
    @classmethod
    def _known_images(cls, name: str) -> str:
        return _one_of(methods.NAMES, name)

    @field_validator("network")
    @classmethod
    def _known_network(cls, name: str) -> str:
        if is_own(name):
            return name
        return _one_of(ARCHITECTURES, name, ", or module:Class of your own")

    @field_validator("init")
    @classmethod
    def _known_law(cls, name: str) -> str:
        return _one_of(INIT_LAWS, name)

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits of the configuration and the algorithm's version."""
        content = self.model_dump(exclude_defaults=True)
        content["algorithm_version"] = ALGORITHM_VERSION
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def ipc(self) -> int:
        """Images per class (IPC), counted over all steps."""
        return self.steps * self.per_class

    @property
    def pretrained_on(self) -> str:
        """The dataset that the initial weights were trained on; "" where a law draws them."""
        if self.attacked is not None and not self.source:
            return self.dataset
        return self.source

    @property
    def validation_networks(self) -> int:
        """How many networks choices are made on; they are never tested on."""
        if self.fixed:
            return 1
        if self.pretrained_on:
            return min(20, max(4, self.pool // 10))
        return self.chosen_on

    @property
    def for_one_network(self) -> "Config":
        """Of images that are tested on other networks: the configuration that made them."""
        return self.model_copy(update={"images": "distilled", "fixed": True, "nets": 1})

    @property
    def recipe(self) -> Recipe:
        settings = {name: getattr(self, name) for name in RECIPE_FIELDS}
        return Recipe(**settings, common_batch=self.faithful, halving=self.faithful)


RECIPE_FIELDS = [field.name for field in fields(Recipe) if field.name in Config.model_fields]
OVERRIDES = (  # what -p may name
    *("dataset", "network", "init", "steps", "epochs", "per_class", "samples", "batch"),
    *("iterations", "seed", "nets", "soft_labels", "faithful", "source", "attacked", "target"),
    "pool",
)
CLASSES = ("attacked", "target")  # a class's number, for which -p may say its name
Value = int | float | bool | str
BOOLEANS = {"true": True, "false": False}
TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _one_of(names: Any, name: str, others: str = "") -> str:
    if name not in names:
        known = ", ".join(map(repr, names))
        raise ValueError(f"one of {known}{others} is allowed")
    return name


def parse_override(name: str, text: str) -> Any:
    """The typed value of `-p name=text`; InputError where the name or the text is not allowed.

    A class's name stays one: its number depends on the dataset.
    """
    if name not in OVERRIDES:
        near = did_you_mean(name, OVERRIDES)
        raise InputError(f"unknown parameter {name!r}{near}; allowed: {', '.join(OVERRIDES)}")
    if name in ("dataset", "source"):
        if text not in DATASETS and not text.startswith("folder:"):
            near = did_you_mean(text, DATASETS)
            raise InputError(
                f"unknown dataset {text!r}{near}; allowed: {', '.join(DATASETS)}, folder:PATH"
            )
        return absolute(text)
    annotation = Config.model_fields[name].annotation
    kind = next(kind for kind in (bool, int, str) if kind in (annotation, *_parts(annotation)))
    try:
        return convert(text, kind)
    except ValueError:
        if name in CLASSES:
            return text
        raise InputError(f"{name}={text}: {TYPES[kind]} is allowed") from None


def convert(text: str, kind: type[Value]) -> Value:
    """What a reader wrote as a value of that type; ValueError where it is none."""
    if kind is not bool:
        return kind(text)
    word = text.strip().lower()
    if word not in BOOLEANS:
        raise ValueError(f"{text!r} is neither true nor false")
    return BOOLEANS[word]


def _parts(annotation: Any) -> list[Any]:
    """The types in an optional or annotated type."""
    parts = []
    for part in get_args(annotation):
        parts += [part, *_parts(part)]
    return parts
