"""What generated pages of the book say, as Markdown: the headlines of the front page, the claims,
the sets of images to download, who checked the records."""

import inspect
import json
import re
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any, NamedTuple

import ddcore
from ddcore.experiments import records
from ddcore.experiments.records import Record
from ddcore.paper import evidence, ledger, places
from ddcore.paper.claims import (
    Baseline,
    Claim,
    Curve,
    Number,
    Repeat,
    Result,
    Setup,
    Statement,
    Std,
    Verdict,
)
from ddcore.paper.ledger import Judge, markdown_table

# ---- The front page


def headlines(judge: Judge) -> str:
    """The README's table with links, and the counts of all results in one sentence."""
    rows = [["result", "verdict", "paper", "ours, seed 0", "paper's recipe", "what to know"]]
    for claim in results(judge):
        if claim.headline:
            row = judge.row(claim)
            page = places.page_of(claim.experiment)
            chapter = f'<a href="notebooks/{page.chapter}.html">{claim.headline}</a>'
            ours = places.link(row["ours"], claim.experiment) if row["ours"] else ""
            by_paper = row["paper's recipe"] or Verdict.NOT_RUN.value
            if row["over seeds"]:
                ours += f"<br>over seeds {row['over seeds']}"
            verdict = judge.with_symbol(claim) + (", on a stand-in" if claim.also else "")
            rows.append([chapter, verdict, row["paper"], ours, by_paper, row["beside"]])
    return f"{markdown_table(rows)}\n\n{totals(judge)}\n"


def totals(judge: Judge) -> str:
    """How many results, baselines and statements have which verdict."""
    told = []
    for kind, said in ((Result, "results"), (Baseline, "baselines"), (Statement, "statements")):
        chosen = [claim for claim in judge.claims.values() if isinstance(claim, kind)]
        counts = ledger.counted(judge.verdict(claim) for claim in chosen)
        told.append(f"- Of the paper's {len(chosen)} {said}: {counts}.")
    return "\n".join(told)


def results(judge: Judge) -> list[Result]:
    return [claim for claim in judge.claims.values() if isinstance(claim, Result)]


# ---- The claims


class Section(NamedTuple):
    """A part of the paper: its title, and what the ids of its claims start with."""

    title: str
    prefixes: tuple[str, ...]


SECTIONS = (
    Section("Introduction and Fig. 1", ("intro.", "fig1")),
    Section("Figs 2 and 3", ("fig2", "fig3", "full.")),
    Section("Table 1 and Fig. 4", ("table1", "fig4", "s41")),
    Section("Table 2", ("table2",)),
    Section("Table 3", ("table3",)),
    Section("Fig. 6", ("fig6",)),
)


def claims(judge: Judge) -> str:
    """The statements, the numbers of each part of the paper, the settings, the discrepancies."""
    shown = [claim for claim in judge.claims.values() if not isinstance(claim, Std)]
    statements = [claim for claim in shown if isinstance(claim, Statement)]
    settings = [claim for claim in shown if isinstance(claim, Setup)]
    numbers = [claim for claim in shown if isinstance(claim, Number | Curve | Repeat)]
    sections = [folded("Statements", judge, statements, statement_rows(judge, statements), "open")]
    for part in SECTIONS:
        chosen = [claim for claim in numbers if claim.id.startswith(part.prefixes)]
        section = folded(part.title, judge, chosen, number_rows(judge, chosen))
        sections.append(f"{findable(judge, chosen)}\n\n{section}")
    sections.append(folded("Settings", judge, settings, statement_rows(judge, settings)))
    found = ledger.discrepancies()
    sections.append(
        f"### Where the paper's parts, its page and its code disagree\n\n"
        f'<details class="dd-claims-beside"><summary>{len(found)} places</summary>\n\n'
        f"{ledger.markdown(found)}\n\n</details>"
    )
    return "\n\n".join(sections)


def folded(
    title: str, judge: Judge, chosen: Sequence[Claim], rows: list[list[str]], state: str = ""
) -> str:
    """A heading, how many have which verdict, and the rows, which a reader unfolds."""
    told = ledger.counted(judge.verdict(claim) for claim in chosen)
    head = f'### {title}\n\n<details class="dd-claims" {state}><summary>{told}</summary>'
    return f"{head}\n\n{markdown_table(rows)}\n\n</details>"


def findable(judge: Judge, chosen: Sequence[Claim]) -> str:
    """Index entries of the paper's numbers: the search of the pages passes over numbers else."""
    printed = [judge.printed(judge.answer(claim)).split(" ")[0] for claim in chosen]
    numbers = dict.fromkeys(number for number in printed if re.fullmatch(r"\d+\.\d+", number))
    return f"```{{index}} {', '.join(numbers)}\n```" if numbers else ""


def number_rows(judge: Judge, chosen: Sequence[Claim]) -> list[list[str]]:
    """A row for each number that can be read, then one for all others."""
    rows = [["claim", "verdict", "paper", "paper's recipe", "ours", "beside"]]
    unreadable = []
    for claim in chosen:
        if judge.verdict(claim) is Verdict.UNREADABLE:
            unreadable.append(claim)
            continue
        row = judge.row(claim)
        ours = row["ours"]
        if ours:
            ours = places.link(ours, judge.experiment(claim.id))
        notes = [row["over seeds"] and f"over seeds {row['over seeds']}", spread(judge, claim)]
        notes += [row["beside"], row["note"]]
        beside = ". ".join(note for note in notes if note)
        name = f"{breakable(claim)}<br>{claim.place}"
        numbers = [row["paper"], row["paper's recipe"], ours]
        rows.append([name, judge.with_symbol(claim), *numbers, beside])
    if unreadable:
        names = ", ".join(breakable(claim) for claim in unreadable)
        rows.append([names, "? unreadable", "", "", "", f"{len(unreadable)} numbers"])
    return rows


def spread(judge: Judge, claim: Claim) -> str:
    """What became of the printed standard deviation, where it is not about the same."""
    std = judge.claims.get(f"{claim.id}.std")
    said = ledger.SPREADS.get(judge.verdict(std)) if std else None
    return f"the spread is {said}" if said else ""


def statement_rows(judge: Judge, chosen: Sequence[Claim]) -> list[list[str]]:
    rows = [["claim", "verdict", "the paper says", "read as, and what to know beside"]]
    for claim in chosen:
        row = judge.row(claim)
        name = f"{breakable(claim)}<br>{claim.place}"
        beside = re.sub(r"notebooks/(\S+)\.ipynb", CHAPTER, row["beside"])
        known = " ".join(part for part in (row["note"], beside and f"({beside})") if part)
        rows.append([name, judge.with_symbol(claim), row["paper"], known])
    return rows


CHAPTER = r'<a href="notebooks/\1.html">\1</a>'


def breakable(claim: Claim) -> str:
    """Its id, which a narrow column may break at the dots."""
    return claim.id.replace(".", ".<wbr>")


# ---- The images


def images() -> str:
    """A table of the sets of distilled images, with their files."""
    rows = [["set", "made from", "images", "test accuracy in %", "files"]]
    for first in records.everywhere():
        if not first.experiment.startswith("baseline"):
            every = (first, *records.replicates(first.experiment))
            rows += [images_row(record) for record in every if record.has_images]
    return markdown_table(rows)


def images_row(record: Record) -> list[str]:
    config = record.config
    each = config["per_class"] * len(record.distilled.meta["classes"])
    size = f"{config['steps']} steps of {each}" if config["steps"] > 1 else f"{each}"
    name = places.link(record.name, record.experiment)
    files = evidence.files(record, root="")
    return [name, record.data["name"], size, record.accuracy, files]


# ---- The package's names


def names() -> str:
    """Each public name with its signature and what its docstring says."""
    return "\n\n".join(described(name) for name in ddcore.__all__)


def described(name: str) -> str:
    thing = getattr(ddcore, name)
    call = f"```python\n{name}({parameters(thing)})\n```"
    return f"## {name}\n\n{call}\n\n```text\n{inspect.getdoc(thing)}\n```"


def parameters(thing: Callable[..., Any]) -> str:
    """Their names, with the defaults that are numbers, words, true, false or None; an exception's
    is its message."""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return "message"
    shown = []
    for name, parameter in inspect.signature(thing).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        if parameter.default is parameter.empty:
            shown.append(name)
        elif isinstance(parameter.default, int | float | str | None):
            shown.append(f"{name}={parameter.default!r}")
        else:
            shown.append(f"{name}=...")
    return ", ".join(shown)


# ---- Who checked the records


def reruns(folder: Path) -> str:
    """A row for each JSON that `ddcore verify --log` wrote into the folder, the newest first."""
    logs = {file.name: json.loads(file.read_text("utf-8")) for file in folder.glob("*.json")}
    rows = [["date", "machine", "PyTorch", "agree", "networks", "farthest apart", "all of it"]]
    for name in sorted(logs, key=lambda name: (logs[name]["date"], name), reverse=True):
        log = logs[name]
        machine = log["machine"]
        checked = [row for row in log["results"] if row["verdict"] != "not checked"]
        agree = sum(row["verdict"] == "PASS" for row in checked)
        networks = sum(row["networks"] for row in checked)
        rows.append(
            [
                log["date"],
                f"{machine['device']}, threads: {machine['threads']}",
                machine["torch"],
                f"{agree} of {len(checked)} records",
                f"{networks:,}",
                _farthest(checked),
                f'<a href="reruns/{name}">{name}</a>',
            ]
        )
    return markdown_table(rows) + "\n"


def _farthest(checked: list[dict[str, Any]]) -> str:
    """The largest difference between a record's mean accuracy and today's, and of which record."""
    apart = {
        row["record"]: abs(row["percent now"] - row["percent in the record"])
        for row in checked
        if row["percent now"] is not None
    }
    if not apart:
        return ""
    name = max(apart, key=lambda name: apart[name])
    return f"{records.rounded(apart[name], ROUND_CEILING)} points ({name})"
