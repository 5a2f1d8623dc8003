"""The workflows: what is written into a form is never run as a script, and their scripts do what
they are for."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_install import PROJECT, ROOT

from ddcore.cli import pairs
from ddcore.paper.notebooks import find
from ddcore.paper.parameters import values

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in FOLDER.glob("*.yml")}


def steps(name):
    return [step for job in WORKFLOWS[name]["jobs"].values() for step in job["steps"]]


def script(name, title):
    (step,) = [step for step in steps(name) if step.get("name") == title]
    return step["run"]


def bash(text, folder, **environment):
    """Run a script as a runner does, this Python first on the path."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
    environment = {"PATH": path, **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_is_written_into_a_script(name):
    for step in steps(name):
        assert "${{" not in step.get("run", ""), step


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read_unless_a_job_says_what_else(name):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    for job in WORKFLOWS[name]["jobs"].values():
        for permission, degree in job.get("permissions", {}).items():
            assert (name, permission, degree) in {
                ("ci", "pages", "write"),
                ("ci", "id-token", "write"),
                ("release", "contents", "write"),
            }


def test_each_input_is_used_and_no_other():
    used = set(re.findall(r"inputs\.(\w+)", str(WORKFLOWS["rerun"]["jobs"])))
    on = WORKFLOWS["rerun"][True]  # what YAML 1.1 makes of the word on
    assert used == on["workflow_call"]["inputs"].keys()
    assert on["workflow_dispatch"]["inputs"].keys() == {"notebook", "parameters"}


def test_the_readme_calls_it_by_its_inputs():
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    job = yaml.safe_load(example)["jobs"]["rerun"]
    assert re.fullmatch(r"OWNER/ddcore/\.github/workflows/rerun\.yml@main", job["uses"])
    inputs = WORKFLOWS["rerun"][True]["workflow_call"]["inputs"]
    required = {name for name, one in inputs.items() if one.get("required")}
    assert required <= job["with"].keys() <= inputs.keys()
    words = job["with"]["parameters"].split()
    assert values(find(job["with"]["notebook"]), pairs(words))


class TestRerun:
    @pytest.fixture
    def asked(self, tmp_path):
        """asked(notebook, parameters): the words that `ddcore` is called with."""
        command = tmp_path / ".venv" / "bin" / "ddcore"
        command.parent.mkdir(parents=True)
        command.write_text('#!/bin/bash\nprintf "%s\\n" "$@" > words\n')
        command.chmod(0o755)
        (tmp_path / "README.md").touch()  # what a * would find

        def call(notebook, parameters):
            text = script("rerun", "run the notebook")
            done = bash(text, tmp_path, NOTEBOOK=notebook, PARAMETERS=parameters)
            assert done.returncode == 0, done.stderr
            assert {path.name for path in tmp_path.iterdir()} == {".venv", "README.md", "words"}
            return (tmp_path / "words").read_text().splitlines()

        return call

    def test_each_parameter_is_one_word(self, asked):
        words = ["notebook", "-p", "steps=2", "-p", "iterations=100", "--", "03-1"]
        assert asked("03-1", "steps=2 iterations=100") == words
        assert asked("03-1", "steps=2\niterations=100\n") == words
        assert asked("03-1", "") == ["notebook", "--", "03-1"]

    def test_what_is_written_is_not_run(self, asked):
        attack = '"; touch a; $(touch b) `touch c` *'
        pairs = ['";', "touch", "a;", "$(touch", "b)", "`touch", "c`", "*"]
        words = [word for pair in pairs for word in ("-p", pair)]
        assert asked(attack, attack) == ["notebook", *words, "--", attack]


class TestRelease:
    def test_the_tag_must_be_the_version(self, tmp_path):
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        text = script("release", "the tag is the version")
        assert bash(text, tmp_path, TAG=f"v{PROJECT['version']}").returncode == 0
        for tag in ("v0.0.9", "v{}.1", "v1{}", "{}"):
            tag = tag.format(PROJECT["version"])
            done = bash(text, tmp_path, TAG=tag)
            assert done.returncode == 1 and f"the tag is {tag}" in done.stdout

    def test_the_checksums_are_those_of_the_files(self, tmp_path):
        (tmp_path / "dist").mkdir()
        (tmp_path / "dist" / "a.whl").write_text("a")
        assert bash(script("release", "checksums"), tmp_path).returncode == 0
        check = "cd dist && sha256sum --check SHA256SUMS"
        assert bash(check, tmp_path).stdout == "a.whl: OK\n"
        (tmp_path / "dist" / "a.whl").write_text("b")
        assert bash(check, tmp_path).returncode == 1
