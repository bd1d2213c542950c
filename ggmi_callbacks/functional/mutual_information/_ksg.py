r"""Nearest-neighbour mutual information (Kraskov, Stoegbauer and Grassberger; conditional: Frenzel and Pompe).

Notation:
    r_i         distance from sample i to its k-th neighbour, in the largest of the Euclidean distances in the
                standardised x, y and z
    n_xz(i)     samples strictly within r_i of sample i in x and in z, itself included; likewise n_yz, n_z; without
                z, n_z = n
    I           mean_i of psi(k) + psi(n_z(i)) - psi(n_xz(i)) - psi(n_yz(i)); psi is the digamma function

Ties:
    - Samples whose k-th neighbour coincides with them (discrete or mixed data) use the number of coinciding samples
      for k: on discrete data the estimate then tends to the plug-in one.
    - Other samples at just the distance of the k-th neighbour (rounded data, counts) fall out of n_xz and n_yz. The
      bias was +0.2 nats times the share of samples with such a tie, over rounded Gaussian pairs and Poisson counts.
      More than a tenth is refused.
    - Copies of samples are refused by :func:`check_copies`.

Source: Kraskov et al., Phys. Rev. E 69, 066138 (2004), equation 8; Frenzel and Pompe, Phys. Rev. Lett. 99,
204101 (2007); Gao et al., NeurIPS 2017, for the ties.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ggmi_callbacks.functional._estimate import Estimate
from ggmi_callbacks.functional._neighbours import neighbour_counts, standardise

TOLERATED_TIES = 0.1  # share of the samples


def ksg_information(variables: list[Tensor], k: int, scaled: bool = False) -> Estimate:
    """I(x; y) or I(x; y | z) of ``variables`` [x, y] or [x, y, z].

    Raises:
        ValueError: If too many samples have ties at their k-th neighbour.
    """
    pointwise, ties = _pointwise_and_ties(variables, k, scaled)
    share = float(ties.mean())
    if share > TOLERATED_TIES:
        raise ValueError(
            f"Expected samples without ties at their neighbours' distances but got ties at {share:.0%} of them, as in "
            "rounded data and counts; add uniform noise of the width of the rounding, x + width * "
            '(torch.rand_like(x) - 0.5), or use estimator="auto", which does.'
        )
    return neighbour_estimate(pointwise)


def neighbour_estimate(pointwise: Tensor) -> Estimate:
    """The mean of neighbours' pointwise values [n], with twice their variance as its spread.

    Neighbours share samples, so their values are correlated: over Gaussian pairs of correlation 0 to 0.9, in one and
    two dimensions, the variance of the mean was 1.4 to 2.5 times that of independent values.
    """
    mean = pointwise.mean()
    return Estimate(mean, mean + 2**0.5 * (pointwise - mean), len(pointwise))


def ksg_pointwise(variables: list[Tensor], k: int, scaled: bool = False) -> Tensor:
    """[n] summands of the estimate; ``scaled`` if the variables need no standardising."""
    return _pointwise_and_ties(variables, k, scaled)[0]


def share_of_ties(variables: list[Tensor], k: int) -> float:
    """Share of the samples with ties at their k-th neighbour, at a distance above zero."""
    return float(_pointwise_and_ties(variables, k, scaled=False)[1].mean())


def _pointwise_and_ties(variables: list[Tensor], k: int, scaled: bool) -> tuple[Tensor, Tensor]:
    n = len(variables[0])
    spaces = variables if scaled else [standardise(v) for v in variables]
    groups: list[tuple[int, ...]] = [(0, 2), (1, 2), (2,)] if len(spaces) == 3 else [(0,), (1,)]
    joint, counts, ties = neighbour_counts(spaces, groups, k)
    if len(spaces) == 2:
        counts = torch.cat((counts, torch.full_like(counts[:1], n)))
    near_x, near_y, near_z = torch.digamma(counts)
    return torch.digamma(joint) + near_z - near_x - near_y, ties
