"""What a resumed run must share with the run that it goes on with."""

from __future__ import annotations

from typing import Any, Protocol

from ggmi_callbacks.distributed import rank_and_size

FORMAT = 5
"""Version of :meth:`GainEngine.state_dict`; another one is refused."""


class Stateful(Protocol):
    """What goes into a state beside the engine's own parts."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a restart needs."""
        ...


def stamp(step: int, anchors: str, heldout: str, scorer: str) -> dict[str, Any]:
    """By what a state is known: format, rank, ranks, step, digests of anchors and held-out samples, kind of scorer."""
    rank, size = rank_and_size()
    run = {"format": FORMAT, "rank": rank, "world_size": size, "step": step}
    return {**run, "anchors": anchors, "heldout": heldout, "kind": scorer}


def check_stamp(state: Any, here: dict[str, Any], step: int | None) -> None:
    """Raise if ``state`` is not one that this rank of this run, at ``step`` if given, can go on with.

    Args:
        state: what was saved.
        here: :func:`stamp` of this run.
        step: that the run is at, if it is known.

    Raises:
        ValueError: naming what differs, and the way out.

    """
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if found != FORMAT:
        raise ValueError(
            f"the state is of format {found}, this version reads format {FORMAT}: resume with the version that wrote "
            "it, or start anew."
        )
    here = {**here, "step": step}
    ways = {
        "world_size": "is of a run on {there} ranks, and this one has {here}: launch as many",
        "rank": "is that of rank {there}, and this is rank {here}: give each rank the file that it wrote",
        "kind": "is of a run with {there}, and this one has {here}: resume with the same scorer",
        "anchors": "is of a run with other anchors, or with anchors batched otherwise: give the same",
        "heldout": "is of a run that held out other samples, or batched them otherwise: give the same data, `heldout` "
        "and seed",
        **(
            {}
            if step is None
            else {"step": "is of step {there}, and the run is at {here}: take both from one checkpoint"}
        ),
    }
    for name, way in ways.items():
        if state[name] != here[name]:
            raise ValueError(f"the state {way.format(there=state[name], here=here[name])}.")
