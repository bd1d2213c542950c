"""Intervals for estimates: closed forms where an estimate is a mean, a bootstrap where it is not.

Notation:
    n         number of samples; every estimate here treats them as independent and alike
    x         [n] one number per sample (nats)
    moments   [..., 3] the running sums (n, sum x, sum x^2): all that a mean and its interval need, so a
              stream of any length is three numbers, merged across batches and ranks by addition
    m, v      the mean of x and the variance *of that mean*, s^2 / n
    1 - c     the share of repetitions in which an interval of confidence c misses the truth
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ggmi_callbacks.functional._checks import check_tensors
from ggmi_callbacks.functional._student_t import student_t_quantile

_ELEMENTS_PER_CHUNK = 2**22  # resampled numbers held at once by the bootstrap

# Methods after which an interval is still an interval: of the same numbers elsewhere, or in another precision.
_KEEPING = {Tensor.clone, Tensor.cpu, Tensor.detach, Tensor.double, Tensor.float, Tensor.squeeze, Tensor.to}


class Interval(Tensor):
    """An estimate with its confidence interval: the estimate as a 0-dim tensor that carries both ends.

    It can stand wherever the estimate can: loggers, wrappers and arithmetic take it for its value, and their results
    are plain tensors. ``value, low, high = interval`` gives the three numbers.

    Attributes:
        value: the estimate as a plain tensor, the number returned when no confidence is asked for.
        low: the lower end, 0-dim, in the unit of the estimate.
        high: the upper end.

    Example:
        >>> from torch import tensor
        >>> interval = Interval(tensor(2.0), tensor(1.5), tensor(3.0))
        >>> interval
        Interval(value=tensor(2.), low=tensor(1.5000), high=tensor(3.))
        >>> interval + 1
        tensor(3.)
        >>> value, low, high = interval
        >>> high
        tensor(3.)
    """

    low: Tensor
    high: Tensor

    def __new__(cls, value: Tensor, low: Tensor, high: Tensor) -> Interval:
        interval = value.as_subclass(cls)
        interval.low, interval.high = low, high
        return interval

    @property
    def value(self) -> Tensor:
        """The estimate itself."""
        return self.as_subclass(Tensor)

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.value, self.low, self.high))

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Interval(value={self.value!r}, low={self.low!r}, high={self.high!r})"

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Interval, tuple(self)

    def __deepcopy__(self, memo: Any) -> Interval:
        return Interval(*copy.deepcopy(tuple(self), memo))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _KEEPING:
            return Interval(*(func(part, *args[1:], **(kwargs or {})) for part in args[0]))
        # As for a Parameter: no operation hands on the subclass.
        return nn.Parameter.__torch_function__(func, types, args, kwargs or {})


Result = TypeVar("Result", bound=Tensor)


def check_confidence(confidence: float | None) -> None:
    """Refuse a confidence that is no probability strictly between 0 and 1 (None asks for no interval).

    Raises:
        ValueError: If ``confidence`` is neither None nor in (0, 1).
    """
    if confidence is not None and not (isinstance(confidence, float) and 0.0 < confidence < 1.0):
        raise ValueError(
            f"Expected argument `confidence` to be None or a float in (0, 1) but got {confidence!r}; "
            "pass 0.95 for a 95 % interval."
        )


def moments(x: Tensor) -> Tensor:
    """Reduce samples [..., n] to their running sums (n, sum x, sum x^2), [..., 3] in float64.

    Example:
        >>> from torch import tensor
        >>> moments(tensor([1.0, 2.0, 4.0]))
        tensor([ 3.,  7., 21.], dtype=torch.float64)
    """
    x = x.double()
    total = x.sum(-1)
    return torch.stack((torch.full_like(total, x.shape[-1]), total, x.square().sum(-1)), dim=-1)


def mean_and_variance(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the samples behind ``moments`` and the variance of that mean.

    Fewer than two samples say nothing about their spread: the variance is then infinite, and the mean of none
    is NaN.
    """
    n, first, second = sums.unbind(-1)
    mean = first / n
    # Rounding may leave a tiny negative number where all samples are equal.
    spread = (second - first * mean).clamp_min(0.0) / (n - 1.0)
    return mean, torch.where(n > 1, spread / n, torch.inf)


def t_interval(value: Tensor, variance: Tensor, dof: Tensor, confidence: float) -> Interval:
    """Student-t interval ``value +- t * sqrt(variance)``.

    Args:
        value: the estimate.
        variance: the variance of the estimate.
        dof: degrees of freedom of that variance; less than one is read as one.
        confidence: the confidence level in (0, 1).
    """
    level = torch.tensor(0.5 + confidence / 2, dtype=torch.float64)
    half = float(student_t_quantile(level, max(float(dof.detach()), 1.0))) * variance.sqrt()
    return Interval(value, value - half, value + half)


def mean_interval(x: Tensor, confidence: float) -> Interval:
    r"""Mean of independent samples with its Student-t interval.

    .. math::
        \bar x \pm t_{n-1, (1+c)/2} \, s / \sqrt n

    Exact for Gaussian samples; by the central limit theorem nearly so for many samples of any other law.

    Args:
        x: samples of any shape, all of them alike.
        confidence: the confidence level c in (0, 1).

    Returns:
        The mean and the two ends of its interval. One sample gives an infinite interval.

    Raises:
        ValueError: If ``confidence`` is not in (0, 1).

    Example:
        >>> from torch import tensor
        >>> value, low, high = mean_interval(tensor([1.0, 2.0, 3.0, 4.0]), confidence=0.95)
        >>> f"{value:.3f} in [{low:.3f}, {high:.3f}]"
        '2.500 in [0.446, 4.554]'
    """
    check_tensors(x=x)
    check_confidence(confidence)
    sums = moments(x.reshape(-1))
    mean, variance = mean_and_variance(sums)
    return like(t_interval(mean, variance, sums[0] - 1, confidence), x)


def bootstrap_interval(
    statistic: Callable[..., Tensor],
    *samples: Tensor,
    confidence: float,
    resamples: int = 1000,
    seed: int = 0,
    chunk: int | None = None,
) -> Interval:
    """Percentile bootstrap interval of a statistic of independent samples, all resamples vectorised.

    Rows are drawn with replacement, the same rows from every tensor of ``samples``, so pairs stay together.
    The draw comes from its own generator: the result is reproducible and no global random state moves.

    Args:
        statistic: maps tensors like ``samples`` to a 0-dim tensor; it is run under :func:`torch.vmap`.
        samples: tensors [n, ...] with one row per sample.
        confidence: the confidence level in (0, 1).
        resamples: number of bootstrap samples.
        seed: seed of the draw.
        chunk: resamples evaluated at once; by default as many as hold four million rows.

    Returns:
        The statistic of the samples themselves and the two percentiles.

    Raises:
        ValueError: If ``confidence`` is not in (0, 1) or the tensors differ in their number of rows.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.

    Example:
        >>> import torch
        >>> x = torch.arange(100.0)
        >>> value, low, high = bootstrap_interval(torch.mean, x, confidence=0.9)
        >>> bool(low < value) and bool(value < high)
        True
    """
    for sample in samples:
        check_tensors(samples=sample)
    check_confidence(confidence)
    n = samples[0].shape[0]
    if any(sample.shape[0] != n for sample in samples):
        sizes = [tuple(sample.shape) for sample in samples]
        raise ValueError(f"Expected all `samples` to have the same number of rows but got shapes {sizes}.")

    def on_rows(rows: Tensor) -> Tensor:
        return statistic(*(sample[rows] for sample in samples))

    generator = torch.Generator().manual_seed(seed)
    chunk = chunk or max(1, _ELEMENTS_PER_CHUNK // n)
    draws = []
    for start in range(0, resamples, chunk):
        rows = torch.randint(n, (min(chunk, resamples - start), n), generator=generator)
        draws.append(torch.vmap(on_rows)(rows.to(samples[0].device)))
    tails = torch.tensor([0.5 - confidence / 2, 0.5 + confidence / 2], dtype=draws[0].dtype)
    low, high = torch.cat(draws).quantile(tails.to(draws[0].device))
    return Interval(statistic(*samples), low, high)


def like(result: Result, *inputs: Tensor) -> Result:
    """Cast a float64 result to the precision of the inputs, yet never below float32."""
    dtype = torch.float32
    for x in inputs:
        dtype = torch.promote_types(dtype, x.dtype)
    return cast(result, dtype)


def cast(result: Result, dtype: torch.dtype) -> Result:
    """Cast a tensor, or an interval with its ends, to a dtype."""
    return result.to(dtype)  # type: ignore[return-value]


def unknown(result: Tensor, confidence: float | None) -> Tensor:
    """NaN in place of an estimate, or of an interval, on the device and in the dtype of ``result``."""
    nan = result.new_full((), torch.nan)
    return nan if confidence is None else Interval(nan, nan, nan)
