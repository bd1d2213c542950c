"""Gain as a column that ``datasets.map`` adds, the same as ``score`` finds."""

from __future__ import annotations

import datasets
import numpy as np
import pytest

from ggmi_callbacks import AgreementScorer, DistinctScorer, GainColumns, JointScorer, LikelihoodScorer, score

from .._sums import sums


def test_a_mapped_data_set_has_the_gains_that_score_finds(job):
    whole = score(job.model, job.data, job.anchors, **job.settings)
    add_gain = GainColumns(job.model, job.anchors, **job.settings)
    data = datasets.load_dataset("json", data_files=str(job.data), split="train")
    mapped = data.map(add_gain, batched=True, batch_size=7)
    assert set(mapped.column_names) == {*data.column_names, "gain", "noise"}
    np.testing.assert_allclose(mapped["gain"], whole["gain"].to_numpy(), atol=1e-4)
    np.testing.assert_allclose(mapped["noise"], whole["noise"].to_numpy(), atol=1e-4)
    streamed = data.to_iterable_dataset().map(add_gain, batched=True, batch_size=5)
    np.testing.assert_allclose([row["gain"] for row in streamed], whole["gain"].to_numpy(), atol=1e-4)


def test_parts_of_a_joint_score_are_columns_too(job):
    scorer = JointScorer([LikelihoodScorer(), DistinctScorer()])
    human = sums(160, seed=1, bad=False)
    found = GainColumns(job.model, human, scorer=scorer, **job.settings)(datasets.Dataset.from_list(sums(4))[:])
    assert list(found) == ["gain", "noise", "gain/likelihood", "gain/distinct"]
    assert all(len(column) == 4 for column in found.values())


@pytest.mark.parametrize("scorer", [AgreementScorer(), JointScorer([LikelihoodScorer(), AgreementScorer()])])
def test_what_needs_the_whole_data_set_is_refused(job, scorer):
    with pytest.raises(ValueError, match=r"AgreementScorer reads the whole data set.*ggmi_callbacks\.score"):
        GainColumns(job.model, job.anchors, scorer=scorer, **job.settings)


def test_a_map_that_is_not_batched_is_refused(job):
    add_gain = GainColumns(job.model, job.anchors, **job.settings)
    with pytest.raises(ValueError, match=r"got one row of .*map\(\.\.\., batched=True\)"):
        datasets.Dataset.from_list(sums(2)).map(add_gain)


def test_what_changes_in_training_is_refused(job):
    with pytest.raises(ValueError, match="must be static"):
        GainColumns(job.model, job.anchors, scorer=LikelihoodScorer(reference="current"), **job.settings)
