"""`transformers.Trainer`, and the loggers that it reports to: losses and gains by source, of training and evaluation.

    python examples/trainer_gain.py                                   # TensorBoard, under out/trainer/logs
    python examples/trainer_gain.py --report-to wandb mlflow trackio  # those that are installed; W&B offline
    python examples/trainer_gain.py --losses-only                     # no anchors: losses by source, at no cost

A small Llama made from a config learns from answers to word problems; a "generator" shuffles the words of every third
one. The console shows two numbers of GGMI's, the logger all of them, and at the end a table by source. It takes about a
minute on one core.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path
from typing import Any

from datasets import Dataset
from small_model import load_model
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase, Trainer, TrainingArguments
from word_problems import VOLUME_TWO, Problem, make_problems

from ggmi_callbacks import Filter
from ggmi_callbacks.integrations.transformers import GGMICallback


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report-to", nargs="+", default=["tensorboard"], metavar="LOGGER")
    parser.add_argument("--losses-only", action="store_true", help="no anchors, no gain: losses by source alone")
    parser.add_argument("--samples", type=int, default=384, help="made answers to train on")
    parser.add_argument("--output", type=Path, default=Path("out/trainer"))
    return parser.parse_args()


def rows(problems: list[Problem], tokenizer: PreTrainedTokenizerBase, spoilt: bool) -> Dataset:
    """Tokenised answers; every third one with its words shuffled, if they are ``spoilt``."""
    draw, made = random.Random(0), []
    for i, problem in enumerate(problems):
        words, bad = problem.solution.split(" "), spoilt and i % 3 == 0
        answer = " ".join(draw.sample(words, len(words)) if bad else words)
        prompt = tokenizer(problem.question + "\n")["input_ids"]
        ids = [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
        source = "shuffled" if bad else "whole"
        made.append({"input_ids": prompt + ids, "labels": [-100] * len(prompt) + ids, "source": source})
    return Dataset.from_list(made)


def main() -> None:
    args = parse()
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(args.output / "logs"))
    problems = make_problems(args.samples + 128, VOLUME_TWO, seed=0)
    model, tokenizer = load_model("llama-0.5m", None, (f"{p.question}\n{p.solution}" for p in problems), seed=0)
    human, heldout, train = problems[:64], problems[64:128], problems[128:]
    trainer = Trainer(
        model,
        TrainingArguments(
            str(args.output),
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            num_train_epochs=1,
            logging_steps=10,
            eval_strategy="steps",
            eval_steps=20,
            save_strategy="no",
            report_to=args.report_to,
            use_cpu=True,
        ),
        train_dataset=rows(train, tokenizer, spoilt=True),
        eval_dataset=rows(heldout, tokenizer, spoilt=True),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    measured: dict[str, Any] = {"anchors": rows(human, tokenizer, spoilt=False), "policy": Filter(keep=0.5)}
    callback = GGMICallback(trainer, source="source", **({} if args.losses_only else measured))
    trainer.add_callback(callback)
    trainer.train()
    for name, value in callback.results().items():
        if name.startswith(("ggmi/nll/", "ggmi/gain/", "ggmi/kept/")):
            print(f"{name:20} {value:.3f}")
    print(f"The logs of {', '.join(args.report_to)} have all of it; TensorBoard's are in {args.output / 'logs'}.")


if __name__ == "__main__":
    main()
