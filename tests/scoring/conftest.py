"""A job as a user has it: a model folder, anchors and made rows as files."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from .._sums import sums
from ._files import save, write_rows


@pytest.fixture
def job(tmp_path, tokenizer, make_model):
    return SimpleNamespace(
        model=save(make_model(), tokenizer, tmp_path / "model"),
        data=write_rows(tmp_path / "made.jsonl", sums(24, seed=0)),
        anchors=write_rows(tmp_path / "human.jsonl", sums(12, seed=1, bad=False)),
        output=tmp_path / "scored.parquet",
        settings={"learning_rate": 1e-2, "progress": False},
    )
