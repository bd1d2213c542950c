"""Worlds of finite tables: the bound on GGMI, its sign and its slack; both sides of the generalisation bound."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ggmi_callbacks.functional import generalization_bound, synthetic_generalization_bound
from ggmi_callbacks.verification import Coins, FiniteWorld
from ggmi_callbacks.verification.finite import conditional_entropy, entropy, mutual_information

SIZES = st.integers(1, 6)
every_world = given(st.tuples(SIZES, SIZES, SIZES, SIZES, SIZES), st.integers(0, 2**32 - 1), st.floats(0.2, 8.0))


def random_world(sizes: tuple[int, ...], seed: int, sharpness: float) -> FiniteWorld:
    """Random tables; the sharper, the nearer to functions."""
    rng = torch.Generator().manual_seed(seed)
    anchors, prompts, synthetic, weights, anchor_weights = sizes

    def laws(*shape: int) -> Tensor:
        return (sharpness * torch.randn(*shape, generator=rng, dtype=torch.float64)).softmax(-1)

    return FiniteWorld(
        laws(anchors),
        torch.randint(prompts, (anchors,), generator=rng),
        laws(prompts, synthetic),
        laws(synthetic, weights),
        laws(anchors, anchor_weights),
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@every_world
def test_the_bound_never_lies_below_ggmi(sizes: tuple[int, ...], seed: int, sharpness: float) -> None:
    terms = random_world(sizes, seed, sharpness).terms()
    assert terms.slack > -1e-12
    assert terms.bound >= terms.ggmi - 1e-12
    assert terms.a >= 0 or terms.a.isnan()  # as the theorem assumes: entropies of tables are never negative


@settings(max_examples=200, deadline=None, derandomize=True)
@every_world
def test_ggmi_is_the_difference_of_two_mutual_informations(sizes: tuple[int, ...], seed: int, sharpness: float) -> None:
    world = random_world(sizes, seed, sharpness)
    anchor = mutual_information(world.anchors_and_anchor_weights())
    synthetic = mutual_information(world.synthetic_and_weights())
    assert float(world.terms().ggmi) == pytest.approx(float(anchor - synthetic), abs=1e-12)


@settings(max_examples=200, deadline=None, derandomize=True)
@every_world
def test_the_slack_is_what_the_synthetic_set_leaves_open_of_the_prompt(
    sizes: tuple[int, ...], seed: int, sharpness: float
) -> None:
    world = random_world(sizes, seed, sharpness)
    left_open = conditional_entropy(world.prompts[:, None] * world.generator)
    assert float(world.terms().slack) == pytest.approx(float(left_open), abs=1e-12)


def test_the_slack_does_not_depend_on_the_weights() -> None:
    world, other = (random_world((5, 3, 4, 3, 2), seed, 1.0) for seed in (0, 1))
    swapped = FiniteWorld(world.anchors, world.prompt, world.generator, other.training, other.anchor_training)
    assert world.terms().ggmi != swapped.terms().ggmi
    assert float(world.terms().slack) == pytest.approx(float(swapped.terms().slack), abs=1e-12)


def test_a_prompt_that_the_synthetic_set_gives_away_makes_the_bound_tight() -> None:
    prompt = torch.tensor([0, 1, 1, 2])
    anchors = torch.ones(4, dtype=torch.float64) / 4
    generator = torch.eye(6, dtype=torch.float64)[:3] / 2 + torch.eye(6, dtype=torch.float64)[3:] / 2
    training = torch.eye(6, dtype=torch.float64)
    terms = FiniteWorld(anchors, prompt, generator, training, torch.eye(4, dtype=torch.float64)).terms()
    assert float(terms.slack) == pytest.approx(0.0, abs=1e-12)


def test_a_prompt_that_holds_more_than_the_anchors_can_break_the_bound() -> None:
    # The condition is needed: with a prompt of its own the generator tells more than the anchors could.
    joint = torch.eye(2, dtype=torch.float64) / 2  # p is S_gen, and independent of the anchors
    slack = conditional_entropy(joint) + 0 - entropy(joint.sum(0))  # dI + H(S_a) - H(S_g) - H(S_a | p), H(S_a) = 0
    assert slack < 0


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_g", [1, 4, 8])
def test_either_generalisation_error_of_coins_lies_below_its_bound(c: float, n_g: int) -> None:
    sides = Coins(c, n_g=n_g, theta=0.3).compare()
    assert 0 < sides.anchor_gap < sides.anchor_bound
    assert 0 < sides.synthetic_gap < sides.synthetic_bound


def test_gaps_of_coins_are_those_of_a_simulation() -> None:
    coins, rng = Coins(0.5, n_a=4, n_g=5, theta=0.3), torch.Generator().manual_seed(0)

    def bits(ones: Tensor, n: int) -> Tensor:
        return (torch.rand(len(ones), n, generator=rng) < ones[:, None]).double()

    def gaps(ones: Tensor, sample: Tensor) -> Tensor:
        majority = (sample.mean(1) - 0.5).sign() / 2 + 0.5
        label = torch.where(majority == 0.5, torch.rand(len(ones), generator=rng).round().double(), majority)
        label = torch.where(torch.rand(len(ones), generator=rng) < coins.flip, 1 - label, label)
        fresh = bits(ones, 1)
        return (fresh[:, 0] != label).double() - (sample != label[:, None]).double().mean(1)

    theta = torch.full((400_000,), coins.theta, dtype=torch.float64)
    anchors = bits(theta, coins.n_a)
    ones = coins.ones[anchors.sum(1).long()]
    sides = coins.compare()
    for law, sample, exact in ((theta, anchors, sides.anchor_gap), (ones, bits(ones, coins.n_g), sides.synthetic_gap)):
        found = gaps(law, sample)
        assert abs(float(found.mean() - exact)) < 4 * float(found.std()) / len(found) ** 0.5


def test_the_bound_by_what_generates_the_data_is_that_by_information_at_the_least_bottleneck() -> None:
    coins = Coins(0.5)
    world, sides = coins.world(), coins.compare()
    terms = {
        "information_gain": world.information_gain(),
        "generator_entropy": coins.n_g * torch.tensor(8.0, dtype=torch.float64).log(),
        "noise_entropy": torch.zeros((), dtype=torch.float64),
        "prompt_entropy": entropy(world.prompts),
    }
    bound = synthetic_generalization_bound(**terms, compression_bottleneck=sides.bottleneck, n=coins.n_g)
    assert float(bound) == pytest.approx(float(sides.synthetic_bound), rel=1e-9)
    stored = mutual_information(world.synthetic_and_weights())
    assert float(bound) == pytest.approx(float(generalization_bound(stored, coins.n_g)), rel=1e-9)
    with pytest.raises(ValueError, match="`compression_bottleneck` to be known but got nan"):
        synthetic_generalization_bound(**terms, compression_bottleneck=torch.tensor(torch.nan), n=coins.n_g)
