"""Scores from a file: found by what a sample is, free in the step, refused where they are stale."""

from __future__ import annotations

import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ggmi_callbacks import FileScorer, Filter, GainEngine, JointScorer, score
from ggmi_callbacks.data import padded
from ggmi_callbacks.scorers import ColumnScorer
from ggmi_callbacks.scoring import select
from ggmi_callbacks.scoring.tokens import tokenise

from .._sums import sums

MADE, HUMAN = sums(24, seed=0), sums(12, seed=1, bad=False)


@pytest.fixture
def scored(make_model, tokenizer, tmp_path):
    """A file of scores, and the table that is in it."""
    path = tmp_path / "scored.parquet"
    settings = {"learning_rate": 1e-2, "progress": False, "output": path}
    return path, score(make_model(), MADE, HUMAN, tokenizer=tokenizer, **settings)


@pytest.fixture
def engine(make_model, tokenizer):
    """Build an engine on tokenised rows."""

    def build(scorer, rows=MADE, anchors=HUMAN, model=None, **changes):
        batches = [padded([(t["input_ids"], t["labels"])]) for t in tokenise(anchors, tokenizer, "anchors", None)]
        data = None if rows is None else tokenise(rows, tokenizer, "data", None)
        settings = {"data": data, "learning_rate": 1e-2, "progress": False, **changes}
        return GainEngine(model or make_model(), batches, scorer=scorer, **settings)

    return build


def batch_of(rows, tokenizer, ids=None):
    batch = padded([(t["input_ids"], t["labels"]) for t in tokenise(rows, tokenizer, "data", None)])
    return batch if ids is None else {**batch, "ggmi_sample": torch.tensor(ids)}


def test_gains_are_those_of_the_file_whatever_the_order_and_the_copies(scored, engine):
    path, table = scored
    order = [5, 3, 3, 20, 0]
    built = engine(FileScorer(path), rows=[MADE[i] for i in order])
    torch.testing.assert_close(built.scorer.known().gain, torch.tensor(table["gain"].to_pylist())[order])
    torch.testing.assert_close(built.scorer.known().noise, torch.tensor(table["noise"].to_pylist())[order])


def test_a_share_is_the_best_per_token_from_a_file_as_in_training(make_model, tokenizer, tmp_path, engine):
    """Long samples gain more in all; a gain of nats per sample is compared per token, here, there and by `select`."""
    rows = [{**row, "completion": " ".join([row["completion"]] * (1 + i % 4 // 2 * 2))} for i, row in enumerate(MADE)]
    path, settings = tmp_path / "long.parquet", {"learning_rate": 1e-2, "progress": False}
    table = score(make_model(), rows, HUMAN, tokenizer=tokenizer, output=path, **settings)
    gain, tokens = (torch.tensor(table[name].to_pylist()) for name in ("gain", "tokens"))
    best = sorted((gain / tokens).topk(6).indices.tolist())
    assert best != sorted(gain.topk(6).indices.tolist())
    assert select(table, keep=0.25).tolist() == best
    built = engine(FileScorer(path), rows=rows, policy=Filter(keep=0.25))
    built.prepare()
    batch = built.observe(batch_of(rows, tokenizer, list(range(24))))
    assert len(batch["input_ids"]) == 6
    kept = built.ledger.table.to_pandas().query("kept").id
    assert sorted(kept) == best


@pytest.mark.parametrize("stream", [False, True])
def test_no_forward_is_run_to_score_a_batch(stream, scored, engine, tokenizer):
    """By id where the training set is known, by tokens in a stream; the ledger has the gains of the file."""
    path, table = scored
    built = engine(FileScorer(path), rows=None if stream else MADE, policy=Filter(keep=0.5), overhead=None)
    built.prepare()
    forwards = []
    built.probe.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    for start in range(0, 24, 6):
        ids = list(range(start, start + 6))
        built.observe(batch_of([MADE[i] for i in ids], tokenizer, ids))
        built.end_step()
    assert forwards == []
    gains = torch.tensor(table["gain"].to_pylist())
    torch.testing.assert_close(torch.tensor(built.ledger.table["gain"].to_pylist()), gains.double(), check_dtype=False)


def test_samples_that_are_not_in_the_file_are_counted_and_not_judged(scored, engine):
    path, _ = scored
    with pytest.warns(UserWarning, match=r"3 of 27 samples of the training set are not in '.*scored.parquet'"):
        built = engine(FileScorer(path), rows=MADE + sums(3, seed=9))
    assert built.scorer.known().gain.isnan().tolist() == [False] * 24 + [True] * 3


def test_a_file_of_other_data_is_refused(scored, engine):
    path, _ = scored
    with pytest.raises(ValueError, match=r"holds none of the 5 samples of the training set: it was made of other data"):
        engine(FileScorer(path), rows=sums(5, seed=9))


def test_a_file_of_another_model_or_other_anchors_is_refused_with_what_differs(scored, engine, make_model, tokenizer):
    path, _ = scored
    with pytest.raises(ValueError, match=r"is stale: the model's weights \(16 of 21 tensors, model.embed.* differ"):
        engine(FileScorer(path), model=make_model(seed=1)).prepare()
    other = sums(12, seed=3, bad=False)
    with pytest.raises(ValueError, match=r"is stale: the anchors differ from those of this run. Score again"):
        engine(FileScorer(path), anchors=other).prepare()
    joint = JointScorer([FileScorer(path), ColumnScorer("good")])
    rows = [{**row, "good": 1.0} for row in tokenise(MADE, tokenizer, "data", None)]
    with pytest.raises(ValueError, match=r"is stale: the model's weights .* and the anchors differ"):
        engine(joint, model=make_model(seed=1), anchors=other, data=rows).prepare()


def test_a_resumed_run_does_not_take_its_own_training_for_another_model(scored, engine, make_model):
    path, _ = scored
    first = engine(FileScorer(path))
    first.prepare()
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    engine(FileScorer(path), model=model).load_state_dict(first.state_dict())


def test_adapters_around_the_same_weights_are_no_other_model(scored, engine, make_model):
    peft = pytest.importorskip("peft")
    path, _ = scored
    adapted = peft.get_peft_model(make_model(), peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    engine(FileScorer(path), model=adapted, learning_rate=1e-1).prepare()


def test_parts_of_a_joint_score_are_parts_of_the_file(tmp_path, engine, tokenizer):
    rows = [{**row, "good": row["source"] == "right", "useful": 2.0 * i - 9} for i, row in enumerate(MADE)]
    scorer = JointScorer([ColumnScorer("good"), ColumnScorer("useful")])
    table = score("none", rows, scorer=scorer, tokenizer=tokenizer, output=tmp_path / "s.parquet")
    built = engine(FileScorer(tmp_path / "s.parquet"))
    assert built.scorer.parts == ("good", "useful")
    assert "gain/useful" in built.ledger.schema.names
    parts = torch.tensor([table["gain/good"].to_pylist(), table["gain/useful"].to_pylist()])
    torch.testing.assert_close(built.scorer.known().parts, parts)
    built.prepare()  # neither weights nor anchors were used, so any will do


def test_files_that_hold_no_scores_are_refused(tmp_path, scored):
    path, table = scored
    pq.write_table(pa.table({"gain": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other.parquet' holds no scores of `ggmi score`: its columns are \['gain'\]"):
        FileScorer(tmp_path / "other.parquet")
    with pytest.raises(FileNotFoundError):
        FileScorer(tmp_path / "nowhere.parquet")
    later = table.schema.metadata[b"ggmi_scored"].replace(b'"format": 2', b'"format": 3')
    pq.write_table(table.replace_schema_metadata({b"ggmi_scored": later}), path)
    with pytest.raises(ValueError, match=r"has format 3 .*, and this version reads format 2: score again"):
        FileScorer(path)


def test_rows_without_tokens_are_refused(scored, engine):
    path, _ = scored
    with pytest.raises(ValueError, match="samples are known again by their tokens, and the training set has none"):
        engine(FileScorer(path), data=MADE)


@pytest.mark.slow
def test_the_trainer_finds_each_gain_again(scored, tokenizer, make_model, tmp_path):
    """Shuffled, packed or not, ``SFTTrainer`` finds each sample's gain again."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    from ggmi_callbacks.integrations.trl import GGMICallback

    path, table = scored
    data = Dataset.from_list(MADE).shuffle(seed=3)
    gain_of = dict(zip([row["prompt"] + row["completion"] for row in MADE], table["gain"].to_pylist(), strict=True))
    for packing in (False, True):
        args = trl.SFTConfig(
            output_dir=str(tmp_path), report_to=[], use_cpu=True, max_steps=3, per_device_train_batch_size=2,
            packing=packing, max_length=64, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = trl.SFTTrainer(make_model(), args=args, train_dataset=data, processing_class=tokenizer)
        extra = {"train_dataset": data} if packing else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            callback = GGMICallback(
                trainer, HUMAN, scorer=FileScorer(path), policy=Filter(keep=0.5), shadow_learning_rate=1e-2, **extra
            )
            trainer.add_callback(callback)
            trainer.train()
        rows = callback.ledger.table.to_pylist()
        assert rows
        for row in rows:
            sample = data[row["id"]]
            assert row["gain"] == pytest.approx(gain_of[sample["prompt"] + sample["completion"]], abs=1e-5)
