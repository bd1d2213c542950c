"""What trainers on pairs cannot do rightly is refused by name."""

from __future__ import annotations

import pytest
from datasets import Dataset
from trl import DPOConfig, RewardConfig

from ggmi_callbacks import (
    AgreementScorer,
    Filter,
    JointScorer,
    LikelihoodScorer,
    Monitor,
    PromptInformationScorer,
    Reweight,
)

from .._pairs import pairs
from ._jobs import JUDGED, PAIRS


@pytest.mark.parametrize("types", [["aot"], ["aot_unpaired"], ["sigmoid", "aot"]])
def test_losses_that_couple_the_pairs_of_a_batch_are_refused_by_name(types, make_job):
    with pytest.raises(ValueError, match=r"`loss_type` 'aot.*' with Reweight\(\): .*or one of apo_down"):
        make_job("dpo", Reweight(), callback=JUDGED, loss_type=types)
    make_job("dpo", Monitor(), callback=JUDGED, loss_type=types)


def test_a_mean_over_tokens_may_be_weighed_but_not_shrunk(make_job):
    args = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}
    make_job("dpo", Reweight(), callback=JUDGED, **args)
    with pytest.raises(ValueError, match=r"`loss_type` 'sft' with Filter\("):
        make_job("dpo", Filter(refill=False), callback=JUDGED, **args)


@pytest.mark.parametrize(
    ("scorer", "match"),
    [
        (PromptInformationScorer(), "PromptInformationScorer reads single answers"),
        (JointScorer([LikelihoodScorer(), AgreementScorer()]), "Give `zero='own'`"),
    ],
    ids=str,
)
def test_scorers_of_single_answers_are_refused(scorer, match, make_job):
    with pytest.raises(ValueError, match=match):
        make_job("dpo", Monitor(), callback={"scorer": scorer})


def test_data_sets_for_packed_rows_are_refused(make_job):
    with pytest.raises(ValueError, match="DPOTrainer packs none: leave them out"):
        make_job("dpo", Monitor(), callback={"train_dataset": Dataset.from_list(pairs(16))})


@PAIRS
def test_a_filter_on_several_ranks_is_refused(kind, make_job, monkeypatch):
    monkeypatch.setattr({"dpo": DPOConfig, "reward": RewardConfig}[kind], "world_size", 2)
    with pytest.raises(ValueError, match=r"Filter.* on 2 ranks: .*gathers the rewards of as many pairs"):
        make_job(kind, Filter(), callback=JUDGED)


def test_anchors_without_a_rejected_answer_are_refused_by_the_column(make_job):
    human = [{"prompt": "Tom", "chosen": " has 3"}] * 4
    with pytest.raises(ValueError, match=r"`anchors` lack the column 'rejected'.* they have"):
        make_job("dpo", Monitor(), callback={"anchors": human})
