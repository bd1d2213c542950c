"""Ranks within groups, on the device, without a loop and without waiting."""

from __future__ import annotations

import torch
from torch import Tensor


def places(values: Tensor, group: Tensor) -> Tensor:
    """Place of each value among those of its group, from the largest, 0; ties by position, [n].

    Example:
        >>> places(torch.tensor([1.0, 5.0, 3.0, 5.0]), torch.tensor([0, 1, 0, 1]))
        tensor([1, 0, 0, 1])

    """
    order = values.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return place


def sizes(member: Tensor, group: Tensor) -> Tensor:
    """Number of samples with ``member`` true in each one's group, [n].

    Example:
        >>> sizes(torch.tensor([True, True, False, True]), torch.tensor([0, 1, 0, 1]))
        tensor([1, 2, 1, 2])

    """
    order = group.argsort(stable=True)
    ordered = group[order]
    before = torch.cat([member.new_zeros(1, dtype=torch.long), member[order].long().cumsum(0)])
    ends = (torch.searchsorted(ordered, group, right=right) for right in (True, False))
    last, first = (before[end] for end in ends)
    return last - first
