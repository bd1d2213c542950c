"""An engine attached to a model that somebody else calls: nothing sees what it must not, and nothing stays behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ggmi_callbacks import Filter, GainEngine, Monitor, Policy, Reweight, attach
from ggmi_callbacks.tasks import SAMPLE_KEY
from tests._batches import VOCABULARY, padded
from tests._loop import ANCHORS, TASK, Pattern, runs, stream

IDS = {SAMPLE_KEY: torch.arange(4)}
BATCH = stream(1)[0]
KEPT = pytest.mark.parametrize("drops", [True, False], ids=["filter", "reweight"])


@pytest.fixture
def model(make_model):
    return make_model(vocab_size=VOCABULARY).train()


def engine(model: nn.Module, policy: Policy | None = None, **settings: Any) -> GainEngine:
    return GainEngine(model, ANCHORS, policy=policy, learning_rate=3e-3, progress=False, **settings)


def rows_with_positions() -> dict[str, Any]:
    """One sample a row, no mask, positions that say so."""
    batch = padded(runs(4))
    del batch["attention_mask"]
    return {**batch, "position_ids": torch.arange(8).expand(4, -1), **IDS}


def row_of_segments() -> dict[str, Any]:
    """The same samples in one row."""
    return {k: v.reshape(1, -1) if k != SAMPLE_KEY else v for k, v in rows_with_positions().items()}


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def by_hand(model: nn.Module, *weights: float) -> Tensor:
    """Every sample in a forward of its own."""
    model.zero_grad()
    total = 0.0
    for i, weight in enumerate(weights):
        total = total - weight * TASK.log_probs(model, padded(runs(4)[i : i + 1])).sum()
    (total / BATCH_TARGETS).backward()  # type: ignore[attr-defined]
    return gradient(model)


BATCH_TARGETS = 4 * 6


def state_of(model: nn.Module) -> tuple[Any, ...]:
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]
    return hooks, [sorted(vars(m)) for m in model.modules()], [m.training for m in model.modules()]


@KEPT
@pytest.mark.parametrize("batch", [rows_with_positions, row_of_segments])
def test_rows_without_a_mask_do_not_see_each_other(model, drops: bool, batch) -> None:
    """By default Hugging Face makes a cache, and with one it looks for no segments."""
    with attach(engine(model, Pattern(1.0, 0.0, 1.0, 1.0, drops=drops))):
        model.zero_grad()
        model(**batch()).loss.backward()
        found = gradient(model)
    wanted = by_hand(model, 1.0, 0.0, 1.0, 1.0)
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()


def test_monitor_refuses_a_forward_whose_segments_see_each_other(model) -> None:
    """It changes nothing, so it cannot mend them, and what it would measure of them is not what they cost."""
    with attach(engine(model)):
        with pytest.raises(ValueError, match="see each other in a forward with a cache: pass `use_cache=False`"):
            model(**row_of_segments())
        model(**row_of_segments(), use_cache=False)
        model(**rows_with_positions())  # no row holds two


def test_a_cache_from_outside_is_refused(model) -> None:
    from transformers import DynamicCache

    with attach(engine(model, Reweight())), pytest.raises(ValueError, match="no `past_key_values`"):
        model(**row_of_segments(), past_key_values=DynamicCache(config=model.config))


def test_a_model_that_ignores_positions_is_noticed(model, make_model) -> None:
    class Blind(type(model)):
        def forward(self, position_ids=None, **inputs):
            return super().forward(**inputs)

    blind = make_model(vocab_size=VOCABULARY, initializer_range=0.5).train()  # one that looks at its context
    blind.__class__ = Blind
    watched = engine(blind)
    with attach(watched):
        blind(**row_of_segments(), use_cache=False).loss.backward()
        watched.end_step()
        with pytest.warns(UserWarning, match="samples see each other"):
            watched.log()


def final_weights(model: nn.Module, called: nn.Module, attached: nn.Module, policy: Policy) -> Tensor:
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-2)
    watched = engine(model, policy)
    with attach(watched, attached):
        for batch in stream(3):
            called(**batch).loss.backward()
            optimiser.step(), optimiser.zero_grad()
            watched.end_step()
    watched.log()
    assert len(watched.ledger) == 12
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("policy", [Reweight, lambda: Filter(keep=0.5)], ids=["reweight", "filter"])
@pytest.mark.parametrize("attached", ["compiled", "plain"])
def test_a_compiled_model_is_scored_and_weighted_like_a_plain_one(make_model, policy, attached) -> None:
    """And not as it was when it was compiled, before the engine came."""
    torch.compiler.reset()
    plain, inner = make_model(vocab_size=VOCABULARY).train(), make_model(vocab_size=VOCABULARY).train()
    compiled = torch.compile(inner, backend="eager")
    compiled(**{k: v for k, v in BATCH.items() if k != SAMPLE_KEY}).loss.backward()
    inner.zero_grad()
    found = final_weights(inner, compiled, compiled if attached == "compiled" else inner, policy())
    wanted = final_weights(plain, plain, plain, policy())
    assert (found - wanted).norm() <= 1e-6 * wanted.norm()


def test_after_the_block_the_model_is_as_before(model) -> None:
    for policy in (Monitor(), Reweight(), Filter(keep=0.5)):
        before = state_of(model)
        with attach(engine(model, policy)):
            model(**BATCH).loss.backward()
        assert state_of(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_the_model_is_as_before(model, error) -> None:
    before = state_of(model)

    def run() -> None:
        with attach(engine(model, Reweight())):
            model(**BATCH).loss.backward()
            raise error

    with pytest.raises(error):
        run()
    assert state_of(model) == before
    with attach(engine(model, Reweight())):  # and it may be attached to again
        model(**BATCH)


def test_a_block_that_is_never_entered_leaves_nothing_behind(model) -> None:
    model.loss_function = lambda *args, **kwargs: torch.zeros(())  # cannot be weighted
    before = state_of(model)
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be weighted exactly"), attach(engine(model, Reweight())):
            pass
    assert state_of(model) == before


def test_one_model_passes_through_one_engine(model) -> None:
    first = engine(model)
    with attach(first):
        for second in (attach(first), attach(engine(model)), attach(first, torch.compile(model, backend="eager"))):
            with pytest.raises(RuntimeError, match="passes through an engine already"), second:
                pass
        model(**BATCH)
    assert not model._forward_hooks


def test_an_engine_is_attached_to_its_own_model(model, make_model) -> None:
    other = make_model(vocab_size=VOCABULARY)
    with pytest.raises(ValueError, match=r"neither the engine's model \(LlamaForCausalLM\) nor a wrapper"):
        attach(engine(model), other).__enter__()
    assert not other._forward_hooks


def test_a_loss_of_ones_own_is_refused_with_the_way_out(model) -> None:
    batch = {k: v for k, v in BATCH.items() if k != "labels"}
    with attach(engine(model)), pytest.raises(RuntimeError, match=r"engine\.observe\(batch\).*sample_loss="):
        model(**batch)


def test_evaluation_passes_by(model) -> None:
    watched = engine(model, Filter(keep=0.5))
    with attach(watched):
        model.eval()
        with torch.no_grad():
            model(**BATCH)
        model.train()
        with torch.no_grad():
            model(**BATCH)
    assert len(watched.ledger) == 0


def test_gradient_checkpointing_makes_no_cache_and_needs_no_refusal(model) -> None:
    model.gradient_checkpointing_enable()
    with attach(engine(model)):
        model(**row_of_segments())


def test_a_loss_that_the_caller_makes_of_the_logits_is_weighed_too(model) -> None:
    """The model's own loss had its weights already; nothing told that a loss of its logits had none."""
    weights = (0.5, 2.0, 1.0, 0.25)
    batch = {**padded(runs(4)), **IDS}
    expected = by_hand(model, *weights)
    model.zero_grad()
    with attach(engine(model, Pattern(*weights)), model):
        logits = model(**batch).logits
        nll = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="sum")
        (nll / BATCH_TARGETS).backward()
    assert (gradient(model) - expected).norm() <= 1e-6 * expected.norm()
