import csv
import math

import pytest
import torch

from ggmi_callbacks.verification import Design, draw_world, mixture_protocol, protocol, sweep
from ggmi_callbacks.verification.findings import correlation, report, trends
from ggmi_callbacks.verification.panels import gaussian_worlds, write_csv

SMALL = {"K": 2, "J": 3, "L": 2, "n_anchor": 60, "n_synthetic": 90, "repeats": 6, "draws": 200}


@pytest.fixture(scope="module")
def points():
    design = Design(values=(2, 6), repeats=6, anchors_per_component=30, n_synthetic=90, draws=200)
    return sweep(design, progress=False) + gaussian_worlds(design)


def test_the_seed_determines_every_number():
    first, again, other = (mixture_protocol(**SMALL, seed=seed) for seed in (1, 1, 2))
    for name, values in first.items():
        torch.testing.assert_close(values, again[name], rtol=0, atol=0, equal_nan=True)
    assert (first["reverse_gap"] != other["reverse_gap"]).all()


def test_every_quantity_has_one_value_for_each_repeat():
    for d in (2, 8):
        result = mixture_protocol(**{**SMALL, "repeats": 3}, d=d)
        assert all(values.shape == (3,) for values in result.values())
        assert ("histogram_own_gap" in result) == (d == 2)


def test_repeats_that_do_not_fit_in_memory_are_drawn_group_by_group(monkeypatch):
    monkeypatch.setattr(protocol, "_ELEMENTS", 2 * 400 * 7)  # 400 draws of 7 numbers: two repeats at once
    result = mixture_protocol(**SMALL)
    assert result["reverse_gap"].unique().numel() == 6


def test_covariances_are_positive_definite_and_half_of_the_truth_is_the_generators(rng):
    world = draw_world(2, 3, 4, 3, 4000, 50, 5, rng)
    covariance = world.truth.cholesky @ world.truth.cholesky.mT
    assert (torch.linalg.eigvalsh(covariance) > 0).all()
    assert world.generator.weights.shape == (5, 9)
    torch.testing.assert_close(world.generator.means[:, 2:5], world.truth.means[:, 2:])
    # 2000 anchors of each component, of standard deviation up to sqrt(3): .04 is a standard error
    torch.testing.assert_close(world.generator.means[:, :2], world.truth.means[:, :2], atol=0.2, rtol=0)
    assert (world.generator.means[:, 5:] - world.truth.means[:, :1]).abs().amin() > 0


def test_anchors_come_in_equal_numbers_from_the_first_components(rng):
    world = draw_world(3, 2, 1, 2, 32, 20, 4, rng)
    far = torch.arange(5.0).double() * 1000
    world.truth.means.copy_(far[None, :, None].expand(4, -1, 2))
    labels = torch.arange(32) % 3
    x = world.truth.sample_components(labels.expand(4, -1), rng)
    assert torch.equal((x[..., 0] / 1000).round().long(), labels.expand(4, -1))


@pytest.mark.parametrize(
    ("name", "gaps"),
    [("K", (0.05, -0.10)), ("J", (0.04, 0.30)), ("L", (0.07, -0.20))],
)
def test_jensen_shannon_gap_runs_as_known(name, gaps):
    for value, gap in zip((2, 15), gaps, strict=True):
        sizes = {"K": 2, "J": 2, "L": 2, name: value}
        result = mixture_protocol(**sizes, n_anchor=50 * sizes["K"], repeats=40, draws=1000)["jensen_shannon_gap"]
        # The known values are means of 40 repeats themselves and rounded to .01.
        assert abs(float(result.mean()) - gap) < 4 * math.sqrt(2) * float(result.std()) / math.sqrt(40) + 0.01


def test_information_gain_from_log_probabilities_is_the_generators_entropy():
    result = mixture_protocol(repeats=100, draws=1000)
    difference = result["information_gain"] - result["information_gain_true"]
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / 10


def test_bound_is_ggmi_plus_its_slack_and_lies_above_it():
    result = mixture_protocol(**SMALL)
    torch.testing.assert_close(result["bound"], result["ggmi_mixture"] + result["slack"])
    torch.testing.assert_close(
        result["ggmi_mixture"], result["weight_information_anchor"] - result["weight_information_synthetic"]
    )
    assert (result["slack"] > 0).all()


def test_loss_difference_information_is_at_most_log_two_a_sample():
    result = mixture_protocol(**SMALL)
    assert (result["ld_information_anchor"] <= 60 * math.log(2)).all()
    assert (result["ld_information_synthetic"] <= 90 * math.log(2)).all()


@pytest.mark.parametrize(
    ("name", "value"), [("K", 0), ("J", -1), ("d", 0), ("n_anchor", 7), ("n_synthetic", 13), ("repeats", 0)]
)
def test_sizes_too_small_are_errors_that_name_them(name, value):
    with pytest.raises(ValueError, match=f"Expected `{name}` to be at least"):
        mixture_protocol(**{**SMALL, name: value})


def test_sweep_holds_every_setting_and_does_not_depend_on_the_others(points):
    assert [(p.panel, p.value) for p in points[:6]] == [("K", 2), ("K", 6), ("J", 2), ("J", 6), ("L", 2), ("L", 6)]
    assert points[1].sizes["n_anchor"] == 180
    assert points[7].sizes["n_anchor"] == 90  # the sweep with as many anchors as synthetic samples
    alone = sweep(Design(values=(6,), repeats=6, anchors_per_component=30, n_synthetic=90, draws=200), progress=False)
    torch.testing.assert_close(points[3].result["forward_gap"], alone[1].result["forward_gap"], rtol=0, atol=0)


def test_table_holds_the_means_of_every_quantity(points, tmp_path):
    write_csv(points, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        rows = {(r["panel"], r["value"], r["quantity"]): r for r in csv.DictReader(file)}
    gap = points[2].result["jensen_shannon_gap"]
    row = rows["J", "2", "jensen_shannon_gap"]
    assert float(row["mean"]) == pytest.approx(float(gap.mean()), rel=1e-4)
    assert float(row["std"]) == pytest.approx(float(gap.std()), rel=1e-4)
    error = points[2].result["jensen_shannon_gap_error"]
    assert float(row["monte_carlo_error"]) == pytest.approx(float(error.square().mean().sqrt()), rel=1e-4)
    assert ("Gaussian", "0", "ggmi_given_exact") in rows


def test_findings_name_a_trend_and_its_direction(points):
    found = {(t.panel, t.quantity): t for t in trends(points)}
    assert found["L", "jensen_shannon_gap"].direction == "falls"
    assert found["J", "jensen_shannon_gap"].direction == "rises"
    assert "| L | falls | jensen_shannon_gap |" in report(points)


def test_rank_correlation_of_independent_vectors_is_covered_by_its_interval(rng):
    missed = 0
    for _ in range(200):
        _, low, high = correlation(torch.randn(40, generator=rng), torch.randn(40, generator=rng))
        missed += not low < 0 < high
    assert 1 <= missed <= 22  # 10 expected of 200, standard deviation 3.1
