"""The page's JavaScript computes what the package does, in double precision."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import ddcore
from ddcore import algorithm, unroll
from ddcore.distilled import DistilledData
from ddcore.networks import generator
from ddcore.recipe import Recipe
from ddcore.support.progress import OuterState

ROOT = Path(__file__).parents[2]
BROWSER = ROOT / "book" / "browser"
SOURCES = [BROWSER / "lenet.js", BROWSER / "distillation.js"]
NETWORK = ddcore.as_network("lenet")
CLOSE = 1e-10  # relative; 1e-15 to 1e-13 are measured


@pytest.fixture
def compute():
    """compute("gradient", theta=..., ...): what the JavaScript answers."""
    node = shutil.which("node")
    if node is None and not os.environ.get("CI"):
        pytest.skip("node is not installed")
    assert node

    def call(case, **given):
        question = json.dumps({"case": case, **given})
        command = [node, ROOT / "tests/book/compute.js", *SOURCES]
        done = subprocess.run(command, input=question, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return call


@pytest.fixture(scope="module")
def digits():
    """The page's digits: normalised images [B, 1, 28, 28] in float64 and labels, by part."""
    stored = np.load(BROWSER / "digits.npz")
    return {
        part: (
            (torch.tensor(stored[f"{part}_images"])[:, None].double() / 255 - 0.1307) / 0.3081,
            torch.tensor(stored[f"{part}_labels"]).long(),
        )
        for part in ("test", "training")
    }


def theta_0(seed=0):
    return NETWORK.init("xavier", generator(seed)).double()


def noise(*shape):
    return torch.randn(*shape, generator=generator("noise"), dtype=torch.double)


def rows(images):
    return images.flatten(1).tolist()


def same(ours, theirs):
    ours = torch.tensor(ours, dtype=torch.double).flatten()
    theirs = theirs.flatten()
    assert (ours - theirs).norm() <= CLOSE * theirs.norm()


def distilled_noise(steps, epochs):
    lrs = torch.linspace(0.02, 0.3, epochs * steps, dtype=torch.double).view(epochs, steps)
    labels = torch.arange(10).expand(steps, 10)
    return DistilledData(images=noise(steps, 10, 1, 28, 28), labels=labels, lrs=lrs)


def as_object(distilled):
    epochs, steps = distilled.lrs.shape
    raw = distilled.lrs.expm1().log()  # softplus(raw) = learning rate
    return {
        "images": distilled.images.flatten().tolist(),
        "raw": raw.flatten().tolist(),
        "steps": steps,
        "epochs": epochs,
    }


class TestLeNet:
    def test_gradient_on_digits_whose_black_borders_tie_in_the_maximum(self, compute, digits):
        images, labels = digits["test"][0][:20], digits["test"][1][:20]
        answer = compute(
            "gradient", theta=theta_0().tolist(), images=rows(images), labels=labels.tolist()
        )
        gradient, losses = unroll.real_gradient(
            NETWORK, theta_0()[None], images, labels, unroll.cross_entropy
        )
        same(answer["loss"], losses)
        same(answer["gradient"], gradient)

    def test_derivatives_along_a_direction(self, compute):
        theta, v, images = theta_0(), noise(61_706), noise(10, 1, 28, 28)
        answer = compute(
            "derivativesAlong",
            theta=theta.tolist(),
            v=v.tolist(),
            images=rows(images),
            labels=list(range(10)),
        )
        targets = torch.eye(10, dtype=torch.double)
        phi, (by_theta, by_images, _) = unroll.reverse_over_forward(
            NETWORK, theta[None], v[None], images, targets
        )
        same(answer["phi"], phi)
        same(answer["byWeights"], by_theta)
        same(answer["byImages"], by_images)

    def test_the_record_of_fig2a_on_the_digits_of_the_page(self, compute, digits):
        distilled = ddcore.load_distilled("fig2a").to(torch.double)
        theta = NETWORK.flatten(distilled.init)
        images, labels = digits["test"]
        right = compute(
            "correct",
            theta=theta[0].tolist(),
            distilled=as_object(distilled),
            images=rows(images),
            labels=labels.tolist(),
        )
        trained = unroll.train(NETWORK, distilled, theta.double())
        ours = ddcore.evaluate(NETWORK, trained, images, labels).item()
        assert right[-1] == round(ours * len(labels)) == 472
        assert right[0] == 64


class TestDistillation:
    @pytest.mark.parametrize(("steps", "epochs"), [(1, 3), (2, 1), (2, 2)])
    def test_meta_gradient(self, compute, digits, steps, epochs):
        distilled = distilled_noise(steps, epochs)
        images, labels = digits["training"][0][:16], digits["training"][1][:16]
        answer = compute(
            "metaGradient",
            distilled=as_object(distilled),
            theta=theta_0().tolist(),
            real=rows(images),
            labels=labels.tolist(),
        )
        losses, gradient = ddcore.meta_gradient(
            NETWORK, distilled, theta_0()[None], (images, labels), estimator="autograd"
        )
        same(answer["loss"], losses)
        same(answer["images"], gradient.images)
        same(answer["rates"], gradient.lrs)

    def test_outer_steps_are_those_of_the_package(self, compute, digits):
        recipe = Recipe(
            iterations=25, samples=1, batch=2, image_rate=0.06, raw_rate=0.1, average=0.9, clip=0.1
        )
        settings = {
            "steps": 1,
            "epochs": 2,
            "iterations": recipe.iterations,
            "imageRate": recipe.image_rate,
            "rawRate": recipe.raw_rate,
            "firstRate": 0.3,
            "noise": 0.2,
            "clip": recipe.clip,
            "average": recipe.average,
        }
        start = DistilledData(
            images=0.2 * noise(1, 10, 1, 28, 28),
            labels=torch.arange(10)[None],
            lrs=torch.full((2, 1), 0.3, dtype=torch.double),
        )
        state = OuterState.start(start, recipe)
        networks = [theta_0(seed) for seed in range(3)]
        batches = []
        for k in range(23):  # past the warm-up
            real, labels = (part[2 * k : 2 * k + 2] for part in digits["training"])
            samples = algorithm.Samples(networks[k % 3][None], (real, labels))
            gradient_of = lambda *given: ddcore.meta_gradient(NETWORK, *given)  # noqa: E731
            state, _ = algorithm.outer_step(state, samples, gradient_of, recipe, recipe.schedule(k))
            batches.append({"network": k % 3, "real": rows(real), "labels": labels.tolist()})
        answer = compute(
            "outerSteps",
            settings=settings,
            noise=noise(10 * 784).tolist(),
            networks=[theta.tolist() for theta in networks],
            batches=batches,
        )
        for name, learned in (("learned", state.learned), ("mean", state.mean)):
            same(answer[name]["images"], learned.images)
            same(answer[name]["raw"], learned.lrs)
