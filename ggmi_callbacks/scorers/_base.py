"""What a scorer is: gain of the samples in a live batch, and how sure it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.model import Probe, Shadow
from ggmi_callbacks.tasks import Inputs, Layout

Normalize = Literal["token"] | None


class Score(NamedTuple):
    """Gain of each sample and its standard error, nats, [n] each, and the scores that a gain is made of, if several."""

    gain: Tensor
    noise: Tensor
    parts: Tensor | None = None
    """[parts, n], in the order of :attr:`Scorer.parts`; NaN where not known."""

    def stacked(self) -> Tensor:
        """All of it in one tensor, [2 + parts, n]."""
        return torch.stack([self.gain, self.noise, *(() if self.parts is None else self.parts)])

    @classmethod
    def unstacked(cls, values: Tensor) -> Score:
        """The score of which ``values`` is :meth:`stacked`."""
        return cls(values[0], values[1], values[2:] if len(values) > 2 else None)


class Shared(NamedTuple):
    """What siblings say about samples of the training set."""

    ids: npt.NDArray[np.int64]  # [n] of those that were looked at
    information: npt.NDArray[np.float64]  # [n], nats per token; NaN without siblings
    group: npt.NDArray[np.int64]  # [n], a number for what each answers


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raise if scoring cannot be autocast to ``dtype``."""
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"`dtype` must be torch.bfloat16, torch.float16 or None, got {dtype!r}.")


class Scorer(ABC):
    """Estimates gain(z) = log p(z | W, A) - log p(z | W), what the anchors A tell the model about sample z, in nats.

    Mutual information is symmetric, so this is also what z tells the model about the anchors. Subclasses say how the
    right-hand side is had; :meth:`gain` is the only method that a scorer must have.

    Args:
        normalize: ``"token"`` divides each gain by the sample's number of targets (nats per token); ``None`` leaves
            nats per sample.

    """

    parts: tuple[str, ...] = ()
    """Names of the scores that gains are made of; empty if gain is one score."""
    static = False
    """Whether a sample's gain is the same throughout a run, so that it need be found only once."""
    margin: float = 0.0
    """How many standard errors the policy gives a gain the benefit of (:attr:`Policy.margin`); the engine sets it."""
    needs_ids = False
    """Whether it looks samples up by id in the training set that it has read."""
    additive = False
    """Whether gain, unless normalised, is a sum over a sample's targets, so that it grows with their number.

    ``Filter(keep=...)`` then ranks it per token; scores that are known before training are ranked as they are.
    """
    _data_read: SampleData | None = None
    needs_shadow = False
    """Whether gains mean something only if the shadow has learnt from the anchors (:attr:`Shadow.improved`)."""
    needs_anchors = True
    """Whether :meth:`prepare` or :meth:`gain` make use of the anchors or the shadow; a run without any needs False."""

    def __init__(self, normalize: Normalize = None) -> None:
        if normalize not in (None, "token"):
            raise ValueError(f"`normalize` must be None or 'token', got {normalize!r}.")
        self.normalize = normalize

    @property
    def name(self) -> str:
        """Short name, as in the ledger's columns."""
        return type(self).__name__.removesuffix("Scorer").lower()

    @property
    def unit(self) -> str:
        """Of a gain, in words."""
        return "nats per token" if self.normalize else "nats per sample"

    def __str__(self) -> str:
        return type(self).__name__

    def read(self, data: SampleData) -> None:  # noqa: B027
        """Take what the training set says of its samples; called before :meth:`prepare`, if there is one with ids."""

    def known(self) -> Score | None:
        """Scores of all samples by id, [N] each, where they are known before training; None if they must be found."""
        return None

    def targets(self) -> Tensor | None:
        """Numbers of targets of all samples by id, [N], where :meth:`known` gains are sums over them; else None."""
        return None

    def bound(self) -> Score | None:
        """What no sample's gain exceeds, by id, [N], where the data tell it before training (NaN where they do not).

        A filter with a threshold then need not score samples that cannot pass. None if the data tell nothing.
        """
        return None

    def summary(self) -> dict[str, Any]:
        """What it adds to :meth:`GainEngine.results`: numbers, and under ``"estimators"`` how each was found."""
        return {}

    def shared(self) -> Shared | None:
        """What siblings say about samples of the training set; None if it does not look at that."""
        return None

    def read_once(self, data: SampleData) -> None:
        """:meth:`read`, unless ``data`` are what it has read last."""
        if self._data_read is not data:
            self.read(data)
            self._data_read = data

    def shadow_parameters(self, probe: Probe) -> list[str] | None:
        """Names of the parameters that the shadow trains for this scorer; None for all that training changes."""
        return None

    def check_start(self, probe: Probe, anchors: Sequence[Inputs]) -> None:  # noqa: B027
        """Raise where scores do not fit the weights that a run starts from, or its anchors; not called on a resume."""

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:  # noqa: B027
        """Do once, before the first training step, what can be done once; forget any earlier run."""

    def refresh(self, step: int, optimizer: torch.optim.Optimizer | None = None) -> None:  # noqa: B027
        """Called before the first scored batch of each optimiser step ``step``, with the optimiser if it is known."""

    @abstractmethod
    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        """Gain of each sample of a batch in nats, [n]; evaluates, never trains."""

    def noisy_gain(self, inputs: Inputs, layout: Layout) -> Score:
        """:meth:`gain` with its standard error; zero for a scorer that knows none."""
        gain = self.gain(inputs, layout)
        return Score(gain, torch.zeros_like(gain))

    def score(self, inputs: Inputs, layout: Layout) -> Score:
        """Return :meth:`noisy_gain`, normalised as asked."""
        score = self.noisy_gain(inputs, layout)
        if self.normalize is None:
            return score
        tokens = layout.tokens.clamp_min(1)
        return score._replace(gain=score.gain / tokens, noise=score.noise / tokens)

    def __call__(self, inputs: Inputs, layout: Layout) -> Tensor:
        """Return the gain alone, normalised as asked, [n]."""
        return self.score(inputs, layout).gain

    def state_dict(self) -> dict[str, Any]:
        """What a restart cannot compute again."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what :meth:`state_dict` gave, after :meth:`prepare`."""


class Unscored(Scorer):
    """Knows no gain of any sample: of a run that only listens."""

    needs_anchors = False

    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        """NaN."""
        return torch.full((layout.n,), float("nan"), device=layout.target.device)


class TokenScorer(Scorer):
    """A scorer whose gain is a sum over targets, gain(z) = sum_t g_t, so that their spread tells its noise.

    The targets are taken for a draw of T from the kind of text that z is:

        noise(z) = sqrt( T / (T - 1) sum_t (g_t - mean g)^2 )        nats; zero for a single target

    """

    additive = True

    @abstractmethod
    def token_gain(self, inputs: Inputs, layout: Layout) -> tuple[Tensor, Layout]:
        """g_t of each target [B, T'], zero elsewhere, and the layout of the targets that were scored.

        That is ``layout`` itself if all were; if some were left out, the sum is scaled up to all.
        """

    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        """See :meth:`Scorer.gain`."""
        return self.noisy_gain(inputs, layout).gain

    def noisy_gain(self, inputs: Inputs, layout: Layout) -> Score:
        """See :meth:`Scorer.noisy_gain`; NaN for a sample of which no target was scored."""
        return self._sum(*self.token_gain(inputs, layout), layout)

    def _sum(self, values: Tensor, scored: Layout, layout: Layout) -> Score:
        """Gain and noise of each sample of ``layout`` by what :meth:`token_gain` found."""
        count, total = scored.tokens, scored.total(values)
        mean = total / count.clamp_min(1)
        squares = scored.total((values - scored.spread(mean)).square() * scored.target)
        noise = (squares * count / (count - 1).clamp_min(1)).sqrt()
        if scored is layout:
            return Score(total, noise)
        noise = noise.masked_fill((count == 1) & (layout.tokens > 1), float("nan"))  # one of several tells no spread
        scale = layout.tokens / count  # NaN or infinite where there is nothing to scale
        return Score(total * scale, noise * scale)
