"""GGMI for the trainers of TRL.

trainer = SFTTrainer(model, args=SFTConfig(...), train_dataset=synthetic)
trainer.add_callback(GGMICallback(trainer, anchors=human, policy=Filter(), source="source"))
trainer.train()
"""

try:
    import trl  # noqa: F401
except ImportError as error:  # pragma: no cover - exercised in a bare environment
    raise ImportError("`ggmi_callbacks.integrations.trl` needs TRL: pip install 'ggmi-callbacks[trl]'") from error

from ggmi_callbacks.integrations._preference import DPOCallback, RewardCallback
from ggmi_callbacks.integrations._rollout import GRPOCallback, RLOOCallback
from ggmi_callbacks.integrations._sft import SFTCallback
from ggmi_callbacks.integrations._trl import GGMICallback

__all__ = ["DPOCallback", "GGMICallback", "GRPOCallback", "RLOOCallback", "RewardCallback", "SFTCallback"]
