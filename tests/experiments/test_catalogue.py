"""The catalogue: experiments.yml, scales, aliases, whose images are tested, and what is refused."""

import textwrap

import pytest
import yaml
from conftest import SHARED, tree

from ddcore.experiments import catalogue
from ddcore.experiments.catalogue import (
    ALIASES,
    EXPERIMENTS,
    FILE,
    IMAGES_OF,
    SCALES,
    configure,
    read,
    resolve,
)
from ddcore.experiments.config import Config
from ddcore.support.errors import InputError


class TestExperiments:
    def test_every_one_has_a_key_of_its_own(self):
        keys = {configure(name).key for name in EXPERIMENTS}
        assert len(keys) == len(EXPERIMENTS) > 80

    def test_an_alias_shares_the_record_of_an_experiment(self):
        assert ALIASES["law-mnist-xavier"] == "fig3a"
        for alias, name in ALIASES.items():
            assert alias not in EXPERIMENTS and resolve(alias) == resolve(name) == name
            assert configure(alias).key == configure(name).key

    def test_they_are_in_the_files_order(self):
        groups = yaml.safe_load(FILE.read_text())["experiments"]
        names = [entry["name"] for group in groups for entry in group["entries"]]
        assert list(EXPERIMENTS) == names

    def test_an_unknown_name_is_refused_with_a_known_one(self):
        with pytest.raises(InputError, match="^unknown experiment 'fig2c'; did you mean fig2"):
            resolve("fig2c")
        with pytest.raises(InputError, match="^unknown experiment 'x'; `ddcore list` shows them$"):
            configure("x")


class TestCopies:
    """CIFAR-10 and its copy as JPEG files are different data."""

    def test_a_copy_has_another_key(self):
        original = configure("fig2b")
        assert configure("fig2b", overrides={"dataset": "cifar10-jpeg"}).key != original.key
        assert configure("fig2b", overrides={"dataset": "cifar10"}).key == original.key

    @pytest.mark.parametrize(
        ("scale", "dataset", "network"),
        [
            pytest.param("paper", "cifar10-jpeg", "alexcifarnet", id="copy"),
            pytest.param("smoke", "cifar10", "alexcifarnet", id="smoke"),
            pytest.param("paper", "mnist", "lenet", id="mnist"),
            pytest.param("paper", "digits", "lenet", id="digits"),
            pytest.param("paper", "svhn", "alexcifarnet", id="other images that suit it"),
            pytest.param("smoke", "svhn", "lenet", id="of a scale with another network"),
        ],
    )
    def test_a_dataset_brings_its_network_where_the_experiments_does_not_suit(
        self, scale, dataset, network
    ):
        assert configure("fig2b", scale, {"dataset": dataset}).network == network

    @pytest.mark.parametrize("name", ["fig2a", "fig3a", "baseline-averages-mnist"])
    def test_cifar_brings_its_network(self, name):
        assert configure(name, overrides={"dataset": "cifar10"}).network == "alexcifarnet"

    @pytest.mark.parametrize(
        ("mode", "side", "network"),
        [
            pytest.param("RGB", 32, "alexcifarnet", id="colours"),
            pytest.param("RGB", 40, "alexcifarnet", id="colours, resized"),
            pytest.param("RGB", 28, "lenet", id="small colours"),
            pytest.param("L", 32, "lenet", id="grey"),
            pytest.param("L", 28, "lenet", id="small grey"),
        ],
    )
    def test_a_folder_has_the_network_that_suits_it(self, pictures, mode, side, network):
        said = {"dataset": f"folder:{pictures(mode=mode, side=side)}"}
        assert configure("fig2b", overrides=said).network == network
        assert configure("fig2a", overrides=said).network == "lenet"
        lenet = configure("fig2b", overrides=said | {"network": "lenet"})
        assert lenet.network == "lenet" and (lenet == configure("fig2b", overrides=said)) == (
            network == "lenet"
        )

    def test_a_folder_that_is_not_there_is_named(self):
        with pytest.raises(InputError, match="^folder:/x is not there"):
            configure("fig2b", overrides={"dataset": "folder:/x"})
        assert configure("fig2a", overrides={"dataset": "folder:/x"}).network == "lenet"

    def test_networks_of_a_source_stay(self):
        adapted = configure("table2-usps-mnist-random", overrides={"dataset": "cifar10"})
        assert adapted.network == "lenet"

    def test_a_reader_may_name_both(self):
        said = {"dataset": "mnist", "network": "alexcifarnet"}
        assert configure("fig2b", overrides=said).network == "alexcifarnet"


class TestAttackedClasses:
    def test_a_name_stands_for_its_number(self):
        named = {"dataset": "cifar10", "attacked": "cat", "target": "dog"}
        numbered = {"dataset": "cifar10", "attacked": "3", "target": "5"}
        config = configure("table3-cifar10-10", overrides=named)
        assert (config.attacked, config.target) == (3, 5)
        assert config.key == configure("table3-cifar10-10", overrides=numbered).key

    def test_a_misspelt_one_is_refused_with_the_nearest(self):
        said = "^attacked=dgo is no class of cifar10; did you mean dog.; allowed: plane, car"
        with pytest.raises(InputError, match=said):
            configure("table3-cifar10-10", overrides={"dataset": "cifar10", "attacked": "dgo"})


class TestScales:
    def test_they_are_three(self):
        assert list(SCALES) == ["smoke", "laptop", "paper"]
        with pytest.raises(InputError, match="'big': one of smoke, laptop, paper"):
            configure("fig2a", "big")

    def test_paper_is_as_defined(self):
        assert all(configure(name, "paper") == config for name, config in EXPERIMENTS.items())

    def test_laptop_has_fewer_steps_and_networks(self):
        paper = configure("fig3b")
        laptop = configure("fig3b", "laptop")
        fewer = {"iterations": 50, "nets": 50}
        assert (paper.iterations, paper.nets) == (400, 200)
        assert laptop == paper.model_copy(update=fewer)

    def test_laptop_has_larger_steps(self):
        config = configure("table1-mnist-one-5", "laptop")
        assert (config.iterations, config.chosen_on) == (50, 10)
        assert configure("fig3a").image_rate == 0.02 and configure("fig3a").raw_rate == 0.005
        assert configure("fig3a", "laptop").image_rate == 0.04
        assert configure("fig3a", "laptop").raw_rate == 0.01

    def test_laptop_has_fewer_of_the_large_network(self):
        assert configure("table1-cifar10-many-5").samples == 16
        assert configure("table1-cifar10-many-5", "laptop").samples == 4
        assert configure("table1-mnist-many-5", "laptop").samples == 64

    def test_smoke_is_on_digits(self):
        paper = configure("fig3b")
        smoke = configure("fig3b", "smoke")
        assert (smoke.dataset, smoke.network, smoke.nets) == ("digits", "lenet", 5)
        assert (smoke.steps, smoke.epochs) == (paper.steps, paper.epochs)

    def test_a_fixed_init_stays_one_network(self):
        assert {configure("fig2a", scale).nets for scale in SCALES} == {1}

    @pytest.mark.parametrize(("scale", "pool"), [("smoke", 4), ("laptop", 20), ("paper", 200)])
    def test_a_pool_is_smaller(self, scale, pool):
        attack = configure("table3-mnist-10", scale)
        assert (attack.pool, attack.nets) == (pool, pool)

    def test_smoke_adapts_from_digits_to_digits(self):
        config = configure("table2-svhn-mnist-random", "smoke")
        assert (config.source, config.dataset) == ("digits", "digits")


class TestImagesOf:
    """An experiment that tests another's images is tested on what that one makes."""

    SAID = {
        "nothing": {},
        "seed": {"seed": "3"},
        "faithful": {"faithful": "true"},
        "both": {"seed": "3", "faithful": "true"},
        "copy": {"dataset": "cifar10-jpeg"},
        "other data": {"dataset": "fashionmnist"},
        "shape": {"steps": "2", "epochs": "2", "per_class": "2", "soft_labels": "true"},
        "law": {"init": "he", "network": "alexcifarnet"},
    }

    def test_they_are_declared(self):
        assert IMAGES_OF == {"others-fig2a": "fig2a", "others-fig2b": "fig2b"}
        tested = {n for n, config in EXPERIMENTS.items() if config.images == "one-network"}
        assert tested == set(IMAGES_OF)

    @pytest.mark.parametrize("said", SAID)
    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("name", IMAGES_OF)
    def test_they_are_what_that_experiment_makes(self, name, scale, said):
        others = configure(name, scale, self.SAID[said])
        made = configure(IMAGES_OF[name], scale, self.SAID[said])
        assert others.for_one_network == made and others.for_one_network.key == made.key
        assert not others.fixed

    @pytest.mark.parametrize("name", IMAGES_OF)
    def test_the_number_of_test_networks_changes_no_image(self, name):
        made = configure(IMAGES_OF[name])
        assert configure(name, overrides={"nets": "7"}).for_one_network == made


class TestFile:
    """A catalogue of a reader's own; a mistake in it is named in one line."""

    SCALES_OF_FILE = "scales: {smoke: {}, laptop: {divide: {iterations: 8}}, paper: {}}\n"

    @pytest.fixture
    def written(self, tmp_path):
        def write(experiments, scales=self.SCALES_OF_FILE):
            file = tmp_path / "mine.yml"
            file.write_text(scales + textwrap.dedent(experiments))
            return read(file)

        return write

    def test_groups_give_entries_their_defaults(self, written):
        found = written("""
            experiments:
            - dataset: mnist
              steps: 3
              entries:
                - {name: a, also: [b, c], epochs: 2}
                - {name: d, steps: 1, fixed: true, nets: 1}
            - entries:
                - {name: e, images_of: d, nets: 9}
            """)
        mnist = {"dataset": "mnist"}
        assert found.experiments == {
            "a": Config(**mnist, steps=3, epochs=2),
            "d": Config(**mnist, fixed=True, nets=1),
            "e": Config(**mnist, images="one-network", nets=9),
        }
        assert found.aliases == {"b": "a", "c": "a"} and found.images_of == {"e": "d"}
        assert found.scales["laptop"].of(found.experiments["a"]) == {"iterations": 125}

    MISTAKES = {
        "unknown field": ("{name: b, dataset: mnist, step: 3}", "step"),
        "bad value": ("{name: b, dataset: mnist, steps: 0}", "greater than or equal to 1"),
        "no dataset": ("{name: b}", "dataset"),
        "no name": ("{dataset: mnist}", "name"),
        "name twice": ("{name: a, dataset: usps}", "a is there twice"),
        "name of an alias": ("{name: z, dataset: usps}", "z is there twice"),
        "alias of a name": ("{name: b, also: [a], dataset: usps}", "a is there twice"),
        "alias of itself": ("{name: b, also: [b], dataset: mnist}", "b is there twice"),
        "alias twice in one": ("{name: b, also: [c, c], dataset: mnist}", "c is there twice"),
        "alias twice": ("{name: b, also: [z], dataset: usps}", "z is there twice"),
        "unknown kind": ("{name: b, dataset: mnist, images: real}", "'random-real'"),
        "unknown network": ("{name: b, dataset: mnist, network: vgg}", "'lenet'"),
        "unknown law": ("{name: b, dataset: mnist, init: xavir}", "'xavier'"),
        "images_of unknown": ("{name: b, images_of: c}", "images_of c, which is no experiment"),
        "images_of itself": ("{name: b, images_of: b}", "images_of b, which is no experiment"),
        "images_of an alias": ("{name: b, images_of: z}", "images_of z, which is no experiment"),
        "images_of missing": (
            "{name: b, dataset: mnist, images: one-network}",
            "images: one-network and images_of belong together",
        ),
        "images_of other images": (
            "{name: b, images_of: a, images: averages}",
            "images: one-network and images_of belong together",
        ),
        "images_of another shape": ("{name: b, images_of: a, steps: 2}", "not those of a"),
        "images_of another seed": ("{name: b, images_of: a, seed: 1}", "not those of a"),
        "images_of many networks": ("{name: b, images_of: many}", "not those of many"),
    }

    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_a_mistake_in_an_entry_is_refused(self, written, mistake):
        entry, named = self.MISTAKES[mistake]
        with pytest.raises(InputError, match="^mine.yml cannot be used: ") as error:
            written(f"""
                experiments:
                - entries:
                    - {{name: a, also: [z], dataset: mnist, fixed: true, nets: 1}}
                    - {{name: many, dataset: mnist}}
                    - {entry}
                """)
        assert named in str(error.value) and "\n" not in str(error.value)

    TEXTS = {
        "empty": "",
        "no YAML": "experiments: [",
        "a list": "- 1",
        "no scales": "experiments: []",
        "no experiments": SCALES_OF_FILE,
        "unknown field of a scale": "scales: {smoke: {sett: {}}}\nexperiments: []",
        "unknown network's field": "scales: {smoke: {networks: {lenet: {x: 1}}}}\nexperiments: []",
        "no such field to set": "scales: {smoke: {set: {datset: digits}}}\nexperiments: []",
        "no such field to limit": "scales: {smoke: {at_most: {smples: 2}}}\nexperiments: []",
        "no entries": SCALES_OF_FILE + "experiments: [{dataset: mnist}]",
        "entries of text": SCALES_OF_FILE + "experiments: [{entries: [a]}]",
        "groups of text": SCALES_OF_FILE + "experiments: [a]",
    }

    @pytest.mark.parametrize("text", TEXTS)
    def test_a_file_of_another_form_is_refused(self, tmp_path, text):
        file = tmp_path / "mine.yml"
        file.write_text(self.TEXTS[text])
        with pytest.raises(InputError, match="^mine.yml cannot be used: [^\n]+$"):
            read(file)

    def test_a_file_that_cannot_be_read_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="^mine.yml cannot be used: .*No such file"):
            read(tmp_path / "mine.yml")
        (tmp_path / "mine.yml").write_bytes(b"\xff\xfe\xff")
        with pytest.raises(InputError, match="^mine.yml cannot be used: .*decode"):
            read(tmp_path / "mine.yml")


class TestRefusals:
    """What an experiment cannot do: exit status 2, one line, nothing written."""

    @pytest.mark.parametrize(
        ("experiment", "change", "named"),
        [
            pytest.param("table3-mnist-10", "attacked=1", "two different classes", id="same class"),
            pytest.param("table3-mnist-10", "target=12", "no class of digits", id="no such class"),
            pytest.param(
                "table3-mnist-10",
                "attacked=zero",
                "attacked=zero is no class of digits; allowed: 0, 1,",
                id="no such name",
            ),
            pytest.param(
                "table3-mnist-10", "target=", "target= is no class of digits", id="no name"
            ),
            pytest.param(
                "table3-mnist-10", "source=digits", "source means nothing", id="not adapted"
            ),
            pytest.param("table3-mnist-10", "pool=0", "at least 1", id="empty pool"),
            pytest.param(
                "table2-mnist-usps-random", "attacked=1", "attacked means nothing", id="no attack"
            ),
            pytest.param(
                "table2-mnist-usps-fixed", "pool=10", "pool means nothing", id="one network"
            ),
            pytest.param("table2-svhn-mnist-random", "source=svhm", "svhn", id="unknown source"),
            pytest.param("fig2a", "pool=10", "pool means nothing", id="no pool"),
            pytest.param("fig2a", "nets=2", "only 1 is allowed", id="fixed init"),
            pytest.param(
                "baseline-neighbour-real-mnist", "iterations=5", "nothing is trained", id="nearest"
            ),
            pytest.param(
                "baseline-averages-mnist", "soft_labels=true", "nothing is distilled", id="labels"
            ),
            pytest.param("full-mnist", "steps=5", "epoch by epoch", id="all images"),
        ],
    )
    def test_it_is_refused(self, ddcore, apart, experiment, change, named):
        done = ddcore("run", experiment, "--scale", "smoke", "-p", change)
        assert (done.status, done.out, len(done.err)) == (2, [], 1)
        assert named in done.err[0] and tree(apart) == []

    def test_several_faults_are_one_line(self):
        with pytest.raises(InputError, match="^steps=0: .*; nets=0: "):
            configure("fig3a", overrides={"steps": "0", "nets": "0"})

    def test_an_added_experiment_is_found(self, experiment):
        config = experiment("mine", Config(**SHARED))
        assert configure("mine") == config
        assert catalogue.resolve("mine") == "mine"
