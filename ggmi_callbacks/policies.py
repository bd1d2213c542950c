"""From gain to weight: what a sample's gain does to its part in the loss.

    Monitor     w = 1
    Filter      w = 1 if gain + margin x noise > threshold else 0;   threshold in nats, noise the gain's standard error,
                or w = 1 if gain is above a quantile of the gains seen so far
    Reweight    w = clip(r / mean r),   r = 2 sigmoid((gain - mean gain) / (temperature x std of gain))

Means, deviations and quantiles are *running* over the stream and over all ranks, never over the micro-batch, so a
micro-batch of one works and no sample's weight depends on its neighbours' alone. All state lives on the device; no
policy waits for it. A gain that is not finite means "not scored": it gives weight 1 and enters no statistic.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from numbers import Real
from typing import Any

import torch
from torch import Tensor


class Policy(ABC):
    """Turns the gains of a batch into weights; subclasses override :meth:`weigh`.

    The base keeps the running statistics, updated by :meth:`update` with the gains of all ranks before the local
    ones are weighed.
    """

    acts = True
    """Whether weights ever differ from one."""
    drops = False
    """Whether a weight of zero takes the sample out of the forward."""
    refill = False
    """Whether trainers fill batches up with other samples in place of those that are dropped."""
    margin: float = 0.0
    """How many standard errors a gain is given the benefit of before it is weighed."""
    overhead: float | None = None
    """Default share of step time that scoring may take; None for as much as it needs."""

    def __init__(self) -> None:
        self._state: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Forget the stream; called before the first step of a run."""
        self._state = {}

    def update(self, gain: Tensor) -> None:  # noqa: B027
        """Take note of ``gain`` [m], of all ranks, NaN where not scored."""

    @abstractmethod
    def weigh(self, gain: Tensor) -> Tensor:
        """Weights [n] of the samples with ``gain`` [n]; those of samples that were not scored (NaN) are not used."""

    def __call__(self, gain: Tensor, pooled: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Weights [n] of a batch.

        Args:
            gain: of the local samples, nats, [n], NaN where not scored.
            pooled: the gains of all ranks, [m]; ``gain`` itself if there is one rank.
            noise: standard errors of ``gain``, nats, [n]; zero if not given.

        """
        gain = _scored(gain)
        self.update(gain if pooled is None else _scored(pooled))
        return self.weights(gain, noise)

    def weights(self, gain: Tensor, noise: Tensor | None = None) -> Tensor:
        """Weights [n] by what is known of the stream so far, without taking note of ``gain`` [n]."""
        gain = _scored(gain)
        highest = gain + self.margin * noise if self.margin and noise is not None else gain
        return torch.where(gain.isnan(), torch.ones_like(gain), self.weigh(highest))

    def weights_of_all(self, gain: Tensor, noise: Tensor | None = None) -> Tensor:
        """Weights [N] of a whole training set whose gains are all known, whatever the stream has shown."""
        return self.weights(gain, noise)

    def state_dict(self) -> dict[str, Any]:
        """Running statistics, with the policy's kind."""
        return {"kind": type(self).__name__, **{k: v.clone() for k, v in self._state.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`; raises if it is another policy's."""
        if state["kind"] != type(self).__name__:
            raise ValueError(
                f"the checkpoint was written with policy {state['kind']}, this run has {type(self).__name__}. "
                "Resume with the same policy, or start anew."
            )
        self._state = {k: v.clone() for k, v in state.items() if k != "kind"}

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}
        changed = {k: v for k, v in vars(self).items() if not k.startswith("_") and v != defaults.get(k)}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in changed.items())})"


class Monitor(Policy):
    """Watches and changes nothing.

    Example:
        >>> import torch
        >>> Monitor()(torch.tensor([-1.0, 2.0]))
        tensor([1., 1.])

    """

    acts = False
    overhead = 0.05

    def weigh(self, gain: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(gain)


class Filter(Policy):
    """Trains on the samples whose gain is high enough and skips the rest before the forward.

    Args:
        threshold: keep gain + margin x noise > threshold, in the scorer's unit (nats per sample by default). Zero if
            neither this nor ``keep`` is given: drop only what surely speaks against itself, since throwing good data
            away costs as much as bad data do.
        keep: keep about this share instead, (0, 1]: the threshold is a quantile of the last ``window`` gains of the
            stream. For plentiful data: on a small pool, throwing data away costs what the bad data cost.
        window: length of that memory.
        margin: how many standard errors of its own a gain may lie below ``threshold`` and still be kept, 2 if not
            given (one-sided 97.5 %); scores without noise, as agreement, are taken as they are.
        refill: let trainers fill each batch up with other samples that pass, so that an optimiser step sees the batch
            size that was tuned and the run takes as many steps as without a filter. If false, or where a trainer
            cannot (its documentation says so), batches shrink to what is kept of them.

    Raises:
        ValueError: if both ``threshold`` and ``keep`` are given, ``threshold`` is NaN, ``keep`` is outside (0, 1] or
            ``margin`` is negative or comes with ``keep``.

    Example:
        >>> import torch
        >>> Filter(keep=0.5)(torch.tensor([3.0, -1.0, 2.0, 0.0]))
        tensor([1., 0., 1., 0.])

    """

    drops = True

    def __init__(
        self,
        threshold: float | None = None,
        keep: float | None = None,
        window: int = 4096,
        margin: float | None = None,
        refill: bool = True,
    ) -> None:
        super().__init__()
        _check_numbers(threshold=threshold, keep=keep, margin=margin, window=window)
        if threshold is not None and keep is not None:
            raise ValueError(f"give `threshold` or `keep`, not both (got {threshold} and {keep}).")
        if keep is not None and not 0 < keep <= 1:
            raise ValueError(f"`keep` must be a share in (0, 1], got {keep}.")
        if threshold is not None and threshold != threshold:
            raise ValueError("`threshold` must be a number, got NaN, which no gain exceeds.")
        if margin is not None and keep is not None:
            raise ValueError(f"`margin` goes with a threshold; `keep={keep}` takes a share of the gains as they are.")
        if margin is not None and not margin >= 0:
            raise ValueError(f"`margin` must not be negative, got {margin}.")
        if window < 2:
            raise ValueError(f"`window` must be at least 2, got {window}.")
        self.threshold = 0.0 if threshold is None and keep is None else threshold
        self.keep = keep
        self.window = window
        self.refill = refill
        if keep is None:
            self.margin = 2.0 if margin is None else margin

    def update(self, gain: Tensor) -> None:
        """Put the scored gains into the ring of the last ``window`` ones, without waiting for the device."""
        if self.keep is None:
            return
        if not self._state:
            dtype = torch.promote_types(gain.dtype, torch.float32)  # quantiles need as much
            # The last place takes what is not scored.
            ring = torch.full((self.window + 1,), float("nan"), dtype=dtype, device=gain.device)
            self._state = {"ring": ring, "next": torch.zeros((), dtype=torch.long, device=gain.device)}
        scored = ~gain.isnan()
        place = torch.where(scored, (self._state["next"] + scored.cumsum(0) - 1) % self.window, self.window)
        self._state["ring"][place] = gain.to(self._state["ring"].dtype)
        self._state["next"] = self._state["next"] + scored.sum()

    def weights_of_all(self, gain: Tensor, noise: Tensor | None = None) -> Tensor:
        """See :meth:`Policy.weights_of_all`; with ``keep`` exactly the best share, but for ties."""
        gain = _scored(gain)
        if self.keep is None or bool(gain.isnan().all()):
            return self.weights(gain, noise)
        bar = gain[~gain.isnan()].float().quantile(1 - self.keep, interpolation="higher")
        return ((gain >= bar) | gain.isnan()).to(gain.dtype)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`; raises if it is another policy's or of another ``window``."""
        size = len(state["ring"]) - 1 if "ring" in state else self.window
        if size != self.window:
            raise ValueError(f"`window` is {self.window}, the checkpoint was written with {size}: resume with {size}.")
        super().load_state_dict(state)

    def weigh(self, gain: Tensor) -> Tensor:
        """One where the gain passes, zero elsewhere."""
        if self.threshold is not None:
            return (gain > self.threshold).to(gain.dtype)
        # "higher" makes the bar a gain that was seen, so that keep=1 keeps everything and ties stay together.
        bar = torch.nanquantile(self._state["ring"][:-1], 1 - (self.keep or 0.0), interpolation="higher")
        return (gain >= bar).to(gain.dtype)


class Reweight(Policy):
    """Weighs each sample by its gain, against the running mean of weights.

    Args:
        temperature: in standard deviations of gain; small is close to a filter at the mean, large to plain training.
        min_weight: weights are clipped from below, after division by their running mean,
        max_weight: and from above.

    Raises:
        ValueError: if ``temperature`` is not positive or the bounds do not enclose 1.

    Example:
        Equal gains give exactly one.

        >>> import torch
        >>> Reweight()(torch.tensor([0.3, 0.3, 0.3]))
        tensor([1., 1., 1.])
        >>> Reweight(temperature=0.5)(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.1590, 1.0000, 1.8410])

    """

    def __init__(self, temperature: float = 1.0, min_weight: float = 0.0, max_weight: float = 5.0) -> None:
        super().__init__()
        _check_numbers(temperature=temperature, min_weight=min_weight, max_weight=max_weight)
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        if not 0 <= min_weight <= 1 <= max_weight:
            raise ValueError(
                "`min_weight` and `max_weight` must satisfy 0 <= min_weight <= 1 <= max_weight, "
                f"got {min_weight} and {max_weight}."
            )
        self.temperature, self.min_weight, self.max_weight = temperature, min_weight, max_weight

    def update(self, gain: Tensor) -> None:
        """Add to the sums of gain, gain^2 and raw weight.

        In float64, where the sum of equal float32 numbers and its quotient are exact: equal gains give exactly one.
        """
        if not self._state:
            zero = torch.zeros((), dtype=torch.float64, device=gain.device)
            self._state = dict.fromkeys(("count", "sum", "squares", "raw"), zero)
        state, value = dict(self._state), gain.double().nan_to_num(0.0)
        scored = ~gain.isnan()
        state["count"] = state["count"] + scored.sum()
        state["sum"] = state["sum"] + value.sum()
        state["squares"] = state["squares"] + value.square().sum()
        self._state = state
        state["raw"] = state["raw"] + (self._raw(gain) * scored).nan_to_num(0.0).sum()

    def weigh(self, gain: Tensor) -> Tensor:
        """Raw weight over its running mean, clipped."""
        mean = self._state["raw"] / self._state["count"].clamp_min(1)
        weights = self._raw(gain) / mean
        return weights.clamp(self.min_weight, self.max_weight).to(gain.dtype)

    def _raw(self, gain: Tensor) -> Tensor:
        count = self._state["count"].clamp_min(1)
        mean = self._state["sum"] / count
        # squares / count - mean^2 cancels to rounding, not to zero, when all gains are equal; the numerator is zero.
        deviation = (self._state["squares"] / count - mean.square()).clamp_min(0).sqrt()
        z = (gain.double() - mean) / (self.temperature * deviation.clamp_min(1e-12))
        return 2 * torch.sigmoid(z)


def check_policy(policy: Any) -> Policy:
    """``policy`` itself; raises if it is none.

    Example:
        >>> check_policy("filter")
        Traceback (most recent call last):
        ...
        TypeError: `policy` must be a policy such as Monitor(), Filter() or Reweight(), got 'filter': write Filter().

    """
    if isinstance(policy, Policy):
        return policy
    shown, way = repr(policy), "pass an object."
    known = {kind.__name__.lower(): kind.__name__ for kind in (Monitor, Filter, Reweight)}
    if isinstance(policy, type) and issubclass(policy, Policy):
        shown, way = f"the class {policy.__name__}", f"write {policy.__name__}()."
    elif isinstance(policy, str) and policy.lower() in known:
        way = f"write {known[policy.lower()]}()."
    raise TypeError(f"`policy` must be a policy such as Monitor(), Filter() or Reweight(), got {shown}: {way}")


def _check_numbers(**values: Any) -> None:
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise TypeError(f"`{name}` must be a number, got {value!r}.")


def _scored(gain: Tensor) -> Tensor:
    """``gain`` as floating point, NaN where it is not finite."""
    if not isinstance(gain, Tensor):
        raise TypeError(f"`gain` must be a tensor [n], got {type(gain).__name__}: use torch.as_tensor(gain).")
    gain = gain if gain.is_floating_point() else gain.float()
    return gain.masked_fill(~gain.isfinite(), float("nan"))
