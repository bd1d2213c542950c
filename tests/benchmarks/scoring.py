"""Tokens per second of ``score`` beside a bare forward of the same model over the same batches.

    OMP_NUM_THREADS=1 python tests/benchmarks/scoring.py

Both run in turn in one process, ``--repeats`` times; medians and ranges, in seconds of one thread's processor time, so
that other users of the machine do not count. The likelihood scorer needs two forwards, so what its forwards allow is
half of the bare rate. The shadow, trained once, is timed apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ggmi_callbacks import score
from ggmi_callbacks.data import to_device
from ggmi_callbacks.scoring import job
from ggmi_callbacks.scoring.samples import Reader, Samples

VOCABULARY, BATCH, USED = 4096, 1024, 64


def model_of(width: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_attention_heads=4, **sizes)).eval()


def rows_of(n: int, longest: int) -> list[dict[str, list[int]]]:
    """Random tokens of a few kinds, which a shadow can learn; of lengths from an eighth of the longest on."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(longest // 8, longest + 1, (n,), generator=draw).tolist()
    return [{"input_ids": torch.randint(0, USED, (length,), generator=draw).tolist()} for length in lengths]


@torch.no_grad()
def bare(model: LlamaForCausalLM, samples: Samples, loss: bool) -> float:
    """Seconds of one forward over all batches, up to the logits or with the model's own loss."""
    everything = torch.arange(len(samples.rows)).numpy()
    batches = job.by_length(samples.lengths, everything, BATCH)
    start = time.process_time()
    for ids in batches:
        batch = to_device(samples.batch(ids), model.device)
        labels = batch.pop("labels")
        model(**batch, labels=labels if loss else None, use_cache=False)
    return time.process_time() - start


def scored(model: LlamaForCausalLM, rows: list, anchors: list) -> tuple[float, float]:
    """Seconds of the scores alone, and of the whole call."""
    found: list[float] = []

    def timed(inner: Callable, *arguments: object) -> None:
        start = time.process_time()
        inner(*arguments)
        found.append(time.process_time() - start)

    inner, start = job.Job._batches, time.process_time()
    job.Job._batches = lambda *arguments: timed(inner, *arguments)
    score(model, rows, anchors, batch_tokens=BATCH, shadow_epochs=1, learning_rate=3e-3, progress=False)
    job.Job._batches = inner
    return found[0], time.process_time() - start


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("width", 192), ("layers", 3), ("rows", 64), ("longest", 96), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, rows = model_of(args.width, args.layers), rows_of(args.rows, args.longest)
    samples = Reader(None, None, None, None).samples(rows, None, None)
    tokens = int(samples.lengths.sum())
    bare(model, samples, loss=True)  # warms up
    logits, one, two, whole = [], [], [], []
    for _ in range(args.repeats):
        logits.append(bare(model, samples, loss=False))
        one.append(bare(model, samples, loss=True))
        alone, everything = scored(model, rows, rows[:16])
        two.append(alone)
        whole.append(everything)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{parameters:.1f} M parameters, {args.rows} rows, {tokens} tokens, {args.repeats} repeats")
    for name, seconds in (("forward, logits", logits), ("forward, loss", one), ("score", two)):
        print(f"{name:16} {spread([tokens / s for s in seconds], '.0f')} tokens/s")
    for name, seconds in (("logits", logits), ("loss", one)):
        ratios = [2 * a / b for a, b in zip(seconds, two, strict=True)]
        print(f"of what two forwards to the {name} allow: {spread(ratios, '.2f')}")
    print(f"shadow and the rest         {spread([a - b for a, b in zip(whole, two, strict=True)], '.1f')} s")


if __name__ == "__main__":
    main()
