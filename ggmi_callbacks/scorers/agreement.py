"""Agreement of an answer with the other answers to its prompt.

    answer, overlap    gain(z) = a(z) - a_0      a(z) in [0, 1], leave-one-out; a_0 that of answers to other prompts
    information        gain(z) = [ log q(z | siblings) - log q(z) ] / tokens of z      nats per token, q of n-grams

Two answers to one prompt share what the generator knows and not its noise, so what one says about the other is
information gain without the noise. Cost: none in the step. Sees: wrong answers, if most are right or wrong answers
differ. Blind to: an error that all answers share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.functional import agreement, final_answer, sibling_information
from ggmi_callbacks.scorers._base import Shared
from ggmi_callbacks.scorers._data import DataScorer
from ggmi_callbacks.scorers._shared import ORDER, shared_information_of

_MOST = 0.9  # of texts have a final answer, where final answers are compared


class AgreementScorer(DataScorer):
    """gain(z) = agreement of z with its siblings, above what answers to different prompts agree by.

    Negative or zero means that nothing speaks for the answer. One that is alone with its prompt is not judged.
    :meth:`GainEngine.results` has the mean over the training set, as *shared information*, whatever the estimator.

    Args:
        group: column that says which samples answer the same prompt; by default equal prompts do (equal token ids).
        answer: finds the final answer in a text, ``None`` where there is none; by default
            :func:`~ggmi_callbacks.functional.final_answer`, the number or the letter that a text ends in.
        text: column of the texts that are compared; by default the targets, or with ``answer`` the column
            ``"completion"``.
        seed: of the draw of strangers.
        estimator: ``"answer"``, the share of siblings with the same final answer, and zero without one where a sibling
            has it; ``"information"``, the log-likelihood ratio of an n-gram model after the siblings and one before
            them, nats per token, see :func:`~ggmi_callbacks.functional.sibling_information`, which holds some 200 bytes
            a token; ``"overlap"`` of n-grams, see :func:`~ggmi_callbacks.functional.agreement`. ``"auto"`` is
            ``"answer"`` where nine of ten texts with siblings have a final answer, and ``"information"`` elsewhere,
            whose zero, "the siblings say nothing", holds for any kind of text.

    Raises:
        ValueError: if ``estimator`` is unknown, or another than "answer" comes with ``answer``; in :meth:`read`, if a
            column is missing, there are no texts to find final answers in, or no prompt has two answers.

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
        estimator: Literal["auto", "answer", "information", "overlap"] = "auto",
    ) -> None:
        super().__init__()
        if estimator not in ("auto", "answer", "information", "overlap"):
            raise ValueError(f"`estimator` must be 'auto', 'answer', 'information' or 'overlap', got {estimator!r}.")
        if answer is not None and estimator not in ("auto", "answer"):
            raise ValueError(
                f"`answer` is for final answers, and estimator={estimator!r} compares texts: leave out one."
            )
        self.group, self.answer, self.text, self.seed = group, answer, text, seed
        self.estimator = "answer" if answer is not None else estimator
        self._column = "completion" if text is None and answer is not None else text
        self._used: str = self.estimator
        self._data: SampleData | None = None
        self._summary: dict[str, Any] | None = None
        self._shared: Shared | None = None

    @property
    def unit(self) -> str:
        """See :attr:`Scorer.unit`; known once the training set is read."""
        return "nats per token" if self._used == "information" else "agreement above that of strangers"

    def read(self, data: SampleData) -> None:
        """See :meth:`Scorer.read`."""
        super().read(data)
        self._data, self._summary = data, None

    def summary(self) -> dict[str, Any]:
        """See :meth:`Scorer.summary`: shared information of the set, found when first asked for."""
        if self._data is None:
            return {}
        if self._summary is None:
            groups = self._groups(self._data)
            found, self._shared = shared_information_of(self._data, self._column, groups, self.seed)
            self._summary = {**found, "estimators": {**found["estimators"], "agreement": self._used}}
        return self._summary

    def shared(self) -> Shared | None:
        """See :meth:`Scorer.shared`."""
        self.summary()
        return self._shared

    def values(self, data: SampleData) -> Tensor:
        """See :meth:`DataScorer.values`."""
        groups = self._groups(data)
        if len(set(groups)) == len(groups):
            raise ValueError(
                f"each of the {len(groups)} prompts has one answer, so no answer has a sibling to agree with: ask the "
                "generator several times, or name a column of groups with `group=`."
            )
        texts = data.texts if self._column is None else data.column(self._column, "text")
        self._used = self.estimator
        if self._used == "auto":
            self._used = "answer" if _end_alike(texts, groups) else "information"
        if self._used == "answer":
            if texts is None:
                raise ValueError("estimator='answer' reads texts, and the training set has tokens alone: name `text=`.")
            return self._votes(texts, groups)
        samples = data.answers if self._column is None else data.column(self._column, "text")
        if self._used == "information":
            return sibling_information(samples, groups, order=ORDER, per_token=True)
        return self._above_strangers(agreement(samples, groups), samples, groups)

    def _votes(self, texts: Sequence[Any], groups: Sequence[Hashable]) -> Tensor:
        """Share of siblings with the same final answer, above that of strangers."""
        answers = [(self.answer or final_answer)(text) for text in texts]
        found = agreement(answers, groups, answer=lambda known: known)
        with_one = {group for group, answer in zip(groups, answers, strict=True) if answer is not None}
        stranded = [group in with_one and answer is None for group, answer in zip(groups, answers, strict=True)]
        return self._above_strangers(
            found.masked_fill(torch.tensor(stranded), 0.0), answers, groups, lambda known: known
        )

    def _above_strangers(
        self,
        found: Tensor,
        samples: Sequence[Any],
        groups: Sequence[Hashable],
        answer: Callable[[Any], Hashable | None] | None = None,
    ) -> Tensor:
        """``found`` less the mean agreement of answers to different prompts."""
        if len(set(groups)) == 1 or bool(found.isnan().all()):
            return found  # there are no strangers, or nothing to compare with them
        strangers = agreement(samples, self._strangers(groups), answer=answer)
        return found - strangers.nanmean().nan_to_num(0.0)

    def _groups(self, data: SampleData) -> Sequence[Hashable]:
        """What each sample answers."""
        return data.groups if self.group is None else data.column(self.group, "group")

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


def _end_alike(texts: Sequence[Any] | None, groups: Sequence[Hashable]) -> bool:
    """Whether nine of ten texts with siblings end in a final answer."""
    if texts is None or not all(isinstance(text, str) for text in texts):
        return False
    count = Counter(groups)
    ends = [final_answer(text) is not None for text, group in zip(texts, groups, strict=True) if count[group] > 1]
    return sum(ends) >= _MOST * len(ends)
