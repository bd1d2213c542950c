"""Information gain from embeddings: Gaussian channels, limits of the matrix estimator, invariances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ggmi_callbacks.functional import embedding_information_gain, gaussian_channel_information_gain


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum()


def channel(n: int, d: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    prompt = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return prompt, prompt + noise * torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("estimator", ["gaussian", "knn"])
@pytest.mark.parametrize("d", [1, 3])
def test_differential_estimates_of_a_gaussian_channel(estimator: str, d: int) -> None:
    prompt, output = channel(4000, d, noise=0.5, seed=16)
    exact = float(gaussian_channel_information_gain(0.25 * torch.eye(d, dtype=torch.float64)))
    value, low, high = embedding_information_gain(prompt, output, estimator=estimator, confidence=0.95)
    # nearest neighbours: the bias of the joint entropy in six dimensions, measured as .08 at this n
    bias = {"gaussian": 0.0, "knn": 0.03 if d == 1 else 0.12}[estimator]
    assert abs(float(value) - exact) < 2 * float(high - low) + bias


def test_gaussian_gain_is_unbiased_and_its_interval_has_the_right_width() -> None:
    exact = float(gaussian_channel_information_gain(0.25 * torch.eye(2, dtype=torch.float64)))
    intervals = [
        embedding_information_gain(*channel(20, 2, 0.5, seed), estimator="gaussian", confidence=0.9)
        for seed in range(400)
    ]
    values = torch.stack([interval.value for interval in intervals])
    assert abs(values.mean().item() - exact) < 4 * values.std().item() / 20
    covered = sum(bool(low < exact < high) for _, low, high in intervals) / 400
    assert abs(covered - 0.9) < 4 * math.sqrt(0.09 / 400) + 0.01  # the t interval is not exact for a log


@pytest.mark.parametrize("kernel", ["gaussian", "cosine"])
def test_matrix_gain_lies_between_zero_and_log_n(kernel: str) -> None:
    n = 40
    prompt, output = channel(n, 3, 1.0, seed=17)
    assert 0 < embedding_information_gain(prompt, output, kernel=kernel) < math.log(n)
    assert embedding_information_gain(torch.ones(n, 2), torch.eye(n), kernel="cosine") == pytest.approx(math.log(n))
    decided = embedding_information_gain(torch.eye(n), output, kernel="cosine")  # by prompts all unlike each other
    assert decided == pytest.approx(0.0, abs=1e-6)


def test_matrix_gain_is_a_difference_of_spectra() -> None:
    prompt, output = channel(30, 2, 1.0, seed=18)

    def gram(x: Tensor) -> Tensor:
        distances = torch.cdist(x, x)
        return torch.exp(-0.5 * (distances / torch.pdist(x).median()).square())

    def spectral(k: Tensor) -> Tensor:
        return entropy(torch.linalg.eigvalsh(k / len(k)).clamp_min(0))

    expected = spectral(gram(prompt) * gram(output)) - spectral(gram(prompt))
    assert embedding_information_gain(prompt, output) == pytest.approx(float(expected), rel=1e-6)


def test_matrix_gain_grows_with_the_noise_of_the_generator() -> None:
    gains = [float(embedding_information_gain(*channel(200, 2, noise, seed=19))) for noise in (0.0, 0.3, 1.0, 3.0)]
    assert gains == sorted(gains)
    assert gains[-1] > 1.2 * gains[0]


@pytest.mark.parametrize("estimator", ["matrix", "knn", "gaussian"])
def test_the_order_of_pairs_does_not_matter_and_half_precision_is_read(estimator: str) -> None:
    prompt, output = (x.bfloat16() for x in channel(60, 2, 1.0, seed=20))
    order = torch.randperm(60, generator=seeded(21))
    value = embedding_information_gain(prompt, output, estimator=estimator)
    again = embedding_information_gain(prompt[order].double(), output[order].double(), estimator=estimator)
    assert value.dtype == torch.float32
    assert value == pytest.approx(float(again), rel=1e-5)


@pytest.mark.parametrize("estimator", ["matrix", "gaussian"])
def test_gradients_are_exact(estimator: str) -> None:
    prompt, output = (x.requires_grad_() for x in channel(8, 2, 1.0, seed=22))
    assert torch.autograd.gradcheck(
        lambda p, y: embedding_information_gain(p, y, estimator=estimator, kernel="cosine"), (prompt, output)
    )


def test_kernels_that_are_not_positive_definite_or_not_constant_on_the_diagonal_are_refused() -> None:
    prompt, output = channel(20, 3, 1.0, seed=24)
    with pytest.raises(ValueError, match="positive definite"):
        embedding_information_gain(prompt, output, kernel=lambda a, b: 1 - torch.cdist(a, b).square())
    with pytest.raises(ValueError, match="constant positive diagonal"):
        embedding_information_gain(prompt, output, kernel=lambda a, b: a @ b.T)


def test_errors_name_argument_and_cure() -> None:
    with pytest.raises(ValueError, match="`estimator` to be one of"):
        embedding_information_gain(torch.zeros(5, 1), torch.zeros(5, 1), estimator="ksg")
    with pytest.raises(ValueError, match=r"`prompt` and `output` to have one row per sample each but got \[5, 4\]"):
        embedding_information_gain(torch.zeros(5, 1), torch.zeros(4, 1))
