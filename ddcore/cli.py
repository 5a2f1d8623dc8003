"""The command `ddcore`. Exit status: 0 done, 1 a check failed or the machine could not, 2 bad
input."""

import json
import re
import sys
import webbrowser
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from ddcore.experiments import records
from ddcore.experiments.catalogue import ALIASES, EXPERIMENTS, resolve
from ddcore.experiments.config import Config
from ddcore.experiments.records import Record
from ddcore.support.errors import InputError, MachineError, full_memory_named
from ddcore.support.files import PROJECT, check_file, data_root
from ddcore.support.formats import FORMATS, check_format, formatted
from ddcore.support.registry import DATASETS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
# click's, wherever this version of typer keeps it
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
Parameters = Annotated[
    list[str],
    typer.Option("-p", metavar="NAME=VALUE", help="change one parameter; may be repeated"),
]
Form = Annotated[str, typer.Option("--format", help=", ".join(FORMATS))]


@app.command("list")
def list_experiments(
    as_json: Annotated[
        bool, typer.Option("--json", help="names, keys and records as JSON")
    ] = False,
) -> None:
    """The experiments, their settings at the paper's scale, and which have a record."""
    if as_json:
        print(json.dumps(_listing(), indent=1))
        return
    found = _by_experiment()
    for name, config in EXPERIMENTS.items():
        record = found.get(name)
        accuracy = f"{record.accuracy} %" if record else "no record"
        init = "fixed" if config.fixed else "random"
        aliases = ", ".join(alias for alias, first in ALIASES.items() if first == name)
        line = f"{name:26} {config.dataset:8} {init:6} {_images(config):32} {accuracy:10}"
        print(f"{line} = {aliases}" if aliases else line.rstrip())
        for replicate in records.replicates(name):
            print(f"  {replicate.name:73} {replicate.accuracy} %")
    notebooks = sorted((PROJECT / "notebooks").glob("*.ipynb"))
    print("notebooks: " + ", ".join(path.stem for path in notebooks))


def _images(config: Config) -> str:
    """For example `10 steps of 2 per class x 3 epochs`."""
    steps = f"{config.steps} step{'s' * (config.steps > 1)}"
    if config.images == "all":
        steps = "all images"
    if config.per_class > 1:
        steps += f" of {config.per_class} per class"
    return f"{steps} x {config.epochs} epoch{'s' * (config.epochs > 1)}"


def _listing() -> dict[str, Any]:
    """For each experiment its key as defined and the folder of its record, where there is one; and
    the folders of all replicates."""
    experiments = {}
    found = _by_experiment()
    for name, config in EXPERIMENTS.items():
        record = found.get(name)
        experiments[name] = {"key": config.key, "record": str(record.folder) if record else None}
    folders = [str(replicate.folder) for replicate in _replicates()]
    return {"experiments": experiments, "aliases": ALIASES, "replicates": folders}


@app.command()
def run(
    experiment: str,
    scale: Annotated[str, typer.Option(help="smoke, laptop or paper")] = "paper",
    parameters: Parameters = [],  # noqa: B006 (typer copies it)
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    compile: Annotated[str, typer.Option(help="auto (what is fastest), on or off")] = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="ignore a record and a checkpoint")
    ] = False,
    checkpoints: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="folder of checkpoints; default: the cache folder"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would be computed, compute nothing")
    ] = False,
) -> None:
    """Run an experiment, or return its record; the last line on stdout is the record's folder."""
    from ddcore.experiments import run as runner
    from ddcore.support import runtime

    if compile not in ("auto", "on", "off"):
        raise InputError(f"--compile {compile}: one of auto, on, off is allowed")
    overrides = pairs(parameters)
    request = runner.Request(experiment, scale, overrides, device)
    if said := request.exchanged:
        print(said, file=sys.stderr)
    if dry_run:
        print(runner.plan(request))
        return
    runtime.check_device(device)
    runtime.start_processes(device)
    record = runner.run(
        experiment,
        scale,
        overrides,
        device=device,
        compile=compile,
        force=force,
        checkpoints=checkpoints,
    )
    is_first = runtime.process().rank == 0
    runtime.end_processes()
    if is_first and record is not None:  # the first speaks for all that torchrun started
        print(_result(record), file=sys.stderr)
        print(record.folder)


def _result(record: Record) -> str:
    """For example `fig3a: test accuracy 87.74 +- 1.90 % (n = 200)`."""
    metric = record.metrics["test_accuracy"]
    std = metric["std"]
    spread = f" +- {100 * std:.2f}" if isinstance(std, float) else ""
    return f"{record.name}: test accuracy {record.accuracy}{spread} % (n = {metric['n']})"


@app.command(context_settings={"help_option_names": []})
def notebook(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(show_default=False)] = None,
    parameters: Parameters = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(help="default: NAME.executed.ipynb in this folder")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="show the page in a browser")] = False,
    help: Annotated[
        bool, typer.Option("--help", help="with NAME: what its parameters are")
    ] = False,
) -> None:
    """Execute a notebook (any unambiguous beginning of its name) with other parameters; the last
    lines are a page to look at and the executed copy."""
    if name is None:
        if not help:
            raise UsageError("Missing argument 'NAME'.")
        print(context.get_help())
        return
    try:
        from ddcore.paper import notebooks
        from ddcore.paper.parameters import told
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed: pip install 'ddcore[notebooks]' brings it"
        ) from None

    if help:
        path = notebooks.find(name)
        print(f"ddcore notebook {path.stem} -p NAME=VALUE ...; its parameters:")
        print(told(path))
        return
    executed = notebooks.run(name, pairs(parameters), out)
    page = notebooks.page_of(executed)
    if show:
        webbrowser.open(page.absolute().as_uri())
    print(page)
    print(executed)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[EXPERIMENT | FOLDER]...")] = None,
    scale: Annotated[
        str, typer.Option(help="of the experiments: smoke, laptop or paper")
    ] = "paper",
    parameters: Parameters = [],  # noqa: B006
    nets: Annotated[
        int | None, typer.Option(min=1, help="networks per record; default: all at hand")
    ] = None,
    form: Form = "text",
    log: Annotated[
        Path | None, typer.Option(help="write machine, versions and differences there, as JSON")
    ] = None,
) -> None:
    """Re-derive records' accuracies from the stored images; default: every record. --scale and -p
    say which run of the experiments."""
    from ddcore.experiments import verify as checks

    check_format(form)
    if log is not None:
        check_file(log)
    to_check = _to_check(names or [], scale, pairs(parameters))
    rows = []
    unchecked = bool(records.damaged)
    for record, in_place in to_check:
        try:
            result = checks.verify(record, nets, in_place=in_place)
        except InputError as error:  # the others can still be checked
            unchecked = True
            _complain(f"{record.name} is not checked: {error}")
            rows.append(checks.row(checks.Verification(record.name), "not checked"))
            continue
        rows.append(checks.row(result))
        if form == "text":
            print(result.line, flush=True)
    if form != "text":
        print(formatted(rows, form, "ddcore verify", ["FAIL"]))
    if log is not None:
        checks.write_log(log, rows)
    if any(row["verdict"] == "FAIL" for row in rows):
        raise typer.Exit(1)
    if unchecked:
        raise typer.Exit(2)


def _to_check(names: list[str], scale: str, overrides: dict[str, str]) -> list[tuple[Record, bool]]:
    """Each record once, and whether it was looked up, so that it must lie in its place."""
    if not names:
        if scale != "paper" or overrides:
            raise InputError("--scale and -p say which run of an experiment: name one, or more")
        found = [(record, True) for record in records.everywhere() + _replicates()]
        if not found:
            raise InputError("there is no record here; `ddcore run EXPERIMENT` makes one")
        return found
    asked: dict[Path, tuple[Record, bool]] = {}
    for name in names:
        place = Path(name)
        given = place.exists() and name not in EXPERIMENTS and name not in ALIASES
        if given:
            record = records.read(place if place.is_dir() else place.parent)
        else:
            record = _recorded(name, scale, overrides)
        asked.setdefault(record.folder, (record, not given))
    return list(asked.values())


def _recorded(name: str, scale: str, overrides: dict[str, str]) -> Record:
    record = records.find(name, scale, overrides)
    if record is None:
        words = [] if scale == "paper" else [f"--scale {scale}"]
        words += [f"-p {changed}={value}" for changed, value in overrides.items()]
        command = " ".join([f"ddcore run {name}", *words])
        raise InputError(f"{' '.join([name, *words])} has no record here; `{command}` makes one")
    return record


def _by_experiment() -> dict[str, Record]:
    return {record.experiment: record for record in records.everywhere()}


def _replicates() -> list[Record]:
    return [replicate for name in EXPERIMENTS for replicate in records.replicates(name)]


@app.command()
def export(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT | FOLDER | FILE")],
    to: Annotated[
        str,
        typer.Option(
            help="png (a sheet of the images), npz (NumPy's arrays) or hf (a folder for a hub)"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="default: NAME.png, NAME.npz or NAME-hf here")
    ] = None,
) -> None:
    """Write distilled images for other programs; the last line is the file or folder."""
    try:
        from ddcore.paper import export as exports

        if to == "hf":
            from ddcore.paper import hub
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed: pip install 'ddcore[notebooks]' brings it"
        ) from None
    from ddcore.use import load_distilled

    if to == "hf":
        place = out or Path(f"{Path(name).stem}-hf")
        ((record, _),) = _to_check([name], "paper", {})
        hub.export(record, place)  # pyright: ignore[reportPossiblyUnboundVariable]
    else:
        place = out or Path(f"{Path(name).stem}.{to}")
        exports.export(load_distilled(name), to, place)
    print(place)


@app.command()
def data(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None,
) -> None:
    """Which datasets are here; with names: load them, downloading what is missing."""
    from ddcore.datasets import load

    if not names:
        print(f"data root: {data_root()}")
    for name in names or DATASETS:
        try:
            dataset = load(name, download=bool(names))
        except InputError as error:
            if names:
                raise
            absent = " is not there" in str(error)
            print(f"{name:14} {'not here' if absent else error}")
            continue
        splits = (dataset.train, dataset.validation, dataset.test)
        sizes = "/".join(f"{len(labels):,}" for _, labels in splits)
        channels, side = dataset.shape
        images = f"{sizes} images of {channels}x{side}x{side}"
        print(f"{name:14} {images}, sha256 {dataset.sha256[:12]}")
        if name.startswith("folder:"):
            print(f"{'':14} classes: {', '.join(dataset.classes)}")


@app.command()
def reproduce(
    plan: Annotated[
        bool, typer.Option("--plan", help="only print what is missing, with its cost")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(min=1, max=1e9, metavar="SECONDS", help="stop cleanly after this time"),
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="K/N", help="every N-th experiment, from the K-th")
    ] = "1/1",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Run every experiment that has no record at the paper's scale, most valuable first."""
    from ddcore.experiments import reproduce as task

    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", shard)
    k, n = (int(match[1]), int(match[2])) if match else (1, 0)
    if not 1 <= k <= n:
        raise InputError(f"--shard {shard}: K/N with 1 <= K <= N is allowed")
    if plan:
        print(task.plan((k, n)))
    elif not task.reproduce(budget, (k, n), device):
        raise typer.Exit(1)


@app.command()
def report(form: Form = "text") -> None:
    """Every claim of the paper beside ours, with its verdict, the counts, and what replicates
    reached."""
    try:
        from ddcore.paper import ledger
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed: pip install 'ddcore[notebooks]' brings it"
        ) from None

    check_format(form)
    found = _by_experiment()
    judge = ledger.Judge(lambda name: found.get(resolve(name)))
    columns = ["id", "paper", "paper's recipe", "ours", "verdict"]
    if form != "text":
        rows = ledger.entries(judge)
        if form != "json":
            rows = [{name: row[name] for name in columns} for row in rows]
        print(formatted(rows, form, "ddcore report", ledger.MISSED))
        return
    table = ledger.table(judge)
    print(table.loc[:, columns].to_string(index=False, max_colwidth=50))
    print(f"\n{ledger.counts(table)}")
    print("\n".join(["", *map(_result, _replicates())]))


def pairs(parameters: list[str]) -> dict[str, str]:
    """["steps=2", ...] -> {"steps": "2", ...}"""
    overrides: dict[str, str] = {}
    for text in parameters:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"-p {text}: NAME=VALUE is allowed")
        if name in overrides:
            raise InputError(f"-p {name} is given twice; once is allowed")
        overrides[name] = value
    return overrides


def main() -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a folder's name may be any bytes
    try:
        with full_memory_named():
            status = app(standalone_mode=False)
        if status == 130:  # what typer makes of Ctrl-C
            resumes = sys.argv[1:2] in (["run"], ["reproduce"])
            goes_on = "; the same command goes on from the last checkpoint" if resumes else ""
            _complain(f"interrupted{goes_on}")
    except UsageError as error:
        status = 2
        message = error.format_message().rstrip(".")  # pyright: ignore[reportAttributeAccessIssue]
        _complain(f"{message}; `ddcore --help` shows what is allowed")
    except InputError as error:
        status = 2
        _complain(error)
    except MachineError as error:
        status = 1
        _complain(error)
    except OSError as error:
        status = 1
        place = error.filename
        _complain(f"{place}: {error.strerror}; let it be read and written" if place else error)
    sys.exit(status)


def _complain(message: object) -> None:
    """One line on stderr, whatever the message quotes."""
    print("ddcore:", " ".join(str(message).split()), file=sys.stderr)
