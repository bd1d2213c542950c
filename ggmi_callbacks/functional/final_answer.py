"""The final answer that a text ends in."""

from __future__ import annotations

import re

_NUMBER = r"(?<![\w.,])[-\u2212]?\d+(?:,\d{3})*(?:\.\d+)?"
_ENDS = re.compile(rf"(?:(?P<number>{_NUMBER})|(?<!\w)(?P<option>[A-Z]))[\W_]*\Z")
_LONGEST = 64  # characters that are looked at


def final_answer(text: str) -> str | None:
    r"""The number, or the letter of an option, that a text ends in; None if it ends otherwise.

    Marks behind it do not count, as in ``42.``, ``**42**``, ``\boxed{42}`` or ``(B)``; nor do commas between thousands
    and zeros at the end of a fraction. A unit behind the number (``42 dollars``) is another ending.

    Args:
        text: an answer, a worked solution with its result at the end.

    Returns:
        The number in plain digits, or the letter.

    Raises:
        TypeError: If ``text`` is no string.

    Example:
        >>> final_answer("6 * 7 = 42\n#### 42"), final_answer(r"so $x = \boxed{1,250.50}$."), final_answer("(B)")
        ('42', '1250.5', 'B')
        >>> final_answer("It is Paris.")

    """
    if not isinstance(text, str):
        raise TypeError(f"Expected argument `text` to be a string but got {type(text).__name__}.")
    found = _ENDS.search(text[-_LONGEST:])
    if found is None:
        return None
    if found["option"]:
        return found["option"]
    number = found["number"].replace(",", "").replace("\u2212", "-")
    return number.rstrip("0").rstrip(".") if "." in number else number
