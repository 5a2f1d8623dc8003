"""The linear case (section 3.3): least squares, one or more gradient steps on M synthetic pairs, all in closed form.

Every step is affine in theta_0, so for inits theta_0 ~ N(mean, std^2 I) the expected loss after it is exact. With
H = d^T d / N of rank r, theta* the optimum, delta = theta* - mean, and pairs that span the subspace U (m = dim U <= M):

    theta_T = B theta_0 + b,    I - B = U K U^T for some K [m, m],    b in U        (eq. 6, repeated or not)
    expected excess loss = std^2/2 tr(B^T H B) + 1/2 |B mean + b - theta*|^2_H

For a given U the first term is smallest where B = I - U U^T (its derivative G (K - I), G = U^T H U, vanishes only
there), the second where the mean inits move by U G^-1 U^T H delta, and both are reached at once, by one step. So M pairs
buy the same loss in one step, in M steps of one pair and in any number of epochs; what is left to choose is U:

    V(M) = min over U of  std^2/2 (tr H - tr G) + 1/2 (|delta|^2_H - delta^T H U G^-1 U^T H delta)

`best` finds it and `lower_bound` bounds it from below. V(M) = 0 for M >= r, and V(M) > 0 for M < r and std > 0. If d has
dependent or constant columns, or N < D, then r < D, and r takes D's place: gradient descent leaves theta_0 as it is in
the directions that d does not see, and they change no loss. All tensors are float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddcore.errors import InputError


@dataclass(frozen=True)
class LeastSquares:
    """|d theta - t|^2 / 2N (eq. 5) as its optimum and its curvature.

    hessian H [D, D]; values [r], its positive eigenvalues, largest first, and basis [D, r], their eigenvectors; optimum
    [D], the solution of smallest norm; floor, the loss there. The rank r is that of d, up to rounding.
    """

    hessian: Tensor
    values: Tensor
    basis: Tensor
    optimum: Tensor
    floor: float

    @staticmethod
    def of(d: Tensor, t: Tensor) -> "LeastSquares":
        """From d [N, D] and t [N]; InputError where the shapes do not fit or a number is not finite."""
        if d.dim() != 2 or t.shape != d.shape[:1] or not d.numel():
            raise InputError(f"d has shape {list(d.shape)} and t {list(t.shape)}: [N, D] and [N] are allowed, N, D >= 1")
        d, t = _float64(d=d, t=t)
        rows, columns = d.shape
        # The triangular factor of [d t] has D + 1 rows at most and the same loss.
        factor = torch.linalg.qr(torch.cat([d, t[:, None]], 1), mode="r").R
        a, c = factor[:, :columns], factor[:, columns]
        left, s, right = torch.linalg.svd(a, full_matrices=False)
        rank = int((s > max(rows, columns) * torch.finfo(s.dtype).eps * s[0]).sum())
        left, s, basis = left[:, :rank], s[:rank], right[:rank].T
        optimum = basis @ (left.T @ c / s)
        floor = (a @ optimum - c).square().sum().item() / (2 * rows)
        return LeastSquares(a.T @ a / rows, s.square() / rows, basis, optimum, floor)

    @property
    def rank(self) -> int:
        return len(self.values)

    def excess(self, theta: Tensor) -> Tensor:
        """Loss above the optimum's, 1/2 |theta - theta*|^2_H: theta [..., D] -> [...]."""
        return 0.5 * ((theta - self.optimum) @ self.basis).square() @ self.values

    def loss(self, theta: Tensor) -> Tensor:
        """Equation (5): theta [..., D] -> [...]."""
        return self.floor + self.excess(theta)


@dataclass(frozen=True)
class Inits:
    """p(theta_0) = N(mean, std^2 I): mean [D]; std = 0 is a fixed init."""

    mean: Tensor
    std: float

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """theta_0 [n, D]."""
        return self.mean + self.std * torch.randn(n, len(self.mean), generator=rng, dtype=self.mean.dtype)


def step(theta: Tensor, rows: Tensor, targets: Tensor, rate: float) -> Tensor:
    """Equation (6), one gradient step on M pairs: theta [..., D], rows d~ [M, D], targets t~ [M] -> theta_1 [..., D]."""
    return theta - rate / len(rows) * (theta @ rows.T - targets) @ rows


def affine(rows: Tensor, targets: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """S such steps of n pairs as theta_S = B theta_0 + b: rows [..., S, n, D], targets [..., S, n] -> B, b."""
    eye = torch.eye(rows.shape[-1], dtype=rows.dtype)
    B, b = eye, torch.zeros(rows.shape[-1], dtype=rows.dtype)
    for x, y in zip(rows.unbind(-3), targets.unbind(-2), strict=True):
        scaled = rate / x.shape[-2] * x.mT
        shrink = eye - scaled @ x
        B, b = shrink @ B, (shrink @ b[..., None] + scaled @ y[..., None])[..., 0]
    return B, b


def expected_excess(problem: LeastSquares, inits: Inits, B: Tensor, b: Tensor) -> Tensor:
    """Mean over the inits of the excess loss of B theta_0 + b, exact: B [..., D, D], b [..., D] -> [...]."""
    spread = (problem.basis.T @ B).square().sum(-1) @ problem.values
    return 0.5 * inits.std**2 * spread + problem.excess(B @ inits.mean + b)


def construct(problem: LeastSquares, inits: Inits, U: Tensor, M: int, rate: float) -> tuple[Tensor, Tensor]:
    """The best M pairs whose rows span U [D, m], m <= M, its columns orthonormal: rows [M, D], targets [M].

    rate/M d~^T d~ = U U^T and rate/M d~^T t~ = U U^T mean + U G^-1 U^T H delta. With U = `problem.basis` the second is
    theta* (on the span of the data), and one step leads from any init to the optimum. Pairs beyond m are zero.
    """
    if not (rate > 0 and M >= U.shape[1]):
        raise InputError(f"rate={rate}, M={M}: the rate must be positive and M at least {U.shape[1]}, the subspace's size")
    scale = (M / rate) ** 0.5
    gram, slope = U.T @ problem.hessian @ U, U.T @ problem.hessian @ (problem.optimum - inits.mean)
    rows, targets = torch.zeros(M, len(U), dtype=U.dtype), torch.zeros(M, dtype=U.dtype)
    rows[: U.shape[1]] = scale * U.T
    targets[: U.shape[1]] = scale * (U.T @ inits.mean + torch.linalg.solve(gram, slope))
    return rows, targets


def best(problem: LeastSquares, inits: Inits, M: int) -> tuple[float, Tensor]:
    """V(M) and an orthonormal basis U [D, min(M, r)] of the subspace that reaches it.

    The optimal U is one unit vector u, along which the mean inits move, and the M - 1 leading eigenvectors of H on what
    is orthogonal to u. Only u is searched for, by L-BFGS from delta and from the leading eigenvectors of H, in the
    r coordinates of `problem.basis`.
    """
    if M < 1 or inits.std < 0 or not len(problem.optimum) == len(inits.mean):
        raise InputError(f"M={M}, std={inits.std}, {len(inits.mean)} coordinates: M >= 1, std >= 0, D coordinates")
    if M >= problem.rank:
        return 0.0, problem.basis
    values, delta = problem.values, problem.basis.T @ (problem.optimum - inits.mean)

    def restricted(u: Tensor) -> tuple[Tensor, Tensor]:
        u = u / u.norm(dim=-1, keepdim=True)
        off = torch.eye(len(values), dtype=u.dtype) - u[..., :, None] * u[..., None, :]
        return u, (off * values) @ off  # H where it is orthogonal to u, [..., r, r]

    def losses(u: Tensor) -> Tensor:
        u, left = restricted(u)
        bias = (values * delta**2).sum() - (u @ (values * delta)) ** 2 / (u**2 @ values)
        return 0.5 * bias + 0.5 * inits.std**2 * torch.linalg.eigvalsh(left)[..., 1 : 1 + len(values) - M].sum(-1)

    starts = torch.eye(len(values), dtype=values.dtype)[: min(M + 1, 8)]
    u, reached = minimise(losses, torch.cat([delta[None], starts]) if delta.any() else starts)
    u, left = restricted(u[reached.argmin()])
    U = torch.cat([u[:, None], torch.linalg.eigh(left)[1][:, len(values) - M + 1 :]], 1)
    return reached.min().item(), problem.basis @ U


def lower_bound(problem: LeastSquares, inits: Inits, M: int) -> float:
    """No rule that moves theta_0 within a subspace of M dimensions gets below this, gradient descent or not.

    Half the sum of all but the M largest eigenvalues of std^2 H + w w^T, w = H^1/2 delta: the second moment of
    H^1/2 (theta* - theta_0), of which M dimensions can at best be brought to zero (Eckart and Young, 1936).
    """
    w = problem.values.sqrt() * (problem.basis.T @ (problem.optimum - inits.mean))
    moment = inits.std**2 * problem.values.diag() + torch.outer(w, w)
    return 0.5 * torch.linalg.eigvalsh(moment)[: max(problem.rank - M, 0)].sum().item()


def distil(problem: LeastSquares, inits: Inits, M: int, rate: float, *, steps: int = 1, starts: int, rng):
    """Minimise the expected excess of `steps` steps of M pairs each (eq. 4), by L-BFGS from random pairs.

    -> rows [starts, steps, M, D], targets [starts, steps, M], excess [starts]. A pair is learned as one vector
    (row, target) in units in which rate/M d~^T d~ is d~^T d~; the rate itself is one of these units.
    """
    D, scale = len(problem.optimum), (M / rate) ** 0.5

    def losses(pairs: Tensor) -> Tensor:
        return expected_excess(problem, inits, *affine(scale * pairs[..., :-1], scale * pairs[..., -1], rate))

    start = torch.randn(starts, steps, M, D + 1, generator=rng, dtype=torch.float64) / D**0.5
    pairs, reached = minimise(losses, start)
    return scale * pairs[..., :-1], scale * pairs[..., -1], reached


def minimise(losses: Callable[[Tensor], Tensor], x: Tensor, iterations: int = 1000) -> tuple[Tensor, Tensor]:
    """L-BFGS with step halving, on K independent losses at once: x [K, ...] -> x, losses [K]. Deterministic."""

    def evaluate(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.requires_grad_()
        found = losses(z.view_as(x))
        return found.detach()[:, None], torch.autograd.grad(found.sum(), z)[0]

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1, keepdim=True)

    z, history = x.flatten(1), []
    f, g = evaluate(z.clone())
    gamma = 1 / dot(g, g).sqrt().clamp(min=1)
    for _ in range(iterations):
        p, kept = -g, []
        for s, y, rho in reversed(history):
            kept.append(rho * dot(s, p))
            p = p - kept[-1] * y
        p = gamma * p
        for s, y, rho in history:
            p = p + s * (kept.pop() - rho * dot(y, p))
        slope, size = dot(g, p), torch.ones_like(f)
        for _ in range(30):
            new_f, new_g = evaluate((z + size * p).detach())
            worse = ~(new_f <= f + 1e-4 * size * slope)
            if not worse.any():
                break
            size = torch.where(worse, size / 2, size)
        s = torch.where(worse, 0, size * p)  # a start that finds nothing lower stays where it is
        new_f, new_g = torch.where(worse, f, new_f), torch.where(worse, g, new_g)
        y = new_g - g
        curved = dot(s, y) > 1e-12 * dot(y, y)
        history = [*history[-19:], (s, y, torch.where(curved, 1 / dot(s, y), 0))]
        gamma = torch.where(curved, dot(s, y) / dot(y, y), gamma)
        z, f, g = z + s, new_f, new_g
        if worse.all() or g.abs().max() < 1e-12:
            break
    return z.view_as(x), f[:, 0]


def principal_angles(rows: Tensor, basis: Tensor) -> Tensor:
    """Angles in degrees, smallest first, between the spans of rows [M, D] and of basis [D, m]: [min(M, m)]."""
    span = torch.linalg.qr(rows.T).Q
    return torch.linalg.svdvals(span.T @ torch.linalg.qr(basis).Q).clamp(max=1).arccos().rad2deg()


def _float64(**tensors: Tensor) -> list[Tensor]:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(f"{name} has entries that are not finite; all must be numbers")
    return [tensor.double() for tensor in tensors.values()]
