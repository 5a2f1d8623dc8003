"""Whatever stands in a parameter, a record or a folder of images: it is taken as the rules say, or
refused in one line. The inputs are drawn by Hypothesis, the same ones in each run."""

import json
import os
import tempfile
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import set_apart
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ddcore import cli
from ddcore.datasets import load
from ddcore.experiments import records, reproduce
from ddcore.experiments.catalogue import configure
from ddcore.experiments.config import OVERRIDES, Config
from ddcore.experiments.verify import verify
from ddcore.paper.parameters import Parameter
from ddcore.support.errors import InputError
from ddcore.support.folders import SUFFIXES

drawn = partial(
    settings,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = st.one_of(st.integers().map(str), st.floats().map(str), st.from_regex(r"[\d_.e+-]{1,6}"))
WORDS = [
    "true",
    "False",
    "lenet",
    "he",
    "mnist",
    "usps",
    "folder:~/x",
    "folder:",
    "inf",
    "-nan",
    "0x1",
]
TEXTS = st.one_of(st.text(), NUMBERS, st.sampled_from(WORDS), st.integers(-2, 300).map(str))


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """As `apart`, for all examples of one test."""
    return set_apart(monkeypatch, tmp_path)


def answered(call):
    """What a call returns; None where it refuses, which must be in one line."""
    try:
        return call()
    except InputError as error:
        assert len(str(error).splitlines()) == 1, error
        return None


class TestParameters:
    EXPERIMENTS = ["fig2a", "fig3a", "table2-mnist-usps-random", "table3-mnist-10", "full-cifar10"]

    @drawn(max_examples=300)
    @given(st.sampled_from(EXPERIMENTS), st.sampled_from(OVERRIDES), TEXTS)
    def test_of_a_run(self, experiment, name, text):
        config = answered(lambda: configure(experiment, "smoke", {name: text}))
        if config is None:
            return
        assert Config.model_validate(config.model_dump(), strict=True) == config
        value = getattr(config, name)
        written = str(value).lower() if isinstance(value, bool) else str(value)
        assert configure(experiment, "smoke", {name: written}) == config

    @drawn(max_examples=100)
    @given(st.text(), TEXTS)
    def test_of_another_name(self, name, text):
        assume(name not in OVERRIDES)
        assert answered(lambda: configure("fig2a", "smoke", {name: text})) is None

    @drawn(max_examples=100)
    @given(st.lists(st.one_of(TEXTS, st.tuples(TEXTS, TEXTS).map("=".join)), max_size=3))
    def test_of_a_command(self, words):
        found = answered(lambda: cli.pairs(words))
        if found is not None:
            assert [f"{name}={value}" for name, value in found.items()] == words

    DECLARED = [
        Parameter("steps", int, 2, low=1, high=100),
        Parameter("rate", float, 0.5, low=0, high=1),
        Parameter("offset", float, 0.0),
        Parameter("count", int, 0),
        Parameter("faithful", bool, False),
        Parameter("label", str, ""),
        Parameter("dataset", str, "mnist", choices=("mnist", "usps")),
        Parameter("size", int, 1, choices=(1, 10)),
    ]

    @drawn(max_examples=100)
    @given(TEXTS)
    @pytest.mark.parametrize("parameter", DECLARED, ids=lambda parameter: parameter.name)
    def test_of_a_notebook(self, parameter, text):
        value = answered(lambda: parameter.parse(text))
        if value is None:
            return
        assert type(value) is parameter.type
        assert not parameter.choices or value in parameter.choices
        if not isinstance(value, str | bool):
            assert parameter.low <= value <= parameter.high and abs(value) < float("inf")
        assert parameter.parse(str(value)) == value


# Any JSON; numbers as large as a file may hold them
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=2,
)


def places(content, above=()):
    """The place of each entry in JSON, and of those in it; of a list, of the first one."""
    inner = content.items() if isinstance(content, dict) else enumerate(content[:1])
    for key, value in inner:
        yield *above, key
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


def edited(content, place, *value):
    """A copy of JSON with another value in a place; without one, the entry is dropped."""
    content = json.loads(json.dumps(content))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value:
        inner[place[-1]] = value[0]
    else:
        del inner[place[-1]]
    return content


class TestRecords:
    @pytest.fixture
    def file(self, record):
        return record / "record.json"

    def read(self, file):
        """The edited record; None where it is named and refused."""
        found = answered(lambda: records.read(file.parent))
        if found is not None:
            assert cli._result(found).startswith(found.name)
        return found

    @drawn(max_examples=8)
    @given(JSON)
    @example([])
    @example(1e300)
    @example(float("nan"))
    def test_with_another_entry_it_is_read_or_named(self, file, whole, value):
        for place in places(whole):
            file.write_text(json.dumps(edited(whole, place, value)))
            self.read(file)

    def test_without_an_entry_it_is_read_or_named(self, file, whole):
        for place in places(whole):
            file.write_text(json.dumps(edited(whole, place)))
            self.read(file)

    @pytest.fixture
    def whole(self, file):
        return json.loads(file.read_text())

    @drawn(max_examples=100)
    @given(data=st.data())
    def test_cut_off_or_with_another_byte_it_is_read_or_named(self, file, whole, data):
        content = json.dumps(whole).encode()
        at = data.draw(st.integers(0, len(content) - 1))
        file.write_bytes(content[:at] + data.draw(st.binary(max_size=2)))
        assert self.read(file) is None
        file.write_bytes(content[:at] + data.draw(st.binary(max_size=2)) + content[at + 1 :])
        self.read(file)

    @drawn(max_examples=5)
    @given(st.data())
    def test_the_commands_go_on(self, file, whole, capsys, data):
        place = data.draw(st.sampled_from(list(places(whole))))
        file.write_text(json.dumps(edited(whole, place, data.draw(JSON))))
        cli.list_experiments()
        assert "fig2a" in reproduce.plan()
        found = self.read(file)
        if found is not None:
            answered(lambda: verify(found).line)


def picture(mode, width, height):
    """The bytes of a PNG with pixels of more than one value."""
    pixels = np.arange(height * width * 3).reshape(height, width, 3) % 256
    file = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


GREY, LARGE, COLOURED = picture("L", 28, 28), picture("L", 40, 30), picture("RGB", 32, 32)
NAMES = st.one_of(
    st.sampled_from([*"ab12", "10", "02", "٣", "²", ".hidden", "a b", "ü\n", "-p", "x.png"]),
    st.text(min_size=1, max_size=9),
    st.binary(min_size=1, max_size=9).map(os.fsdecode),
)
NAMES = NAMES.filter(lambda name: not {"/", "\0"} & {*name} and name not in (".", ".."))
SUFFIX = st.sampled_from([*SUFFIXES, ".PNG", ".Jpg", ".txt", "", ".gif"])
HIDDEN = NAMES.map(lambda name: f".{name}")
ODD = st.lists(st.tuples(NAMES | HIDDEN, SUFFIX, st.sampled_from([GREY, GREY, LARGE, COLOURED])))
FILES = st.tuples(ODD, st.sampled_from([0, 6, 12, 12]))  # and how many plain ones
NUMBERED = st.sampled_from(["1", "2", "10", "02", "٣"])
# of a part, by class
PARTS = st.dictionaries(NAMES | HIDDEN, FILES, max_size=3) | st.dictionaries(
    NUMBERED, FILES, min_size=2, max_size=4
)


def is_written(name):
    """Whether the file system takes the name, which is at most that of another file."""
    try:
        return len(os.fsencode(name)) <= 255
    except UnicodeEncodeError:
        return False


class TestFolders:
    """Beside a description that is slow and simple."""

    @st.composite
    @staticmethod
    def trees(draw):
        """{part: {class: {file: bytes}}}; both parts mostly have the same classes."""
        train = draw(PARTS)
        test = draw(PARTS) if draw(st.integers(0, 4)) == 0 else train
        found = {}
        for part, of in (("train", train), ("test", test)):
            found[part] = {}
            for label, (odd, n) in of.items():
                files = {name + suffix: content for name, suffix, content in odd}
                files |= {f"{k}.png": GREY for k in range(n)}
                found[part][label] = {name: files[name] for name in files if is_written(name)}
        return {part: {k: v for k, v in of.items() if is_written(k)} for part, of in found.items()}

    @drawn(max_examples=40)
    @given(trees())
    def test_they_are_read_as_the_rules_say_or_named(self, tree):
        with tempfile.TemporaryDirectory() as folder:
            for part, of in tree.items():
                (Path(folder) / part).mkdir()
                for label, files in of.items():
                    (Path(folder) / part / label).mkdir()
                    for name, content in files.items():
                        (Path(folder) / part / label / name).write_bytes(content)
            data = answered(lambda: load(f"folder:{folder}"))
        counts = self.counts(tree)
        assert (data is None) == (counts is None)
        if data is None:
            return
        assert data.classes == tuple(counts)
        train = [*data.train[1].tolist(), *data.validation[1].tolist()]
        found = [(train.count(k), data.test[1].tolist().count(k)) for k in range(len(counts))]
        assert found == [*counts.values()]

    def counts(self, tree):
        """{class: (training images, test images)} in order; None where the tree is refused."""
        seen = {
            part: {
                label: sum(
                    not name.startswith(".") and name.lower().endswith(SUFFIXES) for name in files
                )
                for label, files in of.items()
                if not label.startswith(".")
            }
            for part, of in tree.items()
        }
        labels = sorted(seen["train"].keys() | seen["test"].keys())
        if all(label.isdecimal() for label in labels):
            labels.sort(key=int)
        found = {k: (seen["train"].get(k, 0), seen["test"].get(k, 0)) for k in labels}
        few = sum(n for n, _ in found.values()) < 10
        return None if few or len(found) < 2 or not all(map(all, found.values())) else found
