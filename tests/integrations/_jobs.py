"""Policies, scorers and readings that the tests of the integrations share."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from ggmi_callbacks import ColumnScorer, Scorer

BOTH = pytest.mark.parametrize("kind", ["sft", "trainer"])
PAIRS = pytest.mark.parametrize("kind", ["dpo", "reward"])
JUDGED = {"anchors": None, "scorer": ColumnScorer("judged")}
"""A score that the pairs bring: who judged them."""


def tokenised(dataset, tokenizer):
    def encode(row):
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}

    return dataset.map(encode, remove_columns=["prompt", "completion"])


def callback_class(kind):
    from ggmi_callbacks.integrations import transformers, trl

    return {"sft": trl, "trainer": transformers}[kind].GGMICallback


class EqualGains(Scorer):
    def gain(self, inputs, layout):
        return torch.full((layout.n,), 0.1)


def gradients_of_first_step(trainer) -> torch.Tensor:
    caught = []

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, *args, model, **kwargs):
            caught.append(torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.requires_grad]))

    trainer.add_callback(Catch())
    trainer.train()
    return caught[0]


def handwritten_gradients(trainer, model, pattern, accumulation: int) -> torch.Tensor:
    """sum_i w_i sum_t nll_it / N over the first ``accumulation`` micro-batches, N of all of them."""
    iterator = iter(trainer.get_train_dataloader())
    batches = [next(iterator) for _ in range(accumulation)]
    total = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
    loss = 0.0
    for batch in batches:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels = batch["labels"][:, 1:]
        nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="none", ignore_index=-100)
        w = torch.tensor(pattern)[torch.arange(len(nll)) % len(pattern)]
        loss = loss + (nll.sum(1) * w).sum() / total
    loss.backward()  # type: ignore[attr-defined]
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
