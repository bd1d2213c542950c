"""Agreement of answers to one prompt as a score."""

from __future__ import annotations

import pytest
import torch

from ggmi_callbacks import AgreementScorer
from ggmi_callbacks.data import SampleData
from ggmi_callbacks.functional import agreement, shared_information, sibling_information, table_shared_information
from ggmi_callbacks.scorers import _shared

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
    found = gains(AgreementScorer(estimator="overlap"), rows)
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
    found = gains(AgreementScorer(estimator="overlap"), data({0: same, 1: same, 2: same, 3: same}))
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


def one_token(groups: int, size: int) -> tuple[SampleData, float]:
    """Answers of one token, drawn from one of two laws for each prompt; and what all others say about one, in nats."""
    law = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    draw = torch.Generator().manual_seed(0)
    answers = torch.multinomial(law.repeat_interleave(groups // 2, 0), size, replacement=True, generator=draw).tolist()
    rows = [{"input_ids": [9, g, a], "labels": [-100, -100, a]} for g, given in enumerate(answers) for a in given]
    return SampleData(rows), float(table_shared_information(law / 2, siblings=float("inf")))


def test_information_is_that_of_the_siblings_in_nats_per_token() -> None:
    rows = data({0: [[1, 2, 3], [1, 2, 3], [4, 4, 4]], 1: [[20, 21], [20, 22]], 2: [[30, 31]]})
    scorer = AgreementScorer(estimator="information")
    wanted = sibling_information(rows.answers, [0, 0, 0, 1, 1, 2], order=2, per_token=True)
    torch.testing.assert_close(gains(scorer, rows), wanted, equal_nan=True)
    assert wanted.isnan().tolist() == [False] * 5 + [True]
    assert scorer.unit == "nats per token"


def test_its_zero_is_siblings_that_say_nothing() -> None:
    """Answers drawn from one law whatever the prompt: the best model all but ignores siblings."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, 14, (300, 3, 5), generator=draw).tolist()
    rows = [{"input_ids": [1, g, *a], "labels": [-100, -100, *a]} for g, given in enumerate(tokens) for a in given]
    found = gains(AgreementScorer(estimator="information"), SampleData(rows))
    assert found.mean().abs() < 0.002
    same = gains(AgreementScorer(estimator="information"), one_token(40, 30)[0])
    assert same.mean() > 0.05


def test_estimators_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="`estimator` must be 'auto', 'answer', 'information' or 'overlap', got"):
        AgreementScorer(estimator="votes")
    with pytest.raises(ValueError, match="`answer` is for final answers, and estimator='information' compares texts"):
        AgreementScorer(answer=len, estimator="information")


@pytest.mark.parametrize("estimator", ["overlap", "information"])
def test_shared_information_of_the_set_is_told_with_its_null(estimator: str) -> None:
    """Two tokens an answer, the end mark among them, of which the first alone says something."""
    rows, exact = one_token(groups=60, size=200)
    scorer = AgreementScorer(estimator=estimator)
    scorer.read(rows)
    found = scorer.summary()
    assert found["ggmi/shared_information_low"] < exact / 2 < found["ggmi/shared_information_high"]
    assert abs(found["ggmi/shared_information_null"]) < 0.02 * exact
    wanted = shared_information(rows.answers, rows.groups, order=2, per_token=True).information
    assert found["ggmi/shared_information"] == pytest.approx(float(wanted))
    assert found["estimators"] == {
        "shared_information": "ratio of n-gram models of order 2, 12000 of 12000 answers, per token",
        "agreement": estimator,
    }
    assert scorer.summary() is found  # computed once
    scorer.read(data({0: [[1, 2], [1, 2]], 1: [[5, 6], [5, 7]]}))
    assert scorer.summary()["ggmi/shared_information"] != found["ggmi/shared_information"]


def test_of_a_large_set_it_is_that_of_prompts_drawn_at_random_with_all_their_answers(monkeypatch) -> None:
    rows, _ = one_token(groups=60, size=20)
    monkeypatch.setattr(_shared, "_MOST", 300)
    chosen = _shared._some(rows.answers, rows.groups, seed=0)
    kept = {rows.groups[i] for i in chosen}
    assert len(chosen) == 300
    assert chosen == [i for i, group in enumerate(rows.groups) if group in kept]
    monkeypatch.setattr(_shared, "_MOST", 1)
    assert len(_shared._some(rows.answers, rows.groups, seed=0)) == 40  # the null needs two


def test_where_shared_information_cannot_be_had_the_reason_is_told() -> None:
    rows = SampleData([{"q": "a", "completion": c} for c in ("#7", "#7", "#8")])
    scorer = AgreementScorer(group="q", answer=lambda text: text[1:])
    assert scorer.summary() == {}  # nothing was read
    scorer.read(rows)
    how = "not measured: there are no two prompts with two answers each"
    assert scorer.summary() == {"estimators": {"shared_information": how, "agreement": "answer"}}
    scorer.read(SampleData([{"q": i // 2, "completion": f"#{i // 2}"} for i in range(8)]))
    assert scorer.summary()["estimators"]["shared_information"].endswith("8 of 8 answers, per word")
    scorer = AgreementScorer(group="q", answer=lambda messages: messages[0]["content"])
    scorer.read(SampleData([{"q": i // 2, "completion": [{"content": "7"}]} for i in range(8)]))
    assert scorer.summary()["estimators"]["shared_information"].startswith("not measured: column 'completion' holds")


def rows_of(texts: list[str], prompts: int, decode=None) -> SampleData:
    """Texts as answers to so many prompts in turn, a token a character."""
    tokens = [[ord(character) for character in text] for text in texts]
    rows = [{"input_ids": [1, i % prompts, *t], "labels": [-100, -100, *t]} for i, t in enumerate(tokens)]
    return SampleData(rows, decode=decode)


def decode(ids: list[int]) -> str:
    return "".join(map(chr, ids))


SUMS = ["4+3 = 7", "one = 1", "so it is 7", "it is 1.", "I say 8", "is 1"]  # answers to two questions, in turn


def test_where_texts_end_in_final_answers_those_vote_by_default() -> None:
    scorer = AgreementScorer()
    found = gains(scorer, rows_of(SUMS, 2, decode))
    assert scorer.summary()["estimators"]["agreement"] == "answer"
    assert scorer.unit == "agreement above that of strangers"
    torch.testing.assert_close(found + 0.0, torch.tensor([0.5, 1.0, 0.5, 1.0, 0.0, 1.0]), atol=0.4, rtol=0)
    assert found[4] <= 0 < found[0] < found[1]


def test_texts_without_siblings_have_no_say_in_it() -> None:
    rows = rows_of(SUMS, 2, decode)
    alone = [{"input_ids": [2, i, 65], "labels": [-100, -100, 97]} for i in range(9)]
    scorer = AgreementScorer()
    scorer.read(SampleData([*rows._rows, *alone], decode=decode))
    assert scorer.summary()["estimators"]["agreement"] == "answer"


@pytest.mark.parametrize(
    "rows",
    [
        rows_of([*SUMS, "no idea", "who knows"], 2, decode),  # two of eight have none
        rows_of(SUMS, 2),  # nobody can read tokens
    ],
)
def test_elsewhere_what_siblings_say_of_the_text_counts_by_default(rows: SampleData) -> None:
    scorer = AgreementScorer()
    torch.testing.assert_close(gains(scorer, rows), gains(AgreementScorer(estimator="information"), rows))
    assert scorer.unit == "nats per token"


def test_a_scorer_chooses_anew_for_another_training_set() -> None:
    scorer = AgreementScorer()
    scorer.read(rows_of(SUMS, 2))
    scorer.read(rows_of(SUMS, 2, decode))
    assert scorer.unit == "agreement above that of strangers"


def test_final_answers_of_tokens_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="estimator='answer' reads texts, and the training set has tokens alone"):
        AgreementScorer(estimator="answer").read(rows_of(SUMS, 2))
