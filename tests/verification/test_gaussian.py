import math
from dataclasses import replace

import pytest
import torch

from ggmi_callbacks.verification import GaussianWorld, gaussian_protocol

REPEATS = 2000


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_g", [10, 60])
def test_measured_quantities_match_their_closed_forms(c, n_g):
    result = gaussian_protocol(GaussianWorld(c=c, n_a=20, n_g=n_g, g2=2.0), REPEATS, seed=7)
    information = ("ggmi_mixture", "weight_information_anchor", "weight_information_synthetic")
    for name in (*information, "kl_gap", "generalisation_gap_difference"):
        error = float(result[name].std()) / math.sqrt(REPEATS)
        assert abs(float(result[name].mean() - result[f"{name}_exact"])) < 4 * error


def test_loss_difference_terms_stay_below_the_closed_form_given_the_laws():
    world = GaussianWorld(c=1.0, n_a=10, n_g=10_000, g2=0.01)  # hardly anything to store of the synthetic set
    result = gaussian_protocol(world, REPEATS // 20)
    assert float(result["ggmi_loss_difference"]) < float(result["ggmi_given_exact"])


def test_recycling_gains_nothing_unless_the_generator_is_given():
    result = gaussian_protocol(GaussianWorld(c=1.0, n_a=10, n_g=1000, q2=0.01), 2)
    assert float(result["ggmi_exact"]) < 0 < float(result["ggmi_given_exact"])


def test_sign_of_ggmi_given_the_generator_is_that_of_the_generalisation_gaps():
    for g2 in (0.5, 1.0, 2.0, 4.0, 8.0):
        result = gaussian_protocol(GaussianWorld(c=0.3, n_a=20, n_g=67, g2=g2), 2)
        assert (result["ggmi_given_exact"] > 0) == (result["generalisation_gap_difference_exact"] > 0)


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_g", [10, 60])
def test_slack_is_the_entropy_that_the_prompt_keeps_from_the_synthetic_set(c, n_g):
    result = gaussian_protocol(GaussianWorld(c=c, n_a=20, n_g=n_g, g2=2.0), REPEATS, seed=7)
    error = float(result["slack"].std()) / math.sqrt(REPEATS)
    assert abs(float(result["slack"].mean() - result["slack_exact"])) < 4 * error
    assert result["slack_exact"] > 0
    torch.testing.assert_close(result["bound"], result["ggmi_mixture"] + result["slack"])


def test_slack_grows_by_log_ten_for_each_digit_and_dimension_of_the_prompt():
    world = GaussianWorld(c=0.5, n_a=20, n_g=30, d=3)
    exact = [gaussian_protocol(replace(world, digit=digit), 2)["slack_exact"] for digit in (0.01, 0.001)]
    assert float(exact[1] - exact[0]) == pytest.approx(3 * math.log(10))


def test_neither_slack_nor_ggmi_depends_on_the_unit_of_length():
    world = GaussianWorld(c=0.5, n_a=10, n_g=30, d=3)
    scaled = {name: 100 * getattr(world, name) for name in ("s2", "g2", "q2", "t2", "b2")} | {"digit": 0.1}
    small, large = (gaussian_protocol(w, 20) for w in (world, replace(world, **scaled)))
    for name in ("ggmi_mixture", "slack", "bound", "slack_exact"):
        torch.testing.assert_close(large[name], small[name])
