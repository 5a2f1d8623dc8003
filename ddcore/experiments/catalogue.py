"""The experiments by name, and their configurations at three scales (experiments.yml).

`paper` fixes what the paper fixes; `laptop` is the same with fewer and larger outer steps and 50
test networks (20 pretrained ones), `smoke` the same on the embedded digits within seconds.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ddcore.experiments import methods
from ddcore.experiments.config import CLASSES, RECIPE_FIELDS, Config, parse_override
from ddcore.recipe import Recipe
from ddcore.support.errors import InputError, did_you_mean
from ddcore.support.registry import architecture, source

FILE = Path(__file__).with_name("experiments.yml")
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one where it is there


class Change(BaseModel):
    """What a scale does to a configuration's numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    set: dict[str, Any] = {}
    divide: dict[str, int] = {}
    at_most: dict[str, int] = {}
    at_least: dict[str, float] = {}

    @field_validator("set", "divide", "at_most", "at_least")
    @classmethod
    def _known_fields(cls, changes: dict[str, Any]) -> dict[str, Any]:
        if unknown := changes.keys() - Config.model_fields.keys():
            raise ValueError(f"no field of a configuration: {', '.join(sorted(unknown))}")
        return changes

    def of(self, config: Config) -> dict[str, Any]:
        """The fields that it changes, with their new values."""
        changes = dict(self.set)
        for name, divisor in self.divide.items():
            changes[name] = getattr(config, name) // divisor
        for name, limit in self.at_most.items():
            changes[name] = min(getattr(config, name), limit)
        for name, limit in self.at_least.items():
            changes[name] = max(getattr(config, name), limit)
        return changes


class Scale(Change):
    """A scale; pretrained, adapted, networks: what it does beside to configurations that start from
    pretrained networks, from another dataset's, and to those of a network."""

    pretrained: Change = Change()
    adapted: Change = Change()
    networks: dict[str, Change] = {}

    def of(self, config: Config) -> dict[str, Any]:
        changes = super().of(config)
        changes |= self.networks.get(config.network, Change()).of(config)
        if config.pretrained_on:
            changes |= self.pretrained.of(config)
        if config.source:
            changes |= self.adapted.of(config)
        return changes


class Catalogue(BaseModel):
    """What experiments.yml says.

    experiments: name -> configuration at the paper's scale, most valuable first; aliases: name ->
    the experiment whose record it shares; images_of: name -> the experiment whose images it tests.
    """

    scales: dict[str, Scale]
    experiments: dict[str, Config] = {}
    aliases: dict[str, str] = {}
    images_of: dict[str, str] = {}


def read(file: Path = FILE) -> Catalogue:
    """The catalogue in a file; InputError names what is wrong in it."""
    try:
        content = yaml.load(file.read_text("utf-8"), Loader=LOADER)
        catalogue = Catalogue(scales=content["scales"])
        for group in content["experiments"]:
            defaults = {name: value for name, value in group.items() if name != "entries"}
            for entry in group["entries"]:
                _add(catalogue, defaults | entry)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file.name} cannot be used: {reason}") from None
    return catalogue


def _add(catalogue: Catalogue, entry: dict[str, Any]) -> None:
    name = entry.pop("name")
    names = [name, *entry.pop("also", [])]
    for known in names:
        if known in catalogue.experiments or known in catalogue.aliases or names.count(known) > 1:
            raise ValueError(f"{known} is there twice")
    origin = entry.pop("images_of", None)
    if origin is not None:
        if origin not in catalogue.experiments:
            raise ValueError(f"{name}: images_of {origin}, which is no experiment above it")
        made = catalogue.experiments[origin]
        entry = {**made.model_dump(), "images": "one-network", "fixed": False, **entry}
        catalogue.images_of[name] = origin
    config = Config(**entry)
    if (config.images == "one-network") != (origin is not None):
        raise ValueError(f"{name}: images: one-network and images_of belong together")
    if origin is not None and config.for_one_network != catalogue.experiments[origin]:
        raise ValueError(f"{name}: its images are not those of {origin}")
    catalogue.experiments[name] = config
    for alias in names[1:]:
        catalogue.aliases[alias] = name


_CATALOGUE = read()
EXPERIMENTS = _CATALOGUE.experiments
ALIASES = _CATALOGUE.aliases
IMAGES_OF = _CATALOGUE.images_of
SCALES = _CATALOGUE.scales


def resolve(name: str) -> str:
    """The name that the record stands under; InputError for an unknown one."""
    first = ALIASES.get(name, name)
    if first not in EXPERIMENTS:
        near = did_you_mean(name, [*EXPERIMENTS, *ALIASES])
        raise InputError(f"unknown experiment {name!r}{near or '; `ddcore list` shows them'}")
    return first


def configure(name: str, scale: str = "paper", overrides: dict[str, str] | None = None) -> Config:
    """The configuration of an experiment at a scale, with a reader's overrides (strings) applied;
    InputError where one is unknown or not allowed."""
    config = EXPERIMENTS[resolve(name)]
    if scale not in SCALES:
        raise InputError(f"unknown scale {scale!r}: one of {', '.join(SCALES)}")
    values = {n: parse_override(n, text) for n, text in (overrides or {}).items()}
    if values:
        _refuse_meaningless(name, config, values)
    changes = SCALES[scale].of(config)
    dataset = values.get("dataset", changes.get("dataset", config.dataset))
    if "dataset" in values and "network" not in values and not config.source:
        changes["network"] = _suiting(changes.get("network", config.network), dataset)
    for role in CLASSES:
        if isinstance(values.get(role), str):
            values[role] = _class_number(role, values[role], dataset)
    if values.get("faithful"):
        changes |= _paper_settings(config, dataset, changes.get("iterations"))
    try:
        return Config(**{**config.model_dump(), **changes, **values})
    except ValidationError as error:
        messages = (f"{e['loc'][0]}={e['input']}: {_plain(e['msg'])}" for e in error.errors())
        raise InputError("; ".join(messages)) from None


def _suiting(network: str, dataset: str) -> str:
    """An experiment's network where it was made for images such as the dataset's, else the
    dataset's own; InputError for a folder of images that cannot be read."""
    own = source(dataset).network
    if network == own or architecture(network).images == _shape(dataset):
        return network
    return own


def _shape(dataset: str) -> tuple[int, int]:
    """(channels, side) of its images."""
    if dataset.startswith("folder:"):
        from ddcore.datasets import load

        return load(dataset).shape
    return (3, 32) if len(source(dataset).mean) == 3 else (1, 28)


def _class_number(role: str, name: str, dataset: str) -> int:
    """The number of a class by its name, as it stands in the configuration."""
    classes = source(dataset).classes
    if not classes:  # those of folders of images
        from ddcore.datasets import load

        classes = load(dataset).classes
    if name not in classes:
        near = did_you_mean(name, classes)
        raise InputError(
            f"{role}={name} is no class of {dataset}{near}; allowed: {', '.join(classes)}, or "
            f"their numbers from 0 to {len(classes) - 1}"
        )
    return classes.index(name)


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


def _refuse_meaningless(name: str, config: Config, values: dict[str, Any]) -> None:
    """InputError for an override that changes nothing or cannot be."""
    inapplicable: list[tuple[bool, Iterable[str], str]] = [
        (not config.source, ["source"], ""),
        (not config.pool, ["pool"], ""),
        (config.attacked is None, ["attacked", "target"], ""),
    ]
    for names, reason in methods.get(config.images).ignored:
        inapplicable.append((True, names, f"; {reason}"))
    for applies, names, reason in inapplicable:
        useless = sorted(set(names) & values.keys())
        if applies and useless:
            raise InputError(f"{useless[0]} means nothing to {name}{reason}")
    if values.get("pool") == 0:
        raise InputError("pool=0: at least 1 pretrained network is allowed")
    if config.fixed and values.get("nets", 1) != 1:
        raise InputError(f"nets={values['nets']}: a fixed init is one network; only 1 is allowed")


def _paper_settings(config: Config, dataset: str, iterations: int | None) -> dict[str, Any]:
    """The settings of the paper's code, for as many outer steps (None: as the paper took)."""
    entry = source(dataset)
    recipe = Recipe.faithful(iterations or entry.paper_iterations, entry.paper_first_lr)
    changes = {name: getattr(recipe, name) for name in RECIPE_FIELDS}
    if config.pool:
        changes["samples"] = 4  # section 4.2 in the paper's code
    if config.attacked is not None:
        changes |= {"image_rate": 0.02, "raw_rate": 0.02}
    return changes
