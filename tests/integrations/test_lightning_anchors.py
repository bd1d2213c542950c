"""Anchors by one door: whatever people have, it is scored as the same real examples."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pyarrow
import pytest
import torch
from datasets import Dataset
from pyarrow import parquet
from torch.utils.data import DataLoader, IterableDataset

from ggmi_callbacks import Monitor
from ggmi_callbacks.integrations.lightning import GGMICallback
from ggmi_callbacks.rows import read_rows

from .._sums import sums
from ._jobs import tokenised
from ._lightning import Classifier, Wrapper, fit, point_callback, points, text_loader

TEXT = [row | {"text": f"2020-01-{i + 1:02d}"} for i, row in enumerate(sums(3))]


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def json_lines(rows, path):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def json_array(rows, path):
    path.write_text(json.dumps(rows, indent=1))
    return path


def zipped(rows, path):
    with gzip.open(path, "wt") as file:
        file.write("\n".join(json.dumps(row) for row in rows))
    return path


def columns(rows, path):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


FILES = {"a.jsonl": json_lines, "a.json": json_array, "a.jsonl.gz": zipped, "a.parquet": columns}
ROWS = {
    "list": lambda rows, path: rows,
    "generator": lambda rows, path: (row for row in rows),
    "stream": lambda rows, path: Stream(rows),
    "data set": lambda rows, path: Dataset.from_list(rows),
    **{name: lambda rows, path, name=name, write=write: write(rows, path / name) for name, write in FILES.items()},
    "path as text": lambda rows, path: str(json_lines(rows, path / "a.jsonl")),
}
BATCHES = {"loader": lambda b: b, "batches": list, "generator of batches": iter}


@pytest.fixture
def gains(make_model, tokenizer, tmp_path):
    def gains(anchors):
        callback = GGMICallback(anchors)
        fit(Wrapper(make_model()), callback, text_loader(tokenizer, sums(8)), tmp_path)
        return callback.ledger.table["gain"].to_pylist()

    return gains


@pytest.fixture
def rows(tokenizer):
    return tokenised(Dataset.from_list(sums(12, 1, bad=False)), tokenizer).remove_columns("source").to_list()


@pytest.fixture
def wanted(gains, tokenizer):
    return gains(text_loader(tokenizer, sums(12, 1, bad=False), batch=3))


@pytest.mark.parametrize("form", ROWS)
def test_rows_are_collated_as_the_training_set_is(form, gains, wanted, rows, tmp_path):
    assert gains(ROWS[form](rows, tmp_path)) == wanted


@pytest.mark.parametrize("form", BATCHES)
def test_batches_are_taken_as_they_are(form, gains, wanted, tokenizer):
    assert gains(BATCHES[form](text_loader(tokenizer, sums(12, 1, bad=False), batch=3))) == wanted


@pytest.mark.parametrize(
    "anchors",
    [
        lambda data: DataLoader(data, 8),
        lambda data: list(DataLoader(data, 8)),
        lambda data: [data[i] for i in range(len(data))],
        lambda data: data,
    ],
    ids=["loader", "batches", "rows", "data set"],
)
def test_anchors_that_are_no_texts(anchors, tmp_path):
    ledgers = []
    for given in (anchors(points(192, 1)), DataLoader(points(192, 1), 8)):
        callback = point_callback(given)
        fit(Classifier(), callback, DataLoader(points(32), 8), tmp_path)
        ledgers.append(callback.ledger.table["gain"].to_pylist())
    assert ledgers[0] == ledgers[1]


def test_a_generator_serves_a_second_fit_too(rows, make_model, tokenizer, tmp_path):
    callback = GGMICallback(row for row in rows)
    for _ in range(2):
        fit(Wrapper(make_model()), callback, text_loader(tokenizer, sums(8)), tmp_path)
        assert len(callback.ledger) == 8


def test_anchors_pass_through_the_modules_own_transfer_hooks(tmp_path):
    """Where a module normalises its batches after their transfer, anchors are not scored raw."""

    class Scaling(Classifier):
        def on_after_batch_transfer(self, batch, index):
            return [3 * batch[0], batch[1]]

    callback = point_callback()
    fit(Scaling(), callback, DataLoader(points(32), 8), tmp_path)
    assert torch.equal(callback.engine.anchors[0]["ggmi_batch"][0], 3 * points(192, 1)[:8][0])


# -- what cannot be taken --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("form", ["list", "stream", "data set", "a.jsonl"])
def test_too_few(form, size, gains, rows, tmp_path):
    with pytest.raises(ValueError, match=rf"`anchors` must hold at least two real examples of the task, got {size}"):
        gains(ROWS[form](rows[:size], tmp_path))


def test_no_anchors_at_all(gains):
    with pytest.raises(ValueError, match=r"`anchors` are missing: .*`sources=names` logs losses by source"):
        gains(None)


@pytest.mark.parametrize("anchors", [5, {"input_ids": [[1, 2]]}])
def test_things_that_hold_no_anchors(anchors, gains):
    with pytest.raises(TypeError, match=rf"`anchors` must be a loader, .* got {type(anchors).__name__}"):
        gains(anchors)


def test_a_file_that_is_not_there(gains):
    with pytest.raises(FileNotFoundError, match=r"`anchors`: there is no file 'nowhere\.jsonl'"):
        gains("nowhere.jsonl")
    with pytest.raises(ValueError, match=r"`anchors`: 'openai/gsm8k' must end in \.jsonl, \.json, \.parquet"):
        gains("openai/gsm8k")


def test_rows_of_another_kind_name_what_they_hold(gains):
    with pytest.raises(ValueError, match=r"cannot be collated.*rows hold \['completion', 'prompt', 'source'\]"):
        gains(sums(8))
    with pytest.raises(ValueError, match=r"those of the training set \['input_ids', 'labels'\]"):
        gains(["2 and 2", "3 and 3"])


def test_rows_need_a_loader_that_collates(rows, make_model, tokenizer, tmp_path):
    class Plain:
        def __iter__(self):
            return iter(text_loader(tokenizer, sums(8)))

    with pytest.raises(ValueError, match=r"`anchors` are rows, and the training loader \(Plain\) has no `collate_fn`"):
        fit(Wrapper(make_model()), GGMICallback(rows), Plain(), tmp_path)
    fit(Wrapper(make_model()), GGMICallback(text_loader(tokenizer, sums(8))), Plain(), tmp_path)


def test_a_stream_without_an_end():
    with pytest.raises(ValueError, match=r"`anchors` is a stream of more than 10000 .*islice\(stream, 128\)"):
        GGMICallback(itertools.cycle([1]), policy=Monitor())


def test_anchors_without_targets(gains, rows):
    with pytest.raises(ValueError, match=r"12 of 12 `anchors` have no target tokens"):
        gains([row | {"labels": [-100] * len(row["labels"])} for row in rows])


@pytest.mark.parametrize("name", FILES)
def test_rows_of_a_file_are_those_that_were_written(name, tmp_path):
    """Texts that look like dates stay texts."""
    assert read_rows(FILES[name](TEXT, tmp_path / name)) == TEXT


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"a": 1}\n{"a":', r"cannot be read as \.jsonl: line 2: "), ("5\n", "must hold an object for each row, got 5")],
)
def test_a_broken_line_is_named(content, said, tmp_path):
    path = Path(tmp_path / "a.jsonl")
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        read_rows(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.json.gz", "a.json"])
def test_a_file_that_is_not_what_its_name_says(name, tmp_path):
    (tmp_path / name).write_text("no table")
    with pytest.raises(ValueError, match=rf"a\.\S+' cannot be read as {name[1:].removesuffix('.gz')}"):
        read_rows(tmp_path / name)
