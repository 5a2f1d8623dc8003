"""Adaptation and poisoning (sections 3.5 and 4.2): what the outer loss asks for, pools of networks, their records."""

import shutil

import pytest
import torch
from PIL import Image

import ddcore
from ddcore import datasets, objectives
from ddcore.experiments import catalogue, pretrained
from ddcore.experiments.catalogue import Config
from ddcore.experiments.run import run, verify
from ddcore.errors import InputError
from ddcore.accuracy import confusion, evaluate
from ddcore.networks import LeNet, generator
from ddcore.unroll import train_in_float64

RECIPE = dict(samples=4, batch=64, iterations=60, image_rate=0.06, raw_rate=0.02, first_lr=0.05, checks=3)
ATTACK = Config(dataset="digits", attacked=3, target=8, pool=4, nets=4, per_class=2, **RECIPE)


@pytest.fixture
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """The cache folder with twelve networks trained on the digits, for half as long as usual."""
    folder = tmp_path_factory.mktemp("pools")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(inits.TRAINING, "digits", {"epochs": 4, "batch": 64})
        patch.setenv("XDG_CACHE_HOME", str(folder))
        inits.pool(ATTACK, "cpu")
        yield folder


@pytest.fixture
def attack(apart, pools, monkeypatch):
    """An experiment `attack` whose pool is trained already."""
    shutil.copytree(pools, apart / "cache")
    monkeypatch.setitem(experiments.EXPERIMENTS, "attack", ATTACK)
    return apart


def test_poisoned_data_differs_in_the_labels_of_one_class(digits):
    asked = objectives.poisoned(digits, 3, 8)
    for split in ("train", "validation", "test"):
        (x, y), (same, changed) = getattr(digits, split), getattr(asked, split)
        assert x is same and (changed[y == 3] == 8).all() and torch.equal(changed[y != 3], y[y != 3])
    assert (digits.train[1] == 3).any()


@pytest.mark.parametrize(("attacked", "target"), [(3, 3), (10, 1), (0, -1)])
def test_classes_that_cannot_be_attacked_are_named(digits, attacked, target):
    with pytest.raises(InputError, match="attacked|target"):
        objectives.poisoned(digits, attacked, target)


def test_grey_images_are_repeated_for_networks_that_read_colours(digits):
    wide = objectives.matched(digits, "svhn", list(digits.classes), 3)
    assert wide.shape == (3, 28) and torch.equal(wide.test[0][:, 2], digits.test[0][:, 0]) and len(wide.mean) == 3
    assert objectives.matched(digits, "mnist", list(digits.classes), 1) is digits
    with pytest.raises(InputError, match="3 channels|has 3"):
        objectives.matched(wide, "mnist", list(digits.classes), 1)
    with pytest.raises(InputError, match="9"):
        objectives.matched(digits, "eight", list(digits.classes[:9]), 1)
    with pytest.raises(InputError, match="order"):
        objectives.matched(digits, "mixed", list(digits.classes[::-1]), 1)


def test_confusion_counts_every_image_once(digits):
    network = LeNet()
    theta = torch.stack([network.init("xavier", generator(j)) for j in range(3)])
    x, y = digits.test
    taken = confusion(network, theta, x, y)
    right = taken.diagonal(dim1=1, dim2=2).sum(1) / len(y)
    torch.testing.assert_close(right.double(), evaluate(network, theta, x, y), rtol=0, atol=1e-6)
    seen = network(theta, x).argmax(-1)
    assert taken[1, 4, 7] == ((y == 4) & (seen[1] == 7)).sum() and (taken.sum(2) == y.bincount()).all()


def test_held_out_networks_are_others_and_do_not_depend_on_how_many_are_asked_for(attack):
    training = inits.training_of(ATTACK)
    four, two = (inits.weights(training, "test", range(n)) for n in (4, 2))
    assert torch.equal(four[:2], two) and torch.equal(inits.weights(training, "test", range(3, 4))[0], four[3])
    mine, choice = inits.weights(training, "pool", range(4)), inits.networks(ATTACK, LeNet(), 4, "validation")
    everyone = torch.cat([four, mine, choice])
    assert len(everyone.unique(dim=0)) == 12
    drawn = {tuple(inits.init_law(ATTACK, LeNet())(generator(k))[:5].tolist()) for k in range(40)}
    assert drawn == {tuple(theta[:5].tolist()) for theta in mine}


def test_an_interrupted_pool_goes_on_and_is_rebuilt_bit_by_bit(attack):
    training = inits.training_of(ATTACK)
    first, second = inits._stored(training, "pool", range(8))
    before, kept = inits.weights(training, "pool", range(8)), first.stat().st_mtime_ns
    second.unlink()
    assert torch.equal(inits.weights(training, "pool", range(8)), before)
    assert first.stat().st_mtime_ns == kept and second.exists()


def test_networks_trained_on_a_folder_are_trained_again_when_its_images_change(apart, pictures):
    folder = pictures()
    config = Config(dataset=f"folder:{folder}", images="all", epochs=1, nets=3)

    def networks():
        pool = inits.pool(config)
        return pool, inits.weights(inits.training_of(config), "test", range(3))

    before, theta = networks()
    assert before["networks"] == 3 and torch.equal(networks()[1], theta)
    shutil.copyfile(folder / "train" / "a" / "0.png", folder / "train" / "a" / "1.png")
    after, again = networks()
    assert after["sha256"] != before["sha256"] and not torch.equal(again, theta)


def test_a_run_from_networks_of_a_folder_is_made_again_when_its_images_change(apart, pictures):
    folder = pictures()
    target = shutil.copytree(folder, apart / "target")
    given = {"source": f"folder:{folder}", "dataset": f"folder:{target}", "pool": "1", "nets": "1", "iterations": "1"}

    def made():
        return run("table2-usps-mnist-random", "smoke", given, compile="off")

    first = made()
    assert made().environment == first.environment
    shutil.copyfile(folder / "train" / "a" / "0.png", folder / "train" / "a" / "1.png")
    assert made().distillation["pool"]["sha256"] != first.distillation["pool"]["sha256"]


def test_an_attack_makes_one_class_be_taken_for_another_and_can_be_verified(attack, digits):
    record = run("attack", compile="off")
    after = {name: metric["mean"] for name, metric in record.metrics.items()}
    assert after["attacked_correct_before"] > 0.8 and after["attacked_correct"] < 0.4
    assert after["attacked_as_target"] > 0.4 > after["attacked_as_target_before"]
    assert after["accuracy_wrt_modified"] > after["accuracy_wrt_modified_before"]
    assert min(a for k, a in enumerate(after["class_accuracy"]) if k != 3) > 0.6
    assert next(iter(record.metrics)) == "test_accuracy" and record.distillation["pool"]["networks"] == 12
    assert torch.equal(record.distilled.labels[0], torch.arange(10).repeat_interleave(2))  # true labels (section 3.5)

    network, theta = LeNet(), inits.networks(ATTACK, LeNet(), 4)
    x, y = digits.test
    seen = network(train_in_float64(network, record.distilled, theta), x).argmax(-1)
    wanted = torch.where(y == 3, 8, y)
    expected = {"accuracy_wrt_modified": seen == wanted, "attacked_as_target": seen[:, y == 3] == 8}
    for name, hits in expected.items():
        assert after[name] == pytest.approx(hits.double().mean().item(), abs=1e-9)

    with pytest.raises(InputError, match="trained on digits.*give weights"):
        ddcore.train_on(record.distilled)
    by_hand = ddcore.train_on(record.distilled, network.unflatten(theta))
    assert torch.equal(network.flatten(by_hand), train_in_float64(network, record.distilled, theta))

    # where only the record came along, as in a clone, the networks beside it are enough
    shutil.rmtree(attack / "cache")
    assert verify(record, nets=2)[0] and verify(record)[0]
    record.metrics["class_accuracy"]["values"][1][4] -= 0.1
    record.metrics["class_accuracy"]["mean"][4] -= 0.025
    assert not verify(record)[0]


def test_an_attack_with_real_images_labels_the_attacked_class_as_the_target(attack, monkeypatch):
    config = Config(**ATTACK.model_dump() | {"images": "random-real", "iterations": 2})
    monkeypatch.setitem(experiments.EXPERIMENTS, "attack-real", config)
    record = run("attack-real", compile="off")
    assert record.distilled.labels[0].tolist() == [0, 0, 1, 1, 2, 2, 8, 8, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    assert record.distillation["rate"] in {"learned", *map("{:g}".format, (0.001, 0.003, 0.01, 0.03, 0.1, 0.3))}
    assert {"attacked_correct", "attacked_as_target_before"} <= set(record.metrics) and verify(record)[0]


@pytest.fixture
def inverted(attack, digits):
    """A folder of the digits in black on white."""
    folder = attack / "inverted"
    for part, (x, y) in (("train", digits.train), ("test", digits.test)):
        for j, (image, label) in enumerate(zip(x, y, strict=True)):
            place = folder / part / str(int(label))
            place.mkdir(parents=True, exist_ok=True)
            pixels = 1 - (image[0] * digits.std[0] + digits.mean[0]).clamp(0, 1)
            Image.fromarray((255 * pixels).byte().numpy()).save(place / f"{j}.png")
    return f"folder:{folder}"


@pytest.mark.parametrize("fixed", [False, True])
def test_networks_are_adapted_to_a_dataset_they_do_not_know(inverted, monkeypatch, fixed):
    few = {"pool": 0, "nets": 1} if fixed else {"pool": 4, "nets": 4}
    config = Config(dataset="digits", source="digits", fixed=fixed, steps=2, epochs=2, **few, **RECIPE)
    monkeypatch.setitem(experiments.EXPERIMENTS, "adaptation", config)
    record = run("adaptation", overrides={"dataset": inverted}, compile="off")
    before, after = (record.metrics[f"test_accuracy{when}"]["mean"] for when in ("_before", ""))
    assert before < 0.5 and after > before + 0.25
    assert (record.distilled.init is not None) == fixed and verify(record)[0]


def test_a_source_that_is_unknown_is_named(ddcore):
    done = ddcore("run", "table2-svhn-mnist-random", "--scale", "smoke", "-p", "source=svhm")
    assert done.status == 2 and "svhn" in done.err[-1]


@pytest.mark.parametrize(
    ("experiment", "change", "named"),
    [
        ("table3-mnist-10", "attacked=1", "two different classes"),
        ("table3-mnist-10", "target=12", "no class of digits"),
        ("table3-mnist-10", "attacked=zero", "whole number"),
        ("table3-mnist-10", "source=digits", "means nothing"),
        ("table2-mnist-usps-random", "attacked=1", "means nothing"),
        ("table2-mnist-usps-fixed", "pool=10", "means nothing"),
        ("table3-mnist-10", "pool=0", "at least 1"),
        ("fig2a", "pool=10", "means nothing"),
        ("baseline-neighbour-real-mnist", "iterations=5", "means nothing"),
        ("full-mnist", "steps=5", "means nothing"),
    ],
)
def test_what_an_experiment_cannot_do_is_refused(ddcore, apart, experiment, change, named):
    done = ddcore("run", experiment, "--scale", "smoke", "-p", change)
    assert done.status == 2 and named in done.err[-1] and len(done.err) == 1
    assert not (apart / "results").exists()
