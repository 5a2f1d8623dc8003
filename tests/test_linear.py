"""Section 3.3: every formula of ddcore/linear.py against its definition, and the engine against the
formulas."""

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
    scales = torch.logspace(0, -1, D, dtype=torch.float64)
    mix = torch.linalg.qr(randn(D, D, seed=1)).Q * scales[:, None]
    d = randn(N, D)[:, :rank] @ mix[:rank]
    return d, d @ randn(D, seed=2) + 0.5 * randn(N, seed=3)


def loss(d: torch.Tensor, t: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Equation (5) as it is printed."""
    return (d @ theta - t).square().sum() / (2 * len(d))


def inits(D: int = 6, std: float = 1.0) -> Inits:
    return Inits(0.3 * randn(D, seed=4), std)


def problem_of(**sizes: int) -> LeastSquares:
    return LeastSquares.of(*data(**sizes))


EVERY_RANK = [
    pytest.param({}, id="full rank"),
    pytest.param({"rank": 4}, id="dependent columns"),
    pytest.param({"N": 4}, id="fewer rows than columns"),
]


class TestLeastSquares:
    @pytest.mark.parametrize("sizes", EVERY_RANK)
    def test_the_optimum_its_loss_and_the_excess(self, sizes):
        d, t = data(**sizes)
        problem = LeastSquares.of(d, t)
        truth = torch.linalg.pinv(d, rtol=1e-12) @ t
        torch.testing.assert_close(problem.optimum, truth, rtol=0, atol=1e-11)
        torch.testing.assert_close(problem.hessian, d.T @ d / len(d))
        assert problem.rank == torch.linalg.matrix_rank(d)
        assert problem.floor == pytest.approx(loss(d, t, truth).item(), abs=1e-14)
        theta = randn(6, seed=5)
        found = problem.floor + problem.excess(theta).item()
        assert found == pytest.approx(loss(d, t, theta).item(), rel=1e-12)

    def test_constant_columns_count_as_far_as_the_data_sees_them(self):
        d, t = data()
        zero = torch.zeros(60, 2, dtype=d.dtype)
        ones = torch.ones(60, 2, dtype=d.dtype)
        assert LeastSquares.of(torch.cat([d, zero], 1), t).rank == 6
        # two equal columns are one direction: the intercept
        assert LeastSquares.of(torch.cat([d, ones], 1), t).rank == 7
        nothing = LeastSquares.of(zero, t)
        assert nothing.rank == 0
        assert nothing.floor == pytest.approx(t.square().mean().item() / 2)

    @pytest.mark.parametrize(
        ("d", "t", "said"),
        [
            pytest.param(torch.ones(3), torch.ones(3), "must be", id="d without columns"),
            pytest.param(torch.ones(3, 2), torch.ones(2), "must be", id="fewer targets"),
            pytest.param(torch.ones(3, 2), torch.ones(3, 1), "must be", id="targets in columns"),
            pytest.param(torch.ones(0, 2), torch.ones(0), "must be", id="no rows"),
            pytest.param(
                torch.tensor([[1.0, torch.nan]]), torch.ones(1), "not finite", id="nan in d"
            ),
            pytest.param(
                torch.ones(1, 2), torch.tensor([torch.inf]), "not finite", id="infinity in t"
            ),
        ],
    )
    def test_data_that_cannot_be_used_is_refused(self, d, t, said):
        with pytest.raises(InputError, match=said):
            LeastSquares.of(d, t)

    @pytest.mark.parametrize(
        ("M", "std"),
        [
            pytest.param(0, 1.0, id="no pair"),
            pytest.param(1, -1.0, id="negative deviation"),
            pytest.param(1, float("nan"), id="deviation that is nan"),
        ],
    )
    def test_no_best_value_is_looked_for(self, M, std):
        with pytest.raises(InputError, match="at least one pair"):
            best(problem_of(), inits(std=std), M)

    @pytest.mark.parametrize(
        ("M", "rate"),
        [
            pytest.param(5, RATE, id="fewer pairs than columns of U"),
            pytest.param(6, 0.0, id="rate 0"),
            pytest.param(6, float("nan"), id="rate that is nan"),
        ],
    )
    def test_no_pairs_are_constructed(self, M, rate):
        problem = problem_of()
        with pytest.raises(InputError, match="must be positive"):
            construct(problem, inits(), problem.basis, M, rate)

    @pytest.mark.parametrize(
        ("M", "rate", "sizes"),
        [
            pytest.param(0, RATE, {}, id="no pair"),
            pytest.param(1, -1.0, {}, id="negative rate"),
            pytest.param(1, 0.0, {}, id="rate 0"),
            pytest.param(1, RATE, {"starts": 0}, id="no start"),
            pytest.param(1, RATE, {"steps": 0}, id="no step"),
        ],
    )
    def test_nothing_is_distilled(self, M, rate, sizes):
        with pytest.raises(InputError, match="the rate must be positive and the others at least 1"):
            distil(problem_of(), inits(), M, rate, torch.Generator(), **sizes)

    def test_inits_in_float32_are_taken_as_the_same_numbers_in_float64(self):
        problem = problem_of()
        law = Inits(inits().mean.float(), 1.0)
        rng = torch.Generator().manual_seed(0)
        value, U = best(problem, law, 2)
        rows, targets = construct(problem, law, U, 2, RATE)
        promised = expected_excess(problem, law, *affine(rows[None], targets[None], RATE))
        assert promised.item() == pytest.approx(value)
        *_, found = distil(problem, law, 2, RATE, rng, starts=4)
        assert found.min().item() == pytest.approx(value)
        assert problem.excess(step(law.draw(5, rng), rows, targets, RATE)).dtype == torch.float64


class TestEquation6:
    def test_a_step_is_the_gradient_of_equation_5_on_the_pairs(self):
        rows, targets, theta = randn(3, 6), randn(3, seed=1), randn(6, seed=2)
        gradient = torch.func.grad(lambda w: loss(rows, targets, w))(theta)
        torch.testing.assert_close(step(theta, rows, targets, RATE), theta - RATE * gradient)

    def test_steps_compose_to_an_affine_map(self):
        rows, targets, theta = randn(2, 4, 3, 6), randn(2, 4, 3, seed=1), randn(2, 5, 6, seed=2)
        B, b = affine(rows, targets, RATE)
        for k in range(2):
            after = theta[k]
            for x, y in zip(rows[k], targets[k], strict=True):
                after = step(after, x, y, RATE)
            torch.testing.assert_close(theta[k] @ B[k].T + b[k], after)

    def test_the_expected_excess_is_the_mean_over_inits(self):
        problem = problem_of()
        law = inits(std=0.5)
        rows, targets = randn(1, 2, 6), randn(1, 2, seed=1)
        exact = expected_excess(problem, law, *affine(rows, targets, RATE)).item()
        n = 200_000
        theta = law.draw(n, torch.Generator().manual_seed(0))
        sampled = problem.excess(step(theta, rows[0], targets[0], RATE))
        four_errors = 4 * sampled.std().item() / n**0.5
        assert exact == pytest.approx(sampled.mean().item(), abs=four_errors)


class TestEquation7:
    @pytest.mark.parametrize("sizes", EVERY_RANK)
    @pytest.mark.parametrize("extra", [0, 3])
    def test_as_many_pairs_as_dimensions_reach_the_optimum_from_anywhere(self, sizes, extra):
        d, t = data(**sizes)
        problem = LeastSquares.of(d, t)
        rows, targets = construct(problem, inits(), problem.basis, problem.rank + extra, RATE)
        assert torch.linalg.matrix_rank(rows) == problem.rank
        theta = 10 * randn(50, 6, seed=7)
        gap = step(theta, rows, targets, RATE) @ d.T @ d - t @ d
        assert gap.abs().max() < 1e-10 * len(d)

    @pytest.mark.parametrize("M", [1, 2, 4, 5])
    def test_the_construction_reaches_the_promised_value(self, M):
        problem, law = problem_of(), inits()
        value, U = best(problem, law, M)
        torch.testing.assert_close(U.T @ U, torch.eye(M, dtype=U.dtype))
        rows, targets = construct(problem, law, U, M + 1, RATE)
        reached = expected_excess(problem, law, *affine(rows[None], targets[None], RATE))
        assert reached.item() == pytest.approx(value)


class TestTooFewPairs:
    @pytest.mark.parametrize("std", [0.1, 1.0, 10.0])
    @pytest.mark.parametrize("M", [1, 2, 4])
    def test_distillation_finds_the_best_value_and_nothing_below(self, M, std):
        problem, law = problem_of(), inits(std=std)
        value, U = best(problem, law, M)
        rows, targets, found = distil(
            problem, law, M, RATE, torch.Generator().manual_seed(0), starts=8
        )
        torch.testing.assert_close(
            found, expected_excess(problem, law, *affine(rows, targets, RATE))
        )
        assert found.min().item() == pytest.approx(value, rel=1e-7)
        assert lower_bound(problem, law, M) <= value
        # the 6 - M trailing eigenvalues, and those one place before
        trailing = std**2 / 2 * problem.values[M:].sum().item()
        before = std**2 / 2 * problem.values[M - 1 : -1].sum().item()
        assert trailing <= value <= before
        assert principal_angles(rows[found.argmin(), 0], U).max() < 0.5

    @pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e6])
    def test_the_search_does_not_depend_on_the_unit_of_the_loss(self, unit):
        d, t = data()
        value, _ = best(LeastSquares.of(d, t), inits(), 2)
        scaled = LeastSquares.of(unit * d, unit * t)
        of_scaled, _ = best(scaled, inits(), 2)
        *_, found = distil(scaled, inits(), 2, RATE, torch.Generator().manual_seed(0), starts=4)
        assert of_scaled / unit**2 == pytest.approx(value, rel=1e-7)
        assert found.min().item() / unit**2 == pytest.approx(value, rel=1e-7)

    @pytest.mark.parametrize("M", [2, 3])
    def test_steps_of_one_pair_buy_no_more_than_one_step(self, M):
        problem, law = problem_of(D=4), inits(D=4)
        *_, found = distil(
            problem, law, 1, RATE, torch.Generator().manual_seed(0), starts=8, steps=M
        )
        assert found.min().item() == pytest.approx(best(problem, law, M)[0], rel=1e-7)

    def test_the_learned_pairs_stay_where_the_data_is(self):
        problem = problem_of(rank=4)
        rows, _, found = distil(
            problem, inits(), 2, RATE, torch.Generator().manual_seed(0), starts=4
        )
        assert found.min().item() == pytest.approx(best(problem, inits(), 2)[0], rel=1e-7)
        assert principal_angles(rows[found.argmin(), 0], problem.basis).max() < 0.1

    def test_the_ends_of_the_best_value(self):
        problem = problem_of()
        at_optimum, far = Inits(problem.optimum, 1.0), inits(std=1e4)
        for M in range(1, 6):
            tail = problem.values[M:].sum().item() / 2
            assert best(problem, at_optimum, M)[0] == pytest.approx(tail, rel=1e-9)
            assert lower_bound(problem, at_optimum, M) == pytest.approx(tail, rel=1e-9)
            assert best(problem, far, M)[0] == pytest.approx(1e8 * tail, rel=1e-6)
            assert best(problem, inits(std=0.0), M)[0] == pytest.approx(0, abs=1e-12)
            # nothing to gain from the first step on
            assert best(problem, Inits(problem.optimum, 0.0), M)[0] == 0
        assert best(problem, far, 6)[0] == lower_bound(problem, far, 6) == 0

    def test_the_way_to_the_optimum_along_the_last_eigenvector_is_left_alone_by_wide_inits(self):
        problem = problem_of()
        law = Inits(problem.optimum - problem.basis[:, -1], 3.0)
        for M in range(1, 6):  # reachable: the M leading eigenvectors, which miss all of the way
            exact = 9 / 2 * problem.values[M:].sum().item() + problem.values[-1].item() / 2
            assert best(problem, law, M)[0] == pytest.approx(exact, rel=1e-9)

    def test_one_pair_is_enough_for_a_fixed_init(self):
        problem, law = problem_of(), inits(std=0.0)
        rows, targets = construct(problem, law, best(problem, law, 1)[1], 1, RATE)
        torch.testing.assert_close(
            step(law.mean, rows, targets, RATE), problem.optimum, rtol=0, atol=1e-10
        )

    def test_principal_angles(self):
        eye = torch.eye(3, dtype=torch.float64)
        assert principal_angles(eye[:2], eye[:, 1:]).tolist() == pytest.approx([0, 90])
        assert principal_angles(eye[:1] + eye[1:2], eye[:, :1]).tolist() == pytest.approx([45])
        slight = principal_angles(eye[:1] + 1e-9 * eye[1:2], eye[:, :1]).deg2rad()
        assert slight.tolist() == pytest.approx(
            [1e-9], rel=1e-6, abs=0
        )  # an arccosine would lose it

    def test_dependent_rows_add_no_angle(self):
        problem = problem_of()
        U = torch.linalg.qr(problem.basis[:, :2] + 1e-4 * randn(6, 2)).Q
        few, _ = construct(problem, inits(), U, 2, RATE)
        padded, _ = construct(problem, inits(), U, 5, RATE)
        mixed = randn(5, 2) @ few  # rank 2 without a zero row
        angles = principal_angles(few, problem.basis[:, :4])
        assert len(angles) == 2
        assert 0 < angles.max() < 0.05
        for rows in (padded, mixed):
            found = principal_angles(rows, problem.basis[:, :4])
            torch.testing.assert_close(found, angles, rtol=1e-6, atol=1e-9)
        assert len(principal_angles(torch.zeros_like(few), problem.basis)) == 0


# The engine


class SquaredLoss(nn.Module):
    """Least squares in the engine's terms: an image is a pair (row, target), and with the logits
    (f, 0) and the soft label (-1, 1) the loss -sum_k t_k log p_k is f = (row theta - target)^2 / 2:
    the normalisation cancels."""

    def __init__(self, D: int):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(D, 1))  # two axes, so that it is no bias

    def forward(self, images):
        pairs = images.flatten(1)  # [B, D + 1]
        f = (pairs[:, :-1] @ self.theta - pairs[:, -1:]).square() / 2
        return torch.cat([f, torch.zeros_like(f)], 1)


def packed(rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Pairs as images."""
    return torch.cat([rows, targets[..., None]], -1)[..., None, None, :]


def distilled_pairs(rows: torch.Tensor, targets: torch.Tensor, epochs: int) -> DistilledData:
    """rows [S, M, D], targets [S, M]."""
    steps, M = targets.shape
    soft_labels = torch.tensor([-1.0, 1.0], dtype=torch.float64).expand(steps, M, 2)
    lrs = torch.full((epochs, steps), RATE, dtype=torch.float64)
    labels = torch.zeros(steps, M, dtype=torch.int64)
    return DistilledData(packed(rows, targets), labels, lrs, soft_labels)


def squared_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits[..., 0].mean(1)


class TestTheEngine:
    @pytest.mark.parametrize("estimator", ["back-gradient", "autograd"])
    def test_it_agrees_with_the_closed_form(self, estimator):
        d, t = data()
        problem = LeastSquares.of(d, t)
        network = as_network(SquaredLoss(6))
        rows, targets = randn(3, 6, seed=5), randn(3, seed=6)
        distilled = distilled_pairs(rows[None], targets[None], epochs=1)
        theta = inits().draw(4, torch.Generator().manual_seed(0))  # [N, D]
        after = step(theta, rows, targets, RATE)
        torch.testing.assert_close(train(network, distilled, theta), after)

        real = packed(d, t), torch.zeros(len(d), dtype=torch.int64)
        losses, gradient = meta_gradient(
            network, distilled, theta, real, objective=squared_loss, estimator=estimator
        )
        torch.testing.assert_close(losses, problem.floor + problem.excess(after))
        # of the mean loss, network by network
        g = (after - problem.optimum) @ problem.hessian / len(theta)
        residual = theta @ rows.T - targets  # [N, M]
        of_rows = -RATE / 3 * (residual.T @ g + (rows @ g.T) @ theta)
        of_targets = RATE / 3 * (g @ rows.T).sum(0)
        of_rate = -(residual * (g @ rows.T)).sum() / 3
        torch.testing.assert_close(gradient.images[0], packed(of_rows, of_targets))
        torch.testing.assert_close(gradient.lrs, of_rate[None, None])

    def test_it_agrees_over_steps_and_epochs(self):
        network = as_network(SquaredLoss(6))
        rows, targets = 0.5 * randn(2, 3, 6, seed=5), randn(2, 3, seed=6)
        distilled = distilled_pairs(rows, targets, epochs=2)
        theta = inits().draw(4, torch.Generator().manual_seed(0))
        B, b = affine(rows.repeat(2, 1, 1), targets.repeat(2, 1), RATE)
        expected = theta @ B.T + b
        torch.testing.assert_close(train(network, distilled, theta), expected)
        one_epoch = replace(distilled, lrs=distilled.lrs[:1])
        assert not torch.allclose(train(network, one_epoch, theta), expected)
