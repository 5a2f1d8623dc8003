"""Section 3.3: every formula of ddcore/linear.py against its definition, and the engine against the formulas."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ddcore import DistilledData, InputError, as_network, meta_gradient
from ddcore.linear import (
    Inits,
    LeastSquares,
    affine,
    best,
    construct,
    distil,
    expected_excess,
    lower_bound,
    principal_angles,
    step,
)
from ddcore.unroll import train

RATE = 0.3


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data(N: int = 60, D: int = 6, rank: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """d [N, D] with singular values over a decade, and noisy targets t [N]."""
    mix = torch.linalg.qr(randn(D, D, seed=1)).Q * torch.logspace(0, -1, D, dtype=torch.float64)[:, None]
    d = randn(N, D) @ mix if rank is None else randn(N, D)[:, :rank] @ mix[:rank]
    return d, d @ randn(D, seed=2) + 0.5 * randn(N, seed=3)


def loss(d: torch.Tensor, t: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Equation (5) as it is printed."""
    return (d @ theta - t).square().sum() / (2 * len(d))


def inits(D: int = 6, std: float = 1.0) -> Inits:
    return Inits(0.3 * randn(D, seed=4), std)


# Least squares

CASES = {"plain": (60, 6, None), "dependent columns": (60, 6, 4), "fewer rows than columns": (4, 6, None)}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_optimum_its_loss_and_the_excess(case):
    d, t = data(*case)
    problem = LeastSquares.of(d, t)
    truth = torch.linalg.pinv(d, rtol=1e-12) @ t
    torch.testing.assert_close(problem.optimum, truth, rtol=0, atol=1e-11)
    torch.testing.assert_close(problem.hessian, d.T @ d / len(d))
    assert problem.rank == torch.linalg.matrix_rank(d)
    assert problem.floor == pytest.approx(loss(d, t, truth).item(), abs=1e-14)
    theta = randn(6, seed=5)
    assert problem.floor + problem.excess(theta).item() == pytest.approx(loss(d, t, theta).item(), rel=1e-12)


def test_constant_columns_count_as_far_as_the_data_sees_them():
    d, t = data()
    zero, ones = torch.zeros(60, 2, dtype=d.dtype), torch.ones(60, 2, dtype=d.dtype)
    assert LeastSquares.of(torch.cat([d, zero], 1), t).rank == 6
    assert LeastSquares.of(torch.cat([d, ones], 1), t).rank == 7  # two equal columns are one direction: the intercept
    nothing = LeastSquares.of(zero, t)
    assert nothing.rank == 0 and nothing.floor == pytest.approx(t.square().mean().item() / 2)


@pytest.mark.parametrize(
    ("d", "t", "says"),
    [
        (torch.ones(3), torch.ones(3), "must be"),
        (torch.ones(3, 2), torch.ones(2), "must be"),
        (torch.ones(3, 2), torch.ones(3, 1), "must be"),
        (torch.ones(0, 2), torch.ones(0), "must be"),
        (torch.tensor([[1.0, torch.nan]]), torch.ones(1), "not finite"),
        (torch.ones(1, 2), torch.tensor([torch.inf]), "not finite"),
    ],
)
def test_data_that_cannot_be_used_is_refused(d, t, says):
    with pytest.raises(InputError, match=says):
        LeastSquares.of(d, t)


def test_other_values_that_cannot_be_used_are_refused():
    problem = LeastSquares.of(*data())
    for M, std in ((0, 1.0), (1, -1.0), (1, float("nan"))):
        with pytest.raises(InputError, match="at least one pair"):
            best(problem, inits(std=std), M)
    for M, rate in ((5, RATE), (6, 0.0), (6, float("nan"))):
        with pytest.raises(InputError, match="must be positive"):
            construct(problem, inits(), problem.basis, M, rate)
    sizes = {"starts": 0}, {"steps": 0}
    for M, rate, size in ((0, RATE, {}), (1, -1.0, {}), (1, 0.0, {}), *((1, RATE, size) for size in sizes)):
        with pytest.raises(InputError, match="the rate must be positive and the others at least 1"):
            distil(problem, inits(), M, rate, torch.Generator(), **size)


def test_inits_in_float32_are_taken_as_the_same_numbers_in_float64():
    problem, law, rng = LeastSquares.of(*data()), Inits(inits().mean.float(), 1.0), torch.Generator().manual_seed(0)
    value, U = best(problem, law, 2)
    rows, targets = construct(problem, law, U, 2, RATE)
    assert expected_excess(problem, law, *affine(rows[None], targets[None], RATE)).item() == pytest.approx(value)
    assert distil(problem, law, 2, RATE, rng, starts=4)[2].min().item() == pytest.approx(value)
    assert problem.excess(step(law.draw(5, rng), rows, targets, RATE)).dtype == torch.float64


# Equation (6)


def test_a_step_is_the_gradient_of_equation_5_on_the_pairs():
    rows, targets, theta = randn(3, 6), randn(3, seed=1), randn(6, seed=2)
    gradient = torch.func.grad(lambda w: loss(rows, targets, w))(theta)
    torch.testing.assert_close(step(theta, rows, targets, RATE), theta - RATE * gradient)


def test_steps_compose_to_an_affine_map():
    rows, targets, theta = randn(2, 4, 3, 6), randn(2, 4, 3, seed=1), randn(2, 5, 6, seed=2)
    B, b = affine(rows, targets, RATE)
    for k in range(2):
        after = theta[k]
        for x, y in zip(rows[k], targets[k], strict=True):
            after = step(after, x, y, RATE)
        torch.testing.assert_close(theta[k] @ B[k].T + b[k], after)


def test_the_expected_excess_is_the_mean_over_inits():
    problem, law, rows, targets = LeastSquares.of(*data()), inits(std=0.5), randn(1, 2, 6), randn(1, 2, seed=1)
    exact = expected_excess(problem, law, *affine(rows, targets, RATE)).item()
    theta = law.draw(200_000, torch.Generator().manual_seed(0))
    sampled = problem.excess(step(theta, rows[0], targets[0], RATE))
    assert exact == pytest.approx(sampled.mean().item(), abs=4 * sampled.std().item() / 200_000**0.5)


# Equation (7)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("extra", [0, 3])
def test_as_many_pairs_as_dimensions_reach_the_optimum_from_anywhere(case, extra):
    d, t = data(*case)
    problem = LeastSquares.of(d, t)
    rows, targets = construct(problem, inits(), problem.basis, problem.rank + extra, RATE)
    assert torch.linalg.matrix_rank(rows) == problem.rank
    theta = 10 * randn(50, 6, seed=7)
    gap = step(theta, rows, targets, RATE) @ d.T @ d - t @ d
    assert gap.abs().max() < 1e-10 * len(d)


@pytest.mark.parametrize("M", [1, 2, 4, 5])
def test_the_construction_reaches_the_promised_value(M):
    problem, law = LeastSquares.of(*data()), inits()
    value, U = best(problem, law, M)
    torch.testing.assert_close(U.T @ U, torch.eye(M, dtype=U.dtype))
    rows, targets = construct(problem, law, U, M + 1, RATE)
    assert expected_excess(problem, law, *affine(rows[None], targets[None], RATE)).item() == pytest.approx(value)


# Too few pairs


@pytest.mark.parametrize("std", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("M", [1, 2, 4])
def test_distillation_finds_the_best_value_and_nothing_below(M, std):
    problem, law = LeastSquares.of(*data()), inits(std=std)
    value, U = best(problem, law, M)
    rows, targets, found = distil(problem, law, M, RATE, torch.Generator().manual_seed(0), starts=8)
    torch.testing.assert_close(found, expected_excess(problem, law, *affine(rows, targets, RATE)))
    assert found.min().item() == pytest.approx(value, rel=1e-7)
    assert lower_bound(problem, law, M) <= value
    tails = [std**2 / 2 * problem.values[k : k + 6 - M].sum().item() for k in (M, M - 1)]
    assert tails[0] <= value <= tails[1]  # the M trailing eigenvalues, and those one place before
    assert principal_angles(rows[found.argmin(), 0], U).max() < 0.5


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e6])
def test_the_search_does_not_depend_on_the_unit_of_the_loss(unit):
    d, t = data()
    value, _ = best(LeastSquares.of(d, t), inits(), 2)
    scaled = LeastSquares.of(unit * d, unit * t)
    found = distil(scaled, inits(), 2, RATE, torch.Generator().manual_seed(0), starts=4)[2].min().item()
    assert best(scaled, inits(), 2)[0] / unit**2 == pytest.approx(value, rel=1e-7)
    assert found / unit**2 == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize("M", [2, 3])
def test_steps_of_one_pair_buy_no_more_than_one_step(M):
    problem, law = LeastSquares.of(*data(D=4)), inits(D=4)
    *_, found = distil(problem, law, 1, RATE, torch.Generator().manual_seed(0), starts=8, steps=M)
    assert found.min().item() == pytest.approx(best(problem, law, M)[0], rel=1e-7)


def test_the_learned_pairs_stay_where_the_data_is():
    problem = LeastSquares.of(*data(rank=4))
    rows, _, found = distil(problem, inits(), 2, RATE, torch.Generator().manual_seed(0), starts=4)
    assert found.min().item() == pytest.approx(best(problem, inits(), 2)[0], rel=1e-7)
    assert principal_angles(rows[found.argmin(), 0], problem.basis).max() < 0.1


def test_the_ends_of_the_best_value():
    problem = LeastSquares.of(*data())
    at_optimum, far = Inits(problem.optimum, 1.0), inits(std=1e4)
    for M in range(1, 6):
        tail = problem.values[M:].sum().item() / 2
        assert best(problem, at_optimum, M)[0] == pytest.approx(tail, rel=1e-9)
        assert lower_bound(problem, at_optimum, M) == pytest.approx(tail, rel=1e-9)
        assert best(problem, far, M)[0] == pytest.approx(1e8 * tail, rel=1e-6)
        assert best(problem, inits(std=0.0), M)[0] == pytest.approx(0, abs=1e-12)
        assert best(problem, Inits(problem.optimum, 0.0), M)[0] == 0  # nothing to gain from the first step on
    assert best(problem, far, 6)[0] == lower_bound(problem, far, 6) == 0


def test_the_way_to_the_optimum_along_the_last_eigenvector_is_left_alone_by_wide_inits():
    problem = LeastSquares.of(*data())
    law = Inits(problem.optimum - problem.basis[:, -1], 3.0)
    for M in range(1, 6):  # reachable: the M leading eigenvectors, which miss all of the way
        exact = 9 / 2 * problem.values[M:].sum().item() + problem.values[-1].item() / 2
        assert best(problem, law, M)[0] == pytest.approx(exact, rel=1e-9)


def test_one_pair_is_enough_for_a_fixed_init():
    problem, law = LeastSquares.of(*data()), inits(std=0.0)
    rows, targets = construct(problem, law, best(problem, law, 1)[1], 1, RATE)
    torch.testing.assert_close(step(law.mean, rows, targets, RATE), problem.optimum, rtol=0, atol=1e-10)


def test_principal_angles():
    eye = torch.eye(3, dtype=torch.float64)
    assert principal_angles(eye[:2], eye[:, 1:]).tolist() == pytest.approx([0, 90])
    assert principal_angles(eye[:1] + eye[1:2], eye[:, :1]).tolist() == pytest.approx([45])
    slight = principal_angles(eye[:1] + 1e-9 * eye[1:2], eye[:, :1]).deg2rad()
    assert slight.tolist() == pytest.approx([1e-9], rel=1e-6, abs=0)  # an arccosine would lose it


def test_dependent_rows_add_no_angle():
    problem = LeastSquares.of(*data())
    U = torch.linalg.qr(problem.basis[:, :2] + 1e-4 * randn(6, 2)).Q
    few, _ = construct(problem, inits(), U, 2, RATE)
    padded, _ = construct(problem, inits(), U, 5, RATE)
    mixed = randn(5, 2) @ few  # rank 2 without a zero row
    angles = principal_angles(few, problem.basis[:, :4])
    assert len(angles) == 2 and 0 < angles.max() < 0.05
    for rows in (padded, mixed):
        torch.testing.assert_close(principal_angles(rows, problem.basis[:, :4]), angles, rtol=1e-6, atol=1e-9)
    assert len(principal_angles(torch.zeros_like(few), problem.basis)) == 0


# The engine


class SquaredLoss(nn.Module):
    """Least squares in the engine's terms: an image is a pair (row, target), and with the logits (f, 0) and the soft
    label (-1, 1) the loss -sum_k t_k log p_k is f = (row theta - target)^2 / 2: the normalisation cancels."""

    def __init__(self, D: int):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(D, 1))  # two axes, so that it is no bias

    def forward(self, images):
        pairs = images.flatten(1)  # [B, D + 1]
        f = (pairs[:, :-1] @ self.theta - pairs[:, -1:]).square() / 2
        return torch.cat([f, torch.zeros_like(f)], 1)


def packed(rows, targets):
    return torch.cat([rows, targets[..., None]], -1)[..., None, None, :]


@pytest.mark.parametrize("estimator", ["back-gradient", "autograd"])
def test_the_engine_agrees_with_the_closed_form(estimator):
    d, t = data()
    problem, network = LeastSquares.of(d, t), as_network(SquaredLoss(6))
    rows, targets, rate = randn(3, 6, seed=5), randn(3, seed=6), torch.tensor([[RATE]], dtype=torch.float64)
    soft = torch.tensor([-1.0, 1.0], dtype=torch.float64).expand(1, 3, 2)
    distilled = DistilledData(packed(rows, targets)[None], torch.zeros(1, 3, dtype=torch.int64), rate, soft)
    theta = inits().draw(4, torch.Generator().manual_seed(0))  # [N, D]
    after = step(theta, rows, targets, RATE)
    torch.testing.assert_close(train(network, distilled, theta), after)

    losses, gradient = meta_gradient(
        network, distilled, theta, (packed(d, t), torch.zeros(len(d), dtype=torch.int64)),
        objective=lambda logits, labels: logits[..., 0].mean(1), estimator=estimator,
    )  # fmt: skip
    torch.testing.assert_close(losses, problem.floor + problem.excess(after))
    g = (after - problem.optimum) @ problem.hessian / len(theta)  # of the mean loss, network by network
    residual = theta @ rows.T - targets  # [N, M]
    exact = packed(-RATE / 3 * (residual.T @ g + (rows @ g.T) @ theta), RATE / 3 * (g @ rows.T).sum(0))
    torch.testing.assert_close(gradient.images[0], exact)
    torch.testing.assert_close(gradient.lrs, -(residual * (g @ rows.T)).sum()[None, None] / 3)


def test_the_engine_agrees_over_steps_and_epochs():
    network, law = as_network(SquaredLoss(6)), inits()
    rows, targets = 0.5 * randn(2, 3, 6, seed=5), randn(2, 3, seed=6)
    soft = torch.tensor([-1.0, 1.0], dtype=torch.float64).expand(2, 3, 2)
    rates = torch.full((2, 2), RATE, dtype=torch.float64)
    distilled = DistilledData(packed(rows, targets), torch.zeros(2, 3, dtype=torch.int64), rates, soft)
    theta = law.draw(4, torch.Generator().manual_seed(0))
    B, b = affine(rows.repeat(2, 1, 1), targets.repeat(2, 1), RATE)
    torch.testing.assert_close(train(network, distilled, theta), theta @ B.T + b)
    one_epoch = train(network, replace(distilled, lrs=rates[:1]), theta)
    assert not torch.allclose(one_epoch, theta @ B.T + b)
