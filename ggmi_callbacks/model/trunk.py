"""Running the lower blocks of a model once for two sets of parameters that differ above them only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of ``model`` in order: its largest module list that lies in no other.

    Raises:
        ValueError: if it has none.

    """
    lists: dict[str, nn.ModuleList] = {}  # by name
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in lists):
            lists[name] = module
    if not lists:
        raise ValueError(
            f"`layers` needs a model made of repeated blocks, and {type(model).__name__} has no ModuleList."
        )

    def size(name: str) -> int:
        return sum(p.numel() for p in lists[name].parameters())

    return list(lists[max(lists, key=size)])


@contextmanager
def shared_trunk(trunk: list[nn.Module], first_of_tail: nn.Module) -> Iterator[Callable[[], None]]:
    """Run the blocks of ``trunk`` once for several forwards over the same batch.

    Yields a function to call after the first forward: later ones skip the trunk and start ``first_of_tail`` with what
    it was given then. Parameters may differ in the tail only.
    """
    entered: list[Any] = []
    besides: dict[nn.Module, tuple[Any, ...]] = {}  # blocks of some models return a tuple
    replaying = False

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if replaying:
            return ((entered[0], *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": entered[0]})
        if entered or not (args or "hidden_states" in kwargs):
            raise ValueError(
                "`layers`: the model's blocks run more than once in a forward, or take their input under a name of "
                "their own, so they cannot be shared between two models. Leave `layers` out."
            )
        entered.append(args[0] if args else kwargs["hidden_states"])
        return None

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, tuple):
            besides[module] = output[1:]

    def skip(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (entered[0], *besides[block]) if block in besides else entered[0]

    def replay() -> None:
        nonlocal replaying
        replaying = True
        for block in trunk:
            block.forward = partial(skip, block)

    handles = [first_of_tail.register_forward_pre_hook(enter, with_kwargs=True)]
    handles += [block.register_forward_hook(note) for block in trunk]
    own = [vars(block).get("forward") for block in trunk]
    try:
        yield replay
    finally:
        for handle in handles:
            handle.remove()
        for block, forward in zip(trunk, own, strict=True):
            if forward is None:
                vars(block).pop("forward", None)
            else:
                block.forward = forward
