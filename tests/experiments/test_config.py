"""A configuration's key, its derived properties, and what `-p name=value` is read as."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY
from pydantic import ValidationError

from ddcore.algorithm import Recipe
from ddcore.experiments import config as configuration
from ddcore.experiments.catalogue import SCALES, configure
from ddcore.experiments.config import OVERRIDES, Config, parse_override
from ddcore.support.errors import InputError

KEYS = json.loads(Path(__file__).with_name("keys.json").read_text())


def key_or_refusal(entry):
    """Of "fig3a smoke seed=1 steps=2" the key of the configuration, or "! " and the message."""
    name, scale, *parameters = entry.split()
    try:
        return configure(name, scale, dict(text.split("=") for text in parameters)).key
    except InputError as error:
        return f"! {error}"


class TestKey:
    @pytest.mark.parametrize("scale", SCALES)
    def test_keys_are_for_ever(self, scale):
        """Records are found by their key, so what was asked for once must keep its key; keys.json
        has those of the time before the package had its present form."""
        entries = {entry: key for entry, key in KEYS.items() if entry.split()[1] == scale}
        assert len(entries) > 400
        now = {entry: key_or_refusal(entry) for entry in entries}
        assert {e: (key, now[e]) for e, key in entries.items() if now[e] != key} == {}

    def test_a_default_is_left_out(self):
        """A new field with a default, and saying a default aloud, change no key."""

        class Later(Config):
            added: int = 7

        said = {"dataset": "mnist", "epochs": 3}
        key = Config(**said).key
        assert key == "12931be14fa6"
        assert Config(**said, steps=1, network="lenet").key == key
        assert Later(**said).key == key
        assert Later(**said, added=8).key != key

    def test_any_other_value_changes_it(self):
        said = {"dataset": "mnist", "epochs": 3}
        others = [
            {"seed": 1},
            {"steps": 2},
            {"dataset": "usps"},
            {"nets": 199},
            {"soft_labels": True},
            {"noise": 0.3},
        ]
        keys = {Config(**said | other).key for other in [{}, *others]}
        assert len(keys) == 1 + len(others)

    def test_the_algorithms_version_is_in_it(self, monkeypatch):
        key = TINY.key
        monkeypatch.setattr(configuration, "ALGORITHM_VERSION", 2)
        assert TINY.key != key


class TestFields:
    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            pytest.param({"images": "real"}, "'random-real'", id="kind of images"),
            pytest.param({"images": "base"}, "'random-real'", id="a file that is no kind"),
            pytest.param({"network": "resnet"}, "'lenet', 'alexcifarnet'", id="network"),
            pytest.param({"init": "xavir"}, "'xavier', 'xavier-half'", id="law"),
            pytest.param({"steps": 0}, "greater than or equal to 1", id="no step"),
            pytest.param({"image_rate": 0}, "greater than 0", id="no rate"),
            pytest.param({"step": 1}, "Extra inputs", id="unknown field"),
        ],
    )
    def test_what_is_not_known_is_refused(self, fields, named):
        with pytest.raises(ValidationError, match=named):
            Config(**{"dataset": "mnist", **fields})

    def test_a_configuration_does_not_change(self):
        with pytest.raises(ValidationError, match="frozen"):
            TINY.seed = 1  # pyright: ignore[reportAttributeAccessIssue]


class TestProperties:
    def test_images_per_class_count_over_all_steps(self):
        assert Config(dataset="mnist", steps=10, per_class=3).ipc == 30

    @pytest.mark.parametrize(
        ("fields", "dataset"),
        [
            pytest.param({}, "", id="a law draws them"),
            pytest.param({"source": "usps"}, "usps", id="adaptation"),
            pytest.param({"attacked": 0, "target": 1}, "mnist", id="attack"),
            pytest.param({"attacked": 0, "source": "usps"}, "usps", id="attack after adaptation"),
        ],
    )
    def test_what_initial_weights_were_trained_on(self, fields, dataset):
        assert Config(dataset="mnist", **fields).pretrained_on == dataset

    @pytest.mark.parametrize(
        ("fields", "networks"),
        [
            pytest.param({}, 10, id="law"),
            pytest.param({"chosen_on": 400}, 400, id="as many as said"),
            pytest.param({"fixed": True, "chosen_on": 400}, 1, id="the one there is"),
            pytest.param({"source": "usps", "pool": 4}, 4, id="at least 4 of a pool"),
            pytest.param({"source": "usps", "pool": 90}, 9, id="a tenth of a pool"),
            pytest.param({"source": "usps", "pool": 900}, 20, id="at most 20 of a pool"),
        ],
    )
    def test_how_many_networks_choices_are_made_on(self, fields, networks):
        assert Config(dataset="mnist", **fields).validation_networks == networks

    def test_the_configuration_that_made_the_images(self):
        made = Config(dataset="mnist", fixed=True, nets=1, epochs=3)
        others = made.model_copy(update={"images": "one-network", "fixed": False, "nets": 200})
        assert others.for_one_network == made

    def test_the_recipe_has_its_settings(self):
        config = Config(dataset="mnist", iterations=7, samples=2, batch=8, noise=1.0, clip=0.3)
        recipe = config.recipe
        assert (recipe.iterations, recipe.samples, recipe.batch) == (7, 2, 8)
        assert (recipe.noise, recipe.clip, recipe.halving) == (1.0, 0.3, False)


class TestFaithful:
    @pytest.mark.parametrize(
        ("name", "recipe"),
        [
            pytest.param("fig3a", Recipe.faithful(23_600, 0.02), id="mnist"),
            pytest.param("fig2b", Recipe.faithful(19_600, 0.001), id="cifar10"),
            pytest.param(
                "table3-mnist-10",
                replace(Recipe.faithful(23_600, 0.02), samples=4, image_rate=0.02, raw_rate=0.02),
                id="attack with a pool",
            ),
        ],
    )
    def test_it_is_the_papers_recipe(self, name, recipe):
        assert configure(name, overrides={"faithful": "true"}).recipe == recipe

    def test_the_configuration_says_so(self):
        config = configure("fig3a", overrides={"faithful": "true"})
        assert (config.batch, config.samples, config.iterations) == (1024, 1, 23_600)

    def test_a_scale_and_a_reader_may_change_its_numbers(self):
        recipe = configure("fig3a", "laptop", {"faithful": "true", "samples": "3"}).recipe
        assert recipe.samples == 3 and recipe.iterations == 187
        assert recipe.halving and recipe.common_batch


class TestParseOverride:
    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            pytest.param("steps", "3", 3, id="whole number"),
            pytest.param("soft_labels", "TRUE", True, id="true"),
            pytest.param("faithful", " false ", False, id="false"),
            pytest.param("init", "he", "he", id="text"),
            pytest.param("attacked", "7", 7, id="whole number that need not be there"),
            pytest.param("target", "cat", "cat", id="a class's name"),
            pytest.param("pool", "20", 20, id="pool"),
            pytest.param("dataset", "usps", "usps", id="dataset"),
            pytest.param("source", "svhn", "svhn", id="source"),
        ],
    )
    def test_text_becomes_the_fields_type(self, name, text, value):
        parsed = parse_override(name, text)
        assert parsed == value and type(parsed) is type(value)

    def test_a_folders_path_becomes_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/reader")
        assert parse_override("dataset", "folder:here") == f"folder:{tmp_path}/here"
        assert parse_override("source", "folder:~/x") == "folder:/home/reader/x"

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            pytest.param("steps", "3.0", "steps=3.0: a whole number is allowed", id="fraction"),
            pytest.param("pool", "", "pool=: a whole number is allowed", id="nothing"),
            pytest.param("faithful", "1", "faithful=1: true or false is allowed", id="switch"),
            pytest.param("clip", "1", "unknown parameter 'clip'", id="an experiments own field"),
            pytest.param("stepz", "1", "did you mean steps?", id="misspelt parameter"),
            pytest.param("dataset", "mnits", "did you mean mnist?", id="misspelt dataset"),
            pytest.param("source", "svhm", "did you mean svhn?", id="misspelt source"),
            pytest.param(
                "source", "x", "cifar10, cifar10-png, cifar10-jpeg, folder:PATH", id="any"
            ),
        ],
    )
    def test_what_is_not_allowed_is_refused(self, name, text, message):
        with pytest.raises(InputError) as error:
            parse_override(name, text)
        assert message in str(error.value)

    def test_every_parameter_is_a_field(self):
        assert set(OVERRIDES) <= set(Config.model_fields)
        assert len(set(OVERRIDES)) == len(OVERRIDES)
