"""From gain to weight: what a sample's gain does to its part in the loss.

    Monitor     w = 1
    Filter      w = 1 if gain + margin x noise > threshold else 0;   threshold in nats, noise the gain's standard error,
                or w = 1 if gain is above a quantile of the gains seen so far, of all or of those in the same stratum
    Reweight    w = clip(r / mean r),   r = 2 sigmoid((gain - mean gain) / (temperature x std of gain)),
                gain the sample's own, or its source's mean gain, shrunk

Means, deviations and quantiles are *running* over the stream and over all ranks, never over the micro-batch, so a
micro-batch of one works and no sample's weight depends on its neighbours' alone. All state lives on the device; no
policy waits for it. A gain that is not finite means "not scored": it gives weight 1 and enters no statistic.
"""

from ggmi_callbacks.policies.base import Policy
from ggmi_callbacks.policies.check import check_policy
from ggmi_callbacks.policies.filter import Filter
from ggmi_callbacks.policies.monitor import Monitor
from ggmi_callbacks.policies.reweight import Reweight

__all__ = ["Filter", "Monitor", "Policy", "Reweight", "check_policy"]
