"""CausalLM: where samples are, how likely they are, and the batch without some of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ggmi_callbacks import CausalLM
from ggmi_callbacks.tasks import IGNORE, SAMPLE_KEY, Layout, target_log_probs
from tests._batches import VOCABULARY, packed, padded, samples

TASK = CausalLM()
BATCH = samples(6)
FORMS = {
    "right": padded(BATCH),
    "left": padded(BATCH, left=True),
    "packed": packed(BATCH),
    "packed with boundaries": packed(BATCH, boundaries=True),
}
EACH = pytest.mark.parametrize("form", FORMS)


def nll(model: torch.nn.Module, inputs: dict[str, Any], n: int | None = None) -> Tensor:
    return -TASK.layout(inputs, n).total(TASK.log_probs(model, inputs))


def gradient(model: torch.nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.fixture
def model(make_model):
    # Float64, but for Llama's norms, which compute in float32: numbers agree to 1e-6.
    return make_model(vocab_size=VOCABULARY).double()


def test_log_probs_are_those_of_a_softmax_by_hand() -> None:
    logits, labels = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)), torch.randint(0, 7, (2, 5))
    labels[0, 3] = IGNORE
    expected = torch.zeros(2, 4)
    for b in range(2):
        for t in range(4):
            if labels[b, t + 1] != IGNORE:
                expected[b, t] = logits[b, t].log_softmax(0)[labels[b, t + 1]]
    assert torch.allclose(target_log_probs(logits, labels), expected, atol=1e-6)


def test_log_probs_do_not_depend_on_how_positions_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = torch.randn(3, 50, 7), torch.randint(0, 7, (3, 50))
    whole = target_log_probs(logits, labels)
    monkeypatch.setattr("ggmi_callbacks.tasks.causal_lm._CHUNK", 11)
    assert torch.equal(target_log_probs(logits, labels), whole)


@pytest.mark.parametrize(
    ("given", "wanted"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2]
)
def test_log_probs_are_float32_or_wider(given: torch.dtype, wanted: torch.dtype) -> None:
    assert target_log_probs(torch.zeros(1, 3, 4, dtype=given), torch.ones(1, 3, dtype=torch.long)).dtype == wanted


@EACH
def test_every_form_has_the_code_length_of_its_samples_alone(model, form: str) -> None:
    alone = torch.cat([nll(model, padded([sample])) for sample in BATCH])
    assert torch.allclose(nll(model, FORMS[form], len(BATCH)), alone, rtol=1e-6)


@EACH
def test_every_form_counts_the_targets_and_tokens_of_its_samples(form: str) -> None:
    layout = TASK.layout(FORMS[form], len(BATCH))
    assert layout.n == len(BATCH)
    assert layout.tokens.tolist() == [int((labels[1:] != IGNORE).sum()) for _, labels in BATCH]
    width = max(len(ids) for ids, _ in BATCH)
    assert layout.lengths.tolist() == [width if form == "left" else len(ids) for ids, _ in BATCH]


@EACH
def test_spread_is_the_transpose_of_total(form: str) -> None:
    layout = TASK.layout(FORMS[form], len(BATCH))
    draw = torch.Generator().manual_seed(0)
    values, weights = torch.randn(layout.target.shape, generator=draw), torch.rand(layout.n, generator=draw)
    assert torch.allclose((layout.spread(weights) * values).sum(), (weights * layout.total(values)).sum(), rtol=1e-5)


def test_total_keeps_trailing_dimensions_and_ignores_what_is_behind_the_last_segment() -> None:
    inputs = packed(BATCH)
    for key, value in (("input_ids", 1), ("labels", IGNORE), ("position_ids", 0)):  # pad_to_multiple_of pads with zeros
        inputs[key] = torch.cat([inputs[key], torch.full((1, 3), value)], dim=1)
    layout, clean = TASK.layout(inputs, len(BATCH)), TASK.layout(packed(BATCH), len(BATCH))
    assert torch.equal(layout.lengths, clean.lengths)
    assert torch.equal(layout.tokens, clean.tokens)
    values = torch.randn(1, clean.target.shape[1], 4)
    longer = torch.cat([values, torch.full((1, 3, 4), 1e9)], dim=1)
    assert torch.equal(layout.total(longer), clean.total(values))
    assert torch.equal(layout.spread(torch.ones(6))[0, -3:], torch.zeros(3))


def test_total_of_bfloat16_is_summed_in_float32() -> None:
    layout = Layout(torch.ones(1, 4096, dtype=torch.bool), 1, None, torch.tensor([4096]))
    total = layout.total(torch.full((1, 4096), 1.0, dtype=torch.bfloat16))
    assert total.dtype == torch.float32
    assert total.item() == 4096


@EACH
@pytest.mark.parametrize("kept", [[0, 3, 4], [5], [0, 1, 2, 3, 4, 5], [1, 2]])
def test_dropping_samples_gives_the_gradient_of_zero_weights(model, form: str, kept: list[int]) -> None:
    inputs = FORMS[form]
    layout = TASK.layout(inputs, len(BATCH))
    weights = torch.zeros(len(BATCH))
    weights[kept] = 1
    selected, index = TASK.select(inputs, layout, weights)
    assert index.tolist() == kept
    weighted = gradient(model, (weights * nll(model, inputs, len(BATCH))).sum())
    dropped = gradient(model, nll(model, selected, len(kept)).sum())
    assert torch.linalg.norm(dropped - weighted) <= 1e-6 * torch.linalg.norm(weighted)


@pytest.mark.parametrize("form", ["right", "packed"])
def test_dropping_samples_saves_the_forward_their_tokens(form: str) -> None:
    short = sorted(range(len(BATCH)), key=lambda i: len(BATCH[i][0]))[:2]
    weights = torch.zeros(len(BATCH))
    weights[short] = 1
    selected, _ = TASK.select(FORMS[form], TASK.layout(FORMS[form], len(BATCH)), weights)
    lengths = [len(BATCH[i][0]) for i in short]
    assert selected["input_ids"].shape == ((2, max(lengths)) if form == "right" else (1, sum(lengths)))


def test_the_boundaries_of_what_is_left_are_those_of_packing_it_anew() -> None:
    inputs, kept = packed(BATCH, boundaries=True), [1, 2, 5]
    weights = torch.zeros(len(BATCH))
    weights[kept] = 0.5
    selected, _ = TASK.select(inputs, TASK.layout(inputs, len(BATCH)), weights)
    anew = packed([BATCH[i] for i in kept], boundaries=True)
    assert selected.keys() == anew.keys()
    for key, value in anew.items():
        if isinstance(value, Tensor):
            assert selected[key].dtype == value.dtype, key
            assert torch.equal(selected[key], value), key
        else:
            assert selected[key] == value, key


@EACH
def test_boundaries_are_rebuilt_only_where_they_were(form: str) -> None:
    inputs = FORMS[form]
    selected, _ = TASK.select(inputs, TASK.layout(inputs, len(BATCH)), torch.ones(len(BATCH)))
    assert selected.keys() == inputs.keys()


@EACH
def test_a_batch_that_loses_every_sample_is_one_sample_without_target(model, form: str) -> None:
    inputs = FORMS[form]
    selected, index = TASK.select(inputs, TASK.layout(inputs, len(BATCH)), torch.zeros(len(BATCH)))
    assert len(index) == 0
    assert (selected["labels"] == IGNORE).all()
    assert len(selected["input_ids"]) == 1
    assert not gradient(model, nll(model, selected, 1).sum()).any()


@EACH
def test_select_leaves_its_argument_alone(form: str) -> None:
    inputs = {k: v.clone() if isinstance(v, Tensor) else v for k, v in FORMS[form].items()}
    TASK.select(inputs, TASK.layout(inputs, len(BATCH)), torch.zeros(len(BATCH)))
    assert all(torch.equal(v, inputs[k]) for k, v in FORMS[form].items() if isinstance(v, Tensor))


def test_rows_take_other_columns_of_the_batch_along() -> None:
    inputs = {**padded(BATCH), "reward": torch.arange(6.0), "note": "same"}
    selected, _ = TASK.select(inputs, TASK.layout(inputs), torch.tensor([0.0, 1, 0, 0, 1, 0]))
    assert selected["reward"].tolist() == [1, 4]
    assert selected["note"] == "same"


def test_segments_take_other_tokenwise_columns_of_the_batch_along() -> None:
    inputs = {**packed(BATCH), "completion_mask": packed(BATCH)["labels"].ne(IGNORE).long()}
    selected, _ = TASK.select(inputs, TASK.layout(inputs, 6), torch.tensor([0.0, 1, 0, 0, 1, 0]))
    assert torch.equal(selected["completion_mask"], selected["labels"].ne(IGNORE).long())


def test_log_probs_of_a_forward_that_has_run_are_those_of_a_new_one(model) -> None:
    inputs = padded(BATCH)
    outputs = model(**inputs)
    read = TASK.output_log_probs(outputs, inputs)
    assert not read.requires_grad
    assert torch.allclose(read, TASK.log_probs(model, inputs), rtol=1e-6)


def test_the_prompt_is_what_is_attended_and_has_no_target() -> None:
    inputs = padded(BATCH)
    layout = TASK.layout(inputs)
    mask = TASK.prompt_mask(inputs, layout)
    assert mask.sum(1).tolist() == [1] * 6  # two prompt tokens; the first one is no target of anything
    assert not (mask & layout.target).any()


def test_models_without_a_next_token_likelihood_are_refused(make_model) -> None:
    from transformers import LlamaForSequenceClassification, T5Config, T5ForConditionalGeneration

    size = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 10}
    with pytest.raises(ValueError, match=r"`model` is an encoder-decoder \(T5ForConditionalGeneration\)"):
        TASK.check(T5ForConditionalGeneration(T5Config(**size)))
    causal = make_model()
    with pytest.raises(ValueError, match=r"`model` \(LlamaForSequenceClassification\) has no language-model head"):
        TASK.check(LlamaForSequenceClassification(causal.config))
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        TASK.check(causal.model)
    TASK.check(causal)


def test_batches_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no `labels`.*it holds \['attention_mask', 'input_ids'\]"):
        TASK.layout({k: v for k, v in padded(BATCH).items() if k != "labels"})
    with pytest.raises(ValueError, match=f"must say how many samples it holds.*{SAMPLE_KEY}"):
        TASK.layout(packed(BATCH))
    with pytest.raises(ValueError, match="has no `logits`"):
        TASK.output_log_probs(object(), padded(BATCH))


def test_a_mask_that_hides_where_samples_end_is_refused() -> None:
    batch = padded(samples(2))
    batch["attention_mask"] = batch["attention_mask"][:, None, None, :]
    with pytest.raises(ValueError, match=r"`attention_mask` must be \[B, T\].*got \(2, 1, 1, "):
        CausalLM().layout(batch)
