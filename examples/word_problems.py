"""A small task with a checker: word problems with worked solutions, as in a school book of two volumes.

A solution works in steps, each with its sum between double angle brackets, and ends in ``#### answer``:

    Mia picks <<6*4=24>>24 plums.
    She keeps <<24-9=15>>15 plums.
    #### 15

Every chapter has several ways to ask and to answer, so that two people would hardly write the same text. The first
volume is what a model may have read before; the second one is the task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

NAMES = """Mia Tom Ann Bob Eva Leo Zoe Max Ida Sam Lena Noah Ruth Hugo Nina Paul Vera Carl Rosa Emil""".split()
THINGS = """plums pens books coins stamps shells cards eggs roses marbles apples tickets buttons kites""".split()
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


class Step(NamedTuple):
    """One line of a solution: ``result = left operation right``, and ways to say it around ``{sum}``."""

    result: str
    left: str
    operation: str
    right: str
    phrases: tuple[str, ...]


class Chapter(NamedTuple):
    """One kind of problem: ranges of the numbers that it draws, ways to ask, and the steps of the solution."""

    numbers: dict[str, range]
    questions: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Problem:
    """A question, a solution as a person might write it, and the answer."""

    question: str
    solution: str
    answer: int


VOLUME_ONE = (
    Chapter(
        {"a": range(10, 40), "b": range(2, 10), "c": range(2, 10)},
        (
            "{name} has {a} {thing} and finds {b} more. Then {name} gives {c} to {other}. How many are left?",
            "After finding {b} {thing}, {name}, who had {a}, hands {c} of them to {other}. How many remain?",
        ),
        (
            Step("x", "a", "+", "b", ("{name} has {sum} {thing}.", "That makes {sum} {thing} at first.")),
            Step("y", "x", "-", "c", ("After the gift {sum} are left.", "{name} keeps {sum} {thing}.")),
        ),
    ),
    Chapter(
        {"a": range(2, 10), "b": range(2, 10), "c": range(1, 9)},
        (
            "{name} buys {a} {thing} at {b} dollars each and a bag for {c} dollars. How much is that in all?",
            "A bag costs {c} dollars, one of the {thing} {b}. {name} takes the bag and {a} {thing}. What is the bill?",
        ),
        (
            Step("x", "a", "*", "b", ("The {thing} cost {sum} dollars.", "{name} pays {sum} dollars for {thing}.")),
            Step("y", "x", "+", "c", ("With the bag it is {sum} dollars.", "In all that is {sum} dollars.")),
        ),
    ),
    Chapter(
        {"a": range(20, 45), "b": range(2, 10), "c": range(2, 10)},
        (
            "A bus has {a} people. At {name} Street {b} get off and {c} get on. How many are in the bus now?",
            "{b} people leave a bus of {a} and {c} others come in. How many ride on to {name} Street?",
        ),
        (
            Step("x", "a", "-", "b", ("{sum} people stay.", "First the bus has {sum} people.")),
            Step("y", "x", "+", "c", ("Then there are {sum} people.", "Now {sum} people ride.")),
        ),
    ),
    Chapter(
        {"a": range(5, 10), "b": range(2, 10)},
        (
            "{name} is {a} years old and {other} is {b} years older. How old are they together?",
            "{other} was born {b} years before {name}, who is {a}. What do their ages add up to?",
        ),
        (
            Step("x", "a", "+", "b", ("{other} is {sum} years old.", "{other}'s age is {sum}.")),
            Step("y", "a", "+", "x", ("Together they are {sum} years old.", "The ages add up to {sum}.")),
        ),
    ),
)

VOLUME_TWO = (
    Chapter(
        {"a": range(3, 10), "b": range(2, 7)},
        (
            "{name} collected {a} {thing}. {other} collected {b} times as many. How many do they have altogether?",
            "For every one of {name}'s {a} {thing}, {other} has {b}. How many {thing} are there between them?",
            "{other} owns {b} times as many {thing} as {name}, who owns {a}. Count all {thing}.",
        ),
        (
            Step("x", "a", "*", "b", ("{other} collected {sum} {thing}.", "So {other} has {b} times {a}, or {sum}.")),
            Step("y", "a", "+", "x", ("Altogether they have {sum} {thing}.", "Between them there are {sum} {thing}.")),
        ),
    ),
    Chapter(
        {"a": range(3, 10), "b": range(3, 10), "c": range(2, 9)},
        (
            "A garden has {a} rows with {b} plants. After a frost {c} plants die. How many plants live?",
            "{name} planted {a} rows of {b}. {c} of these plants did not make it. How many did?",
            "Of the {a} rows of {b} plants in {name}'s garden, the frost took {c}. How many plants survived?",
        ),
        (
            Step("x", "a", "*", "b", ("There were {sum} plants to begin with.", "{name} planted {sum} plants.")),
            Step("y", "x", "-", "c", ("After the frost {sum} plants live.", "So {sum} plants survived.")),
        ),
    ),
    Chapter(
        {"b": range(3, 10), "c": range(2, 10), "d": range(2, 10)},
        (
            "{name} reads {b} pages of a novel on each of {c} days and {d} pages on Sunday. How many pages is that?",
            "After {c} evenings with {b} pages each, {name} reads {d} pages more. What is the last page?",
            "A novel is read in {c} days of {b} pages and a last one of {d}. How long is {name}'s novel?",
        ),
        (
            Step("x", "b", "*", "c", ("In {c} days that is {sum} pages.", "{name} first reads {sum} pages.")),
            Step("y", "x", "+", "d", ("In the end it is {sum} pages.", "{sum} pages were read.")),
        ),
    ),
    Chapter(
        {"c": range(2, 10), "k": range(2, 10), "b": range(2, 10)},
        (
            "{name} packs {a} cakes into boxes of {c} and sells each box for {b} dollars. What does {name} earn?",
            "Boxes of {c} cakes are {b} dollars. What does {name} get for {a} cakes?",
            "{name} baked {a} cakes. {c} of them go into a box, and a box brings {b} dollars. How much is that?",
        ),
        (
            Step("x", "a", "/", "c", ("There are {sum} boxes.", "{name} fills {sum} boxes.")),
            Step("y", "x", "*", "b", ("They bring {sum} dollars.", "{name} earns {sum} dollars.")),
        ),
    ),
    Chapter(
        {"a": range(3, 10), "b": range(2, 10), "c": range(2, 10), "d": range(2, 6)},
        (
            "{name} saves {a} dollars a week for {b} weeks, adds a gift of {c} and spends {d}. How much is left?",
            "What does {name} have after {b} weeks of saving {a} dollars, a {c} dollar gift and a {d} dollar snack?",
        ),
        (
            Step("x", "a", "*", "b", ("{name} saves {sum} dollars.", "The weeks bring {sum} dollars.")),
            Step("y", "x", "+", "c", ("With the gift it is {sum} dollars.", "The gift makes it {sum} dollars.")),
            Step("z", "y", "-", "d", ("At last {name} has {sum} dollars.", "{sum} dollars are left.")),
        ),
    ),
)


def make_problems(n: int, chapters: Sequence[Chapter], seed: int) -> list[Problem]:
    """Draw ``n`` problems, no question twice."""
    draw = Random(seed)
    problems: dict[str, Problem] = {}
    while len(problems) < n:
        problem = _make(draw.choice(chapters), draw)
        problems.setdefault(problem.question, problem)
    return list(problems.values())


def _make(chapter: Chapter, draw: Random) -> Problem:
    values: dict[str, int] = {key: draw.choice(numbers) for key, numbers in chapter.numbers.items()}
    if "k" in values:  # the cakes fill their boxes evenly
        values["a"] = values["k"] * values["c"]
    name, other = draw.sample(NAMES, 2)
    words = {"name": name, "other": other, "thing": draw.choice(THINGS), **values}
    question = draw.choice(chapter.questions).format(**words)
    lines = []
    for step in chapter.steps:
        left, right = values[step.left], values[step.right]
        result = values[step.result] = OPERATIONS[step.operation](left, right)
        sum_ = f"<<{left}{step.operation}{right}={result}>>{result}"
        lines.append(draw.choice(step.phrases).format(**words, sum=sum_))
    return Problem(question, "\n".join([*lines, f"#### {result}"]), result)


def final_answer(solution: str) -> str | None:
    """The number in the last line of a solution, or None if it does not end in one.

    Example:
        >>> final_answer("Ann has <<2*3=6>>6 pens.\\n#### 6")
        '6'

    """
    found = re.search(r"#### (-?\d+)\s*$", solution)
    return found[1] if found else None


_SUM = re.compile(r"<<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)")


def is_right(solution: str, answer: int) -> bool:
    """Check a solution: every sum in it is true and said as computed, there is one, and the last line is the answer.

    Example:
        >>> is_right("Ann has <<2*3=6>>6 pens.\\n#### 6", answer=6)
        True
        >>> is_right("Ann has <<2*3=5>>6 pens.\\n#### 6", answer=6)
        False

    """
    sums = _SUM.findall(solution)
    whole = len(sums) == solution.count("<<") == solution.count(">>")
    ends_well = re.search(rf"\n#### {answer}$", solution) is not None
    return bool(sums) and whole and ends_well and all(_is_true(*found) for found in sums)


def is_right_by(solution: str, other: str) -> bool:
    """Check a solution against ``other``, one that is known to be right."""
    return is_right(solution, int(final_answer(other) or 0))


def _is_true(left: str, operation: str, right: str, result: str, said: str) -> bool:
    a, b, c = int(left), int(right), int(result)
    holds = (b != 0 and a == b * c) if operation == "/" else OPERATIONS[operation](a, b) == c
    return holds and result == said
