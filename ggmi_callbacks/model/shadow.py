"""The shadow: W', the weights that the anchors would have made.

    W' = argmin over the epochs of a short run, started at W, of the code length of held-out anchors

It answers "what would real data have taught?". Its training gives three things at once: the parameters W' for
likelihood gains, the prequential code length of the anchors (each anchor's NLL *before* the update that uses it) and
their code length under W', from which comes I(S_anchor; W') (mixture form, nats).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.model.probe import Parameters, Probe
from ggmi_callbacks.model.shadow_run import ShadowRun, code_lengths, improved, run_shadow
from ggmi_callbacks.tasks import Inputs

# The given rate is that of the run, which suits what the run trains and its own optimiser. Adapters and soft prompts
# learn at AdamW rates ten and more times as high as full weights do: the search goes up to 64 times. SGD has rates a
# hundred and more times too high for AdamW: it goes down to 1/256. Steps of four keep that to eight runs at most.
_FACTOR, _UP, _DOWN = 4.0, 3, 4
# Of the code length of the held-out anchors: a shadow that shortens them by less has hardly left W. Its gains are right
# to first order but hundredths of nats, which no temperature or threshold in nats is made for.
_ENOUGH = 0.01


@dataclass
class Shadow:
    """Result of :func:`train_shadow`; code lengths are in nats.

    Args:
        parameters: what the anchors have taught, by name, for the parameters that were trained.
        first_nll: of each anchor trained on, before the first update that used it, [n_fit].
        final_nll: of the same anchors under ``parameters``, [n_fit].
        tokens: targets of the same anchors, [n_fit].
        epochs: passes over the anchors.
        learning_rate: the one that ``parameters`` come from.
        heldout_lengths: of each held-out anchor before training and after each epoch, [epochs + 1, m].
        heldout: which batches of anchors were held out.
        rates: learning rates tried, in order.
        improved: whether the held-out anchors got shorter beyond the standard error of that difference; if not, gains
            are noise. The test is paired, one difference for each of the m held-out anchors, and one-sided at 95 %, or
            stricter after runs that failed (:mod:`ggmi_callbacks.model.shadow_run`). With m = 1 there is no standard
            error and nothing counts as an improvement; with m = 2 to 4 only one that all of them show alike. Give at
            least 32 anchors, of which a quarter is held out.
        seconds: that all of it took.
        rest: see :meth:`weights`.

    """

    parameters: Parameters
    first_nll: Tensor
    final_nll: Tensor
    tokens: Tensor
    epochs: int
    learning_rate: float
    heldout_lengths: Tensor
    heldout: list[int]
    rates: list[float]
    improved: bool
    seconds: float
    rest: Parameters | None = None

    def summary(self) -> dict[str, Any]:
        """What the run cost and whether it taught anything, for people."""
        names = ("seconds", "epochs", "learning_rate", "rates", "improved", "heldout_nll")
        return {name: getattr(self, name) for name in names}

    @property
    def heldout_nll(self) -> list[float]:
        """Mean code length of the held-out anchors before training and after each epoch, nats per sample."""
        return self.heldout_lengths.double().mean(1).tolist()

    def weights(self, probe: Probe) -> Parameters:
        """All of W': what was trained, and the start of what was not (other parameters, and buffers).

        The first call copies the start from the live model, so it comes before the first training step; later calls,
        and those after a restart, return the same tensors.
        """
        if self.rest is None:
            self.rest = probe.snapshot(without=self.parameters)
        return {**self.rest, **self.parameters}

    @property
    def best(self) -> int:
        """Passes over the anchors after which the held-out ones were shortest; 0 if no training shortened them."""
        return int(self.heldout_lengths.double().mean(1).argmin())

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

    Dropout is off, so no random stream is consumed; buffers stay as they are; parameters are held in float32 whatever
    the model's dtype. The epoch is kept after which the held-out anchors are shortest: a shadow that has memorised its
    anchors finds everything else surprising.

    If the held-out anchors have not improved (:attr:`Shadow.improved`), or by less than one per cent, the run starts
    again from W at 4, 16 and 64 times ``learning_rate``, until they have or get longer. If none of these improved and
    ``learning_rate`` itself made them longer, it starts again at 1/4 to 1/256 of it. So there are one to eight runs, of
    which the best is returned. If none improved, that is W itself or a shadow whose gains are noise.

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
        ValueError: if there are fewer than two batches, nothing can be trained, ``learning_rate`` is not positive,
            ``epochs`` is less than one, an anchor's code length is not finite, or training diverges at every rate.

    Example:
        >>> import torch
        >>> from ggmi_callbacks.tasks import SampleLoss
        >>> _ = torch.manual_seed(0)
        >>> probe = Probe(torch.nn.Linear(1, 1), SampleLoss(lambda model, batch: (model(batch["x"]) - 3)[:, 0] ** 2))
        >>> anchors = [{"x": torch.randn(4, 1)} for _ in range(4)]
        >>> shadow = train_shadow(probe, anchors, learning_rate=0.1, progress=False)
        >>> shadow.improved, len(shadow.heldout_nll)
        (True, 4)

    """
    _check_arguments(probe, anchors, learning_rate, epochs)
    start = time.perf_counter()
    order = torch.randperm(len(anchors), generator=torch.Generator().manual_seed(seed)).tolist()
    split = min(max(1, round(heldout * len(anchors))), len(anchors) - 1)
    held, fit = [anchors[i] for i in order[:split]], [anchors[i] for i in order[split:]]
    trained = list(probe.trainable) if names is None else names

    def run(rate: float) -> ShadowRun:
        found = run_shadow(probe, trained, fit, held, rate, epochs, progress)
        if not found.finite:
            _check_anchors(probe, anchors)
        return found

    search = _Search(run)
    best = search.start_at(learning_rate)
    return Shadow(
        parameters=best.parameters,
        first_nll=best.first_nll,
        final_nll=code_lengths(probe, fit, best.parameters),
        tokens=torch.cat([probe.task.layout(batch).tokens for batch in fit]),
        epochs=epochs,
        learning_rate=best.learning_rate,
        heldout_lengths=best.heldout_lengths,
        heldout=order[:split],
        rates=search.rates,
        improved=search.improved,
        seconds=time.perf_counter() - start,
    )


@dataclass
class _Search:
    """Runs at several learning rates, of which the best is kept: one that improved before one that has not."""

    run: Callable[[float], ShadowRun]
    rates: list[float] = field(default_factory=list)
    best: ShadowRun | None = None
    improved: bool = False
    looks: int = 1  # runs up to the first that improved

    def start_at(self, rate: float) -> ShadowRun:
        """Try ``rate``, then higher ones until one has taught enough, then lower ones if ``rate`` was too high."""
        found = first = self._try(rate)
        for power in range(1, _UP + 1):
            if self._enough() or found.overshot(self.looks):
                break
            found = self._try(rate * _FACTOR**power)
        # Below a rate that shortened the held-out anchors the step is the same one, only smaller.
        for power in range(1, _DOWN + 1) if first.shortening < 0 else ():
            if self.improved:
                break
            self._try(rate / _FACTOR**power)
        assert self.best is not None
        if not self.best.finite:
            raise ValueError(
                f"`learning_rate`: the shadow diverged at every rate from {max(self.rates):.1e} down to "
                f"{min(self.rates):.1e}. Give a lower `learning_rate`, or look at the scale of the model's weights."
            )
        return self.best

    def _try(self, rate: float) -> ShadowRun:
        self.rates.append(rate)
        found = self.run(rate)
        success = found.finite and improved(found.heldout_lengths, self.looks)
        if self.best is None or (success, found.shortening) > (self.improved, self.best.shortening):
            self.best, self.improved = found, success
        if not self.improved:
            self.looks += 1
        return found

    def _enough(self) -> bool:
        assert self.best is not None
        return self.improved and self.best.shortening > _ENOUGH * float(self.best.heldout_lengths[0].mean().abs())


def _check_arguments(probe: Probe, anchors: Sequence[Inputs], learning_rate: float, epochs: int) -> None:
    if len(anchors) < 2:
        raise ValueError(f"`anchors` must make at least two batches, one of them held out, got {len(anchors)}.")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"`learning_rate` of the shadow must be positive, got {learning_rate}.")
    if epochs < 1:
        raise ValueError(f"`epochs` of the shadow must be at least 1, got {epochs}.")
    if not probe.trainable:
        raise ValueError(
            f"`model` ({type(probe.model).__name__}) has nothing to train: `requires_grad` is False everywhere. "
            "Unfreeze the parameters that the run trains, or add adapters, before the shadow is trained."
        )


def _check_anchors(probe: Probe, anchors: Sequence[Inputs]) -> None:
    """Raise if the model itself gives some of ``anchors`` no finite code length, and name them."""
    lengths = code_lengths(probe, anchors)
    bad = (~lengths.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(lengths)} `anchors` have a code length of {float(lengths[bad[0]])} nats under the "
            f"model, among them number {', '.join(map(str, bad[:20]))} (from 0, in the order of the batches). Look at "
            "these samples; if it is all of them, look for NaN in the model's weights."
        )
