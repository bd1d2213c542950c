"""A run resumes from the folder it is given, and from no state but its own."""

from __future__ import annotations

import os
import pickle
import shutil

import pytest
import torch
import transformers

from ggmi_callbacks import Monitor, Reweight

from ._jobs import BOTH, weights

ARGS = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 2, "logging_steps": 2}
STATE = "ggmi_state_0.pt"


@pytest.fixture
def interrupted(make_trainer, tmp_path):
    """Run to the end, saving on the way; returns the finished pair, its folder and a maker of the next run."""

    def run(kind, policy=Reweight, **args):
        folder = tmp_path / "run"
        trainer, callback = make_trainer(kind, policy(), callback={"source": "source"}, output=folder, **ARGS, **args)
        trainer.train()

        def again(**changes):
            given = {"source": "source", **changes}
            return make_trainer(kind, policy(), callback=given, output=tmp_path / "next", **ARGS, **args)

        return trainer, callback, folder, again

    return run


@BOTH
def test_a_checkpoint_copied_elsewhere_is_resumed_from_there(kind, interrupted, tmp_path):
    whole, first, folder, again = interrupted(kind)
    shutil.copytree(folder / "checkpoint-4", tmp_path / "elsewhere")
    shutil.rmtree(folder)
    trainer, second = again()
    trainer.train(resume_from_checkpoint=str(tmp_path / "elsewhere"))
    assert torch.equal(weights(trainer), weights(whole))
    assert second.ledger.table.equals(first.ledger.table)


@BOTH
@pytest.mark.skipif(
    transformers.__version__.startswith("4."),
    reason="transformers 4 itself goes on with other batches where it resumes after the first epoch",
)
def test_resuming_from_the_last_checkpoint(kind, interrupted, tmp_path):
    whole, first, folder, again = interrupted(kind)
    shutil.copytree(folder / "checkpoint-12", tmp_path / "next" / "checkpoint-12")
    trainer, second = again()
    trainer.train(resume_from_checkpoint=True)
    assert torch.equal(weights(trainer), weights(whole))
    assert second.ledger.table.equals(first.ledger.table)


@BOTH
def test_state_of_another_step_is_refused(kind, interrupted):
    *_, folder, again = interrupted(kind)
    shutil.copy(folder / "checkpoint-4" / STATE, folder / "checkpoint-8" / STATE)
    trainer, _ = again()
    with pytest.raises(ValueError, match=rf"cannot resume from .*checkpoint-8.{STATE}: .*step 4"):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-8"))


@BOTH
def test_state_of_another_number_of_ranks_is_refused(kind, interrupted):
    *_, folder, again = interrupted(kind)
    path = folder / "checkpoint-4" / STATE
    torch.save({**torch.load(path), "world_size": 2}, path)
    trainer, _ = again()
    with pytest.raises(ValueError, match=rf"cannot resume from .*{STATE}: .*2 ranks"):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-4"))


@BOTH
def test_resuming_with_other_anchors_is_noticed(kind, interrupted):
    trainer, *_, folder, again = interrupted(kind)
    other, _ = again(anchors=trainer.train_dataset.select(range(12)))
    with pytest.raises(ValueError, match=rf"cannot resume from .*{STATE}: .*anchors"):
        other.train(resume_from_checkpoint=str(folder / "checkpoint-4"))


ILLS = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no state"),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"step": 4, "object": os.getcwd})),
    "tensor": lambda path: torch.save(torch.zeros(3), path),
    "foreign": lambda path: torch.save({"step": 4, "epoch": 1}, path),
    "missing": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch's own word on the pickle
@pytest.mark.parametrize("ill", ILLS)
def test_a_file_that_is_no_state_gives_one_error_with_its_name_and_the_way_out(ill, interrupted):
    *_, folder, again = interrupted("trainer")
    ILLS[ill](folder / "checkpoint-4" / STATE)
    trainer, _ = again()
    with pytest.raises(ValueError, match=rf"cannot resume.*checkpoint-4.{STATE}.*start anew"):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-4"))


def test_fewer_ranks_before_are_told(make_trainer, tmp_path):
    from ggmi_callbacks.integrations._checkpoint import load_state

    (tmp_path / STATE).touch()
    with pytest.raises(ValueError, match="had fewer ranks than 2: resume with as many"):
        load_state(None, str(tmp_path), rank=1, step=4)


@BOTH
def test_a_kill_between_the_trainers_rotation_and_the_next_line_leaves_a_state_to_resume_from(
    kind, make_trainer, tmp_path, monkeypatch
):
    """``save_total_limit=1``: when the second checkpoint is there the first one goes, and then the power does."""

    class Killed(BaseException):
        pass

    def make():
        return make_trainer(kind, Reweight(), output=tmp_path / "run", save_total_limit=1, **ARGS)

    owner, name = transformers.trainer, "rotate_checkpoints"
    if not hasattr(owner, name):  # in transformers 4 it is a method
        owner, name = transformers.Trainer, "_rotate_checkpoints"
    rotate, calls = getattr(owner, name), []

    def rotate_and_die(*args, **kwargs):
        rotate(*args, **kwargs)
        calls.append(kwargs)
        if len(calls) == 2:
            raise Killed

    monkeypatch.setattr(owner, name, rotate_and_die)
    killed, _ = make()
    with pytest.raises(Killed):
        killed.train()
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-8"]
    resumed, callback = make()
    resumed.train(resume_from_checkpoint=True)
    assert len(callback.ledger) == 64


@BOTH
def test_state_is_written_whole_or_not_at_all(kind, make_trainer, tmp_path, monkeypatch):
    """Power that goes in the middle of our own file leaves the name of a state to no piece of one."""
    trainer, _ = make_trainer(kind, Monitor(), output=tmp_path / "run", **ARGS)
    save = torch.save

    def save_half(state, path, *args, **kwargs):
        if "ggmi_state" not in str(path):
            return save(state, path, *args, **kwargs)
        with open(path, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not (tmp_path / "run" / "checkpoint-4" / STATE).exists()


def test_a_model_saved_by_hand_gets_no_state(make_trainer, tmp_path):
    trainer, _ = make_trainer("trainer", Monitor(), max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    assert not (tmp_path / "model" / STATE).exists()
