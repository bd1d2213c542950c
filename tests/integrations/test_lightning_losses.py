"""Losses by source under Lightning and in a loop of one's own, with anchors and without."""

from __future__ import annotations

import lightning
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from ggmi_callbacks import CarryIds, Numbered, SampleEngine, SourceLoss, attach
from ggmi_callbacks.integrations.lightning import GGMICallback

from .._batches import VOCABULARY
from .._loop import SOURCES, stream
from .._sums import sums
from ._jobs import tokenised
from ._lightning import Classifier, Wrapper, fit, make_trainer, points, text_loader
from ._losses import by_hand, logged, mean


def named(rows):
    return [row["source"] for row in rows]


class Kept(lightning.Callback):
    """Keeps what was logged of each training step."""

    def __init__(self):
        self.entries = []

    def on_train_batch_end(self, trainer, *args):
        self.entries.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def test_losses_of_a_language_model_by_source(make_model, tokenizer, tmp_path):
    rows, held = sums(12), sums(9, 3)
    callback, kept = GGMICallback(sources=named(rows), val_sources=named(held)), Kept()
    module = Wrapper(make_model())
    loader, val = text_loader(tokenizer, rows, batch=12), text_loader(tokenizer, held, batch=4)
    trainer = make_trainer([callback, kept], tmp_path, max_epochs=2)
    trainer.fit(module, loader, val)
    expected = by_hand(make_model(), tokenised(Dataset.from_list(rows), tokenizer))
    first = logged(kept.entries[0])
    assert first == pytest.approx({name: nll / n for name, (nll, n) in expected.items()}, rel=1e-5)
    for entry in kept.entries:
        counts = {name: n for name, (_, n) in expected.items()}
        assert mean(logged(entry), counts) == pytest.approx(entry["train_loss"], rel=1e-6)
        assert {key for key in entry if key.startswith("ggmi/")} == {"ggmi/nll/right", "ggmi/nll/wrong"}
    validated = by_hand(module.model, tokenised(Dataset.from_list(held), tokenizer))
    wanted = {name: nll / n for name, (nll, n) in validated.items()}
    assert logged(trainer.callback_metrics, "val_") == pytest.approx(wanted, rel=1e-5)
    assert logged(trainer.validate(module, val, verbose=False)[0], "val_") == pytest.approx(wanted, rel=1e-5)


class Several(Wrapper):
    def validation_step(self, batch, index, dataloader_idx=0):
        self.model(**batch)


def test_each_validation_loader_has_its_own(make_model, tokenizer, tmp_path):
    held = [sums(6, 3), sums(6, 4, bad=False)]
    callback = GGMICallback(val_sources=[named(rows) for rows in held])
    module = Several(make_model())
    fit(module, callback, text_loader(tokenizer, sums(8)), tmp_path, val=[text_loader(tokenizer, h) for h in held])
    found = module.trainer.callback_metrics
    assert {key for key in found if "nll" in key} == {
        "val_ggmi/nll/right/dataloader_idx_0",
        "val_ggmi/nll/wrong/dataloader_idx_0",
        "val_ggmi/nll/right/dataloader_idx_1",
    }


class Validated(Classifier):
    def training_step(self, batch, index):
        return super().training_step((batch["x"], batch["y"]), index)

    def validation_step(self, batch, index):
        losses = self.losses((batch["x"], batch["y"]))
        return {"sample_loss": losses} if self.returns == "dict" else losses.mean()


def numbered(n, seed):
    data = [{"x": x, "y": y} for x, y in points(n, seed)]
    return DataLoader(Numbered(data), 16, collate_fn=CarryIds())


def test_losses_of_another_module_by_source(tmp_path):
    sources = ["even", "odd"] * 16
    settings = {"sample_loss": lambda module, batch: module.losses((batch["x"], batch["y"]))}
    callback = GGMICallback(sources=sources, val_sources=sources, **settings)
    module = Validated()
    fit(module, callback, numbered(32, 0), tmp_path, val=numbered(32, 1), log_every_n_steps=2)
    x, y = points(32, 1).tensors
    with torch.no_grad():
        expected = module.losses((x, y))
    found = logged(module.trainer.callback_metrics, "val_")
    assert found == pytest.approx({"even": float(expected[::2].mean()), "odd": float(expected[1::2].mean())}, rel=1e-5)
    with pytest.raises(ValueError, match="`training_step` returned one number"):
        fit(Validated("loss"), GGMICallback(sources=sources, **settings), numbered(32, 0), tmp_path)
    callback = GGMICallback(val_sources=sources, **settings)
    with pytest.raises(ValueError, match="let `validation_step` return their losses"):
        fit(Validated("loss"), callback, numbered(32, 0), tmp_path, val=numbered(32, 1))


def test_what_lightning_cannot_tell_is_refused(make_model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"`anchors` are missing.*`sources=names` logs losses by source"):
        GGMICallback()
    rows = sums(8)
    known = text_loader(tokenizer, rows)
    plain = DataLoader(known.dataset.data, 4, collate_fn=known.collate_fn)
    callback = GGMICallback(val_sources=named(rows))
    with pytest.raises(ValueError, match="carries none under 'ggmi_sample'"):
        fit(Wrapper(make_model()), callback, text_loader(tokenizer, rows), tmp_path, val=plain)
    callback = GGMICallback(val_sources=named(rows))
    two = [text_loader(tokenizer, rows)] * 2
    with pytest.raises(ValueError, match="holds the sources of 1 validation loaders, and there is a number 1"):
        fit(Several(make_model()), callback, text_loader(tokenizer, rows), tmp_path, val=two)


@pytest.mark.parametrize("form", ["rows", "packed"])
def test_a_loop_without_anchors_logs_losses_by_source(form, make_model):
    model = make_model(vocab_size=VOCABULARY).train()
    model.config.use_cache = False
    engine, losses = SampleEngine(model, sources=SOURCES), []
    with attach(engine, model):
        for batch in stream(1, form):
            loss = model(**batch).loss
            loss.backward()
            losses.append(float(loss.detach()))
            engine.end_step()
    found = engine.log()
    assert found.keys() == {"ggmi/nll/good", "ggmi/nll/bad", "ggmi/nll/unknown"}
    rows = {row["id"]: row for row in engine.ledger.table.to_pylist()}
    tokens = stream(1)[0]["labels"][:, 1:].ne(-100).sum(1).tolist()
    of_good = [i for i in range(4) if SOURCES[i] == "good"]
    assert found["ggmi/nll/good"] == pytest.approx(
        sum(rows[i]["nll"] for i in of_good) / sum(tokens[i] for i in of_good), rel=1e-6
    )
    assert sum(row["nll"] for row in rows.values()) / sum(tokens) == pytest.approx(losses[0], rel=1e-6)
    evaluated = SourceLoss(SOURCES)
    with torch.no_grad(), evaluated.listen(model.eval()):
        for batch in stream(1, form) * 2:  # each sample counts once
            model(**batch)
    with torch.no_grad():
        assert set(evaluated.compute("eval_")) == {f"eval_{name}" for name in found}


def test_ids_beyond_the_sources_are_refused():
    losses = SourceLoss(["human"])
    losses.add(torch.tensor([1]), torch.tensor([1.0]), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"held id 1, and `sources` names 1 samples"):
        losses.compute()


def test_a_source_called_unknown_is_one_with_those_of_none():
    losses = SourceLoss(["unknown", None, "human"])
    losses.add(torch.arange(3), torch.tensor([1.0, 3.0, 5.0]), torch.ones(3))
    assert losses.compute() == {"ggmi/nll/human": 5.0, "ggmi/nll/unknown": 2.0}
