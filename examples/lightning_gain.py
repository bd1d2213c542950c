"""A LightningModule around a Hugging Face causal LM, unchanged, trained on what teaches.

    python examples/lightning_gain.py

The text is dates in words, written by templates; a "generator" shuffles the words of 40 % of its samples. A small
Llama made from a config learns from them with and without `GGMICallback(policy=Filter())`. Nothing else differs.
"""

from __future__ import annotations

import argparse
import random

import lightning
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ggmi_callbacks import CarryIds, Filter, Monitor, Numbered, Policy
from ggmi_callbacks.integrations.lightning import GGMICallback

MONTHS = "January February March April May June July August September October November December".split()
DAYS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
THINGS = "ship market school garden letter concert journey harvest meeting storm".split()


class Module(lightning.LightningModule):
    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        loss = self.model(**batch).loss
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def sentence(draw: random.Random) -> str:
    thing, month, day, year = draw.choice(THINGS), draw.choice(MONTHS), draw.choice(DAYS), draw.randrange(1800, 1900)
    return draw.choice(
        [
            f"On the {day} of {month} {year} the {thing} came at last .",
            f"The {thing} of {year} was over by the {day} of {month} .",
            f"Nobody forgot the {thing} in {month} {year} , on the {day} day .",
        ]
    )


def write(n: int, shuffled: float, draw: random.Random) -> tuple[list[str], list[str]]:
    texts, sources = [], []
    for _ in range(n):
        words, bad = sentence(draw).split(), draw.random() < shuffled
        if bad:
            draw.shuffle(words)
        texts.append(" ".join(words))
        sources.append("shuffled" if bad else "fluent")
    return texts, sources


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--shuffled", type=float, default=0.4, help="share of samples with shuffled words")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    draw = random.Random(args.seed)
    human, heldout = write(128, 0.0, draw)[0], write(256, 0.0, draw)[0]
    synthetic, sources = write(args.samples, args.shuffled, draw)
    tokenizer = train_tokenizer(human + heldout + synthetic)

    def collate(rows: list[dict[str, str]]) -> dict[str, torch.Tensor]:
        batch = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt", return_token_type_ids=False)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return {**batch, "labels": labels}

    def loader(texts: list[str], shuffle: bool = False) -> DataLoader:
        return DataLoader(Numbered([{"text": t} for t in texts]), 16, shuffle, collate_fn=CarryIds(collate))

    def run(policy: Policy) -> None:
        lightning.seed_everything(args.seed, verbose=False)
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=1, **sizes))
        callback = GGMICallback(loader(human), policy=policy, sources=sources, shadow_epochs=10)
        trainer = lightning.Trainer(
            max_epochs=args.epochs,
            accelerator="cpu",
            callbacks=[callback],
            log_every_n_steps=20,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(model), loader(synthetic, shuffle=True))
        results = callback.results()
        with torch.no_grad():
            batch = collate([{"text": t} for t in heldout])
            loss = model.eval()(**batch).loss
        rows = callback.ledger.table.to_pylist()
        kept = {
            s: sum(r["kept"] for r in rows if r["source"] == s) / sources.count(s) / args.epochs for s in set(sources)
        }
        print(
            f"{type(policy).__name__:<8} held-out {loss:.3f} nats a token; kept fluent {kept['fluent']:.2f}, "
            f"shuffled {kept['shuffled']:.2f}; anchor advantage {results['ggmi/anchor_advantage']:+.3f} nats a token"
        )

    run(Monitor())
    run(Filter())


if __name__ == "__main__":
    main()
