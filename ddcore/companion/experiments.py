"""The paper's experiments as configurations, at three scales.

`paper` fixes what the paper fixes (network, images, steps, epochs, 200 held-out networks; fewer where each is trained
on everything); how many outer steps that takes is ours. `laptop` is the same with fewer and larger outer steps (of four
AlexCifarNets at most) and 50 held-out networks (20 pretrained ones), `smoke` the same on the embedded digits within
seconds. A configuration's key hashes it with defaults left out, so that a new option changes no old key: never change
the default of a field.
"""

import hashlib
import json
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddcore.datasets import NAMES, absolute
from ddcore.distill import Recipe
from ddcore.errors import InputError, did_you_mean
from ddcore.networks import INIT_LAWS, NETWORKS

ALGORITHM_VERSION = 1  # rises only when the meaning of a stored set changes
SCALES = ("smoke", "laptop", "paper")

IMAGES = {  # what a network is trained on; "neighbour" does without a network
    "distilled": "distilled images",
    "random-real": "random real images",
    "best-of-many": "the best fifth of 200 random sets",
    "averages": "the average image of each class",
    "centres": "k-means centres of each class",
    "neighbour-real": "nearest neighbour on random real images",
    "neighbour-centres": "nearest neighbour on k-means centres",
    "all": "all training images",
    "one-network": "images distilled for one other network",
}
BASELINES = {kind: said for kind, said in IMAGES.items() if kind not in ("distilled", "one-network", "all")}

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Small = Annotated[int, Field(ge=1, le=1_000)]
Rate = Annotated[float, Field(gt=0, le=10)]


class Config(BaseModel):
    """Everything that a record's numbers follow from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    images: Literal[tuple(IMAGES)] = "distilled"
    network: Literal[tuple(NETWORKS)] = "lenet"
    init: Literal[tuple(INIT_LAWS)] = "xavier"
    fixed: bool = False  # one theta_0, drawn from the seed, instead of a distribution
    steps: Small = 1
    epochs: Small = 1
    per_class: Small = 1  # images per class in each step
    soft_labels: bool = False
    source: str = ""  # the dataset that the initial weights were trained on (adaptation); "": none
    attacked: Annotated[int, Field(ge=0)] | None = None  # poisoning: the class to be taken for another, the target
    target: Annotated[int, Field(ge=0)] | None = None
    pool: Annotated[int, Field(ge=0, le=10_000)] = 0  # pretrained networks to distil with
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    nets: Small = 200  # held-out networks that the images are tested on (a fixed init: 1)
    faithful: bool = False
    iterations: Count = 1000
    samples: Small = 4
    batch: Count = 256
    image_rate: Rate = 0.03
    raw_rate: Rate = 0.01
    label_rate: Rate = 0.03
    first_lr: Rate = 0.02
    noise: Rate = 0.2
    clip: float = 0.1
    checks: int = 25
    average: float = 0.0
    chosen_on: Small = 10  # networks, drawn from the init law, that the images are compared on along the way

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits of the configuration and the algorithm's version."""
        said = self.model_dump(exclude_defaults=True) | {"algorithm_version": ALGORITHM_VERSION}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def alone(self) -> "Config":
        """Of images that were made for one network and are tested on others: how they were made."""
        return self.model_copy(update={"images": "distilled", "fixed": True, "nets": 1})

    @property
    def pretrained_on(self) -> str:
        """The dataset that the initial weights were trained on; "" where they are drawn from a law."""
        return self.source or ("" if self.attacked is None else self.dataset)

    @property
    def recipe(self) -> Recipe:
        said = {name: getattr(self, name) for name in RECIPE}
        return replace(Recipe.faithful(), **said) if self.faithful else Recipe(**said)


RECIPE = [field.name for field in fields(Recipe) if field.name in Config.model_fields]

KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
READER = {  # what -p may name, with how its text becomes a value
    "dataset": str, "network": str, "init": str, "steps": int, "epochs": int, "per_class": int, "samples": int,
    "batch": int, "iterations": int, "seed": int, "nets": int, "soft_labels": bool, "faithful": bool, "source": str,
    "attacked": int, "target": int, "pool": int,
}  # fmt: skip
FOR_NEIGHBOURS = {"dataset", "steps", "per_class", "seed", "nets"}  # what means something where nothing is trained


def _table() -> tuple[dict[str, Config], dict[str, str]]:
    """The experiments at the paper's scale, most valuable first, and the names that share another's record.

    Table 1 and Fig. 4 use random xavier inits (the paper does not say).
    """
    alone = dict(fixed=True, nets=1, samples=1, noise=0.1, checks=100)  # one network needs no held-out ones
    alone_cifar = alone | dict(iterations=3000, checks=30, image_rate=0.02, raw_rate=0.005)
    mnist = Config(dataset="mnist", batch=512, iterations=1500, image_rate=0.02, raw_rate=0.005, first_lr=0.04)
    cifar = Config(
        dataset="cifar10", network="alexcifarnet", iterations=400, checks=10, average=0.98, image_rate=0.04,
        raw_rate=0.01, first_lr=0.05,
    )  # fmt: skip

    # From random inits what counts is the number of networks; the rate of a single step has far to go.
    one_step = {"mnist": dict(samples=64, batch=32, iterations=800, image_rate=0.06, raw_rate=0.02, first_lr=0.4)}
    one_step["cifar10"] = one_step["mnist"] | dict(
        samples=16, batch=64, iterations=400, image_rate=0.08, first_lr=0.1, noise=1.0, checks=10, chosen_on=50
    )
    # More images soon change the loss by less than accuracies differ: what helps is to choose on many networks.
    chosen = dict(iterations=400, average=0.98, noise=1.0, first_lr=0.3, chosen_on=100)
    images = {"mnist": {5: chosen | dict(checks=40, chosen_on=400), 10: chosen | dict(samples=32)}}
    images["mnist"] |= dict.fromkeys((20, 30), chosen | dict(samples=32, checks=20, chosen_on=200))
    images["cifar10"] = {1: dict(first_lr=0.07, checks=4, chosen_on=30)}
    images["cifar10"][5] = dict(iterations=240, image_rate=0.06, noise=0.2, checks=6)
    many_steps = {"mnist": dict(samples=16, batch=128, iterations=400, image_rate=0.04, raw_rate=0.01)}
    many_steps["cifar10"] = dict(samples=8)
    steps = {"mnist": {5: dict(samples=64, batch=64, iterations=2000, average=0.98, chosen_on=100)}}
    steps["cifar10"] = {5: dict(samples=16, iterations=1000, image_rate=0.06, chosen_on=20), 10: dict(iterations=600)}
    epochs = {"mnist": dict(samples=8, batch=256, iterations=500, image_rate=0.04, raw_rate=0.01)}
    epochs["cifar10"] = dict(iterations=250)

    def with_(config: Config, **changes: Any) -> Config:
        return Config(**{**config.model_dump(), **changes})

    defined = {
        "fig2a": with_(
            mnist, epochs=3, iterations=16_000, batch=256, image_rate=0.04, raw_rate=0.02, first_lr=0.1, **alone
        ),
        "fig3a": with_(mnist, steps=10, epochs=3),
        "fig2b": with_(cifar, steps=10, epochs=3, **alone_cifar),
        "fig3b": with_(cifar, steps=10, epochs=3),
    }
    aliases = {}
    for data, base, fig3 in (("mnist", mnist, "fig3a"), ("cifar10", cifar, "fig3b")):
        for n in (1, 5, 10, 20, 30):
            defined[f"table1-{data}-one-{n}"] = with_(base, per_class=n, **one_step[data] | images[data].get(n, {}))
        for n in (5, 10, 20, 30):
            defined[f"table1-{data}-many-{n}"] = with_(base, steps=n, **many_steps[data] | steps[data].get(n, {}))
        for k in (1, 5, 10, 20, 30):
            defined[f"fig4a-{data}-{k}"] = with_(base, steps=k, epochs=2, **epochs[data])
        for e in (4, 5):
            defined[f"fig4b-{data}-{e}"] = with_(base, steps=10, epochs=e, **epochs[data])
        aliases |= {
            f"table1-{data}-many-1": f"table1-{data}-one-1",
            f"fig4b-{data}-1": f"table1-{data}-many-10",
            f"fig4b-{data}-2": f"fig4a-{data}-10",
            f"fig4b-{data}-3": fig3,
        }
    for data, fig3 in (("mnist", "fig3a"), ("cifar10", "fig3b")):
        like = {n: getattr(defined[fig3], n) for n in ("dataset", "network", "steps", "epochs")}
        for kind in BASELINES:
            defined[f"baseline-{kind}-{data}"] = Config(images=kind, iterations=200, **like)
    # Section 3.2: Fig. 2's images on networks that they were not made for.
    for fig2 in ("fig2a", "fig2b"):
        defined[f"others-{fig2}"] = with_(defined[fig2], images="one-network", fixed=False, nets=200)
    # Beyond the paper: labels learned too, and what Fig. 3a's hundred images can do in ten epochs.
    defined["soft-fig2a"] = with_(defined["fig2a"], soft_labels=True, label_rate=0.002)
    defined["epochs-mnist-10"] = with_(defined["fig3a"], epochs=10, iterations=800, samples=8, average=0.98)
    defined["soft-mnist-10"] = with_(defined["epochs-mnist-10"], soft_labels=True, label_rate=0.005)
    # Fig. 3a's images for each law of initial weights.
    aliases["law-mnist-xavier"] = "fig3a"
    for law in INIT_LAWS:
        if law != "xavier":
            defined[f"law-mnist-{law}"] = with_(defined["fig3a"], init=law)
    # From pretrained inits.
    adapt = dict(steps=10, epochs=3, network="lenet", pool=200, samples=8, iterations=1000, batch=256)
    faster = {"usps": dict(iterations=1500, image_rate=0.06, first_lr=0.04)}  # few images, soon seen
    for source, data in (("mnist", "usps"), ("usps", "mnist"), ("svhn", "mnist")):
        name, pair = f"table2-{source}-{data}", dict(dataset=data, source=source)
        defined[f"{name}-random"] = Config(**pair, **adapt | faster.get(data, {}), average=0.98)
        defined[f"{name}-fixed"] = Config(**pair, **{**adapt, "pool": 0, "iterations": 3000, **alone})
        defined[f"baseline-random-real-{name}"] = Config(
            **pair, images="random-real", steps=10, epochs=3, pool=200, iterations=200
        )
    attacks = {"mnist": dict(batch=256, iterations=600), "cifar10": dict(batch=128, iterations=600, checks=20, pool=36)}
    rates = {"mnist": 200, "cifar10": 100}  # outer steps that learn nothing but the rate
    for data, network, pool, nets in (("mnist", "lenet", 200, 200), ("cifar10", "alexcifarnet", 18, 12)):
        attack = dict(dataset=data, network=network, attacked=0, target=1, pool=pool, nets=nets)
        for n in (10, 50, 100, 200, 300):
            one = attack | dict(per_class=n // 10)
            defined[f"table3-{data}-{n}"] = Config(**one | attacks[data], samples=8, average=0.98)
            real = dict(images="random-real", iterations=rates[data])
            defined[f"baseline-random-real-table3-{data}-{n}"] = Config(**one | real)
    defined["baseline-full-usps"] = Config(dataset="usps", images="all", epochs=20, nets=20)
    defined["full-mnist"] = Config(dataset="mnist", images="all", epochs=3, nets=20)
    defined["full-cifar10"] = Config(dataset="cifar10", network="alexcifarnet", images="all", epochs=30, nets=2)
    return defined, aliases


EXPERIMENTS, ALIASES = _table()


def resolve(name: str) -> str:
    """The name that the record stands under; InputError for an unknown one."""
    if (found := ALIASES.get(name, name)) in EXPERIMENTS:
        return found
    near = did_you_mean(name, [*EXPERIMENTS, *ALIASES])
    raise InputError(f"unknown experiment {name!r}{near or '; `ddcore list` shows them'}")


def configure(name: str, scale: str = "paper", overrides: dict[str, str] | None = None) -> Config:
    """The configuration of an experiment at a scale, with a reader's overrides (strings) applied; InputError where one
    is unknown or not allowed."""
    config = EXPERIMENTS[resolve(name)]
    if scale not in SCALES:
        raise InputError(f"unknown scale {scale!r}: one of {', '.join(SCALES)}")
    said = {n: parse(n, text) for n, text in (overrides or {}).items()}
    made = config.images in ("distilled", "one-network")
    for lacking, which, why in (
        (not config.source, {"source"}, ""),
        (not config.pool, {"pool"}, ""),
        (config.attacked is None, {"attacked", "target"}, ""),
        (not made, {"samples", "batch", "soft_labels", "faithful"}, "; nothing is distilled"),
        (config.images == "all", {"steps", "per_class", "iterations"}, "; it goes through all images, epoch by epoch"),
        (config.images.startswith("neighbour"), READER.keys() - FOR_NEIGHBOURS, "; nothing is trained"),
    ):
        if lacking and (useless := sorted(which & said.keys())):
            raise InputError(f"{useless[0]} means nothing to {name}{why}")
    change: dict[str, Any] = {}
    if scale == "laptop":
        change = {"iterations": config.iterations // 8, "nets": min(config.nets, 50), "chosen_on": 10}
        change |= {"image_rate": max(config.image_rate, 0.04), "raw_rate": max(config.raw_rate, 0.01)}
        change |= {"samples": min(config.samples, 4)} if config.network == "alexcifarnet" else {}
    elif scale == "smoke":
        change = {"iterations": 30, "nets": min(config.nets, 5), "chosen_on": 10, "checks": 5}
    if scale != "paper" and config.pretrained_on:  # training a pool takes longer than distilling
        few = 20 if scale == "laptop" else 4
        change |= {"pool": min(config.pool, few), "nets": min(config.nets, few)}
    if scale == "smoke":
        change |= {"source": "digits"} if config.source else {}
        change |= {"dataset": "digits", "network": "lenet", "samples": min(2, config.samples), "batch": 64}
    dataset = said.get("dataset", change.get("dataset", config.dataset))
    if "dataset" in said and not config.source:
        change["network"] = "alexcifarnet" if dataset.startswith("cifar10") else "lenet"
    if said.get("faithful"):
        iterations, first_lr = (19_600, 0.001) if dataset.startswith("cifar10") else (23_600, 0.02)
        paper = Recipe.faithful(change.get("iterations", iterations), first_lr)
        change |= {name: getattr(paper, name) for name in RECIPE}
        change |= {"samples": 4} if config.pool else {}  # section 4.2 in the paper's code
        change |= {"image_rate": 0.02, "raw_rate": 0.02} if config.attacked is not None else {}
    if said.get("pool") == 0:
        raise InputError("pool=0: at least 1 pretrained network is allowed")
    if config.fixed and said.get("nets", 1) != 1:
        raise InputError(f"nets={said['nets']}: a fixed init is one network; only 1 is allowed")
    try:
        return Config(**{**config.model_dump(), **change, **said})
    except ValidationError as error:
        raise InputError("; ".join(f"{e['loc'][0]}={e['input']}: {e['msg']}" for e in error.errors())) from None


def parse(name: str, text: str) -> Any:
    """The typed value of `-p name=text`."""
    if name not in READER:
        raise InputError(f"unknown parameter {name!r}{did_you_mean(name, READER)}; allowed: {', '.join(READER)}")
    if name in ("dataset", "source") and text not in NAMES and not text.startswith("folder:"):
        raise InputError(
            f"unknown dataset {text!r}{did_you_mean(text, NAMES)}; allowed: {', '.join(NAMES)}, folder:PATH"
        )
    if name in ("dataset", "source"):
        return absolute(text)
    return convert(name, text, READER[name], KINDS[READER[name]])


def convert(name: str, text: str, kind: type, allowed: str) -> Any:
    """What a reader wrote as a value of `kind`; InputError where it is none."""
    try:
        return {"true": True, "false": False}[text.strip().lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise InputError(f"{name}={text}: {allowed} is allowed") from None
