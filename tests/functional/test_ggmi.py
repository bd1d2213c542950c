"""GGMI: closed form, both estimates against known models, the identity of four code lengths, null controls."""

from __future__ import annotations

import math

import pytest
import torch

from ggmi_callbacks.functional import (
    Interval,
    gaussian_ggmi,
    gaussian_weight_information,
    ggmi,
    ggmi_terms,
    noisy_mean_twin_information,
)
from tests.functional._models import gaussian_mean_runs, noisy_mean_twins


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- estimates


def test_mixture_estimate_is_the_difference_of_two_closed_forms() -> None:
    anchors = gaussian_mean_runs(3000, n=10, d=2, s2=1.0, t2=2.0, seed=1)
    synthetic = gaussian_mean_runs(3000, n=40, d=2, s2=0.5, t2=0.1, seed=2)
    lengths = (x.flatten() for x in (anchors.first, anchors.final, synthetic.first, synthetic.final))
    value = ggmi(*lengths, anchor_total=10, synthetic_total=40)
    parts = [run.first - run.final for run in (anchors, synthetic)]
    error = math.sqrt(sum(part.sum(-1).var().item() for part in parts) / 3000)
    exact = gaussian_weight_information(10, 2, 1.0, 2.0).mixture - gaussian_weight_information(40, 2, 0.5, 0.1).mixture
    assert abs(float(value) - exact) < 4 * error < 0.1 * abs(exact) + 0.1


def test_loss_difference_estimate_is_the_difference_of_two_quadratures() -> None:
    q2 = 0.001
    (a_in, a_out), (g_in, g_out) = (noisy_mean_twins(100_000, n, 1.0, q2, seed=n) for n in (2, 8))
    sizes = {"anchor_total": 2, "synthetic_total": 8}
    value, low, high = ggmi(a_out, a_in, g_out, g_in, estimator="loss_difference", **sizes, confidence=0.95)
    exact = 2 * noisy_mean_twin_information(2, 1.0, q2) - 8 * noisy_mean_twin_information(8, 1.0, q2)
    # four standard errors, and what binning |D| loses of either term: 3 %
    assert abs(float(value) - exact) < 4 * float(high - low) / 3.92 + 0.03 * 2 * 0.3
    assert low > 0


@pytest.mark.parametrize("estimator", ["mixture", "loss_difference"])
def test_identical_sets_have_no_gain_and_their_interval_says_so(estimator: str) -> None:
    first, final = torch.rand(2, 50, generator=seeded(3))
    value, low, high = ggmi(first, final, first, final, estimator=estimator, confidence=0.95)
    assert value == 0
    assert low < 0 < high


@pytest.mark.parametrize("estimator", ["mixture", "loss_difference"])
def test_intervals_of_two_samples_of_one_law_cover_zero_as_often_as_they_say(estimator: str) -> None:
    draws = torch.randn(300, 4, 60, generator=seeded(4))
    draws[:, ::2] += 1  # training helps
    intervals = [ggmi(*lengths, estimator=estimator, confidence=0.9) for lengths in draws]
    covered = sum(bool(low <= 0 <= high) for _, low, high in intervals) / 300
    assert covered > 0.9 - 4 * math.sqrt(0.09 / 300)


def test_ggmi_is_the_identity_of_four_code_lengths() -> None:
    a_first, a_final, g_first, g_final = torch.rand(4, 30, generator=seeded(5), dtype=torch.float64)
    dh = a_first.sum() - g_first.sum()
    assert ggmi(a_first, a_final, g_first, g_final) == pytest.approx(float(dh + g_final.sum() - a_final.sum()))


# -- terms


@pytest.mark.parametrize("estimator", ["mixture", "loss_difference"])
def test_terms_hold_both_terms_sizes_scales_and_the_conditioning(estimator: str) -> None:
    generator = seeded(6)
    a_first, a_final = torch.rand(2, 40, generator=generator, dtype=torch.float64)
    g_first, g_final = torch.rand(2, 90, generator=generator, dtype=torch.float64)
    terms = ggmi_terms(
        a_first,
        a_final,
        g_first,
        g_final,
        anchor_tokens=torch.full((40,), 5),
        synthetic_tokens=torch.tensor(900),
        synthetic_total=9000,
        estimator=estimator,
    )
    a, g = float(terms.anchor_information), float(terms.synthetic_information)
    assert terms.ggmi == pytest.approx(a - g)
    assert (float(terms.anchor_samples), float(terms.synthetic_samples)) == (40, 9000)
    assert (float(terms.anchor_tokens), float(terms.synthetic_tokens)) == (200, 90_000)
    assert terms.per_sample == pytest.approx(a / 40 - g / 9000)
    assert terms.per_token == pytest.approx(a / 200 - g / 90_000)
    assert terms.conditioning.startswith({"mixture": "nothing", "loss_difference": "the laws"}[estimator])


def test_terms_without_token_counts_know_nothing_per_token() -> None:
    terms = ggmi_terms(*torch.rand(4, 9, generator=seeded(7)), confidence=0.9)
    assert isinstance(terms.anchor_information, Interval)
    assert isinstance(terms.per_token, Interval)
    assert terms.per_token.value.isnan()
    assert terms.anchor_tokens.isnan()


def test_errors_name_argument_and_cure() -> None:
    x = torch.ones(3)
    with pytest.raises(ValueError, match=r"`synthetic_first` and `synthetic_final` to have the same shape"):
        ggmi(x, x, x, torch.ones(2))
    with pytest.raises(ValueError, match="`estimator` to be one of"):
        ggmi(x, x, x, x, estimator="exact")
    with pytest.raises(ValueError, match="`anchor_total` to be positive but got 0"):
        ggmi(x, x, x, x, anchor_total=0)
    with pytest.raises(ValueError, match="`conditioning` to be one of"):
        gaussian_ggmi(c=1.0, n_a=1, n_g=1, s2=1.0, g2=1.0, q2=1.0, conditioning="anchors")
