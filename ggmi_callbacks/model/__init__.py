"""Reading a model that somebody else trains, without leaving a trace."""

from ggmi_callbacks.model.cross_fit import CrossFit, cross_fit
from ggmi_callbacks.model.probe import Parameters, Probe, SharedBatch
from ggmi_callbacks.model.rng import preserved_rng
from ggmi_callbacks.model.shadow import Shadow, train_shadow
from ggmi_callbacks.model.trunk import blocks, shared_trunk

__all__ = [
    "CrossFit",
    "Parameters",
    "Probe",
    "Shadow",
    "SharedBatch",
    "blocks",
    "cross_fit",
    "preserved_rng",
    "shared_trunk",
    "train_shadow",
]
