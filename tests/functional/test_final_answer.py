"""The final answer that a text ends in."""

import pytest

from ggmi_callbacks.functional import final_answer


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("A: 42\n", "42"),
        ("It costs **$1,000**.", "1000"),
        ("x=-3", "-3"),
        ("x = \u22123", "-3"),  # the minus sign of typesetters
        ("so 10-20", "20"),  # a difference, and no sign
        ("half of it, 3.50.", "3.5"),
        (r"so $x = \boxed{42}$.", "42"),
        ("the answer is (B)", "B"),
        ("12 %", "12"),
    ],
)
def test_a_number_or_an_option_at_the_end_is_found_whatever_stands_around_it(text: str, found: str) -> None:
    assert final_answer(text) == found


@pytest.mark.parametrize("text", ["", "42 dollars", "the USA", "return x_3", "version 1.2.3", "7 people. Nobody else"])
def test_a_text_that_ends_otherwise_has_none(text: str) -> None:
    assert final_answer(text) is None


def test_only_the_end_is_looked_at_so_that_length_costs_nothing() -> None:
    assert final_answer("9 " * 100_000 + "= 5") == "5"
