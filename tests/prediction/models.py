"""Untrained models as nnU-Net's predictors take them: a network, and plans of just the entries that are read."""

from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from bdfm_nnunet.prediction.predictor import Options, Predictor
from tests.networks.zoo import network

CPU = torch.device("cpu")
CLASSES = {"background": 0, "edema": 1, "core": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


def brain_like(channels: int, shape: tuple[int, ...] = (32, 24, 40), *, background: float = 0.0) -> Tensor:
    """A volume with noise in one corner, and nothing elsewhere."""
    volume = torch.full((channels, *shape), background)
    brain = volume[:, :14, 2:, 3:15]
    brain.copy_(torch.randn(brain.shape, generator=torch.Generator().manual_seed(3)))
    return volume


def weights_of(kind: str, channels: int, classes: int, seed: int) -> dict[str, Tensor]:
    """Random weights, those of the norms too: with biases of zero, a norm of nothing at all is rounding errors."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(kind, channels, classes)
        for module in model.modules():
            if isinstance(module, nn.InstanceNorm3d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    weights: dict[str, Tensor] = model.state_dict()
    return weights


def predictors(
    kind: str = "resenc",
    *,
    channels: int = 2,
    labels: dict[str, Any] = CLASSES,
    folds: int = 1,
    mirrored: tuple[int, ...] | None = None,
    options: Options | None = None,
    **settings: Any,
) -> tuple[nnUNetPredictor, Predictor]:
    """nnU-Net's predictor and ours of the same untrained model, patches of 16 x 16 x 16 voxels."""
    plans = {"configurations": {"3d_fullres": {"patch_size": [16, 16, 16], "architecture": {}}}}
    dataset = {"labels": labels, "channel_names": {str(n): "T1" for n in range(channels)}, "file_ending": ".nii.gz"}
    if labels is REGIONS:
        dataset["regions_class_order"] = [1, 2]
    manager = PlansManager(plans)
    classes = manager.get_label_manager(dataset).num_segmentation_heads
    weights = [weights_of(kind, channels, classes, seed) for seed in range(folds)]
    common = {"device": CPU, "use_mirroring": mirrored is not None, "allow_tqdm": False, **settings}
    made = nnUNetPredictor(**common), Predictor(options=options, **common)
    for predictor in made:
        configuration = manager.get_configuration("3d_fullres")
        model = network(kind, channels, classes)
        predictor.manual_initialization(model, manager, configuration, weights, dataset, "nnUNetTrainer", mirrored)
    return made
