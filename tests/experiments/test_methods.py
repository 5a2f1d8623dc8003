"""The kinds of training images: each is made, stored and verified; and what adding one takes."""

import shutil
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from conftest import checked, edit_record, set_apart, tree

from ddcore import baselines, datasets
from ddcore.accuracy import evaluate
from ddcore.baselines import PAPERS_RATES
from ddcore.distilled import class_major
from ddcore.experiments import catalogue, methods, records
from ddcore.experiments.config import OVERRIDES, Config
from ddcore.experiments.methods.drawn import Drawn
from ddcore.experiments.run import run
from ddcore.experiments.setup import prepare
from ddcore.experiments.verify import verify
from ddcore.networks import generator
from ddcore.support.errors import InputError
from ddcore.unroll import train, train_in_float64

SMALL = Config(dataset="digits", steps=2, nets=3, iterations=2, batch=64)
DRAWN_AGAIN = ["random-real", "best-of-many", "neighbour-real"]
STORED = ["averages", "centres", "neighbour-centres"]
BASELINES = [*DRAWN_AGAIN, *STORED]


def small(kind):
    return SMALL.model_copy(update={"images": kind})


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """results("averages"): the folder with one record of that kind, made when first asked for."""
    folders = {}

    def of(kind):
        if kind not in folders:
            with pytest.MonkeyPatch.context() as monkeypatch:
                folder = set_apart(monkeypatch, tmp_path_factory.mktemp(kind))
                monkeypatch.setitem(catalogue.EXPERIMENTS, "small", small(kind))
                run("small")
            folders[kind] = folder / "results"
        return folders[kind]

    return of


@pytest.fixture
def made(apart, experiment, results):
    """made("averages"): a record of `small` with images of that kind, which a test may damage."""

    def copy(kind):
        experiment("small", small(kind))
        shutil.copytree(results(kind), apart / "results")
        return records.find("small")

    return copy


class TestNames:
    def test_a_name_is_a_files(self):
        assert set(methods.NAMES) == {
            *BASELINES,
            *("distilled", "one-network", "soft-real", "all"),
        }
        assert type(methods.get("best-of-many")).__module__.endswith(".best_of_many")

    @pytest.mark.parametrize("kind", methods.NAMES)
    def test_each_says_what_it_is(self, kind):
        method = methods.get(kind)
        assert method is methods.get(kind) and method.title
        assert method.stores_images == (kind not in [*DRAWN_AGAIN, "all"])
        assert all(names <= set(OVERRIDES) and reason for names, reason in method.ignored)


class TestRecords:
    @pytest.mark.parametrize("kind", [*BASELINES, "all"])
    def test_a_record_is_verified(self, kind, made):
        record = made(kind)
        assert verify(record).agrees and verify(record, nets=1).agrees

    @pytest.mark.parametrize("kind", [*BASELINES, "all"])
    def test_a_made_up_accuracy_fails(self, kind, made):
        half = {"mean": 0.5, "std": None, "n": 1, "values": [0.5]}
        record = made(kind).model_copy(update={"metrics": {"test_accuracy": half}})
        assert not verify(record).agrees

    @pytest.mark.parametrize(
        ("kind", "n"),
        [
            pytest.param("random-real", 3, id="a network each"),
            pytest.param("neighbour-real", 3, id="a draw each"),
            pytest.param("neighbour-centres", 1, id="nothing is drawn"),
            pytest.param("all", 3, id="fully trained networks"),
        ],
    )
    def test_how_many_values_there_are(self, kind, n, made):
        metrics = made(kind).metrics
        assert metrics["test_accuracy"]["n"] == n == methods.get(kind).tested(SMALL)
        is_trained_here = kind == "random-real"
        assert ("test_accuracy_before" in metrics) == is_trained_here

    @pytest.mark.parametrize("kind", ["random-real", "best-of-many", "averages", "centres"])
    def test_the_learning_rates_are_the_best_of_seven(self, kind, made):
        details = made(kind).distillation
        by_rate = details["validation_accuracy_by_rate"]
        assert list(by_rate) == ["learned", *(f"{rate:g}" for rate in PAPERS_RATES)]
        assert by_rate[details["rate"]] == max(by_rate.values())

    def test_a_given_learning_rate_takes_the_place_of_the_learned_one(self, apart, experiment):
        experiment("small", small("random-real").model_copy(update={"given_rate": 0.002}))
        by_rate = run("small").distillation["validation_accuracy_by_rate"]
        assert list(by_rate) == ["given", *(f"{rate:g}" for rate in PAPERS_RATES)]

    def test_labels_of_real_images_are_learned_and_the_images_stay(self, apart, experiment):
        config = small("soft-real").model_copy(update={"soft_labels": True})
        experiment("small", config)
        record = run("small")
        setup = prepare(config)
        draw = baselines.random_real(setup.data, config.steps, config.per_class)
        assert torch.equal(record.distilled.images, draw(generator(config.seed, "images")))
        assert not torch.equal(record.distilled.soft_labels, record.distilled.targets().round())
        assert verify(record).agrees

    @pytest.mark.parametrize("kind", STORED)
    def test_stored_images_are_those_of_their_source(self, kind, made):
        record = made(kind)
        digits = datasets.load("digits")
        source = baselines.averages if kind == "averages" else baselines.centres
        images = source(digits, steps=2, per_class=1)(generator(0))
        torch.testing.assert_close(record.distilled.images, images)
        assert record.distilled.init is None and record.distilled.lrs.shape == (1, 2)

    def test_too_few_images_are_refused_before_anything_is_made(self, ddcore, experiment, apart):
        experiment("small", small("random-real"))
        done = ddcore("run", "small", "-p", "per_class=99")
        assert done.status == 2 and "198 are asked for" in done.err[0] and tree(apart) == []

    def test_the_best_of_many_are_the_fifth_that_is_best_on_validation_images(
        self, apart, experiment
    ):
        config = experiment("small", small("best-of-many").model_copy(update={"nets": 10}))
        details = run("small").distillation
        setup = prepare(config)
        draw = baselines.random_real(setup.data, 2, 1)
        few = setup.weights(5, "validation")

        def score(j):
            images = draw(generator(0, "test", "images", j))
            data = class_major(setup.data, images, torch.tensor(details["lrs"]))
            trained = train(setup.network, data, few)
            return evaluate(setup.network, trained, *setup.data.validation).mean().item()

        scores = {j: score(j) for j in range(10)}
        chosen = [scores.pop(j) for j in details["sets"]]
        assert len(chosen) == 2 and min(chosen) >= max(scores.values()) > min(scores.values())


class TestDrawnAgain:
    """Kinds whose images are drawn from the seed are not stored; their learning rates are."""

    @pytest.mark.parametrize("kind", [*DRAWN_AGAIN, "all"])
    def test_no_image_is_stored(self, kind, made):
        record = made(kind)
        assert tree(record.folder) == ["record.json"] and not record.has_images

    @pytest.mark.parametrize("kind", ["random-real", "best-of-many"])
    def test_the_record_has_their_rates(self, kind, made):
        lrs = torch.tensor(made(kind).distillation["lrs"])
        assert lrs.shape == (1, 2) and lrs.min() > 0

    def test_a_network_trains_on_images_of_its_own(self, made):
        """As written here from the paper's words alone: run j has the images and the network that
        follow from (seed, j)."""
        record = made("random-real")
        setup = prepare(Config(**record.config))
        draw = baselines.random_real(setup.data, 2, 1)
        lrs = torch.tensor(record.distillation["lrs"])
        for j, stated in enumerate(record.metrics["test_accuracy"]["values"]):
            images = draw(generator(0, "test", "images", j))
            data = class_major(setup.data, images, lrs)
            theta = setup.network.init("xavier", generator(0, "test", j))[None]
            trained = train_in_float64(setup.network, data, theta)
            now = evaluate(setup.network, trained, *setup.data.test).item()
            assert stated == pytest.approx(now, abs=1e-6)

    DAMAGE = {
        "other rates": lambda d: d.update(lrs=[[50 * lr for lr in row] for row in d["lrs"]]),
        "rates of more epochs": lambda d: d.update(lrs=2 * d["lrs"]),
        "rates of fewer steps": lambda d: d.update(lrs=[row[:1] for row in d["lrs"]]),
        "one rate": lambda d: d.update(lrs=0.1),
        "no rates": lambda d: d.pop("lrs"),
        "rates of text": lambda d: d.update(lrs=[["a", "b"]]),
        "rates that are none": lambda d: d.update(lrs=None),
        "rates that are no numbers": lambda d: d.update(lrs=[[float("nan")] * 2]),
    }

    @pytest.mark.parametrize("what", DAMAGE)
    @pytest.mark.parametrize("kind", ["random-real", "best-of-many"])
    def test_tampered_rates_fail(self, kind, what, made):
        edit_record(made(kind).folder, lambda c: self.DAMAGE[what](c["distillation"]))
        agrees, line = checked(records.find("small"))
        assert not agrees and line.startswith("small FAIL (") and "\n" not in line

    SETS = {
        "other sets": lambda d: d.update(sets=[d["sets"][0] + 1]),
        "no sets": lambda d: d.pop("sets"),
        "empty": lambda d: d.update(sets=[]),
        "a number": lambda d: d.update(sets=3),
    }

    @pytest.mark.parametrize("what", SETS)
    def test_tampered_choices_fail(self, what, made):
        edit_record(made("best-of-many").folder, lambda c: self.SETS[what](c["distillation"]))
        agrees, line = checked(records.find("small"))
        assert not agrees and line.startswith("small FAIL (") and "\n" not in line

    @pytest.fixture
    def old(self, made):
        """old("random-real"): a record as they were: the first run's images beside it in a file,
        with the rates."""

        def of(kind):
            record = made(kind)
            setup = prepare(Config(**record.config))
            images = methods.get(kind).redraw(setup, record.distillation)
            images.save(record.folder / "distilled.safetensors")
            edit_record(record.folder, lambda c: c["distillation"].pop("lrs", None))
            return records.find("small")

        return of

    @pytest.mark.parametrize("kind", DRAWN_AGAIN)
    def test_a_record_of_the_old_form_is_verified(self, kind, old):
        record = old(kind)
        assert tree(record.folder) == ["distilled.safetensors", "record.json"]
        assert "lrs" not in record.distillation
        assert verify(record).agrees and verify(record, nets=1).agrees

    @pytest.mark.parametrize("kind", ["random-real", "best-of-many"])
    def test_tampered_rates_of_the_old_form_fail(self, kind, old):
        record = old(kind)
        other = replace(record.distilled, lrs=50 * record.distilled.lrs)
        other.save(record.folder / "distilled.safetensors")
        assert not verify(records.find("small")).agrees

    @pytest.mark.parametrize("kind", DRAWN_AGAIN)
    def test_an_old_record_of_another_shape_fails(self, kind, old):
        record = old(kind)
        images = record.distilled
        first = {"images": images.images[:1], "labels": images.labels[:1]}
        short = replace(images, **first, lrs=images.lrs[:, :1])
        short.save(record.folder / "distilled.safetensors")
        agrees, line = checked(records.find("small"))
        assert not agrees and "its images or rates are not those of its configuration" in line


def declare_pair(setitem):
    """`others-small` tests the images of `small`."""
    settings = {"dataset": "digits", "steps": 2, "iterations": 40, "batch": 64, "image_rate": 0.1}
    others = Config(**settings, images="one-network", nets=5)
    setitem(catalogue.EXPERIMENTS, "small", Config(**settings, fixed=True, nets=1))
    setitem(catalogue.EXPERIMENTS, "others-small", others)
    setitem(catalogue.IMAGES_OF, "others-small", "small")


@pytest.fixture(scope="session")
def both(tmp_path_factory):
    """The results folder of one run of `others-small`, the labels learned too."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = set_apart(monkeypatch, tmp_path_factory.mktemp("both"))
        declare_pair(monkeypatch.setitem)
        run("others-small", overrides={"soft_labels": "true", "nets": "4"})
        return folder / "results"


class TestOneNetwork:
    """Images made for one network, tested on others."""

    @pytest.fixture
    def pair(self, both, apart, monkeypatch):
        """The record of `others-small` and that of the images it tests."""
        declare_pair(monkeypatch.setitem)
        shutil.copytree(both, apart / "results")
        said = {"soft_labels": "true"}
        tested = catalogue.configure("others-small", overrides=said | {"nets": "4"})
        made = catalogue.configure("small", overrides=said)
        return records.at("others-small", tested.key), records.at("small", made.key)

    def test_the_images_are_made_first_and_found(self, pair):
        tested, made = pair
        assert made.environment["started"] <= tested.environment["started"]
        assert all(map(torch.equal, tested.distilled.learned(), made.distilled.learned()))
        assert tested.distilled.init is None and len(made.distilled.init) == 10

    def test_others_do_worse(self, pair):
        scores = [record.metrics["test_accuracy"] for record in pair]
        assert scores[0]["n"] == 4 and max(scores[0]["values"]) < scores[1]["mean"]

    def test_it_is_verified(self, pair):
        assert verify(pair[0]).agrees and verify(pair[1]).agrees

    @pytest.mark.parametrize("tensor", ["images", "lrs", "soft_labels"])
    def test_images_that_are_not_those_fail(self, pair, tensor):
        tested, made = pair
        learned = made.distilled.learned()
        learned = learned._replace(**{tensor: getattr(learned, tensor) * 1.001})
        other = made.distilled.with_learned(learned)
        other.save(made.folder / "distilled.safetensors")
        assert "its images are not those that one network has here" in verify(tested).line

    def test_images_that_are_gone_fail(self, pair):
        tested, made = pair
        shutil.rmtree(made.folder)
        agrees, line = checked(tested)
        assert not agrees and "its images are not those that one network has here" in line

    def test_without_their_record_nothing_can_be_made(self, apart, experiment):
        """Where nobody said whose they are."""
        others = Config(dataset="digits", images="one-network", iterations=1, nets=1)
        experiment("others", others)
        with pytest.raises(InputError, match="the images to test have no record here"):
            run("others")


class Mine(Drawn):
    """The first training image of each class, in all steps."""

    title = "the first image of each class"

    def source(self, setup):
        first = [members[0] for members in baselines.members_of(setup.data, 1)]
        images = setup.data.train[0][torch.stack(first)].repeat(setup.config.steps, 1, 1, 1, 1)
        return lambda rng: images


class TestAnotherKind:
    """Adding a kind is adding a file."""

    @pytest.fixture
    def mine(self, apart, monkeypatch):
        module = ModuleType("ddcore.experiments.methods.mine")
        module.KIND = Mine()
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(methods, "NAMES", [*methods.NAMES, "mine"])

    def test_it_runs_and_is_verified(self, mine, experiment, ddcore):
        config = experiment("small", Config(**SMALL.model_dump() | {"images": "mine"}))
        folder = ddcore("run", "small").out[-1]
        record = records.find("small")
        assert str(record.folder) == folder and record.key == config.key
        digits = datasets.load("digits")
        expected = torch.stack([digits.train[0][digits.train[1] == k][0] for k in range(10)])
        assert torch.equal(record.distilled.images, expected.expand(2, *expected.shape))
        done = ddcore("verify", "small")
        assert done.status == 0 and done.out[0].startswith("small PASS")

    def test_it_has_its_refusals_and_its_cost(self, mine, experiment, ddcore):
        experiment("small", Config(**SMALL.model_dump() | {"images": "mine"}))
        refused = ddcore("run", "small", "-p", "soft_labels=true")
        assert refused.status == 2 and "nothing is distilled" in refused.err[0]
        planned = ddcore("run", "small", "--dry-run")
        assert planned.status == 0 and "images: mine" in planned.out
