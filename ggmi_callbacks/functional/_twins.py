"""Twins made comparable: how hard a sample is, as a model that saw neither twin finds it, is taken off its loss.

Notation:
    l_i        loss of a sample under the weights in question, nats
    r_i        its loss under fixed weights that were trained on none of the samples, nats
    in, out    samples that the weights were trained on, and samples of the same law that they were not

r does not know who was in, so its mean is the same on both sides and l - b r has the same expected gap as l, for any b.
The least-squares b leaves the least spread (a control variate; Watson et al., ICLR 2022, calibrate membership so).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ggmi_callbacks.functional._interval import Interval, mean_and_variance, moments, t_interval


def calibrated(held_in: Tensor, held_out: Tensor, reference_in: Tensor, reference_out: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of both groups less b times their centred reference losses; as they are where no reference is known.

    Args:
        held_in: [n] losses of samples that were trained on.
        held_out: [m] losses of samples that were not.
        reference_in: [n] losses of the same under the fixed weights; NaN where unknown.
        reference_out: [m] the same of the samples held out.

    Example:
        >>> from torch import tensor
        >>> hard, harder = tensor([0.0, 2.0]), tensor([1.0, 3.0])
        >>> calibrated(hard + 1, harder + 1.5, hard, harder)  # as hard as the fixed weights find them, but for a gap
        (tensor([2.5000, 2.5000]), tensor([3., 3.]))

    """
    reference = torch.cat((reference_in, reference_out))
    if not bool(reference.isfinite().all()):
        return held_in, held_out
    spread, together = reference.new_zeros(()), reference.new_zeros(())
    for loss, other in ((held_in, reference_in), (held_out, reference_out)):
        centred = other - other.mean()
        spread = spread + centred.square().sum()
        together = together + (centred * (loss - loss.mean())).sum()
    slope = torch.where(spread > 0, together / spread, 0.0)
    centre = reference.mean()
    return held_in - slope * (reference_in - centre), held_out - slope * (reference_out - centre)


def difference_of_means(x: Tensor, y: Tensor, confidence: float) -> Interval:
    """Mean of ``x`` [n] minus mean of ``y`` [m], with Welch's interval.

    Example:
        >>> from torch import tensor
        >>> value, low, high = difference_of_means(tensor([3.0, 5.0, 4.0]), tensor([1.0, 2.0, 3.0]), 0.95)
        >>> f"{value:.2f} in [{low:.2f}, {high:.2f}]"
        '2.00 in [-0.27, 4.27]'

    """
    (a, var_a), (b, var_b) = mean_and_variance(moments(x)), mean_and_variance(moments(y))
    variance = var_a + var_b
    dof = variance.square() / (var_a.square() / (len(x) - 1) + var_b.square() / (len(y) - 1)).clamp_min(1e-300)
    return t_interval(a - b, variance, dof.nan_to_num(nan=1.0), confidence)
