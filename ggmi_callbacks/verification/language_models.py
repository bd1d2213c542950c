r"""The verification on language models that the paper lacks: GGMI where dI and every loss are known exactly.

Notation (nats per sequence of T tokens)
    source      a random Markov chain for each seed; anchors are n_a of its sequences
    generators  blends of prompt, own knowledge and noise, prompted with the anchors in turn, n_g outputs
    W', W       transformers trained on the anchors, and on a generator's outputs
    twin        another sequence of the source for an anchor; another output for the same prompt for a synthetic one
    loss of law the expectation of a model's loss, summed over all V^T sequences: of the source for W', of the blend
                given these prompts for W. The generalisation gap is that minus the loss on the training set.

Everything about a generator is pooled over the seeds, each of which has a source, anchors and models of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ggmi_callbacks.functional import Interval, ggmi, information_gain, mean_interval
from ggmi_callbacks.functional.information_gain import cross_entropy_upper_bound
from ggmi_callbacks.verification.language import Blend, MarkovSource, all_sequences
from ggmi_callbacks.verification.parallel import in_parallel
from ggmi_callbacks.verification.transformer import Fleet, code_lengths, train

_CONFIDENCE = 0.95
_TOKENS, _LENGTH = 5, 5
_FLEET = 16  # models trained together
Result = TypeVar("Result")


@dataclass(frozen=True)
class LanguageDesign:
    """Size of the study.

    Attributes:
        seeds: sources, each with its own anchors and models.
        seed: the results are a function of it.
        n_anchor: anchors.
        n_synthetic: sizes of the synthetic sets; every generator makes one of each.
        copies: shares of the prompt in the generators; what is left is split in ``knows``.
        knows: share of the rest that is the generator's own knowledge; what is left then is noise.
        steps: training steps of 32 sequences.
        device: where to train.
    """

    seeds: int = 8
    seed: int = 0
    n_anchor: int = 64
    n_synthetic: Sequence[int] = (64, 256)
    copies: Sequence[float] = (0.0, 0.3, 0.6, 0.9)
    knows: Sequence[float] = (1.0, 0.7, 0.2)
    steps: int = 300
    device: str = "cpu"


@dataclass(frozen=True)
class Generator:
    """One blend over all seeds.

    Attributes:
        copy: share of the prompt.
        own: share of its own knowledge.
        noise: share of uniform noise.
        blends: the generator of each seed.
        gain: exact dI, averaged over the seeds' sources.
        estimate: dI from the log-probabilities of one output for each anchor.
        learned: upper bound on dI from a transformer that learned to predict the outputs from the prompts.
    """

    copy: float
    own: float
    noise: float
    blends: list[Blend]
    gain: float
    estimate: Interval
    learned: Interval


@dataclass(frozen=True)
class Outcome:
    """What was measured for one generator and size of synthetic set; nats per sample, means over the seeds."""

    generator: Generator
    n_synthetic: int
    ggmi_loss_difference: Interval
    ggmi_mixture: Interval
    generalisation_gap_difference: Interval
    kl_gap: Interval


class Trained(NamedTuple):
    """Code lengths of a fleet's models: [R, n] before training, after it, and of twins; law losses [R]."""

    first: Tensor
    final: Tensor
    twin: Tensor
    own_loss: Tensor
    source_loss: Tensor


def language_study(design: LanguageDesign, *, progress: bool = True) -> list[Outcome]:
    """Train every model of the study and measure GGMI, gaps and dI."""
    rng = torch.Generator().manual_seed(design.seed)
    sources = [MarkovSource.random(_TOKENS, rng) for _ in range(design.seeds)]
    anchors, twins = ([source.sample(design.n_anchor, _LENGTH, rng) for source in sources] for _ in range(2))
    generators = _generators(design, sources, anchors, rng, progress)
    settings = list(product(generators, design.n_synthetic))
    laws, samples, others = [], list(anchors), list(twins)
    everything = all_sequences(_TOKENS, _LENGTH)
    source_laws = [source.log_prob(everything).exp() for source in sources]
    for generator, n in settings:
        for blend, prompts in zip(generator.blends, anchors, strict=True):
            asked = prompts[torch.arange(n) % design.n_anchor]
            samples.append(blend.sample(asked, rng))
            others.append(blend.sample(asked, rng))
            laws.append(blend.log_probs(everything, prompts[:, None]).sum(-1).exp().mean(0))
    trained = _train(design, samples, others, source_laws + laws, source_laws, progress)
    return [_outcome(design, trained, i, *setting) for i, setting in enumerate(settings)]


def _generators(
    design: LanguageDesign,
    sources: list[MarkovSource],
    anchors: list[Tensor],
    rng: torch.Generator,
    progress: bool,
) -> list[Generator]:
    knowledge = []
    for source in sources:  # half right
        transition = (source.transition + MarkovSource.random(_TOKENS, rng).transition) / 2
        knowledge.append(MarkovSource(torch.linalg.matrix_power(transition, 64)[0], transition))
    parts = [(copy, (1 - copy) * know, (1 - copy) * (1 - know)) for copy, know in product(design.copies, design.knows)]
    blends = [[Blend(*shares, chain) for chain in knowledge] for shares in parts]
    learned = _learned_gain(design, sources, blends, rng, progress)
    result = []
    for (copy, own, noise), family, bound in zip(parts, blends, learned, strict=True):
        gains = [blend.information_gain(source, _LENGTH) for blend, source in zip(family, sources, strict=True)]
        logs = [blend.log_probs(blend.sample(x, rng), x) for blend, x in zip(family, anchors, strict=True)]
        estimate = information_gain(torch.cat(logs), confidence=_CONFIDENCE)
        result.append(Generator(copy, own, noise, family, float(torch.stack(gains).mean()), estimate, bound))
    return result


def _learned_gain(
    design: LanguageDesign,
    sources: list[MarkovSource],
    blends: list[list[Blend]],
    rng: torch.Generator,
    progress: bool,
) -> list[Interval]:
    """Upper bound on each blend's dI from a transformer that sees prompts, on outputs that it was not trained on."""
    size, held = 8 * design.steps, 256  # four epochs
    prompts = [source.sample(size + held, _LENGTH, rng) for _ in blends for source in sources]
    flat = [blend for family in blends for blend in family]
    y = torch.stack([blend.sample(x, rng) for blend, x in zip(flat, prompts, strict=True)])
    x = torch.stack(prompts)
    sizes = torch.full((len(y),), size)

    def run(part: slice, fleet: Fleet) -> Tensor:
        on = y[part].to(design.device), x[part].to(design.device)
        train(fleet, on[0], sizes[part].to(design.device), design.steps, prompt=on[1])
        return code_lengths(fleet, on[0][:, size:], prompt=on[1][:, size:]).cpu()

    nll = torch.cat(_fleets(design, len(y), run, "dI by learning" if progress else None))
    return [
        cast(Interval, cross_entropy_upper_bound(-lengths, confidence=_CONFIDENCE))
        for lengths in nll.view(len(blends), -1)
    ]


def _train(
    design: LanguageDesign,
    samples: list[Tensor],
    twins: list[Tensor],
    laws: list[Tensor],
    source_laws: list[Tensor],
    progress: bool,
) -> Trained:
    """Train a model on each sample; the first ``seeds`` of them are the anchors', then seeds follow each other."""
    sizes = torch.tensor([len(x) for x in samples])
    y, other = (pad_sequence(x, batch_first=True) for x in (samples, twins))
    own = torch.stack(laws)
    source = torch.stack(source_laws).repeat(len(samples) // len(source_laws), 1)

    def run(part: slice, fleet: Fleet) -> Trained:
        on = y[part].to(design.device)
        first = train(fleet, on, sizes[part].to(design.device), design.steps).cpu()
        every = code_lengths(fleet, all_sequences(_TOKENS, _LENGTH).to(design.device)).double().cpu()
        final, twin = (code_lengths(fleet, data.to(design.device)).cpu() for data in (on, other[part]))
        return Trained(first, final, twin, (own[part] * every).sum(-1), (source[part] * every).sum(-1))

    parts = _fleets(design, len(y), run, "W and W'" if progress else None)
    return Trained(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _fleets(
    design: LanguageDesign, models: int, run: Callable[[slice, Fleet], Result], label: str | None
) -> list[Result]:
    """Run fleets of equal size, of the same initial weights on any machine; in parallel on a CPU, one thread each."""

    def work(start: int) -> Result:
        part = slice(start, min(start + _FLEET, models))
        rng = torch.Generator().manual_seed((design.seed << 16) + start)
        return run(part, Fleet(part.stop - start, _TOKENS, _LENGTH, rng).to(design.device))

    return in_parallel(work, range(0, models, _FLEET), design.device, label)


def _outcome(design: LanguageDesign, t: Trained, index: int, generator: Generator, n: int) -> Outcome:
    a = slice(0, design.seeds)
    g = slice(design.seeds * (index + 1), design.seeds * (index + 2))
    n_a = design.n_anchor
    inside = t.final[a, :n_a], t.final[g, :n]

    def per_sample(before: Tensor, estimator: Literal["mixture", "loss_difference"]) -> Interval:
        pairs = (before[a, :n_a], inside[0], before[g, :n], inside[1])
        return ggmi(
            *(x.flatten() for x in pairs),
            estimator=estimator,
            anchor_total=1,
            synthetic_total=1,
            confidence=_CONFIDENCE,
        )

    gap = (t.own_loss[a] - inside[0].mean(-1)) - (t.own_loss[g] - inside[1].mean(-1))
    return Outcome(
        generator,
        n,
        per_sample(t.twin, "loss_difference"),
        per_sample(t.first, "mixture"),
        mean_interval(gap, _CONFIDENCE),
        mean_interval(t.source_loss[a] - t.source_loss[g], _CONFIDENCE),
    )
