"""Two gloo processes do what one does on the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from .._sums import sums
from ._jobs import tokenised

pytestmark = pytest.mark.slow

JOB = str(Path(__file__).with_name("distributed_job.py"))


def run(folder, kind, policy, processes: int, batch: int):
    output = folder / f"{kind}-{policy}-{processes}.pt"
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launch, JOB, str(folder), kind, policy, str(batch), str(output)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output)


@pytest.fixture
def folder(tmp_path, tokenizer, make_model):
    tokenizer.save_pretrained(tmp_path)
    make_model().save_pretrained(tmp_path)
    return tmp_path


CASES = [
    ("sft", "filter"),
    ("sft", "within"),
    ("sft", "reweight"),
    ("sft", "by-source"),
    ("trainer", "filter"),
]


@pytest.mark.parametrize(("kind", "policy"), CASES)
def test_two_processes_give_the_gains_weights_and_parameters_of_one(kind, policy, folder, tokenizer):
    data, human = Dataset.from_list(sums(32)), Dataset.from_list(sums(12, seed=1, bad=False)).remove_columns("source")
    if kind == "trainer":
        data, human = tokenised(data, tokenizer), tokenised(human, tokenizer)
    data.save_to_disk(folder / "data")
    human.save_to_disk(folder / "anchors")
    one, two = run(folder, kind, policy, 1, 8), run(folder, kind, policy, 2, 4)

    def order(row):
        return row["step"], row["id"]

    rows = list(zip(sorted(one["rows"], key=order), sorted(two["rows"], key=order), strict=True))
    assert len(rows) == 64
    for a, b in rows:
        assert (a["step"], a["id"], a["source"], a["kept"]) == (b["step"], b["id"], b["source"], b["kept"])
        assert b["gain"] == pytest.approx(a["gain"], rel=1e-5, abs=1e-5)
        assert b["weight"] == pytest.approx(a["weight"], rel=1e-5)
    assert len({a["weight"] for a, _ in rows}) > 1
    assert (one["parameters"] - two["parameters"]).norm() <= 1e-5 * one["parameters"].norm()
    for a, b in zip(one["logs"], two["logs"], strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4)
