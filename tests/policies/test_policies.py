"""Policies: gains in, weights out; statistics belong to the stream, never to the micro-batch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from ggmi_callbacks import Filter, Monitor, Policy, Reweight

NAN = float("nan")
POLICIES = [Monitor(), Filter(), Filter(keep=0.5), Reweight()]
EACH = pytest.mark.parametrize("policy", POLICIES, ids=repr)


def gains(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("value", [0.1, 1e6, -3.7, 0.0, 1e-30, -1e18])
def test_equal_gains_weigh_exactly_one(value: float, temperature: float) -> None:
    policy, sizes = Reweight(temperature), torch.Generator().manual_seed(0)
    for _ in range(60):
        n = int(torch.randint(1, 9, (), generator=sizes))
        assert torch.equal(policy(torch.full((n,), value)), torch.ones(n))


def test_equal_gains_weigh_exactly_one_between_samples_without_gain() -> None:
    policy = Reweight()
    for pattern in ([NAN, 0.1], [0.1, 0.1, NAN], [NAN, NAN], [0.1]):
        assert torch.equal(policy(torch.tensor(pattern)), torch.ones(len(pattern)))


def test_reweight_is_its_formula() -> None:
    policy, seen, raw = Reweight(temperature=0.7, max_weight=100.0), torch.empty(0, dtype=torch.float64), 0.0
    for seed in range(20):
        batch = gains(5, seed)
        weights = policy(batch)
        seen = torch.cat([seen, batch.double()])
        r = 2 / (1 + torch.exp(-(batch.double() - seen.mean()) / (0.7 * seen.std(correction=0))))
        raw += float(r.sum())
        expected = r / (raw / len(seen))
        assert torch.allclose(weights.double(), expected, rtol=1e-6)  # weights come back in float32


def test_reweight_clips_after_the_division() -> None:
    weights = Reweight(temperature=0.01, min_weight=0.4, max_weight=1.3)(torch.tensor([-5.0, 0.0, 0.0, 5.0]))
    assert weights[0] == torch.tensor(0.4)
    assert weights[-1] == torch.tensor(1.3)


def test_weight_grows_with_gain() -> None:
    policy = Reweight()
    policy(gains(100))
    assert (policy(gains(50, seed=1).sort().values).diff() > 0).all()


def test_weights_have_mean_one_over_a_long_stream() -> None:
    policy = Reweight()
    weights = torch.cat([policy(gains(1, seed)) for seed in range(2000)])
    # Mean of 2000 weights of deviation < 0.6: standard error 0.013, and a start of equal order.
    assert abs(float(weights.mean()) - 1) < 0.05


@pytest.mark.parametrize("policy", [Filter(keep=0.5, window=50), Filter(keep=0.5)], ids=repr)
def test_the_window_of_a_filter_does_not_depend_on_the_split_into_batches(policy: Policy) -> None:
    whole, split, stream = copy.deepcopy(policy), copy.deepcopy(policy), gains(48)
    stream[7] = NAN
    whole(stream)
    for gain in stream.split(1):
        split(gain)
    assert torch.equal(whole._state["next"], split._state["next"])
    assert torch.equal(whole._state["ring"].nan_to_num(9.0), split._state["ring"].nan_to_num(9.0))


def test_the_moments_of_reweight_do_not_depend_on_the_split_into_batches() -> None:
    whole, split, stream = Reweight(), Reweight(), gains(64)
    stream[7] = NAN
    whole(stream)
    for gain in stream.split(1):
        split(gain)
    for name in ("count", "sum", "squares"):
        assert torch.allclose(whole._state[name], split._state[name], rtol=1e-13), name


@pytest.mark.parametrize("n", [64, 4096])
def test_the_mean_raw_weight_forgets_the_split_into_batches(n: int) -> None:
    # A raw weight is made with the moments known when its sample came: against the final mean, the mean over the
    # stream of all earlier means has a standard error of 1 / sqrt(n), and a raw weight moves by half of it.
    whole, split = Reweight(), Reweight()
    whole(gains(n))
    for gain in gains(n).split(1):
        split(gain)
    assert abs(float(whole._state["raw"] - split._state["raw"])) / n < 4 * 0.5 / n**0.5


def test_a_sample_weighs_the_same_whatever_micro_batch_it_comes_in_once_the_stream_is_long() -> None:
    # One more gain moves the mean of 20,000 by 1 / 20,000 of a deviation, and a weight by half of that.
    alone, together = Reweight(), Reweight()
    for policy in (alone, together):
        policy(gains(20_000))
    one = alone(torch.tensor([0.8]))
    many = together(torch.tensor([0.8, -2.0, 3.0]))
    assert torch.allclose(one, many[:1], atol=5e-4)


@pytest.mark.parametrize("keep", [0.1, 0.25, 0.5, 0.9])
def test_keep_is_a_share_of_the_stream_in_micro_batches_of_one(keep: float) -> None:
    # The rank of the m-th of exchangeable gains is uniform on 1..m and independent of all earlier ranks (Renyi), and
    # the filter keeps it iff it is among the best m - ceil((m - 1)(1 - keep)): a sum of independent coins.
    n = 1500
    rate = torch.tensor([(m - math.ceil(round((m - 1) * (1 - keep), 9))) / m for m in range(1, n + 1)])
    policy = Filter(keep=keep)
    kept = sum(float(policy(gain)) for gain in gains(n, seed=3).split(1))
    assert abs(kept - rate.sum()) < 3.5 * (rate * (1 - rate)).sum().sqrt()
    assert abs(float(rate.mean()) - keep) < 0.01  # and that is the share, but for the start of the stream


def test_keep_follows_a_drift_within_its_window() -> None:
    policy = Filter(keep=0.5, window=100)
    policy(gains(1000))
    shifted = torch.cat([policy(gain + 10) for gain in gains(400, seed=1).split(1)])
    assert 0.35 < float(shifted[100:].mean()) < 0.65  # 300 coins of 1/2: six standard errors


def test_keeping_all_keeps_all() -> None:
    policy = Filter(keep=1.0, window=16)
    for batch in gains(300).split(3):
        assert policy(batch).all()


@pytest.mark.parametrize("keep", [0.1, 0.5, 1.0])
def test_ties_stay_together(keep: float) -> None:
    assert torch.equal(Filter(keep=keep)(torch.full((7,), 2.5)), torch.ones(7))
    weights = Filter(keep=keep)(torch.tensor([1.0, 3.0, 3.0, 3.0, 0.0]))
    assert weights[1:4].unique().tolist() == [1.0]


@pytest.mark.parametrize("n", [1, 2, 5, 10, 16, 101])
def test_one_batch_keeps_its_share_rounded_up(n: int) -> None:
    for share in (0.25, 0.5):
        assert Filter(keep=share)(gains(n)).sum() == n - math.ceil((n - 1) * (1 - share))


def test_a_threshold_is_strict_and_zero_by_default() -> None:
    gain = torch.tensor([-1.0, 0.0, 1e-6, 2.0])
    assert Filter()(gain).tolist() == [0, 0, 1, 1]
    assert Filter(threshold=-2.0)(gain).tolist() == [1, 1, 1, 1]
    assert Filter(threshold=2.0)(gain).tolist() == [0, 0, 0, 0]


@EACH
def test_a_sample_without_gain_weighs_one_and_leaves_no_trace(policy: Policy) -> None:
    policy, clean = copy.deepcopy(policy), copy.deepcopy(policy)
    for p in (policy, clean):
        p(gains(20))
    weights = policy(torch.tensor([NAN, 0.3, NAN]))
    assert weights[0] == weights[2] == 1
    assert torch.equal(weights[1:2], clean(torch.tensor([0.3])))


def test_a_sample_without_gain_takes_no_place_in_the_window() -> None:
    policy = Filter(keep=0.5, window=4)
    policy(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    policy(torch.tensor([NAN, NAN]))
    assert policy.weigh(torch.tensor([2.0, 3.0])).tolist() == [0, 1]


@EACH
def test_the_gains_of_other_ranks_count_and_are_not_weighed(policy: Policy) -> None:
    together, apart = copy.deepcopy(policy), copy.deepcopy(policy)
    everywhere = gains(12)
    assert torch.equal(together(everywhere)[4:8], apart(everywhere[4:8], everywhere))


@EACH
def test_a_policy_takes_up_where_its_state_was_saved(policy: Policy) -> None:
    policy = copy.deepcopy(policy)
    policy(gains(30))
    state, resumed = policy.state_dict(), type(policy)(**settings(policy))
    policy.weigh(gains(1))
    resumed.load_state_dict(state)
    for seed in range(1, 5):
        assert torch.equal(policy(gains(3, seed)), resumed(gains(3, seed)))


@pytest.mark.parametrize("policy", [Filter(keep=0.5, window=8), Reweight()], ids=repr)
def test_a_saved_state_is_a_copy(policy: Policy) -> None:
    policy, resumed = copy.deepcopy(policy), copy.deepcopy(policy)
    policy(gains(6))
    state = policy.state_dict()
    before = copy.deepcopy(state)
    policy(gains(5, seed=1))  # neither the policy that goes on
    resumed.load_state_dict(state)
    resumed(gains(5, seed=2))  # nor the one that took it back writes into it
    for name, value in before.items():
        same = torch.equal(value.nan_to_num(9.0), state[name].nan_to_num(9.0)) if name != "kind" else True
        assert same, name


def test_the_state_of_another_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="written with policy Filter, this run has Reweight"):
        Reweight().load_state_dict(Filter().state_dict())


def test_a_window_of_another_length_is_refused() -> None:
    policy = Filter(keep=0.5, window=8)
    policy(gains(4))
    with pytest.raises(ValueError, match="`window`"):
        Filter(keep=0.5, window=16).load_state_dict(policy.state_dict())


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Filter(keep=0.0), "`keep`"),
        (lambda: Filter(keep=1.01), "`keep`"),
        (lambda: Filter(keep=-0.5), "`keep`"),
        (lambda: Filter(keep=NAN), "`keep`"),
        (lambda: Filter(threshold=0.0, keep=0.5), "`threshold` or `keep`, not both"),
        (lambda: Filter(threshold=NAN), "`threshold`"),
        (lambda: Filter(keep=0.5, window=1), "`window`"),
        (lambda: Reweight(temperature=0.0), "`temperature`"),
        (lambda: Reweight(temperature=-1.0), "`temperature`"),
        (lambda: Reweight(temperature=NAN), "`temperature`"),
        (lambda: Reweight(min_weight=-0.1), "`min_weight`"),
        (lambda: Reweight(min_weight=1.1), "`min_weight`"),
        (lambda: Reweight(max_weight=0.9), "`max_weight`"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_by_name(make, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_gains_of_any_precision_are_weighed(policy: Policy, dtype: torch.dtype) -> None:
    gain = torch.tensor([-1.0, 0.5, 2.0])
    expected = copy.deepcopy(policy)(gain)
    weights = copy.deepcopy(policy)(gain.to(dtype))
    assert torch.allclose(weights.float(), expected, rtol=torch.finfo(dtype).eps)


@EACH
def test_no_policy_waits_for_the_device(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = copy.deepcopy(policy)
    batches = [torch.tensor([0.3, NAN, -1.0]), torch.tensor([2.0])]

    def wait(*args: object, **kwargs: object) -> None:
        raise AssertionError("the host would wait for the device here")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, wait)
    for gain in batches:
        policy(gain)


@EACH
def test_no_shape_depends_on_a_gain(policy: Policy) -> None:
    # Meta tensors hold no values, so whatever reads one (a Boolean index too) raises.
    policy = copy.deepcopy(policy)
    assert policy(torch.empty(5, device="meta")).shape == (5,)


def settings(policy: Policy) -> dict[str, float]:
    public = {k: v for k, v in vars(policy).items() if not k.startswith("_")}
    if public.get("keep") is not None:
        public.pop("threshold")
    return public


def test_only_what_lies_below_the_threshold_beyond_its_noise_is_dropped():
    gain, noise = torch.tensor([2.0, -2.0, -1.0, float("nan")]), torch.tensor([1.5, 1.5, 0.1, float("nan")])
    assert Filter()(gain, noise=noise).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert Filter(margin=0.0)(gain, noise=noise).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert Filter(margin=1.0)(gain, noise=noise).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert Filter(threshold=3.0, margin=1.0)(gain, noise=noise).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert Filter(keep=0.7)(gain, noise=noise).tolist() == [1.0, 0.0, 1.0, 1.0]  # a share of gains as they are
    assert Reweight()(gain, noise=noise).equal(Reweight()(gain))
    with pytest.raises(ValueError, match="`margin` must not be negative, got -1"):
        Filter(margin=-1.0)
    with pytest.raises(ValueError, match="`margin` goes with a threshold"):
        Filter(keep=0.5, margin=1.0)
