"""Whether something is a policy."""

from __future__ import annotations

from typing import Any

from ggmi_callbacks.policies.base import Policy
from ggmi_callbacks.policies.filter import Filter
from ggmi_callbacks.policies.monitor import Monitor
from ggmi_callbacks.policies.reweight import Reweight


def check_policy(policy: Any) -> Policy:
    """``policy`` itself; raises if it is none.

    Example:
        >>> check_policy("filter")
        Traceback (most recent call last):
        ...
        TypeError: `policy` must be a policy such as Monitor(), Filter() or Reweight(), got 'filter': write Filter().

    """
    if isinstance(policy, Policy):
        return policy
    shown, way = repr(policy), "pass an object."
    known = {kind.__name__.lower(): kind.__name__ for kind in (Monitor, Filter, Reweight)}
    if isinstance(policy, type) and issubclass(policy, Policy):
        shown, way = f"the class {policy.__name__}", f"write {policy.__name__}()."
    elif isinstance(policy, str) and policy.lower() in known:
        way = f"write {known[policy.lower()]}()."
    raise TypeError(f"`policy` must be a policy such as Monitor(), Filter() or Reweight(), got {shown}: {way}")
