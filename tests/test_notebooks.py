"""The strict runner, the normal form of committed notebooks, the slider, and what the book's check finds."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ddcore.paper import notebooks, widgets
from ddcore.errors import InputError, MachineError

ROOT = Path(__file__).parents[1]
COMMITTED = sorted((ROOT / "notebooks").glob("*.ipynb"))
DECLARED = """\
steps: int = 2  # 1 to 100: gradient steps
rate: float = 0.5  # 0 to 1e300: learning rate
faithful: bool = False  # the paper's own settings
dataset: Literal["digits", "mnist"] = "digits"  # images
label: str = "ten images"
"""
PRINTING = "print(steps + 1, rate, faithful, dataset, label)"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of notebooks in place of the committed one; the current folder is another."""
    (tmp_path / "source").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "source")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "source"


def put(folder: Path, name: str, *sources: str, declared: str = DECLARED) -> Path:
    cells = [new_code_cell("from typing import Literal"), new_code_cell(declared, metadata={"tags": ["parameters"]})]
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells + [new_code_cell(source) for source in sources]), path)
    return path


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", []))


# Names and parameters


def test_find_takes_any_unambiguous_beginning(folder):
    for name in ("03-1-fixed", "03-2-random", "03", "04-1"):
        put(folder, name)
    assert notebooks.find("03-1").stem == "03-1-fixed"
    assert notebooks.find("03").stem == "03"
    assert notebooks.find("04-1.ipynb").stem == "04-1"
    with pytest.raises(InputError, match="several notebooks: 03-1-fixed, 03-2-random"):
        notebooks.find("03-")
    with pytest.raises(InputError, match="there are: 03, 03-1-fixed"):
        notebooks.find("zzz")


def test_parameters_reads_the_declarations(folder):
    found = notebooks.parameters(put(folder, "a"))
    assert list(found) == ["steps", "rate", "faithful", "dataset", "label"]
    assert (found["steps"].low, found["steps"].high) == (1, 100)
    assert found["rate"].low == 0 and found["dataset"].choices == ("digits", "mnist")


@pytest.mark.parametrize(
    "line",
    [
        "steps = 2", "steps: int", "steps: int = '2'", "steps: list = []", "steps: int = 1 + n", "print(1)",
        "steps: int = 0  # 1 to 9: steps", "flag: bool = 1", "rate: float = 1",
        "name: Literal['a'] = 'b'", "x: int = 1; y: int = 2",
    ],
)  # fmt: skip
def test_a_line_that_declares_nothing_is_refused(folder, line):
    with pytest.raises(InputError, match="is not `name: type = literal"):
        notebooks.parameters(put(folder, "a", declared=line))


def test_values_are_typed(folder):
    texts = {"steps": "7", "rate": "1e-3", "faithful": "True", "dataset": "mnist", "label": "12"}
    typed = notebooks.values(put(folder, "a"), texts)
    assert typed == {"steps": 7, "rate": 1e-3, "faithful": True, "dataset": "mnist", "label": "12"}
    assert [type(value) for value in typed.values()] == [int, float, bool, str, str]


def test_a_folder_is_the_reader_s_not_the_notebook_s(folder):
    declared = 'dataset: str = "digits"  # a dataset or folder:PATH'
    assert notebooks.values(put(folder, "a", declared=declared), {"dataset": "folder:x"}) == {
        "dataset": f"folder:{os.getcwd()}/x"
    }


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("stpes", "3", "no parameter stpes; did you mean steps?"),
        ("zzz", "3", "it has: steps, rate, faithful, dataset, label"),
        ("steps", "three", "a whole number from 1 to 100"),
        ("steps", "2.0", "a whole number from 1 to 100"),
        ("steps", "0", "from 1 to 100"),
        ("steps", "101", "from 1 to 100"),
        ("rate", "-0.1", "a number from 0 to 1e+300"),
        ("rate", "nan", "a number from 0"),
        ("rate", "inf", "a number from 0"),
        ("steps", "1" + 400 * "0", "a whole number from 1 to 100"),
        ("faithful", "yes", "true or false"),
        ("dataset", "minst", "one of digits, mnist is allowed; did you mean mnist?"),
    ],
)
def test_what_is_not_allowed_ends_before_anything_runs(folder, monkeypatch, name, text, says):
    put(folder, "a")
    monkeypatch.setattr(notebooks, "execute", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(InputError, match=re.escape(says)):
        notebooks.run("a", {name: text})
    assert os.listdir() == []


# Running


def test_run_writes_an_executed_copy_with_the_values(folder):
    source = put(folder, "a-notebook", PRINTING)
    before = source.read_bytes()
    out = notebooks.run("a", {"steps": "9", "rate": "1e-3", "faithful": "true", "label": 'it"s'})
    assert out == Path("a-notebook.executed.ipynb") and os.listdir() == [out.name]
    assert printed(out) == '10 0.001 True digits it"s\n'
    assert source.read_bytes() == before and os.listdir(folder) == [source.name]
    assert str(folder) not in out.read_text() and "input_path" not in out.read_text()


def test_the_kernel_is_this_python_whatever_is_registered(folder, tmp_path, monkeypatch):
    """And a folder that the environment names is that of whoever asks, not one below the notebooks."""
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("DDCORE_RESULTS", "mine")
    put(folder, "a", "import sys, os; print(sys.executable, os.getcwd(), os.environ['DDCORE_RESULTS'])")
    assert printed(notebooks.run("a", {})) == f"{sys.executable} {folder} {tmp_path / 'here' / 'mine'}\n"


@pytest.mark.parametrize("out", ["{folder}/a.ipynb", "{folder}/b.ipynb", "missing/a.ipynb", "."])
def test_an_output_that_must_not_be_written_is_refused(folder, out):
    put(folder, "a", "1/0")
    with pytest.raises(InputError, match="cannot write"):
        notebooks.run("a", {}, Path(out.format(folder=folder)))


def test_bad_input_that_only_a_cell_can_see_is_the_reader_s(folder):
    put(folder, "a", "from ddcore.errors import InputError\nraise InputError('no such dataset')")
    with pytest.raises(InputError, match="a, cell 3 failed: InputError: no such dataset"):
        notebooks.run("a", {})
    assert os.listdir() == []


def test_a_failing_cell_is_named_and_nothing_is_written(folder):
    put(folder, "a", "print('fine')", "raise RuntimeError('first\\nlast line')")
    with pytest.raises(MachineError, match="a, cell 4 failed: RuntimeError: last line"):
        notebooks.run("a", {})
    assert os.listdir() == []


def test_a_cell_over_its_time_is_named(folder):
    put(folder, "a", "import time; time.sleep(60)")
    with pytest.raises(MachineError, match="a, cell 3 took longer than 1 seconds"):
        notebooks.run("a", {}, limit=1)
    assert os.listdir() == []


def test_a_kernel_that_dies_is_named(folder):
    put(folder, "a", "import os; os._exit(1)")
    with pytest.raises(MachineError, match="a, cell 3 ended its process"):
        notebooks.run("a", {})
    assert os.listdir() == []


@pytest.mark.slow
def test_ctrl_c_ends_it_and_leaves_nothing(folder, tmp_path):
    started = tmp_path / "started"
    put(folder, "a", f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    program = f"""
from pathlib import Path
from ddcore.paper import notebooks
notebooks.FOLDER = Path({str(folder)!r})
notebooks.run("a", {{}}, Path("out.ipynb"))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0 and os.listdir() == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


# The committed form


def test_normalise_leaves_nothing_that_differs_by_run(folder):
    put(folder, "a", "import sys; print('to' + 'ld', file=sys.stderr); print('ke' + 'pt')", "1 + 1", "1 + 1")
    texts = []
    for name in ("one.ipynb", "two.ipynb"):
        notebook = nbformat.read(notebooks.run("a", {}, Path(name)), as_version=4)
        for number, cell in enumerate(notebook.cells):
            cell.id = f"{name[:3]}{number}"
        notebook.metadata.widgets = {"state": name}
        texts.append(notebooks.dumps(notebooks.normalise(notebook)))
    assert texts[0] == texts[1]
    assert '"papermill"' not in texts[0] and "told" not in texts[0] and "kept" in texts[0]
    again = nbformat.reads(texts[0], as_version=4)
    nbformat.validate(again)
    assert notebooks.dumps(notebooks.normalise(again)) == texts[0]


def test_normalise_keeps_a_picture_in_the_text():
    cell = new_markdown_cell("![a digit](attachment:a.png)", attachments={"a.png": {"image/png": "AAAA"}})
    assert notebooks.normalise(new_notebook(cells=[cell])).cells[0].attachments == cell.attachments


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_notebooks_are_normalised(path):
    text = path.read_text("utf-8")
    assert text == notebooks.dumps(notebooks.normalise(nbformat.reads(text, as_version=4))), "run `make notebooks`"
    for place in (ROOT, Path.home(), Path(sys.prefix)):
        assert f"{place}{os.sep}" not in text
    assert notebooks.parameters(path) is not None
    cells = nbformat.reads(text, as_version=4).cells
    assert all(cell.outputs or cell.execution_count for cell in cells if cell.cell_type == "code"), "not executed"
    assert "FAIL (record " not in text, "a record that is not verified"


# The slider


def draw(value: float) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.plot([0, value])
    return figure


def test_frames_links_a_slider_to_pictures_with_alternative_texts():
    box = widgets.frames("step", [(f"after <{step}>", f'at "{step}"', draw(step)) for step in range(3)])
    slider, stack = box.children
    assert (slider.min, slider.max, stack.selected_index, len(stack.children)) == (0, 2, 0, 3)
    page = stack.children[1].value
    assert 'alt="at &quot;1&quot;"' in page and "after &lt;1&gt;" in page and 'src="data:image/png;base64,' in page
    assert plt.get_fignums() == []
    with pytest.raises(ValueError, match="alternative text"):
        widgets.frames("step", [("caption", " ", draw(1))])


# The book


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_book_check_finds_what_is_wrong(build, tmp_path):
    (tmp_path / "good.html").write_text('<img src="a.png" alt="ten digits"><script src="a.js"></script>')
    assert build.check(tmp_path) == []
    (tmp_path / "bad.html").write_text(
        '<img src="a.png"><img src="a.png" alt="a.png"><script src="https://example.org/a.js"></script>'
        '<link rel="stylesheet" href="//example.org/a.css"><a href="https://example.org">fine</a>'
    )
    (tmp_path / "heavy.html").write_text("x" * (build.PAGE_LIMIT + 1))
    found = build.check(tmp_path)
    assert len(found) == 5 and found[-1].startswith("heavy.html: 3,000,001 bytes")


def test_the_book_executes_only_what_changed(build, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "ddcore").mkdir()
    (tmp_path / "ddcore" / "code.py").write_text("1")
    ran = []
    monkeypatch.setattr(notebooks, "run", lambda name, _, out, **__: (ran.append(name), out.write_text("{}")))
    put(folder, "a"), put(folder, "b")
    assert build.execute_all() == ["a", "b"] and ran == ["a", "b"]
    build.execute_all()
    assert ran == ["a", "b"]
    put(folder, "b", "1")
    build.execute_all()
    assert ran == ["a", "b", "b"]
    (tmp_path / "ddcore" / "code.py").write_text("2")
    build.execute_all()
    assert ran == ["a", "b", "b", "a", "b"]
    monkeypatch.setenv("DDCORE_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "MNIST").mkdir(parents=True)
    build.execute_all()
    assert ran == ["a", "b", "b", "a", "b", "a", "b"]


def test_the_run_table_tells_live_from_recorded(build, monkeypatch):
    there = []
    monkeypatch.setattr(build.records, "everywhere", lambda: there)
    timed = {"papermill": {"duration": 2.5}}
    cells = [
        new_markdown_cell("# A title"),
        new_code_cell("", metadata={"tags": ["live"], **timed}),
        new_code_cell("", metadata={"tags": ["record:fig*"], **timed}),
    ]
    executed = {"a.ipynb": nbformat.from_dict(new_notebook(cells=cells, metadata={"papermill": {"duration": 6.0}}))}
    with pytest.raises(InputError, match=r"record:fig\*"):
        build.run_table(executed)
    made = {"device": "cpu", "seconds": 1234.5, "torch": "2", "commit": "a" * 40, "dirty": True}
    record = {"accuracy": "95.31", "environment": made, "data": {"name": "mnist"}}
    there += [SimpleNamespace(folder=Path(e) / "key", **record) for e in ("fig2a", "table1")]
    table = build.run_table(executed)
    assert "| [A title](notebooks/a.ipynb) | 2.5 | 6.0 | fig* |" in table
    for experiment in ("fig2a", "table1"):  # shown by a notebook or not
        assert f"| {experiment} | 95.31 | cpu | 1,234 | 2 | aaaaaaaaaa-and-changes | mnist |" in table
