"""Classifier bounds on total variation: against known total variations, and where both laws are one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ggmi_callbacks.functional import divergence_bound, divergence_terms, total_variation_lower_bound


def gaussian(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    x = scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, 0] += shift
    return x


def total_variation(shift: float) -> float:
    """Of two unit Gaussians: 2 Phi(shift / 2) - 1."""
    return math.erf(shift / 2 / math.sqrt(2))


@pytest.mark.parametrize("d", [1, 2, 10, 50])
@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_bound_on_shifted_gaussians_is_below_their_total_variation_and_close(d: int, shift: float) -> None:
    n = 1000
    value = float(total_variation_lower_bound(gaussian(n, d, 1), gaussian(n, d, 2, shift)))
    exact = total_variation(shift)
    # accuracies p, q with p + q - 1 = TV: variance of their sum at most 2 (1 - TV^2) / 4 / n
    error = math.sqrt((1 - exact**2) / (2 * n))
    assert value < exact + 4 * error
    assert value > exact - 0.06 - 4 * error  # what the classifier misses at this n, most in 50 dimensions


def test_a_wide_cloud_around_a_narrow_one_is_seen() -> None:
    assert total_variation_lower_bound(gaussian(500, 50, 1), gaussian(500, 50, 2, scale=1.5)) > 0.85


def test_two_samples_of_one_law_give_nothing_on_average() -> None:
    values = torch.stack(
        [total_variation_lower_bound(gaussian(100, 3, 2 * i), gaussian(80, 3, 2 * i + 1)) for i in range(60)]
    )
    assert abs(values.mean().item()) < 4 * values.std().item() / math.sqrt(60)


def test_intervals_cover_zero_under_one_law_as_often_as_they_say() -> None:
    intervals = [
        total_variation_lower_bound(gaussian(60, 2, 2 * i), gaussian(60, 2, 2 * i + 1), confidence=0.9)
        for i in range(100)
    ]
    covered = sum(bool(low < 0 < high) for _, low, high in intervals) / 100
    assert covered > 0.9 - 4 * math.sqrt(0.09 / 100)  # without the widening for folds it is some .7


def test_the_interval_keeps_its_width_where_all_are_told_apart() -> None:
    value, low, high = total_variation_lower_bound(gaussian(40, 2, 1), gaussian(40, 2, 2, 50.0), confidence=0.95)
    assert value == 1.0
    assert 0.8 < low < 1.0 <= high


def test_order_of_rows_batches_and_precision_of_storage_do_not_matter() -> None:
    x, y = gaussian(90, 4, 1).float(), gaussian(70, 4, 2, 1.0).float()
    value = total_variation_lower_bound(x, y)
    generator = torch.Generator().manual_seed(0)
    orders = (torch.randperm(len(z), generator=generator) for z in (x, y))
    shuffled = (z[order] for z, order in zip((x, y), orders, strict=True))
    assert total_variation_lower_bound(*shuffled) == pytest.approx(float(value), abs=1e-6)
    assert total_variation_lower_bound(x.double(), y.double()) == pytest.approx(float(value), abs=1e-6)


def test_the_folds_and_so_the_bound_do_not_depend_on_the_precision_of_storage() -> None:
    x, y = gaussian(90, 4, 1), gaussian(70, 4, 2, 1.0)  # with digits that single precision does not hold
    value = total_variation_lower_bound(x, y)
    assert total_variation_lower_bound(x.float(), y.float()) == pytest.approx(float(value), abs=1e-6)


def test_a_bound_is_never_computed_from_values_that_are_not_finite() -> None:
    x, y = gaussian(90, 4, 1), gaussian(70, 4, 2, 1.0)
    for bad in (torch.nan, torch.inf):
        y[3, 1] = bad
        with pytest.raises(ValueError, match="`y` to be finite but got 1 values that are not; drop those samples"):
            total_variation_lower_bound(x, y)
        with pytest.raises(ValueError, match="`synthetic` to be finite"):
            divergence_bound(x, x, y)


def test_swapping_the_laws_changes_nothing() -> None:
    x, y = gaussian(90, 4, 1), gaussian(70, 4, 2, 1.0)
    # landmarks of both classes weigh alike, so the classifier is the mirror image
    assert total_variation_lower_bound(y, x) == pytest.approx(float(total_variation_lower_bound(x, y)), abs=0.02)


def test_identical_sets_are_not_told_apart() -> None:
    x = gaussian(50, 3, 1)
    assert total_variation_lower_bound(x, x) <= 1e-9
    constant = torch.ones(20, 3)
    assert total_variation_lower_bound(constant, constant) == 0.0


def test_terms_add_up_and_obey_the_triangle_inequality() -> None:
    sets = gaussian(400, 2, 1), gaussian(400, 2, 2, 1.0), gaussian(400, 2, 3, 2.0)
    terms = divergence_terms(*sets, constant=2.5)
    first, second = float(terms.real_generated), float(terms.generated_synthetic)
    assert terms.bound == pytest.approx(2.5 * (first + second))
    assert divergence_bound(*sets, constant=2.5) == terms.bound
    assert float(terms.real_synthetic) < first + second  # .68 against .38 + .38
    assert terms.real_synthetic == pytest.approx(total_variation(2.0), abs=0.1)


def test_the_interval_of_the_sum_adds_half_widths_in_squares() -> None:
    sets = gaussian(100, 2, 1), gaussian(100, 2, 2, 1.0), gaussian(100, 2, 3, 2.0)
    bound, first, second, _ = divergence_terms(*sets, constant=3.0, confidence=0.9)
    half = [float(term.value - term.low) for term in (first, second)]  # type: ignore[attr-defined]
    assert float(bound.value - bound.low) == pytest.approx(3 * math.hypot(*half))


def test_errors_name_argument_and_cure() -> None:
    x = gaussian(10, 2, 1)
    with pytest.raises(ValueError, match=r"`x` to have shape \[n, d\] with n >= 5 .* got \[4, 2\]; embed"):
        total_variation_lower_bound(x[:4], x)
    with pytest.raises(ValueError, match="`y` to have shape"):
        total_variation_lower_bound(x, gaussian(10, 3, 1))
    with pytest.raises(ValueError, match="`constant` to be positive"):
        divergence_bound(x, x, x, constant=0.0)
