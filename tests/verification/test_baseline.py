import math

import numpy as np
import pytest
import torch

from ggmi_callbacks.verification import Design, baseline, draw_world, histogram_kl
from ggmi_callbacks.verification.baseline import published_gap, time_baselines


def test_published_gap_is_the_histogram_estimate_with_ranges_of_their_own(monkeypatch, rng):
    monkeypatch.setattr(baseline, "_ROUNDS", 40)
    world = draw_world(2, 2, 2, 2, 100, 200, 1, rng)
    published = published_gap(world, 0, 2, np.random.default_rng(0))
    fits = baseline._scikit_learn_fits(world, 0, 2)
    for fit in fits:
        fit.random_state = np.random.RandomState(1)
    gaps = []
    for _ in range(40):
        truth = world.truth.sample(1000, rng)
        anchor, synthetic = (torch.from_numpy(fit.sample(1000)[0])[None] for fit in fits)
        gaps.append(histogram_kl(anchor, truth, shared=False) - histogram_kl(synthetic, truth, shared=False))
    rounds = torch.cat(gaps)
    assert abs(published - float(rounds.mean())) < 4 * math.sqrt(2 / 40) * float(rounds.std())  # two means of 40 rounds


def test_timings_state_their_subsample_and_leave_the_published_out_beyond_two_dimensions():
    design = Design(values=(2,), repeats=3, anchors_per_component=20, n_synthetic=40, d=3)
    timing = time_baselines(design, 0.5, panels="K", fits=2)
    assert timing.subsample == "K = 2 in turn: 3 repeats of ours, 2 of scikit-learn's, 0 of the published"
    assert timing.our_fits > 0
    assert timing.scikit_learn_fits > 0
    assert math.isnan(timing.published_call)
    assert "published" not in str(timing).split("\n", 1)[1]


def test_text_states_both_ratios():
    timing = baseline.Timing("K = 2", 0.01, 0.2, 0.1, 2.0)
    assert "20 times as long" in str(timing)
    assert str(timing).count("20 times as long") == pytest.approx(2)
