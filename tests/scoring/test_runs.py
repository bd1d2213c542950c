"""Runs that are killed go on, and several processes share the work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ggmi_callbacks import score
from ggmi_callbacks.scoring import job as module

from .._sums import sums

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(job, monkeypatch):
    """The shadow is not trained again, and what is done is not scored again."""
    command = [sys.executable, "-m", "tests.scoring._killed", job.model, job.data, job.anchors, str(job.output)]
    parts = job.output.with_name("scored.parquet.parts")
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 300
        while len(list(parts.glob("*.npz"))) < 3 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not job.output.exists()
    done = sum(len(np.load(path)["ids"]) for path in parts.glob("*.npz"))
    assert 0 < done < 24

    scored, values = [], module.values
    monkeypatch.setattr(
        module, "values", lambda engine, samples, ids: scored.extend(ids) or values(engine, samples, ids)
    )
    with monkeypatch.context() as patch:
        patch.setattr("ggmi_callbacks.engine.engine.train_shadow", None)
        table = score(job.model, job.data, job.anchors, output=job.output, **job.settings)
    assert len(scored) == len(set(scored)) == 24 - done
    assert not parts.exists()
    whole = score(job.model, job.data, job.anchors, **job.settings)
    np.testing.assert_allclose(table["gain"].to_numpy(), whole["gain"].to_numpy(), atol=1e-4)


def test_parts_of_another_job_are_refused_with_what_differs(job, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.Job, "_batches", stop)
        with pytest.raises(KeyboardInterrupt):
            score(job.model, job.data, job.anchors, output=job.output, **job.settings)
    with pytest.raises(ValueError, match=r"scored.parquet.parts' holds scores of another job; .* the rows of the data"):
        score(job.model, sums(5), job.anchors, output=job.output, **job.settings)
    assert len(score(job.model, job.data, job.anchors, output=job.output, **job.settings)) == 24


@pytest.mark.slow
def test_two_processes_share_the_work_and_one_file_holds_it(job):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29871"]
    job_of_both = ["-m", "tests.scoring._together", job.model, job.data, job.anchors, str(job.output)]
    run = subprocess.run([*torchrun, *job_of_both], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    shares = dict(re.findall(r"rank (\d) of 2 scores (\d\d)", run.stdout))  # lines of both may run together
    assert sorted(shares) == ["0", "1"]
    assert sum(map(int, shares.values())) == 24
    assert run.stdout.count("24 rows") == 2
    alone = score(job.model, job.data, job.anchors, **job.settings)
    np.testing.assert_allclose(pq.read_table(job.output)["gain"].to_numpy(), alone["gain"].to_numpy(), atol=1e-3)


def test_several_processes_without_a_file_are_refused(job, monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr("ggmi_callbacks.scoring.run.processes", lambda _: nullcontext((0, 4)))
    with pytest.raises(ValueError, match="`output` is missing: 4 processes bring their scores together in a file"):
        score(job.model, job.data, job.anchors, **job.settings)
