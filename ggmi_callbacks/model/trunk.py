"""Running the lower blocks of a model once for two sets of parameters that differ above them only.

This is the one place that replaces a module's ``forward``. What must hold:

- The two sets of parameters are equal below the first block of the tail.
- All forwards are over one batch, in eval mode and without gradient, one after another.
- A forward runs each block once, in order. A block takes the hidden state as its first argument or as
  ``hidden_states``, and returns it alone or first in a tuple.
- Nothing made inside a trunk block is used elsewhere but its return value. :class:`LikelihoodScorer` checks this on a
  batch of anchors, since it cannot be seen from here.

What is kept: ``forward`` is replaced between ``replay()`` and the end of the block only, and comes back as it was, an
attribute of the instance or of the class, after an error too. Hooks on a trunk block itself run in every forward; hooks
inside it run in the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of ``model`` in order: its largest module list that lies in no other.

    Raises:
        ValueError: if it has none.

    Example:
        >>> from torch import nn
        >>> layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        >>> len(blocks(nn.ModuleDict({"embed": nn.Embedding(3, 2), "layers": layers})))
        2

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

    Yields ``replay``, to be called after the first forward: later ones skip the trunk and start ``first_of_tail``
    with what it was given then.

    Raises:
        ValueError: in the forward, if blocks run more than once or take their input under another name.

    """
    passage = _Passage()

    def replay() -> None:
        passage.replaying = True
        for block in trunk:
            block.forward = partial(passage.skip, block)

    handles = [first_of_tail.register_forward_pre_hook(passage.enter_tail, with_kwargs=True)]
    handles += [block.register_forward_hook(passage.leave_block) for block in trunk]
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


@dataclass
class _Passage:
    """What the first forward hands from the trunk to the tail."""

    hidden: list[Any] = field(default_factory=list)  # what the tail was given: one entry after the first forward
    besides: dict[nn.Module, tuple[Any, ...]] = field(
        default_factory=dict
    )  # what blocks return beside the hidden state
    replaying: bool = False

    def enter_tail(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pre-hook of the first tail block: keep its input, or put the kept one in."""
        if self.replaying:
            hidden = self.hidden[0]
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
        if self.hidden or not (args or "hidden_states" in kwargs):
            raise ValueError(
                "`layers`: the model's blocks run more than once in a forward, or take their input under a name of "
                "their own, so they cannot be shared between two models. Leave `layers` out."
            )
        self.hidden.append(args[0] if args else kwargs["hidden_states"])
        return None

    def leave_block(self, module: nn.Module, args: Any, output: Any) -> None:
        """Hook of a trunk block: keep what it returns beside the hidden state."""
        if isinstance(output, tuple):
            self.besides[module] = output[1:]

    def skip(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """``forward`` of a trunk block while replaying."""
        hidden = self.hidden[0]
        return (hidden, *self.besides[block]) if block in self.besides else hidden
