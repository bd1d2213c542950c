"""Numbers as people read them: as many digits as they are worth, a true minus sign, thousands apart."""

from __future__ import annotations

import math

from ggmi_callbacks.engine.ledger_view import Mean

UNKNOWN = "not measured"
_MINUS = "\N{MINUS SIGN}"


def number(x: float, signed: bool = False, decimals: int | None = None) -> str:
    """``x`` with three significant digits, or with as many ``decimals``.

    Example:
        >>> number(1234567.8), number(0.0123456), number(2.0), number(0.5, signed=True)
        ('1,234,568', '0.0123', '2', '+0.5')

    """
    if math.isnan(x):
        return UNKNOWN
    if math.isinf(x):
        return "∞" if x > 0 else f"{_MINUS}∞"
    if decimals is not None:
        text = f"{x:+,.{decimals}f}"
    elif abs(x) >= 100:
        text = f"{x:+,.0f}"
    elif x and abs(x) < 1e-4:
        text = f"{x:+.1e}"
    else:
        text = f"{x:+.{max(0, 2 - math.floor(math.log10(abs(x) or 1)))}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", _MINUS) if signed else text.lstrip("+").replace("-", _MINUS)


def interval(mean: Mean, signed: bool = True) -> str:
    """Value and both ends, to the second digit of the interval's width.

    Example:
        >>> interval(Mean(0.26081, 0.24119, 0.28041, 1000))
        '+0.261 [+0.241, +0.280]'

    """
    if math.isnan(mean.value):
        return UNKNOWN
    if not (math.isfinite(mean.low) and math.isfinite(mean.high)):
        return number(mean.value, signed)
    value, low, high = (number(x, signed, _decimals(mean)) for x in (mean.value, mean.low, mean.high))
    return f"{value} [{low}, {high}]"


def _decimals(mean: Mean) -> int | None:
    """Decimals that are worth showing of ``mean``, None for the usual ones."""
    width = mean.high - mean.low
    return max(0, min(8, 1 - math.floor(math.log10(width)))) if math.isfinite(width) and width > 0 else None


def percent(x: float) -> str:
    """A share.

    Example:
        >>> percent(0.412).split(), percent(0.0004).split()
        (['41', '%'], ['0.04', '%'])

    """
    if not math.isfinite(x):
        return UNKNOWN
    shown = number(100 * x) if 0 < x < 0.01 or 0.99 < x < 1 else f"{100 * x:.0f}"
    return f"{shown}\N{NO-BREAK SPACE}%"


def seconds(x: float) -> str:
    """A duration.

    Example:
        >>> seconds(4.25), seconds(75.0), seconds(7300.0)
        ('4.25 s', '1 min 15 s', '2 h 1 min')

    """
    if not math.isfinite(x):
        return UNKNOWN
    if x < 60:
        return f"{number(x)} s"
    minutes, rest = divmod(round(x), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
