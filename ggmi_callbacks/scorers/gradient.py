r"""Gain to first order, along the gradient of the anchors.

    g_A = grad_W log p(A)                                             summed over the anchors
    gain(z) = lr <g_A, grad_W log p(z)> = lr d/de log p(z | W + e g_A) at e = 0       (nats)

The inner product is a directional derivative, so no per-sample gradient is ever made. :class:`GradientScorer` has it
exactly by forward-mode differentiation (dual numbers through one forward); :class:`LookaheadScorer` by a finite
difference, for models with kernels that have no forward mode. Both share :class:`AnchorGradient`.

With ``optimizer_aware=True`` the inner product is Adam's, lr <g_A, P grad log p(z)> with P = 1 / (sqrt(v) + eps), v the
optimiser's bias-corrected second moments: what a sample teaches by the step that will really be taken.

Cost: the anchors' gradient (a backward over at most ``anchor_batches`` batches every ``every`` steps), then about two
forwards a batch. Limits: first order only, and noisy once the anchors are learned.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from ggmi_callbacks.model import Parameters, Probe, Shadow
from ggmi_callbacks.scorers._base import Normalize, TokenScorer
from ggmi_callbacks.tasks import Inputs, Layout


class AnchorGradient(TokenScorer):
    """Shared by the scorers that move along the anchors' gradient g_A.

    Args:
        learning_rate: lr, the length of the step; scales every gain.
        layers: only the last so many linear layers, in module order (the head is the last), in which the shadow is
            trained too; ``None`` for all.
        every: optimiser steps between two computations of g_A.
        anchor_batches: at most so many batches of anchors each time, in turn; their gradient is scaled up to all.
        optimizer_aware: measure in the geometry of the run's Adam. Before its first update there is none, and
            samples are not scored.
        normalize: see :class:`Scorer`.

    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        layers: int | None = None,
        every: int = 20,
        anchor_batches: int = 4,
        optimizer_aware: bool = False,
        normalize: Normalize = None,
    ) -> None:
        super().__init__(normalize)
        for name, value in (("layers", layers), ("every", every), ("anchor_batches", anchor_batches)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if not learning_rate > 0:
            raise ValueError(f"`learning_rate` must be positive, got {learning_rate}.")
        self.learning_rate, self.layers = learning_rate, layers
        self.every, self.anchor_batches = every, anchor_batches
        self.optimizer_aware = optimizer_aware
        self._direction: Parameters = {}
        self._computed_at: int | None = None
        self._turn = 0

    def shadow_parameters(self, probe: Probe) -> list[str] | None:
        """The last ``layers``, so that a shadow weighs no more than the gradient."""
        return linear_weights(probe.model, self.layers) if self.layers else None

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        """Choose the parameters and keep the anchors."""
        self._probe, self._anchors = probe, anchors
        self._names = linear_weights(probe.model, self.layers)
        self._direction, self._computed_at, self._turn = {}, None, 0

    def refresh(self, step: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Compute g_A anew if it is older than ``every`` steps.

        Raises:
            ValueError: if the optimiser is asked for and is not there, or keeps no second moments.

        """
        if self._computed_at is not None and step - self._computed_at < self.every:
            return
        scales = second_moment_scales(self._probe, self._names, optimizer) if self.optimizer_aware else {}
        if scales is None:
            return
        count = min(self.anchor_batches, len(self._anchors))
        chosen = [self._anchors[(self._turn + i) % len(self._anchors)] for i in range(count)]
        self._turn = (self._turn + count) % len(self._anchors)
        gradient = log_likelihood_gradient(self._probe, chosen, self._names, len(self._anchors) / count)
        self._direction = {k: (g * scales[k]).to(g.dtype) if k in scales else g for k, g in gradient.items()}
        self._computed_at = step

    def token_gain(self, inputs: Inputs, layout: Layout) -> tuple[Tensor, Layout]:
        """See :meth:`TokenScorer.token_gain`."""
        if not self._direction:
            return torch.full_like(layout.target, float("nan"), dtype=torch.float32), layout
        return self.learning_rate * self.slope(inputs), layout

    @abstractmethod
    def slope(self, inputs: Inputs) -> Tensor:
        """Change of log p of each target along g_A, [B, T']."""

    def state_dict(self) -> dict[str, Any]:
        """The direction and its age."""
        return {"direction": self._direction, "computed_at": self._computed_at, "turn": self._turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the direction and its age."""
        self._direction, self._computed_at = state["direction"], state["computed_at"]
        self._turn = state["turn"]


class GradientScorer(AnchorGradient):
    """gain(z) = lr <grad log p(A), grad log p(z)>, exact in the chosen layers, by forward-mode differentiation."""

    def slope(self, inputs: Inputs) -> Tensor:
        """See :meth:`AnchorGradient.slope`."""
        probe = self._probe
        trainable = probe.trainable
        # Fused attention kernels have no forward mode; the plain one has.
        with torch.no_grad(), probe.quiet(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            dual = {k: forward_ad.make_dual(trainable[k].detach(), g) for k, g in self._direction.items()}
            try:
                log_probs = probe.call(lambda model: probe.task.plain_log_probs(model, inputs), dual)
            except NotImplementedError as error:
                raise ValueError(
                    f"{type(probe.model).__name__} runs an operation without forward-mode differentiation "
                    f"({str(error).splitlines()[0]}): use `LookaheadScorer`, which needs none."
                ) from error
            return forward_ad.unpack_dual(log_probs).tangent


class LookaheadScorer(AnchorGradient):
    """gain(z) = lr [nll_W(z) - nll_{W + e g_A}(z)] / e, one more forward through any kernel.

    The difference has to stand above rounding, so both forwards run without autocast. A model whose weights themselves
    are in bfloat16 leaves little but noise, the more so the smaller it is: use :class:`GradientScorer` there.

    Args:
        relative_step: length of e g_A relative to the length of the chosen parameters. Small enough for the first
            order to hold, large enough for the difference to stand above rounding.
        **kwargs: see :class:`AnchorGradient`.

    """

    def __init__(self, relative_step: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not relative_step > 0:
            raise ValueError(f"`relative_step` must be positive, got {relative_step}.")
        self.relative_step = relative_step

    @torch.no_grad()
    def slope(self, inputs: Inputs) -> Tensor:
        """See :meth:`AnchorGradient.slope`."""
        trainable = self._probe.trainable
        chosen = {k: trainable[k].detach() for k in self._direction}
        step = self.relative_step * _norm(chosen) / _norm(self._direction).clamp_min(1e-30)  # e
        ahead = {k: p + (step * self._direction[k]).to(p.dtype) for k, p in chosen.items()}
        with self._probe.quiet(), self._probe.precision(None):
            return (self._probe.log_probs(inputs, ahead) - self._probe.log_probs(inputs)) / step


def linear_weights(model: nn.Module, last: int | None = None) -> list[str]:
    """Names of the trainable weights of ``model``'s linear layers in module order, only the ``last`` ones if given."""
    trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    names = list(dict.fromkeys(trainable[id(w)] for w in weights if id(w) in trainable))
    if not names:
        raise ValueError("`model` has no trainable linear layer; use `LikelihoodScorer` instead.")
    return names[-last:] if last else names


def log_likelihood_gradient(
    probe: Probe, batches: Sequence[Inputs], names: Sequence[str], scale: float = 1.0
) -> Parameters:
    """``scale`` x the gradient of sum log p(z) over ``batches`` with respect to the parameters ``names``."""
    leaves = {k: probe.trainable[k].detach().requires_grad_() for k in names}
    total = {k: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for k, p in leaves.items()}
    for batch in batches:
        with torch.enable_grad(), probe.quiet():
            objective = probe.log_probs(batch, leaves).sum()
            grads = torch.autograd.grad(objective, list(leaves.values()))
        for sum_, grad in zip(total.values(), grads, strict=True):
            sum_.add_(grad, alpha=scale)
    return {k: g.to(leaves[k].dtype) for k, g in total.items()}


def second_moment_scales(
    probe: Probe, names: Sequence[str], optimizer: torch.optim.Optimizer | None
) -> Parameters | None:
    """1 / (sqrt(v) + eps) for the parameters ``names``, v Adam's bias-corrected second moments; None before any update.

    Raises:
        ValueError: if there is no optimiser, or it keeps no second moments.

    """
    if optimizer is None:
        raise ValueError(
            "`optimizer_aware=True` needs the run's optimiser: set `engine.optimizer`, or use one of the callbacks."
        )
    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    chosen = {name: probe.trainable[name] for name in names}
    for name, parameter in chosen.items():
        group, state = groups.get(id(parameter)), optimizer.state.get(parameter, {})
        if group is None:
            raise ValueError(f"`optimizer_aware=True`: the optimiser does not train {name}; choose other `layers`.")
        if "betas" not in group or (state and not {"exp_avg_sq", "step"} <= set(state)):
            raise ValueError(
                f"`optimizer_aware=True` needs Adam's second moments, which {type(optimizer).__name__} does not keep: "
                "use Adam or AdamW, or `optimizer_aware=False`."
            )
    if not any(optimizer.state.get(p) for p in chosen.values()):
        return None
    scales: Parameters = {}
    for name, parameter in chosen.items():
        group, state = groups[id(parameter)], optimizer.state.get(parameter)
        if not state:  # without a gradient so far, as an expert without tokens: the size of its steps is unknown
            scales[name] = torch.zeros_like(parameter, dtype=torch.float32)
            continue
        correction = 1 - group["betas"][1] ** torch.as_tensor(state["step"], dtype=torch.float32)
        second = state["exp_avg_sq"].to(parameter.device).float() / correction.to(parameter.device)
        scales[name] = 1 / (second.sqrt() + group["eps"])
    return scales


def _norm(tensors: Parameters) -> Tensor:
    return torch.stack([t.float().norm() for t in tensors.values()]).norm()
