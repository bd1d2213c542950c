"""Shared information: a slow twin, tables and Gaussians with a known answer, and the null control."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from ggmi_callbacks.functional import (
    gaussian_shared_information,
    mean_interval,
    shared_information,
    sibling_information,
    table_information_gain,
    table_shared_information,
)
from ggmi_callbacks.functional._siblings import strangers

TABLE = torch.tensor([[20, 5, 2, 3], [2, 18, 10, 0], [5, 0, 5, 30]]).double() / 100
STRENGTHS = [*(2.0**k for k in range(-4, 21)), math.inf]


def draw_tokens(groups: int, size: int, seed: int) -> tuple[list[list[int]], list[int]]:
    """Answers of one token: for each group a row of the table, for each answer a column of it."""
    draw = np.random.default_rng(seed)
    prior = TABLE.sum(1).numpy()
    law = TABLE.numpy() / prior[:, None]
    rows = draw.choice(len(TABLE), groups, p=prior / prior.sum())
    tokens = [draw.choice(TABLE.shape[1], size, p=law[m]) for m in rows]
    return [[int(token)] for group in tokens for token in group], [g for g in range(groups) for _ in range(size)]


def plain_information(samples: list[list[int]], group: list[int], order: int) -> list[float]:
    """The log-likelihood ratio from counts of the other samples, one token at a time."""
    rows = [["start", *sample, "end"] for sample in samples]
    vocabulary = len({token for row in rows for token in row[1:]})
    places = [(i, t) for i, row in enumerate(rows) for t in range(1, len(row))]

    def counts(i: int, among: list[int], n: int) -> tuple[Counter, Counter]:
        grams, histories = Counter(), Counter()
        for j in among:
            if j != i:
                for t in range(1, len(rows[j])):
                    history = tuple(rows[j][max(0, t - n + 1) : t])
                    grams[history, rows[j][t]] += 1
                    histories[history] += 1
        return grams, histories

    def updated(prior: list[float], among: list[list[int]], n: int) -> list[float]:
        found = [counts(i, among[i], n) for i in range(len(rows))]
        pairs = []
        for i, t in places:
            history = tuple(rows[i][max(0, t - n + 1) : t])
            pairs.append((found[i][0][history, rows[i][t]], found[i][1][history]))

        def law(strength: float) -> list[float]:
            if strength == math.inf:
                return prior
            return [(c + strength * q) / (total + strength) for (c, total), q in zip(pairs, prior, strict=True)]

        return law(max(STRENGTHS, key=lambda strength: sum(map(math.log, law(strength)))))

    everyone = [list(range(len(rows)))] * len(rows)
    siblings = [[j for j, other in enumerate(group) if other == own] for own in group]
    background = [1 / vocabulary] * len(places)
    for n in range(1, order + 1):
        background = updated(background, everyone, n)
    given = background
    for n in range(1, order + 1):
        given = updated(given, siblings, n)
    values = [0.0] * len(rows)
    for (i, _), q, p in zip(places, given, background, strict=True):
        values[i] += math.log(q / p)
    return [value if len(siblings[i]) > 1 else math.nan for i, value in enumerate(values)]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_sibling_information_is_the_ratio_of_two_models_of_the_other_samples(order: int) -> None:
    draw = np.random.default_rng(order)
    samples, group = [], []
    for g in range(12):
        text = draw.integers(0, 6, 8)
        for _ in range(draw.integers(1, 5)):
            changed = np.where(draw.random(8) < 0.3, draw.integers(0, 6, 8), text)
            samples.append(changed[: draw.integers(0, 9)].tolist())
            group.append(g)
    value = sibling_information(samples, group, order=order)
    np.testing.assert_allclose(value, plain_information(samples, group, order), rtol=1e-5, atol=1e-6)
    per_token = sibling_information(samples, group, order=order, per_token=True)
    lengths = torch.tensor([len(sample) + 1 for sample in samples])
    torch.testing.assert_close(per_token, value / lengths, equal_nan=True)


def test_one_token_answers_in_large_groups_share_what_the_table_says() -> None:
    information, null = shared_information(*draw_tokens(groups=150, size=300, seed=0), order=2)
    exact = table_shared_information(TABLE, siblings=math.inf)
    assert information.low < exact < information.high
    assert information.high - information.low < 0.3 * exact
    assert null.low <= 0 <= null.high
    assert null.value < 0.02 * exact


@pytest.mark.parametrize("size", [2, 4])
def test_one_token_answers_in_small_groups_share_no_more_than_the_table_says(size: int) -> None:
    information, null = shared_information(*draw_tokens(groups=3000, size=size, seed=size), order=2)
    exact = table_shared_information(TABLE, siblings=size - 1)
    assert 0.3 * exact < information.low < information.high < exact
    assert abs(null.value) < 0.01 * exact


def test_its_interval_covers_the_mean_of_other_draws_as_often_as_it_says() -> None:
    intervals = [shared_information(*draw_tokens(40, 10, seed), order=1, confidence=0.8)[0] for seed in range(100)]
    centre = torch.stack([value for value, _, _ in intervals]).mean()
    covered = sum(bool(low < centre < high) for _, low, high in intervals)
    assert abs(covered / 100 - 0.8) < 0.16  # four standard errors


def test_its_interval_knows_that_siblings_depend_on_each_other() -> None:
    samples, group = draw_tokens(groups=200, size=1, seed=1)
    samples, group = [row for row in samples for _ in range(9)], [g for g in group for _ in range(9)]  # only copies
    information, _ = shared_information(samples, group)
    blind = mean_interval(sibling_information(samples, group).double(), 0.95)
    ratio = (information.high - information.low) / (blind.high - blind.low)
    assert ratio == pytest.approx(3, rel=0.1)


def test_strangers_stand_in_another_group_of_like_size() -> None:
    draw = np.random.default_rng(0)
    group = draw.permutation(np.repeat(np.arange(60), draw.integers(1, 6, 60)))
    size = np.bincount(group)[group]
    for seed in range(3):
        partner = strangers(group, seed)
        moved = size > 1
        assert (group[partner] != group)[moved].all()
        assert (partner == np.arange(len(group)))[~moved].all()
        assert (size[partner] == size)[moved].mean() > 0.9  # the last group of a size has the next size
        same = (group[:, None] == group) & (size[:, None] == size[partner])
        others = partner[:, None] == partner
        assert not (same & others & ~np.eye(len(group), dtype=bool)).any()  # each member stands in for one
    assert (strangers(group, 0) != strangers(group, 1)).any()


def test_the_null_control_needs_another_prompt() -> None:
    with pytest.raises(ValueError, match=r"`group` to have at least two groups with siblings but got 1"):
        shared_information(["a", "a", "b"], [0, 0, 1])


def test_samples_without_siblings_are_not_known_and_do_not_count() -> None:
    samples, group = ["a b", "a b", "c d", "c d", "e f"], [0, 0, 1, 1, 2]
    value = sibling_information(samples, group)
    assert value.isnan().tolist() == [False] * 4 + [True]
    assert float(shared_information(samples, group).information.value) == pytest.approx(float(value[:4].mean()))
    with pytest.warns(UserWarning, match="None of 2 samples has a sibling"):
        assert sibling_information(["a", "b"], [0, 1]).isnan().all()


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`order` to be positive but got -1"):
        sibling_information(["a", "a"], [0, 0], order=-1)
    with pytest.raises(ValueError, match=r"`confidence` to be None or a float"):
        shared_information(["a", "a"], [0, 0], confidence=95)
    with pytest.raises(ValueError, match="got 1 and 2"):
        sibling_information(["a"], [0, 0])


@pytest.mark.parametrize("siblings", [1, 3])
def test_gaussian_shared_information_is_the_mean_of_the_true_log_ratio(siblings: int) -> None:
    s, n = 2.5, 200_000
    draw = torch.Generator().manual_seed(siblings)
    m = math.sqrt(s) * torch.randn(n, 1, generator=draw, dtype=torch.float64)
    y = m + torch.randn(n, 1 + siblings, generator=draw, dtype=torch.float64)
    left = s / (1 + siblings * s)
    given = torch.distributions.Normal(left * y[:, 1:].sum(1), math.sqrt(1 + left))
    alone = torch.distributions.Normal(0.0, math.sqrt(1 + s))
    ratio = given.log_prob(y[:, 0]) - alone.log_prob(y[:, 0])
    error = ratio.std() / math.sqrt(n)
    assert abs(ratio.mean() - gaussian_shared_information(s, siblings)) < 4 * error


def test_gaussian_shared_information_has_its_limits() -> None:
    assert gaussian_shared_information(2.5) == pytest.approx(0.5 * math.log(3.5**2 / 6), rel=1e-12)
    assert gaussian_shared_information(2.5, math.inf) == pytest.approx(0.5 * math.log(3.5), rel=1e-12)
    assert gaussian_shared_information(2.5, 10**9) == pytest.approx(0.5 * math.log(3.5), rel=1e-6)
    with pytest.raises(ValueError, match=r"`s` to be positive but got 0"):
        gaussian_shared_information(0.0)


def test_table_shared_information_is_the_sum_over_both_answers() -> None:
    table = TABLE / TABLE.sum()
    law = table / table.sum(1, keepdim=True)
    both = torch.einsum("m,my,mz->yz", table.sum(1), law, law)
    y = table.sum(0)
    expected = torch.where(both > 0, both * (both / torch.outer(y, y)).log(), 0.0).sum()
    torch.testing.assert_close(table_shared_information(table), expected)


def test_table_shared_information_grows_to_what_the_meaning_says_of_the_answer() -> None:
    values = [float(table_shared_information(TABLE, k)) for k in (1, 2, 5, 9, math.inf)]
    assert values == sorted(values)
    table = TABLE / TABLE.sum()
    entropy = torch.special.entr(table.sum(0)).sum()
    assert values[-1] == pytest.approx(float(entropy - table_information_gain(table)), rel=1e-12)
    assert values[-2] == pytest.approx(values[-1], rel=0.1)
    assert table_shared_information(torch.ones(3, 4)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("table", "siblings", "message"),
    [
        (torch.ones(3), 1, r"`joint` to be a table \[m, y\] of non-negative weights but got shape \[3\]"),
        (-torch.ones(2, 2), 1, r"`joint` to be a table"),
        (torch.zeros(2, 2), 1, r"`joint` to be a table"),
        (torch.ones(2, 2), 0, r"`siblings` to be a whole number.*but got 0 for 2 answers"),
        (torch.ones(2, 2), 1.5, "but got 1.5 for 2 answers"),
        (torch.ones(2, 4), 30, r"but got 30 for 4 answers; pass math.inf"),
    ],
)
def test_tables_that_are_none_are_refused(table: torch.Tensor, siblings: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table_shared_information(table, siblings)
