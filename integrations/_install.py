"""What a callback changes on somebody else's objects, taken back as one thing."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any


class Installation(ExitStack):
    """Changes that are undone together, the last one first, by :meth:`close` or at the end of a ``with`` block.

    Example:
        >>> class Trainer:
        ...     def log(self):
        ...         return "log"
        >>> trainer = Trainer()
        >>> with Installation() as installed:
        ...     original = installed.replace(trainer, "log", lambda: "more " + original())
        ...     trainer.log()
        'more log'
        >>> vars(trainer)
        {}

    """

    def replace(self, owner: Any, name: str, value: Any) -> Any:
        """Set an attribute of the instance ``owner``; returns what it was.

        Undoing it deletes the attribute where the instance had none of its own, as where a method is its class's.
        """
        before = getattr(owner, name)
        if name in vars(owner):
            self.callback(setattr, owner, name, before)
        else:
            self.callback(delattr, owner, name)
        setattr(owner, name, value)
        return before
