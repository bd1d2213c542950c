"""``score``: gains of a whole data set before any training."""

from __future__ import annotations

from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

import ggmi_callbacks
from ggmi_callbacks.engine import GainEngine
from ggmi_callbacks.expressions import written
from ggmi_callbacks.scorers import LikelihoodScorer, Scorer
from ggmi_callbacks.scorers._stamp import Stamp, digest_of_anchors, digest_of_tensor, digests_of_weights
from ggmi_callbacks.scoring.job import Job
from ggmi_callbacks.scoring.load import load_model
from ggmi_callbacks.scoring.processes import own_device, processes
from ggmi_callbacks.scoring.samples import Reader


def score(
    model: str | nn.Module,
    data: Any,
    anchors: Any = None,
    *,
    scorer: Scorer | None = None,
    tokenizer: Any = None,
    source: str | None = None,
    prompt_column: str | None = None,
    completion_column: str | None = None,
    output: str | PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    batch_tokens: int = 8192,
    max_length: int | None = 1024,
    limit: int | None = None,
    learning_rate: float = 1e-4,
    shadow_epochs: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> pa.Table:
    """Score a data set against anchors with a model that is not trained yet.

    Rows are tokenised as TRL's ``SFTTrainer`` does it by default, or are taken as they are if they have ``input_ids``.
    With ``output`` the scores are also written to a file, which :class:`~ggmi_callbacks.FileScorer` takes in training;
    a run that was killed goes on with the same call, and the processes of ``torchrun`` or ``accelerate launch`` share
    the work. Until it is finished, ``OUTPUT.parts`` beside it holds what is done, and the shadow, which is as large as
    what the model trains.

    Args:
        model: a folder or a name on the hub; or a module, in the precision that it has.
        data: what to score: a ``.jsonl``, ``.json`` or ``.parquet`` file, a name on the hub, a data set or rows.
        anchors: real examples of the task, likewise; None if the scorer reads the data alone.
        scorer: how gain is estimated; :class:`~ggmi_callbacks.LikelihoodScorer` by default. It must be static.
        tokenizer: a tokenizer, a folder or a name; the model's by default.
        source: column that says where a sample came from.
        prompt_column: column of prompts, if it has no usual name.
        completion_column: column of answers, if it has no usual name.
        output: ``.parquet`` file for the scores. If it is there already and fits, it is read and nothing is scored.
        dtype: of the weights of a model that is given by name; the checkpoint's own by default.
        device: where to compute; a GPU if there is one.
        batch_tokens: most tokens in a batch, padding included; a longer sample is a batch of its own.
        max_length: tokens of a sample that are kept, as in ``SFTConfig``; None for all.
        limit: score the first so many rows.
        learning_rate: of the shadow, best that of the training to come.
        shadow_epochs: at most so many passes of the shadow over the anchors.
        seed: of the shadow's order of anchors.
        progress: show progress bars, with the time left.

    Returns:
        Columns ``id`` (position in ``data``), ``source``, ``tokens`` (targets), ``gain`` and ``noise`` (nats, or the
        scorer's own unit; null where not scored), ``gain/<part>`` and ``fingerprint`` (of tokens and targets).

    Raises:
        TypeError: if ``scorer`` is no scorer.
        ValueError: if the scorer changes with the weights, something cannot be read, anchors are missing or too few,
            several processes have no ``output``, or ``output`` holds scores of something else, with what differs.

    Example:
        >>> from ggmi_callbacks import ColumnScorer
        >>> rows = [{"input_ids": [1, 2], "right": True}, {"input_ids": [1, 3], "right": False}]
        >>> score("not needed", rows, scorer=ColumnScorer("right"))["gain"].to_pylist()
        [0.5, -0.5]

    """
    if output is not None and Path(output).suffix != ".parquet":
        raise ValueError(f"`output` {str(output)!r} must end in .parquet, the form in which scores are written.")
    scorer = check_static(LikelihoodScorer() if scorer is None else scorer, batch_tokens)
    where = own_device(device)
    if tokenizer is None and isinstance(model, str):
        tokenizer = model
    reader = Reader(tokenizer, prompt_column, completion_column, max_length)
    samples = reader.samples(data, source, limit)
    stamp = partial(Stamp, ggmi_callbacks.__version__, written(scorer), content=samples.content)
    sums = scorer.additive and scorer.normalize is None
    stamp = partial(stamp, tokens=digest_of_tensor(samples.prints), sums=sums)
    scorer.read(samples.data)
    target = None if output is None else Path(output)
    with processes(where) as ranks:
        if ranks[1] > 1 and target is None:
            raise ValueError(f"`output` is missing: {ranks[1]} processes bring their scores together in a file.")
        job = partial(Job, samples, scorer, output=target, rank=ranks[0], size=ranks[1])
        if (known := scorer.known()) is not None:
            simple = job(stamp=stamp(shadow="", anchors="", weights={}))
            return simple.finish(known.stacked().cpu().numpy()) if (done := simple.finished()) is None else done
        module = module_of(model, dtype, where if device is not None or isinstance(model, str) else None)
        settings = {"learning_rate": learning_rate, "shadow_epochs": shadow_epochs, "seed": seed}
        bars = progress and ranks[0] == 0
        engine = GainEngine(module, reader.anchors(anchors), scorer=scorer, progress=bars, **settings)  # type: ignore[arg-type]
        whole = job(
            stamp=stamp(
                shadow=", ".join(f"{name}={value}" for name, value in settings.items()),
                anchors=digest_of_anchors(engine.anchors, engine.probe.task),
                weights=digests_of_weights(module),
            )
        )
        return whole.run(engine, batch_tokens, bars) if (done := whole.finished()) is None else done


def check_static(scorer: Scorer, batch_tokens: int) -> Scorer:
    """Return ``scorer``; raise if it is none, or its gains change in training."""
    if not isinstance(scorer, Scorer):
        raise TypeError(f"`scorer` must be a scorer such as LikelihoodScorer(), got {scorer!r}.")
    if not scorer.static:
        raise ValueError(
            f"`scorer` must be static, and {type(scorer).__name__} changes with the weights that are trained: a score "
            "from before training would be stale at once. Take LikelihoodScorer(), or give this one to the callback."
        )
    if batch_tokens < 1:
        raise ValueError(f"`batch_tokens` must be at least 1, got {batch_tokens}.")
    return scorer


def module_of(model: str | nn.Module, dtype: torch.dtype | None, device: torch.device | None) -> nn.Module:
    """The model, loaded if it is named, on ``device`` if one is given."""
    if isinstance(model, str):
        model = load_model(model, dtype)
    elif dtype is not None:
        raise ValueError(
            f"`dtype={dtype}` is that of a model given by name, and `model` is a {type(model).__name__}: cast it "
            "yourself, `model.to(dtype)`, or autocast with `LikelihoodScorer(dtype=...)`."
        )
    return model.to(device)
