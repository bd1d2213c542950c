"""One run of the shadow at one learning rate, and whether the anchors have taught it anything.

That is a question of statistics, put to the m anchors a_i that the run has not seen:

    d_i = nll_W(a_i) - nll_W'(a_i)                                nats
    improved  if  mean d > t sd(d) / sqrt(m)

with t the 1 - 0.05 / k quantile of Student's law of m - 1 degrees of freedom, k the number of runs up to the first that
improved: each of them is another chance to take noise for an improvement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ggmi_callbacks.functional import mean_interval
from ggmi_callbacks.model.probe import Parameters, Probe
from ggmi_callbacks.tasks import Inputs

_ERROR = 0.05  # one-sided, of the first look: how often it may take noise for an improvement
_FLOAT16_SCALE = (
    2.0**10
)  # of the loss, a mean of some nats: its gradients underflow in float16, and times 2^16 overflow


@dataclass
class ShadowRun:
    """One run at one learning rate; code lengths are in nats."""

    parameters: Parameters  # after the epoch with the shortest held-out anchors, or from before training
    first_nll: Tensor  # [n_fit]
    heldout_lengths: Tensor  # before training and after each epoch, [epochs + 1, m]
    learning_rate: float

    @property
    def finite(self) -> bool:
        """Whether every code length was finite."""
        return bool(self.heldout_lengths.isfinite().all() & self.first_nll.isfinite().all())

    @property
    def shortening(self) -> float:
        """Mean shortening of the held-out anchors after the best epoch of training, nats; negative if longer."""
        means = self.heldout_lengths.double().mean(1)
        return float(means[0] - means[1:].min()) if self.finite else -math.inf

    def overshot(self, looks: int) -> bool:
        """Whether training made the held-out anchors longer, by the test of :func:`improved` turned round."""
        if not self.finite:
            return True
        before, after = self.heldout_lengths[0], self.heldout_lengths[1:]
        return _above_zero(after[after.double().mean(1).argmin()] - before, looks)


def improved(lengths: Tensor, looks: int) -> bool:
    """Whether held-out anchors got shorter beyond the standard error of the paired differences.

    Args:
        lengths: before training and after each epoch, of which the one with the least mean counts, [epochs + 1, m].
        looks: k, how many runs were looked at, this one included.

    Example:
        >>> import torch
        >>> improved(torch.tensor([[5.0, 6.0, 7.0], [4.0, 5.1, 5.8]]), looks=1)
        True
        >>> improved(torch.tensor([[5.0, 6.0, 7.0], [3.0, 6.0, 7.1]]), looks=1)
        False

    """
    return _above_zero(lengths[0] - lengths[lengths.double().mean(1).argmin()], looks)


def _above_zero(differences: Tensor, looks: int) -> bool:
    """Whether the mean of ``differences`` [m] is above zero, one-sided."""
    return bool(mean_interval(differences, 1 - 2 * _ERROR / looks).low > 0)  # the lower end of a two-sided interval


def run_shadow(
    probe: Probe,
    names: Sequence[str],
    fit: Sequence[Inputs],
    held: Sequence[Inputs],
    learning_rate: float,
    epochs: int,
    progress: bool,
) -> ShadowRun:
    """Run ``epochs`` over ``fit`` from the live weights; the best parameters on ``held`` are kept."""
    best: Parameters = {name: probe.trainable[name].detach().clone() for name in names}
    lengths = [code_lengths(probe, held, best)]
    shortest = float(lengths[0].double().mean())
    title = f"GGMI shadow, lr {learning_rate:.0e}"
    with tqdm(total=epochs * len(fit), desc=title, disable=not progress, leave=False) as bar:
        first: list[Tensor] = []
        for now in passes(probe, names, fit, learning_rate, epochs, first, bar.update):
            lengths.append(code_lengths(probe, held, now))
            mean = float(lengths[-1].double().mean())
            bar.set_postfix(heldout_nats=f"{mean:.2f}")
            if mean < shortest:
                best, shortest = now, mean
    return ShadowRun(best, torch.cat(first), torch.stack(lengths), learning_rate)


def passes(
    probe: Probe,
    names: Sequence[str],
    fit: Sequence[Inputs],
    learning_rate: float,
    epochs: int,
    first: list[Tensor],
    update: Callable[[], object] = lambda: None,
) -> Iterator[Parameters]:
    """Train on ``fit`` from the live weights, and yield the parameters after each pass.

    Code lengths from before the first update on each batch go to ``first``; ``update`` is called after each batch.
    """
    trainable = probe.trainable
    master = {k: trainable[k].detach().float().clone().requires_grad_() for k in names}
    optimiser = torch.optim.AdamW(list(master.values()), lr=learning_rate, weight_decay=0.0)
    half = probe.autocast_dtype == torch.float16
    scaler = torch.amp.GradScaler(next(iter(master.values())).device.type, _FLOAT16_SCALE, enabled=half)

    def cast() -> Parameters:
        return {k: p.to(trainable[k].dtype) for k, p in master.items()}

    for epoch in range(epochs):
        for batch in fit:
            nll = _step(probe, batch, cast(), optimiser, scaler)
            if epoch == 0:
                first.append(nll)
            update()
        yield {k: p.detach().clone() for k, p in cast().items()}


def code_lengths(probe: Probe, batches: Sequence[Inputs], parameters: Parameters | None = None) -> Tensor:
    """Code lengths of all samples in ``batches``, [n]."""
    return torch.cat([probe.nll(batch, probe.task.layout(batch), parameters) for batch in batches])


def _step(
    probe: Probe,
    batch: Inputs,
    parameters: Parameters,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Tensor:
    """One update on ``batch``; returns its code lengths from before the update, [n]."""
    layout = probe.task.layout(batch)
    with torch.enable_grad(), probe.quiet():
        nll = -layout.total(probe.log_probs(batch, parameters))
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(nll.sum() / layout.tokens.sum()).backward()
    scaler.unscale_(optimiser)
    params = [p for group in optimiser.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    scaler.step(optimiser)
    scaler.update()
    return nll.detach()
