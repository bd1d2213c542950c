"""A ledger at a glance: samples instead of visits, a table for notebooks, a picture."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
import torch

from ggmi_callbacks import Ledger
from ggmi_callbacks.engine.ledger_view import Mean, by_source, samples
from ggmi_callbacks.functional import mean_interval

ROWS = {
    "step": [0, 0, 1, 2],
    "id": [3, 1, 3, 2],
    "source": ["a", "b", "a", None],
    "gain": [1.0, -1.0, 2.0, None],
    "kept": [True, False, False, True],
    "nll": [4.0, None, None, 5.0],
    "gain/one": [0.5, None, 1.5, None],
}


def test_a_sample_counts_once_with_its_mean_gain_and_its_last_decision():
    found = samples(pa.table(ROWS))
    assert found.ids.tolist() == [1, 2, 3]
    assert found.visits.tolist() == [1, 1, 2]
    assert found.step.tolist() == [0, 2, 1]
    np.testing.assert_equal(found.gain, [-1.0, np.nan, 1.5])
    assert found.kept.tolist() == [False, True, False]
    np.testing.assert_equal(found.nll, [np.nan, 5.0, 4.0])
    np.testing.assert_equal(found.parts["one"], [np.nan, np.nan, 1.0])
    assert found.source == ["b", "no source", "a"]


def test_the_interval_is_students_over_samples():
    x = np.array([1.0, 2.0, 4.0, np.nan, np.inf])
    mean = Mean.of(x)
    assert (mean.value, mean.low, mean.high) == pytest.approx(
        tuple(map(float, mean_interval(torch.tensor(x[:3]), 0.95)))
    )
    assert mean.n == 3


def test_sources_come_by_size_and_then_by_name():
    groups = by_source(samples(pa.table({"gain": [1.0] * 5, "source": ["z", "b", "a", "z", None]})))
    assert [(group.name, group.samples) for group in groups] == [("z", 2), ("a", 1), ("b", 1), ("no source", 1)]


def ledger(names=("a", "<b>")) -> Ledger:
    ledger = Ledger(names)
    gain = torch.tensor([1.0, 3.0, -1.0, -2.0])
    ledger.write(0, torch.arange(4), torch.tensor([0, 0, 1, 1]), gain, (gain > -1).float())
    return ledger


def test_in_a_notebook_a_ledger_is_a_small_table():
    text = ledger()._repr_html_()
    assert "4 rows of 4 samples" in text
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    assert [(row[0], row[1], row[3]) for row in rows[1:]] == [
        ("&lt;b&gt;", "2", "0%"),
        ("a", "2", "100%"),
        ("all", "4", "50%"),
    ]
    assert rows[2][2].startswith("+2 [")
    assert "0 rows of 0 samples" in Ledger()._repr_html_()


def test_the_plot_stacks_what_was_dropped_on_what_was_kept():
    pytest.importorskip("matplotlib").use("agg")
    from matplotlib import pyplot

    ax = ledger().plot()
    heights = {bars.get_label(): sum(bar.get_height() for bar in bars) for bars in ax.containers}
    assert heights == {"kept (2)": 2, "dropped (2)": 2}
    assert ledger().plot(ax) is ax
    Ledger().plot(ax)  # draws nothing
    pyplot.close("all")
