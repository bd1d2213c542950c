r"""Languages about which everything is known: a Markov source, and a generator that blends known parts.

Notation (nats; V tokens, sequences of T)
    x_1 .. x_T   a sequence of the source: x_1 ~ start, x_t ~ P(x_{t-1}, .)
    y_1 .. y_T   the generator's output for the prompt x:
                 y_t ~ copy * [y_t = x_t] + own * Q(y_{t-1}, .) + noise / V,   copy + own + noise = 1
    Q            the generator's own knowledge of the source
    dI           H(y | x), since the prompt is the anchor whole

Given x, y is a Markov chain, and (x_t, y_t) together are one with V^2 states; so dI takes T products of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot


@dataclass(frozen=True)
class MarkovSource:
    """A stationary Markov chain: ``start`` [V], ``transition`` [V, V], rows summing to one."""

    start: Tensor
    transition: Tensor

    @classmethod
    def random(cls, tokens: int, rng: torch.Generator, *, temperature: float = 1.5) -> MarkovSource:
        """Transition rows from a softmax of normal logits; started in its stationary law."""
        logits = temperature * torch.randn(tokens, tokens, generator=rng, dtype=torch.float64)
        transition = logits.softmax(-1)
        return cls(torch.linalg.matrix_power(transition, 64)[0], transition)

    def sample(self, n: int, length: int, rng: torch.Generator) -> Tensor:
        """n sequences [n, T]."""
        tokens = [torch.multinomial(self.start, n, replacement=True, generator=rng)]
        for _ in range(length - 1):
            tokens.append(torch.multinomial(self.transition[tokens[-1]], 1, generator=rng).squeeze(-1))
        return torch.stack(tokens, dim=-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of sequences [..., T]."""
        return self.start.log()[x[..., 0]] + self.transition.log()[x[..., :-1], x[..., 1:]].sum(-1)

    def entropy(self, length: int) -> Tensor:
        """Entropy of a sequence: of its start, and T - 1 times the entropy rate.

        Example:
            >>> fair = MarkovSource(torch.ones(2) / 2, torch.ones(2, 2) / 2)
            >>> fair.entropy(3)  # 3 log 2
            tensor(2.0794)
        """
        row = torch.special.entr(self.transition).sum(-1)  # [V]
        return torch.special.entr(self.start).sum() + (length - 1) * (self.start * row).sum()


@dataclass(frozen=True)
class Blend:
    """A generator of known parts; see the head of this module.

    Attributes:
        copy: share determined by the prompt.
        own: share of its own knowledge.
        noise: share of uniform noise.
        knowledge: the chain Q.
    """

    copy: float
    own: float
    noise: float
    knowledge: MarkovSource

    def rows(self, x: Tensor, before: Tensor | None) -> Tensor:
        """Law [..., V] of the next token, given the prompt's token here and the output's before (None: the first)."""
        tokens = len(self.knowledge.start)
        own = self.knowledge.start if before is None else self.knowledge.transition[before]
        return self.copy * one_hot(x, tokens).to(own.dtype) + self.own * own + self.noise / tokens

    def sample(self, prompt: Tensor, rng: torch.Generator) -> Tensor:
        """One output [n, T] for each prompt [n, T]."""
        tokens: list[Tensor] = []
        for x in prompt.unbind(-1):
            rows = self.rows(x, tokens[-1] if tokens else None)
            tokens.append(torch.multinomial(rows, 1, generator=rng).squeeze(-1))
        return torch.stack(tokens, dim=-1)

    def log_probs(self, y: Tensor, prompt: Tensor) -> Tensor:
        """Log-probability [..., T] of each token of outputs given prompts (shapes broadcast)."""
        y, prompt = torch.broadcast_tensors(y, prompt)
        columns = []
        for t in range(y.shape[-1]):
            rows = self.rows(prompt[..., t], y[..., t - 1] if t else None)
            columns.append(rows.gather(-1, y[..., t : t + 1]).squeeze(-1).log())
        return torch.stack(columns, dim=-1)

    def information_gain(self, source: MarkovSource, length: int) -> Tensor:
        """Exact dI = H(y | x) of a sequence, prompts drawn from the source."""
        tokens = len(source.start)
        first = self.rows(torch.arange(tokens), None)  # [x, y]
        gain = (source.start * torch.special.entr(first).sum(-1)).sum()
        joint = source.start[:, None] * first  # law of (x_t, y_t)
        x, before = torch.meshgrid(torch.arange(tokens), torch.arange(tokens), indexing="ij")
        rows = self.rows(x, before)  # [x_t, y_{t-1}, y_t]
        for _ in range(length - 1):
            arrived = source.transition.T @ joint  # law of (x_t, y_{t-1})
            gain = gain + (arrived * torch.special.entr(rows).sum(-1)).sum()
            joint = torch.einsum("xb,xby->xy", arrived, rows)
        return gain


def all_sequences(tokens: int, length: int) -> Tensor:
    """Every sequence [V^T, T].

    Example:
        >>> all_sequences(2, 2).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return torch.cartesian_prod(*[torch.arange(tokens)] * length).reshape(-1, length)
