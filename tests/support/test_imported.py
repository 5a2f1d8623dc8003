"""Networks by the name `module:Class`: found, called, refused in one line, told by their source."""

import hashlib
import sys

import pytest
import torch
from conftest import TINY_RANDOM

from ddcore import as_network, generator
from ddcore.experiments.setup import prepare
from ddcore.support.errors import InputError
from ddcore.support.imported import is_own, source_sha256

HEAD = "import torch\nfrom torch import nn\n"
NET = """
class Net(nn.Module):
    def __init__(self, channels, size, classes):
        super().__init__()
        self.layer = nn.Linear(channels * size * size, classes)

    def forward(self, images):
        return self.layer(images.flatten(1))
"""


def changed(before, after):
    """The module with one piece of its source replaced."""
    assert before in NET
    return HEAD + NET.replace(before, after)


class TestNames:
    @pytest.mark.parametrize("name", ["mine:Net", "package.module:Net", "_a.b1:é"])
    def test_a_module_and_a_name(self, name):
        assert is_own(name)

    @pytest.mark.parametrize(
        "name",
        ["", "lenet", ":Net", "mine:", "mine:Net:x", "a/b:Net", "a..b:Net", "1a:Net", "a:b c"],
    )
    def test_another_form_is_none(self, name):
        assert not is_own(name)


class TestBuilding:
    def test_it_is_a_stack_of_that_name_for_these_images(self, module):
        module("mine", HEAD + NET)
        network = as_network("mine:Net", 3, 8, 4)
        assert network.name == "mine:Net" and network.shapes["layer.weight"] == (4, 3 * 8 * 8)
        theta = torch.stack([network.init("he", generator(j)) for j in range(2)])
        assert network(theta, torch.zeros(5, 3, 8, 8)).shape == (2, 5, 4)

    def test_a_module_in_a_package_and_a_function(self, module):
        module("package.parts.own", HEAD + NET + "\ndef made(*given):\n    return Net(*given)\n")
        assert as_network("package.parts.own:made").name == "package.parts.own:made"

    def test_the_packages_own_network_is_a_network(self):
        network = as_network("ddcore.networks:LeNet", 3, 32)
        assert (network.channels, network.size) == (3, 32)

    def test_the_current_folder_comes_first(self, module, tmp_path):
        module("elsewhere.mine", "")
        sys.path.insert(0, str(tmp_path / "elsewhere"))
        module("mine", HEAD + NET)
        assert as_network("mine:Net").name == "mine:Net"

    def test_random_numbers_that_it_draws_are_the_same_each_time(self, module):
        source = changed(
            "channels * size * size, classes)", "784, 10); self.x = nn.Parameter(torch.rand(3))"
        )
        module("mine", source)
        one = as_network("mine:Net").init("he", generator(0))
        torch.rand(1)
        before = torch.get_rng_state()
        assert torch.equal(as_network("mine:Net").init("he", generator(0)), one)
        assert torch.equal(torch.get_rng_state(), before)

    REFUSED = {
        "no module": ("absent:Net", "", "there is no module absent in the current folder or the"),
        "no module in a package": ("mine.parts:Net", HEAD, "there is no module mine.parts in the"),
        "no such name": ("mine:Nett", HEAD + NET, "mine has no Nett; did you mean Net?"),
        "nothing to call": ("mine:Net", "Net = 3", "Net is of type int: what can be called with"),
        "other arguments": (
            "mine:Net",
            changed("channels, size, classes):", "channels):"),
            "called with (channels, size, classes) = (1, 28, 10), Net raises TypeError: Net.__",
        ),
        "an error in it": (
            "mine:Net",
            changed("super().__init__()", "raise KeyError('size')"),
            "Net raises KeyError: 'size' (mine.py, line 6)",
        ),
        "no module returned": (
            "mine:Net",
            "def Net(*given):\n    return [given]",
            "Net returns list: an nn.Module is allowed",
        ),
        "another name returned": (
            "mine:Net",
            "def Net(*given):\n    return 'lenet'",
            "returns str",
        ),
        "an import that is missing": (
            "mine:Net",
            "\nimport absent_thing",
            "importing mine raises ModuleNotFoundError: No module named 'absent_thing' (mine.py, "
            "line 2)",
        ),
        "an import that raises": (
            "mine:Net",
            HEAD + "raise OSError('two\\nlines')",
            "importing mine raises OSError: two lines (mine.py, line 3)",
        ),
        "no Python": (
            "mine:Net",
            "x = (",
            "importing mine raises SyntaxError: '(' was never closed",
        ),
        "an import that leaves": ("mine:Net", "raise SystemExit(3)", "mine raises SystemExit: 3"),
        "a layer of batches": (
            "mine:Net",
            changed("size, classes)\n\n", "size, classes); self.bn = nn.BatchNorm1d(3)\n\n"),
            "Net contains BatchNorm1d (bn), whose output depends on the other images",
        ),
    }

    @pytest.mark.parametrize("case", REFUSED)
    def test_what_cannot_be_used_is_one_line(self, module, case):
        name, source, said = self.REFUSED[case]
        module("mine", source)
        with pytest.raises(InputError) as error:
            as_network(name)
        assert said in str(error.value) and "\n" not in str(error.value)

    def test_the_line_of_a_readers_own_code_is_named(self, module):
        module("mine", HEAD + "\nnn.Linear('a', 1)")
        with pytest.raises(InputError, match=r"\(mine.py, line 4\)$"):
            as_network("mine:Net")

    def test_the_known_names_are_listed(self):
        said = (
            "'lenett': one of lenet, alexcifarnet, or module:Class of your own; did you mean lenet"
        )
        with pytest.raises(InputError, match=said):
            as_network("lenett")


class TestForwardPass:
    """What only images show, before anything is computed."""

    REFUSED = {
        "other classes": (changed("size, classes)\n", "size, 3)\n"), "tells 3 classes apart"),
        "no classes": (changed("flatten(1))", "flatten(1)).sum(1)"), "gives [1] for one image"),
        "other images": (
            changed("images.flatten(1)", "images"),
            "cannot read images of [1, 28, 28]",
        ),
        "an error in it": (
            changed("return self.layer", "return {}[0]"),
            "network mine:Net: its forward pass raises KeyError: 0 (mine.py, line 10)",
        ),
    }

    @pytest.mark.parametrize("case", REFUSED)
    def test_what_does_not_fit_is_one_line(self, module, apart, case):
        source, said = self.REFUSED[case]
        module("mine", source)
        with pytest.raises(InputError) as error:
            prepare(TINY_RANDOM.model_copy(update={"network": "mine:Net"}))
        assert said in str(error.value) and "\n" not in str(error.value)


class TestSource:
    def test_the_packages_networks_have_none(self):
        assert source_sha256("lenet") == ""

    def test_of_one_file_it_is_the_files(self, module, tmp_path):
        module("mine", HEAD + NET)
        content = (tmp_path / "mine.py").read_bytes()
        assert source_sha256("mine:Net") == hashlib.sha256(content).hexdigest()

    @pytest.mark.parametrize(
        "named",
        ["from parts import layers\n", "from parts.layers import f\n", "import parts.layers\n"],
    )
    def test_what_its_module_names_is_in_it(self, module, named):
        module("mine", named + HEAD + NET)
        module("parts.layers", "from parts.more import g\ndef f(): return 1")
        module("parts.more", "def g(): return 1")
        first = source_sha256("mine:Net")
        module("parts.more", "def g(): return 2")
        assert source_sha256("mine:Net") != first

    def test_what_it_does_not_name_is_not(self, module):
        module("mine", HEAD + "import hashlib, ddcore.networks\n" + NET)
        module("other", "1")
        first = source_sha256("mine:Net")
        module("other", "2")
        assert source_sha256("mine:Net") == first

    def test_it_is_of_the_code_that_was_imported(self, module, tmp_path):
        """An edit during a long run is not what the run computed with."""
        module("mine", HEAD + NET)
        first = source_sha256("mine:Net")
        (tmp_path / "mine.py").write_text("other")
        assert source_sha256("mine:Net") == first
