"""The strict runner, and the form in which notebooks are committed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ddcore.paper import claims, notebooks
from ddcore.paper.parameters import parameters
from ddcore.support.errors import InputError, MachineError

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "notebooks").glob("*.ipynb"))
DECLARED = """\
steps: int = 2  # 1 to 100: gradient steps
rate: float = 0.5
faithful: bool = False
dataset: Literal["digits", "mnist"] = "digits"
label: str = "ten images"
"""
PRINTING = "print(steps + 1, rate, faithful, dataset, label)"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of notebooks in place of the committed one; the current folder is another."""
    source = tmp_path / "source"
    here = tmp_path / "here"
    source.mkdir()
    here.mkdir()
    monkeypatch.setattr(notebooks, "FOLDER", source)
    monkeypatch.chdir(here)
    return source


def put(folder: Path, name: str, *sources: str) -> Path:
    """Write a notebook: an import, the parameters cell, and these cells from the third on."""
    cells = [
        new_code_cell("from typing import Literal"),
        new_code_cell(DECLARED, metadata={"tags": ["parameters"]}),
        *map(new_code_cell, sources),
    ]
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


class TestFind:
    @pytest.fixture(autouse=True)
    def four(self, folder):
        for name in ("03-1-fixed", "03-2-random", "03", "04-1"):
            put(folder, name)

    @pytest.mark.parametrize(
        ("prefix", "name"),
        [
            pytest.param("03-1", "03-1-fixed", id="a beginning"),
            pytest.param("03", "03", id="a whole name"),
            pytest.param("04-1.ipynb", "04-1", id="a file's name"),
        ],
    )
    def test_any_unambiguous_beginning(self, prefix, name):
        assert notebooks.find(prefix).stem == name

    @pytest.mark.parametrize(
        ("prefix", "message"),
        [
            pytest.param("03-", "several notebooks: 03-1-fixed, 03-2-random", id="ambiguous"),
            pytest.param("zzz", "there are: 03, 03-1-fixed", id="unknown"),
        ],
    )
    def test_no_other(self, prefix, message):
        with pytest.raises(InputError, match=message):
            notebooks.find(prefix)


class TestRun:
    def test_it_writes_an_executed_copy_with_the_values(self, folder):
        source = put(folder, "a-notebook", PRINTING)
        before = source.read_bytes()
        texts = {"steps": "9", "rate": "1e-3", "faithful": "true", "label": 'it"s'}
        out = notebooks.run("a", texts)
        assert out == Path("a-notebook.executed.ipynb")
        page = notebooks.page_of(out)
        assert sorted(os.listdir()) == [page.name, out.name]
        assert printed(out) == '10 0.001 True digits it"s\n'
        assert source.read_bytes() == before
        assert os.listdir(folder) == [source.name]
        assert str(folder) not in out.read_text()
        assert "input_path" not in out.read_text()
        assert "<title>a-notebook</title>" in page.read_text()
        assert "10 0.001 True digits it" in page.read_text()

    def test_the_kernel_is_this_python_whatever_is_registered(self, folder, tmp_path, monkeypatch):
        registered = tmp_path / "jupyter" / "kernels" / "python3"
        registered.mkdir(parents=True)
        spec = {"argv": ["/bin/false"], "display_name": "", "language": "python"}
        (registered / "kernel.json").write_text(json.dumps(spec))
        monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
        put(folder, "a", "import sys; print(sys.executable)")
        assert printed(notebooks.run("a", {})) == f"{sys.executable}\n"

    def test_it_runs_in_the_notebook_s_folder_with_the_reader_s_folders(
        self, folder, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("DDCORE_RESULTS", "mine")
        put(folder, "a", "import os; print(os.getcwd(), os.environ['DDCORE_RESULTS'])")
        assert printed(notebooks.run("a", {})) == f"{folder} {tmp_path / 'here' / 'mine'}\n"

    def test_a_network_of_a_readers_own_is_found_in_the_readers_folder(self, folder):
        source = "from torch import nn\ndef Net(channels, size, classes):\n"
        source += "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, classes))"
        Path("mine.py").write_text(source)
        put(folder, "a", "import ddcore; print(ddcore.as_network(label).name)")
        assert printed(notebooks.run("a", {"label": "mine:Net"})) == "mine:Net\n"
        with pytest.raises(InputError, match="there is no module other in the current folder"):
            notebooks.run("a", {"label": "other:Net"})

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            pytest.param("stpes", "3", id="an unknown parameter"),
            pytest.param("steps", "three", id="a value not allowed"),
        ],
    )
    def test_bad_input_ends_before_anything_runs(self, folder, monkeypatch, name, text):
        put(folder, "a")
        monkeypatch.setattr(notebooks, "execute", lambda *_, **__: pytest.fail("it ran"))
        with pytest.raises(InputError, match=name):
            notebooks.run("a", {name: text})
        assert os.listdir() == []

    @pytest.mark.parametrize(
        "out",
        [
            pytest.param("{folder}/a.ipynb", id="the source"),
            pytest.param("{folder}/b.ipynb", id="beside the source"),
            pytest.param("missing/a.ipynb", id="a folder that is missing"),
            pytest.param(".", id="a folder"),
            pytest.param("a.html", id="its page"),
            pytest.param("b.ipynb", id="its page is a folder"),
            pytest.param("x" * 250, id="a name too long"),
        ],
    )
    def test_an_output_that_must_not_be_written_is_refused(self, folder, out):
        put(folder, "a", "1/0")
        Path("b.html").mkdir()
        with pytest.raises(InputError, match="cannot write"):
            notebooks.run("a", {}, Path(out.format(folder=folder)))


class TestFailures:
    """What ends a run names the cell, and nothing is written."""

    @pytest.fixture(autouse=True)
    def nothing_is_written(self, folder):
        yield
        assert os.listdir() == []

    def test_bad_input_that_only_a_cell_can_see_is_the_reader_s(self, folder):
        put(folder, "a", "from ddcore import InputError\nraise InputError('no such dataset')")
        with pytest.raises(InputError, match="a, cell 3 failed: InputError: no such dataset"):
            notebooks.run("a", {})

    def test_a_failing_cell(self, folder):
        put(folder, "a", "print('fine')", "raise RuntimeError('first\\nlast line')")
        with pytest.raises(MachineError, match="a, cell 4 failed: RuntimeError: last line"):
            notebooks.run("a", {})

    def test_a_cell_over_its_time(self, folder):
        put(folder, "a", "import time; time.sleep(60)")
        with pytest.raises(MachineError, match="a, cell 3 took longer than 1 seconds"):
            notebooks.run("a", {}, limit=1)

    def test_a_kernel_that_dies(self, folder):
        put(folder, "a", "import os; os._exit(1)")
        with pytest.raises(MachineError, match="a, cell 3 ended its process"):
            notebooks.run("a", {})

    @pytest.mark.slow
    def test_ctrl_c_ends_the_kernel_too(self, folder, tmp_path):
        started = tmp_path / "started"
        put(
            folder,
            "a",
            "import os, time",
            f"open({str(started)!r}, 'w').write(str(os.getpid()))",
            "time.sleep(60)",
        )
        program = f"""
from pathlib import Path
from ddcore.paper import claims, notebooks
notebooks.FOLDER = Path({str(folder)!r})
notebooks.run("a", {{}}, Path("out.ipynb"))
"""
        process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (started.exists() and started.read_text()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode != 0
        with pytest.raises(ProcessLookupError):
            os.kill(int(started.read_text()), 0)


class TestCommittedForm:
    def test_nothing_is_left_that_differs_by_run(self, folder):
        printing = "import sys; print('to' + 'ld', file=sys.stderr); print('ke' + 'pt')"
        put(folder, "a", printing, "1 + 1", "1 + 1")
        texts = []
        for name in ("one.ipynb", "two.ipynb"):
            notebook = nbformat.read(notebooks.run("a", {}, Path(name)), as_version=4)
            for number, cell in enumerate(notebook.cells):
                cell.id = f"{name[:3]}{number}"
            notebook.metadata.widgets = {"state": name}
            texts.append(notebooks.dumps(notebooks.normalise(notebook)))
        assert texts[0] == texts[1]
        assert '"papermill"' not in texts[0]
        assert "told" not in texts[0]
        assert "kept" in texts[0]
        again = nbformat.reads(texts[0], as_version=4)
        nbformat.validate(again)
        assert notebooks.dumps(notebooks.normalise(again)) == texts[0]

    def test_a_picture_in_the_text_is_kept(self):
        attachments = {"a.png": {"image/png": "AAAA"}}
        cell = new_markdown_cell("![a digit](attachment:a.png)", attachments=attachments)
        notebook = notebooks.normalise(new_notebook(cells=[cell]))
        assert notebook.cells[0].attachments == attachments

    def test_a_disk_that_refuses_is_the_machine_s(self, tmp_path):
        with pytest.raises(MachineError, match="cannot write"):
            notebooks.write(new_notebook(), tmp_path / "missing" / "a.ipynb")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
class TestCommittedNotebooks:
    def test_they_are_normalised(self, path):
        text = path.read_text("utf-8")
        notebook = nbformat.reads(text, as_version=4)
        assert text == notebooks.dumps(notebooks.normalise(notebook)), "run `make notebooks`"

    def test_they_name_no_folder_of_a_machine(self, path):
        text = path.read_text("utf-8")
        for place in (ROOT, Path.home(), Path(sys.prefix)):
            assert f"{place}{os.sep}" not in text

    def test_their_parameters_can_be_read(self, path):
        assert parameters(path) is not None

    def test_they_are_executed(self, path):
        cells = nbformat.read(path, as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert all(cell.outputs or cell.execution_count for cell in code)

    def test_their_records_are_verified(self, path):
        assert "FAIL (record " not in path.read_text("utf-8")


@pytest.mark.slow
class TestOtherRunners:
    """The committed notebooks without this package's own runner."""

    def test_papermill_takes_parameters(self, tmp_path):
        out = tmp_path / "out.ipynb"
        asked = ["-p", "steps", "2", "-p", "iterations", "10"]
        source = "notebooks/03-1-fixed-initialization.ipynb"
        command = [sys.executable, "-m", "papermill", source, str(out), *asked]
        nowhere = {**os.environ, "DDCORE_DATA": str(tmp_path)}
        done = subprocess.run(command, cwd=ROOT, env=nowhere, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "6 gradient steps" in printed(out)

    def test_nbval_compares_one_notebook(self):
        command = [sys.executable, "-m", "pytest", "-q", "--nbval", "notebooks/05-discussion.ipynb"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        assert " passed" in done.stdout


def test_every_statement_has_its_verdict_in_a_chapter():
    """Where a reader looks for it, not on the claims page alone: that of its evidence."""
    code = {
        f"notebooks/{path.name}": "".join(
            cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"
        )
        for path in COMMITTED
    }
    missing = [
        claim.id
        for claim in claims.load().values()
        if claim.kind == "statement"
        and f'"{claim.id}"' not in code.get(claim.evidence, "".join(code.values()))
    ]
    assert missing == []


def test_nothing_is_left_to_be_filled_in():
    retired = ("@@", "*partly*", "*Partly*", "*reproduced*", "*no value*")
    left = [
        (path.name, word)
        for path in COMMITTED
        for cell in nbformat.read(path, 4).cells
        for word in retired
        if word in cell.source
    ]
    assert left == []
