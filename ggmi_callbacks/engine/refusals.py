"""Where a policy has nothing to act on: said, and never acted upon in silence."""

from __future__ import annotations

import warnings

from torch import Tensor

from ggmi_callbacks.engine.schedule import Schedule
from ggmi_callbacks.engine.tally import Tally
from ggmi_callbacks.model import Shadow
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.scorers import Scorer, Unscored
from ggmi_callbacks.tasks import SAMPLE_KEY

MANY = 64
"""Samples that were scored and gave no gain before an acting policy is refused: as many as are always scored."""


def check_shadow(shadow: Shadow, scorer: Scorer, policy: Policy) -> None:
    """Warn if the anchors taught the shadow nothing beyond chance; raise where a policy would act on such gains.

    Raises:
        ValueError: with the way out.

    """
    if shadow.improved or not scorer.needs_shadow:
        return
    problem = (
        f"the shadow run on the anchors did not shorten the held-out ones ({shadow.heldout_nll[0]:.2f} nats before, at "
        f"best {min(shadow.heldout_nll[1:]):.2f} after, learning rates {min(shadow.rates):.1e} to "
        f"{max(shadow.rates):.1e}) by more than chance would on {shadow.heldout_lengths.shape[1]} of them: they hold "
        "nothing that the model does not know, or are too few (128 are usual)"
    )
    if policy.acts:
        raise ValueError(
            f"{problem}, so {type(policy).__name__} has no gain to act on. Give more anchors, another "
            "`shadow_learning_rate` or more `shadow_epochs`, or score with `GradientScorer`."
        )
    warnings.warn(f"{problem}; gains against the shadow are noise.", stacklevel=4)


def refuse_without_anchors(scorer: Scorer, policy: Policy) -> None:
    """Raise where there are no anchors, and ``scorer`` or ``policy`` needs what only they can tell.

    Raises:
        ValueError: with the ways out.

    """
    if policy.acts and isinstance(scorer, Unscored):
        raise ValueError(
            f"`anchors` are missing: {type(policy).__name__} acts on gains, and without anchors there are none. Give "
            "`anchors`, or a scorer that reads the training set, as `scorer=ColumnScorer('reward')` or "
            "`AgreementScorer()`; without a policy losses by source are logged."
        )
    if scorer.needs_anchors:
        raise ValueError(
            f"`anchors` are missing: {type(scorer).__name__} compares samples with them. Give `anchors`, or a scorer "
            "that reads the training set, as `scorer=ColumnScorer('reward')` or `AgreementScorer()`."
        )


def refuse_stream(scorer: Scorer, policy: Policy) -> None:
    """Raise where a policy must know every gain, and ``scorer`` finds them as the samples come.

    Raises:
        ValueError: with the ways out.

    """
    if (why := policy.needs_all) is not None:
        raise ValueError(
            f"{policy!r}: {why}, and {type(scorer).__name__} finds their scores as they come. Use a score that the "
            "data bring (`AgreementScorer`, `ColumnScorer`), or one that never changes together with batches that are "
            "refilled (`Refill`; in SFTTrainer and Trainer one process and unpacked rows), which are scored first."
        )


def check_coverage(schedule: Schedule, recorder: Tally, scorer: Scorer, policy: Policy) -> None:
    """Raise if an acting policy got no gain of any sample, and so keeps everything.

    Raises:
        ValueError: with the usual causes.

    """
    if policy.acts and schedule.scored >= MANY and not recorder.found_gain:
        raise ValueError(
            f"{type(scorer).__name__} gave no gain for any of {schedule.scored} samples, so {policy!r} keeps "
            "everything. They have too few targets for it (`stride`), or lack what it reads (prompts, a column)."
        )


def check_known(gain: Tensor, scorer: Scorer, policy: Policy) -> None:
    """Raise or warn where all that can be known of ``gain`` [N] is known, and an acting policy has little to act on."""
    share = float((~gain.isnan()).float().mean())
    what = f"{type(scorer).__name__} knows a score of {share:.0%} of {len(gain)} samples"
    if policy.acts and share == 0:
        raise ValueError(f"{what}, so {policy!r} keeps everything: look at the columns that it reads.")
    if policy.acts and share < 0.5:
        warnings.warn(f"{what}; {policy!r} keeps the others as they are.", stacklevel=3)


def check_ids(outside: bool, held_out: bool, num_samples: int | None) -> None:
    """Raise if a batch held ids that are no positions in the training set, or are those of samples held out."""
    if outside:
        raise ValueError(
            f"{SAMPLE_KEY!r} held ids outside [0, {num_samples}), the number of `sources` or `num_samples`: ids must "
            "be positions in the training set."
        )
    if held_out:
        raise ValueError(
            "a batch held samples that are held out, by their ids: `heldout` must be samples that are never trained "
            "on, with ids that no other sample has."
        )
