"""Results as other programs read them: rows as a Markdown table, JSON, or JUnit's XML, which most
services of continuous integration show."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from ddcore.support.errors import InputError

Row = Mapping[str, Any]  # with the same names in every row; its first value names it
FORMATS = ("text", "md", "json", "junit")


def check_format(name: str) -> None:
    """InputError for another than FORMATS."""
    if name not in FORMATS:
        raise InputError(f"--format {name}: one of {', '.join(FORMATS)} is allowed")


def formatted(rows: Sequence[Row], name: str, suite: str, failed: Iterable[str]) -> str:
    """Rows in one of the formats but text; `failed`: the values of `verdict` that JUnit is to
    count as failures."""
    if name == "json":
        return json.dumps(rows, indent=1)
    if name == "junit":
        return junit(rows, suite, set(failed))
    return markdown(rows)


def markdown(rows: Sequence[Row]) -> str:
    """A table with the names as its head; None is an empty cell."""
    lines = [list(rows[0]), ["---"] * len(rows[0])] if rows else []
    lines += [["" if value is None else str(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(map(_escaped, cells))} |" for cells in lines)


def junit(rows: Sequence[Row], suite: str, failed: set[str]) -> str:
    """A test case for each row."""
    failures = sum(row["verdict"] in failed for row in rows)
    root = ElementTree.Element(
        "testsuite", name=suite, tests=str(len(rows)), failures=str(failures)
    )
    for row in rows:
        first, *others = row.items()
        case = ElementTree.SubElement(root, "testcase", classname=suite, name=str(first[1]))
        said = ", ".join(f"{name}: {value}" for name, value in others if value not in (None, ""))
        if row["verdict"] in failed:
            ElementTree.SubElement(case, "failure", message=said)
        else:
            ElementTree.SubElement(case, "system-out").text = said
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|")
