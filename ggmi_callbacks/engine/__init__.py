"""One engine around one model; it knows tensors and modules, and no trainer."""

from ggmi_callbacks.engine.engine import GainEngine
from ggmi_callbacks.engine.ledger import Ledger
from ggmi_callbacks.engine.refill import Refill
from ggmi_callbacks.engine.sample_engine import SampleEngine
from ggmi_callbacks.engine.sampler import GainSampler
from ggmi_callbacks.engine.source_loss import SourceLoss

__all__ = ["GainEngine", "GainSampler", "Ledger", "Refill", "SampleEngine", "SourceLoss"]
