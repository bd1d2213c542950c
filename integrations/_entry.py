"""A callback that stands before its trainer's loop, from when it is made until it is taken off."""

from __future__ import annotations

from typing import Any

from ggmi_callbacks.integrations import _compat
from ggmi_callbacks.integrations._install import Installation

STRANGER = (
    "a GGMICallback of another trainer was added to this one: make one for each, "
    "`trainer.add_callback(GGMICallback(trainer, anchors=...))`."
)


class Entrant:
    """The part of a callback that comes and goes; a subclass has :meth:`_run` in place of the trainer's loop."""

    trainer: Any
    _entry: Installation
    """What holds until the callback is taken off."""
    _installed: Installation
    """What holds for the length of a run."""

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def _enter(self) -> None:
        """Stand before the trainer's loop; a callback that was made earlier and never added gives way."""
        handler, loop = self.trainer.callback_handler, _compat.LOOP
        earlier = getattr(vars(self.trainer).get(loop), "__self__", None)
        if isinstance(earlier, Entrant):
            if earlier in handler.callbacks:
                raise ValueError(
                    "`trainer` has a GGMICallback already: take it off with `trainer.remove_callback(GGMICallback)` "
                    "before you make another."
                )
            earlier._entry.close()
        self._loop = self._entry.replace(self.trainer, loop, self._run)
        self._handler_remove = self._entry.replace(handler, "remove_callback", self._remove_callback)
        self._handler_pop = self._entry.replace(handler, "pop_callback", self._pop_callback)

    def _remove_callback(self, callback: Any) -> None:
        self._handler_remove(callback)
        self._leave_if_removed()

    def _pop_callback(self, callback: Any) -> Any:
        popped = self._handler_pop(callback)
        self._leave_if_removed()
        return popped

    def _leave_if_removed(self) -> None:
        if self not in self.trainer.callback_handler.callbacks:
            self._installed.close()
            self._entry.close()

    def _check_added(self) -> None:
        """Raise unless this callback, and no other of its kind, is the trainer's."""
        added = [c for c in self.trainer.callback_handler.callbacks if isinstance(c, Entrant)]
        if self not in added:
            raise RuntimeError("GGMICallback was made but not added: call `trainer.add_callback(callback)`.")
        if any(callback.trainer is not self.trainer for callback in added):
            raise RuntimeError(STRANGER)
        if len(added) > 1:
            what = "has the same GGMICallback" if added == [self] * len(added) else "has GGMICallbacks,"
            raise RuntimeError(
                f"`trainer` {what} {len(added)} times, and a run has one: call `trainer.remove_callback(callback)`."
            )
