"""Scores of a data set before training: what they are, what they depend on, what is refused."""

from __future__ import annotations

import re

import pyarrow.parquet as pq
import pytest
import torch

from ggmi_callbacks import (
    AgreementScorer,
    ColumnScorer,
    DistinctScorer,
    GradientScorer,
    JointScorer,
    LikelihoodScorer,
    score,
)
from ggmi_callbacks.data import padded
from ggmi_callbacks.scorers._stamp import digests_of_weights
from ggmi_callbacks.scoring.tokens import tokenise

from .._sums import sums
from ._files import save, write_rows


def test_gains_are_code_lengths_against_the_shadow_of_the_anchors(job, tokenizer, make_model):
    """gain(z) = nll_W(z) - nll_W'(z), sample by sample, W' trained here once more by the engine."""
    from ggmi_callbacks import GainEngine

    table = score(job.model, job.data, job.anchors, source="source", **job.settings)
    anchors = [(t["input_ids"], t["labels"]) for t in tokenise(sums(12, seed=1, bad=False), tokenizer, "a", None)]
    batches = [padded(anchors[i : i + 3]) for i in range(0, 12, 3)]
    engine = GainEngine(make_model(), batches, learning_rate=1e-2, progress=False)
    engine.prepare()
    for i, t in enumerate(tokenise(sums(24, seed=0), tokenizer, "data", None)):
        batch = padded([(t["input_ids"], t["labels"])])
        wanted = engine.scorer.score(batch, engine.probe.task.layout(batch))
        row = table.slice(i, 1).to_pylist()[0]
        assert row["gain"] == pytest.approx(float(wanted.gain), abs=1e-4)
        assert row["noise"] == pytest.approx(float(wanted.noise), abs=1e-4)
        assert row["tokens"] == sum(label != -100 for label in t["labels"])
    assert table["id"].to_pylist() == list(range(24))
    assert table["source"].to_pylist() == ["right", "wrong"] * 12


def test_neither_the_size_of_batches_nor_the_order_of_rows_matters(job, tmp_path):
    rows = sums(24, seed=0)
    by_one = score(job.model, job.data, job.anchors, batch_tokens=1, **job.settings)
    turned = score(job.model, rows[::-1], job.anchors, batch_tokens=100, **job.settings)
    torch.testing.assert_close(
        torch.tensor(by_one["gain"].to_pylist()), torch.tensor(turned["gain"].to_pylist()[::-1]), atol=1e-4, rtol=0
    )
    assert by_one["fingerprint"].to_pylist() == turned["fingerprint"].to_pylist()[::-1]


def test_a_module_is_scored_as_it_is_and_left_as_it_was(job, tokenizer, make_model):
    model = make_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = score(model, job.data, job.anchors, tokenizer=tokenizer, **job.settings)
    assert table["gain"].equals(score(job.model, job.data, job.anchors, **job.settings)["gain"])
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_sample_without_targets_has_no_score(job):
    rows = [*sums(4), {"prompt": "Tom has " * 30, "completion": "balls"}]
    table = score(job.model, rows, job.anchors, max_length=24, **job.settings)
    assert table["gain"].is_null().to_pylist() == [False] * 4 + [True]
    assert table["tokens"].to_pylist()[-1] == 0


def test_each_score_of_a_joint_one_has_a_column(job):
    scorer = JointScorer([LikelihoodScorer(), DistinctScorer(), ColumnScorer("good")])
    rows = [{**row, "good": row["source"] == "right"} for row in sums(24)]
    with pytest.warns(UserWarning, match="rests on 3 held-out anchors"):
        table = score(job.model, rows, job.anchors, scorer=scorer, **job.settings)
    assert [n for n in table.column_names if "/" in n] == ["gain/likelihood", "gain/distinct", "gain/good"]
    assert table["gain/good"].to_pylist() == [0.5, -0.5] * 12


def test_scores_that_the_data_bring_need_neither_weights_nor_anchors(tokenizer, tmp_path):
    rows = [row for row in sums(4) for _ in range(2)]
    scorer = AgreementScorer()
    table = score("no such model", rows, scorer=scorer, tokenizer=tokenizer, output=tmp_path / "s.parquet")
    assert table["gain"].null_count == 0
    assert pq.read_table(tmp_path / "s.parquet").equals(table)


def test_other_names_of_columns_and_conversations_are_understood(job, tokenizer):
    renamed = [{"question": row["prompt"], "reply": row["completion"]} for row in sums(24)]
    wanted = score(job.model, job.data, job.anchors, **job.settings)
    found = score(job.model, renamed, job.anchors, completion_column="reply", **job.settings)
    assert found["gain"].equals(wanted["gain"])
    with pytest.raises(ValueError, match=r"`data`: found none of completion, .*Say which with `completion_column`"):
        score(job.model, renamed, job.anchors, **job.settings)


def test_a_finished_file_is_read_and_nothing_is_scored(job):
    first = score(job.model, job.data, job.anchors, output=job.output, **job.settings)
    written = job.output.stat().st_mtime_ns
    assert score(job.model, job.data, job.anchors, output=job.output, **job.settings).equals(first)
    assert job.output.stat().st_mtime_ns == written
    assert [path.name for path in job.output.parent.glob("scored*")] == ["scored.parquet"]  # no parts are left


def test_a_file_of_another_job_is_refused_with_what_differs(job, tmp_path, make_model, tokenizer):
    score(job.model, job.data, job.anchors, output=job.output, **job.settings)
    other = save(make_model(seed=1), tokenizer, tmp_path / "other")
    cases = [
        ((other, job.data, job.anchors), {}, r"the model's weights \(16 of 21 tensors, model.embed"),
        ((job.model, sums(24, seed=5), job.anchors), {}, "the tokens of the data; the rows of the data"),
        ((job.model, job.data, sums(12, seed=2, bad=False)), {}, "not the same are the anchors. Remove it"),
        (
            (job.model, job.data, job.anchors),
            {"scorer": LikelihoodScorer(stride=2)},
            r"the scorer \(LikelihoodScorer\(\) there",
        ),
        ((job.model, job.data, job.anchors), {"learning_rate": 2e-2}, r"the shadow \(learning_rate=0.01,"),
    ]
    for positional, changed, message in cases:
        with pytest.raises(ValueError, match=message):
            score(*positional, output=job.output, **{**job.settings, **changed})
    assert pq.read_table(job.output).num_rows == 24


def test_another_file_in_the_place_of_the_output_is_refused(job):
    write_rows(job.output, [])
    with pytest.raises(ValueError, match=r"scored\.parquet' is no file of scores: "):
        score(job.model, job.data, job.anchors, output=job.output, **job.settings)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"scorer": GradientScorer()}, ValueError, "`scorer` must be static, and GradientScorer changes"),
        (
            {"scorer": LikelihoodScorer(reference="current")},
            ValueError,
            "`scorer` must be static, and LikelihoodScorer",
        ),
        ({"scorer": "likelihood"}, TypeError, r"`scorer` must be a scorer such as LikelihoodScorer\(\), got 'likelih"),
        ({"anchors": None}, ValueError, "`anchors` are missing"),
        ({"anchors": sums(1)}, ValueError, "`anchors` must hold at least two samples with target tokens, got 1 of 1"),
        ({"data": []}, ValueError, "`data` holds no rows"),
        ({"data": "nowhere.jsonl"}, ValueError, "`data`: there is no file 'nowhere.jsonl'"),
        ({"source": "by"}, ValueError, "`source` 'by' is not a column of `data`, which has prompt, completion, source"),
        ({"batch_tokens": 0}, ValueError, "`batch_tokens` must be at least 1, got 0"),
        ({"model": "/nowhere/model"}, ValueError, "`tokenizer` '/nowhere/model' cannot be loaded"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(job, changed, error, message):
    given = {"model": job.model, "data": job.data, "anchors": job.anchors, **changed}
    with pytest.raises(error, match=message):
        score(given.pop("model"), given.pop("data"), given.pop("anchors"), **given, **job.settings)


def test_a_precision_for_a_module_is_refused(job, make_model, tokenizer):
    with pytest.raises(ValueError, match=re.escape("`dtype=torch.bfloat16` is that of a model given by name")):
        score(make_model(), job.data, job.anchors, tokenizer=tokenizer, dtype=torch.bfloat16, **job.settings)


def test_digests_of_weights_see_a_change_and_neither_precision_nor_adapters(make_model):
    peft = pytest.importorskip("peft")
    model = make_model()
    digests = digests_of_weights(model)
    assert digests_of_weights(make_model().bfloat16()) == digests
    adapted = digests_of_weights(peft.get_peft_model(make_model(), peft.LoraConfig(target_modules=["q_proj"])))
    assert digests.items() <= adapted.items()
    with torch.no_grad():
        model.lm_head.weight[3, 4] *= 1.01
    changed = digests_of_weights(model)
    assert [name for name in digests if changed[name] != digests[name]] == ["lm_head.weight"]


def test_final_answers_vote_as_they_do_in_training(job):
    """Agreement reads the texts of the rows: what offline scores say is what the callback's own scorer says."""
    asked = {"Tom has": (14, 14, 15), "How many": (27, 27, 29)}
    rows = [{"prompt": f"{q} ", "completion": f" He has {a}"} for q, answers in asked.items() for a in answers]
    table = score(job.model, rows, scorer=AgreementScorer(), **job.settings)
    gains = table["gain"].to_pylist()
    assert [gain > 0 for gain in gains] == [True, True, False] * 2
    named = score(job.model, rows, scorer=AgreementScorer(text="completion"), **job.settings)
    assert gains == named["gain"].to_pylist()


def test_a_column_that_data_do_not_have_and_a_file_of_another_form_are_refused_by_name(job, tmp_path):
    with pytest.raises(ValueError, match="`prompt_column` 'quest' is not a column of `data`, which has prompt"):
        score(job.model, job.data, job.anchors, prompt_column="quest", **job.settings)
    with pytest.raises(ValueError, match=r"`output` '.*scored.csv' must end in \.parquet"):
        score(job.model, job.data, job.anchors, output=tmp_path / "scored.csv", **job.settings)
