"""Groups of sampled answers in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor


def spread(rewards: Tensor) -> Tensor:
    """Whether rewards [g, size, k] of a group differ, those that are known, in any of k, bool [g].

    Example:
        >>> import torch
        >>> spread(torch.tensor([[[1.0], [1.0]], [[1.0], [0.0]], [[1.0], [float("nan")]]]))
        tensor([False,  True, False])

    """
    high = rewards.nan_to_num(nan=float("-inf")).amax(1)
    low = rewards.nan_to_num(nan=float("inf")).amin(1)
    return (high > low).any(1)


def centred(values: Tensor, size: int) -> Tensor:
    """``values`` [n] less the mean of their group of ``size`` neighbours; zero where not known.

    Example:
        >>> import torch
        >>> centred(torch.tensor([1.0, 3.0, 5.0, float("nan")]), 2)
        tensor([-1.,  1.,  0.,  0.])

    """
    grouped = values.view(-1, size)
    return (grouped - grouped.nanmean(1, keepdim=True)).nan_to_num(nan=0.0).flatten()


def numbers(sums: Mapping[str, float], drops: bool) -> dict[str, float]:
    """What the sums of a window or a run say, ``ggmi/...``; a number without anything behind it is left out.

    Args:
        sums: over the answers, as :class:`~ggmi_callbacks.engine.rollouts.RolloutEngine` adds them up.
        drops: whether groups are dropped.

    """
    scale = math.sqrt(sums.get("xx", 0.0) * sums.get("yy", 0.0))
    over = {
        "groups_without_signal": ("flat", sums.get("groups")),
        "shared_information": ("shared", sums.get("siblings")),
        "agreement": ("agreement", sums.get("siblings")),
        "gain": ("gain", sums.get("known")),
        "reward_gain_correlation": ("xy", scale),
    }
    if drops:
        over["kept"] = ("kept", sums.get("answers"))
        over["dropped/no_signal"] = ("flat", sums.get("groups"))
        over["dropped/gain"] = ("negative", sums.get("groups"))
    found = {f"ggmi/{name}": sums[top] / below for name, (top, below) in over.items() if below}
    if drops and sums.get("trained"):
        found["ggmi/seconds_saved"] = sums["left out"] * sums["seconds"] / sums["trained"]
    return found
