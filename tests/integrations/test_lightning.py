"""Lightning: language models unchanged, other modules through their per-sample losses."""

from __future__ import annotations

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from ggmi_callbacks import Filter, Monitor, Reweight
from ggmi_callbacks.integrations.lightning import GGMICallback

from .._loop import Pattern
from .._sums import sums
from ._lightning import Classifier, Manual, Wrapper, fit, parameters, point_callback, points, text_loader


@pytest.mark.parametrize("policy", [Monitor, lambda: Filter(keep=0.5), Reweight])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_language_model_unchanged(policy, precision, make_model, tokenizer, tmp_path):
    rows = sums(24)
    callback = GGMICallback(
        text_loader(tokenizer, sums(12, 1, bad=False)), policy=policy(), sources=[r["source"] for r in rows]
    )
    module = Wrapper(make_model())
    loader = text_loader(tokenizer, rows)
    trainer = fit(module, callback, loader, tmp_path, precision=precision, val=loader, max_epochs=2)
    assert len(callback.ledger) == 48
    assert {"ggmi/gain", "ggmi/coverage", "ggmi/gain/right", "ggmi/anchor_nll"} <= set(trainer.logged_metrics)
    assert "ggmi/ggmi_mixture" in callback.results()
    assert not hasattr(module.model, "_loss_function")
    if callback.policy.acts:
        assert len(set(callback.ledger.table["weight"].to_pylist())) > 1


@pytest.mark.parametrize("policy", [Filter(keep=0.5, within="source"), Reweight(by="source")], ids=repr)
def test_sources_are_told_apart_and_prompts_refused(policy, make_model, tokenizer, tmp_path):
    rows = sums(24)
    anchors, sources = text_loader(tokenizer, sums(12, 1, bad=False)), [r["source"] for r in rows]
    callback = GGMICallback(anchors, policy=policy, sources=sources)
    fit(Wrapper(make_model()), callback, text_loader(tokenizer, rows, batch=12), tmp_path, max_epochs=2)
    late = callback.ledger.table.to_pylist()[24:]
    if policy.drops:
        kept = [sum(row["kept"] for row in late if row["source"] == name) for name in ("right", "wrong")]
        assert kept == [6, 6]  # of twelve each
    else:
        weights = {row["source"]: row["weight"] for row in late}
        assert weights["right"] > 1 > weights["wrong"]
    other = GGMICallback(anchors, policy=Filter(keep=0.5, within="prompt"), sources=sources)
    with pytest.raises(ValueError, match="Lightning's callback knows sources alone"):
        fit(Wrapper(make_model()), other, text_loader(tokenizer, rows), tmp_path)


def test_a_share_is_refused_with_the_way_out(tokenizer):
    with pytest.raises(TypeError, match=r"`heldout` must be samples.*got 0\.02.*random_split"):
        GGMICallback(text_loader(tokenizer, sums(24, 1, bad=False)), heldout=0.02)


def test_samples_held_out_are_twins_in_every_epoch(make_model, tokenizer, tmp_path):
    """Without them a second pass has nothing to compare with; with them GGMI and the gap are there to the end."""
    results = []
    for heldout in (None, text_loader(tokenizer, sums(12, 5))):
        callback = GGMICallback(text_loader(tokenizer, sums(24, 1, bad=False)), overhead=0.9, heldout=heldout)
        fit(Wrapper(make_model()), callback, text_loader(tokenizer, sums(24)), tmp_path, max_epochs=3)
        results.append(callback.results())
    numbers = {"ggmi/ggmi", "ggmi/generalization_gap", "ggmi/generalization_gap_low"}
    assert not numbers & set(results[0])
    assert numbers <= set(results[1])
    assert "samples held out" in results[1]["estimators"]["ggmi"]


def test_monitor_is_bit_equal_to_no_callback(make_model, tokenizer, tmp_path):
    runs = []
    for callback in (None, GGMICallback(text_loader(tokenizer, sums(12, 1, bad=False)), overhead=0.9)):
        lightning.seed_everything(7)
        module = Wrapper(make_model(attention_dropout=0.1))
        loader = text_loader(tokenizer, sums(24), shuffle=True)
        fit(module, callback, loader, tmp_path, val=text_loader(tokenizer, sums(4)))
        runs.append(parameters(module))
    assert torch.equal(*runs)


def test_dropped_and_weighted_samples_train_alike(make_model, tokenizer, tmp_path):
    runs = []
    for drops in (True, False):
        module = Wrapper(make_model())
        anchors = text_loader(tokenizer, sums(12, 1, bad=False))
        fit(
            module,
            GGMICallback(anchors, policy=Pattern(1.0, 0.0, drops=drops)),
            text_loader(tokenizer, sums(24)),
            tmp_path,
        )
        runs.append(parameters(module))
    assert (runs[0] - runs[1]).norm() <= 1e-6 * runs[0].norm()


def test_run_resumed_at_an_epoch_is_bit_equal_to_one_never_stopped(make_model, tokenizer, tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    def run(ckpt_path=None):
        module = Wrapper(make_model())
        callback = GGMICallback(text_loader(tokenizer, sums(12, 1, bad=False)), policy=Reweight())
        keep = ModelCheckpoint(tmp_path / "c", filename="{step}", every_n_train_steps=6, save_top_k=-1)
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[callback, keep],
            log_every_n_steps=1,
        )
        trainer.fit(module, text_loader(tokenizer, sums(24)), ckpt_path=ckpt_path)
        return parameters(module), callback.ledger.table

    whole, ledger = run()
    again, second = run(str(tmp_path / "c" / "step=6.ckpt"))
    assert torch.equal(whole, again)
    assert ledger.equals(second)


@pytest.mark.parametrize("policy", [Monitor, lambda: Filter(keep=0.5), Reweight])
def test_a_classifier_with_per_sample_losses(policy, tmp_path):
    loader = DataLoader(points(64, flipped=0.25), 8)
    callback = point_callback(policy=policy())
    module = Classifier()
    trainer = fit(module, callback, loader, tmp_path)
    rows = callback.ledger.table.to_pylist()
    assert len(rows) == 64
    flipped, clean = ([r["gain"] for r in rows if (r["id"] < 16) == wrong] for wrong in (True, False))
    assert sum(flipped) / len(flipped) < sum(clean) / len(clean)
    assert "train_loss" in trainer.logged_metrics
    assert "training_step" not in vars(module)


def test_weights_act_on_the_loss_of_a_classifier(tmp_path):
    """Filter at weight zero for wrong labels equals training on the rest with the same N."""
    runs = []
    for drops in (True, False):
        module = Classifier()
        fit(module, point_callback(policy=Pattern(1.0, 0.0, 0.0, drops=drops)), DataLoader(points(32), 8), tmp_path)
        runs.append(parameters(module))
    assert (runs[0] - runs[1]).norm() <= 1e-6 * runs[0].norm()
    plain = Classifier()
    fit(plain, None, DataLoader(points(32), 8), tmp_path)
    assert not torch.allclose(parameters(plain), runs[0], rtol=1e-2)


def test_manual_optimisation_is_watched_and_not_acted_upon(tmp_path):
    loader = DataLoader(points(32), 8)
    with pytest.raises(ValueError, match="manual optimisation"):
        fit(Manual(), point_callback(policy=Filter()), loader, tmp_path)
    plain, watched = Manual(), Manual()
    fit(plain, None, loader, tmp_path)
    fit(watched, point_callback(), loader, tmp_path)
    assert torch.equal(parameters(plain), parameters(watched))


def test_accumulation_averages_micro_batches(make_model, tokenizer, tmp_path):
    """With equal token counts in every micro-batch, Lightning's mean of means is the mean of all."""
    rows = [sums(1)[0]] * 16
    runs = []
    for batch, accumulate in ((2, 4), (8, 1)):
        module = Wrapper(make_model())
        anchors = text_loader(tokenizer, sums(12, 1, bad=False))
        loader = text_loader(tokenizer, rows, batch=batch)
        callback = GGMICallback(anchors, policy=Reweight())
        fit(module, callback, loader, tmp_path, accumulate_grad_batches=accumulate)
        assert set(callback.ledger.table["step"].to_pylist()) == {0, 1}
        runs.append(parameters(module))
    assert (runs[0] - runs[1]).norm() <= 1e-5 * runs[0].norm()


def test_pytorch_lightning_takes_the_callback_too(tmp_path):
    import pytorch_lightning

    class Module(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 2)

        training_step, configure_optimizers, returns = Classifier.training_step, Classifier.configure_optimizers, "dict"
        losses = Classifier.losses

    callback = point_callback(policy=Filter(keep=0.5))
    trainer = pytorch_lightning.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False
    )
    trainer.fit(Module(), DataLoader(points(32), 8))
    assert len(callback.ledger) == 32
