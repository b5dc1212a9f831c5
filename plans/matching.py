"""Plans that match a pre-trained checkpoint: its network and patch size, its spacing and normalisation."""

from typing import Any

import numpy as np

from bdfm_nnunet.plans.like_checkpoint import LikeCheckpoint
from bdfm_nnunet.plans.likeness import Likeness
from bdfm_nnunet.plans.memory_targets import configuration_costs, largest_batch
from bdfm_nnunet.plans.planners import FixedDataPlanner
from bdfm_nnunet.plans.pretrained_plans import PretrainedPlans
from bdfm_nnunet.plans.swin_planner import MIN_BATCH_SIZE


class MatchingPlanner(LikeCheckpoint, FixedDataPlanner):
    """A planner that takes the network of a checkpoint for another data set; the batch follows the memory target."""

    def __init__(self, *args: Any, source: PretrainedPlans, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.source = source
        self.likeness = Likeness(path=source.path, images=source.images, patch=None, spacing="like_pretrained")

    def choose_network(self, spacing: list[float], median_shape: list[float], voxels: float) -> dict[str, Any]:
        """Choose patch size, batch size and architecture."""
        source = self.source.configuration
        chosen = {key: value for key, value in source.items() if key.startswith("resampling_fn")}
        chosen |= {"patch_size": list(source["patch_size"]), "architecture": source["architecture"]}
        costs = configuration_costs(chosen, channels=self.input_channels, classes=self.output_channels)
        covered = int(voxels * self.max_dataset_covered / np.prod(source["patch_size"]))
        batch_size = max(min(largest_batch(costs, self.UNet_vram_target_GB), covered), MIN_BATCH_SIZE)
        finetuning = {"weights": str(self.source.path), "weights_sha256": self.source.sha256, **self.source.reading}
        return chosen | {"batch_size": batch_size, "finetuning": finetuning}
