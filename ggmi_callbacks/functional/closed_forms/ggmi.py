r"""GGMI where it is known exactly.

Notation (nats; d dimensions):
    abar          mean of n_a anchors of variance s2
    c, g2, mu_M   a generator that recycles the anchors: S_gen,i = c abar + (1 - c) mu_M + N(0, g2 Id), n_g of them
    q2            variance of the noise on the weights: W, W' = mean + N(0, q2 Id)
"""

from __future__ import annotations

import math
from typing import Literal

from ggmi_callbacks.functional._checks import check_choice, check_positive

Conditioning = Literal["none", "generator"]


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
