"""The linear case (section 3.3): least squares, and gradient steps on M synthetic pairs, in closed
form and float64.

Every step is affine in theta_0, so for inits theta_0 ~ N(mean, std^2 I) the expected loss after it
is exact. With H = d^T d / N of rank r, theta* the optimum, delta = theta* - mean, and pairs whose
rows span U (orthonormal, [D, m]):

    theta_T = B theta_0 + b     (eq. 6, once or repeated)
    I - B = U K U^T for some K [m, m],    b in the span of U
    expected excess loss = std^2/2 tr(B^T H B) + 1/2 |B mean + b - theta*|^2_H

For a given U the first term is smallest where K = I (its derivative is std^2 G (K - I), G = U^T H
U), the second where the mean of the inits moves by U G^-1 U^T H delta; one step reaches both. So M
pairs buy the same loss in one step, in M steps of one pair and in any number of epochs, and what is
left to choose is U:

    V(M) = min over U of  std^2/2 (tr H - tr G) + 1/2 (|delta|^2_H - delta^T H U G^-1 U^T H delta)

V(M) = 0 for M >= r; V(M) > 0 for M < r and std > 0. Dependent columns, or N < D, make r < D: r then
takes D's place, since a step along the data leaves theta_0 as it is where d does not see it, which
changes no loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import subspace_angles
from scipy.optimize import minimize
from torch import Tensor

from ddcore.support.errors import InputError


@dataclass(frozen=True)
class LeastSquares:
    """|d theta - t|^2 / 2N (eq. 5) as its optimum and its curvature.

    hessian H [D, D]; values [r], its positive eigenvalues, largest first, with eigenvectors basis
    [D, r]; optimum [D], the solution of smallest norm; floor, the loss there.
    """

    hessian: Tensor
    values: Tensor
    basis: Tensor
    optimum: Tensor
    floor: float

    @staticmethod
    def of(d: Tensor, t: Tensor) -> "LeastSquares":
        """From d [N, D] and t [N]; r is d's rank up to rounding. InputError for other shapes, NaN
        and infinity."""
        if d.dim() != 2 or t.shape != d.shape[:1] or not d.numel():
            raise InputError(
                f"d has shape {list(d.shape)}, t {list(t.shape)}: they must be [N, D] and [N], "
                "N, D >= 1"
            )
        if not (d.isfinite().all() and t.isfinite().all()):
            raise InputError("d or t has entries that are not finite: all must be numbers")
        N, D = d.shape
        both = torch.cat([d, t[:, None]], 1).double()
        factor = torch.linalg.qr(both, mode="r").R  # the same loss in D + 1 rows
        rows = factor[:, :D]
        targets = factor[:, D]
        left, s, right = torch.linalg.svd(rows, full_matrices=False)
        r = int((s > max(N, D) * torch.finfo(s.dtype).eps * s[0]).sum())
        optimum = right[:r].T @ (left[:, :r].T @ targets / s[:r])
        floor = (rows @ optimum - targets).square().sum().item() / (2 * N)
        return LeastSquares(rows.T @ rows / N, s[:r].square() / N, right[:r].T, optimum, floor)

    @property
    def rank(self) -> int:
        return len(self.values)

    def excess(self, theta: Tensor) -> Tensor:
        """Loss above the optimum's, 1/2 |theta - theta*|^2_H: theta [..., D] -> [...]."""
        return 0.5 * ((theta - self.optimum) @ self.basis).square() @ self.values


@dataclass(frozen=True)
class Inits:
    """p(theta_0) = N(mean, std^2 I): mean [D]; std = 0 is a fixed init."""

    mean: Tensor
    std: float

    def __post_init__(self):
        object.__setattr__(self, "mean", self.mean.double())  # as everything here

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """theta_0 [n, D]."""
        return self.mean + self.std * torch.randn(
            n, len(self.mean), generator=rng, dtype=self.mean.dtype
        )


def step(theta: Tensor, rows: Tensor, targets: Tensor, rate: float) -> Tensor:
    """Equation (6), one step on M pairs.

    theta [..., D], rows d~ [M, D], targets t~ [M] -> theta_1 [..., D].
    """
    return theta - rate / len(rows) * (theta @ rows.T - targets) @ rows


def affine(rows: Tensor, targets: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """S such steps as theta_S = B theta_0 + b.

    rows [..., S, M, D], targets [..., S, M] -> B [..., D, D], b [..., D].
    """
    D = rows.shape[-1]
    B = torch.eye(D, dtype=rows.dtype)
    b = torch.zeros(D, 1, dtype=rows.dtype)
    for x, y in zip(rows.unbind(-3), targets.unbind(-2), strict=True):
        pull = rate / x.shape[-2] * x.mT
        B = B - pull @ (x @ B)
        b = b - pull @ (x @ b - y[..., None])
    return B, b[..., 0]


def expected_excess(problem: LeastSquares, inits: Inits, B: Tensor, b: Tensor) -> Tensor:
    """Mean over the inits of the excess loss of B theta_0 + b, exact.

    B [..., D, D], b [..., D] -> [...].
    """
    spread = (problem.basis.T @ B).square().sum(-1) @ problem.values
    return 0.5 * inits.std**2 * spread + problem.excess(B @ inits.mean + b)


def construct(
    problem: LeastSquares, inits: Inits, U: Tensor, M: int, rate: float
) -> tuple[Tensor, Tensor]:
    """The best M pairs whose rows span U [D, m], m <= M: rows [M, D], targets [M]. Those beyond m
    are zero.

    rate/M d~^T d~ = U U^T, and rate/M d~^T t~ = U U^T mean + U G^-1 U^T H delta. For U =
    `problem.basis` the second is theta* (plus what d does not see of the mean), and one step leads
    from any init to the optimum.
    """
    if not (rate > 0 and M >= U.shape[1]):
        raise InputError(
            f"rate={rate}, M={M}: the rate must be positive and M at least {U.shape[1]}, U's "
            "columns"
        )
    m = U.shape[1]
    gram = U.T @ problem.hessian @ U
    pull = U.T @ problem.hessian @ (problem.optimum - inits.mean)
    rows = torch.zeros(M, len(U), dtype=U.dtype)
    targets = torch.zeros(M, dtype=U.dtype)
    rows[:m] = U.T
    targets[:m] = U.T @ inits.mean + torch.linalg.solve(gram, pull)
    scale = (M / rate) ** 0.5
    return scale * rows, scale * targets


def best(
    problem: LeastSquares, inits: Inits, M: int, iterations: int = 500
) -> tuple[float, Tensor]:
    """V(M) and a U [D, min(M, r)] that reaches it.

    The best U is one unit vector u, along which the mean of the inits moves, and the M - 1 leading
    eigenvectors of H on what is orthogonal to u. Only u is searched for, from delta (best for std
    -> 0) and from its part among the M leading eigenvectors (best for std -> infinity);
    `lower_bound` says how much lower the true minimum can be.
    """
    if not (M >= 1 and inits.std >= 0):
        raise InputError(
            f"M={M}, std={inits.std}: at least one pair and a standard deviation of 0 or more"
        )
    if M >= problem.rank:
        return 0.0, problem.basis
    values = problem.values
    delta = problem.basis.T @ (problem.optimum - inits.mean)

    def restricted(u: Tensor) -> tuple[Tensor, Tensor]:
        u = u / u.norm(dim=-1, keepdim=True)
        off = torch.eye(len(values), dtype=u.dtype) - u[..., :, None] * u[..., None, :]
        return u, (off * values) @ off  # H on what is orthogonal to u, [..., r, r]

    def losses(u: Tensor) -> Tensor:
        u, rest = restricted(u)
        moved = u @ (values * delta) / (u**2 @ values)
        bias = (delta - moved[..., None] * u) ** 2 @ values  # what the mean cannot reach
        spread = torch.linalg.eigvalsh(rest)[..., 1 : 1 + len(values) - M].sum(-1)
        return 0.5 * bias + 0.5 * inits.std**2 * spread

    starts = torch.stack([delta, torch.where(torch.arange(len(delta)) < M, delta, 0)])
    starts[:, 0] += 1e-12  # for delta = 0, where any leading eigenvector will do
    ends, minima = minimise(losses, starts, iterations)
    u, rest = restricted(ends[minima.argmin()])
    leading = torch.linalg.eigh(rest)[1][:, len(values) - M + 1 :]
    U = torch.cat([u[:, None], leading], 1)
    return max(minima.min().item(), 0.0), problem.basis @ U


def lower_bound(problem: LeastSquares, inits: Inits, M: int) -> float:
    """No rule that moves theta_0 within M directions gets below half the sum of all but the M
    largest eigenvalues of std^2 H + H^1/2 delta delta^T H^1/2, the second moment of H^1/2 (theta* -
    theta_0) (Eckart and Young, 1936)."""
    w = problem.values.sqrt() * (problem.basis.T @ (problem.optimum - inits.mean))
    moment = inits.std**2 * problem.values.diag() + torch.outer(w, w)
    return 0.5 * torch.linalg.eigvalsh(moment)[: max(problem.rank - M, 0)].sum().item()


def distil(
    problem: LeastSquares,
    inits: Inits,
    M: int,
    rate: float,
    rng: torch.Generator,
    *,
    starts: int = 1,
    steps: int = 1,
    iterations: int = 500,
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimise the expected excess after `steps` steps of M pairs each (eq. 4) from random pairs,
    without the theory.

    -> rows [starts, steps, M, D], targets [starts, steps, M], excess [starts]. A pair is learned as
    one vector, in units in which rate/M d~^T d~ is d~^T d~: a learned rate would only change these
    units.
    """
    if not (rate > 0 and min(M, starts, steps) >= 1):
        raise InputError(
            f"rate={rate}, M={M}, starts={starts}, steps={steps}: the rate must be positive and "
            "the others at least 1"
        )
    scale = (M / rate) ** 0.5
    D = len(problem.optimum)

    def losses(pairs: Tensor) -> Tensor:
        rows = scale * pairs[..., :-1]
        targets = scale * pairs[..., -1]
        return expected_excess(problem, inits, *affine(rows, targets, rate))

    start = torch.randn(starts, steps, M, D + 1, generator=rng, dtype=torch.float64) / D**0.5
    pairs, excess = minimise(losses, start, iterations)
    return scale * pairs[..., :-1], scale * pairs[..., -1], excess


def minimise(
    losses: Callable[[Tensor], Tensor], x: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """L-BFGS on K independent losses, one after the other: x [K, ...] -> x, losses [K]."""
    unit = losses(x).max().item() or 1.0  # scipy's tolerances do not shrink with the loss

    def evaluate(z: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(z, requires_grad=True)
        loss = losses(leaf.view_as(x[:1])).sum() / unit
        (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.item(), gradient.numpy()

    options: Any = {
        "maxiter": iterations,
        "maxfun": 30 * iterations,
        "maxcor": 20,
        "ftol": 1e-15,
        "gtol": 1e-12,
    }
    ends = [
        minimize(evaluate, start, method="L-BFGS-B", jac=True, options=options)
        for start in x.flatten(1).numpy()
    ]
    minima = torch.tensor(np.array([end.x for end in ends])).view_as(x)
    return minima, unit * x.new_tensor([end.fun for end in ends])


def principal_angles(rows: Tensor, basis: Tensor) -> Tensor:
    """Angles in degrees, smallest first, between the spans of rows [M, D] and of basis [D, m]:
    [smaller of the ranks].

    Rows or columns that depend on the others, such as the zeros of `construct`, add no angle.
    """
    return torch.tensor(subspace_angles(rows.T.numpy(), basis.numpy())).flip(0).rad2deg()
