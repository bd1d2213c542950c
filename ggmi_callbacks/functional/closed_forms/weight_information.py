r"""I(S; W) where it is known exactly.

Notation (nats; scalars are floats, so nothing here estimates anything):
    n, d     samples and dimensions
    s2, t2   variance of a sample about its mean mu, and of mu itself: z ~ N(mu, s2 Id), mu ~ N(0, t2 Id)
    a, v     n t2 / (s2 + n t2) and s2 t2 / (s2 + n t2): the posterior of mu is N(a zbar, v Id)
    q2       variance of noise added to a mean: W = zbar + N(0, q2 Id)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_positive, check_tensors


class GaussianWeightInformation(NamedTuple):
    """The two quantities called I(S; W) and their difference; floats, in nats.

    Attributes:
        mixture: I_mix, the law of the data unknown; memorised plus generalised.
        fixed: I_fix, the law of the data fixed; memorised.
        generalised: I_gen = I_mix - I_fix, what the weights hold about the law.
    """

    mixture: float
    fixed: float
    generalised: float


def gaussian_weight_information(n: int, d: int, s2: float, t2: float) -> GaussianWeightInformation:
    r"""I(S; W) for a Gaussian mean learnt by drawing W from its posterior.

    .. math::
        I_{mix} = \tfrac d2 \log\left(1 + \tfrac{n t^2}{s^2}\right), \quad
        I_{fix} = \tfrac d2 \log\left(1 + \tfrac{n t^2}{s^2 + n t^2}\right) \le \tfrac d2 \log 2, \quad
        I_{gen} = \tfrac d2 \log\frac{t^2}{a^2 s^2 / n + v}

    The posterior mean in place of a posterior draw would raise the code-length estimate of I_mix by d a / 2.

    Args:
        n: number of samples.
        d: dimension.
        s2: variance of a sample about its mean.
        t2: prior variance of the mean.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> mixture, fixed, generalised = gaussian_weight_information(n=10_000, d=1, s2=1.0, t2=1.0)
        >>> f"{mixture:.4f} = {fixed:.4f} + {generalised:.4f}"
        '4.6052 = 0.3465 + 4.2587'
    """
    check_positive(n=n, d=d, s2=s2, t2=t2)
    evidence = s2 + n * t2
    a, v = n * t2 / evidence, s2 * t2 / evidence
    return GaussianWeightInformation(
        mixture=d / 2 * math.log1p(n * t2 / s2),
        fixed=d / 2 * math.log1p(n * t2 / evidence),
        generalised=d / 2 * math.log(t2 / (a**2 * s2 / n + v)),
    )


def noisy_mean_information(n: int, d: int, s2: float, q2: float) -> float:
    r"""I_fix of empirical risk minimisation with noise, W = mean + N(0, q2): d/2 log(1 + s2 / (n q2)), nats.

    Args:
        n: number of samples.
        d: dimension.
        s2: variance of a sample.
        q2: variance of the noise on the weights.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> round(noisy_mean_information(n=10, d=1, s2=1.0, q2=0.01), 4)
        1.1989
    """
    check_positive(n=n, d=d, s2=s2, q2=q2)
    return d / 2 * math.log1p(s2 / (n * q2))


def linear_regression_information(x: Tensor, s2: float, t2: float) -> Tensor:
    r"""I_mix of Bayesian linear regression with fixed inputs, 1/2 log det(Id + (t2 / s2) X X^T), nats.

    Args:
        x: [n, d] the inputs; the targets are x w + N(0, s2) with w ~ N(0, t2 Id).
        s2: variance of the noise on a target.
        t2: prior variance of a weight.

    Returns:
        0-dim tensor, differentiable in ``x``.

    Raises:
        ValueError: If ``x`` is no matrix or a variance is not positive.

    Example:
        >>> import torch
        >>> linear_regression_information(torch.ones(4, 1), s2=1.0, t2=2.0)  # log(1 + 2 * 4) / 2
        tensor(1.0986)
    """
    check_tensors(x=x)
    check_positive(s2=s2, t2=t2)
    if x.ndim != 2:
        raise ValueError(f"Expected argument `x` to have shape [n, d] but got {list(x.shape)}; add the missing axis.")
    small = x if x.shape[0] <= x.shape[1] else x.mT  # det(Id + A A^T) = det(Id + A^T A)
    identity = torch.eye(small.shape[0], dtype=torch.float64, device=x.device)
    information = torch.logdet(identity + t2 / s2 * small.double() @ small.double().mT) / 2
    return information.to(torch.promote_types(x.dtype, torch.float32))
