"""The engine's state in a checkpoint of the trainer's: written whole or not at all, read with one error."""

from __future__ import annotations

import os

import torch

from ggmi_callbacks.engine import SampleEngine


def save_state(engine: SampleEngine, folder: str, rank: int) -> None:
    """Write the state of ``engine`` on ``rank`` into ``folder``: the whole file or none. Every rank must call it."""
    state, path = engine.state_dict(), _path(folder, rank)
    os.makedirs(folder, exist_ok=True)
    torch.save(state, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def save_config(text: str, folder: str) -> None:
    """Write what the callback was given into ``folder``, so that the run can be repeated; for one rank."""
    with open(os.path.join(folder, "ggmi.yaml"), "w", encoding="utf-8") as file:
        file.write(text)


def load_state(engine: SampleEngine, folder: str, rank: int, step: int) -> None:
    """Take back what :func:`save_state` wrote, for a run that goes on at ``step``.

    Raises:
        ValueError: naming the file, if it is missing, cannot be read, or is not the state of this run.

    """
    path = _path(folder, rank)
    if not os.path.exists(path):
        fewer = rank > 0 and os.path.exists(_path(folder, 0))
        raise ValueError(
            f"cannot resume: {path} is missing. "
            + (
                f"The run that wrote the checkpoint had fewer ranks than {rank + 1}: resume with as many."
                if fewer
                else "The run that wrote the checkpoint had no GGMICallback: take it off with "
                "`trainer.remove_callback(callback)`, or start anew."
            )
        )
    try:
        state = torch.load(path, map_location=engine.device, weights_only=True)
    except Exception as error:  # whatever a reader makes of bytes that are not a state
        raise ValueError(
            f"cannot resume: {path} is truncated or no state of GGMICallback ({type(error).__name__}). Resume from "
            "another checkpoint, or start anew."
        ) from error
    try:
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}.")
        engine.load_state_dict(state, step=step)
    except ValueError as error:
        raise ValueError(
            f"cannot resume from {path}: {error} Resume as that run was, from another checkpoint, or start anew."
        ) from error


def _path(folder: str, rank: int) -> str:
    return os.path.join(folder, f"ggmi_state_{rank}.pt")
