"""Bounds: the GGMI theorem beside the identity, and generalisation bounds that hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ggmi_callbacks.functional import (
    error_rate_information,
    generalization_bound,
    ggmi,
    ggmi_upper_bound,
    ggmi_upper_bound_terms,
    noisy_mean_information,
)


def draw(seed: int) -> list[Tensor]:
    """dI, H(A), H(G), H(G | W), H(A | W'), H(A | W) of discrete sets: all positive."""
    return list(torch.rand(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10)


def test_bound_minus_slack_is_the_ggmi_of_the_four_code_lengths() -> None:
    for seed in range(20):
        di, h_a, h_g, h_g_w, h_a_w1, h_a_w = draw(seed)
        for a in (0.0, 0.7, 2.0):
            bound, value, slack, _ = ggmi_upper_bound_terms(di, h_a, h_g, h_g_w, h_a_w1, h_a_w, a=a)
            exact = ggmi(h_a[None], h_a_w1[None], h_g[None], h_g_w[None])
            assert value == pytest.approx(float(exact))
            assert bound - slack == pytest.approx(float(exact))
            assert slack == pytest.approx(float(di + h_a - h_g - a * h_a_w))


def test_bound_is_the_theorem_as_it_stands_in_the_paper() -> None:
    di, h_a, h_g, h_g_w, h_a_w1, h_a_w = draw(1)
    for a in (0.0, 1.5):
        epsilon = h_a_w - h_a_w1
        paper = di - (a + 1) * h_a_w + 2 * (h_a - h_g) + h_g_w + epsilon
        assert ggmi_upper_bound(di, h_a, h_g, h_g_w, h_a_w1, h_a_w, a=a) == pytest.approx(float(paper))


def test_at_a_star_the_bound_is_ggmi_itself() -> None:
    lengths = [torch.tensor(x, dtype=torch.float64) for x in (3.0, 9.0, 8.0, 5.0, 4.0, 8.0)]
    a_star = ggmi_upper_bound_terms(*lengths).a_star
    assert a_star == 0.5
    bound, value, slack, _ = ggmi_upper_bound_terms(*lengths, a=float(a_star))
    assert bound == pytest.approx(float(value))
    assert slack == pytest.approx(0.0, abs=1e-12)


def test_there_is_no_a_star_below_zero_or_without_positive_code_length() -> None:
    def a_star(di: float, h_a_w: float | None) -> Tensor:
        third = None if h_a_w is None else torch.tensor(h_a_w)
        return ggmi_upper_bound_terms(torch.tensor(di), *torch.tensor([1.0, 3.0, 1.0, 1.0]), third).a_star

    assert a_star(2.5, 1.0) == 0.5
    assert a_star(1.5, 1.0).isnan(), "dI + dH < 0"
    assert a_star(2.5, 0.0).isnan()
    assert a_star(2.5, -1.0).isnan(), "a differential entropy"
    assert a_star(2.5, None).isnan(), "not known"


def test_at_a_zero_the_code_length_under_w_is_of_no_matter() -> None:
    lengths = draw(2)
    assert ggmi_upper_bound(*lengths) == ggmi_upper_bound(*lengths[:5])


def test_parameter_errors() -> None:
    lengths = draw(3)
    with pytest.raises(ValueError, match=r"`a` to be at least 0 but got -0\.1"):
        ggmi_upper_bound(*lengths, a=-0.1)
    with pytest.raises(ValueError, match=r"`anchor_given_weights` because a = 1\.0 weighs it but got None"):
        ggmi_upper_bound(*lengths[:5], a=1.0)


def test_generalization_bound_is_its_formula() -> None:
    value = generalization_bound(torch.tensor(3.0, dtype=torch.float64), 50, sigma=0.7, layers=4, eta=0.8)
    expected = math.exp(-2 * math.log(1 / 0.8)) * math.sqrt(2 * 0.49 * 3 / 50)
    assert value == pytest.approx(expected, rel=1e-12)
    assert generalization_bound(torch.tensor(-0.1), 50) == 0


def test_generalization_bound_holds_for_a_noisy_mean_with_clipped_loss() -> None:
    """W = mean + noise, loss min((z - W)^2, 4) / 4 in [0, 1]: both sides by simulation of the gap."""
    n, q2 = 5, 0.05
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(100_000, n, generator=generator)
    w = z.mean(1, keepdim=True) + math.sqrt(q2) * torch.randn(100_000, 1, generator=generator)
    fresh = torch.randn(100_000, n, generator=generator)

    def loss(x: Tensor) -> Tensor:
        return (x - w).square().clamp_max(4) / 4

    gap = (loss(fresh) - loss(z)).mean().item()
    information = torch.tensor(noisy_mean_information(n, 1, 1.0, q2))
    assert 0.05 < gap < float(generalization_bound(information, n))


@pytest.mark.parametrize("a", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("b", [0.0, 0.3, 0.9, 1.0])
def test_loss_difference_information_bounds_the_gap_with_the_full_range(a: float, b: float) -> None:
    per_pair = torch.tensor(error_rate_information(a, b))
    assert abs(b - a) <= float(generalization_bound(per_pair, 1, sigma=1.0)) + 1e-7


@pytest.mark.parametrize(
    ("constants", "name"), [({"sigma": 0.0}, "sigma"), ({"eta": 1.1}, "eta"), ({"layers": -1}, "layers")]
)
def test_constants_out_of_range_are_refused(constants: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        generalization_bound(torch.tensor(1.0), 10, **constants)
    with pytest.raises(ValueError, match="`n` to be positive"):
        generalization_bound(torch.tensor(1.0), 0)
