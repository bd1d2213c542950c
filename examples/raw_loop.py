"""Gain is not only for text: digits, generated images, wrong labels, and a loop of one's own.

    python examples/raw_loop.py                 # plain PyTorch
    python examples/raw_loop.py --accelerate    # the same loop under Accelerate

Anchors are 100 real digits. The generator shifts, blurs and mixes other real digits, and mislabels 40 % of them. Three
runs from the same weights and in the same order, without a policy, with Filter and with Reweight, are compared on
held-out digits. GGMI adds four lines to the loop in `train`.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from ggmi_callbacks import Filter, Monitor, Policy, Reweight
from ggmi_callbacks.integrations.loop import CarryIds, GainEngine, Numbered, SampleLoss, batches


def generate(images: Tensor, labels: Tensor, n: int, wrong: float, draw: torch.Generator) -> list[dict]:
    """Draw ``n`` augmented images; a share ``wrong`` of them carries the label of another digit."""
    rows = []
    for i in range(n):
        one, other = torch.randint(len(images), (2,), generator=draw).tolist()
        shift = torch.randint(-1, 2, (2,), generator=draw).tolist()
        image = torch.roll(0.85 * images[one] + 0.15 * images[other], shift, (0, 1))
        image = image + 0.1 * torch.randn(8, 8, generator=draw)
        mislabelled = i < wrong * n
        label = int(labels[one]) + (int(torch.randint(1, 10, (), generator=draw)) if mislabelled else 0)
        rows.append({"x": image, "y": label % 10, "source": "mislabelled" if mislabelled else "correct"})
    return rows


def per_sample_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def train(policy: Policy, anchors: list[dict], synthetic: list[dict], epochs: int, seed: int, accelerate: bool):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    samples = Numbered([{"x": row["x"], "y": row["y"]} for row in synthetic])
    loader = DataLoader(samples, 32, shuffle=True, collate_fn=CarryIds())
    backward = Tensor.backward
    if accelerate:
        from accelerate import Accelerator

        accelerator = Accelerator()
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        backward = accelerator.backward

    engine = GainEngine(
        accelerator.unwrap_model(model) if accelerate else model,
        batches(DataLoader(anchors, 25)),
        task=SampleLoss(per_sample_loss),
        policy=policy,
        sources=[row["source"] for row in synthetic],
        num_samples=len(synthetic),
        learning_rate=3e-3,
        shadow_epochs=40,
        progress=False,
    )
    engine.prepare()
    for epoch in tqdm(range(epochs), desc=type(policy).__name__, leave=False):
        engine.begin_epoch(epoch)
        for batch in loader:
            batch = engine.observe(batch)
            backward(engine.mean(per_sample_loss(model, batch)))
            optimizer.step()
            optimizer.zero_grad()
            engine.end_step()
    engine.log()
    engine.finish()
    return model, engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=2000, help="generated images")
    parser.add_argument("--wrong", type=float, default=0.4, help="share of them with a wrong label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accelerate", action="store_true", help="run the loop under Accelerate")
    args = parser.parse_args()

    digits = load_digits()
    draw = torch.Generator().manual_seed(args.seed)
    order = torch.randperm(len(digits.target), generator=draw)
    images, labels = torch.tensor(digits.images / 16, dtype=torch.float32)[order], torch.tensor(digits.target)[order]
    anchors = [{"x": x, "y": int(y)} for x, y in zip(images[:100], labels[:100], strict=True)]
    synthetic = generate(images[100:900], labels[100:900], args.samples, args.wrong, draw)
    held_x, held_y = images[900:], labels[900:]

    print(
        f"{'policy':<10} {'held-out accuracy':>18} {'held-out nats':>14} {'kept correct':>13} {'kept mislabelled':>17}"
    )
    for policy in (Monitor(), Filter(), Reweight()):
        model, engine = train(policy, anchors, synthetic, args.epochs, args.seed, args.accelerate)
        with torch.no_grad():
            logits = model.eval()(held_x)
        right, nll = (logits.argmax(1) == held_y).float().mean(), F.cross_entropy(logits, held_y)
        rows = engine.ledger.table.to_pylist()
        weight = {
            name: sum(r["weight"] for r in rows if r["source"] == name) / sum(r["source"] == name for r in rows)
            for name in ("correct", "mislabelled")
        }
        print(
            f"{type(policy).__name__:<10} {right:>18.3f} {nll:>14.3f} "
            f"{weight['correct']:>13.2f} {weight['mislabelled']:>17.2f}"
        )
    print("(kept: mean weight; Monitor gives every sample weight one)")


if __name__ == "__main__":
    main()
