r"""What pairs of twins tell about which was trained on, known exactly; see :func:`loss_difference_information`.

Notation:
    D          loss of the held-out twin minus loss of the held-in one; f its density
    A, B       error rates on samples trained on, and on samples that were not
    h          binary entropy in nats
    n, s2, q2  W = zbar + N(0, q2) from n samples of variance s2, in one dimension, with loss (z - W)^2 / 2
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_positive


def error_rate_information(train_error: float, test_error: float) -> float:
    r"""Information of a 0/1 loss difference about which of two twins was in, nats per pair.

    .. math::
        (p + q) \left(\log 2 - h\big(p / (p + q)\big)\right), \quad p = B (1 - A), \quad q = A (1 - B)

    Args:
        train_error: A, the error rate on samples trained on.
        test_error: B, the error rate on samples that were not.

    Raises:
        ValueError: If an error rate is not in [0, 1].

    Example:
        >>> round(error_rate_information(train_error=0.0, test_error=0.5), 4)  # half of the pairs tell all
        0.3466
    """
    if not (0 <= train_error <= 1 and 0 <= test_error <= 1):
        raise ValueError(
            "Expected arguments `train_error` and `test_error` to be in [0, 1] but got "
            f"{train_error} and {test_error}; pass rates, not percentages."
        )
    p, q = test_error * (1 - train_error), train_error * (1 - test_error)
    return sum(k * math.log(2 * k / (p + q)) for k in (p, q) if k > 0)


def noisy_mean_twin_information(n: int, s2: float, q2: float) -> float:
    r"""Information of the difference of squared losses in noisy ERM about which twin was in, nats per pair.

    .. math::
        \int f(D) \left[\log 2 - h\left(\frac{f(D)}{f(D) + f(-D)}\right)\right] dD

    D = (out - in)(out + in) / 2, with out and in the distances of the twins from W, is half the product of two
    correlated Gaussians: f is a Bessel function K_0 of ``|D|`` times exp(slope D), so that the odds of its sign are
    ``exp(2 slope |D|)``, and one quadrature is left. Times n it is a lower bound on :func:`noisy_mean_information`.

    Args:
        n: number of samples.
        s2: variance of a sample.
        q2: variance of the noise on the weights.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> round(10 * noisy_mean_twin_information(n=10, s2=1.0, q2=0.01), 2)  # of 1.20 nats
        0.05
    """
    check_positive(n=n, s2=s2, q2=q2)
    held_out, held_in, cross = s2 + s2 / n + q2, s2 - s2 / n + q2, q2  # covariances of the distances
    minus, plus = held_out + held_in - 2 * cross, held_out + held_in + 2 * cross
    scale = math.sqrt(minus * plus) / 2
    rho = (held_out - held_in) / (2 * scale)
    sharp, slope = 1 / (scale * (1 - rho**2)), rho / (scale * (1 - rho**2))

    def integrand(size: Tensor) -> Tensor:
        both_signs = ((slope - sharp) * size).exp() + (-(slope + sharp) * size).exp()
        bessel = torch.special.scaled_modified_bessel_k0(sharp * size)
        density = bessel * both_signs / (math.pi * scale * math.sqrt(1 - rho**2))
        held_out_is_worse = (2 * slope * size).sigmoid()
        known = torch.special.entr(held_out_is_worse) + torch.special.entr(1 - held_out_is_worse)
        return density * (math.log(2) - known)

    return _integral(integrand, 1 / (sharp - slope))


def _integral(function: Callable[[Tensor], Tensor], scale: float) -> float:
    """Integral over (0, inf) of a function that decays like exp(-x / scale) and may be singular at 0.

    Double exponential quadrature: x = scale exp(u - exp(-u)), the trapezoidal rule in u.
    """
    step = 1 / 64
    u = torch.arange(-5, 5, step, dtype=torch.float64)
    x = scale * (u - (-u).exp()).exp()
    return float((function(x) * x * (1 + (-u).exp())).sum()) * step
