"""One training job without anchors, run by one process or by several; writes its losses by source to a file."""

from __future__ import annotations

import json
import sys

import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from ggmi_callbacks.integrations.trl import GGMICallback

if __name__ == "__main__":
    folder, batch, output = sys.argv[1:]
    data, held = (Dataset.load_from_disk(f"{folder}/{name}") for name in ("data", "held"))
    args = SFTConfig(
        output_dir=f"{output}.d",
        per_device_train_batch_size=int(batch),
        per_device_eval_batch_size=int(batch),
        num_train_epochs=2,
        learning_rate=1e-2,
        logging_steps=2,
        eval_strategy="epoch",
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        bf16=False,
        gradient_checkpointing=False,
        max_grad_norm=0.0,
        optim="sgd",  # Adam turns rounding of tiny gradients into steps of full size
    )
    trainer = SFTTrainer(
        LlamaForCausalLM.from_pretrained(folder),
        args=args,
        train_dataset=data,
        eval_dataset=held,
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
    )
    trainer.add_callback(GGMICallback(trainer, source="source"))
    trainer.train()
    if trainer.is_world_process_zero():
        entries = [{k: v for k, v in e.items() if "ggmi/" in k} for e in trainer.state.log_history]
        with open(output, "w") as file:
            json.dump(entries, file)
    if torch.distributed.is_initialized():  # a rank that leaves while gloo's threads still run may be aborted
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
