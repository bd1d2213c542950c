"""What do groups without signal cost a ``GRPOTrainer``? The same run plain and with ``Filter()``, in minutes on a CPU.

A small language model that has read a little of a school book answers each question four times, and a checker rewards
what is right. A group whose answers are all wrong, or all right, teaches nothing: its advantages are zero. ``Filter()``
leaves such groups out of the update, so the model that comes out is the same, but for rounding, and the run shorter.

    python examples/grpo_gain.py --output out/grpo
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import torch
from datasets import Dataset
from self_training import Sizes, Start, accuracy, start
from trl import GRPOConfig, GRPOTrainer
from word_problems import is_right

from ggmi_callbacks import Filter, Monitor
from ggmi_callbacks.integrations.trl import GGMICallback

ANSWERS = 4
ASKED = 16  # questions in a step
RUNS = {"plain": Monitor, "Filter()": Filter}
SHOWN = ("groups_without_signal", "kept", "seconds_saved", "shared_information", "agreement")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, default=25)
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=Path("out/grpo"))
    add("--quick", action="store_true", help="a smaller model and two steps: does it run?")
    args = parser.parse_args(argv)
    args.steps = min(args.steps, 2) if args.quick else args.steps
    asked = args.steps * ASKED
    args.sizes = Sizes("llama-0.5m", 32, 32, asked, 16, 16) if args.quick else Sizes(asked=asked)
    args.rounds, args.batch_size, args.epochs, args.learning_rate, args.max_length = 1, 8, 1, 1e-4, 256
    return args


def reward(completions: list[str], answer: list[int], **kwargs: Any) -> list[float]:
    """One for an answer that the checker finds right."""
    return [float(is_right(text, number)) for text, number in zip(completions, answer, strict=True)]


def run(name: str, begin: Start, args: argparse.Namespace) -> dict[str, Any]:
    """One run from the start; its row of the table."""
    rows = [{"prompt": p.question + "\n", "answer": p.answer} for p in begin.rounds[0]]
    trainer = GRPOTrainer(
        begin.model(),
        reward_funcs=reward,
        args=GRPOConfig(
            str(args.output / "trainer"),
            per_device_train_batch_size=ASKED * ANSWERS,
            num_generations=ANSWERS,
            max_completion_length=96,
            max_steps=args.steps,
            learning_rate=args.learning_rate,
            seed=args.seed,
            logging_steps=max(1, args.steps // 5),
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=begin.tokenizer,
    )
    callback = GGMICallback(trainer, policy=RUNS[name]())
    trainer.add_callback(callback)
    clock = time.process_time()
    trainer.train()
    row = {"run": name, "seconds": time.process_time() - clock, "accuracy": accuracy(trainer.model, begin)}
    results = callback.results()
    return row | {key: results.get(f"ggmi/{key}") for key in SHOWN}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)  # seconds are those of one core
    begin = start(args)
    rows: list[dict[str, Any]] = [{"run": "start", "accuracy": accuracy(begin.model(), begin)}]
    rows += [run(name, begin, args) for name in RUNS]
    table = pd.DataFrame(rows).set_index("run")
    table.to_csv(args.output / "grpo.csv")
    print(f"\n{table.round(3).T.to_string(na_rep='-')}\n")


if __name__ == "__main__":
    main()
