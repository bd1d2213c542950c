"""Shares within strata, and caps on near-copies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ggmi_callbacks import Filter
from tests.policies._groups import GROUPS, PROMPT, SOURCE, N, gains, ready

NAN = float("nan")


def expected_share(gain: Tensor, keep: float, strata: Tensor) -> list[bool]:
    """The definition, sample by sample: in each stratum the best round(keep x n) scored ones, ties by id."""
    kept = [bool(g.isnan()) for g in gain]
    for stratum in strata.unique().tolist():
        scored = [i for i in range(len(gain)) if strata[i] == stratum and not gain[i].isnan()]
        best = sorted(scored, key=lambda i: (-float(gain[i]), i))
        for i in best[: max(1, math.floor(keep * len(scored) + 0.5))]:
            kept[i] = True
    return kept


@pytest.mark.parametrize("keep", [0.1, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("within", ["source", "prompt"])
def test_each_stratum_keeps_exactly_its_share_once_all_scores_are_known(keep: float, within: str) -> None:
    gain = gains()
    gain[::7] = NAN
    weights = ready(Filter(keep=keep, within=within)).weights_of_all(gain)
    assert weights.bool().tolist() == expected_share(gain, keep, GROUPS[within])


def test_a_share_of_all_is_the_same_with_one_stratum() -> None:
    gain = gains().round()  # with ties
    assert Filter(keep=0.3).weights_of_all(gain).bool().tolist() == expected_share(gain, 0.3, torch.zeros(N))


def test_each_stratum_keeps_at_least_one() -> None:
    weights = ready(Filter(keep=0.01, within="prompt")).weights_of_all(gains())
    assert torch.bincount(PROMPT, weights).eq(1).all()


def test_without_strata_a_whole_source_is_lost_and_within_them_none_is() -> None:
    gain = gains(apart=10.0)
    shares = [
        torch.bincount(SOURCE, policy.weights_of_all(gain)) / torch.bincount(SOURCE)
        for policy in (Filter(keep=0.3), ready(Filter(keep=0.3, within="source")))
    ]
    assert shares[0].min() == 0
    assert torch.allclose(shares[1], torch.full((3,), 0.3), atol=0.005)


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("keep", [0.25, 0.5, 1.0])
def test_in_the_stream_the_bar_is_a_quantile_of_the_stratum_and_of_all_while_it_has_few(keep: float, size: int) -> None:
    window, gain = 48, gains(400)
    gain[5::9] = NAN
    source = torch.where(torch.arange(N) % 50 == 0, 3, SOURCE)  # a rare one, which never has eight in the window
    policy, seen = ready(Filter(keep=keep, within="source", window=window), {"source": source}), []
    for ids in torch.arange(400).split(size):
        weights = policy(gain[ids], ids=ids).tolist()
        seen += [i for i in ids.tolist() if not gain[i].isnan()]
        for i, weight in zip(ids.tolist(), weights, strict=True):
            recent = seen[-window:]
            same = [j for j in recent if source[j] == source[i]]
            among = sorted(float(gain[j]) for j in (same if len(same) >= 8 else recent))
            bar = among[math.ceil(round((len(among) - 1) * (1 - keep), 9))] if among else 0.0
            assert weight == float(gain[i].isnan() or float(gain[i]) >= bar)


def test_a_share_of_the_stream_is_taken_in_each_source() -> None:
    policy, gain = ready(Filter(keep=0.4, within="source", window=200)), gains(apart=10.0)
    weights = torch.cat([policy(gain[ids], ids=ids) for ids in torch.arange(N).split(4)])
    for source in range(3):  # 400 later samples in three sources: four standard errors of a share are .17
        assert abs(float(weights[200:][SOURCE[200:] == source].mean()) - 0.4) < 0.17


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_best_of_each_prompt_are_kept_and_ties_go_to_the_first(k: int) -> None:
    gain = torch.tensor([1.0, 3.0, 3.0, 2.0, -1.0, -2.0, 5.0, 5.0])
    kept = ready(Filter(per_group=k), {"prompt": torch.arange(8) // 4}).weights_of_all(gain).nonzero().flatten()
    assert kept.tolist() == {1: [1, 6], 2: [1, 2, 6, 7], 4: [0, 1, 2, 3, 6, 7]}[k]


def test_a_cap_counts_what_passes_the_threshold_with_its_noise() -> None:
    gain, noise = torch.tensor([-1.0, -3.0, 2.0, -9.0]), torch.tensor([1.0, 2.0, 0.0, 1.0])
    policy = ready(Filter(per_group=2), {"prompt": torch.tensor([0, 0, 1, 1])})
    assert policy.weights_of_all(gain, noise).tolist() == [1, 1, 1, 0]  # within two standard errors of zero
    assert policy.weights_of_all(gain).tolist() == [0, 0, 1, 0]


def test_a_sample_without_a_score_takes_what_the_cap_leaves() -> None:
    gain = torch.tensor([NAN, -1.0, NAN, 1.0, NAN, -1.0])
    policy = ready(Filter(per_group=1), {"prompt": torch.tensor([0, 0, 1, 1, 2, 2])})
    assert policy.weights_of_all(gain).tolist() == [1, 0, 0, 1, 1, 0]


def test_a_share_is_filled_from_what_the_cap_leaves() -> None:
    gain = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 0.0, 0.5, 0.2])
    groups = {"prompt": torch.arange(8) // 4, "source": torch.arange(8) % 2}
    assert Filter(keep=0.25).weights_of_all(gain).nonzero().flatten().tolist() == [0, 1]
    capped = ready(Filter(keep=0.25, per_group=1), groups)
    assert capped.weights_of_all(gain).nonzero().flatten().tolist() == [0, 4]  # two of eight, one of each prompt
    both = ready(Filter(keep=0.5, per_group=2, within="source"), groups)
    assert both.weights_of_all(gain).nonzero().flatten().tolist() == [0, 1, 4]  # two each of [0, 4, 6] and of [1]


def test_a_cap_needs_every_score_and_says_so() -> None:
    assert ready(Filter(per_group=1)).needs_all is not None
    assert ready(Filter(keep=0.5, within="prompt")).needs_all is not None  # four a prompt tell no quantile
    assert ready(Filter(keep=0.5, within="source")).needs_all is None
    assert Filter(keep=0.5).needs_all is None
