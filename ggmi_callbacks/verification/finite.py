r"""Worlds of finitely many sets, in which every term of the theory is a sum over a table.

Notation (nats)
    S_anchor -> p -> S_gen -> W and S_anchor -> W'    p is a function of S_anchor; each arrow is a table
    theta        probability of a one in the world of coins: n_a anchors, z ~ Bernoulli(theta)
    p            there the number of ones among the anchors
    y            there n_g bits, Bernoulli(c p / n_a + (1 - c) / 2): the share c comes from the prompt
    W, W'        there the label that most of the sample has, flipped with probability ``flip``; the loss is [z != W]
    e_M          there n_g uniform numbers on a grid, each compared with the probability of a one
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.functional import GGMIUpperBoundTerms, generalization_bound, ggmi_upper_bound_terms
from ggmi_callbacks.verification.language import all_sequences


def entropy(joint: Tensor) -> Tensor:
    """Entropy of a table of probabilities."""
    return torch.special.entr(joint).sum()


def conditional_entropy(joint: Tensor) -> Tensor:
    """H(first | second) of a table [first, second]."""
    return entropy(joint) - entropy(joint.sum(0))


def mutual_information(joint: Tensor) -> Tensor:
    """I of a table [first, second]."""
    return entropy(joint.sum(1)) - conditional_entropy(joint)


@dataclass(frozen=True)
class FiniteWorld:
    """The tables of a world; every row is a law.

    Attributes:
        anchors: [A] the law of S_anchor, of whole sets.
        prompt: [A] the index of the prompt that each set leads to.
        generator: [P, G] the law of S_gen for each prompt.
        training: [G, K] the law of W for each S_gen.
        anchor_training: [A, L] the law of W' for each S_anchor.

    Example:
        >>> bit = torch.eye(2)
        >>> copying = FiniteWorld(torch.ones(2) / 2, torch.arange(2), bit, bit, bit)  # everything is one fair coin
        >>> copying.terms().slack
        tensor(0.)
    """

    anchors: Tensor
    prompt: Tensor
    generator: Tensor
    training: Tensor
    anchor_training: Tensor

    @property
    def anchors_and_synthetic(self) -> Tensor:
        """Joint law [A, G] of both sets."""
        return self.anchors[:, None] * self.generator[self.prompt]

    @property
    def prompts(self) -> Tensor:
        """Law [P] of the prompt."""
        return torch.zeros(len(self.generator)).to(self.anchors).index_add_(0, self.prompt, self.anchors)

    def synthetic_and_weights(self) -> Tensor:
        """Joint law [G, K] of S_gen and W."""
        return self.anchors_and_synthetic.sum(0)[:, None] * self.training

    def anchors_and_anchor_weights(self) -> Tensor:
        """Joint law [A, L] of S_anchor and W'."""
        return self.anchors[:, None] * self.anchor_training

    def information_gain(self) -> Tensor:
        """DI of a generator that keeps the whole prompt, H(S_gen | p)."""
        return conditional_entropy((self.prompts[:, None] * self.generator).T)

    def terms(self) -> GGMIUpperBoundTerms:
        """GGMI, its bound and what the theorem assumes, exactly."""
        both = self.anchors_and_synthetic
        return ggmi_upper_bound_terms(
            information_gain=self.information_gain(),
            anchor_entropy=entropy(self.anchors),
            synthetic_entropy=entropy(both.sum(0)),
            synthetic_given_weights=conditional_entropy(self.synthetic_and_weights()),
            anchor_given_anchor_weights=conditional_entropy(self.anchors_and_anchor_weights()),
            anchor_given_prompt=entropy(self.anchors) - entropy(self.prompts),
            anchor_given_weights=conditional_entropy(both @ self.training),
        )


class Comparison(NamedTuple):
    """Both sides of the comparison of generalisation errors, each with its own n; in units of the loss, but for B_syn.

    Attributes:
        anchor_gap: the error of W' on fresh anchors minus that on its own.
        anchor_bound: the bound on it from I(S_anchor; W').
        synthetic_gap: the error of W on fresh synthetic samples minus that on its own.
        synthetic_bound: the bound on it from I(S_gen; W).
        bottleneck: the least B_syn, in nats, with which the paper's bracket for synthetic data reaches I(S_gen; W).
    """

    anchor_gap: Tensor
    anchor_bound: Tensor
    synthetic_gap: Tensor
    synthetic_bound: Tensor
    bottleneck: Tensor


@dataclass(frozen=True)
class Coins:
    """Sizes and probabilities of a world of coins, named as in the head of this module."""

    c: float
    n_a: int = 4
    n_g: int = 8
    theta: float = 0.5
    flip: float = 0.1

    @property
    def ones(self) -> Tensor:
        """[n_a + 1] probability that a synthetic bit is one, for each prompt."""
        share = torch.arange(self.n_a + 1, dtype=torch.float64) / self.n_a
        return self.c * share + (1 - self.c) / 2

    def world(self) -> FiniteWorld:
        """All tables of this world."""
        anchors, bits = all_sequences(2, self.n_a), all_sequences(2, self.n_g)
        theta = torch.tensor([self.theta], dtype=torch.float64)
        return FiniteWorld(
            _bernoulli(theta, anchors)[0],
            anchors.sum(1),
            _bernoulli(self.ones, bits),
            self._majority(bits),
            self._majority(anchors),
        )

    def compare(self) -> Comparison:
        """Errors and bounds of training on either set."""
        world = self.world()
        anchors, bits = all_sequences(2, self.n_a), all_sequences(2, self.n_g)
        stored = mutual_information(world.synthetic_and_weights())
        # A uniform grid on which the probabilities of a one lie: 2 n_a cells for c = 1/2, and for 0 and 1.
        generator_entropy = self.n_g * torch.tensor(2 * self.n_a, dtype=torch.float64).log()
        return Comparison(
            _gap(world.anchors[None], torch.tensor([self.theta]).double(), anchors, world.anchor_training),
            generalization_bound(mutual_information(world.anchors_and_anchor_weights()), self.n_a),
            _gap(world.prompts[:, None] * world.generator, self.ones, bits, world.training),
            generalization_bound(stored, self.n_g),
            stored + world.information_gain() - generator_entropy + entropy(world.prompts),
        )

    def _majority(self, sets: Tensor) -> Tensor:
        """Law [sets, 2] of the label that most of each set has; a tie is a fair coin."""
        n = sets.shape[1]
        one = (2 * sets.sum(1) - n).sign().double() * (0.5 - self.flip) + 0.5
        return torch.stack((1 - one, one), 1)


def _bernoulli(ones: Tensor, sets: Tensor) -> Tensor:
    """Probabilities [laws, sets] of sets of bits under each law."""
    k, n = sets.sum(1), sets.shape[1]
    return ones[:, None] ** k * (1 - ones[:, None]) ** (n - k)


def _gap(joint: Tensor, ones: Tensor, sets: Tensor, training: Tensor) -> Tensor:
    """Error on fresh samples minus error on the training set; ``joint`` [laws, sets] weighs laws and sets."""
    share = sets.double().mean(1)
    own = torch.stack((share, 1 - share), 1)  # [sets, 2] error of either label on the set
    fresh = torch.stack((ones, 1 - ones), 1)  # [laws, 2] and on the law
    return (joint[:, :, None] * training * (fresh[:, None] - own)).sum()
