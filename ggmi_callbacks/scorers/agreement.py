"""Agreement of an answer with the other answers to its prompt.

    gain(z) = a(z) - a_0        a(z) in [0, 1], leave-one-out; a_0 what answers to other prompts agree by

Two answers to one prompt share what the generator knows and not its noise, so what one says about the other is
information gain without the noise. Cost: none in the step. Sees: wrong answers, if most are right or wrong answers
differ. Blind to: an error that all answers share.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.functional import agreement
from ggmi_callbacks.scorers._data import DataScorer


class AgreementScorer(DataScorer):
    """gain(z) = agreement of z with its siblings - the mean agreement of answers to different prompts.

    Negative or zero means that nothing speaks for the answer. One that is alone with its prompt is not judged.

    Args:
        group: column that says which samples answer the same prompt; by default equal prompts do (equal token ids).
        answer: finds the final answer in a text, ``None`` where there is none; agreement is then the share of siblings
            with the same one, and zero without one where a sibling has it. By default agreement is overlap of
            n-grams, see :func:`~ggmi_callbacks.functional.agreement`.
        text: column of the texts that are compared; by default the target tokens, or with ``answer`` the column
            ``"completion"``.
        seed: of the draw of strangers.

    Raises:
        ValueError: if a column is missing, or no prompt has two answers.

    Example:
        >>> from ggmi_callbacks.data import SampleData
        >>> answers = [(1, "= 4"), (1, "= 4"), (1, "= 5"), (2, "= 9"), (2, "= 9")]
        >>> scorer = AgreementScorer(group="prompt", answer=lambda text: text[-1])
        >>> scorer.read(SampleData([{"prompt": p, "completion": c} for p, c in answers]))
        >>> scorer.known().gain
        tensor([0.5000, 0.5000, 0.0000, 1.0000, 1.0000])

    """

    def __init__(
        self,
        group: str | None = None,
        answer: Callable[[Any], Hashable | None] | None = None,
        text: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.group, self.answer, self.text, self.seed = group, answer, text, seed

    def values(self, data: SampleData) -> Tensor:
        """See :meth:`DataScorer.values`."""
        groups: Sequence[Hashable] = data.groups if self.group is None else data.column(self.group)
        column = "completion" if self.text is None and self.answer is not None else self.text
        samples = data.answers if column is None else data.column(column)
        if len(set(groups)) == len(groups):
            raise ValueError(
                f"each of the {len(groups)} prompts has one answer, so no answer has a sibling to agree with: ask the "
                "generator several times, or name a column of groups with `group=`."
            )
        found = agreement(samples, groups, answer=self.answer)
        if self.answer is not None:
            answered = [self.answer(sample) is not None for sample in samples]
            with_one = {group for group, has in zip(groups, answered, strict=True) if has}
            stranded = [group in with_one and not has for group, has in zip(groups, answered, strict=True)]
            found = found.masked_fill(torch.tensor(stranded), 0.0)
        if len(set(groups)) == 1 or bool(found.isnan().all()):
            return found  # there are no strangers, or nothing to compare with them
        strangers = agreement(samples, self._strangers(groups), answer=self.answer)
        return found - strangers.nanmean().nan_to_num(0.0)

    def _strangers(self, groups: Sequence[Hashable]) -> list[int]:
        """Groups of two samples each, of different prompts: a null control."""
        number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        draw = torch.randperm(len(number), generator=torch.Generator().manual_seed(self.seed)).tolist()
        order = sorted(range(len(groups)), key=lambda i: draw[number[groups[i]]])  # answers to a prompt side by side
        half = (len(order) + 1) // 2
        out = [0] * len(groups)
        for place, i in enumerate(order):
            out[i] = place % half
        return out
