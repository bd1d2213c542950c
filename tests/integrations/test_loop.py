"""Loops of one's own with a loss of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ggmi_callbacks import GainEngine, Monitor, Policy, Reweight, SampleLoss
from ggmi_callbacks.integrations.loop import batches

from .._loop import Pattern


def points(n: int, seed: int = 0) -> dict[str, Tensor]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return {"x": x, "y": (x[:, 0] > 0).long()}


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def prepared(model: nn.Module, policy: Policy, **settings: Any) -> GainEngine:
    anchors = batches([points(8, seed) for seed in range(1, 17)])
    engine = GainEngine(
        model,
        anchors,
        task=SampleLoss(losses),
        policy=policy,
        **{"learning_rate": 0.03, "shadow_epochs": 8, "progress": False, **settings},
    )
    engine.prepare()
    return engine


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.filterwarnings("ignore:the policy kept none")
@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)], ids=["one", "none"])
def test_batch_norm_gets_the_whole_batch_where_a_filter_leaves_one_sample_of_it(weights) -> None:
    """Over one sample it has no statistics: torch refuses. The dropped ones then run along, at weight zero."""
    model = normed().train()
    engine = prepared(model, Pattern(*weights, drops=True))
    batch = points(4)
    left = engine.observe(dict(batch))
    found = gradient(model, engine.mean(losses(model, left)))
    wanted = gradient(model, (torch.tensor(weights) * losses(model, batch)).sum() / 4)
    assert torch.allclose(found, wanted, atol=1e-7)
    engine.log()
    assert [row["kept"] for row in engine.ledger.table.to_pylist()] == [weight > 0 for weight in weights]


def test_batch_norm_gets_what_a_filter_leaves_where_that_is_enough() -> None:
    model = normed().train()
    two = prepared(model, Pattern(1.0, 0.0, 0.0, 1.0, drops=True)).observe(points(4))
    assert torch.equal(two["x"], points(4)["x"][[0, 3]])
    model[1].eval()  # frozen statistics are no reason
    one = prepared(model, Pattern(1.0, 0.0, 0.0, 0.0, drops=True)).observe(points(4))
    assert len(one["x"]) == 1


@pytest.mark.parametrize("policy", [Monitor, Reweight])
def test_a_compiled_model_with_a_loss_of_its_own(policy) -> None:
    """Its parameters are found, and its scores are those of the plain model."""
    ledgers = []
    for wrap in (lambda model: model, lambda model: torch.compile(model, backend="eager")):
        torch.compiler.reset()
        inner = normed().train()
        model = wrap(inner)
        optimiser = torch.optim.SGD(inner.parameters(), lr=0.1)
        engine = prepared(model, policy())
        for seed in range(3):
            batch = engine.observe(points(4, seed))
            engine.mean(losses(model, batch)).backward()
            optimiser.step(), optimiser.zero_grad()
            engine.end_step()
        engine.log()
        ledgers.append([(row["id"], row["gain"], row["weight"], row["nll"]) for row in engine.ledger.table.to_pylist()])
    plain, compiled = (torch.tensor(ledger, dtype=torch.float64) for ledger in ledgers)
    assert plain.shape == (12, 4)
    assert torch.allclose(plain, compiled, rtol=1e-5, atol=1e-6)
