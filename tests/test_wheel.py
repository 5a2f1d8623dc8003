"""A wheel works where there is no checkout, with the package's core dependencies alone.

The wheel is built from a copy of what goes into it. It is installed into a fresh environment that
sees the core dependencies, and what they require, through links: a dependency that is used and not
declared is not there. Then the commands run in an empty folder, with an empty home.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

import pytest
from conftest import new_cache
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_install import CARRIED, PACKAGE, PROJECT, PUBLISHING, ROOT

pytestmark = pytest.mark.slow


def run(command: list[str | Path], **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def asked(lines: Iterable[str], extra: str = "") -> list[tuple[str, str]]:
    """The distributions, each with each extra ("" is the core), that hold for this interpreter."""
    found = []
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            name = canonicalize_name(requirement.name)
            found += [(name, own) for own in ["", *requirement.extras]]
    return found


def closure(lines: Iterable[str]) -> list[Distribution]:
    """The distributions that the lines ask for, and those that these require in turn."""
    waiting = asked(lines)
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) not in seen:
            seen.add((name, extra))
            waiting += asked(distribution(name).requires or [], extra)
    return [distribution(name) for name in {name for name, _ in seen}]


def link(one: Distribution, site: Path) -> None:
    """Show a distribution that this interpreter has to the environment with the folder `site`."""
    assert one.files is not None, f"the files of {one.name} are not listed"
    tops = {PurePosixPath(file).parts[0] for file in one.files} - {"..", "__pycache__"}
    for top in tops:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(one.locate_file(top))).resolve())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(PACKAGE, source / "ddcore", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source]
    run(build, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def outside(wheel, tmp_path_factory) -> Callable[..., str]:
    """Runs a command of the fresh environment, in an empty folder with an empty home."""
    folder = tmp_path_factory.mktemp("outside")
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"])
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    for one in closure(PROJECT["dependencies"]):
        link(one, site)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run([*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-compile", wheel])
    run([*pip, "check"])

    (folder / "home").mkdir()
    (folder / "empty").mkdir()
    own = ("DDCORE_", "PYTHON", "VIRTUAL_ENV", "XDG_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment["HOME"] = str(folder / "home")
    environment["XDG_CACHE_HOME"] = str(new_cache(folder / "home" / "cache"))

    def call(name: str, *arguments: str) -> str:
        command = [python.parent / name, *arguments]
        return run(command, cwd=folder / "empty", env=environment)

    return call


def test_it_holds_the_sources_the_tables_the_types_mark_and_four_sets_of_images(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= {"ddcore/py.typed", "ddcore/paper/claims.yml"}
    assert names >= {"ddcore/experiments/experiments.yml"}
    assert names >= {f"ddcore/data/{name}.safetensors" for name in CARRIED}
    sources = [path for kind in ("*.py", "*.cpp", "*.h") for path in PACKAGE.rglob(kind)]
    assert names >= {path.relative_to(ROOT).as_posix() for path in sources}


def test_it_stays_small(wheel):
    assert wheel.stat().st_size < 4_000_000


def test_it_is_imported_from_its_own_environment_where_nothing_publishes(outside):
    code = f"""
from importlib.util import find_spec
import ddcore
print(ddcore.__file__)
print([name for name in {sorted(PUBLISHING)} if find_spec(name)])
"""
    where, present = outside("python", "-c", code).splitlines()
    assert not Path(where).is_relative_to(ROOT)
    assert present == "[]"


def test_its_version_is_the_projects(outside):
    printed = outside("python", "-c", "import ddcore; print(ddcore.__version__)")
    assert printed.strip() == PROJECT["version"]


def test_the_command_explains_itself(outside):
    assert "verify" in outside("ddcore", "--help")


def test_it_lists_the_experiments(outside):
    assert "fig3a" in outside("ddcore", "list")


def test_it_trains_networks_on_images_that_came_with_it(outside):
    code = """
import ddcore
weights = ddcore.train_on(ddcore.load_distilled("fig3a"), nets=2)
print({len(weight) for weight in weights.values()})
"""
    assert outside("python", "-c", code).strip() == "{2}"


def test_it_loads_each_set(outside):
    code = f"""
import ddcore
print(*(len(ddcore.load_distilled(name).images) for name in {CARRIED}))
"""
    assert all(int(steps) > 0 for steps in outside("python", "-c", code).split())


def test_it_runs_an_experiment(outside):
    printed = outside("ddcore", "run", "fig3a", "--scale", "smoke", "-p", "iterations=3")
    folder = Path(printed.splitlines()[-1])
    assert (folder / "record.json").is_file()
    assert (folder / "distilled.safetensors").is_file()
