"""The parameters cell: what it may declare, and what a reader may write for it."""

import math
import os
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from ddcore.paper import parameters
from ddcore.paper.parameters import Parameter
from ddcore.support.errors import InputError

DECLARED = """\
steps: int = 2  # 1 to 100: gradient steps
rate: float = 0.5  # 0 to 1e300: learning rate
faithful: bool = False  # the paper's own settings
dataset: Literal["digits", "mnist"] = "digits"  # images
label: str = "ten images"
"""


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook with these parameters cells: notebook(declared, ...) -> its path."""

    def write(*declared):
        cells = [new_code_cell("from typing import Literal")]
        for source in declared:
            cells.append(new_code_cell(source, metadata={"tags": ["parameters"]}))
        path = tmp_path / "a.ipynb"
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return write


class TestDeclarations:
    def test_they_are_read_in_their_order(self, notebook):
        assert parameters.parameters(notebook(DECLARED)) == {
            "steps": Parameter("steps", int, 2, "1 to 100: gradient steps", 1, 100),
            "rate": Parameter("rate", float, 0.5, "0 to 1e300: learning rate", 0, 1e300),
            "faithful": Parameter("faithful", bool, False, "the paper's own settings"),
            "dataset": Parameter("dataset", str, "digits", "images", choices=("digits", "mnist")),
            "label": Parameter("label", str, "ten images"),
        }

    def test_a_literal_may_have_one_choice_or_be_of_numbers(self, notebook):
        declared = "name: Literal['a'] = 'a'\nsteps: Literal[1, 2] = 2"
        found = parameters.parameters(notebook(declared))
        assert found["name"].choices == ("a",)
        assert found["steps"].choices == (1, 2)
        assert found["steps"].type is int

    def test_they_are_told(self, notebook):
        lines = parameters.told(notebook(DECLARED)).splitlines()
        assert len(lines) == 5
        assert lines[0].split() == "-p steps=2 1 to 100: gradient steps".split()
        assert lines[3].split() == "-p dataset=digits one of digits, mnist: images".split()
        assert parameters.told(notebook()) == "  none"

    def test_a_notebook_may_have_none(self, notebook):
        assert parameters.parameters(notebook()) == {}

    def test_two_cells_are_refused(self, notebook):
        with pytest.raises(InputError, match="a.ipynb has 2 cells tagged parameters"):
            parameters.parameters(notebook(DECLARED, DECLARED))

    @pytest.mark.parametrize(
        "line",
        [
            pytest.param("steps = 2", id="no type"),
            pytest.param("steps: int", id="no default"),
            pytest.param("steps: int = '2'", id="text for a number"),
            pytest.param("steps: list = []", id="an unknown type"),
            pytest.param("steps: int = 1 + n", id="an expression"),
            pytest.param("print(1)", id="a call"),
            pytest.param("steps: int = 0  # 1 to 9: steps", id="outside its range"),
            pytest.param("flag: bool = 1", id="a number for a truth value"),
            pytest.param("rate: float = 1", id="a whole number for a float"),
            pytest.param("name: Literal['a'] = 'b'", id="none of the choices"),
            pytest.param("x: int = 1; y: int = 2", id="two on a line"),
            pytest.param("x.y: int = 1", id="no plain name"),
            pytest.param("x: int = ", id="no Python"),
            pytest.param("# steps: int = 1", id="a comment alone"),
            pytest.param("x: Literal[()] = 1", id="a literal without a choice"),
            pytest.param("x: Literal[None] = None", id="a literal of nothing"),
        ],
    )
    def test_a_line_that_declares_nothing_is_refused(self, notebook, line):
        with pytest.raises(InputError, match="is not `name: type = literal"):
            parameters.parameters(notebook(line))


class TestValues:
    def test_they_are_typed(self, notebook):
        texts = {
            "steps": "7",
            "rate": "1e-3",
            "faithful": "True",
            "dataset": "mnist",
            "label": "12",
        }
        typed = parameters.values(notebook(DECLARED), texts)
        assert typed == {
            "steps": 7,
            "rate": 1e-3,
            "faithful": True,
            "dataset": "mnist",
            "label": "12",
        }
        assert [type(value) for value in typed.values()] == [int, float, bool, str, str]

    def test_a_folder_is_the_reader_s_not_the_notebook_s(self, notebook, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        path = notebook('dataset: str = "digits"  # a dataset or folder:PATH')
        typed = parameters.values(path, {"dataset": "folder:x"})
        assert typed == {"dataset": f"folder:{os.getcwd()}/x"}

    def test_where_networks_are_named_it_may_be_a_readers_own(self, notebook):
        path = notebook('network: Literal["lenet", "alexcifarnet"] = "lenet"')
        assert parameters.values(path, {"network": "mine:Net"}) == {"network": "mine:Net"}
        said = (
            "network=lenett: one of lenet, alexcifarnet, or module:Class of your own is allowed; "
        )
        with pytest.raises(InputError, match=f"^{said}did you mean lenet"):
            parameters.values(path, {"network": "lenett"})
        with pytest.raises(InputError, match="dataset=mine:Net: one of digits, mnist is allowed$"):
            parameters.values(notebook(DECLARED), {"dataset": "mine:Net"})

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            pytest.param("stpes", "3", "no parameter stpes; did you mean steps?", id="misspelt"),
            pytest.param("zzz", "3", "it has: steps, rate, faithful, dataset, label", id="unknown"),
            pytest.param("steps", "three", "a whole number from 1 to 100", id="a word"),
            pytest.param("steps", "2.0", "a whole number from 1 to 100", id="a float"),
            pytest.param("steps", "0", "from 1 to 100", id="too small"),
            pytest.param("steps", "101", "from 1 to 100", id="too large"),
            pytest.param("rate", "-0.1", "a number from 0 to 1e+300", id="below the range"),
            pytest.param("rate", "nan", "a number from 0", id="not a number"),
            pytest.param("rate", "inf", "a number from 0", id="infinite"),
            pytest.param(
                "steps", "1" + 400 * "0", "a whole number from 1 to 100", id="beyond any float"
            ),
            pytest.param("faithful", "yes", "true or false", id="no truth value"),
            pytest.param(
                "dataset",
                "minst",
                "one of digits, mnist is allowed; did you mean mnist?",
                id="none of the choices",
            ),
        ],
    )
    def test_what_is_not_allowed_is_refused(self, notebook, name, text, message):
        with pytest.raises(InputError, match=re.escape(message)):
            parameters.values(notebook(DECLARED), {name: text})

    @pytest.mark.parametrize("text", ["inf", "-inf", "nan"])
    def test_a_number_without_a_range_is_finite(self, text):
        with pytest.raises(InputError, match="x=.*: a number is allowed"):
            Parameter("x", float, 0.0).parse(text)
        assert math.isfinite(float(Parameter("x", float, 0.0).parse("1e300")))
