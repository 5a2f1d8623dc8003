"""What a reader may change in a notebook: its cell tagged `parameters`, one line each.

    steps: int = 1  # 1 to 100: gradient steps per epoch
    rate: float = 0.02  # 0 to 1: first learning rate
    dataset: Literal["digits", "mnist"] = "digits"  # images to distil

Nothing else may stand in the cell. The types are int, float, bool, str and Literal[...]; a range
may open the help. Where the choices are networks, a reader's own, `module:Class`, is one too.
papermill would run a notebook with a misspelt name or a string for a number;
here both are an InputError before anything runs.
"""

import ast
import math
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

from ddcore.experiments.config import TYPES, Value, convert
from ddcore.support.errors import InputError, did_you_mean
from ddcore.support.files import absolute
from ddcore.support.imported import is_own
from ddcore.support.registry import ARCHITECTURES

TYPES_BY_NAME: dict[str, type[Value]] = {kind.__name__: kind for kind in TYPES}
RANGE = re.compile(r"([-+.\de]+) to ([-+.\de]+): *")


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell.

    Attributes:
        type: int, float, bool or str.
        default: its value in the notebook.
        help: its range, where it has one, and what it means.
        low, high: what a number may be, both included.
        choices: those of a Literal, else empty.
    """

    name: str
    type: type[Value]
    default: Value
    help: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[Value, ...] = ()

    @property
    def is_network(self) -> bool:
        """Whether its choices are names of networks."""
        return bool(self.choices) and {*self.choices} <= ARCHITECTURES.keys()

    @property
    def allowed(self) -> str:
        """What a reader may write, in words."""
        if self.choices:
            own = ", or module:Class of your own" if self.is_network else ""
            return "one of " + ", ".join(map(str, self.choices)) + own
        if self.high < math.inf:
            return f"{TYPES[self.type]} from {self.low:g} to {self.high:g}"
        return TYPES[self.type]

    def parse(self, text: str) -> Value:
        """The typed value of what the reader wrote; InputError where it is not allowed."""
        if self.choices:
            return self._choice(text)
        try:
            value = convert(text, self.type)
        except ValueError:
            raise self._refusal(text) from None
        if isinstance(value, str | bool):
            return value
        if self.low <= value <= self.high and abs(value) < math.inf:
            return value
        raise self._refusal(text)

    def _choice(self, text: str) -> Value:
        by_text = {str(choice): choice for choice in self.choices}
        if self.is_network and is_own(text):
            return text
        if text not in by_text:
            raise self._refusal(text, did_you_mean(text, by_text))
        return by_text[text]

    def _refusal(self, text: str, hint: str = "") -> InputError:
        return InputError(f"{self.name}={text}: {self.allowed} is allowed{hint}")


# ---- The cell


def parameters(path: Path) -> dict[str, Parameter]:
    """What a notebook's parameters cell declares, by name and in its order ({} without a cell).

    Raises:
        InputError: there are several such cells, or a line declares nothing.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if not cells:
        return {}
    if len(cells) > 1:
        raise InputError(f"{path.name} has {len(cells)} cells tagged parameters; one is allowed")
    lines = [line for line in cells[0].source.splitlines() if line.strip()]
    declared = [declaration(line, f"{path.name}, parameters cell") for line in lines]
    return {parameter.name: parameter for parameter in declared}


def told(path: Path) -> str:
    """What a notebook's parameters are, a line each: name, default, range or choices, meaning."""
    lines = []
    for one in parameters(path).values():
        choices = f"{one.allowed}: " if one.choices else ""
        lines.append(f"  -p {f'{one.name}={one.default}':24} {choices}{one.help}")
    return "\n".join(lines) or "  none"


def declaration(line: str, where: str) -> Parameter:
    """One `name: type = literal  # help` as a Parameter; InputError for any other line.

    Args:
        line: a line of Python.
        where: what the error's message begins with.
    """
    try:
        return _declaration(line)
    except (SyntaxError, ValueError) as error:
        form = "`name: type = literal  # help`"
        raise InputError(f"{where}: {line!r} is not {form} ({error})") from None


def _declaration(line: str) -> Parameter:
    statements = ast.parse(line).body
    if len(statements) != 1:
        raise ValueError("one declaration a line is allowed")
    statement = statements[0]
    if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
        raise ValueError("a name with its type is needed")
    if statement.value is None:
        raise ValueError("a default is needed")
    kind, choices = _type(statement.annotation)
    help_text = line[statement.end_col_offset :].strip().removeprefix("#").strip()
    low, high = _range(help_text)
    default = ast.literal_eval(statement.value)
    parameter = Parameter(statement.target.id, kind, default, help_text, low, high, choices)
    if type(default) is not kind or parameter.parse(str(default)) != default:
        raise ValueError(f"{default!r} is not {parameter.allowed}")
    return parameter


def _type(annotation: ast.expr) -> tuple[type[Value], tuple[Value, ...]]:
    """The type that an annotation names, and the choices of a Literal."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        choices = ast.literal_eval(annotation.slice)
        if not isinstance(choices, tuple):
            choices = (choices,)
        if not choices:
            raise ValueError("a Literal has choices")
        return _known(type(choices[0]).__name__), choices
    return _known(ast.unparse(annotation)), ()


def _known(name: str) -> type[Value]:
    if name not in TYPES_BY_NAME:
        raise ValueError(f"{name} is none of {', '.join(TYPES_BY_NAME)}, Literal[...]")
    return TYPES_BY_NAME[name]


def _range(help_text: str) -> tuple[float, float]:
    """The range that opens a help text, else every number."""
    match = RANGE.match(help_text)
    if match is None:
        return -math.inf, math.inf
    low, high = match.groups()
    return float(low), float(high)


# ---- The reader's values


def values(path: Path, overrides: dict[str, str]) -> dict[str, Value]:
    """The reader's overrides as typed values, a folder's name as its absolute path.

    Args:
        path: the notebook.
        overrides: what the reader wrote, by the parameter's name.

    Raises:
        InputError: a name is unknown or a value not allowed; the message says what is.
    """
    known = parameters(path)
    typed = {}
    for name, text in overrides.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"; it has: {', '.join(known) or 'none'}"
            raise InputError(f"{path.stem} has no parameter {name}{hint}")
        value = known[name].parse(text)
        typed[name] = absolute(value) if isinstance(value, str) else value
    return typed
