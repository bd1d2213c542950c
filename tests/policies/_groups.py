"""Samples in groups, their gains, and policies that know the groups."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ggmi_callbacks import Policy

N = 600
SOURCE = torch.randint(0, 3, (N,), generator=torch.Generator().manual_seed(5))
PROMPT = torch.arange(N) // 4
GROUPS = {"source": SOURCE, "prompt": PROMPT}


def gains(n: int = N, seed: int = 0, apart: float = 3.0) -> Tensor:
    """Gains of the samples 0 to n, whose sources lie ``apart``."""
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) + apart * SOURCE[:n]


def ready(policy: Policy, groups: dict[str, Tensor] = GROUPS) -> Policy:
    policy = copy.deepcopy(policy)
    policy.read(groups)
    return policy
