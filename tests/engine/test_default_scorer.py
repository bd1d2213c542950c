"""Which scorer a run has if none is named, and what it does to a pool."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from ggmi_callbacks import (
    AgreementScorer,
    CarryIds,
    Filter,
    JointScorer,
    LikelihoodScorer,
    Monitor,
    Numbered,
    Policy,
    Reweight,
)
from ggmi_callbacks.data import SampleData
from ggmi_callbacks.engine.default import default_scorer
from ggmi_callbacks.engine.refill import Refill
from tests._batches import padded
from tests._loop import SIZE, Pattern, builder

PROMPTS = [[3, 4], [5, 6], [7, 8]]
ANSWERS = [[9, 10, 11, 12], [9, 10, 11, 13], [30, 31, 32, 33]]  # the last one to each prompt agrees with nothing
TOKENS = [(p, [t + 3 * i for t in a]) for i, p in enumerate(PROMPTS) for a in ANSWERS]
ROWS = [{"input_ids": p + a, "labels": [-100, -100, *a]} for p, a in TOKENS]
LONE = [{"input_ids": [i, 4, 5], "labels": [-100, 4, 5]} for i in range(3, 12)]


@pytest.fixture
def build(make_model):
    return builder(make_model)


def tensors(rows):
    return padded([(torch.tensor(row["input_ids"]), torch.tensor(row["labels"])) for row in rows])


@pytest.mark.parametrize("policy", [Filter(), Filter(keep=0.5), Reweight()])
def test_acting_on_several_answers_to_a_prompt_counts_their_agreement(policy: Policy) -> None:
    assert isinstance(default_scorer(policy, SampleData(ROWS + LONE[:3])), JointScorer)  # three samples in four
    scorer = default_scorer(policy, SampleData(ROWS))
    assert isinstance(scorer, JointScorer)
    assert [type(s) for s in scorer.scorers] == [LikelihoodScorer, AgreementScorer]
    assert str(scorer) == "JointScorer: least of likelihood, agreement, from their own zero"


@pytest.mark.parametrize(
    ("policy", "rows"),
    [
        (Monitor(), ROWS),  # its numbers are nats in every run
        (Filter(threshold=0.5), ROWS),  # 0.5 was meant in nats
        (Pattern(1.0), ROWS),  # as may be what a policy of the user's own reads
        (Filter(), LONE),
        (Filter(), [{"text": "a"}] * 4),
        (Filter(), [{"input_ids": [1, 2], "labels": [1, 2]}] * 4),  # texts without a prompt answer none in common
        (Filter(), [row for i, row in enumerate(ROWS) if i % 3]),  # a single sibling is no judge
        (Filter(), ROWS + LONE[:4]),  # siblings judge 9 samples of 13: what they drop would be missing from that part
        (Filter(), ROWS[:3]),  # one prompt: nobody knows what answers to different ones have in common
        (Filter(), None),
    ],
)
def test_elsewhere_gain_is_likelihood_in_nats(policy: Policy, rows: list | None) -> None:
    assert isinstance(default_scorer(policy, None if rows is None else SampleData(rows)), LikelihoodScorer)


def test_no_prompt_is_read_for_a_policy_that_does_not_act() -> None:
    class Unread(SampleData):
        @property
        def groups(self):
            raise AssertionError("prompts were read")

    default_scorer(Monitor(), Unread(ROWS))
    with pytest.raises(AssertionError, match="prompts were read"):
        default_scorer(Filter(), Unread(ROWS))


def test_a_default_filter_drops_what_nothing_speaks_for_and_says_in_which_unit(build) -> None:
    loop = build(Filter(), sources=None, data=ROWS)
    for start in range(0, len(ROWS) - 1, SIZE):
        loop.step({**tensors(ROWS[start : start + SIZE]), "ggmi_sample": torch.arange(start, start + SIZE)})
    loop.engine.log()
    rows = loop.engine.ledger.table.to_pylist()
    assert all(not row["kept"] for row in rows if row["gain/agreement"] < 0)
    assert {row["id"] for row in rows if row["gain/agreement"] < 0} == {2, 5}
    assert all(row["gain/likelihood"] is not None for row in rows)
    results = loop.engine.results()
    assert results["scorer"].startswith("JointScorer")
    assert results["gain_unit"] == "spreads"
    watched = build(Monitor(), sources=None, data=ROWS).engine.results()
    assert (watched["scorer"], watched["gain_unit"]) == ("LikelihoodScorer", "nats per sample")


def test_what_the_data_speak_against_is_neither_scored_nor_drawn_and_decided_as_if_it_were(build) -> None:
    """The least of several scores cannot exceed one that is known: the model's are found for the others alone."""
    collate = CarryIds(tensors)
    decided, rows_scored = {}, {}
    for refill in (True, False):
        loop = build(Filter(refill=refill), sources=None, data=ROWS)
        likelihood = loop.engine.scorer.scorers[0]
        counted, found = [], likelihood.token_gain

        def counting(inputs, layout, counted=counted, found=found):
            counted.append(layout.n)
            return found(inputs, layout)

        likelihood.token_gain = counting
        loader = DataLoader(Numbered(ROWS), SIZE, collate_fn=collate)
        for batch in Refill(loop.engine, loader) if refill else loader:
            loop.step(batch)
        loop.engine.log()
        rows = loop.engine.ledger.table.to_pylist()
        decided[refill] = {row["id"]: row["kept"] for row in rows}
        rows_scored[refill] = sum(counted)
    assert decided[True] == decided[False]
    assert not all(decided[True].values())
    hopeless = {row["id"] for row in rows if row["gain/agreement"] <= 0}  # of the last run, which scored everything
    assert rows_scored == {True: len(ROWS) - len(hopeless), False: len(ROWS)}
    assert not any(decided[True][i] for i in hopeless)
