"""The book executes only what changed, shows what there is, and finds what is wrong with a page."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ddcore.paper import notebooks, places
from ddcore.support.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build():
    sys.path.insert(0, str(ROOT / "book"))
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestPages:
    def test_they_are_those_of_the_table_of_contents(self, build):
        pages = build.built_pages()
        assert pages[0] == "index.html" and {"claims.html", "runs.html"} <= set(pages)
        assert sorted(page for page in pages if page.startswith("notebooks/")) == [
            f"notebooks/{path.stem}.html" for path in sorted(notebooks.FOLDER.glob("*.ipynb"))
        ]
        assert {page for page in pages if page.startswith("evidence/")} == {
            f"evidence/{page.name}.html" for page in places.PAGES
        }

    def test_one_that_was_not_built_is_named(self, build, tmp_path):
        for page in build.built_pages()[:-1]:
            (tmp_path / page).parent.mkdir(exist_ok=True)
            (tmp_path / page).write_text("")
        (complaint,) = build.check(tmp_path)
        assert complaint.startswith(build.built_pages()[-1])


class TestCheck:
    @pytest.fixture(autouse=True)
    def no_contents(self, build, monkeypatch):
        monkeypatch.setattr(build, "built_pages", lambda: [])

    @pytest.mark.parametrize(
        ("html", "complaints"),
        [
            pytest.param(
                '<img src="a.png" alt="ten digits"><script src="a.js"></script>', [], id="good"
            ),
            pytest.param(
                '<img src="a.png">',
                ["page.html: a picture has no alternative text: a.png"],
                id="a picture without a text",
            ),
            pytest.param(
                '<img src="a.png" alt="a.png">',
                ["page.html: a picture has no alternative text: a.png"],
                id="a file's name for a text",
            ),
            pytest.param(
                '<script src="https://example.org/a.js"></script>',
                ["page.html: it loads https://example.org/a.js from outside"],
                id="a script from outside",
            ),
            pytest.param(
                '<link rel="stylesheet" href="//example.org/a.css">',
                ["page.html: it loads //example.org/a.css from outside"],
                id="a style from outside",
            ),
            pytest.param('<a href="https://example.org">fine</a>', [], id="a link to outside"),
            pytest.param(
                "<mjx-merror>x</mjx-merror>",
                ["page.html: a formula could not be read"],
                id="a formula that is none",
            ),
            pytest.param(
                '<div class="output stderr highlight">careful</div>',
                ["page.html: a cell wrote to stderr"],
                id="what a cell wrote to stderr",
            ),
            pytest.param(
                '<a href="other.html">other</a>',
                ["page.html: other.html leads nowhere"],
                id="a link to no page",
            ),
            pytest.param(
                '<a href="page.html#b">b</a><h2 id="a">a</h2>',
                ["page.html: page.html#b leads nowhere"],
                id="a link to no heading",
            ),
            pytest.param('<a href="#a">a</a><h2 id="a">a</h2>', [], id="a link to a heading"),
            pytest.param('<link rel="canonical" href="https://example.org">', [], id="a relation"),
        ],
    )
    def test_a_page(self, build, tmp_path, html, complaints):
        (tmp_path / "page.html").write_text(html)
        assert build.check(tmp_path) == complaints

    def test_a_heavy_page(self, build, tmp_path):
        (tmp_path / "heavy.html").write_text("x" * (build.PAGE_LIMIT + 1))
        (complaint,) = build.check(tmp_path)
        assert complaint.startswith("heavy.html: 1,500,001 bytes")

    def test_pages_in_their_order(self, build, tmp_path):
        for name in ("b", "a"):
            (tmp_path / f"{name}.html").write_text('<img src="a.png">')
        assert [complaint[:6] for complaint in build.check(tmp_path)] == ["a.html", "b.html"]


class TestExecution:
    @pytest.fixture
    def project(self, build, tmp_path, monkeypatch):
        """A project with two notebooks and a package, in place of this one."""
        monkeypatch.setattr(build, "BUILD", tmp_path / "_build")
        monkeypatch.setattr(build, "ROOT", tmp_path)
        monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "notebooks")
        monkeypatch.setenv("DDCORE_DATA", str(tmp_path / "data"))
        monkeypatch.delenv("DDCORE_RESULTS", raising=False)
        for folder in ("notebooks", "ddcore/paper", "results/fig2a/key"):
            (tmp_path / folder).mkdir(parents=True)
        for name in ("a", "b"):
            nbformat.write(new_notebook(), tmp_path / "notebooks" / f"{name}.ipynb")
        return tmp_path

    @pytest.fixture
    def executed(self, build, project, monkeypatch):
        """Execute what changed; the names of the notebooks that ran."""
        names = []

        def run(name, overrides, out, *, limit):
            names.append(name)
            out.write_text("{}")

        monkeypatch.setattr(notebooks, "run", run)

        def execute():
            names.clear()
            assert build.execute_all() == ["a", "b"]
            return sorted(names)

        assert execute() == ["a", "b"]
        return execute

    def test_nothing_changed(self, executed):
        assert executed() == []

    def test_a_notebook_changed(self, executed, project):
        changed = new_notebook(cells=[new_code_cell("1")])
        nbformat.write(changed, project / "notebooks" / "b.ipynb")
        assert executed() == ["b"]
        assert executed() == []

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param("ddcore/code.py", id="code"),
            pytest.param("ddcore/paper/claims.yml", id="the claims"),
            pytest.param("constraints.txt", id="the pins"),
            pytest.param("results/fig2a/key/record.json", id="a record"),
            pytest.param("data/MNIST", id="the data present"),
        ],
    )
    def test_what_all_notebooks_follow_from(self, executed, project, name):
        file = project / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("1")
        assert executed() == ["a", "b"]
        assert executed() == []
        file.write_text("23")
        assert executed() == ["a", "b"]

    def test_other_files_do_not_matter(self, executed, project):
        (project / "README.md").write_text("1")
        assert executed() == []

    def test_a_copy_without_its_notebook_goes(self, executed, project):
        old = project / "_build" / "executed" / "old.ipynb"
        old.write_text("{}")
        executed()
        assert not old.exists()


class TestRunTable:
    @pytest.fixture
    def there(self, build, monkeypatch):
        """The list of records that there are, empty at first."""
        there = []
        monkeypatch.setattr(build.records, "everywhere", lambda: there)
        monkeypatch.setattr(build.records, "replicates", lambda name: [])
        return there

    @pytest.fixture
    def executed(self):
        timed = {"papermill": {"duration": 2.5}}
        cells = [
            new_markdown_cell("# A title"),
            new_code_cell("", metadata={"tags": ["live"], **timed}),
            new_code_cell("", metadata={"tags": ["record:fig*"], **timed}),
        ]
        notebook = new_notebook(cells=cells, metadata={"papermill": {"duration": 6.0}})
        return {"a.ipynb": nbformat.from_dict(notebook)}

    def record(self, experiment):
        return SimpleNamespace(
            folder=Path(experiment) / "key",
            accuracy="95.31",
            environment={
                "device": "cpu",
                "seconds": 1234.5,
                "torch": "2",
                "commit": "a" * 40,
                "dirty": True,
            },
            data={"name": "mnist"},
        )

    def test_a_tag_that_names_no_record_is_refused(self, build, there, executed):
        with pytest.raises(InputError, match=r"record:fig\*"):
            build.run_table(executed)

    def test_replicates_follow_their_experiment(self, build, there, executed, monkeypatch):
        there.append(self.record("fig2a"))
        replicate = self.record("fig2a")
        replicate.name = "fig2a, seed=1"
        monkeypatch.setattr(build.records, "replicates", lambda name: [replicate])
        lines = build.run_table(executed).splitlines()
        assert [line.split(" | ")[0] for line in lines[-2:]] == ["| fig2a", "| fig2a, seed=1"]

    def test_live_and_recorded(self, build, there, executed):
        there.append(self.record("fig2a"))
        lines = build.run_table(executed).splitlines()
        assert "| [A title](notebooks/a.ipynb) | 2.5 | 6.0 | fig* |" in lines

    def test_records_shown_by_a_notebook_or_not(self, build, there, executed):
        there += [self.record("fig2a"), self.record("table1")]
        lines = build.run_table(executed).splitlines()
        for experiment in ("fig2a", "table1"):
            row = f"| {experiment} | 95.31 | cpu | 1,234 | 2 | aaaaaaaaaa-and-changes | mnist |"
            assert row in lines


def test_the_state_of_widgets_moves_to_the_end_of_a_page(build):
    state = '<script type="application/vnd.jupyter.widget-state+json">{}</script>'
    page = f"<html><head>{state}</head><body>a</body></html>"
    moved = f"<html><head></head><body>a{state}\n</body></html>"
    assert build.with_state_last(page) == moved
    assert build.with_state_last(moved) == f"<html><head></head><body>a\n{state}\n</body></html>"
    assert build.with_state_last("<body></body>") == "<body></body>"


class TestConfiguration:
    def test_there_are_no_buttons_to_an_unknown_repository(self, build, monkeypatch):
        monkeypatch.delenv("REPOSITORY", raising=False)
        settings = build.configuration()
        assert "repository" not in settings and "launch_buttons" not in settings

    def test_there_are_buttons_to_a_known_one(self, build, monkeypatch):
        monkeypatch.setenv("REPOSITORY", "https://example.org/a/b")
        assert build.configuration()["repository"]["url"] == "https://example.org/a/b"


class TestAlternativeTexts:
    def test_they_have_our_numbers_of_claims(self, build, monkeypatch):
        monkeypatch.setattr(build.ledger.Judge, "row", lambda judge, claim: {"ours": claim.id})
        cell = new_code_cell("")
        cell.metadata["mystnb"] = {"image": {"alt": "from {fig2a.before} %"}}
        text = nbformat.writes(new_notebook(cells=[cell, new_code_cell("{left}")]))
        cells = nbformat.reads(build.with_numbers(text, build.ledger.Judge()), 4).cells
        assert cells[0].metadata["mystnb"]["image"]["alt"] == "from fig2a.before %"
        assert cells[1].source == "{left}"

    def test_those_of_the_chapters_name_claims(self, build):
        judge = build.ledger.Judge()
        for path in notebooks.FOLDER.glob("*.ipynb"):
            assert "{" not in "".join(
                cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
                for cell in nbformat.reads(
                    build.with_numbers(path.read_text("utf-8"), judge), 4
                ).cells
            )
