"""Runs the study: every method in every world, over seeds, each cell kept once it is there.

    python examples/study/run.py --worlds embedded --output out/study                  (offline; hours on one core)
    python examples/study/run.py --worlds problems solutions programs --data DATA --base SMOLLM2 --output out/study
    python examples/study/run.py --worlds targeted --data DATA --base BASE --output out/study
    python examples/study/run.py --quick --output out/quick                                       (20 minutes)
    python examples/study/tables.py out/study

A cell is one fine-tuning of a copy of the student. In the regime ``steps`` all methods take the steps of one pass over
all data (in worlds for a pre-trained student, of as many steps as the world says), in ``epochs`` those of three. In
``seconds`` each takes as many as fit into the processor time that plain training needed for one pass, by what its own
run of ``steps`` cost a step, and in ``epochs-seconds`` the same for three. Stop it when you like and call it again.
``smollm2.py`` writes the folder SMOLLM2.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the examples that this one builds on

import datasets
import numpy as np
import pandas as pd
import reading
import torch
import worlds
from methods import METHODS, Method
from sft_gain import heldout_nll, judge
from sklearn.metrics import roc_auc_score
from small_model import copy_model
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer
from worlds import World

from ggmi_callbacks.integrations.trl import GGMICallback
from ggmi_callbacks.model import blocks

BATCH, LONGEST = 8, 256
REGIMES = {"steps": 1, "epochs": 3, "seconds": 1, "epochs-seconds": 3}
"""Passes over the data, or those whose seconds are shared out."""
PEAK = Path("/proc/self/clear_refs")
"""Told "5", Linux counts the peak of a process's memory anew; other systems have no peak of a cell."""
QUICK = ("everything", "random half", "the right ones", "default")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--worlds", nargs="+", default=["embedded"], help="as worlds.py lists them")
    add("--methods", nargs="+", default=list(METHODS), metavar="METHOD", help="; ".join(METHODS))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--regime", choices=REGIMES, default="steps")
    add("--data", type=Path, help="folder of the real data sets; for GSM8K's worlds")
    add("--base", type=Path, help="folder of the model that is fine-tuned; not for embedded and injected worlds")
    add("--output", type=Path, default=Path("out/study"))
    add("--quick", action="store_true", help="two seeds of the embedded world and four methods")
    args = parser.parse_args()
    if unknown := [name for name in args.methods if name not in METHODS]:
        parser.error(f"--methods: there is no {unknown[0]!r}; there are {', '.join(METHODS)}.")
    if args.quick:
        args.worlds, args.methods, args.seeds = ["embedded"], list(QUICK), [0, 1]
    return args


def suffix(regime: str) -> str:
    """End of the name of a cell."""
    return "" if regime == "steps" else f"--{regime}"


def steps_of(world: World, regime: str, folder: Path, cell: str) -> int:
    """Optimiser steps of a cell."""
    steps = REGIMES[regime] * (world.steps or math.ceil(len(world.synthetic) / BATCH))
    if not regime.endswith("seconds"):
        return steps
    equal_steps = "steps" if REGIMES[regime] == 1 else "epochs"
    names = (cell, cell.rpartition("--")[0] + "--everything")
    path, plain = (folder / "cells" / f"{name}{suffix(equal_steps)}.json" for name in names)
    if not (path.exists() and plain.exists()):
        raise SystemExit(f"--regime {regime}: make {path.name} and {plain.name} first, with --regime {equal_steps}.")
    mine, base = (json.loads(p.read_text())["seconds"] for p in (path, plain))
    return max(1, round(steps * base / mine))


def student_of(world: World) -> PreTrainedModel:
    """A copy of the student, of which the world's layers are trained."""
    model = copy_model(world.model)
    if (layers := world.training.layers) is not None:
        model.requires_grad_(False)
        for block in blocks(model)[-layers:]:
            block.requires_grad_(True)
    return model


def train(world: World, method: Method, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """One cell: train a copy of the student, and measure it."""
    rows = np.arange(len(world.synthetic)) if method.rows is None else method.rows(world, seed)
    how = world.training
    arguments = SFTConfig(
        str(folder / "trainer"),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=4 * BATCH,
        max_steps=steps,
        learning_rate=how.rate,
        warmup_steps=how.warmup,
        max_length=LONGEST,
        seed=seed,
        bf16=how.bf16,
        use_cpu=True,
        activation_checkpointing=how.layers is None,  # what is frozen keeps nothing for its gradient
        logging_steps=max(1, steps // 5),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = SFTTrainer(
        student_of(world),
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
            shadow_learning_rate=0.3 * how.rate,
            shadow_epochs=how.shadow_epochs,
        )
        trainer.add_callback(callback)
    if PEAK.exists():
        PEAK.write_text("5")
    before, clock = time.process_time(), time.perf_counter()
    trainer.train()
    cell = {"steps": steps, "seconds": time.process_time() - before, "wall": time.perf_counter() - clock}
    if PEAK.exists():
        cell["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cell |= measure(world, trainer)
    return cell if callback is None else cell | decisions(world, callback)


def measure(world: World, trainer: SFTTrainer) -> dict[str, Any]:
    """Held-out nats per token, those of other tasks, results guessed, and right answers where somebody can tell."""
    model, bf16 = trainer.model, world.training.bf16
    found: dict[str, Any] = {}
    if world.spans is not None:
        seen = reading.read(model, world.tokenizer, world.heldout.to_list(), bf16=bf16)
        guessed = reading.guessed(seen, world.heldout["completion"], world.spans)
        found |= {"nats": reading.nats(seen), "guessed": guessed.value}
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        if world.spans is None:
            found["nats"] = nats(trainer)
        found["accuracy"] = judge(world, trainer)
        if world.elsewhere is not None:
            other = {"train_dataset": world.elsewhere, "eval_dataset": world.elsewhere}
            found["nats elsewhere"] = nats(
                SFTTrainer(model, args=trainer.args, processing_class=world.tokenizer, **other)
            )
    return found


def nats(trainer: SFTTrainer) -> float:
    """Mean code length of a token of the evaluation set."""
    nll, tokens = heldout_nll(trainer)
    return float(nll.sum() / tokens.sum())


def decisions(world: World, callback: GGMICallback) -> dict[str, Any]:
    """What the policy did to right and to wrong samples, as first decided."""
    table = callback.ledger.table.to_pandas().drop_duplicates("id")
    table["right"] = np.array(world.synthetic["right"], dtype=bool)[table.id]
    known = table[table.gain.notna()]
    shares = table.groupby("right").kept.mean()
    found = {"auroc": auroc(known)}
    if "kind" in world.synthetic.column_names:
        known = known.assign(kind=np.array(world.synthetic["kind"])[known.id])
        kinds = sorted(set(known.kind) - {"good"})
        found["auroc by kind"] = {kind: auroc(known[known.kind.isin(("good", kind))]) for kind in kinds}
    return found | {
        "kept": float(table.kept.mean()),
        "kept of right": float(shares.get(True, np.nan)),
        "kept of wrong": float(shares.get(False, np.nan)),
        "right of kept": float(table[table.kept].right.mean()),
        "results": {k: v for k, v in callback.results().items() if isinstance(v, (int, float, str))},
    }


def auroc(table: pd.DataFrame) -> float | None:
    """How often a right sample has the higher gain, if there are right and wrong ones."""
    return float(roc_auc_score(table.right, table.gain)) if table.right.nunique() == 2 else None


def fill(args: argparse.Namespace, name: str, seed: int) -> None:
    """Make the cells of one seed of a world that are not there."""
    cells, end = args.output / "cells", f"{suffix(args.regime)}.json"
    paths = {method: cells / f"{name}--{seed}--{method}{end}" for method in args.methods}
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
