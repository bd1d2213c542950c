"""Metrics with intervals inside what torchmetrics wraps around a metric."""

from __future__ import annotations

import copy
import pickle

import matplotlib.pyplot as plt
import pytest
import torch
from torchmetrics import MetricCollection, MinMaxMetric
from torchmetrics.wrappers import BootStrapper

from ggmi_callbacks.functional import Interval
from ggmi_callbacks.metrics import CodeLength, GeneralizationBound, WeightInformation


def lengths(n: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    first, final = torch.rand(2, n, generator=torch.Generator().manual_seed(seed))
    return first + 1, final


def test_a_bootstrap_of_a_metric_with_an_interval_resamples_its_value() -> None:
    results = []
    for confidence in (None, 0.9):
        torch.manual_seed(0)
        bootstrap = BootStrapper(WeightInformation(total=1, confidence=confidence), num_bootstraps=50, raw=True)
        bootstrap.update(*lengths())
        results.append(bootstrap.compute())
    for name in ("mean", "std", "raw"):
        torch.testing.assert_close(results[0][name], results[1][name])
    first, final = lengths()
    interval = WeightInformation(total=1, confidence=0.9)(first, final)
    assert float(results[1]["std"]) == pytest.approx(float(interval.high - interval.value) / 1.68, rel=0.4)


def test_a_collection_with_intervals_is_plotted_together_and_apart() -> None:
    collection = MetricCollection({"all": WeightInformation(confidence=0.9), "bound": GeneralizationBound()})
    run = [collection(*lengths(seed=seed)) for seed in range(3)]
    for val in (None, run):
        _, axes = collection.plot(val, together=True)
        assert {line.get_label() for line in axes.lines} >= {"all", "bound"}  # type: ignore[attr-defined]
        plt.close("all")
        assert len(collection.plot(val)) == 2
        plt.close("all")
    (line, *_) = collection.plot(run, together=True)[1].lines  # type: ignore[attr-defined]
    assert line.get_ydata().tolist() == pytest.approx([float(step["all"]) for step in run])
    plt.close("all")


def test_a_collection_returns_the_interval_itself() -> None:
    values = MetricCollection({"one": WeightInformation(confidence=0.9)})(*lengths())
    value, low, high = values["one"]
    assert low < value < high


def test_the_extremes_of_a_metric_with_an_interval_are_those_of_its_value() -> None:
    metric = MinMaxMetric(CodeLength(confidence=0.9))
    for scale in (1.0, 3.0):
        metric(-scale * torch.rand(8, 2))
        metric.compute()
    values = metric.compute()
    assert values["min"] < values["max"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_a_computed_interval_survives_a_copy_of_its_metric(duplicate) -> None:
    metric = WeightInformation(confidence=0.9)
    metric.update(*lengths())
    interval = metric.compute()
    again = duplicate(metric).to("cpu").compute()  # from the cache
    assert isinstance(again, Interval)
    assert list(map(float, again)) == list(map(float, interval))
