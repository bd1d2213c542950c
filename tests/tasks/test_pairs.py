"""Batches of pairs: chosen rows first, and as many rejected ones behind them."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch.nn import functional as F

from ggmi_callbacks.tasks import PairedCausalLM, PairedReward, chosen_side

TOKENS = torch.tensor([[5, 6, 7, 0], [5, 8, 9, 9], [5, 1, 0, 0], [5, 2, 3, 0]])
BATCH = {
    "input_ids": TOKENS,
    "attention_mask": (TOKENS > 0).long(),
    "completion_mask": torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0]]),
    "ref_chosen_logps": torch.tensor([-1.0, -2.0]),
}


def test_a_pair_costs_what_its_chosen_answer_costs_more_than_the_rejected_one():
    logits = torch.randn(4, 4, 12, generator=torch.Generator().manual_seed(0))
    task = PairedCausalLM()
    found = task.layout(BATCH).total(task.output_log_probs(SimpleNamespace(logits=logits), BATCH))
    each = logits.log_softmax(-1)[:, :-1].gather(2, TOKENS[:, 1:, None])[..., 0]
    chosen, rejected = (each * BATCH["completion_mask"][:, 1:]).sum(1).chunk(2)
    assert torch.allclose(found, chosen - rejected)
    assert task.layout(BATCH).tokens.tolist() == [3, 3]
    assert torch.allclose(task.sides(task.output_log_probs(SimpleNamespace(logits=logits), BATCH), BATCH)[1], rejected)


def test_a_reward_model_codes_the_judgement():
    rewards = torch.tensor([[2.0], [0.0], [1.0], [1.5]])
    found = PairedReward().output_log_probs(SimpleNamespace(logits=rewards), BATCH)
    assert torch.allclose(found[:, 0], F.logsigmoid(torch.tensor([1.0, -1.5])))


def test_a_pair_leaves_with_both_rows_and_all_that_is_its_own():
    for task in (PairedCausalLM(), PairedReward()):
        left, kept = task.select(BATCH, task.layout(BATCH), torch.tensor([1.0, 0.0]))
        assert kept.tolist() == [0]
        assert left["input_ids"].tolist() == [[5, 6, 7], [5, 1, 0]]
        assert left["completion_mask"].tolist() == [[0, 1, 1], [0, 1, 0]]
        assert left["ref_chosen_logps"].tolist() == [-1.0]
        first, kept = task.select(BATCH, task.layout(BATCH), torch.zeros(2))
        assert not len(kept)
        assert len(first["input_ids"]) == 2


def test_a_pair_is_known_again_by_its_two_answers_in_their_order():
    for task in (PairedCausalLM(), PairedReward()):
        both = task.fingerprint(BATCH, task.layout(BATCH))
        alone, _ = task.select(BATCH, task.layout(BATCH), torch.tensor([1.0, 0.0]))
        turned = {key: value.roll(2, 0) for key, value in BATCH.items()}
        assert task.fingerprint(alone, task.layout(alone)).tolist() == both[:1].tolist()
        assert len({*both.tolist(), *task.fingerprint(turned, task.layout(turned)).tolist()}) == 4


def test_the_chosen_side_is_a_batch_of_demonstrations():
    demonstrations, task = chosen_side(BATCH), PairedCausalLM()
    assert demonstrations.keys() == {"input_ids", "attention_mask", "labels"}
    layout = task.layout(demonstrations)
    assert (layout.n, layout.tokens.tolist()) == (2, [2, 2])
    logits = torch.zeros(2, 4, 12)
    assert torch.allclose(
        layout.total(task.output_log_probs(SimpleNamespace(logits=logits), demonstrations)), -2 * torch.tensor(12).log()
    )
