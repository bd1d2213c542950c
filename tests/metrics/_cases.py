"""Every metric in every mode, each with the arguments of one update that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from ggmi_callbacks import metrics


class Case(NamedTuple):
    """How to make a metric, and one batch for it."""

    make: Callable[..., Metric]
    batch: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """The arguments that are tensors."""
        return {name: x for name, x in self.batch.items() if isinstance(x, Tensor)}


def _case(name: str, batch: dict[str, Any], *args: Any, **settings: Any) -> tuple[str, Case]:
    label = "-".join([name, *map(str, args), *map(str, settings.values())])
    return label, Case(lambda **kwargs: getattr(metrics, name)(*args, **settings, **kwargs), batch)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


_X, _Y, _Z = _draw(3, 60, 2)
_FIRST, _FINAL = 3 + _draw(60).square(), _draw(60, seed=1).square()
_LENGTHS = {"first_nll": _FIRST, "final_nll": _FINAL}
_TOKENS = torch.full((60,), 7)
_HALF = torch.arange(60) % 2
_LOGS = {"log_probs": -_draw(60, 5).square(), "mask": torch.arange(5).expand(60, 5) < 4}

CASES: dict[str, Case] = dict(
    [
        *(_case("CodeLength", _LOGS, per) for per in ("sample", "token", "total")),
        *(
            _case("ConditionalMutualInformation", {"x": _X, "y": _Y, "z": _Z}, name)
            for name in ("auto", "copula", "ksg", "infonce", "gaussian", "matrix")
        ),
        _case("DivergenceBound", {"embeddings": _X, "split": "real"}),
        _case("EffectiveDiversity", {"embeddings": _X}),
        _case("EffectiveDiversity", {"embeddings": _X, "source": _HALF}, sources=("web", "model")),
        *(
            _case("GGMI", {**_LENGTHS, "split": _HALF.bool(), "tokens": _TOKENS}, name)
            for name in ("mixture", "loss_difference")
        ),
        _case("GGMIUpperBound", {**_LENGTHS, "split": "synthetic", "generator_nll": _FINAL}),
        _case("GGMIUpperBound", {**_LENGTHS, "split": "anchor", "prompt_nll": _FINAL}, anchor_total=60),
        _case("Gain", {"gain": _FIRST, "source": _HALF, "weight": _FINAL}, 2),
        _case("GaussianEntropy", {"x": _X}),
        *(_case("GeneralizationBound", _LENGTHS, name) for name in ("mixture", "loss_difference")),
        *(_case("InformationGain", _LOGS, name) for name in ("log_probs", "reference")),
        *(_case("InformationGain", {"prompt": _X, "output": _Y}, name) for name in ("matrix", "knn", "gaussian")),
        _case("KNNEntropy", {"x": _X}),
        _case("MatrixEntropy", {"x": _X}),
        *(
            _case("MutualInformation", {"x": _X, "y": _Y}, name)
            for name in ("auto", "copula", "ksg", "canonical_ksg", "infonce", "gaussian", "matrix")
        ),
        *(_case("WeightInformation", _LENGTHS, name) for name in ("mixture", "loss_difference")),
    ]
)
