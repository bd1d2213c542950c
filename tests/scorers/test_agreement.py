"""Agreement of answers to one prompt as a score."""

from __future__ import annotations

import pytest
import torch

from ggmi_callbacks import AgreementScorer
from ggmi_callbacks.data import SampleData
from ggmi_callbacks.functional import agreement

PROMPTS = [[5, 6], [5, 7], [8], [9, 9, 9], [10]]


def data(answers: dict[int, list[list[int]]]) -> SampleData:
    """Tokenised rows: prompt number -> its answers."""
    rows = [(PROMPTS[p], a) for p, given in answers.items() for a in given]
    return SampleData([{"input_ids": p + a, "labels": [-100] * len(p) + a} for p, a in rows])


def gains(scorer: AgreementScorer, rows: SampleData) -> torch.Tensor:
    scorer.read(rows)
    return scorer.known().gain


def test_groups_are_found_from_equal_prompts() -> None:
    rows = data({0: [[1, 2, 3], [1, 2, 3], [4, 4, 4]], 1: [[20, 21], [20, 22]], 2: [[30, 31]]})
    found = gains(AgreementScorer(), rows)
    expected = agreement(rows.answers, [0, 0, 0, 1, 1, 2])
    known = ~expected.isnan()
    assert torch.equal(found.isnan(), ~known)
    difference = (expected - found)[known]
    assert torch.allclose(difference, difference[0].expand_as(difference))  # the mean over strangers
    assert found[0] > 0 > found[2] or found[2] == 0


def test_texts_without_a_prompt_are_no_answers_to_the_same_one() -> None:
    whole = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 3
    rows = SampleData([*whole, *data({0: [[1, 2], [1, 3]]})._rows])
    assert gains(AgreementScorer(), rows).isnan().tolist() == [True] * 3 + [False] * 2


def test_an_answer_alone_to_its_prompt_is_not_known() -> None:
    found = gains(AgreementScorer(), data({0: [[1, 2], [1, 2]], 1: [[3, 4]]}))
    assert found.isnan().tolist() == [False, False, True]


def test_what_strangers_agree_by_does_not_count() -> None:
    """Answers that all say the same whatever the prompt share nothing that speaks for them."""
    same = [[1, 2, 3, 4]] * 2
    found = gains(AgreementScorer(), data({0: same, 1: same, 2: same, 3: same}))
    assert torch.allclose(found, torch.zeros(8), atol=1e-6)


def test_final_answers_vote() -> None:
    rows = SampleData(
        [{"q": q, "completion": c} for q, c in [("a", "x #7"), ("a", "y #7"), ("a", "#8"), ("b", "?")] * 2]
    )
    scorer = AgreementScorer(group="q", answer=lambda text: text.split("#")[1] if "#" in text else None)
    found = gains(scorer, rows)
    assert found.isnan().tolist() == [False, False, False, True] * 2  # nobody answered "b"
    assert found[0] == found[1] > found[2]


def test_a_text_without_a_final_answer_agrees_with_none_that_has_one() -> None:
    rows = SampleData([{"q": "a", "completion": c} for c in ("#7", "#7", "and so on")])
    found = gains(AgreementScorer(group="q", answer=lambda text: text[1:] if "#" in text else None), rows)
    assert found.tolist() == [1.0, 1.0, 0.0]


def test_one_answer_a_prompt_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"each of the 2 prompts has one answer.*`group=`"):
        AgreementScorer().read(data({0: [[1, 2]], 1: [[3, 4]]}))


def test_it_is_the_same_in_every_process() -> None:
    rows = data({0: [[1, 2, 3], [1, 2, 4]], 1: [[7, 8], [7, 9]], 2: [[5], [6]]})
    assert torch.equal(gains(AgreementScorer(), rows), gains(AgreementScorer(), rows))
