"""The command `ddcore`. Exit status: 0 done, 1 a check failed or the machine could not, 2 bad input."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from ddcore.companion import records
from ddcore.companion.experiments import ALIASES, EXPERIMENTS
from ddcore.datasets import NAMES, data_root, load
from ddcore.errors import InputError, MachineError, full_memory_named

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
UsageError = typer.BadParameter.__base__  # click's, wherever this version of typer keeps it
Parameters = Annotated[
    list[str], typer.Option("-p", metavar="NAME=VALUE", help="change one parameter; may be repeated")
]


@app.command("list")
def list_() -> None:
    """The experiments, their settings at the paper's scale, and which have a record."""
    from ddcore.companion import notebooks as book

    for name, config in EXPERIMENTS.items():
        record = records.find(name)
        said = f"{record.accuracy} %" if record else "no record"
        steps = "all images" if config.images == "all" else f"{config.steps} step{'s' * (config.steps > 1)}"
        steps += f" of {config.per_class} per class" if config.per_class > 1 else ""
        images = f"{steps} x {config.epochs} epoch{'s' * (config.epochs > 1)}"
        also = ", ".join(a for a, n in ALIASES.items() if n == name)
        init = "fixed" if config.fixed else "random"
        print(f"{name:26} {config.dataset:8} {init:6} {images:32} {said:10} {also and '= ' + also}".rstrip())
    print("notebooks: " + ", ".join(path.stem for path in sorted(book.FOLDER.glob("*.ipynb"))))


@app.command()
def run(
    experiment: str,
    scale: Annotated[str, typer.Option(help="smoke, laptop or paper")] = "paper",
    parameters: Parameters = [],  # noqa: B006 (typer copies it)
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    compile: Annotated[str, typer.Option(help="auto (where it pays), on or off")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="ignore a record and a checkpoint")] = False,
    checkpoints: Annotated[
        Path | None, typer.Option(file_okay=False, help="folder of checkpoints; default: the cache folder")
    ] = None,
) -> None:
    """Run an experiment, or return its record; the last line on stdout is the record's folder."""
    from ddcore.companion import run as runner

    if compile not in ("auto", "on", "off"):
        raise InputError(f"--compile {compile}: one of auto, on, off is allowed")
    runner.check_device(device)
    runner.start_processes(device)
    record = runner.run(
        experiment, scale, pairs(parameters), device=device, compile=compile, force=force, checkpoints=checkpoints
    )
    first = runner.process()[0] == 0
    runner.end_processes()
    if first:  # which speaks for all that torchrun started
        std, n = (record.metrics["test_accuracy"][what] for what in ("std", "n"))
        spread = "" if std is None else f" +- {100 * std:.2f}"
        print(f"{record.experiment}: test accuracy {record.accuracy}{spread} % (n = {n})", file=sys.stderr)
        print(record.folder)


@app.command()
def notebook(
    name: str,
    parameters: Parameters = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="default: NAME.executed.ipynb in this folder")] = None,
) -> None:
    """Execute a notebook (any unambiguous beginning of its name) with other parameters; the last line is the copy."""
    from ddcore.companion import notebooks as book

    print(book.run(name, pairs(parameters), out))


@app.command()
def verify(
    experiments: Annotated[list[str] | None, typer.Argument()] = None,
    nets: Annotated[int | None, typer.Option(min=1, help="networks per record; default: all at hand")] = None,
) -> None:
    """Re-derive records' accuracies from the stored images; default: every record."""
    from ddcore.companion.run import verify as check

    found = {name: records.find(name) for name in experiments or [r.experiment for r in records.everywhere()]}
    for name, record in found.items():
        if record is None:
            raise InputError(f"{name} has no record here; `ddcore run {name}` makes one")
    if not found:
        raise InputError("there is no record here; `ddcore run EXPERIMENT` makes one")
    failed = unchecked = False
    for record in found.values():
        try:
            agrees, line = check(record, nets)
        except InputError as error:  # the others can still be checked
            unchecked = True
            _complain(f"{record.experiment} is not checked: {error}")
        else:
            failed |= not agrees
            print(line, flush=True)
    if failed or unchecked:
        raise typer.Exit(1 if failed else 2)


@app.command()
def data(wanted: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None) -> None:
    """Which datasets are here; with names: load them, downloading what is missing."""
    if not wanted:
        print(f"data root: {data_root()}")
    for name in wanted or NAMES:
        try:
            found = load(name, download=bool(wanted))
        except InputError as error:
            if wanted:
                raise
            print(f"{name:14} not here" if " is not there" in str(error) else f"{name:14} {error}")
            continue
        splits = "/".join(f"{len(part[1]):,}" for part in (found.train, found.validation, found.test))
        channels, side = found.shape
        print(f"{name:14} {splits} images of {channels}x{side}x{side}, sha256 {found.sha256[:12]}")


@app.command()
def reproduce(
    plan: Annotated[bool, typer.Option("--plan", help="only print what is missing, with its cost")] = False,
    budget: Annotated[
        float | None, typer.Option(min=1, max=1e9, metavar="SECONDS", help="stop cleanly after this time")
    ] = None,
    shard: Annotated[str, typer.Option(metavar="K/N", help="every N-th experiment, from the K-th")] = "1/1",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Run every experiment that has no record at the paper's scale, most valuable first."""
    from ddcore.companion import reproduce as task

    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", shard)
    part = tuple(map(int, found.groups())) if found else (1, 0)
    if not 1 <= part[0] <= part[1]:
        raise InputError(f"--shard {shard}: K/N with 1 <= K <= N is allowed")
    if plan:
        print(task.plan(part))
    elif not task.reproduce(budget, part, device):
        raise typer.Exit(1)


@app.command()
def report() -> None:
    """Every claim of the paper beside ours, with its verdict, and the counts."""
    from ddcore.companion import claims

    table = claims.table(claims.Judge())
    print(table[["id", "paper", "ours", "verdict"]].to_string(index=False, max_colwidth=50))
    print(f"\n{claims.counts(table)}")


def pairs(parameters: list[str]) -> dict[str, str]:
    """["steps=2", ...] -> {"steps": "2", ...}"""
    found: dict[str, str] = {}
    for text in parameters:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"-p {text}: NAME=VALUE is allowed")
        if name in found:
            raise InputError(f"-p {name} is given twice; once is allowed")
        found[name] = value
    return found


def main() -> None:
    try:
        with full_memory_named():
            status = app(standalone_mode=False)
        if status == 130:  # what typer makes of Ctrl-C
            resumes = sys.argv[1:2] in (["run"], ["reproduce"])
            _complain("interrupted" + "; the same command goes on from the last checkpoint" * resumes)
    except UsageError as error:
        status = 2
        _complain(f"{error.format_message().rstrip('.')}; `ddcore --help` shows what is allowed")
    except InputError as error:
        status = 2
        _complain(error)
    except (MachineError, OSError) as error:
        status = 1
        _complain(error)
    sys.exit(status)


def _complain(message: object) -> None:
    """One line on stderr, whatever the message quotes."""
    print("ddcore:", " ".join(str(message).split()), file=sys.stderr)
