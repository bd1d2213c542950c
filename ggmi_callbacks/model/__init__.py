"""Reading a model that somebody else trains, without leaving a trace."""

from ggmi_callbacks.model.probe import Parameters, Probe, SharedBatch
from ggmi_callbacks.model.rng import preserved_rng
from ggmi_callbacks.model.shadow import Shadow, train_shadow
from ggmi_callbacks.model.trunk import blocks, shared_trunk

__all__ = ["Parameters", "Probe", "Shadow", "SharedBatch", "blocks", "preserved_rng", "shared_trunk", "train_shadow"]
