"""Small real things to test with: a tokenizer trained here, a Llama from a config, sums answered right and wrong."""

from __future__ import annotations

import pytest
import torch

from ._sums import sums

torch.set_num_threads(1)  # the models are tiny, and threads that wait for each other slow them down

WORDS = ["Tom", "Ann", "Bob", "has", "finds", "gives", "red", "blue", "balls", "pens", "more", "and", ".", "?", "How",
         "many", "He", "now", "zebra", "qux", "=", "+", *map(str, range(100))]  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    fast = Tokenizer(models.WordLevel(unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<unk>", "<pad>", "<eos>"]
    fast.train_from_iterator([" ".join(WORDS)], trainers.WordLevelTrainer(special_tokens=special))
    return PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")


@pytest.fixture
def make_model(tokenizer):
    """Build a tiny Llama; equal seeds give equal weights."""

    def make(seed: int = 0, **changes):
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(seed)
        settings = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.eos_token_id,
        }
        return LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))

    return make


@pytest.fixture
def synthetic():
    from datasets import Dataset

    return Dataset.from_list(sums(32, seed=0))


@pytest.fixture
def anchors():
    from datasets import Dataset

    return Dataset.from_list(sums(12, seed=1, bad=False)).remove_columns("source")
