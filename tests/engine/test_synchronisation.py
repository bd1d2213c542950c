"""What makes the host wait for the device: nothing under Monitor and Reweight, one look under Filter."""

from __future__ import annotations

import traceback
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ggmi_callbacks import Filter, JointScorer, LikelihoodScorer, Monitor, PromptInformationScorer, Reweight
from ggmi_callbacks.scorers import GradientScorer, LookaheadScorer
from tests._batches import VOCABULARY
from tests._loop import Loop, builder, stream

# Operations whose result the host has to see. `tolist`, `numpy` and `cpu` read CPU memory without any operation.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "is_nonzero", "equal"}
READING = ("tolist", "numpy", "cpu", "__array__")


def indices_of(args: tuple) -> list:
    return args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else []


class Counting(TorchDispatchMode):
    """Counts operations that would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket._qualified_op_name.split("::")[1]
        masked = name.startswith("index") and any(i is not None and i.dtype == torch.bool for i in indices_of(args))
        # Hugging Face's mask builder looks at the positions of a packed batch in every forward: the model's own.
        if (name in WAITING or masked) and not any("masking_utils" in f.filename for f in traceback.extract_stack()):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch, Counting() as mode:
        for name in READING:
            plain = getattr(torch.Tensor, name)
            patch.setattr(torch.Tensor, name, lambda *a, n=name, f=plain, **k: mode.seen.append(n) or f(*a, **k))
        yield mode


def waits(loop: Loop, batch: dict, monkeypatch) -> list[str]:
    """What waits in one step between a trainer's batch and its backward."""
    model = loop.model
    with counting(monkeypatch) as mode:
        inputs = loop.engine.observe(batch)
        log_probs = loop.engine.probe.task.log_probs(model, inputs)
        loop.engine.record_log_probs(log_probs)
        weights = loop.engine.weights
        (log_probs if weights is None else log_probs * weights).sum().backward()
        loop.engine.end_step()
    return mode.seen


SCORERS = {
    "likelihood": LikelihoodScorer,
    "cheap": lambda: LikelihoodScorer(layers=1, stride=2, dtype=torch.bfloat16),
    "current": lambda: LikelihoodScorer("current"),
    "prompt": PromptInformationScorer,
    "joint": JointScorer,
    "gradient": lambda: GradientScorer(every=2),
    "lookahead": lambda: LookaheadScorer(every=2),
}


@pytest.mark.filterwarnings("ignore:the scale of JointScorer")
@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("form", ["rows", "packed"])
@pytest.mark.parametrize(("policy", "expected"), [(Monitor, []), (Reweight, []), (Filter, ["tolist"])])
def test_only_a_filter_waits_and_once_a_step(make_model, monkeypatch, scorer, form, policy, expected) -> None:
    # Under sdpa the model itself looks at its attention mask in every forward; under eager attention it does not.
    model = make_model(vocab_size=VOCABULARY, attn_implementation="eager")
    made = LikelihoodScorer(layers=1) if (scorer, form) == ("cheap", "packed") else SCORERS[scorer]()
    loop = builder(lambda **_: model)(policy(), scorer=made, overhead=0.99)
    for batch in stream(3, form):
        assert waits(loop, batch, monkeypatch) == expected


def test_the_batch_after_a_look_is_evaluated_without_waiting(make_model, monkeypatch) -> None:
    model = make_model(vocab_size=VOCABULARY, attn_implementation="eager")
    loop = builder(lambda **_: model)(Monitor(), overhead=0.99)
    before, after = stream(2)
    waits(loop, before, monkeypatch)
    loop.engine.recorder.live.twins.look(step=1)
    assert waits(loop, after, monkeypatch) == []
    assert loop.engine.recorder.live.twins.collect() == 4


def test_what_waits_is_counted(monkeypatch) -> None:
    with counting(monkeypatch) as mode:
        x = torch.ones(3)
        x.sum().item(), bool(x.any()), x.nonzero(), x.tolist(), x.cpu(), x[x > 0]
    assert mode.seen == ["_local_scalar_dense", "_local_scalar_dense", "nonzero", "tolist", "cpu", "index"]
