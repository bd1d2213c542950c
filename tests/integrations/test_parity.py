"""One job through four loops: the same gains, weights and final parameters."""

from __future__ import annotations

import lightning
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq, Trainer

from ggmi_callbacks import Filter, Reweight
from ggmi_callbacks.integrations.lightning import GGMICallback
from ggmi_callbacks.integrations.loop import CarryIds, GainEngine, Numbered, attach, batches

from ._jobs import tokenised, weights
from ._lightning import Wrapper

LR = 1e-2


def loader(dataset, tokenizer, batch):
    data = dataset.remove_columns([c for c in ("source",) if c in dataset.column_names])
    return DataLoader(Numbered(data), batch, collate_fn=CarryIds(DataCollatorForSeq2Seq(tokenizer)))


def through_hugging_face(kind, policy, make_trainer, data, human):
    with pytest.MonkeyPatch.context() as patch:  # the same order in every loop
        patch.setattr(Trainer, "_get_train_sampler", lambda self, dataset=None: None)
        settings = {"optim": "sgd", "learning_rate": LR, "lr_scheduler_type": "constant", "max_grad_norm": 0}
        trainer, callback = make_trainer(kind, policy, train=data, callback={"anchors": human}, **settings)
        trainer.train()
    return callback.ledger, weights(trainer)


def through_lightning(policy, make_model, tokenizer, data, human):
    module = Wrapper(make_model(), LR)
    callback = GGMICallback(loader(human, tokenizer, 3), policy=policy, seed=3)
    callback_settings = {"callbacks": [callback], "logger": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        **{"enable_model_summary": False, "log_every_n_steps": 1, **callback_settings},
    )
    trainer.fit(module, loader(data, tokenizer, 4))
    return callback.ledger, torch.cat([p.detach().flatten() for p in module.parameters()])


def through_a_raw_loop(policy, make_model, tokenizer, data, human, accelerator=None):
    model = make_model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    train_loader = loader(data, tokenizer, 4)
    if accelerator:
        model, optimizer, train_loader = accelerator.prepare(model, optimizer, train_loader)
    engine = GainEngine(model, batches(loader(human, tokenizer, 3)), policy=policy, learning_rate=LR, seed=3)
    with attach(engine, model):
        for batch in train_loader:
            loss = model(**batch).loss
            accelerator.backward(loss) if accelerator else loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            engine.end_step()
    engine.log()
    return engine.ledger, torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("make_policy", [lambda: Filter(keep=0.5, refill=False), Reweight], ids=["filter", "reweight"])
def test_four_loops_give_the_same_gains_weights_and_parameters(
    make_policy, make_trainer, make_model, tokenizer, synthetic, anchors
):
    data, human = tokenised(synthetic, tokenizer), tokenised(anchors, tokenizer)
    rest = (make_model, tokenizer, data, human)
    runs = {
        "trainer": through_hugging_face("trainer", make_policy(), make_trainer, data, human),
        "sft": through_hugging_face("sft", make_policy(), make_trainer, data, human),
        "lightning": through_lightning(make_policy(), *rest),
        "raw": through_a_raw_loop(make_policy(), *rest),
        "accelerate": through_a_raw_loop(make_policy(), *rest, accelerator=Accelerator(cpu=True)),
    }
    ledger, parameters = runs.pop("trainer")
    rows = {row["id"]: row for row in ledger.table.to_pylist()}
    assert len(rows) == 32
    assert len({row["weight"] for row in rows.values()}) > 1
    for name, (other, theirs) in runs.items():
        for row in other.table.to_pylist():
            mine = rows[row["id"]]
            assert (row["step"], row["kept"]) == (mine["step"], mine["kept"]), name
            assert row["gain"] == pytest.approx(mine["gain"], rel=1e-5, abs=1e-5), name
            assert row["weight"] == pytest.approx(mine["weight"], rel=1e-5), name
        assert (theirs - parameters).norm() <= 1e-5 * parameters.norm(), name
