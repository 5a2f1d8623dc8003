"""Build the book: execute what changed, stage it, run Jupyter Book with warnings as errors, check
the pages.

`make book` calls it. A notebook runs again only when something its outputs follow from has changed:
the notebook, the package with its experiments and claims, the pins, the records, the benchmark's
figures or the data present. The executed copies stay in `_build/executed`; the pages are written to
`_build/html`.
"""

import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import front
import nbformat
import yaml
from nbformat import NotebookNode
from PIL import Image

from ddcore.experiments import records
from ddcore.experiments.catalogue import ALIASES
from ddcore.experiments.records import Record
from ddcore.paper import evidence, figures, ledger, notebooks, pages
from ddcore.support.errors import InputError, MachineError
from ddcore.support.files import cache_folder, data_root

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
BUILD = ROOT / "_build"
STAGED = BOOK / "notebooks"
EVIDENCE = BOOK / "evidence"
VENDOR = BOOK / "assets" / "vendor"
RESULTS = "results.json"  # every claim with its verdict, for programs
RERUNS = BOOK / "reruns"  # what `ddcore verify --log` wrote on several machines

# What the notebooks' outputs follow from, and what the pages do, as patterns below ROOT.
INPUTS = (
    "ddcore/**/*.py",
    "ddcore/**/*.yml",
    "ddcore/support/*.cpp",
    "ddcore/support/*.h",
    "constraints.txt",
    "results/**/*",
    "benchmarks/*.json",
)
BOOK_SOURCES = (
    "_config.yml",
    "constraints.txt",
    "README.md",
    "ddcore/paper/claims.yml",
    "book/**/*",
)

CELL_LIMIT = 900  # seconds
PAGE_LIMIT = 1_500_000  # bytes of HTML
NPM_LIMIT = 300  # seconds
CDN = "https://cdn.jsdelivr.net/npm"

Part = tuple[str, bytes]  # a name and what stands under it


class Script(NamedTuple):
    """A script that the pages need, from a package of npm."""

    package: str  # with its version
    sha256: str  # of the package's archive
    folder: str  # in the archive
    files: tuple[str, ...]  # of that folder: the script first, then patterns of what it loads
    place: str  # below VENDOR


SCRIPTS = [
    Script(
        package="@jupyter-widgets/html-manager@1.0.15",
        sha256="2b9d65cb7913e1c7d671757a10008b32c9c2448d4429513371e55c07d6107638",
        folder="package/dist/",
        files=("embed.js", "*.woff2"),
        place="widgets/",
    ),
    Script(
        package="mathjax@3.2.2",
        sha256="1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
        folder="package/es5/",
        files=("tex-mml-chtml.js", "output/chtml/fonts/woff-v2/*", "input/tex/extensions/*"),
        place="mathjax/",
    ),
]


def main() -> int:
    """Build what is not up to date; the exit status."""
    fetch_scripts()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each notebook: several run at once
    names = execute_all()
    stage(names)
    addresses = ((name, os.environ.get(name, "").encode()) for name in ("REPOSITORY", "SITE"))
    key = sha256([*addresses, *contents(*BOOK_SOURCES)])
    stamp = BUILD / "book.key"
    html = BUILD / "html"
    if is_current(stamp, key) and (html / "index.html").exists():
        print("nothing changed: _build/html/index.html is up to date")
        return 0
    stamp.unlink(missing_ok=True)
    shutil.rmtree(html, ignore_errors=True)
    if run_jupyter_book() != 0:
        return 1
    for path in html.glob("notebooks/*.html"):
        path.write_text(with_state_last(path.read_text("utf-8")), "utf-8")
    write_files(html / evidence.FILES)
    shutil.copyfile(STAGED / RESULTS, html / RESULTS)
    shutil.copytree(RERUNS, html / RERUNS.name)
    complaints = check(html)
    if complaints:
        print("\n".join(complaints), file=sys.stderr)
        return 1
    stamp.write_text(key)
    return 0


def run_jupyter_book() -> int:
    """Its exit status."""
    program = str(Path(sys.executable).with_name("jupyter-book"))
    settings = BUILD / "config.yml"
    settings.write_text(yaml.safe_dump(configuration()), "utf-8")
    # Without --all Sphinx would leave out the warnings of pages read before, and changed scripts
    # and styles.
    command = [program, "build", "-q", "-W", "-n", "--keep-going", "--all"]
    command += ["--config", str(settings), "book/"]
    return subprocess.run(command, cwd=ROOT).returncode


def configuration() -> dict[str, Any]:
    """_config.yml, with buttons to the repository where REPOSITORY gives its address. SITE is the
    book's own, which previews of its pages need for their picture."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    if address := os.environ.get("REPOSITORY"):
        settings["repository"] = {"url": address, "branch": "main"}
        settings["launch_buttons"] = {"binderhub_url": "https://mybinder.org"}
        settings["html"] |= {"use_repository_button": True, "use_issues_button": True}
    settings["sphinx"]["config"]["ogp_site_url"] = os.environ.get("SITE", "")
    return settings


# ---- What outputs follow from


def sha256(parts: Iterable[Part]) -> str:
    """One digest of all parts, their names included."""
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def is_current(stamp: Path, key: str) -> bool:
    """Whether the stamp of an earlier build has this key."""
    return stamp.exists() and stamp.read_text() == key


def contents(*patterns: str) -> Iterator[Part]:
    """Path and bytes of the project's files that match, in order."""
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(ROOT).as_posix(), path.read_bytes()


def surroundings() -> Iterator[Part]:
    """What the outputs depend on outside the project: the interpreter, a GPU, the data and records
    present."""
    import torch

    yield "python", sys.version.encode()
    yield "torch", f"{torch.__version__} {torch.cuda.is_available()}".encode()
    roots = [data_root()]
    if os.environ.get("DDCORE_RESULTS"):
        roots.append(Path(os.environ["DDCORE_RESULTS"]))
    for root in roots:
        yield from sizes(root)


def sizes(root: Path) -> Iterator[Part]:
    """The files in a folder, three levels deep, with their sizes; folders without."""
    for pattern in ("*", "*/*", "*/*/*"):
        for path in sorted(root.glob(pattern)):
            size = str(path.stat().st_size) if path.is_file() else ""
            yield path.relative_to(root).as_posix(), size.encode()


# ---- Executing


def execute_all() -> list[str]:
    """Execute the notebooks whose inputs changed into _build/executed, as many at once as there are
    processors; the names of all, in order."""
    folder = BUILD / "executed"
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted(notebooks.FOLDER.glob("*.ipynb"))
    common = sha256([*contents(*INPUTS), *surroundings()])
    changed = {}
    for source in sources:
        key = sha256([("common", common.encode()), (source.name, source.read_bytes())])
        if not (folder / source.name).exists() or not is_current(
            folder / f"{source.stem}.key", key
        ):
            changed[source.stem] = key
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for done in as_completed(
            threads.submit(execute_one, folder, name, key) for name, key in changed.items()
        ):
            done.result()
    names = [source.stem for source in sources]
    for path in folder.iterdir():
        if path.stem not in names:
            path.unlink()
    return names


def execute_one(folder: Path, name: str, key: str) -> None:
    stamp = folder / f"{name}.key"
    stamp.unlink(missing_ok=True)
    notebooks.run(name, {}, folder / f"{name}.ipynb", limit=CELL_LIMIT)
    stamp.write_text(key)


# ---- Staging


def stage(names: list[str]) -> None:
    """Lay the executed notebooks and the generated pages where Sphinx reads them."""
    executed = {name: (BUILD / "executed" / f"{name}.ipynb").read_text("utf-8") for name in names}
    judge = ledger.Judge()
    texts = {f"{name}.ipynb": with_numbers(text, judge) for name, text in executed.items()}
    texts |= front.blocks()
    texts["headlines.txt"] = pages.headlines(judge)
    texts["claims.txt"] = pages.claims(judge)
    texts[RESULTS] = json.dumps(ledger.entries(judge), indent=1) + "\n"
    clone = ""
    if address := os.environ.get("REPOSITORY"):
        clone = f"git clone {address} ddcore && cd ddcore\n"
    texts["start.txt"] = START.format(clone=clone)
    texts["reruns.txt"] = pages.reruns(RERUNS)
    texts["api.txt"] = pages.names()
    texts["built.txt"] = built_on() + "\n"
    texts["images.txt"] = pages.images()
    texts["runs.txt"] = run_table({n: nbformat.reads(t, 4) for n, t in executed.items()})
    lay(STAGED, texts)
    lay(EVIDENCE, {f"{name}.md": text for name, text in evidence.pages(judge).items()})
    lay(VENDOR / "front", front.scripts())


START = """\
```
{clone}make book
.venv/bin/ddcore notebook 03-1 -p steps=2
.venv/bin/ddcore data mnist
.venv/bin/ddcore verify fig2a
```
"""


def lay(folder: Path, texts: dict[str, str]) -> None:
    """Write the files of a folder that has no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def with_state_last(page: str) -> str:
    """A page whose widgets' state, up to megabytes, stands at its end and not in its head, where a
    reader would wait for it."""
    state = re.search(r'<script type="application/vnd.jupyter.widget-state.*?</script>', page, re.S)
    if state is None:
        return page
    return page.replace(state[0], "").replace("</body>", f"{state[0]}\n</body>")


def write_files(folder: Path) -> None:
    """What the pages of evidence offer of each record: its files, and its images as a sheet."""
    for first in records.everywhere():
        for record in (first, *records.replicates(first.experiment)):
            place = folder / record.experiment / record.key
            shutil.copytree(record.folder, place)
            if record.has_images:
                Image.fromarray(figures.sheet(record.distilled)).save(place / "images.png")


def with_numbers(text: str, judge: ledger.Judge) -> str:
    """A notebook whose alternative texts have our numbers in the place of the claims' names, as
    `{fig2a.accuracy}`."""
    notebook = nbformat.reads(text, 4)

    def number(name: re.Match[str]) -> str:
        return judge.row(judge.claims[name[1]])["ours"]

    for cell in notebook.cells:
        image = cell.metadata.get("mystnb", {}).get("image", {})
        if "alt" in image:
            image["alt"] = re.sub(r"\{([^}]+)\}", number, image["alt"])
    return nbformat.writes(notebook)


def run_table(executed: dict[str, NotebookNode]) -> str:
    """What ran live while building, from papermill's times, and how every record came about, as
    Markdown tables.

    A cell tagged `live` computes a result; `record:EXPERIMENT` (a pattern is allowed) says which
    records a cell shows.

    Raises:
        InputError: a cell's tag names a record that is not there.
    """
    recorded = {record.folder.parent.name: record for record in records.everywhere()}
    aliases = [alias for alias, name in ALIASES.items() if name in recorded]
    lines = [
        built_on(),
        "",
        "| Notebook | run live [s] | whole notebook [s] | records shown |",
        "|---|--:|--:|---|",
    ]
    for name, notebook in executed.items():
        lines.append(notebook_row(name, notebook, [*recorded, *aliases]))
    lines += [
        "",
        "| Record | accuracy [%] | device | seconds | torch | commit | data |",
        "|---|--:|---|--:|---|---|---|",
    ]
    for experiment, record in recorded.items():
        lines.append(record_row(experiment, record))
        lines += [record_row(other.name, other) for other in records.replicates(experiment)]
    return "\n".join(lines) + "\n"


def built_on() -> str:
    """The machine and the software of this build."""
    import torch

    device = f"CPU, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    versions = f"Python {platform.python_version()} and torch {torch.__version__}"
    return f"Executed with {versions} on {device}, at commit {commit()}."


def notebook_row(name: str, notebook: NotebookNode, experiments: list[str]) -> str:
    """`experiments` are those with a record, under every name."""
    live = 0.0
    patterns = []
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag == "live":
                live += cell.metadata.papermill.duration
            elif tag.startswith("record:"):
                patterns.append(tag.split(":")[1])
    for pattern in patterns:
        if not any(fnmatch(experiment, pattern) for experiment in experiments):
            raise InputError(f"{name} is tagged record:{pattern}, and there is no such record")
    title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    seconds = f"{live:.1f} | {notebook.metadata.papermill.duration:.1f}"
    shown = ", ".join(dict.fromkeys(patterns)) or "none"
    return f"| [{title}](notebooks/{name}) | {seconds} | {shown} |"


def record_row(experiment: str, record: Record) -> str:
    environment = record.environment
    version = str(environment["commit"])[:10]
    if environment["dirty"]:
        version += "-and-changes"
    cells = [
        experiment,
        record.accuracy,
        environment["device"],
        f"{environment['seconds']:,.0f}",
        environment["torch"],
        version,
        record.data["name"],
    ]
    return "| " + " | ".join(cells) + " |"


def commit() -> str:
    """The commit that the book is built at, with a word where files differ from it."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty=-and-changes", "--exclude=*"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return process.stdout.strip() or "unknown"


# ---- Scripts


def fetch_scripts() -> None:
    """Put the scripts below VENDOR, from npm or, with a warning, as loaders from the network."""
    missing = []
    for script in SCRIPTS:
        stamp = VENDOR / f"{script.package.split('/')[-1]}.{script.sha256[:8]}"
        if stamp.exists():
            continue
        (VENDOR / script.place).mkdir(parents=True, exist_ok=True)
        archive = npm_archive(script.package, script.sha256)
        if archive is None:
            missing.append(script.package)
            write_loader(script)
        else:
            unpack(script, archive)
            stamp.touch()
    if missing:
        packages = ", ".join(missing)
        print(f"npm is not at hand: the pages will load {packages} from {CDN}", file=sys.stderr)


def write_loader(script: Script) -> None:
    """In the script's place, one that loads it from the network."""
    main_file = script.files[0]
    address = f"{CDN}/{script.package}/{script.folder.removeprefix('package/')}{main_file}"
    element = f'Object.assign(document.createElement("script"), {{src: "{address}"}})'
    (VENDOR / script.place / main_file).write_text(f"document.head.append({element});\n")


def unpack(script: Script, archive: bytes) -> None:
    """The script's files, from its package's archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            name = member.name.removeprefix(script.folder)
            is_wanted = any(fnmatch(name, pattern) for pattern in script.files)
            if not member.isfile() or not is_wanted:
                continue
            file = tar.extractfile(member)
            assert file is not None  # as for every regular file
            path = VENDOR / script.place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read())


def npm_archive(package: str, digest: str) -> bytes | None:
    """The package's archive, from the cache folder or npm, its hash checked; None where npm cannot
    fetch it."""
    cached = cache_folder() / "npm" / f"{digest}.tgz"
    if not cached.exists() and not npm_pack(package, cached):
        return None
    content = cached.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        cached.unlink()
        raise SystemExit(
            f"{package}: the archive that npm fetched is not the one pinned in book/build.py"
        )
    return content


def npm_pack(package: str, path: Path) -> bool:
    """Have npm fetch the package's archive to `path`, in one move; whether it could."""
    if shutil.which("npm") is None:
        return False
    folder = path.parent / f"{path.stem}.{os.getpid()}"
    folder.mkdir(parents=True)
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), package]
    try:
        process = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, timeout=NPM_LIMIT)
        if process.returncode != 0:
            return False
        (archive,) = folder.glob("*.tgz")
        archive.replace(path)
    except subprocess.TimeoutExpired:
        return False
    finally:
        shutil.rmtree(folder)
    return True


# ---- Checking


class Page(HTMLParser):
    """Collects what is wrong with a page: pictures without a text, addresses it would load from
    outside, formulas that are none, and what a cell wrote to stderr; also where its links lead, and
    the names within it that links may lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.complaints: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.names |= {attributes.get("id", ""), attributes.get("name", "")}
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        source = attributes.get("src", "")
        if tag == "link" and not source:
            source = attributes.get("href", "")
        if tag == "img":
            self.check_picture(source, attributes.get("alt", "").strip())
        relation = attributes.get("rel")
        loads = tag in ("script", "img", "iframe") or relation in ("stylesheet", "preload", "icon")
        if loads and source.startswith(("http:", "https:", "//")):
            self.complaints.append(f"it loads {source} from outside")
        if tag == "mjx-merror":
            self.complaints.append("a formula could not be read")
        if "stderr" in attributes.get("class", "").split():
            self.complaints.append("a cell wrote to stderr")

    def check_picture(self, source: str, alt: str) -> None:
        if not alt or alt.endswith((".png", ".svg", ".jpg", ".jpeg")):
            self.complaints.append(f"a picture has no alternative text: {source[:80]}")


def built_pages() -> list[str]:
    """The pages that the table of contents names, below the folder of the pages."""
    contents = yaml.safe_load((BOOK / "_toc.yml").read_text("utf-8"))
    names = [contents["root"]]
    names += [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    return [f"{name}.html" for name in names]


def check(folder: Path) -> list[str]:
    """One line for each thing wrong with the pages in a folder, and for each that is missing."""
    missing = [page for page in built_pages() if not (folder / page).exists()]
    complaints = [f"{page}: it is in the table of contents and was not built" for page in missing]
    paths = sorted(folder.rglob("*.html"))
    read = {path: Page(path.read_text("utf-8")) for path in paths}
    for path, page in read.items():
        name = path.relative_to(folder)
        complaints += [f"{name}: {complaint}" for complaint in page.complaints]
        dead = [link for link in dict.fromkeys(page.links) if leads_nowhere(link, path, read)]
        complaints += [f"{name}: {link} leads nowhere" for link in dead]
        size = path.stat().st_size
        if size > PAGE_LIMIT:
            complaints.append(f"{name}: {size:,} bytes; at most {PAGE_LIMIT:,} are allowed")
    return complaints


def leads_nowhere(link: str, path: Path, read: dict[Path, Page]) -> bool:
    """Whether a link of the page at `path` to a place within the book has none there."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
    if target not in read:
        return not target.exists()
    return bool(parts.fragment) and unquote(parts.fragment) not in read[target].names


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (InputError, MachineError) as error:
        sys.exit(f"{error}")
