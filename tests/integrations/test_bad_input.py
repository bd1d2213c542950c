"""Bad input is refused at the start, by name, with the way out."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from ggmi_callbacks import Filter, GradientScorer, Monitor, Reweight
from ggmi_callbacks.integrations import _compat, trl
from ggmi_callbacks.integrations import transformers as hf

from .._sums import sums
from ._jobs import BOTH, tokenised


@pytest.mark.parametrize("module", [hf, trl])
def test_a_callback_before_its_trainer_shows_the_lines_that_work(module, anchors):
    with pytest.raises(TypeError, match=r"trainer\.add_callback\(GGMICallback\(trainer, anchors="):
        module.GGMICallback(anchors=anchors)


def test_a_plain_trainer_is_no_sft_trainer(make_trainer, anchors):
    trainer, _ = make_trainer("trainer")
    with pytest.raises(TypeError, match="must be the SFTTrainer"):
        trl.GGMICallback(trainer, anchors=anchors)


def test_an_sft_trainer_is_no_plain_trainer(make_trainer, anchors):
    trainer, _ = make_trainer("sft")
    with pytest.raises(TypeError, match=r"from ggmi_callbacks\.integrations\.trl import GGMICallback"):
        hf.GGMICallback(trainer, anchors=anchors)


EXPERIMENTAL = ["gkd.GKDTrainer", "cpo.CPOTrainer", "orpo.ORPOTrainer", "gmpo.GMPOTrainer"]
OTHERS = ["KTOTrainer", *(f"experimental.{name}" for name in EXPERIMENTAL)]


@pytest.mark.parametrize("module", [hf, trl])
@pytest.mark.parametrize("name", OTHERS)
def test_other_trainers_of_trl_are_refused_by_name(module, name, anchors):
    """Only its type is looked at, so a trainer that was never built will do; a subclass is no way around."""
    folder, _, name = f"trl.{name}".rpartition(".")
    kind = getattr(importlib.import_module(folder), name)
    for trainer in (object.__new__(kind), object.__new__(type("Mine", (kind,), {}))):
        with pytest.raises(TypeError, match=rf"the loss of {name} is no sum over.*GGMI knows `transformers\.Trainer`"):
            module.GGMICallback(trainer, anchors=anchors)


@pytest.mark.parametrize("name", ["DPOTrainer", "RewardTrainer", "GRPOTrainer", "RLOOTrainer"])
def test_the_plain_callback_sends_trainers_of_trl_to_the_one_of_trl(name, anchors):
    trainer = object.__new__(getattr(importlib.import_module("trl"), name))
    with pytest.raises(TypeError, match=rf"is a {name}, of TRL: .*from ggmi_callbacks\.integrations\.trl import"):
        hf.GGMICallback(trainer, anchors=anchors)


@BOTH
def test_a_policy_that_is_none_is_refused_by_name(kind, make_trainer):
    for policy, match in (
        ("filter", r"`policy` must be a Policy such as .*Filter\(\).*, got 'filter'"),
        (Filter, r"`policy` is the class Filter: make one, `policy=Filter\(\)`"),
        (0.5, r"`policy` must be a Policy .*got 0\.5"),
    ):
        with pytest.raises(TypeError, match=match):
            make_trainer(kind, policy)
    with pytest.raises(TypeError, match=r"`scorer` is the class GradientScorer: make one"):
        make_trainer(kind, Monitor(), callback={"scorer": GradientScorer})


@BOTH
@pytest.mark.parametrize("rate", [0.0, -1e-3, float("nan")])
def test_a_shadow_learning_rate_that_teaches_nothing_is_refused_and_not_replaced(kind, rate, make_trainer):
    with pytest.raises(ValueError, match=rf"`shadow_learning_rate` must be positive, got {rate}"):
        make_trainer(kind, Monitor(), callback={"shadow_learning_rate": rate})


@BOTH
def test_sources_may_be_numbers(kind, make_trainer):
    rows = [{**row, "source": i % 3} for i, row in enumerate(sums(32))]
    trainer, callback = make_trainer(
        kind, Monitor(), train=Dataset.from_list(rows), callback={"source": "source", "overhead": 0.9}
    )
    trainer.train()
    assert {"ggmi/gain/0", "ggmi/gain/1", "ggmi/gain/2"} <= callback.results().keys()
    of = dict(zip(range(32), map(str, trainer.train_dataset["source"]), strict=True))
    assert all(of[row["id"]] == row["source"] for row in callback.ledger.table.to_pylist())


def test_a_model_that_is_none_of_hugging_face(make_trainer, anchors, tokenizer):
    class Net(torch.nn.Module):
        def forward(self, input_ids, labels=None):
            return {"loss": input_ids.sum()}

    with pytest.raises(ValueError, match=r"`model` \(Net\) is no language model.*task=SampleLoss\(loss\)"):
        make_trainer("trainer", Monitor(), model=Net())


@BOTH
def test_a_frozen_model(kind, make_trainer, make_model):
    with pytest.raises(ValueError, match=r"`model` \(LlamaForCausalLM\) is frozen.*add an adapter"):
        make_trainer(kind, Monitor(), model=make_model().requires_grad_(False))


def test_the_trl_callback_shows_its_arguments():
    shown = inspect.signature(trl.GGMICallback).parameters
    assert shown.keys() - {"train_dataset", "eval_dataset"} == inspect.signature(hf.GGMICallback).parameters.keys()
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in shown.values())


@BOTH
def test_the_private_names_that_the_integrations_rest_on_are_there(kind, make_trainer, monkeypatch):
    """The canary: says which name a newer transformers or TRL has lost."""
    trainer, _ = make_trainer(kind)
    _compat.check(trainer)
    for name in ("TRAINER", "SFTTrainer")[: 1 + (kind == "sft")]:
        if name == "TRAINER":
            monkeypatch.setattr(_compat, name, (*_compat.TRAINER, "_gone"))
        else:
            monkeypatch.setitem(_compat.OF_TRL, name, (*_compat.OF_TRL[name], "_gone"))
        with pytest.raises(RuntimeError, match=rf"transformers .* has no {type(trainer).__name__}\._gone"):
            _compat.check(trainer)
        monkeypatch.undo()
    assert "_internal_call" in inspect.signature(trainer.save_model).parameters
    assert "loss_function" in dir(type(trainer.model))


@BOTH
@pytest.mark.parametrize("size", [0, 1])
def test_too_few_anchors(kind, size, make_trainer, anchors):
    with pytest.raises(ValueError, match=rf"`anchors` must hold at least two.*got {size}"):
        make_trainer(kind, Monitor(), callback={"anchors": anchors.select(range(size))})


def test_anchors_without_targets(make_trainer, anchors, tokenizer):
    with pytest.raises(ValueError, match="0 samples with target tokens after preprocessing"):
        make_trainer("sft", Monitor(), callback={"anchors": anchors}, max_length=4)
    masked = tokenised(anchors, tokenizer).map(lambda row: {"labels": [-100] * len(row["labels"])})
    with pytest.raises(ValueError, match=r"12 of 12 `anchors` have no target tokens"):
        make_trainer("trainer", Monitor(), callback={"anchors": masked})


def test_anchors_that_are_not_tokenised(make_trainer, anchors):
    with pytest.raises(ValueError, match="`anchors` must be tokenised as `train_dataset` is"):
        make_trainer("trainer", Monitor(), callback={"anchors": anchors})


@BOTH
def test_anchors_of_another_tokenizer(kind, make_trainer):
    alien = Dataset.from_list([{"input_ids": [1, 9999, 2], "labels": [1, 9999, 2]}] * 4)
    with pytest.raises(ValueError, match=r"token id 9999.*another tokenizer"):
        make_trainer(kind, Monitor(), callback={"anchors": alien})


@BOTH
def test_missing_source_column(kind, make_trainer):
    with pytest.raises(ValueError, match=r"`source` 'origin' is not a column of `train_dataset`, which has"):
        make_trainer(kind, Monitor(), callback={"source": "origin"})


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5])
def test_keep_outside_its_range(keep):
    with pytest.raises(ValueError, match=rf"`keep` must be a share in \(0, 1\], got {keep}"):
        Filter(keep=keep)


def test_overhead_outside_its_range(make_trainer):
    with pytest.raises(ValueError, match="`overhead` must be a share"):
        make_trainer("sft", Monitor(), callback={"overhead": 1.5})


def test_a_classification_model(make_trainer, make_model, tokenizer):
    from transformers import LlamaForSequenceClassification

    model = LlamaForSequenceClassification(make_model().config)
    with pytest.raises(ValueError, match=r"LlamaForSequenceClassification.*no language-model head"):
        make_trainer("trainer", Monitor(), model=model)


def test_an_encoder_decoder(make_trainer):
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 200, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    with pytest.raises(ValueError, match="encoder-decoder"):
        make_trainer("trainer", Monitor(), model=T5ForConditionalGeneration(T5Config(**sizes)))


@BOTH
def test_losses_that_are_not_finite_are_left_out_counted_and_named(kind, make_trainer, make_model, tokenizer):
    """One token's embedding is NaN: the samples that hold it are named, the others are not."""
    rows = [{**row, "prompt": row["prompt"] + (" pens" if i in (3, 17) else "")} for i, row in enumerate(sums(32))]
    model = make_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("pens")] = float("nan")
    still = {"per_device_train_batch_size": 32, "max_steps": 1, "callback": {"shadow_learning_rate": 1e-3}}
    trainer, callback = make_trainer(kind, Monitor(), model=model, train=Dataset.from_list(rows), **still)
    named = {
        i for i, row in enumerate(trainer.train_dataset) if tokenizer.convert_tokens_to_ids("pens") in row["input_ids"]
    }
    with pytest.warns(UserWarning, match="not finite") as told:
        trainer.train()
    message = next(str(w.message) for w in told if "not finite" in str(w.message))
    assert set(json.loads(message.split("samples ")[1].split("]")[0] + "]")) == named
    results = callback.results()
    assert results["ggmi/nonfinite"] == len(named)
    assert math.isfinite(results["ggmi/synthetic_nll"])


@BOTH
def test_a_loss_of_the_users_own_is_refused_when_weights_act(kind, make_trainer):
    own = {"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: outputs.logits.sum()}
    with pytest.warns(FutureWarning) if kind == "sft" else pytest.MonkeyPatch.context():
        for policy in (Filter(), Reweight()):
            with pytest.raises(ValueError, match="`compute_loss_func` with"):
                make_trainer(kind, policy, trainer_kwargs=own)


def test_liger_is_refused_by_name_where_it_fuses_the_loss(make_trainer):
    trainer, _ = make_trainer("trainer")
    trainer.args.use_liger_kernel = True
    with pytest.raises(ValueError, match="use_liger_kernel=True"):
        hf.GGMICallback(trainer, anchors=trainer.train_dataset.select(range(4)))


def test_liger_is_refused_by_name_on_a_cpu(make_trainer):
    trainer, _ = make_trainer("sft")
    trainer.args.use_liger_kernel = True
    with pytest.raises(ValueError, match="Liger's kernels do not run on a CPU"):
        trl.GGMICallback(trainer, anchors=trainer.train_dataset.select(range(4)))


@pytest.mark.parametrize("extra", ["trl", "transformers"])
def test_a_missing_trainer_names_its_extra(extra):
    # torchmetrics itself looks for transformers, so it goes missing after the core has been imported
    code = f"import sys, ggmi_callbacks; sys.modules['{extra}'] = None; import ggmi_callbacks.integrations.{extra}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"pip install 'ggmi-callbacks[{extra}]'" in done.stderr


def test_the_core_imports_no_trainer():
    import ggmi_callbacks

    root = Path(ggmi_callbacks.__file__).parent
    trainers = re.compile(
        r"^(from|import) (transformers|trl|lightning|pytorch_lightning|peft|accelerate|datasets)", re.M
    )
    assert [str(path) for path in root.rglob("*.py") if trainers.search(path.read_text())] == []


@BOTH
def test_anchors_that_teach_nothing_are_told_and_not_acted_upon(kind, make_trainer):
    """Without a step the shadow is the model: every gain is zero, and Filter would drop everything."""
    nothing = {"shadow_learning_rate": 1e-30}
    trainer, _ = make_trainer(kind, Filter(), callback=nothing)
    with pytest.raises(ValueError, match=r"did not shorten the held-out ones.*Filter has no gain to act on"):
        trainer.train()
    trainer, callback = make_trainer(kind, Monitor(), callback=nothing, max_steps=1)
    with pytest.warns(UserWarning, match="did not shorten"):
        trainer.train()
    assert set(callback.ledger.table["gain"].to_pylist()) == {0.0}
