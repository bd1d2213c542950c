"""What the same work costs otherwise: a scikit-learn fit at a time, and the published procedure's steps, timed here.

The published procedure draws a truth, anchors, a generator and synthetic samples, fits both mixtures with scikit-learn
and then, a hundred times, draws 1000 samples of truth and fits and compares 50-bin histograms. One such call stands
for one repeat of one setting. It is re-created from its description, with valid covariances (the cost is the same).
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.mixture import GaussianMixture

from ggmi_callbacks.verification.mixtures import Mixture, fit
from ggmi_callbacks.verification.protocol import World, draw_world
from ggmi_callbacks.verification.sweep import Design

_ROUNDS, _SAMPLES, _BINS = 100, 1000, 50


@dataclass(frozen=True)
class Timing:
    """Seconds for one repeat, in this run, each averaged over the stated subsample.

    Attributes:
        subsample: what was timed.
        our_fits: both fits of a repeat, batched over all repeats of a setting.
        scikit_learn_fits: the same fits on the same samples, one at a time.
        our_call: everything that a repeat measures, from the whole sweep.
        published_call: one call of the published procedure; NaN where there is no such procedure (d is not 2).
    """

    subsample: str
    our_fits: float
    scikit_learn_fits: float
    our_call: float
    published_call: float

    def __str__(self) -> str:
        lines = [
            f"Seconds per repeat ({self.subsample}):",
            f"  both fits        {self.our_fits:.5f} batched, {self.scikit_learn_fits:.5f} by a scikit-learn loop: "
            f"{self.scikit_learn_fits / self.our_fits:.0f} times as fast",
            f"  a whole call     {self.our_call:.5f} with every quantity (wall clock of the sweep)",
        ]
        if self.published_call == self.published_call:
            lines.append(
                f"  published call   {self.published_call:.5f}, one gap by histograms: "
                f"{self.published_call / self.our_call:.0f} times as long"
            )
        return "\n".join(lines)


def time_baselines(design: Design, our_call: float, *, fits: int = 10, calls: int = 1) -> Timing:
    """Time both baselines on the middle value of each of the panels K, J and L.

    Args:
        design: the sweep that ``our_call`` comes from.
        our_call: its seconds for each repeat of each setting.
        fits: repeats of a setting that scikit-learn fits.
        calls: calls of the published procedure for each setting (d = 2 only).
    """
    middle = design.values[len(design.values) // 2]
    ours, theirs, published = [], [], []
    for panel in "KJL":
        counts = dict.fromkeys("KJL", 2) | {panel: middle}
        rng = torch.Generator().manual_seed(design.seed)
        sizes = (design.d, design.anchors_per_component * counts["K"], design.n_synthetic, design.repeats)
        world = draw_world(counts["K"], counts["J"], counts["L"], *sizes, rng)
        start = time.perf_counter()
        fit(world.anchors, counts["K"], rng), fit(world.synthetic, sum(counts.values()), rng)
        ours.append((time.perf_counter() - start) / design.repeats)
        few = min(fits, design.repeats)
        start = time.perf_counter()
        for i in range(few):
            _scikit_learn_fits(world, i, counts["K"])
        theirs.append((time.perf_counter() - start) / few)
        start = time.perf_counter()
        for i in range(calls if design.d == 2 else 0):
            published_gap(world, i, counts["K"], np.random.default_rng(design.seed + i))
        published.append((time.perf_counter() - start) / max(calls, 1) if design.d == 2 else float("nan"))
    subsample = (
        f"K, J and L = {middle} in turn; ours {design.repeats} repeats each, scikit-learn {few}, "
        f"published {calls if design.d == 2 else 0}"
    )
    return Timing(subsample, *(float(np.mean(x)) for x in (ours, theirs)), our_call, float(np.mean(published)))


def _scikit_learn_fits(world: World, repeat: int, K: int) -> tuple[GaussianMixture, GaussianMixture]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that has not converged after 100 iterations is used as it is
        return (
            GaussianMixture(K).fit(world.anchors[repeat].numpy()),
            GaussianMixture(world.generator.weights.shape[1]).fit(world.synthetic[repeat].numpy()),
        )


def published_gap(world: World, repeat: int, K: int, rng: np.random.Generator) -> float:
    """One repeat's gap by the published steps, given its samples: two fits, then histograms on their own ranges."""
    truth = _as_scikit_learn(world.truth, repeat)
    anchor, synthetic = _scikit_learn_fits(world, repeat, K)
    for mixture in (truth, anchor, synthetic):
        mixture.random_state = np.random.RandomState(rng.integers(2**31))  # noqa: NPY002 - the type it asks for
    gap = 0.0
    for _ in range(_ROUNDS):
        target = truth.sample(_SAMPLES)[0]
        gap += _histogram_kl(anchor.sample(_SAMPLES)[0], target)
        gap -= _histogram_kl(synthetic.sample(_SAMPLES)[0], target)
    return gap / _ROUNDS


def _as_scikit_learn(mixture: Mixture, repeat: int) -> GaussianMixture:
    """A scikit-learn mixture with given parameters, enough of it to sample from."""
    result = GaussianMixture(mixture.weights.shape[1])
    factor = mixture.cholesky[repeat]
    result.weights_, result.means_ = mixture.weights[repeat].numpy(), mixture.means[repeat].numpy()
    result.covariances_ = (factor @ factor.mT).numpy()
    return result


def _histogram_kl(p: np.ndarray, q: np.ndarray) -> float:
    densities = [np.histogramdd(x, bins=_BINS, density=True)[0].clip(min=1e-10) for x in (p, q)]
    a, b = (x / x.sum() for x in densities)
    return float((a * np.log(a / b)).sum())
