"""Which scorer a run has if none is named."""

from __future__ import annotations

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.policies import Filter, Policy, Reweight
from ggmi_callbacks.scorers import AgreementScorer, JointScorer, LikelihoodScorer, Scorer


def default_scorer(
    policy: Policy, data: SampleData | None, likelihood: type[LikelihoodScorer] = LikelihoodScorer
) -> Scorer:
    """Likelihood gain; with agreement, where the data has it and ``policy`` acts without reading a unit.

    Likelihood gain sees text of another kind and no wrong answer, agreement the reverse. Together they are in spreads,
    so a policy that reads nats (a threshold other than zero, a policy of the user's own) has likelihood gain alone, and
    so has Monitor, whose numbers then compare between all runs.

    Args:
        policy: of the run.
        data: the training set, if it is known by id; its prompts are read if ``policy`` acts.
        likelihood: which likelihood gain.

    """
    reads_no_unit = isinstance(policy, Reweight) or (isinstance(policy, Filter) and not policy.threshold)
    if reads_no_unit and data is not None and data.has_siblings:
        return JointScorer([likelihood(), AgreementScorer()], zero="own")
    return likelihood()
