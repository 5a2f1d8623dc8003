"""Where an experiment's evidence is in the book, and tables whose cells lead there."""

from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import pandas as pd

from ddcore.experiments.catalogue import resolve


class Page(NamedTuple):
    """A page of evidence: its name in the book, its title, the chapter that shows its records, and
    what its experiments' names start with."""

    name: str
    title: str
    chapter: str
    prefixes: tuple[str, ...]


PAGES = (
    Page(
        "fixed",
        "Section 3.1, Fig. 2",
        "03-1-fixed-initialization",
        ("fig2", "soft-fig2", "others-fig2"),
    ),
    Page(
        "random",
        "Section 3.2, Fig. 3",
        "03-2-random-initialization",
        ("fig3", "law", "fashion", "full-fashion"),
    ),
    Page("steps", "Section 3.4, Fig. 4", "03-4-steps-and-epochs", ("fig4", "epochs")),
    Page(
        "adaptation",
        "Section 4.2, Table 2",
        "04-2-adaptation",
        ("table2", "baseline-full-usps", "baseline-random-real-table2"),
    ),
    Page(
        "poisoning",
        "Section 4.2, Table 3 and Fig. 6",
        "04-2-poisoning",
        ("table3", "baseline-random-real-table3", "baseline-given-rate"),
    ),
    Page("distillation", "Section 4.1, Table 1", "04-1-distillation", ("",)),  # whatever is left
)


def page_of(experiment: str) -> Page:
    """The page that holds an experiment."""
    return next(page for page in PAGES if experiment.startswith(page.prefixes))


def address(experiment: str) -> str:
    """Where an experiment's evidence is, seen from the book's root."""
    name = resolve(experiment)
    return f"evidence/{page_of(name).name}.html#{name}"


def link(text: str, experiment: str, root: str = "") -> str:
    """A text that leads to an experiment's evidence; `root`: the way to the book's root."""
    return f'<a href="{root}{address(experiment)}">{escape(text)}</a>'


@dataclass
class Linked:
    """A table some of whose cells lead to their evidence, seen from a chapter.

    experiments: (row, column) of the frame -> the experiment whose record the cell shows.
    """

    frame: pd.DataFrame
    experiments: dict[tuple[Any, str], str]

    def __repr__(self) -> str:
        return repr(self.frame)

    def _repr_html_(self) -> str:
        shown = self.frame.astype(object).map(lambda value: escape(str(value)))
        for place, experiment in self.experiments.items():
            shown.loc[place] = link(str(self.frame.loc[place]), experiment, root="../")
        with pd.option_context("display.max_colwidth", None):
            return shown.to_html(escape=False, notebook=True)
