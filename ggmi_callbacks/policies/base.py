"""What a policy is: gains of a batch in, weights out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor


class Policy(ABC):
    """Turns the gains of a batch into weights; subclasses override :meth:`weigh`.

    The base keeps the running statistics, updated by :meth:`update` with the gains of all ranks before the local
    ones are weighed. A policy that tells groups of samples apart names them in :attr:`needs`; :meth:`update` and
    :meth:`weigh` then get one tensor of group numbers, [n], for each.
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
        self._groups: tuple[Tensor, ...] = ()  # group of each sample by id, [N], in the order of `needs`

    @property
    def needs(self) -> tuple[str, ...]:
        """Groups that are told apart: ``"prompt"``, ``"source"``, ``"length"`` or columns of the training set."""
        return ()

    @property
    def per_token(self) -> bool:
        """Whether a gain that is a sum over a sample's targets is to be divided by their number beforehand."""
        return False

    @property
    def needs_all(self) -> str | None:
        """Why nothing can be weighed before the gains of the whole training set are known; None if it can."""
        return None

    def read(self, groups: Mapping[str, Tensor]) -> None:
        """Take the group of each sample by id, whole numbers from 0, [N], for each name in :attr:`needs`."""
        self._groups = tuple(groups[name] for name in self.needs)

    def reset(self) -> None:
        """Forget the stream; called before the first step of a run."""
        self._state = {}

    @property
    def judges_alone(self) -> bool:
        """Whether a sample's weight rests on its own gain alone, and never falls where that rises."""
        return False

    def update(self, gain: Tensor, *groups: Tensor) -> None:  # noqa: B027
        """Take note of ``gain`` [m], of all ranks, NaN where not scored."""

    @abstractmethod
    def weigh(self, gain: Tensor, *groups: Tensor) -> Tensor:
        """Weights [n] of the samples with ``gain`` [n]; those of samples that were not scored (NaN) are not used."""

    def __call__(
        self,
        gain: Tensor,
        pooled: Tensor | None = None,
        noise: Tensor | None = None,
        ids: Tensor | None = None,
        pooled_ids: Tensor | None = None,
    ) -> Tensor:
        """Weights [n] of a batch.

        Args:
            gain: of the local samples, nats, [n], NaN where not scored.
            pooled: the gains of all ranks, [m]; ``gain`` itself if there is one rank.
            noise: standard errors of ``gain``, nats, [n]; zero if not given.
            ids: of the local samples, [n], for a policy that :attr:`needs` groups.
            pooled_ids: of the samples of all ranks, [m]; anything where a gain is NaN.

        """
        gain = scored(gain)
        if pooled is None:
            self.update(gain, *self._of(ids))
        else:
            self.update(scored(pooled), *self._of(pooled_ids))
        return self.weights(gain, noise, ids)

    def weights(self, gain: Tensor, noise: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """Weights [n] by what is known of the stream so far, without taking note of ``gain`` [n]."""
        gain = scored(gain)
        highest = gain + self.margin * noise if self.margin and noise is not None else gain
        return torch.where(gain.isnan(), torch.ones_like(gain), self.weigh(highest, *self._of(ids)))

    def weights_of_all(self, gain: Tensor, noise: Tensor | None = None) -> Tensor | None:
        """Weights [N] of a whole training set whose gains are all known, by id, whatever the stream has shown.

        None for a policy that goes on by what the stream has shown.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Running statistics, with the policy's kind."""
        return {"kind": self._kind, **{k: v.clone() for k, v in self._state.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`; raises if it is another policy's."""
        if state["kind"] != self._kind:
            raise ValueError(
                f"the checkpoint was written with policy {state['kind']}, this run has {self._kind}. "
                "Resume with the same policy, or start anew."
            )
        self._state = {k: v.clone() for k, v in state.items() if k != "kind"}

    @property
    def _kind(self) -> str:
        """What running statistics mean, by which a checkpoint is known."""
        return type(self).__name__

    def _of(self, ids: Tensor | None) -> tuple[Tensor, ...]:
        """Groups of the samples ``ids`` [n], one tensor for each need."""
        if not self.needs:
            return ()
        if not self._groups or ids is None:
            raise ValueError(
                f"{self!r} tells samples apart by {' and '.join(map(repr, self.needs))}: call `read` with their groups "
                "first, and pass `ids`."
            )
        self._groups = tuple(group.to(ids.device) for group in self._groups)
        return tuple(group[ids] for group in self._groups)

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}
        changed = {k: v for k, v in vars(self).items() if not k.startswith("_") and v != defaults.get(k)}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"


def check_numbers(**values: Any) -> None:
    """Raise if one of ``values`` is neither a number nor None."""
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise TypeError(f"`{name}` must be a number, got {value!r}.")


def scored(gain: Tensor) -> Tensor:
    """``gain`` as floating point, NaN where it is not finite."""
    if not isinstance(gain, Tensor):
        raise TypeError(f"`gain` must be a tensor [n], got {type(gain).__name__}: use torch.as_tensor(gain).")
    gain = gain if gain.is_floating_point() else gain.float()
    return gain.masked_fill(~gain.isfinite(), float("nan"))
