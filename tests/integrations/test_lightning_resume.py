"""Going on from one of Lightning's checkpoints: bit for bit, or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from ggmi_callbacks import Reweight

from ._lightning import Classifier, fit, make_trainer, parameters, point_callback, points


def job(anchors=1):
    return Classifier(), point_callback(points(192, anchors), policy=Reweight()), DataLoader(points(32), 8)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint after four steps of eight, and what the whole run came to."""

    def write(with_callback=True):
        module, callback, loader = job()
        keep = ModelCheckpoint(tmp_path / "c", filename="{step}", every_n_train_steps=4, save_top_k=-1)
        callbacks = [callback, keep] if with_callback else [keep]
        make_trainer(callbacks, tmp_path, enable_checkpointing=True, max_epochs=2).fit(module, loader)
        return str(tmp_path / "c" / "step=4.ckpt"), parameters(module), callback

    return write


def resume(path, tmp_path, **settings):
    module, callback, loader = job(**settings)
    fit(module, callback, loader, tmp_path, ckpt_path=path, max_epochs=2)
    return parameters(module), callback.ledger.table


def test_a_resumed_run_is_bit_equal_to_one_never_stopped(checkpoint, tmp_path):
    path, whole, callback = checkpoint()
    again, ledger = resume(path, tmp_path)
    assert torch.equal(again, whole)
    assert ledger.equals(callback.ledger.table)


def test_other_anchors_are_noticed(checkpoint, tmp_path):
    path, _, _ = checkpoint()
    with pytest.raises(ValueError, match="with other anchors"):
        resume(path, tmp_path, anchors=7)


def test_a_state_of_another_step_is_refused(checkpoint, tmp_path):
    path, _, _ = checkpoint()
    state = torch.load(path, weights_only=False)
    state["callbacks"]["GGMICallback"]["ranks"][0]["step"] = 3
    torch.save(state, path)
    with pytest.raises(ValueError, match="of step 3, and the run is at 4"):
        resume(path, tmp_path)


def test_a_checkpoint_of_a_run_without_the_callback_is_refused(checkpoint, tmp_path):
    path, _, _ = checkpoint(with_callback=False)
    with pytest.raises(ValueError, match=r"cannot resume: .*step=4\.ckpt holds no state of a GGMICallback"):
        resume(path, tmp_path)


def test_a_state_that_was_read_for_validation_is_not_that_of_the_next_fit(checkpoint, tmp_path):
    class Validated(Classifier):
        def validation_step(self, batch, index):
            pass

    path, _, _ = checkpoint()
    module, callback, loader = job()
    make_trainer([callback], tmp_path).validate(Validated(), loader, ckpt_path=path, verbose=False)
    fit(module, callback, loader, tmp_path)
    assert len(callback.ledger) == 32


@pytest.mark.slow
def test_two_ranks_resume_with_the_state_that_each_of_them_had(tmp_path):
    job = str(Path(__file__).with_name("lightning_job.py"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", job, str(tmp_path)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        whole, again = (torch.load(tmp_path / f"{name}-{rank}.pt") for name in ("whole", "again"))
        assert torch.equal(whole["parameters"], again["parameters"])
        assert whole["rows"] == again["rows"]
        assert len({row["weight"] for row in whole["rows"]}) > 4
