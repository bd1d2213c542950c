"""Gain as a likelihood ratio against a shadow.

    gain(z) = nll_W(z) - nll_W'(z)        (nats; W' has seen the anchors)

Cost: one forward without gradient for W' and one for W; less with ``layers``, ``stride`` and ``dtype``. Sees: whether
a sample is what the anchors would make likelier. Blind to: what the shadow is too small to judge (a wrong figure in a
right-looking solution).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ggmi_callbacks.model import Parameters, Probe, Shadow, blocks, shared_trunk
from ggmi_callbacks.scorers._base import Normalize, TokenScorer, check_dtype
from ggmi_callbacks.tasks import Inputs, Layout

_ROUNDING = 0.01  # relative; bfloat16, the coarsest, is off by less in means, and a skipped input by far more


class LikelihoodScorer(TokenScorer):
    """gain(z) = nll_W(z) - nll_W'(z), with a shadow W' that saw the anchors (:class:`Shadow`).

    With ``reference="initial"`` a sample's gain never changes, so the engine finds it once for each sample id and
    remembers it for the run. A data set that changes a sample whenever it is drawn (random augmentation, dropped
    words) then has the gain of the first draw in all epochs: for such data use ``reference="current"``.

    Args:
        reference: which W. ``"initial"``, the weights and buffers before training (the default): both terms are
            fixed, a sample's gain does not drift as the model learns the synthetic data. ``"current"``, the live
            ones: what the anchors could *still* teach; after some epochs it says more about W than about z.
        layers: the shadow trains only the last so many blocks (and not the embeddings); the blocks below them run
            once for both terms. ``None`` for all. Needs ``reference="initial"``.
        stride: score every so many-th position of a row only, scaled up: the head, in a model with a large vocabulary
            a good part of a forward, runs on those alone. For rows padded on the right; packed batches are refused,
            and a sample of fewer targets than two scored ones is not scored.
        dtype: autocast both forwards to it, for example ``torch.bfloat16`` beside training in float32; None for
            :attr:`Probe.autocast_dtype`, the precision of the run.
        normalize: see :class:`Scorer`.

    Raises:
        ValueError: if an argument is out of its range, or ``layers`` is given with ``reference="current"``.

    Example:
        >>> import torch
        >>> from ggmi_callbacks.model import Probe, train_shadow
        >>> from ggmi_callbacks.tasks import SampleLoss
        >>> _ = torch.manual_seed(0)
        >>> probe = Probe(torch.nn.Linear(1, 1), SampleLoss(lambda model, batch: (model(batch["x"]) - 3)[:, 0] ** 2))
        >>> anchors = [{"x": torch.randn(4, 1)} for _ in range(4)]
        >>> scorer = LikelihoodScorer()
        >>> scorer.prepare(probe, anchors, train_shadow(probe, anchors, learning_rate=0.1, progress=False))
        >>> bool((scorer(anchors[0], probe.task.layout(anchors[0])) > 0).all())
        True

    """

    needs_shadow = True

    def __init__(
        self,
        reference: Literal["initial", "current"] = "initial",
        layers: int | None = None,
        stride: int = 1,
        dtype: torch.dtype | None = None,
        normalize: Normalize = None,
    ) -> None:
        super().__init__(normalize)
        if reference not in ("initial", "current"):
            raise ValueError(f"`reference` must be 'initial' or 'current', got {reference!r}.")
        for name, value in (("layers", layers), ("stride", stride)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if layers is not None and reference == "current":
            raise ValueError("`layers` shares the blocks below them between two fixed models: use reference='initial'.")
        check_dtype(dtype)
        self.reference, self.layers, self.stride, self.dtype = reference, layers, stride, dtype
        self.static = reference == "initial"

    def shadow_parameters(self, probe: Probe) -> list[str] | None:
        """Names of the trainable parameters in the last ``layers`` blocks."""
        if self.layers is None:
            return None
        tail = {id(p) for block in self._split(probe)[1] for p in block.parameters()}
        names = [name for name, p in probe.trainable.items() if id(p) in tail]
        if not names:
            raise ValueError(f"`layers={self.layers}`: the last blocks have no trainable parameters.")
        return names

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        """Keep the shadow and, if they are the reference, the initial weights and buffers.

        Raises:
            ValueError: if ``layers`` cannot be: the model is no chain of blocks, or the shadow has trained others.

        """
        self._probe, self._shadow = probe, shadow.weights(probe)
        live = probe.trainable if self.static else {}
        self._start = {name: live[name].detach().clone() for name in shadow.parameters if name in live}
        if self.layers is not None:
            if others := set(shadow.parameters) - set(self.shadow_parameters(probe) or ()):
                raise ValueError(
                    f"`layers={self.layers}`: the shadow has trained more than those, {sorted(others)[:3]}."
                )
            self._check_chain(anchors[0])

    @property
    def _reference(self) -> Parameters | None:
        """All of W; None for the live weights."""
        return {**self._shadow, **self._start} if self.static else None

    @torch.no_grad()
    def token_gain(self, inputs: Inputs, layout: Layout) -> tuple[Tensor, Layout]:
        """See :meth:`TokenScorer.token_gain`."""
        probe = self._probe
        if self.stride > 1:
            inputs, layout = probe.task.thin(inputs, layout, self.stride)
        with probe.quiet(), probe.precision(self.dtype or probe.autocast_dtype):
            without, given = self._both(inputs) if self.layers is None else self._both_on_one_trunk(inputs)
        return given - without, layout

    def _both(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Log-probabilities under W and under W'."""
        return self._probe.log_probs(inputs, self._reference), self._probe.log_probs(inputs, self._shadow)

    def _both_on_one_trunk(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The same where they differ in the last blocks only."""
        trunk, tail = self._split(self._probe)
        inputs = dict(inputs)  # what another scorer has found did not pass through the trunk
        with shared_trunk(trunk, tail[0]) as replay:
            without = self._probe.log_probs(inputs, self._reference)
            replay()
            return without, self._probe.log_probs(inputs, self._shadow)

    @torch.no_grad()
    def _check_chain(self, batch: Inputs) -> None:
        """Models whose later blocks get more than the output of those before them do not survive the short cut."""
        with self._probe.quiet():
            wanted, found = (torch.stack(both(batch)) for both in (self._both, self._both_on_one_trunk))
            if (wanted - found).abs().mean() > _ROUNDING * wanted.abs().mean():
                raise ValueError(
                    f"`layers={self.layers}`: the blocks of {type(self._probe.model).__name__} are not a plain chain, "
                    "so they cannot be run once for two models. Leave `layers` out."
                )

    def _split(self, probe: Probe) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
        """Blocks below the last ``layers`` ones, and those."""
        found = blocks(probe.model)
        assert self.layers is not None
        if self.layers > len(found):
            raise ValueError(f"`layers={self.layers}` is more than the model's {len(found)} blocks.")
        return found[: -self.layers], found[-self.layers :]

    def state_dict(self) -> dict[str, Any]:
        """The initial weights of what the shadow has trained; the shadow keeps the others."""
        return {"start": self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the initial weights."""
        self._start = state["start"]
