"""GGMI in a loop of one's own, plain PyTorch or Accelerate.

A causal language model of Hugging Face, in four lines more than the loop had:

    engine = GainEngine(model, anchors, policy=Filter(keep=0.5))           # Accelerate: accelerator.unwrap_model(model)
    with attach(engine, model):
        for batch in loader:
            model(**batch).loss.backward()                                 # Accelerate: accelerator.backward(...)
            optimizer.step(), optimizer.zero_grad()
            engine.end_step()
    print(engine.log() | engine.finish())

Any other model, with a per-sample loss, in three calls a step:

    engine = GainEngine(model, anchors, task=SampleLoss(loss), policy=Filter(keep=0.5))
    engine.prepare()
    for batch in loader:
        batch = engine.observe(batch)
        engine.mean(loss(model, batch)).backward()
        optimizer.step(), optimizer.zero_grad()
        engine.end_step()

Both keep the engine's contract; :func:`batches` makes anchors of a loader, and sample ids ride along if the loader
was made with ``Numbered`` and ``CarryIds``. A scorer with ``optimizer_aware=True`` needs ``engine.optimizer``; a loop
under autocast sets ``engine.probe.autocast_dtype``, so that all code lengths have one precision.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ggmi_callbacks.data import CarryIds, Numbered
from ggmi_callbacks.engine import GainEngine
from ggmi_callbacks.model import preserved_rng
from ggmi_callbacks.tasks import SAMPLE_KEY, Inputs, SampleLoss, wrap_batch
from ggmi_callbacks.weighting.attach import Attachment, attach

__all__ = ["Attachment", "CarryIds", "GainEngine", "Numbered", "SampleLoss", "attach", "batches"]


def batches(loader: Iterable[Any]) -> list[Inputs]:
    """Return all batches of ``loader`` as the engine's anchors.

    Example:
        >>> import torch
        >>> batches([(torch.zeros(2, 3), torch.zeros(2))])[0].keys()
        dict_keys(['ggmi_batch'])

    """
    with preserved_rng():  # a DataLoader draws from the global stream even when it does not shuffle
        return [{k: v for k, v in wrap_batch(batch).items() if k != SAMPLE_KEY} for batch in loader]
