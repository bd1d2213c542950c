"""A ledger in a folder through the real trainers: killed, resumed, and read by itself."""

from __future__ import annotations

import pytest
from datasets import Dataset
from transformers import TrainerCallback

from ggmi_callbacks import Ledger, Monitor

from .._sums import sums
from ._jobs import BOTH
from ._lightning import Wrapper, fit, text_loader


class Killed(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 6:
            raise KeyboardInterrupt


@BOTH
def test_a_run_that_is_killed_and_resumed_has_every_row_once(kind, make_trainer, tmp_path):
    data = Dataset.from_list(sums(32))
    settings = {"train": data, "save_strategy": "steps", "save_steps": 4, "output": tmp_path / "run"}
    options = {"source": "source", "overhead": 0.99}
    whole, first = make_trainer(kind, Monitor(), train=data, callback=options)
    whole.train()
    options = {**options, "ledger": tmp_path / "ledger"}
    trainer, _ = make_trainer(kind, Monitor(), callback=options, **settings)
    trainer.add_callback(Killed())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert len(Ledger.read(tmp_path / "ledger")) > 16  # beyond the checkpoint
    again, second = make_trainer(kind, Monitor(), callback=options, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    visits = first.ledger.table.select(["step", "id", "source", "nll"])
    assert Ledger.read(tmp_path / "ledger").table.select(["step", "id", "source", "nll"]) == visits
    assert len(second.ledger) == len(visits) == 32
    state = tmp_path / "run" / "checkpoint-8" / "ggmi_state_0.pt"
    assert state.exists()
    fresh, _ = make_trainer(kind, Monitor(), callback=options, **settings)
    with pytest.raises(ValueError, match="holds 32 rows of another run"):
        fresh.train()


@BOTH
def test_a_run_that_may_start_again_by_itself_is_refused(kind, make_trainer, tmp_path):
    with pytest.raises(ValueError, match="with `auto_find_batch_size=True`"):
        make_trainer(kind, Monitor(), callback={"ledger": tmp_path / "ledger"}, auto_find_batch_size=True)


def test_lightning_writes_into_the_folder(make_model, tokenizer, tmp_path):
    from ggmi_callbacks.integrations.lightning import GGMICallback

    rows = sums(16)
    callback = GGMICallback(sources=[row["source"] for row in rows], ledger=tmp_path / "ledger")
    fit(Wrapper(make_model()), callback, text_loader(tokenizer, rows), tmp_path)
    assert Ledger.read(tmp_path / "ledger").table == callback.ledger.table
    assert len(callback.ledger) == 16
