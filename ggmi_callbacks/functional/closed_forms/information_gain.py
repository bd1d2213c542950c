r"""Information gain dI = H(y) - I(h; y) where it is known exactly: p a prompt, y an output, h what reaches y of p."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_tensors


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
    check_tensors(noise_covariance=noise_covariance)
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
    check_tensors(joint=joint, code=code)
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
