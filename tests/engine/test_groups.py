"""What policies compare samples by, and within: gains per token, strata, the best of each prompt."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ggmi_callbacks import ColumnScorer, Filter, GradientScorer, LikelihoodScorer, Reweight
from ggmi_callbacks.data import SampleData
from ggmi_callbacks.engine.groups import read_groups
from ggmi_callbacks.scorers import Scorer
from ggmi_callbacks.tasks import SAMPLE_KEY
from tests._batches import VOCABULARY
from tests._loop import SIZE, builder
from tests.engine._answers import DOMAIN, PER, PROMPTS, REWARD, ROWS, N, Rewards, batches, best, refill


@pytest.fixture
def build(make_model):
    make = builder(make_model)
    return lambda policy, scorer, **settings: make(policy, scorer=scorer, **{"sources": None, "data": ROWS, **settings})


def kept(loop) -> set[int]:
    loop.engine.log()
    return {row["id"] for row in loop.engine.ledger.table.to_pylist() if row["kept"]}


# -- where groups are read from ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", ["prompt", "length", "domain", "source"])
def test_groups_are_equal_prompts_octaves_of_length_values_of_a_column_or_sources(within: str) -> None:
    groups = read_groups(Filter(keep=0.5, within=within), SampleData(ROWS), ["a", None] * (N // 2), N)[within]
    key: list = {
        "prompt": [i // PER for i in range(N)],
        "length": [{2: 1, 3: 1, 4: 2, 5: 2, 6: 2, 7: 2, 8: 3}[2 + i % 7] for i in range(N)],
        "domain": DOMAIN,
        "source": ["a", None] * (N // 2),
    }[within]
    assert (groups[:, None] == groups).tolist() == [[a == b for b in key] for a in key]


@pytest.mark.parametrize(
    ("policy", "settings", "words"),
    [
        (Filter(keep=0.5, within="source"), {}, r"within='source'\) tells sources apart, and none are named.*`source="),
        (Reweight(by="source"), {}, r"Reweight\(by='source'\) tells sources apart, and none are named"),
        (Filter(keep=0.5, within="topic"), {}, r"no column 'topic'; it has \['domain', 'id', 'input_ids'"),
        (Filter(keep=0.5, within="labels"), {}, "column 'labels' must hold values that can be told apart by equality"),
        (
            Filter(keep=0.5, within="prompt"),
            {"data": None, "num_samples": N},
            r"given none.*`train_dataset=",
        ),
        (Filter(keep=0.5, within="prompt"), {"data": [{"text": "a"}] * N}, "read from `input_ids` and `labels`"),
        (
            Filter(keep=0.5, within="domain"),
            {"num_samples": N + 1},
            "of 32 samples, and `num_samples` is 33",
        ),
        (Filter(keep=0.5, within="id"), {}, "each of 32 strata has one sample"),
        (Reweight(by="source"), {"sources": ["a"] * N}, "all 32 samples are of one"),
    ],
    ids=str,
)
def test_what_cannot_be_told_apart_is_refused_with_the_way_out(build, policy, settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        build(policy, Rewards(), prepare=False, **settings)


# -- gains per token --------------------------------------------------------------------------------------------------


def test_scorers_say_whether_their_gain_is_a_sum_over_targets() -> None:
    assert LikelihoodScorer.additive
    assert GradientScorer.additive
    assert not Scorer.additive
    assert not ColumnScorer.additive


@pytest.mark.parametrize("static", [False, True])
def test_a_share_is_ranked_per_token_and_the_ledger_keeps_the_gain(build, static: bool) -> None:
    found = []
    for scorer in (Rewards(additive=True, static=static), Rewards(static=static)):
        loop = build(Filter(keep=0.5), scorer)
        for _ in range(2):  # in the second pass static gains come from the table
            for batch in batches():
                loop.step(batch)
            loop.engine.log()
        table = loop.engine.ledger.table.to_pylist()
        found.append([row["kept"] for row in table])
        tokens = torch.tensor([len(row["input_ids"]) - 2 for row in ROWS]) if scorer.additive else torch.ones(N)
        assert [row["gain"] for row in table[:N]] == pytest.approx((REWARD * tokens).tolist(), rel=1e-6)
        if static:
            assert {row["id"] for row in table[N:] if row["kept"]} == best(REWARD, [0] * N, 0.5)
    assert found[0] == found[1]


def test_a_gain_that_is_per_token_already_is_ranked_as_it_is(build) -> None:
    normalised = Rewards(additive=True)
    normalised.normalize = "token"
    found = []
    for scorer in (normalised, Rewards()):
        loop = build(Filter(keep=0.5), scorer)
        for batch in batches():
            loop.step(batch)
        found.append(kept(loop))
    assert found[0] == found[1]


def test_a_threshold_takes_a_sum_as_it_is(build) -> None:
    loop = build(Filter(threshold=8.0), Rewards(additive=True))
    for batch in batches():
        loop.step(batch)
    tokens = torch.tensor([len(row["input_ids"]) - 2 for row in ROWS])
    assert kept(loop) == set((REWARD * tokens > 8).nonzero().flatten().tolist())


# -- shares within strata ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("within", "groups"), [("domain", DOMAIN), ("prompt", [i // PER for i in range(N)])])
def test_known_scores_keep_their_share_of_each_stratum_without_refill_too(build, within, groups) -> None:
    loop = build(Filter(keep=0.5, within=within, refill=False), ColumnScorer("reward"))
    for batch in batches():
        loop.step(batch)
    assert kept(loop) == best(REWARD, groups, 0.5)


def test_found_scores_keep_their_share_of_each_stratum_from_the_second_pass_on(build) -> None:
    loop = build(Filter(keep=0.5, within="domain"), Rewards(static=True))
    for epoch in range(2):
        loop.engine.begin_epoch(epoch)
        for batch in batches():
            loop.step(batch)
    loop.engine.log()
    late = loop.engine.ledger.table.to_pylist()[N:]
    assert {row["id"] for row in late if row["kept"]} == best(REWARD, DOMAIN, 0.5)


@pytest.mark.parametrize("policy", [Filter(keep=0.5, within="domain"), Reweight(by="source")], ids=repr)
def test_a_resumed_run_goes_on_with_its_groups_bit_for_bit(build, policy) -> None:
    settings = {"sources": DOMAIN}
    whole = build(policy, Rewards(), **settings)
    for batch in batches()[:4]:
        whole.step(batch)
    state, model = whole.engine.state_dict(), whole.model.state_dict()
    again = build(type(policy)(**settings_of(policy)), Rewards(), prepare=False, **settings)
    again.model.load_state_dict(model)
    again.engine.load_state_dict(state)
    for batch in batches()[4:]:
        found = [loop.engine.observe(batch) for loop in (whole, again)]
        assert torch.equal(found[0]["input_ids"], found[1]["input_ids"])
        assert whole.engine.is_empty == again.engine.is_empty
        weights = [loop.engine.weights for loop in (whole, again)]
        assert weights[0] is None or torch.equal(*weights)


def settings_of(policy) -> dict:
    names = ("keep", "within") if isinstance(policy, Filter) else ("by",)
    return {name: getattr(policy, name) for name in names}


def test_the_weight_of_a_source_reaches_its_samples_and_the_ledger(build) -> None:
    loop = build(Reweight(by="source"), Rewards(), sources=DOMAIN)
    for batch in batches():
        loop.step(batch)
    loop.engine.log()
    last = loop.engine.ledger.table.to_pylist()[-SIZE:]
    weights = {row["source"]: row["weight"] for row in last}
    assert weights["books"] > weights["code"] > weights["wiki"]
    assert len({row["weight"] for row in last if row["source"] == "code"}) == 1


# -- the best of each prompt ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scorer", [ColumnScorer("reward"), Rewards(static=True)], ids=["known", "found"])
def test_one_of_each_prompt_is_trained_on_and_it_is_the_best(build, scorer) -> None:
    loop = build(Filter(per_group=1), scorer)
    for batch in refill(loop):
        loop.step(batch)
    loop.engine.log()
    trained = {row["id"] for row in loop.engine.ledger.table.to_pylist() if row["nll"] is not None}
    assert trained == {4 * p + int(REWARD[4 * p : 4 * p + 4].argmax()) for p in range(PROMPTS)}
    if isinstance(scorer, Rewards):
        assert scorer.scored == N  # each once, before the first batch
    assert {row["id"] for row in loop.engine.ledger.table.to_pylist()} == set(range(N))  # dropped ones too


def test_of_samples_without_a_prompt_none_is_dropped_for_another() -> None:
    plain = [{"input_ids": [5, 6 + i], "labels": [5, 6 + i]} for i in range(4)]
    policy = Filter(per_group=1)
    policy.read(read_groups(policy, SampleData(plain + ROWS[:4]), None, 8))
    assert policy.weights_of_all(torch.arange(1.0, 9.0)).tolist() == [1, 1, 1, 1, 0, 0, 0, 1]


def test_scoring_first_draws_nothing_from_global_streams_and_counts_no_sample_as_met(build) -> None:
    loop = build(Filter(per_group=1), Rewards(static=True))
    before = torch.get_rng_state()
    next(iter(refill(loop)))
    assert torch.equal(torch.get_rng_state(), before)
    loop.engine.log()
    assert len(loop.engine.ledger.table) < N  # rows of those drawn so far, not of those scored


def test_a_set_without_a_single_score_is_refused_once_it_is_scored(build) -> None:
    class Nothing(Rewards):
        def gain(self, inputs, layout):
            return torch.full((layout.n,), float("nan"))

    loop = build(Filter(per_group=1), Nothing(static=True))
    with pytest.raises(ValueError, match="Nothing knows a score of 0% of 32 samples"):
        next(iter(refill(loop)))


def test_a_plain_filter_scores_as_it_goes(build) -> None:
    scorer = Rewards(static=True)
    loop = build(Filter(keep=0.5, within="domain"), scorer)
    next(iter(refill(loop)))
    assert scorer.scored < N


def test_it_goes_on_after_a_restart_without_scoring_again(build) -> None:
    loop, scorer = build(Filter(per_group=1), Rewards(static=True)), Rewards(static=True)
    iterator = iter(first := refill(loop))
    for _ in range(2):
        loop.step(next(iterator))
    states = loop.engine.state_dict(), first.state_dict()
    wanted = [next(iterator)[SAMPLE_KEY].tolist() for _ in range(4)]
    again = build(Filter(per_group=1), scorer, prepare=False)
    again.engine.load_state_dict(states[0])
    other = refill(again)
    other.load_state_dict(states[1])
    assert [batch[SAMPLE_KEY].tolist() for batch, _ in zip(other, range(4), strict=False)] == wanted
    assert scorer.scored == 0


def test_the_best_of_a_prompt_is_refused_while_scores_are_found_as_samples_come(build) -> None:
    with pytest.raises(ValueError, match=r"per_group=1.*Rewards finds their scores as they come.*ColumnScorer"):
        build(Filter(per_group=1), Rewards())
    loop = build(Filter(per_group=1, refill=False), Rewards(static=True))
    with pytest.raises(ValueError, match=r"refilled"):
        loop.step(batches()[0])
    with pytest.raises(ValueError, match="most samples are in strata of fewer than 8"):
        build(Filter(keep=0.5, within="prompt"), Rewards())


@pytest.mark.slow
def test_ranks_score_their_shares_and_know_all(make_model, tmp_path) -> None:
    make_model(vocab_size=VOCABULARY).save_pretrained(tmp_path)
    best_of_each = {4 * p + int(REWARD[4 * p : 4 * p + 4].argmax()) for p in range(PROMPTS)}
    for ranks in (1, 2):
        launch = ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"] if ranks > 1 else []
        command = [sys.executable, "-m", *launch, "tests.engine.ranks_job", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        for rank in range(ranks):
            assert torch.load(tmp_path / f"{ranks}-{rank}.pt") == {"trained": best_of_each, "scored": N // ranks}
