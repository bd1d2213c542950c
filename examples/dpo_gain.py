"""Pairs of a judge who errs, with ``DPOTrainer`` and ``GGMICallback``: offline, in minutes on a CPU.

A small model learns to solve word problems and then answers new ones eight times each. A judge prefers one of two
answers, and is mistaken in 30 % of the pairs. The model is optimised on these pairs: on all of them, on those that
``Filter()`` keeps, and on those that a checker knows to be the right way round. The filter asks whether a chosen answer
agrees with the others that were chosen for its prompt. Anchors would not help here: the model has learnt from solutions
like them, and the callback says so when it is given some. Every run takes as many steps.

Look at what is trained on. A model as small as this one is made no better by a few hundred pairs, right or not: those
that are all right even move it furthest.

    python examples/dpo_gain.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import datasets
import numpy as np
from datasets import Dataset
from small_model import copy_model, load_model, sample
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from word_problems import VOLUME_TWO, Problem, is_right, make_problems

from ggmi_callbacks import AgreementScorer, Filter
from ggmi_callbacks.integrations.trl import GGMICallback

ANSWERS, PAIRS, MISTAKEN = 8, 3, 0.3  # answers and pairs of a question, and the share of mistaken judgements
COMMON = {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "report_to": "none", "save_strategy": "no"}


@dataclass
class World:
    """A model that half knows the task, pairs of its answers, and what it is to be measured by."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pairs: Dataset
    heldout: list[Problem]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a hundredth of everything, to see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("out/dpo_gain"))
    return parser.parse_args(argv)


def make_world(args: argparse.Namespace) -> World:
    sizes = (64, 24, 8) if args.quick else (3000, 500, 250)
    learnt, asked, _ = sizes
    problems = iter(make_problems(sum(sizes), VOLUME_TWO[:3], args.seed))
    lessons, questions, heldout = ([next(problems) for _ in range(size)] for size in sizes)
    texts = [f"{p.question}\n{p.solution}" for p in lessons]
    model, tokenizer = load_model("llama-0.5m", None, texts, args.seed)
    print(f"the model learns {learnt} solutions and answers {asked} questions {ANSWERS} times", flush=True)
    rows = Dataset.from_list([{"prompt": p.question + "\n", "completion": p.solution} for p in lessons])
    settings = SFTConfig(
        output_dir=str(args.output / "sft"),
        per_device_train_batch_size=16,
        num_train_epochs=1 if args.quick else 2.5,
        learning_rate=4e-3,
        warmup_steps=20,
        logging_steps=0.5,
        seed=args.seed,
        **COMMON,
    )
    SFTTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer).train()
    answers = sample(model, tokenizer, [p.question + "\n" for p in questions * ANSWERS], temperature=0.7)
    pairs = [
        pair
        for i, problem in enumerate(questions)
        for pair in judged(problem, answers[i::asked], Random(args.seed * asked + i), args.quick)
    ]
    return World(copy_model(model), tokenizer, Dataset.from_list(pairs), heldout)


def judged(problem: Problem, answers: Sequence[str], draw: Random, quick: bool) -> list[dict[str, object]]:
    """Pairs of a right and a wrong answer, some of them the wrong way round; none where there are too few of either."""
    right = [text for text in answers if is_right(text, problem.answer)]
    wrong = [text for text in answers if not is_right(text, problem.answer)]
    if quick:  # a model that has learnt nothing
        right = [problem.solution] * PAIRS
    if min(len(right), len(wrong)) < PAIRS:
        return []
    found = []
    for good, bad in zip(right[:PAIRS], wrong[:PAIRS], strict=True):
        mistaken = draw.random() < MISTAKEN
        chosen, rejected = (bad, good) if mistaken else (good, bad)
        found.append({"prompt": problem.question + "\n", "chosen": chosen, "rejected": rejected, "mistaken": mistaken})
    return found


def optimise(world: World, args: argparse.Namespace, name: str, rows: Dataset) -> dict[str, object]:
    """Optimise a copy of the model on ``rows``, in the steps of one pass over all pairs."""
    print(f"\nDPO on {name}", flush=True)
    settings = DPOConfig(
        output_dir=str(args.output / "dpo"),
        per_device_train_batch_size=8 if args.quick else 16,
        max_steps=len(world.pairs) // 8,  # two passes
        learning_rate=4e-5,
        precompute_ref_log_probs=True,
        logging_steps=0.25,
        seed=args.seed,
        **COMMON,
    )
    trainer = DPOTrainer(copy_model(world.model), args=settings, train_dataset=rows, processing_class=world.tokenizer)
    kept = np.ones(len(rows), dtype=bool)
    start = time.perf_counter()
    if name == "Filter()":
        callback = GGMICallback(trainer, policy=Filter(), scorer=AgreementScorer())
        trainer.add_callback(callback)
    trainer.train()
    seconds = time.perf_counter() - start
    if name == "Filter()":
        ledger = callback.ledger.to_pandas().groupby("id").kept.any()
        kept[ledger.index] = ledger
    mistaken = np.array(rows["mistaken"])
    return {
        "trained on": name,
        "mistaken": f"{(kept & mistaken).sum() / kept.sum():.2f}",
        "kept of right": f"{kept[~mistaken].mean():.2f}",
        "kept of mistaken": f"{kept[mistaken].mean():.2f}" if mistaken.any() else "none",
        "accuracy": f"{accuracy(world, trainer.model):.3f}",
        "seconds": f"{seconds:.0f}",
    }


def accuracy(world: World, model: PreTrainedModel) -> float:
    """Share of held-out questions to which the model's likeliest answer is right."""
    answers = sample(model, world.tokenizer, [p.question + "\n" for p in world.heldout], temperature=0.0)
    return float(np.mean([is_right(a, p.answer) for a, p in zip(answers, world.heldout, strict=True)]))


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    datasets.disable_progress_bars()
    start = time.perf_counter()
    world = make_world(args)
    right = world.pairs.filter(lambda row: not row["mistaken"])
    print(f"{len(world.pairs)} pairs, {len(world.pairs) - len(right)} of them mistaken")
    runs = [{"trained on": "nothing", "accuracy": f"{accuracy(world, world.model):.3f}"}]
    for name, rows in {"all pairs": world.pairs, "Filter()": world.pairs, "the right pairs": right}.items():
        runs.append(optimise(world, args, name, rows))
    columns = list(runs[-1])
    table = ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns))]
    table += ["| " + " | ".join(str(run.get(name, "")) for name in columns) + " |" for run in runs]
    print("\n" + "\n".join(table) + f"\n\n{time.perf_counter() - start:.0f} seconds in all")


if __name__ == "__main__":
    main()
