"""The same job through either Hugging Face trainer, and through those of TRL that train on pairs."""

from __future__ import annotations

import pytest
import torch

from .._pairs import pairs
from ._jobs import callback_class, tokenised

SETTINGS = {
    "per_device_train_batch_size": 4,
    "num_train_epochs": 1,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 3,
}
"""Of every trainer, where a test says nothing else."""


@pytest.fixture
def make_trainer(tmp_path, tokenizer, make_model, synthetic, anchors):
    """Build a trainer ("sft" or "trainer", or a ``subclass``), with a callback if ``policy`` is given; returns both."""

    def make(
        kind: str,
        policy=None,
        *,
        model=None,
        train=None,
        callback=None,
        output=None,
        trainer_kwargs=None,
        subclass=lambda base: base,
        **args,
    ):
        trainer_kwargs = trainer_kwargs or {}
        if "model_init" not in trainer_kwargs:
            model = model or make_model()
        train = synthetic if train is None else train
        settings = {
            "output_dir": str(output or tmp_path / "out"),
            **SETTINGS,
            **args,
        }
        if kind == "sft":
            from trl import SFTConfig, SFTTrainer

            trainer = subclass(SFTTrainer)(
                model,
                args=SFTConfig(**{"bf16": False, "gradient_checkpointing": False, **settings}),
                train_dataset=train,
                processing_class=tokenizer,
                **trainer_kwargs,
            )
            human = anchors
        else:
            from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

            trainer = subclass(Trainer)(
                model,
                TrainingArguments(**settings),
                train_dataset=tokenised(train, tokenizer) if "prompt" in train.column_names else train,
                data_collator=DataCollatorForSeq2Seq(tokenizer),
                **trainer_kwargs,
            )
            human = tokenised(anchors, tokenizer)
        if policy is None:
            return trainer, None
        added = callback_class(kind)(trainer, **{"anchors": human, "policy": policy, **(callback or {})})
        trainer.add_callback(added)
        return trainer, added

    return make


@pytest.fixture
def make_job(tmp_path, tokenizer, make_model):
    """Build a trainer on pairs ("dpo" or "reward"), with a callback if ``policy`` is given; returns both."""

    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    from ggmi_callbacks.integrations.trl import GGMICallback

    def make(kind, policy=None, *, train=None, callback=None, trainer_kwargs=None, model=None, **args):
        settings = {
            "output_dir": str(tmp_path / "out"),
            **SETTINGS,
            "bf16": False,
            "gradient_checkpointing": False,
            **args,
        }
        data = Dataset.from_list(pairs(16) if train is None else train)
        given = {"train_dataset": data, "processing_class": tokenizer, **(trainer_kwargs or {})}
        if kind == "dpo":
            if "peft_config" not in given:
                given["ref_model"] = make_model(1)  # another one, so that the loss is not at log 2
            trainer = DPOTrainer(model or make_model(), args=DPOConfig(**settings), **given)
        else:
            trainer = RewardTrainer(model or reward_model(make_model), args=RewardConfig(**settings), **given)
        if policy is None:
            return trainer, None
        human = Dataset.from_list(pairs(12, seed=1, every=0))
        added = GGMICallback(trainer, **{"anchors": human, "policy": policy, **(callback or {})})
        trainer.add_callback(added)
        return trainer, added

    return make


def reward_model(make_model):
    from transformers import LlamaForSequenceClassification

    config = make_model().config
    config.num_labels = 1
    torch.manual_seed(0)
    return LlamaForSequenceClassification(config)
