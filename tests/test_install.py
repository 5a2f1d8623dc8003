"""The ways to install agree: pyproject.toml, constraints.txt, environment.yml; and the package's boundary."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split("\n") if line and line[0] != "#")
THE_NINE = {
    "torch", "torchvision", "jupyter-book", "nbclient", "ipywidgets", "matplotlib", "papermill", "pytest", "nbval",
}  # fmt: skip


def conda() -> dict[str, str]:
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    requirements = [Requirement(line) for line in lines if isinstance(line, str)]
    names = {"pytorch": "torch"}  # conda's name for it
    return {names.get(found.name, found.name): str(found.specifier) for found in requirements}


def test_environment_yml_asks_for_what_pyproject_asks_for():
    wanted = {requirement.name: str(requirement.specifier) for requirement in REQUIRED}
    assert conda() == wanted | {"python": PROJECT["requires-python"], "pip": ""}


def test_the_nine_packages_are_named():
    assert {requirement.name for requirement in REQUIRED} >= THE_NINE
    assert set(conda()) >= THE_NINE


@pytest.mark.parametrize("requirement", REQUIRED, ids=lambda requirement: requirement.name)
def test_each_requirement_has_a_range_and_a_pin_inside_it(requirement):
    assert {spec.operator for spec in requirement.specifier} == {">=", "<"}
    pins = {canonicalize_name(name): version for name, version in PINS.items()}
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_pins_are_exact_and_nothing_else():
    for name, version in PINS.items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name) and re.fullmatch(r"[0-9][0-9a-z.]*", version), name


def test_the_science_imports_nothing_from_the_companion():
    for path in (ROOT / "ddcore").glob("[a-z]*.py"):  # not __init__ and __main__, the two doors
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not any("companion" in name for name in names), path.name


def test_a_run_starts_without_jupyter_and_scikit_learn():
    """A machine that only computes need not have the first; importing the second takes as long as PyTorch."""
    code = "import sys, ddcore.companion.cli, ddcore.companion.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"nbformat", "papermill", "sklearn"} & set(done.stdout.split())
