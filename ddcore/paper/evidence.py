"""The pages that hold the evidence: for every record what it answers, each network as a dot, the
rule in words, how to make it again, and its files.

Each experiment is a section of one page (places.py says which). The pages are Markdown for the
book.
"""

from collections.abc import Iterable, Sequence
from math import ceil, floor
from typing import cast

from ddcore.experiments import records
from ddcore.experiments.catalogue import EXPERIMENTS, resolve
from ddcore.experiments.config import Config
from ddcore.experiments.records import Metric, Record
from ddcore.paper import rules
from ddcore.paper.claims import TEST_ACCURACY, Curve, Measurable, Number, Std, Verdict
from ddcore.paper.ledger import Judge, markdown_table
from ddcore.paper.places import PAGES, page_of

FILES = "files"  # the folder of the records' files in the book


# ---- A page


def pages(judge: Judge) -> dict[str, str]:
    """All pages by name, as Markdown."""
    parts = {page.name: [HEAD.format(**page._asdict())] for page in PAGES}
    for experiment in EXPERIMENTS:
        record = judge.find(experiment)
        if record is not None:
            parts[page_of(experiment).name].append(section(judge, record))
    return {name: "\n".join(sections) for name, sections in parts.items()}


HEAD = """\
# Evidence: {title}

What the numbers of {{doc}}`its chapter <../notebooks/{chapter}>` come from, experiment by
experiment. A dot is a test network, the upright line their mean; the orange diamond is what the
paper prints, its line the paper's standard deviation.
"""


def section(judge: Judge, record: Record) -> str:
    """What there is to know about an experiment: its claims with the rules in words, each network
    as a dot, how to make the record again, the files, and its other runs."""
    name = record.experiment
    claims = answered(judge, name)
    others = records.replicates(name)
    return "\n\n".join(
        [
            f"## {name}",
            *(dots(judge, record, metric) for metric in metrics(record, claims)),
            record_table(record),
            claims_table(judge, claims),
            *([runs_table(others)] if others else []),
        ]
    )


def answered(judge: Judge, experiment: str) -> list[Measurable | Curve]:
    """The claims on numbers that an experiment's record answers; a standard deviation stands with
    its mean."""
    found: list[Measurable | Curve] = []
    for claim in judge.claims.values():
        if isinstance(claim, Number | Curve) and not isinstance(claim, Std):
            if resolve(claim.experiment) == experiment:
                found.append(claim)
    return found


def claims_table(judge: Judge, claims: Sequence[Measurable | Curve]) -> str:
    """The claims that a record answers, with the rule for each in words."""
    if not claims:
        return "The paper prints no number for this experiment."
    rows = [["in the paper", "its number", "ours", "verdict", "the rule"]]
    unreadable = [claim for claim in claims if judge.verdict(claim) is Verdict.UNREADABLE]
    for claim in claims:
        if claim not in unreadable:
            row = judge.row(claim)
            place = f"{claim.place}: {claim.id}"
            rule = rules.in_words(claim)
            seeds = len(judge.over_seeds(claim))
            if seeds > 1:
                rule += f"; the worst of {seeds} seeds counts: {row['over seeds']}"
            rows.append([place, row["paper"], row["ours"], judge.with_symbol(claim), rule])
    if unreadable:
        rows.append([f"{len(unreadable)} other numbers", "", "", "? unreadable", ""])
    return markdown_table(rows)


def record_table(record: Record) -> str:
    """The commands, the machine and the files."""
    made = record.environment
    state = " and changes" if made["dirty"] else ""
    rows = {
        "made by": f"`{command(record)}`",
        "checked by": f"`ddcore verify {record.experiment} --nets 20`",
        "seed": record.config["seed"],
        "settings": f"`{settings(record)}`",
        "where": f"{made['device']}, {made['threads']} threads, torch {made['torch']}",
        "how long": f"{made['seconds']:,.0f} s, on {made['started'][:10]}",
        "commit": f"{str(made['commit'])[:10]}{state}",
        "data": f"{record.data['name']}, sha256 {record.data['sha256'][:16]}",
        "files": files(record),
    }
    return markdown_table([["", ""], *([said, str(value)] for said, value in rows.items())])


def command(record: Record) -> str:
    """What makes the record again, with the copy of the dataset that it was made from."""
    dataset = record.config["dataset"]
    copy = "" if dataset == EXPERIMENTS[record.experiment].dataset else f" -p dataset={dataset}"
    return f"ddcore run {record.experiment}{copy}"


def settings(record: Record) -> str:
    """What differs from the defaults, as the key has it."""
    defaults = Config(**{name: record.config[name] for name in ("dataset", "network")}).model_dump()
    changed = {n: v for n, v in record.config.items() if n in defaults and v != defaults[n]}
    return ", ".join(f"{name}={value}" for name, value in changed.items() if name != "seed")


def runs_table(others: Iterable[Record]) -> str:
    """The same experiment from other seeds and with the paper's own settings."""
    rows = [["other runs", "test accuracy in %", "seconds", "commit", "files"]]
    for record in others:
        made = record.environment
        changes = record.name.removeprefix(f"{record.experiment}, ")
        seconds = f"{made['seconds']:,.0f}"
        rows.append([changes, record.accuracy, seconds, str(made["commit"])[:10], files(record)])
    return markdown_table(rows)


def files(record: Record, root: str = "../") -> str:
    """Links to a record's files; `root`: the way to the book's root."""
    names = ["record.json"]
    if record.has_images:
        names += ["distilled.safetensors", "images.png"]
    folder = f"{root}{FILES}/{record.experiment}/{record.key}"
    return ", ".join(f'<a href="{folder}/{name}">{name}</a>' for name in names)


# ---- Each network as a dot

WIDTH = 640
HEIGHT = 74
MARGIN = 12
BAND = (14, 40)  # from and to where dots lie, from the top


def metrics(record: Record, claims: Sequence[Measurable | Curve]) -> list[str]:
    """The metrics drawn: those that the paper prints, and the test accuracy."""
    named = [claim.reference.name for claim in claims]
    found = dict.fromkeys([*named, TEST_ACCURACY])
    return [n for n in found if n in record.metrics and has_dots(record.metrics[n])]


def has_dots(metric: Metric) -> bool:
    """Whether it has several networks, and one number for each."""
    return metric["n"] > 1 and isinstance(metric["mean"], float | int)


def dots(judge: Judge, record: Record, metric: str) -> str:
    """A metric of each network in percent, with the paper's number where it prints one."""
    values = [100 * value for value in cast(list[float], record.metrics[metric]["values"])]
    mean = sum(values) / len(values)
    paper = printed(judge, record.experiment, metric)
    low, high = span([*values, *(paper or ())])

    def x(percent: float) -> str:
        return f"{MARGIN + (percent - low) / (high - low) * (WIDTH - 2 * MARGIN):.1f}"

    top, bottom = BAND
    spread = [top + (i * 7 % 13) / 12 * (bottom - top) for i in range(len(values))]
    places = "".join(f"M{x(v)} {y:.0f}h0" for v, y in zip(values, spread, strict=True))
    said = f"{metric.replace('_', ' ')} of {len(values)} networks: "
    said += f"{min(values):.2f} to {max(values):.2f} %"
    marks = f'<path class="dd-mean" d="M{x(mean)} {top - 6}V{bottom + 6}"/>'
    if paper:
        said += f"; the paper {paper[1]:g} %"
        marks += f'<path class="dd-paper" d="M{x(paper[0])} {bottom + 10}H{x(paper[2])}"/>'
        marks += f'<path class="dd-diamond" d="M{x(paper[1])} {bottom + 5}l5 5-5 5-5-5z"/>'
    for at, anchor in ((low, "start"), (high, "end")):
        marks += f'<text x="{x(at)}" y="{HEIGHT - 4}" text-anchor="{anchor}">{at:g} %</text>'
    return (
        f'<figure class="dd-dots"><svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">'
        f'<path class="dd-dot" d="{places}"/>{marks}</svg><figcaption>{said}</figcaption></figure>'
    )


def printed(judge: Judge, experiment: str, metric: str) -> tuple[float, float, float] | None:
    """The paper's number less and more its standard deviation, in percent; None without one. Of
    several, as where a caption rounds it, the one with a standard deviation."""
    found = None
    for claim in answered(judge, experiment):
        asked = claim.reference.name == metric and not claim.reference.index
        if asked and claim.value is not None and (found is None or claim.std):
            std = claim.std or 0.0
            found = claim.value - std, claim.value, claim.value + std
    return found


def span(percents: Sequence[float]) -> tuple[float, float]:
    """Multiples of five, at least five apart, that hold all."""
    low = 5 * floor(min(percents) / 5)
    high = 5 * ceil(max(percents) / 5)
    return low, max(high, low + 5)
