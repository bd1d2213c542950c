"""Does a model that trains on its own answers collapse? Rounds of generate, score and fine-tune, over seeds.

A small language model has read a school book of two volumes, too little to be good at the second one. In each
round it answers new questions at four temperatures and is fine-tuned on these answers; the next round starts from the
model that came out. No person answers anything after the start. What it trains on is

    everything      all of its answers
    Filter()        those that agree with the other answers to their question and are a gain for 256 human solutions
    agreement       those that agree alone, whatever the anchors say: ``AgreementScorer()``
    verifier        those that a checker of the task finds right; an upper line, as other tasks have no checker

Every round of every arm asks the same questions of its seed and takes the same optimiser steps.

    python examples/self_training.py --output out/self_training           (an hour or two of one core; stop and resume)
    python examples/self_training.py --seeds 0 --rounds 2 --output out/look                      (five minutes)
    python examples/self_training.py --quick --output out/quick                                 (one minute)

A cell, a round of an arm of a seed, is kept as soon as it is there. The table, ``rounds.csv`` and ``rounds.png`` are of
the cells so far.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from read_data import texts_of
from sft_gain import answer, as_dataset, heldout_nll, pretrain, training_arguments
from small_model import load_model, sample
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import SFTTrainer
from word_problems import VOLUME_ONE, VOLUME_TWO, Problem, is_right, make_problems

from ggmi_callbacks import AgreementScorer, ColumnScorer, Filter, Monitor, Policy, Scorer
from ggmi_callbacks.functional import shared_information
from ggmi_callbacks.integrations.trl import GGMICallback

TEMPERATURES = (0.4, 0.7, 1.0, 1.2)
RESERVED = 0.05
"""Share of the answers that is never trained on: twins, by which GGMI and the generalisation gap are measured."""


class Arm(NamedTuple):
    """What is done to the answers."""

    policy: Callable[[], Policy]
    scorer: Callable[[], Scorer | None] = lambda: None
    """None for the engine's default."""


ARMS = {
    "everything": Arm(Monitor),
    "Filter()": Arm(Filter),
    "agreement": Arm(Filter, AgreementScorer),
    "verifier": Arm(Filter, lambda: ColumnScorer("right")),
}


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is."""

    model: str = "llama-1m"
    first: int = 1000
    """Problems of volume one that the model reads at the start."""
    second: int = 6000
    """Those of volume two."""
    asked: int = 300
    """New questions in a round; each is answered at all temperatures."""
    anchors: int = 256
    held: int = 300


QUICK = Sizes("llama-0.5m", first=64, second=64, asked=80, anchors=16, held=16)


@dataclass
class Start:
    """One seed: the model that all arms start from, and the problems of all rounds."""

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    anchors: list[Problem]
    held: list[Problem]
    rounds: list[list[Problem]]

    def model(self, folder: Path | None = None) -> PreTrainedModel:
        """The model of a folder; by default the one at the start."""
        return AutoModelForCausalLM.from_pretrained(folder or self.folder, dtype=torch.float32)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--rounds", type=int, default=5)
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    add("--learning-rate", type=float, default=3e-4)
    add("--output", type=Path, default=Path("out/self_training"))
    add("--quick", action="store_true", help="one seed and two rounds of a smaller model: does it run?")
    args = parser.parse_args(argv)
    args.sizes, args.batch_size, args.epochs, args.max_length = Sizes(), 8, 1, 256
    if args.quick:
        args.sizes, args.seeds, args.rounds = QUICK, args.seeds[:1], min(args.rounds, 2)
    return args


def start(args: argparse.Namespace) -> Start:
    """Write the problems of ``args.seed``, and let a model read some, unless that is done."""
    sizes, folder = args.sizes, args.output / "start" / str(args.seed)
    first = make_problems(sizes.first, VOLUME_ONE, args.seed)
    total = sizes.second + sizes.anchors + sizes.held + args.rounds * sizes.asked
    rest = iter(make_problems(total, VOLUME_TWO, args.seed + 1))  # a longer run asks more, and asks the same before
    second, anchors, held = ([next(rest) for _ in range(n)] for n in (sizes.second, sizes.anchors, sizes.held))
    if not (folder / "done").exists():
        texts = texts_of(as_dataset([*first, *second]))
        model, tokenizer = load_model(sizes.model, None, texts, args.seed)
        pretrain(model, tokenizer, Dataset.from_dict({"text": texts}), args, f"seed {args.seed}: the model reads")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "done").touch()
    _, tokenizer = load_model(str(folder), None, (), 0)
    return Start(
        folder, tokenizer, anchors, held, [[next(rest) for _ in range(sizes.asked)] for _ in range(args.rounds)]
    )


def run_arm(begin: Start, name: str, args: argparse.Namespace) -> None:
    """Make the rounds of an arm that are not there."""
    cells = [args.output / "cells" / f"{args.seed}--{name}--{number}.json" for number in range(args.rounds + 1)]
    models = [begin.folder, *(args.output / "models" / path.stem for path in cells[1:])]
    done = sum(path.exists() for path in cells)
    if done > args.rounds:
        return
    model = begin.model(models[max(0, done - 1)])
    for number in range(done, args.rounds + 1):
        clock, found = time.process_time(), {}
        if number > 0:
            set_seed(1000 * args.seed + number)
            model, found = run_round(model, begin, number, ARMS[name], args)
            model.save_pretrained(models[number])
        cell = {"seed": args.seed, "arm": name, "round": number, "accuracy": accuracy(model, begin), **found}
        cell["seconds"] = time.process_time() - clock
        cells[number].write_text(json.dumps(cell, indent=1))
        if number > 1:
            shutil.rmtree(models[number - 1])
        print({key: value for key, value in cell.items() if key != "results"}, flush=True)


def run_round(
    model: PreTrainedModel, begin: Start, number: int, arm: Arm, args: argparse.Namespace
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model answers, and trains on its answers."""
    questions = begin.rounds[number - 1]
    rows = [row for t in TEMPERATURES for row in answer(model, begin.tokenizer, questions, t)]
    steps = math.ceil(len(rows) / args.batch_size / 2)  # half a pass: a filter that keeps little passes over it often
    trainer = SFTTrainer(
        model,
        args=training_arguments(args, max_steps=steps, disable_tqdm=True),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=as_dataset(begin.held),
        processing_class=begin.tokenizer,
    )
    callback = GGMICallback(
        trainer,
        anchors=as_dataset(begin.anchors),
        policy=arm.policy(),
        scorer=arm.scorer(),
        source="source",
        shadow_learning_rate=1e-3,  # what the model has read is much like the anchors: they teach it little
        heldout=RESERVED,
    )
    trainer.add_callback(callback)
    trainer.train()
    nll, tokens = heldout_nll(trainer)
    table = callback.ledger.table.to_pandas().drop_duplicates("id")
    right = np.array([row["right"] for row in rows])
    kept = table.id[table.kept].to_numpy()
    shared = shared_information([row["completion"] for row in rows], [row["prompt"] for row in rows])  # of all answers
    results = {key: value for key, value in callback.results().items() if isinstance(value, (int, float, str))}
    return trainer.model, {
        "nats": float(nll.sum() / tokens.sum()),
        "right": float(right.mean()),
        "kept": float(table.kept.mean()),
        "right of kept": float(right[kept].mean()) if len(kept) else None,
        "shared_information": float(shared.information.value),
        "generalization_gap": results.get("ggmi/generalization_gap"),
        "ggmi": results.get("ggmi/ggmi"),
        "results": results,
    }


def accuracy(model: PreTrainedModel, begin: Start) -> float:
    """Share of held-out problems to which the model's likeliest answer is right."""
    answers = sample(model, begin.tokenizer, [p.question + "\n" for p in begin.held], temperature=0.0)
    return float(np.mean([is_right(a, p.answer) for a, p in zip(answers, begin.held, strict=True)]))


COLUMNS = {
    "accuracy": "accuracy by the checker",
    "nats": "nats per token of human solutions",
    "right": "share right of its answers",
    "kept": "share kept",
    "shared_information": "shared information, nats per answer",
    "ggmi": "GGMI, nats",
}


def tabulate(folder: Path) -> pd.DataFrame:
    """All cells so far; writes them, and the picture."""
    cells = pd.DataFrame([json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))])
    told = ["seed", "arm", "round", *COLUMNS, "right of kept", "generalization_gap", "seconds"]
    cells = cells.reindex(columns=told).sort_values(["arm", "seed", "round"])
    cells.to_csv(folder / "rounds.csv", index=False)
    picture, axes = plt.subplots(2, 3, figsize=(12, 6), sharex=True, layout="constrained")
    for axis, (column, what) in zip(axes.flat, COLUMNS.items(), strict=True):
        for name in ARMS:
            values = cells[cells.arm == name].pivot(index="round", columns="seed", values=column)
            line = axis.plot(values.mean(axis=1), marker="o", label=name)[0]
            axis.plot(values, color=line.get_color(), alpha=0.25, linewidth=0.8)
        axis.set_title(what, fontsize=10)
        axis.set_xlabel("round")
    axes[0, 0].legend()
    picture.savefig(folder / "rounds.png", dpi=120)
    plt.close(picture)
    return cells


def describe(cells: pd.DataFrame) -> str:
    """Means over seeds and their standard deviations, an arm and round a row."""
    groups = cells.groupby(["arm", "round"])
    table = groups[[*COLUMNS, "generalization_gap", "seconds"]].mean()
    table.insert(0, "seeds", groups.seed.nunique())
    table.insert(2, "sd", groups.accuracy.std())
    return table.round(3).to_string(na_rep="-")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)  # seconds are those of one core
    (args.output / "cells").mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        args.seed = seed
        begin = start(args)
        for name in args.arms:
            try:
                run_arm(begin, name, args)
            except ValueError as refusal:  # nothing is right, or the anchors teach the model nothing
                print(f"seed {seed}, {name}: the arm ends here. {refusal}", flush=True)
        print(f"\n{describe(tabulate(args.output))}\n", flush=True)


if __name__ == "__main__":
    main()
