r"""Shared information: what answers of one generator to one prompt say about each other, in nats.

Notation:
    y, Y        an answer, as tokens w and an end mark, and its siblings, the other answers to its prompt
    h           the n - 1 tokens before w
    c(hw), C(h) how often w follows h, and how often anything does: in the siblings Y, or in all samples but y
    q_n(w | h)  (c(hw) + s_n q_{n-1}(w | h)) / (C(h) + s_n): counts, with a model of lower order as their prior
    s_n         strength of the prior, the one of a grid that makes the samples likeliest; infinity ignores the counts

Two draws S = M(p) + eps share what M knows and not eps, so log p(y | p, y') - log p(y | p) is information gain without
its noise. To a model that does not see the prompt, siblings also say what the prompt says: log p(y | y') - log p(y).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_positive
from ggmi_callbacks.functional._interval import Interval, bootstrap_interval, check_confidence
from ggmi_callbacks.functional._ngrams import Corpus, occurrences
from ggmi_callbacks.functional._siblings import Floats, Ints, as_rows, strangers, warn_if_unknown

_STRENGTHS = np.append(2.0 ** np.arange(-4, 21), np.inf)
_FITTED = 2**18  # tokens, evenly spaced, that choose a strength


class SharedInformation(NamedTuple):
    """What siblings say about an answer, and the same where they say nothing; nats.

    Attributes:
        information: mean of :func:`sibling_information`.
        null: the same with the answers to another prompt for siblings, where the truth is zero.
    """

    information: Interval
    null: Interval


def sibling_information(
    samples: Sequence[Any], group: Iterable[Hashable], *, order: int = 3, per_token: bool = False
) -> Tensor:
    r"""What its siblings say about each sample: the log-likelihood ratio of two n-gram models, in nats.

    .. math::
        \log q(y \mid Y) - \log q(y)

    q(y) is an interpolated n-gram model of all samples without y, and q(y | Y) the same model after the siblings of y.
    The strengths of their priors are fitted to all samples, and an infinite one ignores the siblings. So the mean
    estimates *usable* information: what models of this kind gain from the siblings. It grows with their number. For
    answers of one token among many samples it is a lower bound on I(y; Y), near it for large groups. For texts it is no
    bound, as q(y) too is only a model: a better one leaves less for siblings to say.

    Args:
        samples: n strings, or n sequences of token ids, read as in :func:`agreement`.
        group: [n] what each sample answers, any hashables; of many groups, so that the siblings of a sample are but a
            small part of the samples behind q(y).
        order: length of the longest n-grams. Where it was tried, 2 told right answers from wrong ones best; longer ones
            predict better, and so leave less for siblings to say.
        per_token: divide by the tokens of the sample, the end mark included.

    Returns:
        [n] in nats; NaN for a sample without siblings. It holds some 200 bytes a token.

    Raises:
        ValueError: If there is no sample, the lengths differ, a group is missing, ``order`` is not positive, or an id
            is negative.
        TypeError: If the samples are neither strings nor ids, or a group is not hashable.

    Source:
        Xu et al., A theory of usable information under computational constraints (ICLR 2020); MacKay and Peto, A
        hierarchical Dirichlet language model (1995), for q.

    Example:
        >>> samples = ["a", "a", "a", "b", "b", "b"] * 20
        >>> sibling_information(samples, [i // 3 for i in range(120)])[:2]  # log 2 = 0.693, and more for few samples
        tensor([0.7011, 0.7011])
    """
    corpus, groups = _read(samples, group, order)
    (value,) = _information(corpus, groups, [np.arange(len(groups))], order)
    warn_if_unknown(value)
    return torch.from_numpy(value / corpus.lengths if per_token else value).float()


def shared_information(
    samples: Sequence[Any],
    group: Iterable[Hashable],
    *,
    order: int = 3,
    per_token: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
) -> SharedInformation:
    r"""Shared information of a generator: the mean of :func:`sibling_information`, with a null control.

    .. math::
        E[\log q(y \mid Y) - \log q(y)]

    With the true laws for q it is I(y; Y), for which :func:`gaussian_shared_information` and
    :func:`table_shared_information` are known cases. Compare sets with as many answers to a prompt.

    Args:
        samples: as in :func:`sibling_information`.
        group: as in :func:`sibling_information`.
        order: as in :func:`sibling_information`.
        per_token: take the mean of the values per token.
        confidence: level of both intervals, a bootstrap over groups, as siblings depend on each other. The error of
            the models is not in it.
        seed: of the draw of other prompts, and of the bootstrap.

    Returns:
        ``(information, null)``, two intervals over the samples that have siblings.

    Raises:
        ValueError: As :func:`sibling_information`, if there are no two groups with siblings, or ``confidence`` is out
            of range.
        TypeError: As :func:`sibling_information`.

    Example:
        >>> samples = ["a", "a", "a", "b", "b", "b"] * 20
        >>> information, null = shared_information(samples, [i // 3 for i in range(120)])
        >>> print(f"{information.value:.2f} against {null.value:.2f} nats")
        0.70 against 0.00 nats
    """
    check_confidence(confidence)
    *values, groups = sibling_values(samples, group, order=order, per_token=per_token, seed=seed)
    return SharedInformation(*(grouped_mean(value, groups, confidence, seed) for value in values))


def sibling_values(
    samples: Sequence[Any], group: Iterable[Hashable], *, order: int, per_token: bool, seed: int
) -> tuple[Floats, Floats, Ints]:
    """:func:`sibling_information`, the same with strangers for siblings, and a number for each group, [n] each."""
    corpus, groups = _read(samples, group, order)
    partners = [np.arange(len(groups)), strangers(groups, seed)]
    tokens = corpus.lengths if per_token else 1
    information, null = (value / tokens for value in _information(corpus, groups, partners, order))
    return information, null, groups


def _read(samples: Sequence[Any], group: Iterable[Hashable], order: int) -> tuple[Corpus, Ints]:
    check_positive(order=order)
    rows, groups = as_rows(samples, group)
    return Corpus.read(rows), groups


def grouped_mean(value: Floats, group: Ints, confidence: float, seed: int, resamples: int = 1000) -> Interval:
    """Mean of the values that are known, with an interval from resampled groups."""
    known = ~np.isnan(value)
    size = np.bincount(group[known])
    total = np.bincount(group[known], value[known])[size > 0]

    def mean(total: Tensor, size: Tensor) -> Tensor:
        return total.sum() / size.sum()

    each = torch.from_numpy(total), torch.from_numpy(size[size > 0])
    return bootstrap_interval(mean, *each, confidence=confidence, seed=seed, resamples=resamples)


def _information(corpus: Corpus, group: Ints, partners: Sequence[Ints], order: int) -> Iterator[Floats]:
    """log q(y | Y) - log q(y), [n], for the siblings Y of each list of partners, [n]; NaN without siblings."""
    grams = list(corpus.grams(order))
    background = np.full(len(corpus.ids), 1 / (grams[0].max() + 1))
    itself, everyone = np.arange(len(group)), np.zeros_like(group)
    for count, total in _evidence(corpus, grams, everyone, itself):
        background = _updated(background, count, total)
    alone = np.bincount(group)[group] == 1
    for partner in partners:
        given = background
        for count, total in _evidence(corpus, grams, group, partner):
            given = _updated(given, count, total)
        yield np.where(alone, np.nan, np.bincount(corpus.sample, np.log(given / background)))


def _evidence(corpus: Corpus, grams: list[Ints], group: Ints, partner: Ints) -> Iterator[tuple[Ints, Ints]]:
    """c(hw) and C(h), [t] each, order by order, among the siblings of each sample's partner."""
    sample, asked = corpus.sample, group[partner]
    size, tokens = np.bincount(group), np.bincount(group, corpus.lengths).astype(np.int64)
    total = (tokens[asked] - corpus.lengths[partner])[sample]
    for gram in grams:
        own = occurrences(gram, sample, partner[sample])
        count = occurrences(gram, group[sample], asked[sample]) - own
        yield count, total
        total = corpus.before(count, size[asked] - 1)  # this n-gram is what comes before the next token


def _updated(prior: Floats, count: Ints, total: Ints) -> Floats:
    """q_n from q_{n-1}, with the strength under which the tokens are likeliest."""
    some = slice(None, None, max(1, len(prior) // _FITTED))

    def nats(strength: float) -> float:
        return float(np.log(_mixed(prior[some], count[some], total[some], strength)).mean())

    return _mixed(prior, count, total, max(_STRENGTHS.tolist(), key=nats))


def _mixed(prior: Floats, count: Ints, total: Ints, strength: float) -> Floats:
    """(c + s q) / (C + s), also for infinite s."""
    return count / (total + strength) + prior / (1 + total / strength)
