"""The ways to install agree, what is imported is declared, and who may import whom."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ddcore

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ddcore"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
PINS = dict(line.split("==") for line in CONSTRAINTS if line and not line.startswith("#"))

# The stack that the companion is built on. Each is asked for by name, not only through another.
STACK = {"torch", "torchvision", "jupyter-book", "nbclient", "ipywidgets", "matplotlib"}
STACK |= {"papermill", "pytest", "nbval"}

# What a machine that only computes need not have.
PUBLISHING = {"IPython", "ipywidgets", "jupyter_client", "matplotlib", "nbclient", "nbformat"}
PUBLISHING |= {"nbconvert", "pandas", "papermill"}

# Where conda-forge's name, or the name to import, is not the name of the distribution.
CONDA = {"pytorch": "torch", "python-build": "build"}
IMPORTED = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}

# The sets of images that a wheel carries.
CARRIED = ["fig2a", "fig3a", "fig3b", "soft-mnist-10"]


def requirements(*extras: str) -> dict[str, Requirement]:
    """The core dependencies and those of the extras, an extra's extras included, by name."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    found = {}
    for requirement in map(Requirement, lines):
        if requirement.name == PROJECT["name"]:
            found |= requirements(*requirement.extras)
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def conda() -> dict[str, Requirement]:
    lines = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    asked = [Requirement(line) for line in lines if isinstance(line, str)]
    return {canonicalize_name(CONDA.get(one.name, one.name)): one for one in asked}


# The ways to install


def test_environment_yml_asks_for_what_pyproject_asks_for():
    wanted = {name: one.specifier for name, one in requirements("dev").items()}
    asked = {name: one.specifier for name, one in conda().items()}
    assert str(asked.pop("python")) == PROJECT["requires-python"]
    assert str(asked.pop("pip")) == ""
    assert asked == wanted


def test_the_stack_is_asked_for_by_name():
    assert requirements("dev").keys() >= STACK
    assert conda().keys() >= STACK


def test_the_core_needs_nothing_that_publishes():
    assert not requirements().keys() & {canonicalize_name(name) for name in PUBLISHING}


@pytest.mark.parametrize(
    "requirement", requirements("dev", "hub").values(), ids=lambda one: one.name
)
def test_each_requirement_has_a_range_and_a_pin_inside_it(requirement):
    assert {spec.operator for spec in requirement.specifier} == {">=", "<"}
    pins = {canonicalize_name(name): version for name, version in PINS.items()}
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_pins_are_exact_and_nothing_else():
    for name, version in PINS.items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name), name
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), name


@pytest.mark.parametrize("name", CARRIED)
def test_the_sets_that_a_wheel_carries_are_those_of_the_records(name):
    records = [
        json.loads(path.read_text("utf-8")) for path in ROOT.glob(f"results/{name}/*/record.json")
    ]
    (key,) = [record["key"] for record in records if not record["overrides"]]
    recorded = ROOT / "results" / name / key / "distilled.safetensors"
    assert (PACKAGE / "data" / f"{name}.safetensors").read_bytes() == recorded.read_bytes()


def test_a_wheel_carries_these_sets_alone():
    assert sorted(path.stem for path in (PACKAGE / "data").iterdir()) == sorted(CARRIED)


@pytest.mark.parametrize("guide", ["README.md", "CONTRIBUTING.md", "book/architecture.md"])
def test_the_guides_name_files_that_are_there(guide):
    folders = "benchmarks|book|ddcore|notebooks|results|tests"
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", (ROOT / guide).read_text("utf-8"))
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


# What is imported


def modules(*patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, inside functions too; `from a import b` is a and a.b."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relative to itself; name the package"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


# What a user comes in by stands above all layers, and none imports it.
DOORS = {PACKAGE / f"{name}.py" for name in ("__init__", "__main__", "cli", "use")}
BEHIND_DOORS = [f"ddcore.{name}" for name in ("__main__", "cli", "use", *ddcore.__all__)]
SCIENCE = sorted(set(modules("ddcore/*.py")) - DOORS)
SUPPORT = modules("ddcore/support/**/*.py")
EXPERIMENTS = modules("ddcore/experiments/**/*.py")
PAPER = modules("ddcore/paper/**/*.py")
LATER = {
    **dict.fromkeys([*SCIENCE, *SUPPORT], ["ddcore.experiments", "ddcore.paper", *BEHIND_DOORS]),
    **dict.fromkeys(EXPERIMENTS, ["ddcore.paper", *BEHIND_DOORS]),
    **dict.fromkeys(PAPER, BEHIND_DOORS),
}


def test_every_file_of_the_package_belongs_to_a_layer():
    assert {*LATER, *DOORS} == set(modules("ddcore/**/*.py"))
    assert SCIENCE and SUPPORT and EXPERIMENTS and PAPER


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_layer_imports_only_what_stands_above_it(path):
    assert not {name for name in imports(path) if any(below(name, one) for one in LATER[path])}


def test_the_science_is_short_enough_to_be_read_beside_the_paper():
    """What the paper says nothing about belongs in `ddcore/support/`."""
    assert sum(len(path.read_text("utf-8").splitlines()) for path in SCIENCE) <= 2_000


OWN = {
    "front",
    "ddcore",
    "tests",
    *(path.stem for path in modules("tests/*.py", "benchmarks/*.py", "book/*.py")),
}
DECLARED = [
    (["ddcore/*.py", "ddcore/support/**/*.py", "ddcore/experiments/**/*.py"], []),
    (["ddcore/paper/**/*.py"], ["notebooks", "hub"]),
    (["book/**/*.py"], ["book"]),
    (["tests/**/*.py"], ["dev", "hub"]),
    (["benchmarks/**/*.py"], ["dev", "bench"]),
]


@pytest.mark.parametrize("patterns, extras", DECLARED, ids=lambda value: "+".join(value) or "core")
def test_what_is_imported_is_declared(patterns, extras):
    imported = {name.split(".")[0] for path in modules(*patterns) for name in imports(path)}
    foreign = imported - OWN - sys.stdlib_module_names
    needed = {canonicalize_name(IMPORTED.get(name, name)) for name in foreign}
    assert not needed - requirements(*extras).keys()


# What is loaded


def loaded(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after running `code`."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def command(*arguments: str) -> str:
    return f"""
import sys
from ddcore.cli import main
sys.argv = ["ddcore", *{arguments!r}]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import ddcore", id="import ddcore"),
        pytest.param("import ddcore.experiments.catalogue", id="catalogue"),
        pytest.param(command("--help"), id="ddcore --help"),
        pytest.param(command("list"), id="ddcore list"),
    ],
)
def test_what_computes_nothing_loads_neither_torch_nor_what_publishes(code):
    assert not loaded(code) & {"torch", "sklearn", *PUBLISHING}


def test_a_run_starts_without_what_publishes_and_scikit_learn():
    """A machine that only computes need not have the first; the second loads as long as torch."""
    names = loaded("import ddcore.cli, ddcore.experiments.run")
    assert not names & {"sklearn", *PUBLISHING}
