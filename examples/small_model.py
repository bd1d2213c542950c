"""Language models small enough to train on a laptop, their tokenizers, and sampling from them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)

PRESETS = {  # width, layers, heads, tokens in the vocabulary (at most)
    "llama-0.5m": (96, 4, 4, 512),
    "llama-1m": (128, 4, 4, 768),
    "llama-2m": (160, 5, 5, 2048),
    "llama-10m": (320, 6, 5, 4096),
}
_POSITIONS = 1024
_END = "<|end|>"


def load_model(
    name: str, tokenizer: str | None, texts: Iterable[str], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a model and its tokenizer: a stored one, or a preset with fresh weights.

    Args:
        name: a preset, a hub name or a folder.
        tokenizer: hub name or folder of a tokenizer; by default the model's own, or for a preset one trained here.
        texts: what to train it on.
        seed: of the fresh weights.

    """
    try:
        if name not in PRESETS:
            model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
            return model, _with_padding(AutoTokenizer.from_pretrained(tokenizer or name))
        tokens = _with_padding(AutoTokenizer.from_pretrained(tokenizer)) if tokenizer else None
    except (OSError, ValueError) as error:
        sys.exit(
            f"--model {name!r} (--tokenizer {tokenizer!r}) cannot be loaded: {error}\n"
            f"Give a hub name, a folder written by save_pretrained, or a preset: {', '.join(PRESETS)}."
        )
    tokens = tokens or train_tokenizer(texts, PRESETS[name][3])
    set_seed(seed)
    return AutoModelForCausalLM.from_config(_config(name, tokens)), tokens


def copy_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return a second model with the same weights.

    Not ``deepcopy``: ``SFTTrainer`` leaves a ``forward`` on the model that would go on calling the first one.
    """
    twin = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    twin.load_state_dict(model.state_dict())
    return twin.to(model.device)


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of at most ``size`` tokens; every digit is a token of its own."""
    fast = Tokenizer(models.BPE())
    line = pre_tokenizers.Split(Regex(r"\n"), "isolated")  # so that no token crosses from a prompt to its answer
    digits = pre_tokenizers.Digits(individual_digits=True)
    fast.pre_tokenizer = pre_tokenizers.Sequence([line, digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[_END], initial_alphabet=alphabet, show_progress=False
    )
    fast.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=_END, pad_token=_END, bos_token=_END)


def _config(name: str, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    width, layers, heads, _ = PRESETS[name]
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _with_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    temperature: float,
    *,
    new_tokens: int = 96,
    batch_size: int = 256,
) -> list[str]:
    """Sample one answer to each prompt from the model's own law at ``temperature``; at 0, the likeliest tokens."""
    model.eval()
    answers: list[str] = []
    for start in tqdm(range(0, len(prompts), batch_size), desc=f"sampling at T={temperature:g}", leave=False):
        batch = tokenizer(
            list(prompts[start : start + batch_size]), return_tensors="pt", padding=True, padding_side="left"
        ).to(model.device)
        out = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            **({"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}),
            max_new_tokens=new_tokens,
            use_cache=True,  # training switches it off in the model's configuration
            pad_token_id=tokenizer.pad_token_id,
        )
        answers += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers
