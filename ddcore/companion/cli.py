"""The command `ddcore`. Exit status: 0 done, 1 a check failed or the machine could not, 2 bad input."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ddcore.companion import notebooks as book
from ddcore.companion import records
from ddcore.companion.experiments import ALIASES, EXPERIMENTS
from ddcore.datasets import NAMES, data_root, is_available, load
from ddcore.errors import InputError, MachineError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
Parameters = Annotated[
    list[str], typer.Option("-p", metavar="NAME=VALUE", help="change one parameter; may be repeated")
]


@app.command("list")
def list_() -> None:
    """The experiments, their settings at the paper's scale, and which have a record."""
    for name, config in EXPERIMENTS.items():
        record = records.find(name)
        said = f"{100 * record.metrics['test_accuracy']['mean']:.2f} %" if record else "no record"
        images = f"{config.steps} step{'s' * (config.steps > 1)} x {config.epochs} epoch{'s' * (config.epochs > 1)}"
        also = ", ".join(a for a, n in ALIASES.items() if n == name)
        print(
            f"{name:26} {config.dataset:8} {'fixed' if config.fixed else 'random':6} {images:22} {said:10} {also and '= ' + also}".rstrip()
        )
    print("notebooks: " + ", ".join(path.stem for path in sorted(book.FOLDER.glob("*.ipynb"))))


@app.command()
def run(
    experiment: str,
    scale: Annotated[str, typer.Option(help="smoke, laptop or paper")] = "paper",
    parameters: Parameters = [],  # noqa: B006 (typer copies it)
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    compile: Annotated[str, typer.Option(help="auto, on or off")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="ignore a record and a checkpoint")] = False,
    checkpoints: Annotated[Path | None, typer.Option(help="folder of checkpoints; default: the cache folder")] = None,
) -> None:
    """Run an experiment, or return its record; the last line on stdout is the record's folder."""
    from ddcore.companion import run as runner

    for option, value, allowed in (("device", device, ("cpu", "cuda")), ("compile", compile, ("auto", "on", "off"))):
        if value not in allowed:
            raise InputError(f"--{option} {value}: one of {', '.join(allowed)} is allowed")
    runner.start_processes(device)
    record = runner.run(
        experiment, scale, pairs(parameters), device=device, compile=compile, force=force, checkpoints=checkpoints
    )
    if record is not None:  # under torchrun only the first process has one
        accuracy = record.metrics["test_accuracy"]
        spread = "" if accuracy["std"] is None else f" +- {100 * accuracy['std']:.2f}"
        print(
            f"{record.experiment}: test accuracy {100 * accuracy['mean']:.2f}{spread} % (n = {accuracy['n']})",
            file=sys.stderr,
        )
        print(record.folder)


@app.command()
def notebook(
    name: str,
    parameters: Parameters = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="default: NAME.executed.ipynb in this folder")] = None,
) -> None:
    """Execute a notebook (any unambiguous beginning of its name) with other parameters; the last line is the copy."""
    print(book.run(name, pairs(parameters), out))


@app.command()
def verify(
    experiments: Annotated[list[str] | None, typer.Argument()] = None,
    nets: Annotated[int | None, typer.Option(min=1, help="networks per record; default: all")] = None,
) -> None:
    """Re-derive records' accuracies from the stored images; default: every record."""
    from ddcore.companion.run import verify as check

    found = {name: records.find(name) for name in experiments or [r.experiment for r in records.everywhere()]}
    for name, record in found.items():
        if record is None:
            raise InputError(f"{name} has no record here; `ddcore run {name}` makes one")
    failed = 0
    for record in found.values():
        agrees, line = check(record, nets)
        print(line, flush=True)
        failed += not agrees
    if failed:
        raise typer.Exit(1)


@app.command()
def data(wanted: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None) -> None:
    """Which datasets are here; with names: load them, downloading what is missing."""
    if not wanted:
        print(f"data root: {data_root()}")
    for name in wanted or NAMES:
        if not wanted and not is_available(name):
            print(f"{name:14} not here")
            continue
        found = load(name)
        splits = "/".join(f"{len(part[1]):,}" for part in (found.train, found.validation, found.test))
        print(
            f"{name:14} {splits} images of {found.shape[0]}x{found.shape[1]}x{found.shape[1]}, sha256 {found.sha256[:12]}"
        )


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
        app()
    except InputError as error:
        print(f"ddcore: {error}", file=sys.stderr)
        sys.exit(2)
    except (MachineError, OSError) as error:
        print(f"ddcore: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("ddcore: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
