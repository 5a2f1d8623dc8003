"""Every gradient estimator against the definition, finite differences and a closed form, in float64."""

import contextlib
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import torch._inductor.config
from torch import nn

import ddcore
from ddcore.distilled import DistilledData
from ddcore.networks import AlexCifarNet, LeNet, ModuleStack, Network, generator
from ddcore.unroll import (
    EAGER,
    CapturedMetaGradient,
    Compiled,
    compiled_steps,
    cross_entropy,
    meta_gradient,
    train,
    train_in_float64,
)


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3))


def squared(logits, labels):
    return logits.square().mean((1, 2)) + 0.1 * cross_entropy(logits, labels)


class Case(NamedTuple):
    name: str
    network: Network
    shape: tuple[int, int]
    steps: int = 2
    epochs: int = 2
    networks: int = 2
    soft: bool = False
    own_batch: bool = True
    objective: object = cross_entropy
    classes: int = 3


CASES = [
    Case("one step, one epoch", ModuleStack(small_net()), (1, 8), steps=1, epochs=1, networks=1),
    Case("steps and epochs", ModuleStack(small_net()), (1, 8), steps=3, epochs=2),
    Case("shared batch", ModuleStack(small_net()), (1, 8), own_batch=False),
    Case("soft labels", ModuleStack(small_net()), (1, 8), soft=True, networks=3),
    Case("another objective", ModuleStack(small_net()), (1, 8), objective=squared),
    Case("lenet", LeNet(1, 28, classes=3), (1, 28), steps=2, epochs=1, networks=1),
    Case("lenet, colour, 32", LeNet(3, 32, classes=3), (3, 32), steps=1, epochs=2, soft=True),
    Case("alexcifarnet", AlexCifarNet(classes=3), (3, 32), steps=1, epochs=2, own_batch=False),
]


def build(case: Case):
    """Distilled data, theta_0 and a batch of real data for a case, float64."""
    rng, (channels, side), k = torch.Generator().manual_seed(0), case.shape, case.classes
    images = torch.randn(case.steps, k, channels, side, side, generator=rng, dtype=torch.float64)
    labels = torch.arange(k).expand(case.steps, k)
    lrs = 0.05 + 0.1 * torch.rand(case.epochs, case.steps, generator=rng, dtype=torch.float64)
    soft = torch.randn(case.steps, k, k, generator=rng, dtype=torch.float64) if case.soft else None
    distilled = DistilledData(images, labels, lrs, soft, meta={"classes": "abc"})
    theta = torch.stack([case.network.init("xavier", generator(0, j)) for j in range(case.networks)]).double()
    lead = (case.networks,) if case.own_batch else ()
    real = torch.randn(*lead, 5, channels, side, side, generator=rng, dtype=torch.float64)
    return distilled, theta, (real, torch.randint(k, (*lead, 5), generator=rng))


def parts(gradient: DistilledData) -> dict[str, torch.Tensor]:
    found = {"images": gradient.images, "lrs": gradient.lrs, "soft_labels": gradient.soft_labels}
    return {name: t for name, t in found.items() if t is not None}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_back_gradient_is_autograd_through_the_unrolled_loop(case):
    distilled, theta, batch = build(case)
    found = [
        meta_gradient(case.network, distilled, theta, batch, objective=case.objective, estimator=estimator)
        for estimator in ("autograd", "back-gradient")
    ]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=0)
    assert parts(found[0][1]).keys() == parts(found[1][1]).keys() == parts(distilled).keys()
    for name, exact in parts(found[0][1]).items():
        error = (parts(found[1][1])[name] - exact).norm() / exact.norm()
        assert error < 1e-9, name


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_gradient_is_the_slope_of_the_loss(case):
    """Central differences along a random direction of images, rates and soft labels."""
    distilled, theta, batch = build(case)
    _, gradient = meta_gradient(case.network, distilled, theta, batch, objective=case.objective)
    rng = torch.Generator().manual_seed(1)
    for name, g in parts(gradient).items():
        direction, h = torch.randn(g.shape, generator=rng, dtype=g.dtype), 1e-6
        direction *= g.norm() / direction.norm() if name == "images" else 1

        def loss(step, name=name, direction=direction):
            moved = replace(distilled, **{name: parts(distilled)[name] + step * direction})
            return case.objective(case.network(train(case.network, moved, theta), batch[0]), batch[1]).mean()

        slope = (loss(h) - loss(-h)) / (2 * h)
        assert (g * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-8), name


def test_training_is_plain_gradient_descent_in_the_stated_order():
    """eq. 8 written out: for each epoch, for each step, its own rate; the images tied over the epochs."""
    case = CASES[1]
    distilled, theta, _ = build(case)
    module = small_net().double()
    for j, found in enumerate(train(case.network, distilled, theta)):
        nn.utils.vector_to_parameters(theta[j], module.parameters())
        for e in range(case.epochs):
            for s in range(case.steps):
                loss = nn.functional.cross_entropy(module(distilled.images[s]), distilled.labels[s])
                gradients = torch.autograd.grad(loss, list(module.parameters()))
                with torch.no_grad():
                    for parameter, g in zip(module.parameters(), gradients, strict=True):
                        parameter -= distilled.lrs[e, s] * g
        expected = nn.utils.parameters_to_vector(module.parameters())
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("change", ["order of steps", "rates over steps", "rates over epochs"])
def test_order_and_rates_matter(change):
    case = CASES[1]
    distilled, theta, _ = build(case)
    other = {
        "order of steps": replace(distilled, images=distilled.images.flip(0), labels=distilled.labels.flip(0)),
        "rates over steps": replace(distilled, lrs=distilled.lrs.flip(1)),
        "rates over epochs": replace(distilled, lrs=distilled.lrs.flip(0)),
    }[change]
    assert (train(case.network, distilled, theta) - train(case.network, other, theta)).norm() > 1e-6


def test_a_soft_label_that_is_one_hot_is_a_label():
    case = CASES[1]
    distilled, theta, batch = build(case)
    soft = replace(distilled, soft_labels=distilled.targets())
    for estimator in ("autograd", "back-gradient"):
        hard_loss, hard = meta_gradient(case.network, distilled, theta, batch, estimator=estimator)
        soft_loss, learned = meta_gradient(case.network, soft, theta, batch, estimator=estimator)
        assert torch.equal(hard_loss, soft_loss) and torch.equal(hard.images, learned.images)
        assert hard.soft_labels is None and learned.soft_labels.norm() > 0


def test_stacking_changes_nothing_but_the_order_of_a_sum():
    case = CASES[3]
    distilled, theta, (real, labels) = build(case)
    losses, together = meta_gradient(case.network, distilled, theta, (real, labels))
    alone = [meta_gradient(case.network, distilled, theta[j : j + 1], (real[j], labels[j])) for j in range(3)]
    torch.testing.assert_close(losses, torch.cat([a[0] for a in alone]), rtol=1e-12, atol=0)
    for name, g in parts(together).items():
        torch.testing.assert_close(g, sum(parts(a[1])[name] for a in alone) / 3, rtol=1e-9, atol=1e-12)


def test_float64_does_not_depend_on_the_order_of_a_sum():
    case = CASES[5]._replace(networks=3)
    distilled, theta, _ = on("cpu", case, torch.float32)
    together = train_in_float64(case.network, distilled, theta)
    alone = torch.cat([train_in_float64(case.network, distilled, one) for one in theta.split(1)])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, train(case.network, distilled, theta), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(together, alone, rtol=2e-7, atol=0)


def test_one_step_on_a_linear_model_has_the_closed_form():
    """eq. 2 and 3 for a linear map without bias, one class too few to hide behind softmax: p = softmax(W x).

    With one image, one step from W_0 = 0 and a one-hot target y: W_1 = lr (y - 1/K) x^T, so the logits of a real image
    z are lr (y - 1/K) <x, z>, and dL/dlr = <x, z> (p - t) . (y - 1/K), dL/dx = lr ((p - t) . (y - 1/K)) z.
    """
    k, x, z, lr = 3, torch.randn(1, 2, 2, dtype=torch.float64), torch.randn(1, 2, 2, dtype=torch.float64), 0.7
    stack = ModuleStack(nn.Sequential(nn.Flatten(), nn.Linear(4, k, bias=False)))
    distilled = DistilledData(
        x[None, None], torch.tensor([[1]]), torch.tensor([[lr]], dtype=torch.float64), meta={"classes": "abc"}
    )
    y, t = torch.eye(k, dtype=torch.float64)[1] - 1 / k, torch.eye(k, dtype=torch.float64)[2]
    inner = (x * z).sum()
    slope = ((lr * y * inner).softmax(0) - t) @ y
    theta = torch.zeros(1, 4 * k, dtype=torch.float64)
    for estimator in ("autograd", "back-gradient"):
        _, g = meta_gradient(stack, distilled, theta, (z[None], torch.tensor([2])), estimator=estimator)
        assert g.lrs.item() == pytest.approx((inner * slope).item(), rel=1e-12)
        torch.testing.assert_close(g.images[0, 0], lr * slope * z, rtol=1e-12, atol=1e-15)


def test_the_public_function_takes_modules_and_weight_dicts():
    case = CASES[0]
    distilled, theta, batch = build(case)
    weights = case.network.unflatten(theta)
    losses, gradient = ddcore.meta_gradient(small_net(), distilled, weights, batch)
    assert torch.equal(losses, meta_gradient(case.network, distilled, theta, batch)[0])
    assert gradient.images.shape == distilled.images.shape
    with pytest.raises(ValueError, match="back-gradient"):
        ddcore.meta_gradient(small_net(), distilled, weights, batch, estimator="forward")


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[3], *CASES[5:]], ids=lambda c: c.name)
def test_compiled_steps_agree_with_eager_ones(case):
    """In float64: in float32 another order of a sum can switch a ReLU or a maximum."""
    if not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("no C++ compiler")
    steps, given = compiled_steps(), (case.network, *build(case))
    expected, found = (meta_gradient(*given, step_functions=way)[1] for way in (EAGER, steps))
    assert steps.compiled  # not fallen back
    for name, g in parts(found).items():
        assert (g - parts(expected)[name]).norm() / parts(expected)[name].norm() < 1e-9, name


def test_where_compiling_fails_steps_run_as_they_stand(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing compiled earlier
    steps, given = compiled_steps(), (CASES[0].network, *build(CASES[0]))
    assert steps.compiled and not EAGER.compiled
    expected, found = (meta_gradient(*given, step_functions=way)[1] for way in (EAGER, steps))
    assert torch.equal(found.images, expected.images)
    assert not steps.compiled
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(line.startswith("running without torch.compile") for line in said), said


def test_a_compiler_that_fails_without_a_word_is_named(capsys):
    def mute(*_):
        raise AssertionError

    step = Compiled(torch.exp)
    step.call = torch.compile(step.step, backend=mute)
    assert step(torch.zeros(1)) == 1 and "slower: AssertionError" in capsys.readouterr().err


def on(device: str, case: Case, dtype: torch.dtype = torch.float64):
    """In float64, as in float32 another order of a sum can switch a ReLU or a maximum."""
    distilled, theta, (real, labels) = build(case)
    return distilled.to(device, dtype), theta.to(device, dtype), (real.to(device, dtype), labels.to(device))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_gpu_agrees_with_the_cpu(case):
    found = [meta_gradient(case.network, *on(device, case))[1] for device in ("cpu", "cuda")]
    for name, g in parts(found[1]).items():
        assert (g.cpu() - parts(found[0])[name]).norm() / parts(found[0])[name].norm() < 1e-9, name


def played_by_the_cpu(captured: CapturedMetaGradient, monkeypatch) -> None:
    """In place of a CUDA graph, one whose replay calls what was recorded again and overwrites its result."""
    plain, recorded = captured.plain, []

    def record(*given):
        recorded[:] = [given, plain(*given)]
        return recorded[1]

    def replay():
        given, (losses, gradient) = recorded
        again = plain(*given)
        for place, t in zip((losses, *gradient.learned()), (again[0], *again[1].learned()), strict=True):
            place.copy_(t)

    captured.plain = record
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *args, **kwargs: contextlib.nullcontext())
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda device: SimpleNamespace(wait_stream=lambda stream: None))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=replay))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_captured_meta_gradient_is_that_of_its_arguments(case, device, monkeypatch, capsys):
    captured = CapturedMetaGradient(case.network, case.objective)
    if device == "cpu":
        played_by_the_cpu(captured, monkeypatch)
    elif not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    distilled, theta, (real, labels) = on(device, case)
    other = replace(distilled.with_learned([0.9 * t for t in distilled.learned()]), labels=distilled.labels.flip(1))
    calls = [(distilled, theta, (real, labels)), (other, 0.9 * theta, (0.9 * real, labels.flip(-1)))]
    if len(theta) > 1:
        calls.append((distilled, theta[:1], (real[0], labels[0]) if case.own_batch else (real, labels)))
    for given in calls:  # the second replays with other tensors, the third has other shapes
        (losses, gradient), expected = captured(*given), meta_gradient(case.network, *given, objective=case.objective)
        assert torch.allclose(losses, expected[0], rtol=1e-12)
        for name, g in parts(gradient).items():
            assert (g - parts(expected[1])[name]).norm() / parts(expected[1])[name].norm() < 1e-9, name
    assert captured.replay is not None, capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_captured_meta_gradient_in_float32_is_the_definition_within_rounding(case, monkeypatch):
    """A unit of AlexCifarNet lies so near its switch that a GPU's rounding moves it: 0.4 % of the gradient."""
    limit = 1e-2 if isinstance(case.network, AlexCifarNet) else 1e-4
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as `ddcore run --device cuda` has it
    exact = meta_gradient(case.network, *build(case), objective=case.objective, estimator="autograd")[1]
    captured, given = CapturedMetaGradient(case.network, case.objective), on("cuda", case, torch.float32)
    for _ in range(2):  # recorded, then replayed
        found = captured(*given)[1]
    assert captured.replay is not None
    for name, g in parts(found).items():
        assert (g.cpu() - parts(exact)[name]).norm() / parts(exact)[name].norm() < limit, name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_cannot_be_captured_runs_without_a_graph(capsys):
    def stops(logits, labels):
        return cross_entropy(logits, labels) * (1.0 if logits.sum().item() else 0.0)  # waits for the device

    case = CASES[1]
    captured, given = CapturedMetaGradient(case.network, stops), on("cuda", case)
    expected = meta_gradient(case.network, *given)
    for _ in range(2):
        losses, gradient = captured(*given)
        assert torch.allclose(losses, expected[0])
        assert torch.allclose(gradient.images, expected[1].images)
    assert capsys.readouterr().err.count("without a CUDA graph") == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
