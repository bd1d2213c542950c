"""Runs the study: every method in every world, over seeds, each cell kept once it is there.

    python examples/study/run.py --worlds embedded --output out/study                  (offline; hours on one core)
    python examples/study/run.py --worlds targeted --data DATA --base BASE --output out/study
    python examples/study/run.py --quick --output out/quick                                       (20 minutes)
    python examples/study/tables.py out/study

A cell is one fine-tuning of a copy of the student. In the regime ``steps`` all methods take the steps of one pass over
all data, in ``epochs`` those of three; in ``seconds`` each takes as many as fit into the processor time that plain
training needed, by what its own run of ``steps`` cost a step. Stop it when you like and call it again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the examples that this one builds on

import datasets
import numpy as np
import torch
import worlds
from methods import METHODS, Method
from sft_gain import heldout_nll, judge
from sklearn.metrics import roc_auc_score
from small_model import copy_model
from trl import SFTConfig, SFTTrainer
from worlds import World

from ggmi_callbacks.integrations.trl import GGMICallback

BATCH, RATE, LONGEST = 8, 1e-3, 256
REGIMES = ("steps", "epochs", "seconds")
QUICK = ("everything", "random half", "the right ones", "default")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--worlds", nargs="+", default=["embedded"], help="embedded, embedded-<percent wrong>, targeted")
    add("--methods", nargs="+", default=list(METHODS), metavar="METHOD", help="; ".join(METHODS))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--regime", choices=REGIMES, default="steps")
    add("--data", type=Path, help="folder of the real data sets; for targeted")
    add("--base", type=Path, help="folder of the model that is fine-tuned on them")
    add("--output", type=Path, default=Path("out/study"))
    add("--quick", action="store_true", help="two seeds of the embedded world and four methods")
    args = parser.parse_args()
    if unknown := [name for name in args.methods if name not in METHODS]:
        parser.error(f"--methods: there is no {unknown[0]!r}; there are {', '.join(METHODS)}.")
    if args.quick:
        args.worlds, args.methods, args.seeds = ["embedded"], list(QUICK), [0, 1]
    return args


def steps_of(world: World, regime: str, folder: Path, cell: str) -> int:
    """Optimiser steps of a cell."""
    one_pass = math.ceil(len(world.synthetic) / BATCH)
    if regime != "seconds":
        return one_pass * (3 if regime == "epochs" else 1)
    path, plain = (folder / "cells" / f"{name}.json" for name in (cell, cell.rpartition("--")[0] + "--everything"))
    if not (path.exists() and plain.exists()):
        raise SystemExit(f"--regime seconds: make {path.name} and {plain.name} first, with --regime steps.")
    mine, base = (json.loads(p.read_text())["seconds"] for p in (path, plain))
    return max(1, round(one_pass * base / mine))


def train(world: World, method: Method, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """One cell: train a copy of the student, and measure it."""
    rows = np.arange(len(world.synthetic)) if method.rows is None else method.rows(world, seed)
    arguments = SFTConfig(
        str(folder / "trainer"),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=4 * BATCH,
        max_steps=steps,
        learning_rate=RATE,
        max_length=LONGEST,
        seed=seed,
        bf16=False,
        logging_steps=max(1, steps // 5),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = SFTTrainer(
        copy_model(world.model),
        args=arguments,
        train_dataset=world.synthetic.select(rows),
        eval_dataset=world.heldout,
        processing_class=world.tokenizer,
    )
    callback = None
    if method.policy is not None:
        callback = GGMICallback(
            trainer,
            anchors=world.anchors,
            policy=method.policy(),
            scorer=None if method.scorer is None else method.scorer(),
            source="source",
            shadow_learning_rate=0.3 * RATE,
            shadow_epochs=5,
        )
        trainer.add_callback(callback)
    before, clock = time.process_time(), time.perf_counter()
    trainer.train()
    cell = {"steps": steps, "seconds": time.process_time() - before, "wall": time.perf_counter() - clock}
    cell |= measure(world, trainer)
    return cell if callback is None else cell | decisions(world, callback)


def measure(world: World, trainer: SFTTrainer) -> dict[str, Any]:
    """Held-out nats per token, those of other tasks, and right answers where somebody can tell."""
    nll, tokens = heldout_nll(trainer)
    found = {"nats": float(nll.sum() / tokens.sum())}
    found["accuracy"] = judge(world, trainer)
    if world.elsewhere is not None:
        other = SFTTrainer(
            trainer.model,
            args=trainer.args,
            train_dataset=world.elsewhere,
            eval_dataset=world.elsewhere,
            processing_class=world.tokenizer,
        )
        nll, tokens = heldout_nll(other)
        found["nats elsewhere"] = float(nll.sum() / tokens.sum())
    return found


def decisions(world: World, callback: GGMICallback) -> dict[str, Any]:
    """What the policy did to right and to wrong samples, as first decided."""
    table = callback.ledger.table.to_pandas().drop_duplicates("id")
    table["right"] = np.array(world.synthetic["right"], dtype=bool)[table.id]
    known = table[table.gain.notna()]
    both = known.right.nunique() == 2
    shares = table.groupby("right").kept.mean()
    return {
        "auroc": float(roc_auc_score(known.right, known.gain)) if both else None,
        "kept": float(table.kept.mean()),
        "kept of right": float(shares.get(True, np.nan)),
        "kept of wrong": float(shares.get(False, np.nan)),
        "right of kept": float(table[table.kept].right.mean()),
        "results": {k: v for k, v in callback.results().items() if isinstance(v, (int, float, str))},
    }


def fill(args: argparse.Namespace, name: str, seed: int) -> None:
    """Make the cells of one seed of a world that are not there."""
    suffix = "" if args.regime == "steps" else f"--{args.regime}"
    paths = {method: args.output / "cells" / f"{name}--{seed}--{method}{suffix}.json" for method in args.methods}
    if missing := [method for method, path in paths.items() if not path.exists()]:
        world = worlds.load(name, seed, args.output / "worlds", args.data, args.base)
    for method in missing:
        steps = steps_of(world, args.regime, args.output, f"{name}--{seed}--{method}")
        print(f"{paths[method].stem}: {steps} steps", flush=True)
        cell = {"world": name, "seed": seed, "method": method, "regime": args.regime}
        cell |= train(world, METHODS[method], seed, steps, args.output)
        paths[method].write_text(json.dumps(cell, indent=1))
        print({k: v for k, v in cell.items() if k != "results"}, flush=True)


def main() -> None:
    args = parse()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)  # seconds are those of one core
    (args.output / "cells").mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in args.worlds:
            fill(args, name, seed)


if __name__ == "__main__":
    main()
