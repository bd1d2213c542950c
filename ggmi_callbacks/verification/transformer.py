"""A fleet of small causal transformers, trained at once, each on a data set of its own.

Notation
    R    models in the fleet; every parameter has them as its first dimension, so a layer is one batched product
    B, T, V, D    sequences in a batch, their length, tokens in the vocabulary, width
    S    steps; model r sees its n_r samples in order, again and again, B at a step

Losses are in nats, summed over the tokens of a sequence.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HEADS = 2
_RATE = 5e-3  # of Adam


class Fleet(nn.Module):
    """R transformers of two layers that predict each token from those before it, and from a prompt's if given.

    Args:
        models: R.
        tokens: V.
        length: T.
        width: D.
        rng: draws the initial weights.
    """

    def __init__(self, models: int, tokens: int, length: int, rng: torch.Generator, *, width: int = 32) -> None:
        super().__init__()
        self.tokens = tokens

        def weights(*shape: int) -> nn.Parameter:
            draw = torch.randn(models, *shape, generator=rng, device=rng.device)
            return nn.Parameter(draw / shape[0] ** 0.5)

        self.embed = weights(tokens + 1, width)  # the last row stands for "nothing yet"
        self.prompt = weights(tokens, width)
        self.place = weights(length, width)
        shapes = (width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)  # qkv, mix, up, down
        self.layers = nn.ModuleList(nn.ParameterList(weights(*shape) for shape in shapes) for _ in range(2))
        self.head = nn.Parameter(torch.zeros(models, width, tokens, device=rng.device))  # uniform to begin with

    def forward(self, y: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Code length [R, B] of sequences [R, B, T], given prompts [R, B, T] token by token."""
        models, batch, length = y.shape
        before = F.pad(y[..., :-1], (1, 0), value=self.tokens)
        x = F.one_hot(before, self.tokens + 1).flatten(1, 2).to(self.embed.dtype) @ self.embed  # [R, B T, D]
        if prompt is not None:
            x = x + F.one_hot(prompt, self.tokens).flatten(1, 2).to(x.dtype) @ self.prompt
        x = x + self.place[:, :length].repeat(1, batch, 1)
        for layer in self.layers:
            qkv, mix, up, down = cast(nn.ParameterList, layer)
            q, k, v = (
                (F.rms_norm(x, x.shape[-1:]) @ qkv).view(models * batch, length, 3, _HEADS, -1).permute(2, 0, 3, 1, 4)
            )
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
            x = x + mixed.reshape(models, batch * length, -1) @ mix
            x = x + F.gelu(F.rms_norm(x, x.shape[-1:]) @ up) @ down
        logits = F.rms_norm(x, x.shape[-1:]) @ self.head
        nll = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
        return nll.view(models, batch, length).sum(-1)


def train(
    fleet: Fleet,
    y: Tensor,
    sizes: Tensor,
    steps: int,
    *,
    prompt: Tensor | None = None,
    batch: int = 32,
) -> Tensor:
    """Train every model on its own first ``sizes[r]`` sequences of y [R, n, T].

    Returns:
        The code length [R, n] of each sample when first seen, before the update that uses it; NaN past ``sizes[r]``
        and where ``steps`` end before a sample's turn.
    """
    optimiser = torch.optim.Adam(fleet.parameters(), lr=_RATE)
    first = torch.full(y.shape[:2], torch.nan, device=y.device)
    rows = torch.arange(len(y), device=y.device)[:, None]
    for step in range(steps):
        turn = step * batch + torch.arange(batch, device=y.device).expand(len(y), -1)  # [R, B]
        index = turn % sizes[:, None]
        nll = fleet(y[rows, index], None if prompt is None else prompt[rows, index])
        new = turn < sizes[:, None]
        first[rows.expand_as(index)[new], index[new]] = nll.detach()[new]
        optimiser.zero_grad()
        nll.mean(-1).sum().backward()  # models share nothing, so each gets its own gradient
        optimiser.step()
    return first


@torch.no_grad()
def code_lengths(fleet: Fleet, y: Tensor, *, prompt: Tensor | None = None, chunk: int = 256) -> Tensor:
    """Code length [R, n] of sequences [R, n, T] or [n, T], the same for every model."""
    y = y.expand(len(fleet.embed), *y.shape[-2:])
    prompts = [None] * (-(-y.shape[1] // chunk)) if prompt is None else prompt.split(chunk, dim=1)
    return torch.cat([fleet(part, p) for part, p in zip(y.split(chunk, dim=1), prompts, strict=True)], dim=1)
