"""Rows for other programs."""

import json
from xml.etree import ElementTree

import pytest

from ddcore.support.errors import InputError
from ddcore.support.formats import check_format, formatted

ROWS = [
    {"name": "a|b", "verdict": "PASS", "percent": 93.76},
    {"name": "<c>", "verdict": "FAIL", "percent": None},
]


def test_markdown():
    lines = formatted(ROWS, "md", "suite", ["FAIL"]).splitlines()
    assert lines[0] == "| name | verdict | percent |"
    assert lines[2:] == ["| a\\|b | PASS | 93.76 |", "| <c> | FAIL |  |"]


def test_json():
    assert json.loads(formatted(ROWS, "json", "suite", ["FAIL"])) == ROWS


def test_junit():
    suite = ElementTree.fromstring(formatted(ROWS, "junit", "suite", ["FAIL"]))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    passed, failed = suite
    assert passed.get("name") == "a|b" and passed[0].text == "verdict: PASS, percent: 93.76"
    assert failed.get("name") == "<c>" and failed[0].get("message") == "verdict: FAIL"


def test_no_rows():
    assert formatted([], "md", "suite", []) == ""
    assert ElementTree.fromstring(formatted([], "junit", "suite", [])).get("tests") == "0"


def test_another_format_is_refused():
    with pytest.raises(InputError, match="--format yaml: one of text, md, json, junit"):
        check_format("yaml")
