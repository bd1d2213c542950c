"""Weights of whole sources, by means shrunk toward the mean over all."""

from __future__ import annotations

import pytest
import torch

from ggmi_callbacks import Reweight
from ggmi_callbacks.policies._shrinkage import shrunk_means
from tests.policies._groups import SOURCE, N, gains, ready

NAN = float("nan")


def test_sources_of_equal_means_weigh_exactly_one() -> None:
    policy = ready(Reweight(by="source"))
    for ids in torch.arange(N).split(5):
        assert torch.equal(policy(torch.full((len(ids),), 0.1), ids=ids), torch.ones(len(ids)))


def test_sources_that_differ_by_no_more_than_chance_weigh_exactly_one() -> None:
    policy = ready(Reweight(by="source"), {"source": torch.tensor([0, 0, 1, 1, 2, 2])})
    # Means 0.1, 0 and -0.1 with sigma^2 = 2: between sources .02, less than within.
    weights = policy(torch.tensor([1.1, -0.9, 1.0, -1.0, 0.9, -1.1]), ids=torch.arange(6))
    assert torch.equal(weights, torch.ones(6))


def test_a_source_alone_so_far_weighs_exactly_one() -> None:
    policy = ready(Reweight(by="source"), {"source": torch.tensor([0, 0, 0, 1])})
    assert torch.equal(policy(torch.tensor([1.0, 5.0]), ids=torch.tensor([0, 1])), torch.ones(2))
    assert torch.equal(policy(torch.tensor([NAN]), ids=torch.tensor([3])), torch.ones(1))


def test_many_samples_of_sources_far_apart_are_not_shrunk() -> None:
    noise = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = noise - noise.mean(1, keepdim=True)
    gain = noise + torch.tensor([[0.0], [10.0]])
    found = shrunk_means(torch.full((2,), 5000.0).double(), gain.sum(1), gain.square().sum())
    # tau^2 = 50 and se^2 = 1 / 5000: means move by a part in 250,000 of their distance of 5 from the mean over all.
    assert torch.allclose(found, torch.tensor([0.0, 10.0]).double(), atol=5 / 200_000)


def test_a_source_with_few_samples_is_pulled_to_the_mean_by_the_formulas_amount() -> None:
    gain = [torch.tensor(g).double() for g in ([1.0, 3.0], [5.0, 7.0, 5.0, 7.0, 5.0, 7.0])]
    count = torch.tensor([2.0, 6.0]).double()
    found = shrunk_means(count, torch.stack([g.sum() for g in gain]), torch.cat(gain).square().sum())
    # By hand: means 2 and 6, over all 5; sigma^2 = (2 + 6) / 6 = 4/3; between = 2 x 9 + 6 x 1 = 24;
    # n_0 = 8 - 40 / 8 = 3; tau^2 = (24 - 4/3) / 3 = 68/9; se^2 = 2/3 and 2/9.
    tau = 68 / 9
    by_hand = [5 - 3 * tau / (tau + 2 / 3), 5 + tau / (tau + 2 / 9)]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-12)
    assert abs(by_hand[0] - 2) > abs(by_hand[1] - 6)


def test_the_variance_between_sources_is_dersimonian_and_lairds() -> None:
    draw = torch.Generator().manual_seed(1)
    count = torch.tensor([3.0, 10.0, 40.0, 7.0]).double()
    gain = [torch.randn(int(n), generator=draw).double() + 2 * s for s, n in enumerate(count)]
    means = torch.stack([g.mean() for g in gain])
    sigma = sum((g - g.mean()).square().sum() for g in gain) / (count.sum() - 4)
    w = count / sigma
    q = (w * (means - (w * means).sum() / w.sum()).square()).sum()
    tau = (q - 3) / (w.sum() - w.square().sum() / w.sum())
    mean = torch.cat(gain).mean()
    expected = mean + tau / (tau + sigma / count) * (means - mean)
    found = shrunk_means(count, count * means, torch.cat(gain).square().sum())
    assert torch.allclose(found, expected, rtol=1e-12)


def test_shrunk_means_are_nearer_the_truth_than_means() -> None:
    draw = torch.Generator().manual_seed(2)
    count, error = torch.randint(1, 12, (200,), generator=draw).double(), torch.zeros(2)
    for _ in range(20):
        truth = torch.randn(200, generator=draw, dtype=torch.float64)
        gain = [t + 3 * torch.randn(int(n), generator=draw).double() for t, n in zip(truth, count, strict=True)]
        total, squares = torch.stack([g.sum() for g in gain]), torch.cat(gain).square().sum()
        guesses = (total / count, shrunk_means(count, total, squares))
        error += torch.stack([(guess - truth).square().mean().float() for guess in guesses])
    assert error[1] < 0.5 * error[0]


def test_weights_of_sources_are_their_formula() -> None:
    policy, gain = ready(Reweight(temperature=0.7, max_weight=2.0, by="source")), gains(apart=0.5)
    for ids in torch.arange(N).split(6):
        weights = policy(gain[ids], ids=ids)
    seen, source = gain.double(), SOURCE
    count = torch.bincount(source).double()
    means = shrunk_means(count, torch.bincount(source, seen), seen.square().sum())
    r = 2 / (1 + torch.exp(-(means - seen.mean()) / (0.7 * seen.std(correction=0))))
    expected = (r / (count * r).sum() * count.sum()).clamp(max=2.0)
    assert torch.allclose(weights.double(), expected[source[-6:]], rtol=1e-6)
    assert torch.allclose(policy.weights(gain, ids=torch.arange(N)).mean(), torch.tensor(1.0), atol=1e-5)
