"""Run the notebooks strictly, and write them whole or not at all.

`run` executes a notebook with a reader's parameters (their grammar: parameters.py) and writes the
executed copy. `normalise` gives the form in which notebooks are committed, free of what differs
from run to run. `python -m ddcore.paper.notebooks` executes the committed notebooks in place and
normalises them.
"""

import hashlib
import logging
import math
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from ddcore.paper.parameters import Value, values
from ddcore.support.errors import InputError, MachineError
from ddcore.support.files import check_file, whole
from ddcore.support.imported import is_own

FOLDER = Path(__file__).parents[2] / "notebooks"
CELL_LIMIT = 3600  # seconds
READERS_FOLDERS = ("DDCORE_DATA", "DDCORE_RESULTS", "XDG_CACHE_HOME")  # in the environment
MACHINE_METADATA = ("input_path", "output_path", "environment_variables")  # of papermill
CELL_METADATA = ("tags", "mystnb")  # of a cell, in a committed notebook
NOTEBOOK_METADATA = {  # of a committed notebook
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
WIDGET = "application/vnd.jupyter.widget-view+json"


# ---- Running


def find(prefix: str) -> Path:
    """The notebook whose name begins with `prefix`; InputError where none or several do."""
    paths = {path.stem: path for path in FOLDER.glob("*.ipynb")}
    names = sorted(paths)
    prefix = prefix.removesuffix(".ipynb")
    if prefix in paths:
        return paths[prefix]
    matches = [name for name in names if name.startswith(prefix)]
    if len(matches) == 1:
        return paths[matches[0]]
    if matches:
        several = ", ".join(matches)
        raise InputError(f"{prefix!r} is the beginning of several notebooks: {several}")
    there = ", ".join(names) or "none"
    raise InputError(f"no notebook's name begins with {prefix!r}; there are: {there}")


def run(
    name: str, overrides: dict[str, str], out: Path | None = None, *, limit: float = CELL_LIMIT
) -> Path:
    """Execute a notebook and write the executed copy, when all cells have run and in one move, and
    beside it the same as a page for a browser.

    Args:
        name: any unambiguous beginning of the notebook's name.
        overrides: what the reader wrote, by the parameter's name.
        out: the copy, by default NAME.executed.ipynb in the current folder.
        limit: the longest that a cell may take, in seconds.

    Returns:
        The copy's path.

    Raises:
        InputError: bad input, also such as only a cell can see (a dataset's name).
        MachineError: a cell failed, which the message names, or the copy cannot be written.
    """
    path = find(name)
    typed = values(path, overrides)
    out = Path(out or f"{path.stem}.executed.ipynb")
    check_file(out)
    if page_of(out) == out:
        raise InputError(f"cannot write {out}: the copy is a notebook, and its page lies beside it")
    if out.resolve().parent == FOLDER.resolve():
        raise InputError(
            f"cannot write {out}: the folder of the source notebooks is not for executed copies"
        )
    check_file(page_of(out))
    executed = execute(path, typed, limit=limit)
    write(executed, out)
    with whole(page_of(out)) as part:
        part.write_text(as_page(executed, path.stem), "utf-8")
    return out


def page_of(out: Path) -> Path:
    """Where the page of an executed copy lies."""
    return out.with_suffix(".html")


def as_page(notebook: NotebookNode, title: str) -> str:
    """An executed notebook as HTML. Its pictures are in it; formulas and sliders are drawn by
    scripts that a browser fetches."""
    from nbconvert import HTMLExporter  # takes a second

    logging.getLogger("traitlets").setLevel(logging.ERROR)  # what it says of alternative texts
    resources = {"metadata": {"name": title}}
    page, _ = HTMLExporter().from_notebook_node(notebook, resources)
    return page


class ThisPython(AsyncKernelManager):
    """Starts the kernel with the running interpreter, whatever kernels the machine has registered.

    The kernel runs in the notebook's folder; folders that the environment names are relative to
    the reader's.
    """

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher"]
        command += ["-f", "{connection_file}", "--log-level=CRITICAL"]
        folders = {
            name: os.path.abspath(os.environ[name])
            for name in READERS_FOLDERS
            if os.environ.get(name)
        }
        return KernelSpec(argv=command, display_name="Python 3", language="python", env=folders)


class WithReadersModules(ThisPython):
    """Its kernel finds modules in the reader's folder, before all others, as `python -m` does."""

    @property
    def kernel_spec(self) -> KernelSpec:
        spec = super().kernel_spec
        folders = [os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
        spec.env["PYTHONPATH"] = os.pathsep.join(folders)
        return spec


class CurrentCell:
    """The cell that runs now, as papermill reports it."""

    def __init__(self) -> None:
        self.index = 0

    def start(self, cell: NotebookNode, cell_index: int) -> None:
        self.index = cell_index

    def __str__(self) -> str:
        return f"cell {self.index + 1}"


def execute(path: Path, typed: dict[str, Value], *, limit: float) -> NotebookNode:
    """Run all cells in the notebook's own folder, with progress by cell on stderr.

    Args:
        path: the notebook.
        typed: the parameters to change, as `values` returns them.
        limit: the longest that a cell may take, in seconds.

    Returns:
        The executed copy, without this machine's paths.

    Raises:
        InputError: a cell raised one.
        MachineError: a cell failed, took too long, or ended its process.
    """
    current = CurrentCell()
    own = any(isinstance(value, str) and is_own(value) for value in typed.values())
    bar: Any = {"desc": path.stem, "miniters": 1}  # handed on to tqdm, though declared as a bool
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        notebook = papermill.execute_notebook(
            nbformat.read(path, as_version=4),
            None,
            parameters=typed,
            kernel_name="python3",
            language="python",
            progress_bar=bar,
            execution_timeout=math.ceil(limit),
            kernel_manager_class=WithReadersModules if own else ThisPython,
            resources={"metadata": {"path": str(path.parent)}},
            coalesce_streams=True,
            on_cell_start=current.start,
        )
    except papermill.PapermillExecutionError as error:
        lines = error.evalue.strip().splitlines() or [""]
        message = f"{path.stem}, {current} failed: {error.ename}: {lines[-1]}"
        if error.ename == "InputError":
            raise InputError(message) from None
        raise MachineError(message) from None
    except CellTimeoutError:
        message = f"{path.stem}, {current} took longer than {limit:g} seconds"
        raise MachineError(message) from None
    except DeadKernelError:
        message = f"{path.stem}, {current} ended its process (out of memory?)"
        raise MachineError(message) from None
    for name in MACHINE_METADATA:
        notebook.metadata.papermill.pop(name, None)
    return notebook


# ---- The committed form


def normalise(notebook: NotebookNode) -> NotebookNode:
    """The committed form, in place: no times, widget state, machine paths or stderr; cells are
    numbered in their order and have ids from their source."""
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    notebook.nbformat = 4
    notebook.nbformat_minor = 5
    ids: Counter[str] = Counter()
    code_cells = 0
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        ids[digest] += 1
        cell.id = digest
        if ids[digest] > 1:
            cell.id = f"{digest}-{ids[digest]}"
        cell.metadata = nbformat.from_dict(_kept(cell.metadata))
        if cell.cell_type == "code":
            code_cells += 1
            _normalise_outputs(cell, code_cells)
    return notebook


def _kept(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: metadata[name] for name in CELL_METADATA if metadata.get(name)}


def _normalise_outputs(cell: NotebookNode, number: int) -> None:
    """`number` is that of the cell among those with code, from 1."""
    if cell.execution_count:
        cell.execution_count = number
    else:
        cell.execution_count = None
    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for output in cell.outputs:
        if "execution_count" in output:
            output.execution_count = number
        if "data" in output:
            output.data.pop(WIDGET, None)
            output.metadata = nbformat.from_dict({})


def dumps(notebook: NotebookNode) -> str:
    """The notebook's text: sorted keys, one space of indent, a newline at the end."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write(notebook: NotebookNode, path: Path) -> None:
    """Write it whole or not at all; WriteError where the disk refuses."""
    with whole(path) as part:
        part.write_text(dumps(notebook), encoding="utf-8")


def main() -> None:
    """Execute the committed notebooks in place and normalise them."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        write(normalise(execute(path, {}, limit=CELL_LIMIT)), path)


if __name__ == "__main__":
    main()
