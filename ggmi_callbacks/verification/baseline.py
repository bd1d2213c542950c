"""What the same work costs otherwise: a scikit-learn fit at a time, and the published procedure's steps, timed here.

The published procedure draws a truth, anchors, a generator and synthetic samples, fits both mixtures with scikit-learn
and then, a hundred times, draws 1000 samples of truth and fits and compares 50-bin histograms. One such call stands
for one repeat of one setting. It is re-created from its description, with valid covariances (the cost is the same).
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from ggmi_callbacks._extras import extra
from ggmi_callbacks.verification.mixtures import Mixture, fit
from ggmi_callbacks.verification.panels import Design
from ggmi_callbacks.verification.parallel import one_thread
from ggmi_callbacks.verification.world import World, draw_world

with extra("verify", "The timing of baselines"):
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

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
            f"Seconds per repeat, on one thread ({self.subsample}):",
            f"  both fits       {self.our_fits:.5f} batched, {self.scikit_learn_fits:.5f} by a scikit-learn loop: "
            f"{self.scikit_learn_fits / self.our_fits:.0f} times as long",
            f"  a whole call    {self.our_call:.5f} with every quantity here, all settings, wall clock on every core",
        ]
        if not math.isnan(self.published_call):
            lines.append(
                f"                  {self.published_call:.5f} by the published procedure, one gap by histograms: "
                f"{self.published_call / self.our_call:.0f} times as long"
            )
        return "\n".join(lines)


def time_baselines(design: Design, our_call: float, *, panels: str = "KJL", fits: int = 10) -> Timing:
    """Time both baselines, one after the other, on the middle value of each of the panels named.

    Args:
        design: the sweep that ``our_call`` comes from.
        our_call: its seconds for each repeat of each setting.
        panels: which of K, J and L.
        fits: repeats of a setting that scikit-learn fits; the published procedure is called once for each setting.
    """
    middle, few = design.values[len(design.values) // 2], min(fits, design.repeats)
    with one_thread(), threadpool_limits(1):
        seconds = np.mean([_time_setting(design, panel, middle, few) for panel in panels], axis=0)
    subsample = (
        f"{', '.join(panels)} = {middle} in turn: {design.repeats} repeats of ours, {few} of scikit-learn's, "
        f"{int(design.d == 2)} of the published"
    )
    ours, theirs, published = map(float, seconds)
    return Timing(subsample, ours, theirs, our_call, published)


def _time_setting(design: Design, panel: str, value: int, few: int) -> tuple[float, float, float]:
    """Seconds per repeat of our fits, scikit-learn's fits and the published procedure."""
    counts = dict.fromkeys("KJL", 2) | {panel: value}
    K, rng = counts["K"], torch.Generator().manual_seed(design.seed)
    n_anchor = design.anchors_per_component * K
    world = draw_world(K, counts["J"], counts["L"], design.d, n_anchor, design.n_synthetic, design.repeats, rng)
    clock = [time.perf_counter()]
    for x, components in ((world.anchors, K), (world.synthetic, sum(counts.values()))):
        fit(x, components, rng)
    clock.append(time.perf_counter())
    for i in range(few):
        _scikit_learn_fits(world, i, K)
    clock.append(time.perf_counter())
    if design.d == 2:
        published_gap(world, 0, K, np.random.default_rng(design.seed))
    clock.append(time.perf_counter() if design.d == 2 else math.nan)
    return (clock[1] - clock[0]) / design.repeats, (clock[2] - clock[1]) / few, clock[3] - clock[2]


def _scikit_learn_fits(world: World, repeat: int, K: int) -> tuple[GaussianMixture, GaussianMixture]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that has not converged after 100 iterations is used as it is
        return (
            GaussianMixture(K, random_state=0).fit(world.anchors[repeat].numpy()),
            GaussianMixture(world.generator.weights.shape[1], random_state=0).fit(world.synthetic[repeat].numpy()),
        )


def published_gap(world: World, repeat: int, K: int, rng: np.random.Generator) -> float:
    """One repeat's gap by the published steps, given its samples: two fits, then histograms on their own ranges."""
    truth = _as_scikit_learn(world.truth, repeat)
    anchor, synthetic = _scikit_learn_fits(world, repeat, K)
    for mixture in (truth, anchor, synthetic):
        mixture.random_state = np.random.RandomState(rng.integers(2**31))
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
