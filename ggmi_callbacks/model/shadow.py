"""The shadow: W', the weights that the anchors would have made.

    W' = argmin over the steps of a short run, started at W, of the code length of held-out anchors

It answers "what would real data have taught?". Its training gives three things at once: the parameters W' for
likelihood gains, the prequential code length of the anchors (each anchor's NLL *before* the update that uses it) and
their code length under W', from which comes I(S_anchor; W') (mixture form, nats).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ggmi_callbacks.model.probe import Parameters, Probe
from ggmi_callbacks.tasks import Inputs

_ATTEMPTS = 5  # learning rates tried: the optimiser of the run may be another kind, with rates of another size


@dataclass
class Shadow:
    """Result of :func:`train_shadow`; code lengths are nats per anchor, [n_fit]."""

    parameters: Parameters
    first_nll: Tensor
    final_nll: Tensor
    tokens: Tensor
    epochs: int
    learning_rate: float
    heldout_nll: list[float]
    """Mean code length of the held-out anchors before training and after each epoch, nats per sample."""
    seconds: float
    heldout: list[int]
    """Which batches of anchors were held out."""

    @property
    def improved(self) -> bool:
        """Whether the anchors have taught it anything: if not, W' is W and every likelihood gain is zero."""
        return min(self.heldout_nll) < self.heldout_nll[0]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to score on after a restart."""
        return dict(vars(self))


def train_shadow(
    probe: Probe,
    anchors: Sequence[Inputs],
    *,
    learning_rate: float,
    names: Sequence[str] | None = None,
    epochs: int = 3,
    heldout: float = 0.25,
    seed: int = 0,
    progress: bool = True,
) -> Shadow:
    """Train a second set of parameters on ``anchors`` and return it; the model itself is not touched.

    Dropout is off, so no random stream is consumed; parameters are held in float32 whatever the model's dtype. The
    epoch is kept after which the held-out anchors are shortest: a shadow that has memorised its anchors finds
    everything else surprising. If they never get shorter, the run starts again at a quarter of the learning rate,
    four times at most.

    Args:
        probe: the model to start from.
        anchors: batches of model inputs; at least two, of which a share is held out.
        learning_rate: of AdamW, without decay.
        names: of the parameters to train; all of :attr:`Probe.trainable` by default.
        epochs: at most so many passes.
        heldout: share of the batches held out, at least one.
        seed: of the order of the batches.
        progress: show a progress bar.

    Raises:
        ValueError: if there are fewer than two batches, ``learning_rate`` is negative, ``epochs`` less than one, or
            an anchor's code length is not finite.

    """
    if len(anchors) < 2:
        raise ValueError(f"`anchors` must make at least two batches, one of them held out, got {len(anchors)}.")
    if not learning_rate >= 0:
        raise ValueError(f"`learning_rate` of the shadow must not be negative, got {learning_rate}.")
    if epochs < 1:
        raise ValueError(f"`epochs` of the shadow must be at least 1, got {epochs}.")
    start = time.perf_counter()
    order = torch.randperm(len(anchors), generator=torch.Generator().manual_seed(seed)).tolist()
    split = min(max(1, round(heldout * len(anchors))), len(anchors) - 1)
    held, fit = [anchors[i] for i in order[:split]], [anchors[i] for i in order[split:]]
    for attempt in range(_ATTEMPTS):
        rate = learning_rate / 4**attempt
        with tqdm(
            total=epochs * len(fit), desc=f"GGMI shadow, lr {rate:.0e}", disable=not progress, leave=False
        ) as bar:
            shadow = _attempt(probe, names or list(probe.trainable), fit, held, rate, epochs, bar)
        if shadow.improved:
            break
    shadow.seconds, shadow.heldout = time.perf_counter() - start, order[:split]
    return shadow


def _attempt(
    probe: Probe,
    names: Sequence[str],
    fit: Sequence[Inputs],
    held: Sequence[Inputs],
    learning_rate: float,
    epochs: int,
    bar: tqdm,
) -> Shadow:
    """One run of ``epochs`` over ``fit``, of which the best parameters on ``held`` are kept."""
    trainable = probe.trainable
    master = {k: trainable[k].detach().float().clone().requires_grad_() for k in names}
    dtypes = {k: trainable[k].dtype for k in names}
    optimiser = torch.optim.AdamW(list(master.values()), lr=learning_rate, weight_decay=0.0)

    def cast() -> Parameters:
        return {k: p.to(dtypes[k]) for k, p in master.items()}

    def frozen() -> Parameters:
        return {k: p.detach().clone() for k, p in cast().items()}

    best = frozen()
    history, first = [_finite_mean(_lengths(probe, held, best))], []
    for epoch in range(epochs):
        for batch in fit:
            nll = _step(probe, batch, cast(), optimiser)
            if epoch == 0:
                first.append(nll)
            bar.update()
        now = frozen()
        history.append(_finite_mean(_lengths(probe, held, now)))
        bar.set_postfix(heldout_nats=f"{history[-1]:.2f}")
        if history[-1] < min(history[:-1]):
            best = now
    return Shadow(
        parameters=best,
        first_nll=torch.cat(first),
        final_nll=_lengths(probe, fit, best),
        tokens=torch.cat([probe.task.layout(batch).tokens for batch in fit]),
        epochs=epochs,
        learning_rate=learning_rate,
        heldout_nll=history,
        seconds=0.0,
        heldout=[],
    )


def _lengths(probe: Probe, batches: Sequence[Inputs], parameters: Parameters) -> Tensor:
    """Code lengths of all samples in ``batches``, [n]."""
    return torch.cat([probe.nll(batch, probe.task.layout(batch), parameters) for batch in batches])


def _step(probe: Probe, batch: Inputs, parameters: Parameters, optimiser: torch.optim.Optimizer) -> Tensor:
    """One update on ``batch``; returns its code lengths from before the update, [n]."""
    layout = probe.task.layout(batch)
    with torch.enable_grad(), probe.quiet():
        nll = -layout.total(probe.log_probs(batch, parameters))
        optimiser.zero_grad(set_to_none=True)
        (nll.sum() / layout.tokens.sum()).backward()
    params = [p for group in optimiser.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimiser.step()
    return nll.detach()


def _finite_mean(nll: Tensor) -> float:
    value = float(nll.mean())
    if value != value or value == float("inf"):
        raise ValueError(
            f"`anchors` have a code length of {value} nats under the shadow: lower `learning_rate`, or look for "
            "NaN in the model's weights."
        )
    return value
