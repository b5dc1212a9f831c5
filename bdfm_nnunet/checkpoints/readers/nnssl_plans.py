"""nnssl's description of a pre-training, turned into plans as nnU-Net has them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.adaptation_plan import ADAPTATION_PLAN
from bdfm_nnunet.checkpoints.readers.primus_tokens import heads_of, is_primus, primus_kwargs, token_grid
from bdfm_nnunet.checkpoints.readers.reader import ExpectedImages
from bdfm_nnunet.checkpoints.readers.source_network import SourceNetwork, TokenOrder, described_network
from bdfm_nnunet.json_shapes import fault_of

_UNETS = "dynamic_network_architectures.architectures.unet."
_PRIMUS = "bdfm_nnunet.networks.primus.PrimusNet"
_IMPORTED = ["conv_op", "norm_op", "dropout_op", "nonlin"]
_RESENC_L: dict[str, Any] = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1], *[[2, 2, 2]] * 5],
    "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
    "n_conv_per_stage_decoder": [1] * 5,
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
PRESETS = ("ResEncL", "NoSkipResEncL")
"""Names that stand for a ResEnc-L at 1 mm; "NoSkip" is said of the decoder."""

_ARCHITECTURE = {"arch_class_name": str, "arch_kwargs?": ({str: object}, None)}
_CONFIGURATIONS = {"configurations": {str: {str: object}}}
_SIZES, _NUMBERS = [int], [float]
_USUAL_NORMALISATION = ("ZScoreNormalization",)


@dataclass(frozen=True)
class NnsslPlans:
    """What a file of nnssl tells of network and images; entries of an odd kind count as missing.

    Attributes:
        architecture: nnssl's `architecture_plans`.
        pretraining: the configuration of the pre-training.
        beside: the rest of nnssl's plans.
        patch_size: voxels per axis of the crops.
        recommended: voxels per axis that its authors recommend for other tasks.
        channels: channels of the images.
        prefix: what stands in front of the names of the network.

    Example:
        >>> content = {"nnssl_adaptation_plan": {"architecture_plans": {"arch_class_name": "ResEncL"},
        ...     "pretrain_plan": {"configurations": {"onemmiso": {"spacing": [1, 1, 1], "patch_size": [160] * 3}}}}}
        >>> plans = NnsslPlans.of(content)
        >>> plans.patch_size, plans.images.spacing
        ((160, 160, 160), (1.0, 1.0, 1.0))
        >>> plans.network({}, None).class_name
        'dynamic_network_architectures.architectures.unet.ResidualEncoderUNet'
    """

    architecture: Mapping[str, Any] = field(default_factory=dict)
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Any] = field(default_factory=dict)
    patch_size: tuple[int, ...] | None = None
    recommended: tuple[int, ...] | None = None
    channels: int | None = None
    prefix: str = ""

    configuration = "3d_fullres"
    """Name of the configuration in the plans that are made of it."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "NnsslPlans":
        """Return what the entries of a file tell."""
        entry = _table(content.get(ADAPTATION_PLAN))
        arguments = _table(content.get("init_args"))
        plan = _table(entry.get("pretrain_plan")) or _table(arguments.get("plan"))
        chosen = _chosen(plan, arguments.get("configuration_name"))
        architecture = _table(entry.get("architecture_plans"))
        sizes: tuple[Any, ...] = (entry.get("pretrain_patch_size"), chosen.get("patch_size"))
        channels = entry.get("pretrain_num_input_channels")
        return cls(
            architecture={} if fault_of(architecture, _ARCHITECTURE) else architecture,
            pretraining=chosen,
            beside={key: value for key, value in plan.items() if key != "configurations"},
            patch_size=next((tuple(size) for size in sizes if _is_size(size)), None),
            recommended=_size(entry.get("recommended_downstream_patchsize")),
            channels=None if fault_of(channels, int) else channels,
            prefix=_prefix(entry.get("key_to_encoder")),
        )

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.beside.get("dataset_name", ""))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what differs from the network that is planned for these weights."""
        name = self.architecture.get("arch_class_name")
        return ("its decoder has no skip connections, ours has",) if name == "NoSkipResEncL" else ()

    @property
    def images(self) -> ExpectedImages | None:
        """The images of the pre-training; None where the file does not tell their spacing, or that it varied."""
        axes: Any = self.beside.get("transpose_forward", [0, 1, 2])
        spacing: Any = self.pretraining.get("spacing")
        if fault_of(axes, _SIZES) or sorted(axes) != list(range(len(axes))):
            return None
        schemes = self._normalisation()
        if "spacing" in self.pretraining and spacing in (None, [None] * len(axes)):
            patch = self.recommended or self.patch_size or ()
            return ExpectedImages(
                axes=tuple(axes), normalisation=schemes, masked=self._masked(len(schemes)), patch=patch
            )
        if fault_of(spacing, _NUMBERS) or len(spacing) != len(axes):
            return None
        return ExpectedImages(
            axes=tuple(axes),
            normalisation=schemes,
            masked=self._masked(len(schemes)),
            spacing=tuple(float(spacing[list(axes).index(axis)]) for axis in range(len(axes))),
        )

    def _normalisation(self) -> tuple[str, ...]:
        schemes = self.pretraining.get("normalization_schemes")
        return _USUAL_NORMALISATION if not schemes or fault_of(schemes, [str]) else tuple(schemes)

    def _masked(self, channels: int) -> tuple[bool | None, ...]:
        masked: Any = self.pretraining.get("use_mask_for_norm")
        if not fault_of(masked, [(bool, None)]) and len(masked) == channels:
            return tuple(masked)
        return (bool(masked),) * channels if isinstance(masked, bool) else (False,) * channels

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Arguments of the network; empty where the file tells none."""
        return _table(self.architecture.get("arch_kwargs"))

    def network(self, weights: Mapping[str, Tensor], token_order: TokenOrder | None) -> SourceNetwork:
        """Return the network as far as it is known.

        Args:
            weights: under our names.
            token_order: of a Primus.
        """
        known: dict[str, Any] = {"labels": False, "input_channels": self.channels, "token_order": token_order}
        if is_primus(weights):
            known |= {"norm": "layer", "activation": "SiLU"}
        return described_network({"architecture": self._described(weights)}, **known)

    def _described(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the "architecture" entry of nnU-Net's plans; empty where the network is not known."""
        name, kwargs = self.architecture.get("arch_class_name"), self.architecture.get("arch_kwargs")
        if is_primus(weights):
            return self._described_primus(weights)
        if name in PRESETS or (name is None and _is_resenc_l(weights)):
            name, kwargs = "ResidualEncoderUNet", dict(_RESENC_L)
        if name is None or kwargs is None:
            return {}
        imported: Any = self.architecture.get("arch_kwargs_requiring_import")
        if fault_of(imported, [str]):
            imported = [key for key in _IMPORTED if key in kwargs]
        return {
            "network_class_name": name if "." in name else f"{_UNETS}{name}",
            "arch_kwargs": dict(kwargs),
            "_kw_requires_import": [key for key in imported if key in kwargs],
        }

    def _described_primus(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        grid, heads = token_grid(weights, self.patch_size), heads_of(weights, self.arguments)
        if grid is None or heads is None:
            return {}
        try:
            kwargs = primus_kwargs(weights, grid, heads)
        except (KeyError, IndexError, TypeError, ValueError):  # parts of it are missing
            return {}
        return {"network_class_name": _PRIMUS, "arch_kwargs": kwargs, "_kw_requires_import": []}

    def as_nnunet(self, weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Return plans as nnU-Net has them, with one configuration; None where network or images are not known.

        Args:
            weights: under our names.
        """
        architecture, images = self._described(weights), self.images
        patch = _input_shape(architecture) or self.recommended or self.patch_size
        if not architecture or images is None or not images.spacing or patch is None:
            return None
        backward = [images.axes.index(axis) for axis in range(len(images.axes))]
        return {
            "dataset_name": "unknown",
            "plans_name": "nnsslPlans",
            "transpose_forward": list(images.axes),
            "transpose_backward": backward,
            "configurations": {
                self.configuration: {
                    "data_identifier": "nnsslPlans_3d_fullres",
                    "preprocessor_name": "DefaultPreprocessor",
                    "batch_size": 2,
                    "patch_size": list(patch),
                    "spacing": [images.spacing[axis] for axis in images.axes],
                    "normalization_schemes": list(images.normalisation),
                    "use_mask_for_norm": list(images.masked),
                    "resampling_fn_data": "resample_data_or_seg_to_shape",
                    "resampling_fn_seg": "resample_data_or_seg_to_shape",
                    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                    "resampling_fn_data_kwargs": _resampling(order=3),
                    "resampling_fn_seg_kwargs": _resampling(is_seg=True),
                    "resampling_fn_probabilities_kwargs": _resampling(),
                    "architecture": architecture,
                }
            },
        }


def _is_resenc_l(weights: Mapping[str, Tensor]) -> bool:
    """Whether blocks and channels are those of the only network that nnssl's trainers build without saying so."""
    for stage, (blocks, features) in enumerate(zip(_RESENC_L["n_blocks_per_stage"], _RESENC_L["features_per_stage"])):
        inside = [name for name in weights if name.startswith(f"encoder.stages.{stage}.blocks.")]
        kernel = weights.get(f"encoder.stages.{stage}.blocks.0.conv1.conv.weight")
        if len({name.split(".")[4] for name in inside}) != blocks or kernel is None or len(kernel) != features:
            return False
    return not any(name.startswith("encoder.stages.6.") for name in weights)


def _resampling(*, is_seg: bool = False, order: int = 1) -> dict[str, Any]:
    return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}


def _input_shape(architecture: Mapping[str, Any]) -> list[int] | None:
    return _table(architecture.get("arch_kwargs")).get("input_shape")


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) and all(isinstance(key, str) for key in value) else {}


def _prefix(key: Any) -> str:
    """Return what is in front of our names, by the key that leads to the encoder."""
    found = re.fullmatch(r"(.*?)(encoder\.stages|(encoder\.)?eva)", key) if isinstance(key, str) else None
    return found[1] if found else ""


def _chosen(plan: Mapping[str, Any], name: Any) -> Mapping[str, Any]:
    """Return the configuration that was trained: the named one, or the first."""
    if fault_of(plan, _CONFIGURATIONS):
        return {}
    configurations = plan["configurations"]
    return _table(configurations.get(name) if isinstance(name, str) else None) or _table(
        next(iter(configurations.values()), None)
    )


def _is_size(value: Any) -> bool:
    return not fault_of(value, _SIZES) and len(value) == 3 and min(value) > 0 and math.prod(value) < 2**40


def _size(value: Any) -> tuple[int, ...] | None:
    return tuple(value) if _is_size(value) else None
