"""Policies and scorers as text: what is written can be read back, and nothing else is run."""

from __future__ import annotations

import pytest
import torch

from ggmi_callbacks import (
    AgreementScorer,
    ColumnScorer,
    DistinctScorer,
    Filter,
    GradientScorer,
    JointScorer,
    LikelihoodScorer,
    LookaheadScorer,
    Monitor,
    Policy,
    PromptInformationScorer,
    Reweight,
    Scorer,
    SiblingScorer,
    SimilarityScorer,
)
from ggmi_callbacks.expressions import evaluated, written
from ggmi_callbacks.functional import final_answer

POLICIES = [
    Monitor(),
    Filter(),
    Filter(keep=0.5, within="source", per_group=1),
    Filter(threshold=-1.5, margin=0.0, refill=False),
    Reweight(temperature=0.5, by="source"),
]
SCORERS = [
    LikelihoodScorer(layers=2, stride=4, dtype=torch.bfloat16, normalize="token"),
    LikelihoodScorer(reference="current"),
    GradientScorer(layers=2, optimizer_aware=True),
    LookaheadScorer(relative_step=1e-2, every=5, normalize="token"),
    PromptInformationScorer(normalize="token"),
    DistinctScorer(n=3),
    SimilarityScorer(nearest=3),
    ColumnScorer("reward"),
    AgreementScorer(answer=final_answer, text="completion"),
    SiblingScorer(group="question"),
    JointScorer(),
    JointScorer([LikelihoodScorer(), AgreementScorer()], zero="own"),
    JointScorer([LikelihoodScorer(), ColumnScorer("a"), ColumnScorer("b")], combine="sum", tolerance=1.0),
    JointScorer([LikelihoodScorer(), AgreementScorer()], label="right"),
]


def state(value: object) -> dict:
    """All that makes ``value`` what it is, tensors aside, which carry no argument."""
    told = {k: v for k, v in vars(value).items() if not torch.is_tensor(v)}
    return {k: [state(s) for s in v] if k == "scorers" else v for k, v in told.items()}


@pytest.mark.parametrize("value", POLICIES + SCORERS, ids=written)
def test_what_is_written_is_read_back(value: Policy | Scorer) -> None:
    again = evaluated(written(value), type(value), "it")
    assert state(again) == state(value)
    assert written(again) == written(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Filter", r"is no policy: write Filter\(\)"),
        ("Filtr()", "there is no policy or scorer 'Filtr'"),
        ("LikelihoodScorer()", "is no policy"),
        ("Filter(keep=2)", "`keep` must be a share"),
        ("Filter(keep=0.5", "was never closed"),
        ("Filter(within=source, keep=0.5)", "'source' is not known; a string is written in quotes"),
        ("__import__('os').system('true')", "there is no policy or scorer"),
        ("open('x', 'w')", "there is no policy or scorer 'open'"),
        ("Filter(keep=no_such_module.share)", "No module named 'no_such_module'"),
        ("0.5", "is no policy"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_argument_and_the_choices(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"`policy` .*{says}.*There are Filter, Monitor, Reweight"):
        evaluated(text, Policy, "policy")


def test_an_argument_that_there_is_not_is_refused_with_those_there_are() -> None:
    says = r"`policy` 'Filter\(share=0\.5\)' .*argument 'share'; it takes threshold, keep"
    with pytest.raises(ValueError, match=says):
        evaluated("Filter(share=0.5)", Policy, "policy")
