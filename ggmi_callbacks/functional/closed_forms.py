r"""Cases in which the answer is known exactly: for tests, and for teaching.

Notation (nats; scalars are floats, so nothing here estimates anything):
    n, d          samples and dimensions
    s2, t2        variance of a sample about its mean mu, and of mu itself: z ~ N(mu, s2 Id), mu ~ N(0, t2 Id)
    a, v          n t2 / (s2 + n t2) and s2 t2 / (s2 + n t2): the posterior of mu is N(a zbar, v Id)
    q2            variance of noise added to a mean: W = zbar + N(0, q2 Id)
    c, g2, mu_M   a generator that recycles the anchors: S_gen,i = c abar + (1 - c) mu_M + N(0, g2 Id)
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_positive

Conditioning = Literal["none", "generator"]


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
    check_positive(s2=s2, t2=t2)
    if x.ndim != 2:
        raise ValueError(f"Expected argument `x` to have shape [n, d] but got {list(x.shape)}; add the missing axis.")
    small = x if x.shape[0] <= x.shape[1] else x.mT  # det(Id + A A^T) = det(Id + A^T A)
    identity = torch.eye(small.shape[0], dtype=torch.float64, device=x.device)
    information = torch.logdet(identity + t2 / s2 * small.double() @ small.double().mT) / 2
    return information.to(torch.promote_types(x.dtype, torch.float32))


def gaussian_ggmi(
    *,
    c: float,
    n_a: int,
    n_g: int,
    s2: float,
    g2: float,
    q2: float,
    d: int = 1,
    conditioning: Conditioning = "none",
) -> float:
    r"""GGMI of noisy means when the generator recycles the mean of the anchors, nats.

    .. math::
        \tfrac d2 \log \frac{1 + s^2 / (n_a q^2)}{1 + (c^2 s^2 / n_a + g^2 / n_g) / q^2}

    for S_gen,i = c abar + (1 - c) mu_M + N(0, g2) and W, W' = mean + N(0, q2). Its sign depends on what is
    held fixed. With ``conditioning="none"`` the anchors behind S_gen are random too, and GGMI is positive if
    and only if c^2 s2 / n_a + g2 / n_g < s2 / n_a: pure recycling (c = 1) is never a gain. With
    ``conditioning="generator"`` abar is fixed together with the generator, the term in c drops out, and GGMI
    is positive if and only if g2 / n_g < s2 / n_a.

    Args:
        c: share of the anchors' mean that the generator recycles.
        n_a: number of anchors.
        n_g: number of synthetic samples.
        s2: variance of an anchor.
        g2: variance of a synthetic sample about the generator's mean.
        q2: variance of the noise on the weights.
        d: dimension.
        conditioning: ``"none"`` or ``"generator"``, what I(S_gen; W) is conditioned on.

    Raises:
        ValueError: If a size or variance is not positive, or the conditioning is unknown.

    Example:
        >>> recycling = dict(c=1.0, n_a=10, n_g=1000, s2=1.0, g2=1.0, q2=0.01)
        >>> round(gaussian_ggmi(**recycling), 4)
        -0.0045
        >>> round(gaussian_ggmi(**recycling, conditioning="generator"), 4)
        1.1513
    """
    check_positive(n_a=n_a, n_g=n_g, s2=s2, g2=g2, q2=q2, d=d)
    check_choice("conditioning", conditioning, ("none", "generator"))
    recycled = c**2 * s2 / n_a if conditioning == "none" else 0.0
    return d / 2 * (math.log1p(s2 / (n_a * q2)) - math.log1p((recycled + g2 / n_g) / q2))


def gaussian_channel_information_gain(noise_covariance: Tensor) -> Tensor:
    r"""dI of a Gaussian channel, output = h(prompt) + noise: 1/2 log det(2 pi e Sigma_g), nats.

    Args:
        noise_covariance: [d, d] the covariance Sigma_g of the noise, positive definite.

    Returns:
        0-dim tensor, differentiable; a differential entropy, so it may be negative.

    Raises:
        ValueError: If the covariance is not a square matrix.

    Example:
        >>> import torch
        >>> gaussian_channel_information_gain(torch.eye(2))  # log(2 pi e)
        tensor(2.8379)
    """
    if noise_covariance.ndim != 2 or noise_covariance.shape[0] != noise_covariance.shape[1]:
        raise ValueError(
            "Expected argument `noise_covariance` to have shape [d, d] but got "
            f"{list(noise_covariance.shape)}; pass the covariance matrix, not its diagonal."
        )
    d = noise_covariance.shape[0]
    entropy = (d * math.log(2 * math.pi * math.e) + torch.logdet(noise_covariance.double())) / 2
    return entropy.to(torch.promote_types(noise_covariance.dtype, torch.float32))


def table_information_gain(joint: Tensor, code: Tensor | None = None) -> Tensor:
    r"""dI of a finite joint table of prompts and outputs, nats.

    .. math::
        \Delta I = H(y) - I(h; y) = H(y \mid p) + I(p; y) - I(h; y)

    with h the part of the prompt that reaches the output. A code that keeps every prompt apart leaves H(y |
    p); a lossy one adds what it forgets, I(p; y) - I(h; y).

    Args:
        joint: [prompts, outputs] non-negative weights; they are normalised to probabilities.
        code: [prompts] the integer code h(p) of each prompt; by default every prompt has its own.

    Returns:
        0-dim tensor.

    Raises:
        ValueError: If the table is no matrix of non-negative weights, or the code does not fit it.

    Example:
        >>> import torch
        >>> joint = torch.eye(4) / 4  # the prompt decides the output: nothing is added ...
        >>> table_information_gain(joint)
        tensor(0.)
        >>> table_information_gain(joint, code=torch.tensor([0, 0, 1, 1]))  # but the bit h forgets
        tensor(0.6931)
    """
    if joint.ndim != 2 or not (joint >= 0).all():
        raise ValueError(
            "Expected argument `joint` to be a non-negative table [prompts, outputs] but got shape "
            f"{list(joint.shape)} and minimum {joint.min():.3g}; pass counts or probabilities."
        )
    table = joint.double() / joint.double().sum()
    if code is not None:
        if code.shape != joint.shape[:1]:
            raise ValueError(
                f"Expected argument `code` to have one entry for each of {joint.shape[0]} prompts but got "
                f"shape {list(code.shape)}; pass the integer code of each row of `joint`."
            )
        table = table.new_zeros(int(code.max()) + 1, table.shape[1]).index_add_(0, code.to(table.device), table)
    given = torch.special.entr(table).sum() - torch.special.entr(table.sum(1)).sum()  # H(h, y) - H(h)
    return given.to(torch.promote_types(joint.dtype, torch.float32))
