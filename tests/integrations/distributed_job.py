"""One training job, run by one process or by several; writes what came of it to a file."""

from __future__ import annotations

import sys

import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from ggmi_callbacks import Filter, Reweight
from ggmi_callbacks.integrations import transformers as hf
from ggmi_callbacks.integrations import trl

if __name__ == "__main__":
    folder, kind, policy_name, batch, output = sys.argv[1:]
    policy = {
        "filter": Filter(keep=0.5, refill=False),
        "within": Filter(keep=0.5, refill=False, within="source"),
        "reweight": Reweight(),
        "by-source": Reweight(by="source"),
    }[policy_name]
    data, human = (Dataset.load_from_disk(f"{folder}/{name}") for name in ("data", "anchors"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    settings = {
        "output_dir": f"{output}.d",
        "per_device_train_batch_size": int(batch),
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
        "max_grad_norm": 0.0,
        "optim": "sgd",  # Adam turns rounding of tiny gradients into steps of full size
    }
    if kind == "sft":
        args = SFTConfig(bf16=False, gradient_checkpointing=False, **settings)
        trainer = SFTTrainer(model, args=args, train_dataset=data, processing_class=tokenizer)
        module = trl
    else:
        arguments, collator = TrainingArguments(**settings), DataCollatorForSeq2Seq(tokenizer)
        trainer = Trainer(model, arguments, train_dataset=data, data_collator=collator)
        module = hf
    callback = module.GGMICallback(trainer, anchors=human, policy=policy, source="source")
    trainer.add_callback(callback)
    trainer.train()
    if trainer.is_world_process_zero():
        rows = callback.ledger.table.to_pylist()
        parameters = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        logs = [
            {k: v for k, v in e.items() if k.startswith(("ggmi/gain", "ggmi/kept", "ggmi/cov"))}
            for e in trainer.state.log_history
        ]
        torch.save({"rows": rows, "parameters": parameters, "logs": logs}, output)
    if torch.distributed.is_initialized():  # a rank that leaves while gloo's threads still run may be aborted
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
