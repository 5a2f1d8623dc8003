"""Pools of pretrained networks, and attacks and adaptations that start from them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import checked, set_apart, tree
from PIL import Image
from safetensors import safe_open

import ddcore
from ddcore import datasets
from ddcore.experiments import catalogue, methods, pretrained, records
from ddcore.experiments.config import Config
from ddcore.experiments.pretrained import Pool, training_of
from ddcore.experiments.run import run
from ddcore.experiments.setup import init_law, initial_weights, prepare
from ddcore.experiments.verify import verify
from ddcore.networks import LeNet, generator
from ddcore.support.errors import InputError
from ddcore.support.registry import ARCHITECTURES, DATASETS
from ddcore.unroll import train_in_float64

RECIPE = {
    "samples": 4,
    "batch": 64,
    "iterations": 60,
    "image_rate": 0.06,
    "raw_rate": 0.02,
    "first_lr": 0.05,
    "checks": 3,
}
ATTACK = Config(dataset="digits", attacked=3, target=8, pool=4, nets=4, per_class=2, **RECIPE)


@pytest.fixture(scope="module")
def quick():
    """Networks are trained on the digits for half as long as usual."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        half = replace(DATASETS["digits"], pretrain_epochs=4, pretrain_batch=64)
        monkeypatch.setitem(DATASETS, "digits", half)
        yield


@pytest.fixture(scope="module")
def pools(quick, tmp_path_factory):
    """The cache folder with the twelve networks of `ATTACK`."""
    folder = tmp_path_factory.mktemp("pools")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        pretrained.train_pool(ATTACK)
    return folder


@pytest.fixture
def attack(apart, pools, experiment):
    """An experiment `attack` whose pool is trained already."""
    shutil.copytree(pools, apart / "cache")
    experiment("attack", ATTACK)
    return apart


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


class TestTraining:
    def test_a_dataset_says_how_long_its_networks_are_trained(self):
        attack = Config(dataset="mnist", attacked=0, target=1, pool=9, seed=5, epochs=3, steps=2)
        assert training_of(attack) == Config(
            dataset="mnist", images="all", epochs=DATASETS["mnist"].pretrain_epochs, batch=256
        )

    def test_adapted_networks_are_trained_on_the_source(self):
        config = Config(dataset="mnist", source="usps", init="he", network="alexcifarnet")
        assert training_of(config) == Config(
            dataset="usps",
            images="all",
            network="alexcifarnet",
            init="he",
            epochs=DATASETS["usps"].pretrain_epochs,
            batch=DATASETS["usps"].pretrain_batch,
        )

    def test_fully_trained_networks_are_trained_as_they_say(self):
        config = Config(dataset="mnist", images="all", epochs=30, batch=32, seed=4, nets=7)
        assert training_of(config) == config.model_copy(update={"nets": 200})

    def test_an_attack_and_another_share_their_networks(self):
        other = ATTACK.model_copy(update={"attacked": 1, "per_class": 5, "pool": 40, "seed": 8})
        assert training_of(other) == training_of(ATTACK)


class TestPool:
    def test_networks_do_not_depend_on_how_many_are_asked_for(self, attack):
        pool = Pool.of(ATTACK)
        four = pool.weights("test", range(4))
        assert torch.equal(four[:2], pool.weights("test", range(2)))
        assert torch.equal(four[3:], pool.weights("test", range(3, 4)))

    def test_those_tested_chosen_on_and_distilled_with_are_others(self, attack):
        pool = Pool.of(ATTACK)
        tested = pool.weights("test", range(4))
        mine = pool.weights("pool", range(4))
        choice = initial_weights(ATTACK, LeNet(), 4, "validation")
        assert len(torch.cat([tested, mine, choice]).unique(dim=0)) == 12

    def test_a_distillation_draws_from_its_own(self, attack):
        mine = Pool.of(ATTACK).weights("pool", range(4))
        law = init_law(ATTACK, LeNet())
        drawn = {tuple(law(generator(k))[:5].tolist()) for k in range(40)}
        assert drawn == {tuple(theta[:5].tolist()) for theta in mine}

    def test_an_interrupted_pool_goes_on_and_is_rebuilt_bit_by_bit(self, attack):
        pool = Pool.of(ATTACK)
        first, second = pool.paths("pool", range(8)).values()
        before = pool.weights("pool", range(8))
        kept = first.stat().st_mtime_ns
        second.unlink()
        assert torch.equal(pool.weights("pool", range(8)), before)
        assert first.stat().st_mtime_ns == kept and second.exists()

    def test_what_is_missing_is_counted(self, attack):
        assert pretrained.untrained(ATTACK) == 0
        next(iter(Pool.of(ATTACK).paths("pool", range(4)).values())).unlink()
        assert pretrained.untrained(ATTACK) == 4
        more = ATTACK.model_copy(update={"pool": 40})
        assert pretrained.untrained(more) == 4 + 36

    def test_a_file_says_what_it_is(self, attack):
        path = Pool.of(ATTACK).ensure("test", range(1))[0]
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["ddcore"])
            assert file.get_tensor("theta").dtype == torch.float16
        assert header["classes"] == [*"0123456789"] and header["channels"] == 1
        assert len(header["accuracy"]) == 4 and min(header["accuracy"]) > 0.85
        assert Pool.of(ATTACK).reads() == (tuple("0123456789"), 1)

    def test_a_damaged_file_is_named(self, attack):
        path = Pool.of(ATTACK).ensure("test", range(1))[0]
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(InputError, match="is damaged .*delete it") as error:
            Pool.of(ATTACK).weights("test", range(1))
        assert str(path) in str(error.value)

    def test_a_pool_says_how_its_networks_do(self, attack):
        said = pretrained.train_pool(ATTACK)
        assert said["training"] == training_of(ATTACK).key and said["networks"] == 12
        assert 0.85 < said["lowest"] <= said["validation_accuracy"] <= 1
        assert said["sha256"] == datasets.load("digits").sha256

    def test_the_first_test_networks_are_kept_beside_the_records(self, attack):
        pretrained.keep_beside_records(ATTACK, attack / "results")
        folder = f"networks/{training_of(ATTACK).key}"
        assert tree(attack / "results") == ["networks", folder, f"{folder}/test-0000.safetensors"]
        assert pretrained.committed(ATTACK) == 4
        assert pretrained.committed(ATTACK.model_copy(update={"nets": 200})) == 20

    def test_those_beside_the_records_are_read_first(self, attack):
        before = Pool.of(ATTACK).weights("test", range(4))
        pretrained.keep_beside_records(ATTACK, attack / "results")
        shutil.rmtree(attack / "cache")
        path = Pool.of(ATTACK).ensure("test", range(4))[0]
        assert path.is_relative_to(attack / "results")
        assert torch.equal(Pool.of(ATTACK).weights("test", range(4)), before)


class TestFolders:
    """Networks trained on a folder of images, which may change while its name does not."""

    def test_they_are_trained_again_when_its_images_change(self, apart, pictures):
        folder = pictures()
        config = Config(dataset=f"folder:{folder}", images="all", epochs=1, nets=3)

        def networks():
            return pretrained.train_pool(config), Pool.of(config).weights("test", range(3))

        before, theta = networks()
        assert before["networks"] == 3 and torch.equal(networks()[1], theta)
        shutil.copyfile(folder / "train" / "a" / "0.png", folder / "train" / "a" / "1.png")
        after, again = networks()
        assert after["sha256"] != before["sha256"] and not torch.equal(again, theta)

    def test_a_run_from_them_is_made_again_when_its_images_change(self, apart, pictures):
        folder = pictures()
        target = shutil.copytree(folder, apart / "target")
        said = {"source": f"folder:{folder}", "dataset": f"folder:{target}"}
        said |= {"pool": "1", "nets": "1", "iterations": "1"}

        def made():
            return run("table2-usps-mnist-random", "smoke", said)

        first = made()
        assert made().environment == first.environment
        shutil.copyfile(folder / "train" / "a" / "0.png", folder / "train" / "a" / "1.png")
        again = made()
        pools = [record.distillation["pool"]["sha256"] for record in (first, again)]
        assert pools[0] != pools[1]
        assert made().environment == again.environment


class TestAttack:
    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, pools, tmp_path_factory):
        """The results folder of one run of `attack`, with the networks beside it."""
        with pytest.MonkeyPatch.context() as monkeypatch:
            folder = set_apart(monkeypatch, tmp_path_factory.mktemp("attack"))
            shutil.copytree(pools, folder / "cache")
            monkeypatch.setitem(catalogue.EXPERIMENTS, "attack", ATTACK)
            run("attack")
            return folder / "results"

    @pytest.fixture
    def record(self, made, attack):
        shutil.copytree(made, attack / "results")
        return records.find("attack")

    def test_one_class_is_taken_for_another(self, record):
        mean = {name: metric["mean"] for name, metric in record.metrics.items()}
        assert mean["attacked_correct_before"] > 0.8 and mean["attacked_correct"] < 0.4
        assert mean["attacked_as_target"] > 0.4 > mean["attacked_as_target_before"]
        assert mean["accuracy_wrt_modified"] > mean["accuracy_wrt_modified_before"]
        others = [a for k, a in enumerate(mean["class_accuracy"]) if k != 3]
        assert len(others) == 9 and min(others) > 0.6

    def test_the_record_says_what_was_done(self, record):
        assert next(iter(record.metrics)) == "test_accuracy"
        assert record.distillation["pool"]["networks"] == 12
        assert record.distilled.meta["objective"] == "3 taken for 8"
        assert record.distilled.meta["init_law"] == "trained on digits"

    def test_images_carry_true_labels(self, record):
        """Section 3.5."""
        assert torch.equal(record.distilled.labels[0], torch.arange(10).repeat_interleave(2))

    def test_its_scores_are_counts(self, record, digits):
        """As counted here."""
        network = LeNet()
        theta = initial_weights(ATTACK, network, 4)
        x, y = digits.test
        seen = network(train_in_float64(network, record.distilled, theta), x).argmax(-1)
        wanted = torch.where(y == 3, 8, y)
        hits = {
            "test_accuracy": seen == y,
            "accuracy_wrt_modified": seen == wanted,
            "attacked_correct": seen[:, y == 3] == 3,
            "attacked_as_target": seen[:, y == 3] == 8,
        }
        for name, right in hits.items():
            expected = right.double().mean().item()
            assert record.metrics[name]["mean"] == pytest.approx(expected, abs=1e-9)

    def test_a_reader_must_give_the_networks(self, record):
        with pytest.raises(InputError, match="trained on digits.*give weights"):
            ddcore.train_on(record.distilled)
        network = LeNet()
        theta = initial_weights(ATTACK, network, 4)
        by_hand = ddcore.train_on(record.distilled, network.unflatten(theta))
        trained = train_in_float64(network, record.distilled, theta)
        assert torch.equal(network.flatten(by_hand), trained)

    def test_the_networks_beside_it_are_enough_to_verify_it(self, record, attack):
        """As in a clone, where only the record came along."""
        shutil.rmtree(attack / "cache")
        assert verify(record, nets=2).agrees and verify(record).agrees

    def test_networks_beyond_those_beside_it_are_not_tested(self, record, monkeypatch):
        lenet = replace(ARCHITECTURES["lenet"], committed=2)
        monkeypatch.setitem(ARCHITECTURES, "lenet", lenet)
        assert verify(record).line.endswith("n = 2)") and verify(record, 3).line.endswith("n = 2)")

    def test_a_class_tampered_with_fails(self, record):
        record.metrics["class_accuracy"]["values"][1][4] -= 0.1
        record.metrics["class_accuracy"]["mean"][4] -= 0.025
        agrees, line = checked(record)
        assert not agrees and "class_accuracy is another" in line

    def test_networks_that_are_trained_otherwise_now_fail(self, record):
        record.distillation["pool"]["training"] = "0123456789ab"
        agrees, line = checked(record)
        assert not agrees and "its networks are trained otherwise now" in line

    @pytest.mark.parametrize("kind", ["random-real", "averages"])
    def test_real_images_of_the_attacked_class_are_labelled_as_the_target(
        self, attack, experiment, kind
    ):
        settings = {"images": kind, "iterations": 2}
        config = experiment("attack-real", Config(**ATTACK.model_dump() | settings))
        record = run("attack-real")
        method = methods.get(kind)
        images = method.redraw(prepare(config), record.distillation) or record.distilled
        labels = [0, 0, 1, 1, 2, 2, 8, 8, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
        assert images.labels[0].tolist() == labels
        rates = {"learned", "0.001", "0.003", "0.01", "0.03", "0.1", "0.3"}
        assert record.distillation["rate"] in rates
        assert {"attacked_correct", "attacked_as_target_before"} <= set(record.metrics)
        assert verify(record).agrees


@pytest.mark.slow
class TestAdaptation:
    @pytest.fixture
    def inverted(self, attack, digits):
        """A folder of the digits in black on white."""
        folder = attack / "inverted"
        for part, (x, y) in (("train", digits.train), ("test", digits.test)):
            for j, (image, label) in enumerate(zip(x, y, strict=True)):
                place = folder / part / str(int(label))
                place.mkdir(parents=True, exist_ok=True)
                pixels = 1 - (image[0] * digits.std[0] + digits.mean[0]).clamp(0, 1)
                Image.fromarray((255 * pixels).byte().numpy()).save(place / f"{j}.png")
        return f"folder:{folder}"

    @pytest.mark.parametrize(
        "networks",
        [
            pytest.param({"pool": 4, "nets": 4}, id="many"),
            pytest.param({"fixed": True, "pool": 0, "nets": 1}, id="one"),
        ],
    )
    def test_networks_are_adapted_to_a_dataset_they_do_not_know(
        self, inverted, experiment, networks
    ):
        settings = {"dataset": "digits", "source": "digits", "steps": 2, "epochs": 2}
        config = experiment("adaptation", Config(**settings, **networks, **RECIPE))
        record = run("adaptation", overrides={"dataset": inverted})
        before = record.metrics["test_accuracy_before"]["mean"]
        after = record.metrics["test_accuracy"]["mean"]
        assert before < 0.5 and after > before + 0.25
        assert (record.distilled.init is not None) == config.fixed and verify(record).agrees
