"""Nearest neighbours on canonical pairs."""

from __future__ import annotations

import pytest
import torch

from tests.functional.mutual_information._pairs import estimate, gaussian_pair, normal


@pytest.mark.filterwarnings("ignore:.*too low in more than 5 dimensions")
def test_canonical_ksg_finds_a_few_directions_among_many() -> None:
    x, y, truth = gaussian_pair(3000, 2, rho=0.8)
    x, y = torch.cat((x, normal(3000, 18, seed=1)), 1), torch.cat((y, normal(3000, 18, seed=2)), 1)
    mixing = torch.linalg.qr(normal(20, 20, seed=3)).Q
    # Noise 4 * 0.8 sqrt(2 / 3000); fitted directions add 2 * (20 + 20) / (2 * 3000) = 0.013
    assert estimate(x @ mixing, y, estimator="canonical_ksg") == pytest.approx(truth, abs=0.1)
    assert estimate(x @ mixing, y, estimator="ksg") < truth - 0.5
