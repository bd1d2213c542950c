"""What the loggers have stored, read back: every number of the log, and a table by source where they have tables."""

from __future__ import annotations

import ast
import csv
import json
import re
from pathlib import Path

import pytest
from datasets import Dataset

from ggmi_callbacks import Filter, Monitor
from ggmi_callbacks.integrations.lightning import GGMICallback

from .._sums import sums
from ._jobs import BOTH
from ._lightning import Wrapper, fit, text_loader

pytestmark = pytest.mark.slow


@pytest.fixture
def run(make_trainer):
    """A run that reports to one logger; returns the numbers that the trainer's history has, as reporters name them."""

    def train(logger, **settings):
        trainer, callback = make_trainer(
            "sft",
            Filter(refill=False),
            train=Dataset.from_list(sums(16)),
            callback={"source": "source"},
            report_to=logger,
            trainer_kwargs={"eval_dataset": Dataset.from_list(sums(8, 3))},
            eval_strategy="epoch",
            logging_steps=2,
            **settings,
        )
        trainer.train()
        found: dict[str, list[tuple[int, float]]] = {}
        for entry in trainer.state.log_history:
            for key, value in entry.items():
                if "ggmi/" in key:
                    found.setdefault(key, []).append((entry["step"], value))
        assert {"ggmi/gain", "ggmi/nll/right", "ggmi/nll/wrong", "ggmi/kept/right", "eval_ggmi/nll/wrong"} <= set(found)
        return found, callback

    return train


def renamed(key: str) -> str:
    """As the reporters of transformers rename it."""
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


def beside_sources(key: str) -> str:
    """As it is called in MLflow's store of files, where ``ggmi/gain`` is a folder of sources."""
    return f"{key}/all sources" if key in ("ggmi/gain", "ggmi/kept") else key


def check_table(columns, rows, callback):
    results = callback.results()
    assert columns == ["source", "nll", "gain", "kept"]
    assert [row[0] for row in rows] == ["right", "wrong"]
    for source, *numbers in rows:
        wanted = [results[f"ggmi/{kind}/{source}"] for kind in columns[1:]]
        assert [float(number) for number in numbers] == pytest.approx(wanted, rel=1e-3)


def test_tensorboard(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    found, callback = run("tensorboard")
    events = read_events(tmp_path / "events")
    for key, values in found.items():
        stored = events.Scalars(renamed(key))
        assert [event.step for event in stored] == [step for step, _ in values]
        assert [event.value for event in stored] == pytest.approx([value for _, value in values], rel=1e-6)
    check_markdown(events, callback)


def test_wandb_offline(run, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    found, callback = run("wandb")
    import wandb

    folder = wandb.run.dir
    wandb.finish()
    wandb.teardown()  # writes what waits
    (file,) = Path(folder).parent.glob("*.wandb")
    history = list(wandb_history(file))
    for key, values in found.items():
        stored = [(entry["train/global_step"], entry[renamed(key)]) for entry in history if renamed(key) in entry]
        assert [step for step, _ in stored] == [step for step, _ in values]
        assert [value for _, value in stored] == pytest.approx([value for _, value in values], rel=1e-6)
    (shown,) = [entry for entry in history if "ggmi/sources/path" in entry]
    table = json.loads((Path(folder) / shown["ggmi/sources/path"]).read_text())
    check_table(table["columns"], table["data"], callback)
    bars = {key for key in shown if key.endswith("_table/path")}
    assert bars == {f"ggmi/sources/{kind}_table/path" for kind in ("nll", "gain", "kept")}


def wandb_history(path):
    """Entries of the history in an offline run: records of LevelDB's log format, of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for another header in this block
            at += 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = wandb_internal_pb2.Record.FromString(whole)
            whole = b""
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def test_mlflow_file_store(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "store").as_uri()
    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    found, callback = run("mlflow")
    client = mlflow.MlflowClient(store)
    (stored,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    for key, values in found.items():
        history = client.get_metric_history(stored.info.run_id, beside_sources(key))
        assert [metric.step for metric in history] == [step for step, _ in values]
        assert [metric.value for metric in history] == pytest.approx([value for _, value in values], rel=1e-6)
    path = mlflow.artifacts.download_artifacts(run_id=stored.info.run_id, artifact_path="ggmi/sources.csv")
    columns, *rows = csv.reader(Path(path).read_text().splitlines())
    check_table(columns, rows, callback)


def test_trackio(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when it is imported
    pytest.importorskip("trackio")
    found, callback = run("trackio", project="gains", run_name="one")
    from trackio.sqlite_storage import SQLiteStorage

    entries = SQLiteStorage.get_logs("gains", "one")
    for key, values in found.items():
        stored = [(entry["train/global_step"], entry[renamed(key)]) for entry in entries if renamed(key) in entry]
        assert [step for step, _ in stored] == [step for step, _ in values]
        assert [value for _, value in stored] == pytest.approx([value for _, value in values], rel=1e-6)
    (shown,) = [entry["ggmi/sources"] for entry in entries if "ggmi/sources" in entry]
    columns = list(shown["_value"][0])
    check_table(columns, [list(row.values()) for row in shown["_value"]], callback)


def read_events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    return events.Reload()


def check_markdown(events, callback):
    from tensorboard.plugins.custom_scalar import layout_pb2

    (text,) = events.Tensors("ggmi/sources/text_summary")
    lines = [line.strip("| ").split(" | ") for line in text.tensor_proto.string_val[0].decode().split("\n")]
    check_table(lines[0], lines[2:], callback)
    (layout,) = events.Tensors("custom_scalars__config__")
    charts = layout_pb2.Layout.FromString(layout.tensor_proto.string_val[0]).category[0].chart
    assert [chart.title for chart in charts] == ["nll by source", "gain by source", "kept by source"]
    scalars = events.Tags()["scalars"]
    assert sum(bool(re.search(charts[0].multiline.tag[0], tag)) for tag in scalars) >= 2


def lightning_run(logger, tokenizer, make_model, tmp_path):
    """A fit with one logger; returns what was logged in it, the last of each, and the callback."""
    rows = sums(24)
    anchors, sources = text_loader(tokenizer, sums(24, 1, bad=False)), [row["source"] for row in rows]
    callback = GGMICallback(anchors, policy=Filter(), sources=sources, val_sources=sources)
    loader = text_loader(tokenizer, rows)
    trainer = fit(Wrapper(make_model()), callback, loader, tmp_path, val=loader, logger=logger)
    found = {key: float(value) for key, value in trainer.logged_metrics.items() if "ggmi/" in key}
    assert {"ggmi/gain", "ggmi/nll/right", "ggmi/kept/wrong", "val_ggmi/nll/right"} <= set(found)
    assert {"ggmi/gain", "ggmi/kept"} == {key for key in trainer.progress_bar_metrics if "ggmi/" in key}
    return found, callback


def test_lightnings_csv(make_model, tokenizer, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    found, _ = lightning_run(CSVLogger(tmp_path), tokenizer, make_model, tmp_path)
    (file,) = tmp_path.rglob("metrics.csv")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    for key, value in found.items():
        assert value in [pytest.approx(float(row[key]), rel=1e-6) for row in rows if row[key]]


def test_lightnings_tensorboard(make_model, tokenizer, tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path)
    found, callback = lightning_run(logger, tokenizer, make_model, tmp_path)
    events = read_events(logger.log_dir)
    for key, value in found.items():
        assert value in [pytest.approx(event.value, rel=1e-6) for event in events.Scalars(key)]
    check_markdown(events, callback)


def test_lightnings_mlflow(make_model, tokenizer, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    from lightning.pytorch.loggers import MLFlowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "store").as_uri()
    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    logger = MLFlowLogger("gains", tracking_uri=store)
    found, callback = lightning_run(logger, tokenizer, make_model, tmp_path)
    client = mlflow.MlflowClient(store)
    for key, value in found.items():
        stored = client.get_metric_history(logger.run_id, beside_sources(key))
        assert value in [pytest.approx(metric.value, rel=1e-6) for metric in stored]
    path = Path(client.download_artifacts(logger.run_id, "ggmi/sources.csv"))
    columns, *rows = csv.reader(path.read_text().splitlines())
    check_table(columns, rows, callback)


def test_lightnings_wandb(make_model, tokenizer, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="gains", save_dir=tmp_path, offline=True)
    found, callback = lightning_run(logger, tokenizer, make_model, tmp_path)
    folder = Path(logger.experiment.dir)
    wandb.finish()
    wandb.teardown()
    (file,) = folder.parent.glob("*.wandb")
    history = list(wandb_history(file))
    for key, value in found.items():
        assert value in [pytest.approx(entry[key], rel=1e-6) for entry in history if key in entry]
    (shown,) = [entry for entry in history if "ggmi/sources/path" in entry]
    table = json.loads((folder / shown["ggmi/sources/path"]).read_text())
    check_table(table["columns"], table["data"], callback)


@BOTH
@pytest.mark.parametrize("bar", [False, True])
@pytest.mark.parametrize("policy", [Monitor, Filter])
def test_the_console_shows_two_numbers_and_the_bar_gain_and_kept(kind, bar, policy, make_trainer, capsys):
    data = Dataset.from_list(sums(16))
    settings = {"callback": {"source": "source", "overhead": 0.99}, "disable_tqdm": not bar, "num_train_epochs": 2}
    trainer, _ = make_trainer(kind, policy(), train=data, **settings)
    trainer.train()
    out, err = capsys.readouterr()
    printed = [ast.literal_eval(line) for line in out.splitlines() if line.startswith("{") and "ggmi/" in line]
    assert len(printed) > 8
    second = "ggmi/kept" if policy is Filter else "ggmi/coverage"
    for entry in printed:
        shown = [key for key in entry if "ggmi/" in key]
        assert shown == ["ggmi/gain", second] if "loss" in entry else len(shown) == 2
    assert len([key for key in trainer.state.log_history[0] if "ggmi/" in key]) > 10
    if bar:
        assert re.search(r"gain=-?[\d.e-]+, kept=\d+%" if policy is Filter else r"gain=-?[\d.e-]+\]", err)
    for console in trainer.callback_handler.callbacks:
        assert "on_log" not in vars(console)  # as it was


def test_losses_alone_are_short_on_the_console(make_trainer, capsys):
    rows = [{**row, "source": name} for row, name in zip(sums(12), "abcabcabcabc", strict=True)]
    trainer, _ = make_trainer("sft", train=Dataset.from_list(rows))
    from ggmi_callbacks.integrations import trl

    trainer.add_callback(trl.GGMICallback(trainer, source="source"))
    trainer.train()
    printed = [ast.literal_eval(line) for line in capsys.readouterr().out.splitlines() if "ggmi/" in line]
    assert printed
    assert all(sum("ggmi/" in key for key in entry) == 2 for entry in printed)
