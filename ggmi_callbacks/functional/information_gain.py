r"""Information gain dI: what a generator adds beyond its prompt, in nats per output.

Notation:
    p, y = M(p)   a prompt and the output that the generator sampled for it
    h, g          what reaches the output of the prompt, and of the generator: y = h(e_p) + g(e_M)
    dI            H(y) - I(h; y) = H(y | h), which is H(y | p) when h keeps the whole prompt
    K_p, K_y      [n, n] Gram matrices of prompt and output embeddings, constant diagonal
    K_p * K_y     their Hadamard product; S the von Neumann entropy of a Gram matrix of unit trace
"""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_log_probs, check_positive, check_tensors
from ggmi_callbacks.functional._interval import (
    Interval,
    check_confidence,
    like,
    mean_and_variance,
    moments,
    t_interval,
)


def _code_length(log_probs: Tensor, mask: Tensor | None) -> Tensor:
    """Code length [n] of each output from token log-probabilities [n, T] or sums [n], in float64."""
    check_tensors(log_probs=log_probs, mask=mask)
    if log_probs.ndim not in (1, 2) or log_probs.numel() == 0:
        raise ValueError(
            "Expected argument `log_probs` to have shape [n] (summed) or [n, T] (per token) but got "
            f"{list(log_probs.shape)}; pass the log-probability of each generated token, or their sum per output."
        )
    if mask is not None and mask.shape != log_probs.shape:
        raise ValueError(
            f"Expected argument `mask` to have the shape of the log-probabilities, {list(log_probs.shape)}, "
            f"but got {list(mask.shape)}; mark the generated tokens with True."
        )
    nll = -log_probs.double()
    if mask is not None:
        nll = torch.where(mask.bool(), nll, 0.0)  # padding may hold anything, -inf too
    return nll.sum(-1) if nll.ndim == 2 else nll


def _mean_compute(sums: Tensor, confidence: float | None) -> Tensor | Interval:
    mean, variance = mean_and_variance(sums)
    return mean if confidence is None else t_interval(mean, variance, sums[0] - 1, confidence)


@overload
def information_gain(log_probs: Tensor, mask: Tensor | None = ..., *, confidence: None = ...) -> Tensor: ...
@overload
def information_gain(log_probs: Tensor, mask: Tensor | None = ..., *, confidence: float) -> Interval: ...
def information_gain(
    log_probs: Tensor, mask: Tensor | None = None, *, confidence: float | None = None
) -> Tensor | Interval:
    r"""Information gain from the log-probabilities with which the generator sampled its own outputs.

    .. math::
        \Delta I = H(y \mid p) = E[-\log p_M(y \mid p)]

    Unbiased for outputs that M itself sampled, under the law that really sampled them: pass log-probabilities
    renormalised for temperature, top-k and top-p (:func:`sampling_log_probs`). A curation filter changes the
    law, and with it what this number means. Log-probabilities of another model give a cross-entropy, an upper
    bound: :func:`cross_entropy_upper_bound`.

    Args:
        log_probs: [n, T] log p_M of each token, or [n] summed over each output (nats).
        mask: [n, T] True at the tokens that were generated; by default all of them.
        confidence: None for a 0-dim tensor, or the level of a closed-form interval over outputs.

    Returns:
        0-dim tensor, or an :class:`Interval`: nats per output.

    Raises:
        ValueError: If the shapes are not as above, a log-probability is positive or NaN, or ``confidence`` is out of
            range.

    Source:
        Gan and Liu (ICLR 2025), definition of dI, for an h that keeps the whole prompt.

    Example:
        >>> import torch
        >>> log_probs = torch.tensor([[0.5, 0.5], [0.25, 1.0]]).log()
        >>> information_gain(log_probs)  # log 4
        tensor(1.3863)
    """
    check_confidence(confidence)
    lengths = _code_length(log_probs, mask)
    check_log_probs(mask, log_probs=log_probs)
    return like(_mean_compute(moments(lengths), confidence), log_probs)


def cross_entropy_upper_bound(
    log_probs: Tensor, mask: Tensor | None = None, *, confidence: float | None = None
) -> Tensor | Interval:
    r"""Upper bound on the information gain from a *reference* model's log-probabilities of the outputs.

    .. math::
        E[-\log q(y \mid p)] = H(y \mid p) + E[KL(p_M \| q)] \ge \Delta I

    Args:
        log_probs: [n, T] or [n] log q of the outputs under the reference model, as in
            :func:`information_gain`.
        mask: as in :func:`information_gain`.
        confidence: as in :func:`information_gain`.

    Returns:
        0-dim tensor, or an :class:`Interval`: nats per output.

    Raises:
        ValueError: As :func:`information_gain`.

    Example:
        >>> import torch
        >>> cross_entropy_upper_bound(torch.tensor([-1.0, -3.0]))
        tensor(2.)
    """
    return information_gain(log_probs, mask, confidence=confidence)


def sampling_log_probs(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """Log-probability of each token under the law that sampled it: temperature, then top-k, then top-p.

    What the truncation removed has probability zero, so a token outside it, which that law cannot have
    sampled, comes out as minus infinity.

    Args:
        logits: [..., V] logits of the generator.
        tokens: [...] the sampled tokens.
        temperature: the temperature of sampling.
        top_k: number of most likely tokens kept; None keeps all.
        top_p: the smallest set of tokens with at least this probability is kept.

    Returns:
        [...] log-probabilities in nats, in the dtype of the logits but at least float32.

    Raises:
        ValueError: If shapes do not match, the temperature is not positive or ``top_p`` or ``top_k`` is out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.4, 0.4, 0.2]]).log()
        >>> sampling_log_probs(logits, torch.tensor([0]), top_k=2).exp()
        tensor([0.5000])
    """
    check_tensors(logits=logits, tokens=tokens)
    check_positive(temperature=temperature)
    if tokens.shape != logits.shape[:-1]:
        raise ValueError(
            f"Expected argument `tokens` to have the shape of `logits` without the vocabulary, "
            f"{list(logits.shape[:-1])}, but got {list(tokens.shape)}; pass the token sampled at each position."
        )
    if not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"Expected arguments `top_p` in (0, 1] and `top_k` None or at least 1 but got {top_p} and "
            f"{top_k}; pass the settings that the generator sampled with."
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ranked, order = logits.sort(descending=True)
        probability = ranked.softmax(-1)
        before = probability.cumsum(-1) - probability  # mass of the tokens more likely than this one
        out = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(out, -torch.inf)
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def pointwise_prompt_information(
    conditional_log_probs: Tensor, unconditional_log_probs: Tensor, mask: Tensor | None = None
) -> Tensor:
    r"""What the prompt gives of each output: log p(y | p) - log p(y), nats per output.

    A sample's own mutual information with its prompt: an answer to another question scores low, or below
    zero.

    Args:
        conditional_log_probs: [n, T] or [n] log-probabilities of the outputs given their prompts.
        unconditional_log_probs: the same outputs without any prompt.
        mask: [n, T] True at the tokens of the output.

    Returns:
        [n] in nats.

    Raises:
        ValueError: If the shapes differ or are not as above, or a log-probability is positive or NaN.

    Example:
        >>> from torch import tensor
        >>> pointwise_prompt_information(tensor([-1.0, -4.0]), tensor([-3.0, -3.0]))
        tensor([ 2., -1.])
    """
    given = {"conditional_log_probs": conditional_log_probs, "unconditional_log_probs": unconditional_log_probs}
    check_tensors(**given)
    if conditional_log_probs.shape != unconditional_log_probs.shape:
        raise ValueError(
            "Expected arguments `conditional_log_probs` and `unconditional_log_probs` to have the same shape "
            f"but got {list(conditional_log_probs.shape)} and {list(unconditional_log_probs.shape)}; score the "
            "same output tokens with and without the prompt."
        )
    gap = _code_length(unconditional_log_probs, mask) - _code_length(conditional_log_probs, mask)
    check_log_probs(mask, **given)
    return like(gap, conditional_log_probs, unconditional_log_probs)


def prompt_information_upper_bound(
    conditional_log_probs: Tensor,
    unconditional_log_probs: Tensor,
    mask: Tensor | None = None,
    *,
    confidence: float | None = None,
) -> Tensor | Interval:
    r"""Mean of :func:`pointwise_prompt_information`: an upper bound on I(p; M(p)), nats per output.

    .. math::
        E[\log p(y \mid p) - \log q(y)] = I(p; y) + KL(p(y) \| q(y))

    where q is the promptless law of the language model, not the true marginal law of its outputs. It is equal
    to the mutual information only if q is that marginal.

    Args:
        conditional_log_probs: as in :func:`pointwise_prompt_information`.
        unconditional_log_probs: as in :func:`pointwise_prompt_information`.
        mask: as in :func:`pointwise_prompt_information`.
        confidence: None for a 0-dim tensor, or the level of a closed-form interval over outputs.

    Returns:
        0-dim tensor, or an :class:`Interval`.

    Raises:
        ValueError: As :func:`pointwise_prompt_information`, or if ``confidence`` is out of range.

    Example:
        >>> from torch import tensor
        >>> prompt_information_upper_bound(tensor([-1.0, -4.0]), tensor([-3.0, -3.0]))
        tensor(0.5000)
    """
    check_confidence(confidence)
    gap = pointwise_prompt_information(conditional_log_probs, unconditional_log_probs, mask)
    return like(_mean_compute(moments(gap), confidence), gap)
