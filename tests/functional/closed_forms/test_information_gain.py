"""Information gain in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ggmi_callbacks.functional import (
    gaussian_channel_information_gain,
    table_information_gain,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum()


def random_table(seed: int, rows: int = 5, columns: int = 4) -> Tensor:
    joint = torch.rand(rows, columns, generator=seeded(seed), dtype=torch.float64)
    return joint / joint.sum()


def test_gaussian_channel_gain_is_the_entropy_of_the_noise() -> None:
    root = torch.randn(3, 3, generator=seeded(0), dtype=torch.float64)
    covariance = root @ root.T
    law = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
    assert gaussian_channel_information_gain(covariance) == pytest.approx(float(law.entropy()), rel=1e-12)


def test_table_gain_is_the_conditional_entropy() -> None:
    joint = random_table(1)
    rows = joint.sum(1)
    expected = sum(float(p * entropy(row / p)) for p, row in zip(rows, joint, strict=True))
    assert table_information_gain(joint * 17) == pytest.approx(expected, rel=1e-12)


def test_a_lossy_code_adds_the_information_it_forgets() -> None:
    joint = random_table(2)
    code = torch.tensor([0, 2, 0, 1, 2])

    def mutual_information(table: Tensor) -> Tensor:
        return entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(table)

    merged = torch.zeros(3, 4, dtype=torch.float64).index_add_(0, code, joint)
    forgotten = mutual_information(joint) - mutual_information(merged)
    lossy = table_information_gain(joint, code)
    assert forgotten > 0.01
    assert lossy - table_information_gain(joint) == pytest.approx(float(forgotten), rel=1e-10)
    # and by the definition, H(y) - I(h; y)
    assert lossy == pytest.approx(float(entropy(joint.sum(0)) - mutual_information(merged)), rel=1e-10)
