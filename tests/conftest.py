"""What several test files share: the command in this process, in folders of its own, and two tiny
experiments."""

import importlib
import json
import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ddcore import cli, datasets
from ddcore.datasets import Dataset
from ddcore.experiments import catalogue, records
from ddcore.experiments.config import Config
from ddcore.experiments.verify import verify
from ddcore.support import kernel, progress
from ddcore.support.errors import InputError
from ddcore.support.files import cache_folder, data_root

# before any test changes the environment
DATA_ROOT = data_root()
CACHE = cache_folder()
SHARED = {
    "dataset": "digits",
    "samples": 1,
    "batch": 32,
    "noise": 0.5,
    "first_lr": 0.1,
    "image_rate": 0.1,
    "checks": 2,
}
# enough outer steps for an accuracy that damage changes
TINY = Config(**SHARED, fixed=True, nets=1, epochs=2, iterations=12)
TINY_RANDOM = Config(**SHARED, steps=2, nets=3, iterations=4)


def new_cache(folder):
    """For other processes, a cache folder that has nothing but the user's kernels."""
    (CACHE / "kernels").mkdir(parents=True, exist_ok=True)
    (folder / "ddcore").mkdir(parents=True)
    (folder / "ddcore" / "kernels").symlink_to(CACHE / "kernels")
    return folder


def set_apart(monkeypatch, folder):
    """Cache, records, data and project below `folder`; two tiny experiments more, as if at the
    paper's scale."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(kernel, "cache_folder", lambda: CACHE)  # to build one takes seconds
    monkeypatch.setenv("DDCORE_RESULTS", str(folder / "results"))
    monkeypatch.setenv("DDCORE_DATA", str(folder / "data"))
    monkeypatch.setattr(records, "PROJECT", folder / "project")
    monkeypatch.setattr(records, "damaged", set())
    monkeypatch.setitem(catalogue.EXPERIMENTS, "tiny", TINY)
    monkeypatch.setitem(catalogue.EXPERIMENTS, "tiny-random", TINY_RANDOM)
    return folder


@pytest.fixture
def apart(monkeypatch, tmp_path):
    """The test's own folder, with everything that the package reads and writes below it."""
    return set_apart(monkeypatch, tmp_path)


@pytest.fixture
def experiment(monkeypatch):
    """Add an experiment to the catalogue for one test: experiment("mine", config)."""

    def add(name, config, images_of=None):
        monkeypatch.setitem(catalogue.EXPERIMENTS, name, config)
        if images_of is not None:
            monkeypatch.setitem(catalogue.IMAGES_OF, name, images_of)
        return config

    return add


@pytest.fixture
def ddcore(apart, monkeypatch, capsys):
    """Call it as the command: ddcore("run", "tiny") -> status, out and err (lists of lines)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["ddcore", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return SimpleNamespace(
            status=ended.value.code or 0, out=out.splitlines(), err=err.splitlines()
        )

    return call


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of a reader's own to the current folder, to be imported anew:
    module("mine", source)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which sees no edit within a second
    before = {*sys.modules}

    def forget():
        for name in {*sys.modules} - before:
            found = sys.modules[name]
            if (
                str(tmp_path)
                in f"{getattr(found, '__file__', '')} {getattr(found, '__path__', '')}"
            ):
                del sys.modules[name]
        importlib.invalidate_caches()

    def write(name, source):
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        forget()

    yield write
    forget()


@pytest.fixture
def interrupted_in(ddcore, monkeypatch):
    """Call the command and press Ctrl-C in an outer step: interrupted_in(8, "run", "tiny")."""

    def call(step, *words):
        draw = Dataset.batch
        batches = []

        def batch(*arguments):
            batches.append(1)
            if len(batches) == step:
                signal.raise_signal(signal.SIGINT)
            return draw(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(progress, "CHECKPOINT_SECONDS", 0)
            patch.setattr(Dataset, "batch", batch)
            return ddcore(*words)

    return call


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The results folder of one `ddcore run tiny`, to copy and damage."""
    from ddcore.experiments import run

    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = set_apart(monkeypatch, tmp_path_factory.mktemp("made"))
        run.run("tiny")
        return folder / "results"


@pytest.fixture
def record(made, apart):
    """The folder of a record of `tiny` that a test may damage."""
    shutil.copytree(made, apart / "results")
    return apart / "results" / "tiny" / TINY.key


@pytest.fixture
def edit(record):
    """Change the record's JSON: edit(lambda content: ...)."""
    return lambda how: edit_record(record, how)


def edit_record(folder, how):
    """Change the JSON of the record in a folder."""
    file = folder / "record.json"
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))


@pytest.fixture
def pictures(tmp_path):
    """A folder of PNGs, ten training and two test images of each class:
    pictures(classes="ab", mode="L", side=28)."""

    def draw(classes="ab", mode="L", side=28, name="pictures"):
        rng = np.random.default_rng(0)
        folder = tmp_path / name
        for part, n in (("train", 10), ("test", 2)):
            for k, label in enumerate(classes):
                (folder / part / label).mkdir(parents=True)
                for i in range(n):
                    pixels = rng.integers(0, 128, (side, side, 3), dtype=np.uint8) + 100 * (k % 2)
                    image = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
                    image.save(folder / part / label / f"{i}.png")
        return folder

    return draw


@pytest.fixture
def real(monkeypatch):
    """real("mnist"): the dataset where it is on this machine; else the test is skipped with the
    reason."""

    def get(name):
        monkeypatch.setenv("DDCORE_DATA", str(DATA_ROOT))
        try:
            return datasets.load(name, download=False)
        except InputError as error:
            pytest.skip(str(error))

    return get


def checked(record, nets=None, **options):
    """Whether a record agrees with its images, and the line that says so."""
    verification = verify(record, nets, **options)
    return verification.agrees, verification.line


def tree(folder):
    """Every file and folder below, to see that nothing was written."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
