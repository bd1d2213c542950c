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
    synthetic_generalization_bound,
)

NAMES = (
    "information_gain",
    "anchor_entropy",
    "synthetic_entropy",
    "synthetic_given_weights",
    "anchor_given_anchor_weights",
    "anchor_given_prompt",
    "anchor_given_weights",
)


def draw(seed: int) -> dict[str, Tensor]:
    """Entropies of discrete sets: all positive."""
    numbers = torch.rand(len(NAMES), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10
    return dict(zip(NAMES, numbers, strict=True))


def bound_alone(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x for name, x in terms.items() if name != "anchor_given_weights"}


def test_bound_minus_slack_is_the_ggmi_of_the_four_code_lengths() -> None:
    for seed in range(20):
        given = draw(seed)
        di, h_a, h_g, h_g_w, h_a_w1, h_a_p, _ = given.values()
        terms = ggmi_upper_bound_terms(**given)
        exact = ggmi(h_a[None], h_a_w1[None], h_g[None], h_g_w[None])
        assert terms.ggmi == pytest.approx(float(exact))
        assert terms.bound - terms.slack == pytest.approx(float(exact))
        assert terms.slack == pytest.approx(float(di + h_a - h_g - h_a_p))


def test_bound_is_the_theorem_as_its_text_reads() -> None:
    given = draw(1)
    di, h_a, h_g, h_g_w, h_a_w1, h_a_p, h_a_w = given.values()
    a, epsilon = h_a_w1 / h_a_w, h_a_w - h_a_p
    theorem = di - (a + 1) * h_a_w + 2 * (h_a - h_g) + h_g_w + epsilon
    assert ggmi_upper_bound(**bound_alone(given)) == pytest.approx(float(theorem))
    terms = ggmi_upper_bound_terms(**given)
    assert (float(terms.a), float(terms.epsilon)) == (float(a), float(epsilon))


def test_the_code_length_under_w_is_of_no_matter_to_the_bound() -> None:
    given = draw(2)
    without, other = bound_alone(given), given | {"anchor_given_weights": torch.tensor(99.0).double()}
    expected = ggmi_upper_bound_terms(**given)
    for terms in (ggmi_upper_bound_terms(**without), ggmi_upper_bound_terms(**other)):
        assert terms[:3] == expected[:3]
    assert ggmi_upper_bound_terms(**without).a.isnan()
    assert ggmi_upper_bound_terms(**without).epsilon.isnan()


def test_entropies_are_passed_by_name_and_must_be_tensors() -> None:
    given = draw(3)
    with pytest.raises(TypeError, match="positional"):
        ggmi_upper_bound(*given.values())  # type: ignore[call-arg]
    for name in NAMES:
        message = rf"`{name}` to be a torch.Tensor but got float; pass torch.as_tensor\({name}\)"
        with pytest.raises(TypeError, match=message):
            ggmi_upper_bound_terms(**given | {name: 1.0})


KNOWN = {
    "information_gain": torch.tensor(4.0),
    "compression_bottleneck": torch.tensor(9.0),
    "generator_entropy": torch.tensor(5.0),
    "noise_entropy": torch.tensor(1.0),
    "prompt_entropy": torch.tensor(3.0),
}


def test_synthetic_generalization_bound_is_its_formula() -> None:
    value = synthetic_generalization_bound(**KNOWN, n=50, sigma=0.7, layers=4, eta=0.8)
    expected = math.exp(-2 * math.log(1 / 0.8)) * math.sqrt(2 * 0.49 * (-4 + 9 + 5 + 1 - 3) / 50)
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", KNOWN)
def test_a_term_that_is_not_known_is_refused(name: str) -> None:
    for value in (None, torch.tensor(torch.nan), torch.tensor(-torch.inf)):
        with pytest.raises(ValueError, match=f"`{name}` to be known but got .*; without it there is no such bound"):
            synthetic_generalization_bound(**KNOWN | {name: value}, n=50)


def test_terms_that_add_up_to_no_information_are_refused() -> None:
    with pytest.raises(ValueError, match="to add up to at least 0, as information does, but got -1;"):
        synthetic_generalization_bound(**KNOWN | {"compression_bottleneck": torch.tensor(0.0)}, n=50)


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
