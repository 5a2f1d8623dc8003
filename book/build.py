"""Build the book: execute what changed, stage it, run Jupyter Book with warnings as errors, check the pages.

`make book` calls it. A notebook runs again only when something its outputs follow from has changed: the
notebook, the package, the pins, the records, the benchmark's figures, claims.yml or the data present. The
executed copies stay in `_build/executed`; the pages are written to `_build/html`.
"""

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import nbformat

from ddcore.experiments import records
from ddcore.paper import ledger, notebooks
from ddcore.experiments.catalogue import ALIASES
from ddcore.datasets import cache_folder, data_root
from ddcore.errors import InputError, MachineError

ROOT = Path(__file__).resolve().parents[1]
BOOK, BUILD = ROOT / "book", ROOT / "_build"
STAGED, VENDOR = BOOK / "notebooks", BOOK / "assets" / "vendor"
CELL_LIMIT = 900  # seconds
PAGE_LIMIT = 3_000_000  # bytes of HTML
# Scripts that the pages need: npm package, sha256 of its archive, folder in it, what is taken of that
# folder (the script first, then what it loads), and its place below assets/vendor.
CDN = "https://cdn.jsdelivr.net/npm"
SCRIPTS = [
    (
        "@jupyter-widgets/html-manager@1.0.15",
        "2b9d65cb7913e1c7d671757a10008b32c9c2448d4429513371e55c07d6107638",
        "package/dist/",
        ("embed.js", "*.woff2"),
        "widgets/",
    ),
    (
        "mathjax@3.2.2",
        "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
        "package/es5/",
        ("tex-mml-chtml.js", "output/chtml/fonts/woff-v2/*", "input/tex/extensions/*"),
        "mathjax/",
    ),
]


def main() -> int:
    fetch_scripts()
    names = execute_all()
    stage(names)
    key, stamp = sha256(book_sources()), BUILD / "book.key"
    if stamp.exists() and stamp.read_text() == key and (BUILD / "html" / "index.html").exists():
        print("nothing changed: _build/html/index.html is up to date")
        return 0
    stamp.unlink(missing_ok=True)
    shutil.rmtree(BUILD / "html", ignore_errors=True)
    # --all: Sphinx would leave out the warnings of pages read before, and changed scripts and styles
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    command = [jupyter_book, "build", "-q", "-W", "-n", "--keep-going", "--all", "book/"]
    if subprocess.run(command, cwd=ROOT).returncode:
        return 1
    complaints = check(BUILD / "html")
    print(*complaints, sep="\n", end="\n" if complaints else "", file=sys.stderr)
    if not complaints:
        stamp.write_text(key)
    return 1 if complaints else 0


def sha256(parts: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def contents(*patterns: str) -> Iterable[tuple[str, bytes]]:
    """Path and bytes of the project's files that match, in order."""
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(ROOT).as_posix(), path.read_bytes()


# Executing


def execute_all() -> list[str]:
    """Execute the notebooks whose inputs changed into _build/executed; the names of all, in order."""
    folder = BUILD / "executed"
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted(notebooks.FOLDER.glob("*.ipynb"))
    inputs = "ddcore/**/*.py", "constraints.txt", "claims.yml", "results/**/*", "benchmarks/*.json"
    common = sha256([*contents(*inputs), *surroundings()])
    for source in sources:
        key = sha256([("common", common.encode()), (source.name, source.read_bytes())])
        out, stamp = folder / source.name, folder / f"{source.stem}.key"
        if not (out.exists() and stamp.exists() and stamp.read_text() == key):
            stamp.unlink(missing_ok=True)
            notebooks.run(source.stem, {}, out, limit=CELL_LIMIT)
            stamp.write_text(key)
    for old in folder.iterdir():
        if old.stem not in {source.stem for source in sources}:
            old.unlink()
    return [source.stem for source in sources]


def surroundings() -> Iterable[tuple[str, bytes]]:
    """What the outputs depend on outside the project: the interpreter, a GPU, the data and records present."""
    import torch

    yield "python", sys.version.encode()
    yield "torch", f"{torch.__version__} {torch.cuda.is_available()}".encode()
    roots = [data_root()] + ([Path(os.environ["DDCORE_RESULTS"])] if os.environ.get("DDCORE_RESULTS") else [])
    for root in roots:
        for pattern in ("*", "*/*", "*/*/*"):
            for path in sorted(root.glob(pattern)):
                yield path.relative_to(root).as_posix(), str(path.stat().st_size if path.is_file() else "").encode()


# Staging


def stage(names: list[str]) -> None:
    """Lay the executed notebooks and the run table where Sphinx reads them."""
    STAGED.mkdir(exist_ok=True)
    wanted = {f"{name}.ipynb": (BUILD / "executed" / f"{name}.ipynb").read_text("utf-8") for name in names}
    wanted["claims.txt"] = claims_table()
    wanted["runs.txt"] = run_table({name: nbformat.reads(wanted[f"{name}.ipynb"], 4) for name in names})
    for path in STAGED.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (STAGED / name).write_text(text, encoding="utf-8")


def claims_table() -> str:
    """How many claims have each verdict, the claims, and where the paper and its code disagree, as Markdown tables."""
    table = claims.table(claims.Judge())
    counts = claims.counts(table).reset_index()
    table["id"] = table["id"].str.replace(".", ".<wbr>")  # where a narrow column may break it
    tables = [counts, table[["id", "paper", "ours", "verdict", "beside"]], claims.discrepancies()]
    return "\n\n".join(map(claims.markdown, tables)) + "\n"


def run_table(executed: dict[str, nbformat.NotebookNode]) -> str:
    """What ran live while building, from papermill's times, and how every record was made, as Markdown tables.

    A cell tagged `live` computes a result; `record:EXPERIMENT` (a pattern is allowed) says which records a cell shows.
    """
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    lines = [
        f"Executed with Python {platform.python_version()} and torch {torch.__version__} on {device}, at "
        f"commit {commit()}.",
        "",
        "| Notebook | run live [s] | whole notebook [s] | records shown |",
        "|---|--:|--:|---|",
    ]
    made = {record.folder.parent.name: record for record in records.everywhere()}
    named = [*made, *(alias for alias, name in ALIASES.items() if name in made)]
    for name, notebook in executed.items():
        tags = [(tag, cell) for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
        live = sum(cell.metadata.papermill.duration for tag, cell in tags if tag == "live")
        patterns = list(dict.fromkeys(tag.split(":")[1] for tag, _ in tags if tag.startswith("record:")))
        for pattern in patterns:
            if not any(fnmatch(experiment, pattern) for experiment in named):
                raise InputError(f"{name} is tagged record:{pattern}, and there is no such record")
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        seconds = f"{live:.1f} | {notebook.metadata.papermill.duration:.1f}"
        lines.append(f"| [{title}](notebooks/{name}) | {seconds} | {', '.join(patterns) or 'none'} |")
    lines += [
        "",
        "| Record | accuracy [%] | device | seconds | torch | commit | data |",
        "|---|--:|---|--:|---|---|---|",
    ]
    for experiment, record in made.items():
        how = record.environment
        at = str(how["commit"])[:10] + ("-and-changes" if how["dirty"] else "")
        where = f"{how['device']} | {how['seconds']:,.0f} | {how['torch']} | {at}"
        lines.append(f"| {experiment} | {record.accuracy} | {where} | {record.data['name']} |")
    return "\n".join(lines) + "\n"


def commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty=-and-changes", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def book_sources() -> Iterable[tuple[str, bytes]]:
    yield from contents("_config.yml", "constraints.txt", "README.md", "claims.yml", "book/**/*")


# Scripts


def fetch_scripts() -> None:
    """Put the scripts below assets/vendor, from npm or, with a warning, as loaders from the network."""
    missing = []
    for package, digest, folder, taken, place in SCRIPTS:
        stamp = VENDOR / f"{package.split('/')[-1]}.{digest[:8]}"
        if stamp.exists():
            continue
        (VENDOR / place).mkdir(parents=True, exist_ok=True)
        archive = npm_archive(package, digest)
        if archive is None:
            missing.append(package)
            address = f"{CDN}/{package}/{folder.removeprefix('package/')}{taken[0]}"
            element = f'Object.assign(document.createElement("script"), {{src: "{address}"}})'
            (VENDOR / place / taken[0]).write_text(f"document.head.append({element});\n")
            continue
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            for member in files:
                name = member.name.removeprefix(folder)
                if member.isfile() and any(fnmatch(name, pattern) for pattern in taken):
                    path = VENDOR / place / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(files.extractfile(member).read())
        stamp.touch()
    if missing:
        print(f"npm is not at hand: the pages will load {', '.join(missing)} from {CDN}", file=sys.stderr)


def npm_archive(package: str, digest: str) -> bytes | None:
    """The package's archive, from the cache folder or npm, its hash checked; None where npm cannot fetch it."""
    cached = cache_folder() / "npm" / f"{digest}.tgz"
    if not cached.exists():
        if shutil.which("npm") is None:
            return None
        fetched = cached.parent / f"{digest}.{os.getpid()}"
        fetched.mkdir(parents=True)
        try:
            command = ["npm", "pack", "--silent", "--pack-destination", str(fetched), package]
            if subprocess.run(command, cwd=fetched, stdout=subprocess.DEVNULL, timeout=300).returncode:
                return None
            (archive,) = fetched.glob("*.tgz")
            os.replace(archive, cached)
        except subprocess.TimeoutExpired:
            return None
        finally:
            shutil.rmtree(fetched)
    content = cached.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        cached.unlink()
        raise SystemExit(f"{package}: the archive that npm fetched is not the one pinned in book/build.py")
    return content


# Checking


class Page(HTMLParser):
    """Collects what is wrong with a page: pictures without a text, and addresses it would load from outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.complaints: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        source = given.get("src") or (given.get("href") if tag == "link" else None) or ""
        alt = (given.get("alt") or "").strip()
        if tag == "img" and (not alt or alt.endswith((".png", ".svg", ".jpg", ".jpeg"))):
            self.complaints.append(f"a picture has no alternative text: {source[:80]}")
        loads = tag in ("script", "img", "iframe") or given.get("rel") in ("stylesheet", "preload", "icon")
        if loads and source.startswith(("http:", "https:", "//")):
            self.complaints.append(f"it loads {source} from outside")


def check(folder: Path) -> list[str]:
    """One line for each thing wrong with the pages."""
    found = []
    for path in sorted(folder.rglob("*.html")):
        text = path.read_text("utf-8")
        where = path.relative_to(folder)
        found += [f"{where}: {complaint}" for complaint in Page(text).complaints]
        if path.stat().st_size > PAGE_LIMIT:
            found.append(f"{where}: {path.stat().st_size:,} bytes; at most {PAGE_LIMIT:,} are allowed")
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (InputError, MachineError) as error:
        sys.exit(f"{error}")
