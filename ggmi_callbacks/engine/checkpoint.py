"""What a resumed run must share with the run that it goes on with."""

from __future__ import annotations

from typing import Any

from ggmi_callbacks.distributed import rank_and_size

FORMAT = 2
"""Version of :meth:`GainEngine.state_dict`; another one is refused."""


def stamp(step: int, anchors: str) -> dict[str, Any]:
    """By what a state is known: format, rank, number of ranks, step and the digest of the anchors."""
    rank, size = rank_and_size()
    return {"format": FORMAT, "rank": rank, "world_size": size, "step": step, "anchors": anchors}


def check_stamp(state: Any, anchors: str, step: int | None) -> None:
    """Raise if ``state`` is not one that this rank of this run, at ``step`` if given, can go on with.

    Raises:
        ValueError: naming what differs, and the way out.

    """
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if found != FORMAT:
        raise ValueError(
            f"the state is of format {found}, this version reads format {FORMAT}: resume with the version that wrote "
            "it, or start anew."
        )
    here = stamp(0 if step is None else step, anchors)
    ways = {
        "world_size": "a run of another number of ranks: launch as many",
        "rank": "another rank: give each rank the file that it wrote",
        "anchors": "a run with other anchors, or with anchors batched otherwise: give the same",
        **({} if step is None else {"step": "another step than the trainer's: take both from one checkpoint"}),
    }
    for name, way in ways.items():
        if state[name] != here[name]:
            raise ValueError(
                f"the state was written by {way} (`{name}` is {state[name]!r} there and {here[name]!r} here)."
            )
