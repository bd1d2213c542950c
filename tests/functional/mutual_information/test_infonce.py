"""The trained critic against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from ggmi_callbacks.functional import mutual_information
from tests.functional.mutual_information._pairs import estimate, gaussian_pair, normal


def test_infonce_of_a_gaussian_comes_within_its_noise() -> None:
    x, y, truth = gaussian_pair(1500, 2, rho=0.7)
    value, low, high = mutual_information(x.exp(), y, estimator="infonce", progress=False, confidence=0.95)
    assert low < truth < high
    assert float(value) == pytest.approx(truth, abs=4 * 0.7 * math.sqrt(2 / 1500))
    assert float(mutual_information(x.exp(), y, estimator="infonce", progress=False)) == float(value)


def test_infonce_leaves_the_random_state_alone_and_trains_in_inference_mode(capfd: pytest.CaptureFixture) -> None:
    x, y, truth = gaussian_pair(400, rho=0.9)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with torch.inference_mode():
        value = float(mutual_information(x * 1, y * 1, estimator="infonce"))
    assert torch.equal(state, torch.get_rng_state())
    assert "infonce" in capfd.readouterr().err  # the progress bar
    # The bound is below the truth by what 320 pairs leave unlearned: some three parameters, 3 / (2 * 256).
    assert value == pytest.approx(truth, abs=4 * 0.9 / math.sqrt(400) + 0.02)
    estimate(x, y, estimator="infonce")
    assert "infonce" not in capfd.readouterr().err


def test_infonce_of_independent_variables_is_zero_however_many_dimensions_tempt_the_critic() -> None:
    # On the samples that it was fitted to, the first of 20 canonical pairs alone would show some 0.1 nats.
    assert estimate(normal(300, 20), normal(300, 20, seed=1), estimator="infonce") < 0.03
