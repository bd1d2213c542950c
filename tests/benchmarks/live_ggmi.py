"""Do the live numbers agree with gaps that are measured offline?

    OMP_NUM_THREADS=1 python tests/benchmarks/live_ggmi.py
    OMP_NUM_THREADS=1 python tests/benchmarks/live_ggmi.py --data DATA --model MODEL

The first line takes the embedded task (examples/word_problems.py): the anchors are solutions as people write them, the
generator writes the same with a wrong figure in every third. The second adds GSM8K: human solutions, and those of
four solvers; DATA holds gsm8k_train.jsonl.gz and gsm8k_model_solutions.jsonl.gz, MODEL is a folder with a small model.

Each task is run with `pass`, one pass without held-out samples, and with `epochs`, four passes over fewer samples with
a few held out. Offline, the training set is compared with fresh samples of the same generator under the last weights,
and each half of the anchors with fresh anchors under the weights that it made. `inside` says whether the offline
number lies in the live 95 % interval; fresh sets have an error of their own, which is not counted. `sign` compares the
live GGMI with the difference of the offline gaps, and is open where its interval contains zero. `mixture` is GGMI per
sample in that form, and `gained` by how much the loss of fresh anchors falls in the run, nats per token.
`ggmi_claim.py` beside this file reads the CSV.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from small_model import train_tokenizer
from word_problems import VOLUME_ONE, VOLUME_TWO, make_problems

from ggmi_callbacks import CausalLM, attach
from ggmi_callbacks.data import CarryIds, Numbered
from ggmi_callbacks.engine import GainEngine
from ggmi_callbacks.functional import loss_difference_information
from ggmi_callbacks.functional._twins import calibrated, difference_of_means
from ggmi_callbacks.model.shadow_run import passes

TASK = CausalLM()
BATCH = 16
ANCHORS, FRESH = 128, 256
RUNS = {"pass": (512, 1, 0), "epochs": (192, 4, 64)}  # samples, passes, samples held out


@dataclass
class Study:
    """A model at its start, and rows of two laws, each more than are trained on."""

    make: Callable[[], Any]
    collate: Any
    anchors: list[dict[str, list[int]]]
    synthetic: list[dict[str, list[int]]]


def encode(tokenizer: Any, prompt: str, answer: str, length: int) -> dict[str, list[int]]:
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
    second = [*second, tokenizer.eos_token_id]
    ids, labels = first + second, [-100] * len(first) + second
    return {"input_ids": ids[:length], "labels": labels[:length], "attention_mask": [1] * len(ids[:length])}


def embedded(seed: int) -> Study:
    """Word problems; the generator gets a figure wrong in every third solution."""
    draw = Random(seed)
    first, second = make_problems(400, VOLUME_ONE, seed), make_problems(1400, VOLUME_TWO, seed + 1)
    texts = [p.question + "\n" + p.solution for p in (*first, *second)]
    tokenizer = train_tokenizer(texts, 512)
    torch.manual_seed(seed)
    size = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **size))
    collate = DataCollatorForSeq2Seq(tokenizer)
    reading = [encode(tokenizer, "", text, 160) for text in texts[:400]]
    train(model, DataLoader(reading, BATCH, shuffle=True, collate_fn=collate), 2, 2e-3)
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def make() -> Any:
        model.load_state_dict(start)
        return model

    def wrong(text: str) -> str:
        return re.sub(
            r"=(\d+)>>\d+", lambda m: (n := str(int(m[1]) + draw.randint(1, 9))) and f"={n}>>{n}", text, count=1
        )

    cut = ANCHORS + FRESH
    anchors = [encode(tokenizer, p.question + "\n", p.solution, 160) for p in second[:cut]]
    made = [(p.question + "\n", wrong(p.solution) if draw.random() < 1 / 3 else p.solution) for p in second[cut:]]
    return Study(make, collate, anchors, [encode(tokenizer, *pair, 160) for pair in made])


def gsm8k(seed: int, data: Path, folder: str) -> Study:
    """Human solutions, and those of four solvers, in an order drawn by ``seed``."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def read(name: str, answer: str, n: int) -> list[dict[str, list[int]]]:
        with gzip.open(data / name, "rt") as file:
            rows = [json.loads(line) for line in file]
        found = (encode(tokenizer, r["question"] + "\n", r[answer], 320) for r in Random(seed).sample(rows, 2 * n))
        return [row for row in found if any(label != -100 for label in row["labels"])][:n]

    return Study(
        lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        DataCollatorForSeq2Seq(tokenizer),
        read("gsm8k_train.jsonl.gz", "answer", ANCHORS + FRESH),
        read("gsm8k_model_solutions.jsonl.gz", "solution", 1000),
    )


def train(model: Any, loader: DataLoader, epochs: int, rate: float, engine: GainEngine | None = None) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / 10) * (1 - step / steps))
    model.train()
    for _ in range(epochs):
        for step, batch in enumerate(loader, 1):
            model(**batch).loss.backward()
            optimiser.step(), optimiser.zero_grad(), schedule.step()
            if engine is not None:
                engine.end_step()
                if step % 3 == 0:
                    engine.log()


def losses(engine: GainEngine, rows: Sequence[Any], collate: Any, weights: Any = None) -> Tensor:
    """Nats per token of each of ``rows``, [n]."""
    found = []
    for batch in DataLoader(rows, 2 * BATCH, collate_fn=collate):
        layout = TASK.layout(batch)
        found.append(engine.probe.nll(batch, layout, weights).double() / layout.tokens)
    return torch.cat(found)


def offline(engine: GainEngine, study: Study, trained: Sequence[Any], starts: dict[str, Tensor]) -> dict[str, float]:
    """The gaps and the information per pair, of the training set and of the anchors, against fresh samples."""
    collate, shadow = study.collate, engine.shadow
    assert shadow is not None
    fresh, reference = study.synthetic[-FRESH:], shadow.weights(engine.probe)
    sets = [trained[:FRESH], fresh]
    inside, outside = calibrated(
        *(losses(engine, rows, collate) for rows in sets), *(losses(engine, rows, collate, reference) for rows in sets)
    )
    gap = difference_of_means(outside, inside, 0.95)
    n = min(len(inside), len(outside))
    synthetic = loss_difference_information(inside[:n], outside[:n])
    order = torch.randperm(len(engine.anchors), generator=torch.Generator().manual_seed(engine.seed)).tolist()
    strangers = study.anchors[ANCHORS:]
    live = {name: p.detach().clone() for name, p in engine.probe.trainable.items()}
    gaps, pairs = [], []
    for side in (0, 1):
        half = [engine.anchors[i] for i in order[side::2]]
        engine.probe.model.load_state_dict(starts)
        *_, made = passes(engine.probe, list(live), half, shadow.learning_rate, max(1, shadow.best), [])
        rows = [study.anchors[i * BATCH + j] for i in order[side::2] for j in range(BATCH)]
        known, unknown = calibrated(
            *(losses(engine, x, collate, made) for x in (rows, strangers)),
            *(losses(engine, x, collate) for x in (rows, strangers)),
        )
        gaps.append(unknown.mean() - known.mean())
        pairs.append((known, unknown[: len(known)]))
    engine.probe.model.load_state_dict({**starts, **live}, strict=False)
    anchors = loss_difference_information(*(torch.cat(x) for x in zip(*pairs, strict=True)))
    return {
        "gap": float(gap.value),
        "anchor gap": float(sum(gaps) / 2),
        "GGMI": float(anchors - synthetic),
    }


def anchor_loss(engine: GainEngine, study: Study) -> float:
    """Nats per token of anchors that nobody has seen."""
    return float(losses(engine, study.anchors[ANCHORS:], study.collate).mean())


def measure(name: str, study: Study, run: str, seed: int) -> dict[str, Any]:
    """One run with the callback's numbers beside those measured offline."""
    torch.manual_seed(seed)
    count, epochs, held = RUNS[run]
    model, rows = study.make(), study.synthetic[:count]
    anchors = [dict(b) for b in DataLoader(study.anchors[:ANCHORS], BATCH, collate_fn=study.collate)]
    heldout = [dict(b) for b in DataLoader(study.synthetic[count : count + held], BATCH, collate_fn=study.collate)]
    engine = GainEngine(
        model, anchors, learning_rate=1e-3, num_samples=count, overhead=0.7, heldout=heldout, seed=seed, progress=False
    )
    starts, before = {k: v.clone() for k, v in model.state_dict().items()}, anchor_loss(engine, study)
    start = time.perf_counter()
    with attach(engine, model):
        loader = DataLoader(Numbered(rows), BATCH, shuffle=True, collate_fn=CarryIds(study.collate))
        train(model, loader, epochs, 4e-3, engine)
        found = engine.finish()
    seconds, gained = time.perf_counter() - start, before - anchor_loss(engine, study)
    true = offline(engine, study, rows, starts)
    row: dict[str, Any] = {"task": name, "run": run, "seed": seed, "pairs": found.get("ggmi/twins")}
    for label, key in (("gap", "generalization_gap"), ("anchor gap", "anchor_gap"), ("GGMI", "ggmi_per_sample")):
        value, low, high = (found[f"ggmi/{key}{end}"] for end in ("", "_low", "_high"))
        row |= {label: value, f"{label} low": low, f"{label} high": high, f"{label} offline": true[label]}
        row[f"{label} inside"] = low <= true[label] <= high
    side = (row["GGMI low"] > 0) - (row["GGMI high"] < 0)  # 0: the interval contains zero
    row["sign"] = "open" if not side else "same" if (side > 0) == (true["anchor gap"] > true["gap"]) else "other"
    row |= {"mixture": found["ggmi/ggmi_mixture_per_sample"], "gained": gained, "seconds": seconds}
    row |= {"null": found.get("ggmi/null_gap"), "advantage": found["ggmi/anchor_advantage"]}
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the GSM8K files")
    parser.add_argument("--model", help="folder of the model for GSM8K")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--output", type=Path, help="CSV to write")
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        studies = {"embedded": lambda seed=seed: embedded(seed)}
        if args.data is not None:
            studies["GSM8K"] = lambda seed=seed: gsm8k(seed, args.data, args.model)
        for name, make in studies.items():
            study = make()
            rows += [measure(name, study, run, seed) for run in RUNS]
    table = pd.DataFrame(rows)
    print(table.to_string())
    if args.output:
        table.to_csv(args.output, index=False)


if __name__ == "__main__":
    main()
