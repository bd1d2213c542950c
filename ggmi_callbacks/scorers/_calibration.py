"""From several scores to the log-odds of being right, by the samples of which it is known.

Notation:
    s_k         score k of a sample, and m_k, d_k its mean and deviation over the labelled samples
    x_k         (s_k - m_k) / d_k, and zero where s_k is not known; u_k is one there, and zero elsewhere

    log P(right) - log P(wrong) = b + sum_k w_k x_k + v_k u_k           nats; zero: as likely right as wrong
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.data import SampleData, to_device
from ggmi_callbacks.model import Probe
from ggmi_callbacks.scorers._base import Score
from ggmi_callbacks.tasks import Inputs, Layout

_LEAST, _MOST = 50, 2000  # labelled samples
_FOLDS = 5  # so many of each kind are needed
_QUANTILE = 1.96  # of the normal law, for 95 %
_LEAST_DEVIATION = 1e-6


class Calibration(NamedTuple):
    """Weights of a logistic regression on scores; [K] tensors but for the last two."""

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    unknown: Tensor
    intercept: Tensor
    auroc: tuple[float, float, float]
    """Held-out (cross-fitted), with its 95 % interval over prompts."""
    labels: int

    @classmethod
    def fit(cls, parts: Tensor, right: Tensor, group: Tensor) -> Calibration:
        """Fit to labelled samples.

        Args:
            parts: their scores, NaN where not known, [K, n].
            right: their labels, bool [n].
            group: their prompts, since answers to one are not independent, [n].

        Source:
            scikit-learn's ``LogisticRegression``, with its default ridge: half a unit for each squared weight.

        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict

        parts = parts.double().cpu().where(parts.isfinite().cpu(), float("nan"))
        mean = parts.nanmean(1).nan_to_num(0.0)
        deviation = (parts - mean[:, None]).square().nanmean(1).sqrt().nan_to_num(0.0).clamp_min(_LEAST_DEVIATION)
        x = ((parts - mean[:, None]) / deviation[:, None]).nan_to_num(0.0)
        features, truth = torch.cat([x, parts.isnan().double()]).T.numpy(), right.cpu().numpy()
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
        held_out = cross_val_predict(LogisticRegression(), features, truth, cv=folds, method="decision_function")
        model = LogisticRegression().fit(features, truth)
        weight, unknown = torch.from_numpy(model.coef_[0]).float().chunk(2)
        quality = auroc_interval(torch.from_numpy(held_out), right.cpu(), group.cpu())
        intercept = torch.tensor(float(model.intercept_[0]))
        return cls(mean.float(), deviation.float(), weight, unknown, intercept, quality, len(truth))

    def log_odds(self, parts: Tensor, noise: Tensor) -> Score:
        """Log-odds of being right from ``parts`` and their ``noise``, [K, n]; NaN for a sample without any part."""
        mean, deviation, weight, missing = (v.to(parts.device)[:, None] for v in self[:4])
        unknown = ~(parts.isfinite() & noise.isfinite())
        x = ((parts - mean) / deviation).masked_fill(unknown, 0.0)
        gain = self.intercept.to(parts.device) + (weight * x + missing * unknown).sum(0)
        total = (weight * noise / deviation).masked_fill(unknown, 0.0).square().sum(0).sqrt()
        nothing = unknown.all(0)
        return Score(gain.masked_fill(nothing, float("nan")), total.masked_fill(nothing, float("nan")), parts)

    def summary(self, names: Sequence[str]) -> dict[str, Any]:
        """What there is to say of it; weights are nats per standard deviation of a part."""
        ends = zip(("auroc", "auroc_low", "auroc_high"), self.auroc, strict=True)
        weights = dict(zip(names, self.weight.tolist(), strict=True))
        return {**dict(ends), "labels": self.labels, "weights": weights}


class Labelled(NamedTuple):
    """Samples of which it is known whether they are right, [n] each."""

    data: SampleData
    ids: Tensor
    right: Tensor
    group: Tensor
    """Their prompts."""

    @classmethod
    def read(cls, data: SampleData, column: str) -> Labelled:
        """Those with a value in ``column``; of many a random part.

        Raises:
            ValueError: if the column is missing, holds something else than True, False and None, or too few of a kind.

        """
        values = torch.tensor([_label(i, value, column) for i, value in enumerate(data.column(column, "label"))])
        ids = (~values.isnan()).nonzero()[:, 0]
        right = values[ids] > 0
        if len(ids) < _LEAST:
            raise ValueError(
                f"`label` column {column!r} has {len(ids)} labelled samples of {len(values)}, and {_LEAST} are needed "
                "to join scores by them: label more, or leave `label` out."
            )
        if min(count := (int(right.sum()), int((~right).sum()))) < _FOLDS:
            raise ValueError(
                f"`label` column {column!r} calls {count[0]} samples right and {count[1]} wrong, and {_FOLDS} of each "
                "are needed to tell them apart: label more of the rarer kind, or leave `label` out."
            )
        chosen = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))[:_MOST].sort().values
        ids, right = ids[chosen], right[chosen]
        return cls(data, ids, right, torch.tensor(data.groups)[ids] if data.has_tokens else ids)

    def batches(self, probe: Probe, rows: int) -> Iterator[tuple[Inputs, Layout]]:
        """Model inputs of all of them, ``rows`` at a time, as a step would see them."""
        device = next(probe.model.parameters()).device
        for ids in self.ids.split(rows):
            batch = to_device(self.data.batch(ids.tolist()), device)
            yield batch, replace(probe.task.layout(batch), ids=ids.to(device))

    def calibrate(self, parts: Tensor) -> Calibration:
        """The weights of their scores ``parts``, [K, n]."""
        return Calibration.fit(parts, self.right, self.group)


def _label(position: int, value: Any, column: str) -> float:
    if value is None or value != value:
        return float("nan")
    if isinstance(value, str) or value not in (0, 1):
        raise ValueError(f"`label` column {column!r} must hold True, False or None, sample {position} has {value!r}.")
    return float(value)


def auroc_interval(score: Tensor, right: Tensor, group: Tensor) -> tuple[float, float, float]:
    """Area under the ROC curve of ``score`` [n], with its 95 % interval over groups [n], clipped to [0, 1].

    Source:
        DeLong et al. (1988) for the variance, Obuchowski (1997) for samples that depend on each other within groups.

    Example:
        >>> import torch
        >>> score, right = torch.tensor([0.1, 0.9, 0.8, 0.4]), torch.tensor([False, True, True, True])
        >>> auroc_interval(score, right, torch.arange(4))[0]
        1.0

    """
    ahead = score[right][:, None] - score[~right]  # [right, wrong]
    wins = (ahead > 0).double() + 0.5 * (ahead == 0)
    area = wins.mean()
    influence = torch.zeros(len(score), dtype=torch.float64)
    influence[right] = (wins.mean(1) - area) / wins.shape[0]
    influence[~right] = (wins.mean(0) - area) / wins.shape[1]
    members = group.unique(return_inverse=True)[1]
    count = int(members.max()) + 1
    by_group = torch.zeros(count, dtype=torch.float64).index_add_(0, members, influence)
    half = _QUANTILE * float((by_group.square().sum() * count / max(count - 1, 1)).sqrt())
    return float(area), max(0.0, float(area) - half), min(1.0, float(area) + half)
