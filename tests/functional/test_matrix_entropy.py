"""Matrix entropy against its definition and its extremes, exact and stochastic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ggmi_callbacks.functional import matrix_entropy
from ggmi_callbacks.functional._trace import trace_of_function
from ggmi_callbacks.functional.matrix_entropy import gram_entropy, gram_matrix

ORDERS = [0.5, 1.0, 2.0, 3.0, math.inf]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_definition(gram: Tensor, alpha: float) -> float:
    values = torch.linalg.eigvalsh(gram / len(gram)).clamp_min(1e-300)
    if math.isinf(alpha):
        return -math.log(values[-1])
    if alpha == 1:
        return float(-(values * values.log()).sum())
    return math.log(values.pow(alpha).sum()) / (1 - alpha)


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize("kernel", ["gaussian", "cosine"])
def test_identical_rows_have_no_entropy_and_orthogonal_rows_have_log_n(alpha: float, kernel: str) -> None:
    assert float(matrix_entropy(torch.ones(7, 3), alpha=alpha, kernel=kernel)) == pytest.approx(0.0, abs=1e-6)
    far = 100 * torch.eye(7)  # a kernel narrower than the distances makes these orthogonal too
    value = matrix_entropy(far, alpha=alpha, kernel=kernel, bandwidth=1.0 if kernel == "gaussian" else None)
    assert float(value) == pytest.approx(math.log(7), abs=1e-6)


@pytest.mark.parametrize("alpha", ORDERS)
def test_entropy_counts_kinds_whatever_their_multiplicity(alpha: float) -> None:
    kinds = normal(5, 2)
    once = matrix_entropy(kinds, alpha=alpha, bandwidth=1.0)
    assert float(matrix_entropy(kinds.repeat(6, 1), alpha=alpha, bandwidth=1.0)) == pytest.approx(float(once), abs=1e-6)


@pytest.mark.parametrize("alpha", ORDERS)
def test_entropy_of_weighted_kinds_is_that_of_their_distribution(alpha: float) -> None:
    p = torch.tensor([4, 2, 1, 1]) / 8
    x = torch.eye(4).repeat_interleave(torch.tensor([4, 2, 1, 1]), 0)
    if alpha == 1:
        expected = 1.75 * math.log(2)
    else:
        expected = -math.log(0.5) if math.isinf(alpha) else math.log((p**alpha).sum()) / (1 - alpha)
    assert float(matrix_entropy(x, alpha=alpha, kernel="cosine")) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("alpha", ORDERS)
def test_values_match_the_definition_and_fall_with_the_order(alpha: float) -> None:
    x = normal(60, 3)
    gram = torch.exp(-(torch.cdist(x, x) ** 2) / (2 * 1.5**2))
    value = float(matrix_entropy(x, alpha=alpha, bandwidth=1.5))
    assert value == pytest.approx(by_definition(gram, alpha), abs=1e-9)
    assert float(matrix_entropy(x, alpha=alpha * 1.1 if alpha < 9 else alpha, bandwidth=1.5)) <= value


def test_the_von_neumann_entropy_is_the_limit_of_order_one() -> None:
    x = normal(60, 3)
    for alpha in (1 - 1e-6, 1 + 1e-6):
        assert float(matrix_entropy(x, alpha=alpha)) == pytest.approx(float(matrix_entropy(x)), abs=1e-4)


def test_the_default_bandwidth_is_the_median_distance_and_makes_entropy_blind_to_units() -> None:
    x = normal(61, 3)
    median = float(torch.pdist(x).median())
    value = float(matrix_entropy(x))
    assert value == pytest.approx(float(matrix_entropy(x, bandwidth=median)), abs=1e-9)
    rotation = torch.linalg.qr(normal(3, 3, seed=1)).Q
    assert float(matrix_entropy(1e3 * x @ rotation + 5)) == pytest.approx(value, abs=1e-7)
    assert float(matrix_entropy(x.flip(0))) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("alpha", ORDERS)
def test_cosine_entropy_from_features_equals_that_from_the_gram_matrix(alpha: float) -> None:
    x = normal(50, 4)

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return 3 * torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)  # any constant diagonal

    short = matrix_entropy(x, alpha=alpha, kernel="cosine", confidence=0.9)
    long = matrix_entropy(x, alpha=alpha, kernel=cosine, confidence=0.9)
    assert [float(v) for v in short] == pytest.approx([float(v) for v in long], abs=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("kernel", ["gaussian", "cosine"])
def test_gradients_agree_with_finite_differences(alpha: float, kernel: str) -> None:
    def function(x: Tensor) -> Tensor:
        return matrix_entropy(x, alpha=alpha, kernel=kernel, bandwidth=2.0)

    assert torch.autograd.gradcheck(function, (normal(7, 8 if kernel == "cosine" else 3).requires_grad_(),))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, math.inf])
def test_the_interval_is_as_wide_as_the_spread_over_repetitions(alpha: float) -> None:
    # 300 repetitions know a standard deviation to 4 %, and a first-order interval at n = 150 is off by a few more.
    intervals = [matrix_entropy(x, alpha=alpha, bandwidth=2.0, confidence=0.9) for x in normal(300, 150, 2)]
    spread = torch.stack([interval.value for interval in intervals]).std()
    widths = torch.stack([(interval.high - interval.low) / (2 * 1.655) for interval in intervals])
    assert float(widths.mean() / spread) == pytest.approx(1.0, abs=0.25)


# -- Beyond the eigenvalues


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize(("d", "bandwidth"), [(2, 0.5), (8, None), (64, 3.0)])
def test_stochastic_entropy_agrees_with_the_exact_one_within_its_stated_error(
    alpha: float, d: int, bandwidth: float | None
) -> None:
    gram = gram_matrix(normal(900, d), bandwidth=bandwidth)
    exact, stochastic = gram_entropy(gram, alpha), gram_entropy(gram, alpha, max_exact=100)
    # Below 1e-6 lies what the Lanczos steps leave of the largest eigenvalue.
    assert abs(float(stochastic.value - exact.value)) < 4 * stochastic.error + 1e-6
    assert stochastic.error < (0.05 if alpha < 1 else 0.01)


def test_a_trace_of_known_eigenvalues_is_recovered() -> None:
    values = torch.linspace(0.1, 1.0, 500, dtype=torch.float64)
    basis = torch.linalg.qr(normal(500, 500)).Q
    trace, error = trace_of_function(basis * values @ basis.T, lambda v: v**1.5)
    assert abs(trace - values.pow(1.5).sum()) < 4 * error
    assert error < 1e-3 * trace


def test_large_matrices_are_never_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("eigh", "eigvalsh"):
        whole = getattr(torch.linalg, name)

        def small(a: Tensor, whole=whole) -> Tensor:
            assert a.shape[-1] <= 200, "an n^3 surprise"
            return whole(a)

        monkeypatch.setattr(torch.linalg, name, small)
    for kernel in ("gaussian", "cosine"):
        value = matrix_entropy(normal(2100, 4), kernel=kernel)
        assert 0 < float(value) < math.log(2100)


def test_a_stochastic_interval_is_not_narrower_than_its_parts() -> None:
    x = normal(500, 3)
    exact = matrix_entropy(x, confidence=0.9)
    stochastic = matrix_entropy(x, max_exact=250, confidence=0.9)
    assert float(stochastic.high - stochastic.low) == pytest.approx(float(exact.high - exact.low), rel=0.35)


# -- Refusals


def test_bad_kernels_and_orders_are_refused() -> None:
    x = normal(10, 3)
    with pytest.raises(ValueError, match=r"`alpha` to be in \(0, inf\] but got 0"):
        matrix_entropy(x, alpha=0)
    with pytest.raises(ValueError, match="`kernel` to be one of"):
        matrix_entropy(x, kernel="linear")
    with pytest.raises(ValueError, match="`bandwidth` to be positive but got -1"):
        matrix_entropy(x, bandwidth=-1.0)
    with pytest.raises(ValueError, match="constant positive diagonal"):
        matrix_entropy(x, kernel=lambda a, b: a @ b.T)
    with pytest.raises(ValueError, match="`kernel` to be positive definite"):
        matrix_entropy(x, kernel=lambda a, b: 1 - torch.cdist(a, b))
    with pytest.raises(ValueError, match=r"`kernel` to return \[10, 10\] but got \[10, 3\]"):
        matrix_entropy(x, kernel=lambda a, b: a)
    with pytest.raises(ValueError, match="no zero row for the cosine kernel but got 1"):
        matrix_entropy(torch.eye(4)[:3] * torch.tensor([[1.0], [1.0], [0.0]]), kernel="cosine")


def test_a_gradient_of_a_stochastic_trace_is_refused_not_lost() -> None:
    with pytest.raises(ValueError, match="`max_exact` = 10 samples where a gradient is wanted but got 20"):
        matrix_entropy(normal(20, 3).requires_grad_(), max_exact=10)
