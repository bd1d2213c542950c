"""Samples that are never trained on: twins of those that are, in every epoch and at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.data import to_device
from ggmi_callbacks.engine.replay import Visit
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.scorers import Scorer
from ggmi_callbacks.tasks import SAMPLE_KEY, Inputs, Task


def refuse_share(heldout: Any) -> None:
    """Raise TypeError if ``heldout`` is a share of the training set, where nobody has that."""
    if isinstance(heldout, (int, float)):
        raise TypeError(
            f"`heldout` must be samples that are never trained on, got {heldout!r}. A share of the training set is "
            "taken by the callbacks for Hugging Face alone; here split the data before the loader is made, as in "
            "`train, held = torch.utils.data.random_split(data, [0.98, 0.02])`, and give a loader of `held`."
        )


def reserved_ids(heldout: Sequence[Inputs], num_samples: int | None) -> Tensor:
    """Ids of the samples of the training set that ``heldout`` holds, in ascending order; none if it carries no ids."""
    found = [torch.as_tensor(batch[SAMPLE_KEY]).flatten().cpu().long() for batch in heldout if SAMPLE_KEY in batch]
    ids = torch.cat([torch.empty(0, dtype=torch.long), *found])
    return ids[ids < (num_samples or 0)].unique()


def ids_left(rows: int, reserved: Tensor, num_samples: int | None) -> Tensor:
    """Ids [rows] of what is left of the training set, in its order, when the samples ``reserved`` are taken out of it.

    Raises:
        ValueError: if that are not ``rows`` samples.

    """
    if len(reserved) and num_samples != rows + len(reserved):
        raise ValueError(
            f"{len(reserved)} of {num_samples} samples are held out, and the data set has {rows} rows: it must hold "
            "the others, with the ids that they have in the whole set."
        )
    ids = torch.arange(rows + len(reserved))
    return ids[~torch.isin(ids, reserved)]


def check_heldout(heldout: Sequence[Inputs], policy: Policy, scorer: Scorer, reserved: Tensor) -> None:
    """Raise where ``policy`` drops samples and could not judge those that are held out, which it has to.

    Raises:
        ValueError: if they are looked up by id and carry none of the training set's.

    """
    needs_ids = scorer.needs_ids or bool(policy.needs)
    if policy.drops and needs_ids and heldout and not len(reserved):
        who = type(scorer).__name__ if scorer.needs_ids else repr(policy)
        raise ValueError(
            f"`heldout` samples are compared with those that {policy!r} keeps, so it has to judge them too, and {who} "
            "looks samples up by id, which these do not carry. Let a share of the training set be held out "
            f"(`heldout=0.02` of the callbacks for Hugging Face), or give batches with ids under {SAMPLE_KEY!r} that "
            "are positions in the training set."
        )


def held_visits(
    heldout: Sequence[Inputs], task: Task, codes: Tensor | None, none: int, reserved: Tensor, device: torch.device
) -> list[Visit]:
    """Batches of ``heldout`` as they are measured.

    Args:
        heldout: the batches; ids may ride along.
        task: that knows their layouts.
        codes: of the sources by id, if there are sources.
        none: the code of no source.
        reserved: ids of the training set among them; only these are kept with their batch.
        device: where the model is.

    """
    visits = []
    for batch in heldout:
        given, inputs = batch.get(SAMPLE_KEY), to_device(batch, device)
        layout = task.layout(inputs, None if given is None else given.numel())
        if given is None:
            source, identity = torch.full((layout.n,), none, device=device), task.fingerprint(inputs, layout)
        else:
            ids = given.flatten().cpu().long()
            source = torch.full_like(ids, none) if codes is None else codes[ids]
            source, identity = source.to(device), ids.to(device)
            if bool(torch.isin(ids, reserved).all()):
                layout = replace(layout, ids=identity)
        visits.append(Visit(inputs, layout, first_nll=torch.empty(0), source=source, identity=identity))
    return visits
