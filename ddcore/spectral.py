"""A convolution of small images that keeps their size, as products of spectra (the convolution theorem).

Where H x H images with C channels and k x k weights meet, a convolution multiplies k^2 H^2 times for each pair of
channels; the spectra of both have n (n/2 + 1) complex frequencies, n = H + (k-1)/2, and are multiplied once each. For
16x16 images and 5x5 weights that is 720 real multiplications instead of 6,400. Beyond rounding nothing changes: the
circular convolution of length n wraps around only where "same" padding crops.

The discrete Fourier transforms are products with small real matrices, because transforms this short are fastest so,
and because whatever differentiates or compiles a matrix product then differentiates and compiles this.
"""

import math

import torch
from torch import Tensor


class SpectralConvolution:
    """Convolutions of `side` x `side` images with `kernel` x `kernel` weights (odd) and a padding of (kernel-1)/2."""

    def __init__(self, side: int, kernel: int):
        n = side + kernel // 2
        self.n, self.rows = n, n // 2 + 1  # a real image's spectrum is known from half of its rows
        pixel, offset = torch.arange(side), torch.arange(kernel) - kernel // 2
        every, half = torch.arange(n), torch.arange(self.rows)
        twice = torch.where((half == 0) | (2 * half == n), 1.0, 2.0).double()  # rows that stand for two
        self.of_images = _real_wave(half, pixel, n), _wave(every, pixel, n)
        self.of_weights = _real_wave(half, offset, n), _wave(every, offset, n)
        back = _real_wave(half, pixel, n).view(self.rows, 2, side) * twice.view(-1, 1, 1) / n
        self.back = _wave(every, pixel, n).t() / n, back.flatten(0, 1).t()

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [B, N*C, H, H], weight [N, O, C, k, k] -> [B, N*O, H, H]; network j has channels j*C to (j+1)*C."""
        networks, o, c = weight.shape[:3]
        batch, side = len(x), x.shape[-1]
        x = x.unflatten(1, (networks, c)).permute(1, 3, 4, 0, 2)  # [N, H, H, B, C]
        x = self._spectrum(x, self.of_images)  # [N*F, 2*B, C], real parts first
        w = self._spectrum(weight.permute(0, 3, 4, 1, 2), self.of_weights)  # [N*F, 2*O, C]
        y = torch.bmm(w, x.transpose(1, 2)).view(-1, 2, o, 2, batch)  # all products of real and imaginary parts
        real, imaginary = y[:, 0, :, 0] + y[:, 1, :, 1], y[:, 0, :, 1] - y[:, 1, :, 0]  # x times the conjugate of w
        y = torch.stack([real, imaginary], 1).view(networks * self.rows, 2 * self.n, o * batch)
        columns, rows = (m.to(y.dtype) for m in self.back)
        y = (columns @ y).view(networks, 2 * self.rows, side * o * batch)
        y = (rows @ y).view(networks, side, side, o, batch)
        return y.permute(4, 0, 3, 1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)

    def _spectrum(self, x: Tensor, waves: tuple[Tensor, Tensor]) -> Tensor:
        """x [N, H, H, A, C] -> [N*F, 2*A, C] with F = rows * n frequencies."""
        networks, side, _, a, c = x.shape
        rows, columns = (m.to(x.dtype) for m in waves)
        x = (rows @ x.reshape(networks, side, side * a * c)).view(networks * self.rows, 2 * side, a * c)
        return (columns @ x).view(-1, 2 * a, c)


def _real_wave(frequency: Tensor, place: Tensor, n: int) -> Tensor:
    """Real [places] -> complex [frequencies, 2]: cos and -sin of 2 pi f p / n."""
    angle = 2 * math.pi / n * frequency.double()[:, None] * place.double()
    return torch.stack([angle.cos(), -angle.sin()], 1).flatten(0, 1)


def _wave(frequency: Tensor, place: Tensor, n: int) -> Tensor:
    """Complex [2, places] -> complex [frequencies, 2]. Its transpose goes back (times 1/n, from all frequencies)."""
    angle = 2 * math.pi / n * frequency.double()[:, None] * place.double()
    real, imaginary = torch.stack([angle.cos(), angle.sin()], 1), torch.stack([-angle.sin(), angle.cos()], 1)
    return torch.stack([real, imaginary], 1).view(2 * len(frequency), 2 * len(place))
