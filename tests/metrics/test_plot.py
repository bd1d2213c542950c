"""The plot: what is drawn of values, runs and intervals."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch

from ggmi_callbacks.functional import Interval
from ggmi_callbacks.metrics import InformationGain, WeightInformation


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(*torch.tensor([value, low, high]))


def test_an_interval_becomes_an_error_bar_and_its_value_a_label() -> None:
    figure, axes = WeightInformation().plot(interval(2.0, 1.5, 3.0))
    (bar,) = axes.containers
    assert bar[2][0].get_segments()[0][:, 1].tolist() == [1.5, 3.0]
    assert [text.get_text() for text in axes.texts] == ["2"]
    assert axes.get_ylabel() == "weight information (nats)"
    plt.close(figure)


def test_labels_are_what_a_reader_knows() -> None:
    figure, axes = InformationGain().plot(torch.tensor(-0.25))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["InformationGain"]
    assert [text.get_text() for text in axes.texts] == ["\N{MINUS SIGN}0.25"]
    plt.close(figure)


def test_a_run_of_intervals_becomes_a_line_in_a_band() -> None:
    figure, axes = WeightInformation().plot([interval(1.0, 0.5, 2.0), interval(2.0, 1.5, 2.5)])
    assert axes.lines[0].get_ydata().tolist() == [1.0, 2.0]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.5, 2.5)
    plt.close(figure)


def test_names_become_ticks_and_lines_of_a_run_a_legend() -> None:
    values = {"web": torch.tensor(1.0), "model": torch.tensor(2.0)}
    figure, axes = WeightInformation().plot(values)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["web", "model"]
    plt.close(figure)
    figure, axes = WeightInformation().plot([values, values])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["web", "model"]
    plt.close(figure)


def test_an_infinite_interval_leaves_the_value_and_finite_limits() -> None:
    figure, axes = WeightInformation().plot(interval(2.0, -torch.inf, torch.inf))
    (bar,) = axes.containers
    assert not torch.tensor(bar[2][0].get_segments()[0]).isinf().any()
    plt.close(figure)
    metric = WeightInformation(confidence=0.9)
    run = [metric(torch.tensor([3.0]), torch.tensor([1.0])), interval(2.0, 1.0, 3.0)]
    figure, axes = metric.plot(run)
    assert all(abs(limit) < 10 for limit in axes.get_ylim())
    plt.close(figure)


def test_given_axes_are_drawn_on() -> None:
    figure, axes = plt.subplots()
    assert WeightInformation().plot(torch.tensor(1.0), ax=axes) == (figure, axes)
    plt.close(figure)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`val` to be a value, a mapping .* but got list"):
        WeightInformation().plot([])
    plt.close("all")
