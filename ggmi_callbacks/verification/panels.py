r"""The paper's three panels: the mixture experiment over K, J and L, one number at a time, the others at two.

A fourth sweep repeats the first with as many anchors as synthetic samples throughout: in the paper's the anchors grow
with K (50 of each component) while the synthetic samples stay 200, so that K and the size of a sample change together.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from torch import Tensor

from ggmi_callbacks.verification.gaussian import GaussianWorld, gaussian_protocol
from ggmi_callbacks.verification.parallel import in_parallel
from ggmi_callbacks.verification.protocol import mixture_protocol

PANELS = ("K", "J", "L", "K, anchors fixed")
GAUSSIAN = "Gaussian"
_BASE = 2  # the value of the numbers that a panel holds
_COLUMNS = ("mean", "std", "standard_error", "median", "q10", "q90", "monte_carlo_error")


@dataclass(frozen=True)
class Design:
    """Size of a verification; the defaults are the paper's, which has d = 2.

    Attributes:
        values: what K, J and L run over.
        repeats: repetitions of each setting.
        seed: the results are a function of it.
        d: dimension.
        anchors_per_component: anchors of each of the K components.
        n_synthetic: synthetic samples.
        draws: Monte Carlo draws from each mixture.
        device: where to compute.
    """

    values: Sequence[int] = tuple(range(2, 16))
    repeats: int = 100
    seed: int = 0
    d: int = 2
    anchors_per_component: int = 50
    n_synthetic: int = 200
    draws: int = 2000
    device: str = "cpu"


@dataclass(frozen=True)
class Point:
    """One setting of one panel, with every quantity [repeats] that the experiment measured there."""

    panel: str
    value: int
    sizes: dict[str, float]
    result: dict[str, Tensor]


def sweep(design: Design, *, progress: bool = True) -> list[Point]:
    """Run every setting of every panel; settings run in parallel on a CPU, each on one thread.

    Example:
        >>> small = Design(values=(2, 3), repeats=2, anchors_per_component=20, n_synthetic=60, draws=100)
        >>> [(point.panel, point.value) for point in sweep(small, progress=False)][:3]
        [('K', 2), ('K', 3), ('J', 2)]
    """
    jobs = [(design, panel, value) for panel in PANELS for value in design.values]
    return in_parallel(_run, jobs, design.device, "settings" if progress else None)


def _run(job: tuple[Design, str, int]) -> Point:
    design, panel, value = job
    counts = dict.fromkeys("KJL", _BASE) | {panel[0]: value}
    fixed = panel == PANELS[-1]
    sizes = {
        **counts,
        "d": design.d,
        "n_anchor": design.n_synthetic if fixed else design.anchors_per_component * counts["K"],
        "n_synthetic": design.n_synthetic,
        "repeats": design.repeats,
    }
    stream = _stream(design.seed, PANELS.index(panel), value)
    result = mixture_protocol(**sizes, seed=stream, draws=design.draws, device=design.device)
    return Point(panel, value, {**sizes}, {name: x.cpu() for name, x in result.items()})


def gaussian_worlds(design: Design) -> list[Point]:
    """The closed-form companion: one Gaussian in place of each mixture, over shares, variances and sizes."""

    def run(job: tuple[int, tuple[float, float, int]]) -> Point:
        i, (c, g2, n_g) = job
        world = GaussianWorld(c=c, n_a=20, n_g=n_g, g2=g2, d=design.d)
        result = gaussian_protocol(world, design.repeats, _stream(design.seed, len(PANELS), i))
        sizes = {"d": design.d, "n_anchor": 20, "n_synthetic": n_g, "repeats": design.repeats, "c": c, "g2": g2}
        return Point(GAUSSIAN, i, sizes, result)

    return in_parallel(run, list(enumerate(product((0.0, 0.5, 1.0), (0.25, 1.0, 4.0), (20, 60, 200)))), "cpu")


def _stream(seed: int, panel: int, value: int) -> int:
    """A seed for each setting, whatever else the sweep holds."""
    return ((seed * 8 + panel) << 16) + value


def summarise(x: Tensor, error: Tensor | None = None) -> dict[str, float]:
    """Mean, spread and quantiles over the repeats in which x is defined; ``error`` is its Monte Carlo error."""
    x = x.reshape(-1)  # closed forms are 0-dim
    x = x[~x.isnan()].double()
    if len(x) == 0:
        return dict.fromkeys(_COLUMNS, float("nan"))
    std = x.std() if len(x) > 1 else x.new_tensor(float("nan"))
    q10, median, q90 = x.quantile(x.new_tensor([0.1, 0.5, 0.9]))
    monte_carlo = float("nan") if error is None else float(error.square().mean().sqrt())
    numbers = (x.mean(), std, std / len(x) ** 0.5, median, q10, q90)
    return dict(zip(_COLUMNS, (*map(float, numbers), monte_carlo), strict=True))


def write_csv(points: Sequence[Point], path: Path) -> None:
    """One row for each setting and quantity; all values are in nats except ``a``."""
    sizes = dict.fromkeys(name for point in points for name in point.sizes)
    head = ["panel", "value", *sizes, "quantity", *_COLUMNS]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, head, lineterminator="\n")
        writer.writeheader()
        for point in points:
            for name, x in point.result.items():
                if not name.endswith("_error"):
                    row = summarise(x, point.result.get(f"{name}_error"))
                    setting = {"panel": point.panel, "value": point.value, **point.sizes, "quantity": name}
                    writer.writerow(setting | {key: f"{number:.6g}" for key, number in row.items()})
