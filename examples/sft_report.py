"""What a run has shown, as a table, as numbers and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

_NORMAL_95 = 1.96


@dataclass
class Run:
    """One fine-tuning.

    Attributes:
        policy: what it did to the data.
        ledger: one row a sample, with a column ``right`` if labels are known.
        results: the callback's last numbers.
        history: everything logged.
        before: code length [n] of each held-out sample before training, nats.
        after: the same after it.
        tokens: their targets, [n].
        seconds: wall-clock time of training, shadow included.
        accuracy: share of held-out questions answered rightly, if there is a checker.

    """

    policy: str
    ledger: pd.DataFrame | None
    results: dict[str, Any]
    history: list[dict[str, float]]
    before: np.ndarray
    after: np.ndarray
    tokens: np.ndarray
    seconds: float
    accuracy: float | None = None

    def kept(self, n: int) -> np.ndarray:
        """Which of ``n`` samples were trained on, bool [n]."""
        out = np.zeros(n, dtype=bool)
        assert self.ledger is not None
        out[self.ledger.id[self.ledger.kept]] = True
        return out

    def summary(self) -> dict[str, Any]:
        """What a comparison over seeds needs."""
        nats = self.after.sum() / self.tokens.sum()
        return {"run": self.policy, "accuracy": self.accuracy, "nats": float(nats), "seconds": self.seconds}


def describe(runs: list[Run], others: list[Run]) -> str:
    """Return the report as text; the last of ``runs`` is the one with the policy, ``others`` are for comparison."""
    run = runs[-1]
    parts = [
        shadow_line(run.results["shadow"]["heldout_nll"]),
        "",
        f"Gain per source, {run.results['gain_unit']}, 95 % interval ({run.policy})",
        source_table(run.ledger),
        *separation(run.ledger),
        "",
        f"Loss on {len(run.tokens)} held-out real samples, nats per token",
        heldout_table(runs, others),
        "",
        f"GGMI = I(S_anchor; W') - I(S_gen; W), nats ({run.results['estimators']['ggmi']}),",
        "and the generalisation gaps that it follows, nats per token",
        ggmi_table(runs),
    ]
    return "\n".join(parts)


def shadow_line(heldout: list[float]) -> str:
    """Say whether the anchors taught the shadow anything; if not, no gain means anything."""
    text = f"Shadow: anchors held out from it went from {heldout[0]:.2f} to {min(heldout):.2f} nats each"
    if min(heldout) < heldout[0]:
        return f"{text} in {len(heldout) - 1} epochs."
    return f"{text}: it learnt nothing, so every gain is zero. Lower --shadow-learning-rate or give more anchors."


def source_table(ledger: pd.DataFrame) -> str:
    """Return samples, share that is right, mean gain with its interval and share kept, per source."""
    groups = [*ledger.groupby("source", sort=True), ("all", ledger)]
    rows = []
    for name, group in groups:
        row = {"source": name, "samples": len(group)}
        if "right" in group:
            row |= {"right": _percent(group.right)}
        row |= {"gain": _interval(group.gain), "kept": _percent(group.kept)}
        if "right" in group and not group.kept.all():
            row |= {
                "right among kept": _percent(group.right[group.kept]),
                "among dropped": _percent(group.right[~group.kept]),
            }
        rows.append(row)
    return _table(pd.DataFrame(rows))


def separation(ledger: pd.DataFrame) -> list[str]:
    """Say how well gain tells right from wrong, over all and within sources."""
    if "right" not in ledger:
        return []
    scored = ledger.dropna(subset="gain")
    inside = [a for _, group in scored.groupby("source") if (a := _auroc(group)) is not None]
    overall = _auroc(scored)
    if overall is None:
        return ["All samples are right, or all are wrong."]
    within = f", {np.mean(inside):.2f} within a source" if inside else ""
    return [f"Gain tells right from wrong with an AUROC of {overall:.2f}{within} (0.50 is chance)."]


def heldout_table(runs: list[Run], others: list[Run]) -> str:
    """Return what each run came to, and how far the loss of the last of ``runs`` is from the first's, by sample."""
    first, last = runs[0], runs[-1]
    rows = [{"": "before training", "nats/token": f"{first.before.sum() / first.tokens.sum():.4f}", "seconds": ""}]
    for run in [*runs, *others]:
        loss = f"{run.after.sum() / run.tokens.sum():.4f}"
        right = {} if run.accuracy is None else {"right answers": f"{100 * run.accuracy:.1f} %"}
        rows.append({"": run.policy, "nats/token": loss, **right, "seconds": f"{run.seconds:.0f}"})
    if last is not first:
        change, error = _ratio(last.after - first.after, last.tokens)
        text = f"{change:+.4f} [{change - error:+.4f}, {change + error:+.4f}]"
        rows.append({"": "difference", "nats/token": text, "seconds": ""})
    return _table(pd.DataFrame(rows))


def ggmi_table(runs: list[Run]) -> str:
    """Return GGMI, its two terms and the information gain of each run."""
    names = {
        "I(S_anchor; W')": "anchor_information",
        "I(S_gen; W)": "synthetic_information",
        "GGMI": "ggmi",
        "GGMI per sample": "ggmi_per_sample",
        "GGMI per token": "ggmi_per_token",
        "generalisation gap": "generalization_gap",
        "gap of the anchors": "anchor_gap",
        "anchor advantage": "anchor_advantage",
        "information gain": "information_gain",
    }
    rows = []
    for label, key in names.items():
        cells = {run.policy: _number(run.results, key) for run in runs}
        if any(cells.values()):
            rows.append({"": label, **cells})
    return _table(pd.DataFrame(rows))


def draw(runs: list[Run], path: Path) -> None:
    """Draw the gains by source, and the held-out loss along training."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    _draw_gains(left, runs[-1].ledger.dropna(subset="gain"), runs[-1].results["gain_unit"])
    for run in runs:
        points = [(entry["step"], entry["eval_loss"]) for entry in run.history if "eval_loss" in entry]
        steps, losses = zip((0, run.before.sum() / run.tokens.sum()), *points, strict=True)
        right.plot(steps, losses, marker=".", label=run.policy)
    right.set(title="Held-out real samples along training", xlabel="step", ylabel="loss, nats per token", yscale="log")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_gains(axes: plt.Axes, ledger: pd.DataFrame, unit: str) -> None:
    """Gains as one violin a source, or as two halves, right and wrong, where labels are known."""
    if ledger.empty:
        axes.set(title="No sample has a gain")
        return
    groups = list(ledger.groupby("source", sort=True))
    halves: dict[str, tuple[bool | None, str, str]] = {"": (None, "both", "C0")}
    if "right" in ledger:
        halves = {"right": (True, "high", "C2"), "wrong": (False, "low", "C3")}
    for label, (value, side, colour) in halves.items():
        for place, (_, group) in enumerate(groups):
            gains = group.gain if value is None else group.gain[group.right == value]
            if len(gains) < 2 or gains.std() == 0:
                continue
            parts = axes.violinplot(gains, [place], side=side, widths=0.8, showextrema=False, showmedians=True)
            parts["bodies"][0].set(facecolor=colour, alpha=0.6)
            parts["cmedians"].set_color(colour)
        if label:
            axes.fill_between([], [], color=colour, alpha=0.6, label=label)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xticks(range(len(groups)), [name for name, _ in groups])
    low, high = np.quantile(ledger.gain, [0.005, 0.995])
    margin = 0.1 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.set(title="What a sample tells about the anchors", ylabel=f"gain, {unit}")
    if len(halves) > 1:
        axes.legend(frameon=False)


def _auroc(ledger: pd.DataFrame) -> float | None:
    return roc_auc_score(ledger.right, ledger.gain) if ledger.right.nunique() == 2 else None


def _ratio(total: np.ndarray, count: np.ndarray) -> tuple[float, float]:
    """Sum of ``total`` over sum of ``count``, and half its 95 % interval (delta method over samples)."""
    ratio = total.sum() / count.sum()
    return ratio, _NORMAL_95 * np.sqrt(((total - ratio * count) ** 2).sum()) / count.sum()


def _interval(gain: pd.Series) -> str:
    known = gain.dropna()
    mean, error = known.mean(), _NORMAL_95 * known.sem()
    share = "" if len(known) == len(gain) else f" ({len(known)} scored)"
    return f"{mean:+.2f} [{mean - error:+.2f}, {mean + error:+.2f}]{share}"


def _number(results: dict[str, Any], key: str) -> str:
    value = results.get(f"ggmi/{key}")
    if value is None:
        return ""
    low, high = results.get(f"ggmi/{key}_low"), results.get(f"ggmi/{key}_high")
    return f"{value:.4g}" if low is None else f"{value:.4g} [{low:.4g}, {high:.4g}]"


def _percent(share: pd.Series) -> str:
    return f"{100 * share.mean():.0f} %" if len(share) else "-"


def _table(frame: pd.DataFrame) -> str:
    return frame.fillna("").to_string(index=False)
