"""What holds for every policy that tells groups of samples apart."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from ggmi_callbacks import Filter, Policy, Reweight
from tests.policies._groups import SOURCE, gains, ready

NAN = float("nan")
POLICIES = [Filter(keep=0.5, within="source", window=64), Reweight(by="source")]
EACH = pytest.mark.parametrize("policy", POLICIES, ids=repr)


@EACH
def test_statistics_of_groups_do_not_depend_on_the_split_into_batches(policy: Policy) -> None:
    whole, split, stream = ready(policy), ready(policy), gains(50)
    stream[7] = NAN
    whole(stream, ids=torch.arange(50))
    for ids in torch.arange(50).split(1):
        split(stream[ids], ids=ids)
    for name, value in whole.state_dict().items():
        if name == "kind":
            continue
        last = slice(None, -1) if value.dim() and len(value) > 64 else slice(None)  # the place of what is not scored
        other = split.state_dict()[name]
        same = (value[last], other[last]) if value.dim() else (value, other)
        assert torch.allclose(*(v.double().nan_to_num(9.0) for v in same), rtol=1e-13), name


@EACH
def test_the_gains_of_other_ranks_count_by_their_groups(policy: Policy) -> None:
    together, apart, everywhere = ready(policy), ready(policy), gains(40)
    padded = torch.cat([everywhere, torch.tensor([NAN])])
    ids = torch.arange(40)
    found = apart(everywhere[4:8], padded, ids=ids[4:8], pooled_ids=torch.cat([ids, torch.tensor([0])]))
    assert torch.equal(together(everywhere, ids=ids)[4:8], found)


@EACH
def test_a_grouped_policy_takes_up_where_its_state_was_saved(policy: Policy) -> None:
    first, resumed = ready(policy), ready(policy)
    first(gains(100), ids=torch.arange(100))
    state = copy.deepcopy(first.state_dict())
    resumed.load_state_dict(first.state_dict())
    for ids in torch.arange(100, 200).split(3):
        assert torch.equal(first(gains()[ids], ids=ids), resumed(gains()[ids], ids=ids))
    third = ready(policy)
    third.load_state_dict(state)  # which neither has written into
    ids = torch.arange(100, 103)
    again = ready(policy)
    again(gains(100), ids=torch.arange(100))
    assert torch.equal(third(gains()[ids], ids=ids), again(gains()[ids], ids=ids))


def test_the_state_of_other_groups_is_refused() -> None:
    filtered = ready(Filter(keep=0.5, within="source"))
    filtered(gains(20), ids=torch.arange(20))
    with pytest.raises(ValueError, match=r"written with policy Filter\(within='source'\), this run has Filter\."):
        Filter(keep=0.5).load_state_dict(filtered.state_dict())
    weighed = ready(Reweight(by="source"))
    weighed(gains(20), ids=torch.arange(20))
    with pytest.raises(ValueError, match=r"written with policy Reweight\(by='source'\), this run has Reweight\."):
        Reweight().load_state_dict(weighed.state_dict())
    with pytest.raises(ValueError, match="written with 3 sources, this run has 2"):
        ready(Reweight(by="source"), {"source": SOURCE % 2}).load_state_dict(weighed.state_dict())


@EACH
def test_a_sample_without_gain_weighs_one_and_leaves_no_trace_in_its_group(policy: Policy) -> None:
    policy, clean = ready(policy), ready(policy)
    for p in (policy, clean):
        p(gains(60), ids=torch.arange(60))
    weights = policy(torch.tensor([NAN, 0.3, NAN]), ids=torch.tensor([61, 62, 63]))
    assert weights[0] == weights[2] == 1
    assert torch.equal(weights[1:2], clean(torch.tensor([0.3]), ids=torch.tensor([62])))


@EACH
def test_no_grouped_policy_waits_for_the_device(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ready(policy)
    batches = [(torch.tensor([0.3, NAN, -1.0]), torch.tensor([3, 4, 5])), (torch.tensor([2.0]), torch.tensor([1]))]

    def wait(*args: object, **kwargs: object) -> None:
        raise AssertionError("the host would wait for the device here")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, wait)
    for gain, ids in batches:
        policy(gain, ids=ids)


@EACH
def test_no_shape_depends_on_a_group(policy: Policy) -> None:
    policy = ready(policy)
    assert policy(torch.empty(5, device="meta"), ids=torch.empty(5, dtype=torch.long, device="meta")).shape == (5,)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Filter(within="source"), ValueError, "`within='source'` says where the share `keep` is taken"),
        (lambda: Filter(threshold=1.0, within="source"), ValueError, "give `keep`"),
        (lambda: Filter(keep=0.5, within=3), TypeError, "`within` must be 'prompt', 'source', 'length' or the name"),
        (lambda: Filter(per_group=0), ValueError, "`per_group` must be a whole number from 1, got 0"),
        (lambda: Filter(per_group=1.5), ValueError, "`per_group` must be a whole number from 1, got 1.5"),
        (lambda: Filter(per_group="one"), TypeError, "`per_group` must be a number, got 'one'"),
        (lambda: Reweight(by="prompt"), ValueError, "`by` must be 'source' or None, got 'prompt'"),
        (lambda: ready(Reweight(by="source"), {"source": torch.zeros(9)}), ValueError, "all 9 samples are of one"),
        (
            lambda: ready(Filter(keep=0.5, within="prompt"), {"prompt": torch.arange(9)}),
            ValueError,
            "each of 9 strata has one sample, and at least one of each is kept",
        ),
        (
            lambda: Filter(keep=0.5, within="source")(gains(4)),
            ValueError,
            "apart by 'source': call `read`",
        ),
        (lambda: ready(Reweight(by="source"))(gains(4)), ValueError, r"tells samples apart by 'source'.*pass `ids`"),
    ],
)
def test_groups_that_mean_nothing_are_refused_by_name(make, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_a_grouped_policy_shows_what_it_was_given() -> None:
    assert repr(Filter(keep=0.5, within="source", per_group=2)) == "Filter(keep=0.5, within='source', per_group=2)"
    assert repr(Reweight(by="source")) == "Reweight(by='source')"
