"""Run the notebooks strictly: no parameter can be mistyped, and nothing is left half-written.

The cell tagged `parameters` declares what a reader may change, one line each and nothing else:

    steps: int = 1  # 1 to 100: gradient steps per epoch
    rate: float = 0.02  # 0 to 1: first learning rate
    dataset: Literal["digits", "mnist"] = "digits"  # images to distil

The types are int, float, bool, str and Literal[...]; a range may open the help. papermill would run a
notebook with a misspelt name or a string for a number; here both are an InputError before anything runs.
`python -m ddcore.paper.notebooks` executes the committed notebooks in place and normalises them.
"""

import ast
import hashlib
import logging
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from ddcore.datasets import absolute
from ddcore.errors import InputError, MachineError, did_you_mean, whole
from ddcore.experiments.catalogue import KINDS, convert

FOLDER = Path(__file__).parents[2] / "notebooks"
KEPT_METADATA = ("tags", "mystnb")  # of a cell, in a committed notebook
WIDGET = "application/vnd.jupyter.widget-view+json"
RANGE = re.compile(r"([-+.\de]+) to ([-+.\de]+): *")


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell. `type` is a key of KINDS; `choices` are those of a Literal."""

    name: str
    type: type
    low: float = -math.inf
    high: float = math.inf
    choices: tuple = ()

    @property
    def allowed(self) -> str:
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        return KINDS[self.type] + (f" from {self.low:g} to {self.high:g}" if self.high < math.inf else "")

    def parse(self, text: str) -> object:
        """The typed value of what the reader wrote; InputError where it is not allowed."""
        if self.choices:
            by_text = {str(choice): choice for choice in self.choices}
            if text in by_text:
                return by_text[text]
            raise InputError(f"{self.name}={text}: {self.allowed} is allowed{did_you_mean(text, by_text)}")
        value = convert(self.name, text, self.type, self.allowed)
        if self.type in (int, float) and not (self.low <= value <= self.high and abs(value) < math.inf):
            raise InputError(f"{self.name}={text}: {self.allowed} is allowed")
        return value


def find(prefix: str) -> Path:
    """The notebook whose name begins with `prefix`; InputError where none or several do."""
    paths = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"), key=lambda path: path.stem)}
    prefix = prefix.removesuffix(".ipynb")
    matches = [prefix] if prefix in paths else [name for name in paths if name.startswith(prefix)]
    if len(matches) == 1:
        return paths[matches[0]]
    if matches:
        raise InputError(f"{prefix!r} is the beginning of several notebooks: {', '.join(matches)}")
    raise InputError(f"no notebook's name begins with {prefix!r}; there are: {', '.join(paths) or 'none'}")


def parameters(path: Path) -> dict[str, Parameter]:
    """What the notebook's parameters cell declares, by name and in its order ({} without such a cell)."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) > 1:
        raise InputError(f"{path.name} has {len(cells)} cells tagged parameters; one is allowed")
    lines = cells[0].source.splitlines() if cells else []
    found = [declaration(line, f"{path.name}, parameters cell") for line in lines if line.strip()]
    return {parameter.name: parameter for parameter in found}


def declaration(line: str, where: str) -> Parameter:
    """One `name: type = literal  # help` as a Parameter; InputError for any other line."""
    try:
        (node,) = ast.parse(line).body
        said, choices = ast.unparse(node.annotation), ()
        if said.startswith("Literal["):
            choices = ast.literal_eval(node.annotation.slice)
            choices = choices if isinstance(choices, tuple) else (choices,)
            said = type(choices[0]).__name__
        type_ = {kind.__name__: kind for kind in KINDS}[said]
        default, name = ast.literal_eval(node.value), node.target.id
        comment = line[node.end_col_offset :].strip().removeprefix("#").strip()
        span = RANGE.match(comment)
        low, high = map(float, span.groups()) if span else (-math.inf, math.inf)
        parameter = Parameter(name, type_, low, high, choices)
        if parameter.parse(str(default)) != default or type(default) is not type_:
            raise ValueError(f"{default!r} is not {parameter.allowed}")
        return parameter
    except (SyntaxError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{where}: {line!r} is not `name: type = literal  # help` ({error})") from None


def values(path: Path, overrides: dict[str, str]) -> dict[str, object]:
    """The reader's overrides as typed values; InputError for an unknown name or a value not allowed."""
    known = parameters(path)
    for name in overrides:
        if name not in known:
            hint = did_you_mean(name, known) or f"; it has: {', '.join(known) or 'none'}"
            raise InputError(f"{path.stem} has no parameter {name}{hint}")
    return {name: absolute(known[name].parse(text)) for name, text in overrides.items()}


def run(name: str, overrides: dict[str, str], out: Path | None = None, *, limit: float = 3600) -> Path:
    """Execute a notebook and write the executed copy, by default NAME.executed.ipynb in this folder.

    `overrides` are the reader's strings by parameter name; `limit` is the longest a cell may take, in
    seconds. The copy is written when all cells have run, and in one move. Errors: InputError for bad input (what
    only a cell can see, such as a dataset's name, included), MachineError naming the cell that failed.
    """
    path = find(name)
    typed = values(path, overrides)
    out = Path(f"{path.stem}.executed.ipynb") if out is None else Path(out)
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"cannot write {out}: it must be a file in a folder that exists")
    if out.resolve().parent == FOLDER.resolve():
        raise InputError(f"cannot write {out}: the folder of the source notebooks is not for executed copies")
    write(execute(path, typed, limit=limit), out)
    return out


class ThisPython(AsyncKernelManager):
    """Starts the kernel with the running interpreter, whatever kernels are registered on the machine. Folders that the
    environment names are those of whoever asks, although the kernel runs in the notebook's."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher"]
        command += ["-f", "{connection_file}", "--log-level=CRITICAL"]
        named = {n: os.environ[n] for n in ("DDCORE_DATA", "DDCORE_RESULTS", "XDG_CACHE_HOME") if os.environ.get(n)}
        folders = {n: os.path.abspath(folder) for n, folder in named.items()}
        return KernelSpec(argv=command, display_name="Python 3", language="python", env=folders)


def execute(path: Path, typed: dict[str, object], *, limit: float) -> nbformat.NotebookNode:
    """Run all cells in the notebook's own folder, with progress by cell on stderr; return the executed copy."""
    at = [0]  # the cell that runs now
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        notebook = papermill.execute_notebook(
            nbformat.read(path, as_version=4),
            None,
            parameters=typed,
            kernel_name="python3",
            language="python",
            progress_bar={"desc": path.stem, "miniters": 1},
            execution_timeout=math.ceil(limit),
            kernel_manager_class=ThisPython,
            resources={"metadata": {"path": str(path.parent)}},
            coalesce_streams=True,
            on_cell_start=lambda cell, cell_index: at.__setitem__(0, cell_index),
        )
    except papermill.PapermillExecutionError as error:
        said = (error.evalue.strip().splitlines() or [""])[-1]
        kind = InputError if error.ename == "InputError" else MachineError
        raise kind(f"{path.stem}, cell {at[0] + 1} failed: {error.ename}: {said}") from None
    except CellTimeoutError:
        raise MachineError(f"{path.stem}, cell {at[0] + 1} took longer than {limit:g} seconds") from None
    except DeadKernelError:
        raise MachineError(f"{path.stem}, cell {at[0] + 1} ended its process (out of memory?)") from None
    for place in ("input_path", "output_path", "environment_variables"):
        notebook.metadata.papermill.pop(place, None)
    return notebook


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The committed form, in place: no times, widget state, machine paths or stderr; ids from the source."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    count = 0
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in KEPT_METADATA if cell.metadata.get(key)})
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count if cell.execution_count else None
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if "data" in output:
                output.data.pop(WIDGET, None)
                output.metadata = nbformat.from_dict({})
    return notebook


def dumps(notebook: nbformat.NotebookNode) -> str:
    """The notebook's text: sorted keys, one space of indent, a newline at the end."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write it whole or not at all."""
    try:
        with whole(path) as part:
            part.write_text(dumps(notebook), encoding="utf-8")
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}") from None


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        write(normalise(execute(path, {}, limit=3600)), path)


if __name__ == "__main__":
    main()
