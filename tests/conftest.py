"""Small real things to test with: a tokenizer trained here, a Llama from a config, sums answered right and wrong."""

from __future__ import annotations

import pytest
import torch

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


def sums(n: int, seed: int = 0, bad: bool = True) -> list[dict[str, str]]:
    """Sums in words; every second one, if ``bad``, answered with words that belong elsewhere."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(n):
        a, b = torch.randint(0, 50, (2,), generator=draw).tolist()
        wrong = bad and i % 2 == 1
        more = " and finds more" * int(torch.randint(0, 3, (1,), generator=draw))
        rows.append(
            {
                "prompt": f"Tom has {a} red balls{more} and finds {b} more . How many ?",
                "completion": " zebra qux zebra 7" if wrong else f" He has {a + b} balls now .",
                "source": "wrong" if wrong else "right",
            }
        )
    return rows


@pytest.fixture
def synthetic():
    from datasets import Dataset

    return Dataset.from_list(sums(32, seed=0))


@pytest.fixture
def anchors():
    from datasets import Dataset

    return Dataset.from_list(sums(12, seed=1, bad=False)).remove_columns("source")
