"""Agreement of an answer with the other answers to its prompt.

    overlap, answer    gain(z) = a(z) - a_0      a(z) in [0, 1], leave-one-out; a_0 that of answers to other prompts
    information        gain(z) = [ log q(z | siblings) - log q(z) ] / tokens of z      nats per token, q of n-grams

Two answers to one prompt share what the generator knows and not its noise, so what one says about the other is
information gain without the noise. Cost: none in the step. Sees: wrong answers, if most are right or wrong answers
differ. Blind to: an error that all answers share.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.functional import agreement, sibling_information
from ggmi_callbacks.scorers._data import DataScorer
from ggmi_callbacks.scorers._shared import ORDER, shared_information_of


class AgreementScorer(DataScorer):
    """gain(z) = agreement of z with its siblings, above what answers to different prompts agree by.

    Negative or zero means that nothing speaks for the answer. One that is alone with its prompt is not judged.
    :meth:`GainEngine.results` has the mean over the training set, as *shared information*, whatever the estimator.

    Args:
        group: column that says which samples answer the same prompt; by default equal prompts do (equal token ids).
        answer: finds the final answer in a text, ``None`` where there is none; agreement is then the share of siblings
            with the same one, and zero without one where a sibling has it.
        text: column of the texts that are compared; by default the target tokens, or with ``answer`` the column
            ``"completion"``.
        seed: of the draw of strangers.
        estimator: ``"overlap"``, of n-grams, between 0 and 1, see :func:`~ggmi_callbacks.functional.agreement`; or
            ``"information"``, the log-likelihood ratio of an n-gram model after the siblings and one before them, nats
            per token, see :func:`~ggmi_callbacks.functional.sibling_information`, where zero is "they say nothing". It
            told right from wrong better among answers of one small generator, and worse among those of several large
            ones. It holds some 200 bytes a token.

    Raises:
        ValueError: if ``estimator`` is unknown or "information" comes with ``answer``; in :meth:`read`, if a column is
            missing, or no prompt has two answers.

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
        estimator: Literal["overlap", "information"] = "overlap",
    ) -> None:
        super().__init__()
        if estimator not in ("overlap", "information"):
            raise ValueError(f"`estimator` must be 'overlap' or 'information', got {estimator!r}.")
        if estimator == "information" and answer is not None:
            raise ValueError("`answer` compares final answers, and estimator='information' whole texts: leave out one.")
        self.group, self.answer, self.text, self.seed, self.estimator = group, answer, text, seed, estimator
        self._column = "completion" if text is None and answer is not None else text
        self._data: SampleData | None = None
        self._summary: dict[str, Any] | None = None

    @property
    def unit(self) -> str:
        """See :attr:`Scorer.unit`."""
        return "nats per token" if self.estimator == "information" else "agreement above that of strangers"

    def read(self, data: SampleData) -> None:
        """See :meth:`Scorer.read`."""
        super().read(data)
        self._data, self._summary = data, None

    def summary(self) -> dict[str, Any]:
        """See :meth:`Scorer.summary`: shared information of the set, found when first asked for."""
        if self._data is None:
            return {}
        if self._summary is None:
            self._summary = shared_information_of(self._data, self._column, self._groups(self._data), self.seed)
        return self._summary

    def values(self, data: SampleData) -> Tensor:
        """See :meth:`DataScorer.values`."""
        groups = self._groups(data)
        samples = data.answers if self._column is None else data.column(self._column)
        if len(set(groups)) == len(groups):
            raise ValueError(
                f"each of the {len(groups)} prompts has one answer, so no answer has a sibling to agree with: ask the "
                "generator several times, or name a column of groups with `group=`."
            )
        if self.estimator == "information":
            return sibling_information(samples, groups, order=ORDER, per_token=True)
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

    def _groups(self, data: SampleData) -> Sequence[Hashable]:
        """What each sample answers."""
        return data.groups if self.group is None else data.column(self.group)

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
