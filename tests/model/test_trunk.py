"""The lower blocks of a model, run once for two sets of parameters that differ above them."""

from __future__ import annotations

import types

import pytest
import torch
from torch import Tensor, nn

from ggmi_callbacks.model import blocks, shared_trunk


class Block(nn.Module):
    """A residual block that counts its runs and returns a tuple if asked."""

    def __init__(self, pair: bool = False) -> None:
        super().__init__()
        self.linear, self.pair, self.runs = nn.Linear(4, 4), pair, 0

    def forward(self, hidden_states: Tensor, scale: float = 1.0) -> Tensor | tuple[Tensor, str]:
        self.runs += 1
        out = hidden_states + scale * self.linear(hidden_states).tanh()
        return (out, "beside") if self.pair else out


class Chain(nn.Module):
    def __init__(self, pair: bool = False, by_name: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleList([nn.Linear(1, 1)])
        self.layers = nn.ModuleList([Block(pair) for _ in range(4)])
        self.by_name = by_name

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = block(hidden_states=x) if self.by_name else block(x)
            if isinstance(x, tuple):
                assert x[1] == "beside"
                x = x[0]
        return x


X = torch.linspace(-1, 1, 8).view(2, 4)


def test_blocks_are_the_largest_list_of_modules_that_lies_in_no_other() -> None:
    model = Chain()
    assert blocks(model) == list(model.layers)
    nested = nn.ModuleDict({"outer": nn.ModuleList([Chain(), Chain()])})
    assert blocks(nested) == list(nested["outer"])
    with pytest.raises(
        ValueError, match="`layers` needs a model made of repeated blocks, and Linear has no ModuleList"
    ):
        blocks(nn.Linear(1, 1))


@pytest.mark.parametrize("pair", [False, True], ids=["alone", "tuple"])
@pytest.mark.parametrize("by_name", [False, True], ids=["positional", "by name"])
@torch.no_grad()
def test_the_second_forward_skips_the_trunk_and_finds_the_same(pair: bool, by_name: bool) -> None:
    model = Chain(pair, by_name)
    *trunk, tail = blocks(model)
    first = model(X)
    with shared_trunk(trunk, tail) as replay:
        assert torch.equal(model(X), first)
        replay()
        tail.linear.weight.mul_(2)
        second = model(torch.zeros_like(X))  # nothing of its input is read
    assert [block.runs for block in model.layers] == [2, 2, 2, 3]
    assert torch.equal(second, model(X))
    assert not torch.equal(second, first)


@pytest.mark.parametrize("error", [False, True])
@torch.no_grad()
def test_forwards_and_hooks_come_back_as_they_were(error: bool) -> None:
    model = Chain()
    first, second, tail = blocks(model)[:3]
    own = types.MethodType(lambda self, x: Block.forward(self, x), second)
    second.forward = own  # somebody else has replaced it before, as Accelerate does
    try:
        with shared_trunk([first, second], tail) as replay:
            model(X)
            replay()
            assert "forward" in vars(first)
            assert second.forward is not own
            if error:
                raise KeyError
    except KeyError:
        pass
    assert "forward" not in vars(first)
    assert second.forward is own
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in model.layers)


@torch.no_grad()
def test_blocks_that_run_twice_or_take_their_input_under_another_name_are_refused() -> None:
    model = Chain()
    *trunk, tail = blocks(model)
    with shared_trunk(trunk, tail):
        model(X)
        with pytest.raises(
            ValueError, match="blocks run more than once in a forward, or take their input under a name"
        ):
            model(X)
    tail.forward = lambda other: other
    with pytest.raises(ValueError, match="`layers`: the model's blocks run more than"), shared_trunk(trunk, tail):
        tail(other=X)
