"""Pre-train the small language model that the study of scorers fine-tunes, on novels, PEPs, Wikipedia and dolly.

    python tests/benchmarks/scorers/base_model.py --data DATA --output BASE

2.6 M parameters; half an hour on one core. Writes model and tokenizer as `save_pretrained` does.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from texts import reading
from tokenizers import ByteLevelBPETokenizer
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY, CONTEXT, BATCH = 4096, 256, 16


def train_tokenizer(passages: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; digits are single tokens, as in today's models."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        passages[::3], vocab_size=VOCABULARY, special_tokens=["<eos>", "<pad>"], show_progress=False
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<eos>", pad_token="<pad>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    passages = reading(args.data)
    tokenizer = train_tokenizer(passages)
    ids = [token for row in tokenizer(passages)["input_ids"] for token in [*row, tokenizer.eos_token_id]]
    rows = torch.tensor(ids[: len(ids) // CONTEXT * CONTEXT]).view(-1, CONTEXT)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1.0, i / 50) * (0.55 + 0.45 * math.cos(math.pi * i / args.steps))
    )
    for _ in (bar := tqdm(range(args.steps))):
        batch = rows[torch.randint(len(rows), (BATCH,))]
        loss = model(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(nats=f"{loss.item():.3f}", tokens=f"{len(ids):.1e}")
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
