"""What is synthetic data worth to a fine-tuning? The whole pipeline, with ``SFTTrainer`` and ``GGMICallback``.

With no arguments, a small world of its own, offline, in minutes on a CPU: a language model reads the first volume of
a school book and a little of the second one. A copy of it learns more of the second volume and becomes the
*generator*, which answers each of 1,000 new questions at four temperatures; two answers of three are wrong, as a
checker finds. The student, the model as it was, is fine-tuned on these answers: on all of them, on what ``Filter``
keeps by default, on as many drawn at random, and on the right ones alone. Every run
takes as many steps, and 128 solutions that "people" wrote are the anchors.

    python examples/sft_gain.py

With arguments, any model and any data:

    python examples/sft_gain.py --model HuggingFaceTB/SmolLM2-135M --anchors human.jsonl --synthetic made.parquet \\
        --heldout openai/gsm8k:main:test --source solver --policy filter --keep 0.5 --output out/mine
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Dataset
from read_data import read, texts_of
from sft_report import Run, describe, draw
from small_model import PRESETS, copy_model, load_model, sample
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer
from word_problems import VOLUME_ONE, VOLUME_TWO, Problem, is_right, is_right_by, make_problems

from ggmi_callbacks import CausalLM, Filter, Monitor, Policy, Reweight
from ggmi_callbacks.integrations.trl import GGMICallback

TEMPERATURES = (0.3, 0.7, 1.0, 1.4)
READ, GLANCED = 4000, 400  # problems of volume one and two that the model has read
LEARNT, ASKED = 4500, 1000  # of volume two that the generator learns, and is asked at each temperature
ANCHORS, HELD = 128, 300


@dataclass
class Study:
    """What a comparison needs: a student at its start, and three data sets."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anchors: Dataset
    synthetic: Dataset
    heldout: Dataset
    source: str | None
    label: str | None
    judge: Callable[[str, str], bool] | None = None
    """Whether an answer, the first argument, is right, given a real solution."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="llama-1m", help=f"hub name, folder, or a preset to start anew: {', '.join(PRESETS)}")
    add("--tokenizer", help="hub name or folder; a preset trains one on the data by default")
    add(
        "--pretrain",
        nargs="+",
        default=[],
        metavar="DATA",
        help="what the model reads first; it is then saved under --output as start",
    )
    data = "a .jsonl, .jsonl.gz or .parquet file, or NAME[:CONFIG[:SPLIT]] on the hub"
    for name, what in (("anchors", "real examples"), ("synthetic", "what to train on"), ("heldout", "real, to test")):
        add(f"--{name}", metavar="DATA", help=f"{what}: {data}")
    add("--prompt-column", help="if it is not called prompt, question, instruction or problem")
    add("--completion-column", help="if it is not called completion, answer, solution, output or response")
    add("--source", metavar="COLUMN", help="of --synthetic: where a sample comes from")
    add("--label", metavar="COLUMN", help="of --synthetic: whether a sample is right; for the report only")
    add("--policy", choices=("filter", "reweight", "monitor"), default="filter")
    add("--keep", type=float, help="filter: the share to keep (default: all but what surely speaks against itself)")
    add("--epochs", type=float, default=1)
    add("--batch-size", type=int, default=8)
    add("--learning-rate", type=float, default=1e-3)
    add("--shadow-learning-rate", type=float, help="of the shadow run on the anchors (default: 0.3 x --learning-rate)")
    add("--max-length", type=int, default=512, help="tokens of a sample; the rest is cut off")
    add("--limit", type=int, help="use at most so many rows of each data set")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=Path("out/sft_gain"), help="where ledger, plot and student go")
    args = parser.parse_args(argv)
    given = [name for name in ("anchors", "synthetic", "heldout") if getattr(args, name)]
    if 0 < len(given) < 3:
        parser.error(f"--{given[0]} alone is not enough: give --anchors, --synthetic and --heldout together.")
    if not given and (args.source or args.label or args.pretrain):
        parser.error("--source, --label and --pretrain describe data of yours: give --anchors, --synthetic, --heldout.")
    if args.keep is not None and (args.policy != "filter" or not 0 < args.keep <= 1):
        parser.error(f"--keep is the share that --policy filter keeps, in (0, 1], got {args.keep} for {args.policy}.")
    return args


def make_policy(args: argparse.Namespace) -> Policy:
    return {"filter": Filter(keep=args.keep), "reweight": Reweight(), "monitor": Monitor()}[args.policy]


def given_study(args: argparse.Namespace) -> Study:
    columns = (args.prompt_column, args.completion_column)
    wanted = [column for column in (args.source, args.label) if column]
    common = {"columns": columns, "limit": args.limit, "seed": args.seed}
    anchors = read("--anchors", args.anchors, **common)
    synthetic = read("--synthetic", args.synthetic, keep=wanted, **common)
    heldout = read("--heldout", args.heldout, **common)
    if args.label and not set(synthetic[args.label]) <= {0, 1}:
        sys.exit(f"--label {args.label}: the column must hold true and false, it holds {synthetic[0][args.label]!r}.")
    background = [read("--pretrain", name, **common) for name in args.pretrain]
    texts = (text for data in (*background, anchors, synthetic) for text in texts_of(data))
    model, tokenizer = load_model(args.model, args.tokenizer, texts, args.seed)
    if background:
        reading = Dataset.from_dict({"text": [text for data in background for text in texts_of(data)]})
        pretrain(model, tokenizer, reading, args, "the student reads")
        model.save_pretrained(args.output / "start")
        tokenizer.save_pretrained(args.output / "start")
    return Study(model, tokenizer, anchors, synthetic, heldout, args.source, args.label)


def embedded_study(args: argparse.Namespace) -> Study:
    """Write the task, train the generator, and let it answer."""
    most = args.limit or LEARNT
    sizes = (READ, GLANCED, LEARNT, ASKED, ANCHORS, HELD)
    read_, glanced, learnt, asked, few, held = (min(most, size) for size in sizes)
    first = make_problems(read_, VOLUME_ONE, args.seed)
    total = glanced + learnt + asked + few + held
    second = make_problems(total, VOLUME_TWO, args.seed + 1)
    reading = as_dataset([*first, *second[:glanced]])
    texts = texts_of(as_dataset([*first, *second]))
    model, tokenizer = load_model(args.model, args.tokenizer, texts, args.seed)
    reading = Dataset.from_dict({"text": texts_of(reading)})
    pretrain(model, tokenizer, reading, args, "student and generator read volume one and a little of volume two")
    generator = copy_model(model)
    pretrain(generator, tokenizer, as_dataset(second[glanced:][:learnt]), args, "the generator learns volume two")
    rest = iter(second[glanced + learnt :])
    questions = [next(rest) for _ in range(asked)]
    anchors, heldout = [next(rest) for _ in range(few)], list(rest)
    synthetic = Dataset.from_list([row for t in TEMPERATURES for row in answer(generator, tokenizer, questions, t)])
    return Study(
        model,
        tokenizer,
        as_dataset(anchors),
        synthetic,
        as_dataset(heldout),
        source="source",
        label="right",
        judge=is_right_by,
    )


def as_dataset(problems: Sequence[Problem]) -> Dataset:
    return Dataset.from_list([{"prompt": p.question + "\n", "completion": p.solution} for p in problems])


def answer(
    generator: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], temperature: float
) -> list[dict[str, str | bool]]:
    """Let the generator answer, and check the answers."""
    prompts = [problem.question + "\n" for problem in problems]
    answers = sample(generator, tokenizer, prompts, temperature)
    return [
        {
            "prompt": prompt,
            "completion": text,
            "source": f"T={temperature:g}",
            "right": is_right(text, problem.answer),
        }
        for prompt, text, problem in zip(prompts, answers, problems, strict=True)
    ]


def training_arguments(args: argparse.Namespace, **changes: object) -> SFTConfig:
    gpu = torch.cuda.is_available()
    settings = {
        "output_dir": str(args.output / "trainer"),
        "per_device_train_batch_size": args.batch_size,
        "per_device_eval_batch_size": 4 * args.batch_size,
        "num_train_epochs": args.epochs,
        "learning_rate": args.learning_rate,
        "max_length": args.max_length,
        "seed": args.seed,
        "bf16": gpu and torch.cuda.is_bf16_supported(),
        "activation_checkpointing": gpu,
        "dataloader_pin_memory": gpu,
        "logging_steps": 0.1,  # share of all steps
        "save_strategy": "no",
        "report_to": "none",
    }
    return SFTConfig(**{**settings, **changes})


def pretrain(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Dataset, args: argparse.Namespace, what: str
) -> None:
    """Train on ``data`` for one epoch, without a callback."""
    print(f"\n{what}: {len(data)} texts, {model.num_parameters():,} parameters", flush=True)
    settings = training_arguments(
        args, num_train_epochs=1, learning_rate=2e-3, warmup_steps=20, logging_steps=0.25, adam_beta2=0.99
    )
    SFTTrainer(model, args=settings, train_dataset=data, processing_class=tokenizer).train()


def make_trainer(study: Study, args: argparse.Namespace, rows: Dataset) -> SFTTrainer:
    """Return a trainer of a copy of the student on ``rows``; it takes the steps of one pass over all of the data."""
    steps = math.ceil(args.epochs * len(study.synthetic) / args.batch_size)
    return SFTTrainer(
        copy_model(study.model),
        args=training_arguments(args, max_steps=steps, eval_strategy="steps", eval_steps=0.2),
        train_dataset=rows,
        eval_dataset=study.heldout,
        processing_class=study.tokenizer,
    )


def compare(study: Study, args: argparse.Namespace, kept: Sequence[int]) -> list[Run]:
    """Train on as many samples drawn at random as a policy kept, and on the right ones alone."""
    draw = np.random.default_rng(args.seed)
    rows = {f"random {len(kept)}": draw.choice(len(study.synthetic), len(kept), replace=False)}
    if study.label and any(study.synthetic[study.label]):
        rows["the right ones"] = np.flatnonzero(study.synthetic[study.label])
    runs = []
    for name, chosen in rows.items():
        print(f"\nfine-tuning on {name} of the samples", flush=True)
        trainer = make_trainer(study, args, study.synthetic.select(chosen))
        before, tokens = heldout_nll(trainer)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        after, _ = heldout_nll(trainer)
        accuracy = judge(study, trainer)
        runs.append(Run(name, None, {}, trainer.state.log_history, before, after, tokens, seconds, accuracy))
    return runs


def judge(study: Study, trainer: SFTTrainer) -> float | None:
    """Share of held-out questions to which the model's likeliest answer is right, if somebody can tell."""
    if study.judge is None:
        return None
    answers = sample(trainer.model, study.tokenizer, study.heldout["prompt"], temperature=0.0)
    return float(np.mean([study.judge(a, s) for a, s in zip(answers, study.heldout["completion"], strict=True)]))


def fine_tune(study: Study, args: argparse.Namespace, policy: Policy) -> tuple[Run, SFTTrainer, GGMICallback]:
    """Fine-tune a copy of the student on the synthetic data."""
    print(f"\nfine-tuning on {len(study.synthetic)} synthetic samples with {policy}", flush=True)
    trainer = make_trainer(study, args, study.synthetic)
    callback = GGMICallback(
        trainer,
        anchors=study.anchors,
        policy=policy,
        source=study.source,
        shadow_learning_rate=args.shadow_learning_rate or 0.3 * args.learning_rate,  # few anchors, small steps
        shadow_epochs=5,
    )
    trainer.add_callback(callback)
    before, tokens = heldout_nll(trainer)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    ledger = callback.ledger.table.to_pandas().drop_duplicates("id")
    ledger["source"] = ledger.source.fillna("synthetic")
    if study.label:
        ledger["right"] = np.array(trainer.train_dataset[study.label], dtype=bool)[ledger.id]  # type: ignore[type-var]
    after, _ = heldout_nll(trainer)
    history, accuracy = trainer.state.log_history, judge(study, trainer)
    run = Run(repr(policy), ledger, callback.results(), history, before, after, tokens, seconds, accuracy)
    return run, trainer, callback


@torch.no_grad()
def heldout_nll(trainer: SFTTrainer) -> tuple[np.ndarray, np.ndarray]:
    """Code length of each held-out sample in nats, [n], and its number of targets, [n]."""
    task, model = CausalLM(), trainer.model.eval()
    nll, tokens = [], []
    for batch in trainer.get_eval_dataloader():
        layout = task.layout(batch)
        nll.append(-layout.total(task.log_probs(model, batch)))
        tokens.append(layout.tokens)
    return torch.cat(nll).double().cpu().numpy(), torch.cat(tokens).cpu().numpy()


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    datasets.disable_progress_bars()  # a dozen flashes for each preparation; the trainer's own stay
    args.output.mkdir(parents=True, exist_ok=True)
    study = given_study(args) if args.synthetic else embedded_study(args)
    policies = [make_policy(args)] if args.policy == "monitor" else [Monitor(), make_policy(args)]
    runs = []
    for policy in policies:
        run, trainer, callback = fine_tune(study, args, policy)
        runs.append(run)
    kept = np.flatnonzero(runs[-1].kept(len(study.synthetic)))
    others = compare(study, args, kept) if len(policies) > 1 else []
    report = describe(runs, others)
    print(f"\n{report}\n")
    callback.ledger.to_parquet(args.output / "ledger.parquet")
    draw(runs, args.output / "gain.png")
    (args.output / "report.txt").write_text(report + "\n")
    (args.output / "runs.json").write_text(json.dumps([run.summary() for run in [*runs, *others]], indent=1))
    trainer.save_model(str(args.output / "student"))
    print(f"Ledger, plot, report and student are in {args.output}.")


if __name__ == "__main__":
    main()
