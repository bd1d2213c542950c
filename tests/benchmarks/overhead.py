"""What the callback costs: whole-step ratios against plain SFT, the engine's own share, memory, candidates per second.

    OMP_NUM_THREADS=1 python tests/benchmarks/overhead.py --output tests/benchmarks/overhead.csv

Each repeat runs every setting once, in a process of its own, plain SFT first, for some optimiser steps of the real
`SFTTrainer` on a Llama of about 50 M parameters (32 k vocabulary, batch 8 x 256, float32 on a CPU, bfloat16 on a GPU).
A setting's ratio is the median over repeats of its mean step time over that of plain SFT in the same repeat. The first
step of a run is left out, and so is the shadow run, whose seconds stand in a column of their own. `kept` is the share
of samples really kept: a quantile of so few gains is coarse. `share` is the engine's own account of its time. Memory is
the peak of the whole process on a CPU, of the allocator on a GPU, over that of plain SFT.

A budget is kept over a run, not over five steps, the first of which are always scored. For those settings:

    OMP_NUM_THREADS=1 python tests/benchmarks/overhead.py --size 8m --batch 64 --length 8 --steps 200 \\
        --only overhead=

A naive per-sample backward over the batch, what gradient scoring costs without forward-mode differentiation, stands
beside, and, in an environment that has it (`pip install bergson`), Bergson's callback, which records gradients and
acts on nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

from ggmi_callbacks import Filter, GradientScorer, LikelihoodScorer, Monitor, Reweight
from ggmi_callbacks.integrations.trl import GGMICallback

VOCABULARY = 32_000
SIZES = {
    "8m": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6},
    "50m": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 10, "num_attention_heads": 8},
    "0.5b": {"hidden_size": 1280, "intermediate_size": 3456, "num_hidden_layers": 24, "num_attention_heads": 20},
    "1.5b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 28, "num_attention_heads": 16},
}
CHEAP = {"layers": 2, "stride": 4, "dtype": torch.bfloat16}
SETTINGS: dict[str, dict] = {
    "plain SFT": {},
    "Monitor(), overhead=0.01": {"policy": Monitor, "overhead": 0.01},
    "Reweight(), overhead=0.02": {"policy": Reweight, "overhead": 0.02},
    "Reweight(), overhead=0.03": {"policy": Reweight, "overhead": 0.03},
    "Reweight(), cheap": {"policy": Reweight, "scorer": lambda: LikelihoodScorer(**CHEAP)},
    "Reweight(), every sample": {"policy": Reweight},
    "Reweight(), gradient of the head": {"policy": Reweight, "scorer": lambda: GradientScorer(layers=1, every=1000)},
    "Reweight(), gradient of all layers": {"policy": Reweight, "scorer": lambda: GradientScorer(every=1000)},
    "Filter(keep=0.5), cheap": {"policy": lambda: Filter(keep=0.5), "scorer": lambda: LikelihoodScorer(**CHEAP)},
    "Filter(keep=0.25), cheap": {"policy": lambda: Filter(keep=0.25), "scorer": lambda: LikelihoodScorer(**CHEAP)},
    "Filter(keep=0.5)": {"policy": lambda: Filter(keep=0.5)},
    "Filter(keep=0.25)": {"policy": lambda: Filter(keep=0.25)},
    "Filter(keep=0.25), gains remembered": {"policy": lambda: Filter(keep=0.25), "remembered": True},
    "Bergson's callback": {"bergson": True},
    "plain SFT, LoRA": {"lora": True},
    "Reweight(), LoRA": {"lora": True, "policy": Reweight},
}


@dataclass
class Stopwatch(TrainerCallback):
    """Seconds of each optimiser step."""

    device: str
    seconds: list[float] = field(default_factory=list)

    def on_step_begin(self, *args: object, **kwargs: object) -> None:
        self._synchronise()
        self.start = time.perf_counter()

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self._synchronise()
        self.seconds.append(time.perf_counter() - self.start)

    def _synchronise(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(VOCABULARY - 3)} | {"<unk>": VOCABULARY - 3, "<pad>": VOCABULARY - 2}
    fast = Tokenizer(models.WordLevel(words | {"<eos>": VOCABULARY - 1}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")


def tokens(rows: int, length: int, seed: int, different: int = VOCABULARY - 3) -> Dataset:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, different, (rows, length), generator=draw).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def run(setting: dict, args: argparse.Namespace, folder: str) -> dict[str, float]:
    """One training run; returns its median step time and what the engine says of itself."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **SIZES[args.size])
    gpu = args.device == "cuda"
    epochs = 2 if "remembered" in setting else 1
    trainer = SFTTrainer(
        LlamaForCausalLM(config),
        args=SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=args.batch,
            num_train_epochs=epochs,
            logging_steps=50,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not gpu,
            bf16=gpu,
            gradient_checkpointing=False,
            max_length=None,
        ),
        train_dataset=tokens(args.batch * (args.steps + 1), args.length, 1),
        processing_class=tokenizer(),
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear") if "lora" in setting else None,
    )
    callback = None
    if "bergson" in setting:
        add_bergson(trainer, Path(folder))
    elif "policy" in setting:
        make: dict[str, Callable] = {k: v for k, v in setting.items() if k in ("policy", "scorer")}
        made = {name: build() for name, build in make.items()}
        anchors = tokens(16, args.length, 2, different=10)  # something that a shadow can learn at once
        callback = GGMICallback(trainer, anchors=anchors, overhead=setting.get("overhead"), shadow_epochs=1, **made)
        trainer.add_callback(callback)
    watch = Stopwatch(args.device)
    trainer.add_callback(watch)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    steps = watch.seconds[-args.steps :]  # of the second epoch, where there are two
    found = {"step": sum(steps) / len(steps)}
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["memory"] = torch.cuda.max_memory_allocated() / 2**30 if gpu else kilobytes / 2**20
    if callback is not None:
        results = callback.results()
        found["share"] = results["ggmi/overhead"]
        found["coverage"] = results["ggmi/coverage"]
        kept = callback.ledger.table["kept"].to_pylist()[-len(steps) * args.batch :]
        found["kept"] = sum(kept) / len(kept)
        found["shadow"] = results["shadow"]["seconds"]
    return found


def add_bergson(trainer: SFTTrainer, folder: Path) -> None:
    """Bergson's callback as its documentation shows it."""
    from bergson.huggingface import GradientCollectorCallback, prepare_for_gradient_collection

    trainer.add_callback(GradientCollectorCallback(folder / "gradients"))
    prepare_for_gradient_collection(trainer)


def alone(function: Callable[..., dict[str, float]], *args: object) -> dict[str, float]:
    """``function(*args)`` in a process of its own, so that its memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def run_named(name: str, args: argparse.Namespace, folder: str) -> dict[str, float]:
    disable_progress_bars()
    return run(SETTINGS[name], args, folder)


def naive_backward(args: argparse.Namespace) -> float:
    """Seconds of a backward for each sample of a batch."""
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **SIZES[args.size]))
    model = model.to(args.device, torch.bfloat16 if args.device == "cuda" else torch.float32)
    ids = torch.tensor(tokens(args.batch, args.length, 1)["input_ids"], device=args.device)
    start = time.perf_counter()
    for row in ids:
        model(input_ids=row[None], labels=row[None]).loss.backward()
        model.zero_grad()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="50m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", help="settings whose name contains one of these, beside plain SFT")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    chosen = [name for name in SETTINGS if name == "plain SFT" or not args.only or any(o in name for o in args.only)]
    if importlib.util.find_spec("bergson") is None:
        chosen = [name for name in chosen if "Bergson" not in name]
    rows = []
    with tempfile.TemporaryDirectory() as folder, tqdm(total=args.repeats * len(chosen)) as bar:
        for repeat in range(args.repeats):
            for name in chosen:
                bar.set_description(name)
                rows.append({"repeat": repeat, "setting": name, **alone(run_named, name, args, folder)})
                bar.update()
            naive = {"setting": "naive per-sample backward", "step": naive_backward(args)}
            rows.append({"repeat": repeat, **naive})
    table = pd.DataFrame(rows)
    table["of"] = table.setting.str.endswith("LoRA").map({True: "plain SFT, LoRA", False: "plain SFT"})
    plain = table[["repeat", "setting", "step", "memory"]].rename(columns={"setting": "of"})
    table = table.merge(plain, "left", ["repeat", "of"], suffixes=("", " of plain"))
    table["ratio"] = table["step"] / table["step of plain"]
    table["memory"] /= table["memory of plain"]
    table["candidates per second"] = args.batch / table.step
    table["speed against plain"] = 1 / table.ratio
    columns = ["step", "ratio", "candidates per second", "speed against plain", "share", "coverage", "kept", "memory"]
    summary = table.groupby("setting", sort=False)[[*columns, "shadow"]].median()
    print(summary.round(3).to_string())
    if args.output:
        table.drop(columns=["of", "step of plain", "memory of plain"]).to_csv(args.output, index=False)


if __name__ == "__main__":
    main()
