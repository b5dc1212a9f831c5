"""Planners for nnU-Net's two convolutional networks, and what all our planners have in common."""

from pathlib import Path
from typing import Any

import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
)
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_files import channels_of
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.plans.memory_targets import configuration_costs
from bdfm_nnunet.plans.plans_lookup import CONFIGURATION
from bdfm_nnunet.plans.plans_writing import note_costs, write_plans

SHARED_DATA = "nnUNetPlans_"  # nnU-Net's own name for data with the spacing and normalisation it would choose


class OurPlanner(ExperimentPlanner):
    """An nnU-Net planner that writes atomically, keeps variants up to date and notes the counted costs.

    Preprocessing is the same as nnU-Net's default, so the data is shared with its plans (`nnUNetPlans_3d_fullres`).
    """

    @property
    def input_channels(self) -> int:
        """Channels of the data set's images."""
        return len(channels_of(self.dataset_json))

    @property
    def output_channels(self) -> int:
        """Channels of the network's output: classes with background, or regions."""
        manager = LabelManager(self.dataset_json["labels"], self.dataset_json.get("regions_class_order"))
        return int(manager.num_segmentation_heads)

    @staticmethod
    def static_estimate_VRAM_usage(
        patch_size: Any,
        input_channels: int,
        output_channels: int,
        class_name: str,
        kwargs: dict[str, Any],
        imported: Any,
    ) -> float:
        """Return nnU-Net's estimate, from a network on the meta device.

        nnU-Net fills the network with random weights first, and fails where nnUNet_n_proc_DA is 0.
        """
        with torch.device("meta"):
            network = get_network_from_plans(
                class_name, kwargs, imported, input_channels, output_channels, allow_init=False
            )
        return float(network.compute_conv_feature_map_size(patch_size))

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Return the folder of preprocessed data: shared where the data does not depend on the network."""
        shared = configuration_name in ("2d", CONFIGURATION)
        return (SHARED_DATA if shared else f"{self.plans_identifier}_") + configuration_name

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write the plans with their costs, and with the variants of a plans file of the same name."""
        recursive_fix_for_json_export(plans)
        if CONFIGURATION not in plans["configurations"]:
            raise InputError(f"{self.dataset_name} holds flat images: bdfm plans data sets of 3-D volumes only")
        self._note_costs(plans["configurations"][CONFIGURATION])
        path = nnunet_folder("nnUNet_preprocessed") / self.dataset_name / f"{self.plans_identifier}.json"
        write_plans(Path(path), plans)

    def _note_costs(self, configuration: dict[str, Any]) -> None:
        costs = configuration_costs(
            configuration, channels=self.input_channels, classes=self.output_channels, flops=True
        )
        note_costs(configuration, costs, self.UNet_vram_target_GB)


class PlainUNetPlanner(OurPlanner):
    """nnU-Net's default network (PlainConvUNet) as nnU-Net plans it."""


class ResidualUNetPlanner(OurPlanner, ResEncUNetPlanner):
    """nnU-Net's residual encoder network as nnU-Net plans it, scaled to the memory target."""


class FixedDataPlanner(OurPlanner):
    """Base of planners that choose the network of 3d_fullres themselves and leave the rest to nnU-Net.

    Only 3d_fullres is planned.
    """

    lowres_creation_threshold: float

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.lowres_creation_threshold = 0.0

    @staticmethod
    def static_estimate_VRAM_usage(*_: Any) -> float:
        """Return nothing: nnU-Net's convolutional network is only planned for the sake of the other entries."""
        return 1.0

    def get_plans_for_configuration(self, spacing: Any, median_shape: Any, *args: Any) -> dict[str, Any]:
        """Plan one configuration; see nnU-Net."""
        plan: dict[str, Any] = super().get_plans_for_configuration(spacing, median_shape, *args)
        if len(spacing) == 3:
            voxels = float(args[1])
            plan.update(self.choose_network([float(s) for s in spacing], [float(s) for s in median_shape], voxels))
        return plan

    def choose_network(self, spacing: list[float], median_shape: list[float], voxels: float) -> dict[str, Any]:
        """Choose patch size, batch size and architecture.

        Args:
            spacing: millimetres per voxel and axis, transposed as the plans say.
            median_shape: voxels per axis of the median image at that spacing.
            voxels: of all training images together.
        """
        raise NotImplementedError

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write the plans without nnU-Net's 2-D configuration."""
        plans["configurations"].pop("2d", None)
        super().save_plans(plans)
