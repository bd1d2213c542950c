"""What ``estimator="auto"`` chooses, for a reader."""

from __future__ import annotations

from torch import Tensor

from ggmi_callbacks.functional._samples import as_samples, check_copies, check_neighbours, check_rows
from ggmi_callbacks.functional.mutual_information._auto import Choice, choose


def choose_estimator(
    x: Tensor, y: Tensor, z: Tensor | None = None, *, k: int = 5, seed: int = 0, progress: bool = True
) -> Choice:
    """What ``estimator="auto"`` chooses for these samples, why, and the value of each estimator it tried.

    Its rule: an elliptical copula (Gaussian or Student-t, any marginals) is fitted first. If nearest neighbours
    see no more and no less on the samples than on samples drawn from that copula, within four standard errors, it is
    the answer. Otherwise the largest of the neighbours' estimates, corrected by the error that they make on
    the copula, and, in more than three dimensions, of a trained critic.

    Args:
        x: as in :func:`mutual_information`.
        y: as in :func:`mutual_information`.
        z: None, or what to condition on.
        k: as in :func:`mutual_information`.
        seed: as in :func:`mutual_information`.
        progress: as in :func:`mutual_information`.

    Returns:
        A named tuple ``(estimator, reason, estimates)``.

    Raises:
        ValueError: As :func:`mutual_information`.

    Example:
        >>> import torch
        >>> x, noise = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
        >>> choose_estimator(x, (x + noise).exp()).estimator
        'copula'
        >>> choose_estimator(x, x**2 + 0.1 * noise).estimator
        'ksg'
    """
    given = {"x": x, "y": y} | ({} if z is None else {"z": z})
    variables = [as_samples(**{name: v}) for name, v in given.items()]
    check_rows(**given)
    check_neighbours(k, len(x))
    check_copies(k, **dict(zip(given, variables, strict=True)))
    return choose([v.detach() for v in variables], k, seed, progress)[1]
