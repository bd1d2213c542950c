"""Nearest neighbours against slow references, closed forms and scikit-learn."""

from __future__ import annotations

import math
import threading
import warnings

import pytest
import torch
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_regression
from torch import Tensor

from ggmi_callbacks.functional import _neighbours, _trees, knn_entropy, mutual_information
from tests.functional.mutual_information._pairs import estimate, gaussian_pair, normal


def slow_ksg(spaces: list[Tensor], k: int) -> float:
    """Kraskov's first algorithm and Frenzel and Pompe's, as in the papers, one sample at a time."""
    spaces = [(v - v.mean(0)) / v.std(0, correction=0) for v in spaces]
    distances = torch.stack([torch.cdist(v, v, compute_mode="donot_use_mm_for_euclid_dist") for v in spaces])
    n, total = distances.shape[1], 0.0
    for i in range(n):
        radius = distances[:, i].amax(0).sort().values[k]
        x, y, *z = distances[:, i] < radius
        inside = z[0] if z else torch.ones(n, dtype=torch.bool)
        n_x, n_y, n_z = int((x & inside).sum()), int((y & inside).sum()), int(inside.sum())
        total += digamma(k) + digamma(n_z) - digamma(n_x) - digamma(n_y)
    return total / n


@pytest.mark.parametrize("n", [40, 150, 700])  # below and above the number of rows of one block
def test_ksg_equals_its_literal_reference(n: int) -> None:
    x, y, _ = gaussian_pair(n, 2)
    z = x + normal(n, 2, seed=1)
    assert estimate(x, y, estimator="ksg", k=4) == pytest.approx(slow_ksg([x, y], 4), abs=1e-9)
    assert estimate(x, y, z, estimator="ksg", k=4) == pytest.approx(max(0, slow_ksg([x, y, z], 4)), abs=1e-9)


@pytest.mark.filterwarnings("ignore:.*too low in more than 5 dimensions")
def test_ksg_of_many_dimensions_equals_its_reference_whatever_precision_it_takes() -> None:
    x, y, _ = gaussian_pair(200, 12)
    # Single precision may put a neighbour on the other side of an edge: one of some hundred counts, in few samples.
    assert estimate(x, y, estimator="ksg") == pytest.approx(max(0, slow_ksg([x, y], 5)), abs=1e-4)
    # Two tight clusters: single precision does not tell the distances inside them apart.
    side = torch.arange(200).double()[:, None] % 2
    x, y = side + 1e-4 * x, side + 1e-4 * (y + x)
    assert estimate(x, y, estimator="ksg") == pytest.approx(slow_ksg([x, y], 5), abs=1e-6)


def test_ksg_does_not_depend_on_threads_and_leaves_their_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_neighbours, "_CPU_BLOCK", 2**14)  # so that there are many pieces
    x, y, _ = gaussian_pair(700, 3)
    x[:200] = x[0]  # some of them again in double precision
    before = torch.get_num_threads()
    values, seen = [], []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                values.append(_neighbours.neighbour_counts([x * 1, y * 1], [(0,)], 5)[1])
            asked = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            asked.start()
            asked.join()
            assert seen[-1] == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*values)


def test_ksg_notices_products_that_are_coarser_than_their_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = gaussian_pair(300, 4)
    exact, product = slow_ksg([x, y], 5), torch.mm

    def like_tf32(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        return (
            product(a.bfloat16().to(a), b.bfloat16().to(b), out=out)
            if a.dtype == torch.float32
            else product(a, b, out=out)
        )

    monkeypatch.setattr(torch, "mm", like_tf32)
    assert estimate(x, y, estimator="ksg") == pytest.approx(exact, abs=1e-9)


def test_ksg_does_a_thin_sheet_among_well_spread_samples_again() -> None:
    # Half of the samples lie so close together that single precision takes them for one point.
    x, y, _ = gaussian_pair(400, 3)
    x[::2], y[::2] = 1 + 1e-5 * x[::2], 1 + 1e-5 * y[::2]
    assert estimate(x, y, estimator="ksg") == pytest.approx(slow_ksg([x, y], 5), abs=1e-4)
    x, y = x[:, :1], y[:, :1]
    assert estimate(x, y, estimator="ksg") == pytest.approx(slow_ksg([x, y], 5), abs=1e-4)


def test_ksg_equals_that_of_scikit_learn_in_one_dimension() -> None:
    x, y, _ = gaussian_pair(3000)
    y = (y + x**2).exp()
    theirs = mutual_info_regression(x.numpy(), y[:, 0].numpy(), n_neighbors=5, random_state=0)[0]
    assert estimate(x, y, estimator="ksg") == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(("d", "bias"), [(1, 0.0), (2, 0.03), (4, 0.25)])
def test_ksg_of_a_gaussian_matches_its_closed_form(d: int, bias: float) -> None:
    x, y, truth = gaussian_pair(4000, d)
    error = estimate(x, y, estimator="ksg") - truth
    noise = 4 * 0.75 * math.sqrt(d / 4000)  # pointwise information has standard deviation rho sqrt(d)
    assert -bias - noise < error < noise


def test_ksg_sees_what_correlations_miss() -> None:
    x, noise = normal(2, 4000)
    y = x**2 + 0.5 * noise
    assert estimate(x, y, estimator="gaussian") < 0.02
    # I = h(y) - h(0.5 noise), by quadrature over the density of y
    grid = torch.linspace(-5, 25, 3001, dtype=torch.float64)
    points = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    weight = torch.exp(-(points**2) / 2) * 12 / 2000 / math.sqrt(2 * math.pi)
    density = torch.exp(-((grid[:, None] - points**2) ** 2) / 0.5) @ weight / (0.5 * math.sqrt(2 * math.pi))
    h_y = -float(torch.trapezoid(torch.special.xlogy(density, density), grid))
    truth = h_y - 0.5 * math.log(2 * math.pi * math.e * 0.25)
    assert estimate(x, y, estimator="ksg") == pytest.approx(truth, abs=4 * 1.0 / math.sqrt(4000))


def test_ksg_of_discrete_variables_tends_to_the_plug_in_estimate() -> None:
    table = torch.tensor([[0.4, 0.1, 0.0], [0.1, 0.1, 0.3]], dtype=torch.float64)
    cells = torch.multinomial(table.reshape(-1), 3000, True, generator=torch.Generator().manual_seed(0))
    x, y = (cells // 3).double(), (cells % 3).double()
    counts = torch.bincount(cells, minlength=6).reshape(2, 3) / 3000
    plug_in = float(torch.special.xlogy(counts, counts / (counts.sum(0) * counts.sum(1, keepdim=True))).sum())
    # psi(m) = log m - 1 / 2m: cells of some hundred samples differ by less than 1 / 100
    assert estimate(x, y, estimator="ksg") == pytest.approx(plug_in, abs=0.005)


# -- Copies, ties and range


@pytest.mark.parametrize("times", [2, 3, 8])
@pytest.mark.parametrize("estimator", ["auto", "ksg", "canonical_ksg", "infonce"])
def test_the_same_samples_twice_are_refused_where_copies_count_as_neighbours(estimator: str, times: int) -> None:
    x, y, _ = gaussian_pair(300, 2)
    x, y = x.repeat(times, 1), y.repeat(times, 1)
    copies = 300 * (times - 1)
    with pytest.raises(
        ValueError, match=f"`x` and `y` to hold each sample once but got {copies} copies in {len(x)} rows"
    ):
        estimate(x, y, estimator=estimator)
    with pytest.raises(ValueError, match="`x` and `y` and `z` to hold each sample once"):
        estimate(x, y, x, estimator="ksg")
    with pytest.raises(ValueError, match="`x` to hold each sample once"):
        knn_entropy(x)


def test_a_part_of_the_samples_twice_is_refused_and_a_few_are_borne() -> None:
    x, y, truth = gaussian_pair(1000)
    few, many = slice(0, 40), slice(0, 200)
    assert estimate(torch.cat((x, x[few])), torch.cat((y, y[few])), estimator="ksg") == pytest.approx(truth, abs=0.1)
    with pytest.raises(ValueError, match="200 copies in 1200 rows"):
        estimate(torch.cat((x, x[many])), torch.cat((y, y[many])), estimator="ksg")


def test_mixed_data_passed_twice_are_refused_too() -> None:
    x, y, _ = gaussian_pair(300)
    with pytest.raises(ValueError, match="300 copies in 600 rows"):
        estimate((x > 0).double().repeat(2, 1), y.repeat(2, 1), estimator="ksg")


@pytest.mark.parametrize("width", [0.03, 0.1, 0.3])
def test_rounded_data_are_refused_where_their_ties_would_bias_the_estimate(width: float) -> None:
    x, y, truth = gaussian_pair(1000, rho=0.45)
    x, y = (x / width).round() * width, (y / width).round() * width
    with pytest.raises(ValueError, match=r"ties at \d+% of them, .*; add uniform noise of the width of the rounding"):
        estimate(x, y, estimator="ksg")
    with pytest.raises(ValueError, match=r"ties at \d+% of them"):
        estimate(x, y, estimator="canonical_ksg")
    # The cure that the message names; the spread is 0.45 / sqrt(1000).
    noise = torch.rand(2, 1000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    assert estimate(x + width * noise[0], y + width * noise[1], estimator="ksg") == pytest.approx(truth, abs=4 * 0.0142)


def test_ksg_warns_in_more_dimensions_than_it_is_meant_for() -> None:
    x, y, _ = gaussian_pair(300, 6)
    with pytest.warns(UserWarning, match=r'"ksg" is too low in more than 5 dimensions but got 6; use "auto"'):
        estimate(x, y, estimator="ksg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate(x[:, :5], y[:, :5], estimator="ksg")


@pytest.mark.parametrize("estimator", ["ksg", "canonical_ksg"])
def test_neighbours_warn_near_the_most_that_they_can_find(estimator: str) -> None:
    x, y, truth = gaussian_pair(300, rho=0.99999)
    with pytest.warns(UserWarning, match=r"nats, near the 4\.20 that it can find in 300 samples, so it is too low"):
        value = estimate(x, y, estimator=estimator)
    assert value < truth - 1


def test_a_warning_points_to_the_line_that_asked_for_the_estimate() -> None:
    x, y, _ = gaussian_pair(100, 7)
    for name in ("ksg", "matrix"):
        with pytest.warns(UserWarning, match=f'estimator="{name}"') as caught:
            mutual_information(x, y, estimator=name)
        assert caught[0].filename == __file__


def brute(*args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_neighbours, "trees_count_faster", lambda *_: False)
        patch.setattr(_neighbours, "trees_search_faster", lambda *_: False)
        return args[0](*args[1:])


@pytest.mark.parametrize("dims", [(1, 1), (2, 1), (2, 2), (3, 3), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("kind", ["gaussian", "heavy tails", "copies", "rounded"])
def test_trees_count_what_brute_force_counts(monkeypatch: pytest.MonkeyPatch, dims, kind) -> None:
    spaces = [normal(1500, d, seed=i) for i, d in enumerate(dims)]
    spaces[1] = spaces[1] + spaces[0][:, :1]
    if kind == "heavy tails":
        spaces = [x.sign() * x.abs() ** 3 for x in spaces]
    elif kind == "copies":
        spaces = [torch.where(torch.arange(1500)[:, None] % 3 == 0, 0.5, x) for x in spaces]
    elif kind == "rounded":
        spaces = [(16 * x).round() / 16 for x in spaces]  # whose distances are exact
    if kind != "rounded":
        spaces = [x - x.mean(0) for x in spaces]
    groups = [(0, 2), (1, 2), (2,)] if len(dims) == 3 else [(0,), (1,)]
    monkeypatch.setattr(_trees, "_FROM", dict.fromkeys(range(9), 100))
    assert _trees.trees_count_faster(spaces, groups)
    # In double precision throughout: single precision rounds one distance in some ten thousand over an edge.
    search = _neighbours._Search(spaces, groups, 5, torch.arange(1500))
    slow = search(slice(0, 1500))
    found = _neighbours.neighbour_counts(spaces, groups, 5)
    for fast, expected in zip(found, (slow[2], slow[3:], slow[1]), strict=True):
        assert torch.equal(fast, expected)


def test_a_tree_that_draws_too_few_candidates_leaves_rows_to_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = gaussian_pair(1500, 2)
    expected = _neighbours.neighbour_counts([x, y], [(0,), (1,)], 5)
    monkeypatch.setattr(_trees, "_FROM", {4: 100})
    monkeypatch.setattr(_trees, "_SPARE", 1.1)
    unsure = _trees.tree_counts([x, y], [(0,), (1,)], 5)[0] == 0
    assert 0.05 < unsure.double().mean() < 0.95
    for fast, slow in zip(_neighbours.neighbour_counts([x, y], [(0,), (1,)], 5), expected, strict=True):
        assert (fast != slow).sum() <= 2  # single precision, see above


@pytest.mark.parametrize("d", [1, 2, 5, 8])
def test_the_nearest_by_tree_are_those_by_brute_force(d: int) -> None:
    x = normal(2500, d, seed=d)
    x[1000:1003] = x[999]  # copies, fewer than k
    fast, slow = _neighbours.nearest(x, 5), brute(_neighbours.nearest, x, 5)
    assert _trees.trees_search_faster(x)
    distance = [(x - x[which]).norm(dim=1) for which in (fast, slow)]
    assert torch.allclose(*distance, rtol=1e-6, atol=1e-9)
    assert (fast != torch.arange(2500)).all()
