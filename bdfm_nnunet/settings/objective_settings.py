"""Settings of pre-training objectives."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.presets import PRESETS
from bdfm_nnunet.settings.crop_settings import CropSettings
from bdfm_nnunet.settings.sequence_settings import SequenceSettings
from bdfm_nnunet.settings.value_checks import at_least_zero, ordered, positive, share

DecoderKind = Literal["pyramid", "final", "network"]
MaskTokenMode = Literal["zero", "learned", "scalar_mean", "channel_mean", "image_mean"]


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings(CropSettings):
    """Masked image modelling. The defaults are BDFM with its faults corrected; `published()` is BDFM as coded.

    Attributes:
        mask_ratio: share of the blocks that are masked.
        encode: "all" replaces hidden tokens by the mask token and encodes everything; "visible" computes nothing for
            hidden blocks in the encoder, for a fraction of the time, and is another method: see docs/objectives.md.
        rebuild: with encode "visible", share of the hidden blocks that the finest part of the decoder rebuilds and the
            loss counts, drawn anew in each step; at least one block.
        patch_size: voxels per axis of the mask grid and of the patches of the frequency loss; by default the token
            patch of a transformer, and 4 (1 on axes that the network never halves) for convolutional encoders.
        block_size: patches per axis that are masked together; by default 1 for a transformer and 4 for a convolutional
            encoder, whose receptive field sees past small holes; with encode "visible" one position of the last stage.
        mask_token: replacement of a masked token (transformer) or masked voxel (convolutional encoder); with encode
            "visible" of what the decoder lacks, at each scale.
        decoder: "pyramid" joins the features of all stages; "final" is the published head, on the last stage only;
            "network" is the decoder of the planned network itself, with its stem, which finetuning.decoder "all" takes
            over. It costs more, and sees filled voxels at full resolution.
        decoder_channels: width of the pixel decoder, if it is not the network's own.
        stem: pre-train the full-resolution stem of a Swin U-Net too, its finest skip: it sees the image with masked
            voxels filled, and its features correct the pixel decoder's image. A published model has none.
        frequency_decoder: "parallel" has a separate output of the pixel decoder as input, "serial" (published) the
            reconstructed image; "loss_only" has none and scores the reconstructed image in frequency too; "none" has
            neither decoder nor loss in frequency (SimMIM).
        frequency_blocks: residual blocks of the frequency decoder.
        frequency_padding: padding of the spectrum: "circular", since a spectrum is periodic, or "zero" (published).
        frequency_output: image of the filtered spectrum: its "real" part or its "magnitude" (published).
        frequency_target: "raw" intensities or "patch_normalised" ones (zero mean, unit variance in each patch).
        frequency_norm: LayerNorm over each output patch; by default only with the patch-normalised target, since it
            makes the patch's mean and contrast unreachable.
        pixel_weight: weight of the masked squared error in the loss.
        frequency_weight: weight of the focal frequency loss.
        alpha: exponent of the focal weight.
        legacy_frequency_loss: use the published transform (over channel, depth and height, for patches masked anywhere
            in the batch).
    """

    mask_ratio: float = 0.75
    encode: Literal["all", "visible"] = "all"
    rebuild: float = 1.0
    patch_size: tuple[int, ...] | int | None = None
    block_size: tuple[int, ...] | int | None = None
    mask_token: MaskTokenMode = "channel_mean"
    decoder: DecoderKind = "pyramid"
    decoder_channels: int = 64
    stem: bool = False
    frequency_decoder: Literal["parallel", "serial", "loss_only", "none"] = "parallel"
    frequency_blocks: int = 8
    frequency_padding: Literal["circular", "zero"] = "circular"
    frequency_output: Literal["real", "magnitude"] = "real"
    frequency_target: Literal["raw", "patch_normalised"] = "raw"
    frequency_norm: bool | None = None
    pixel_weight: float = 1.0
    frequency_weight: float = 1.0
    alpha: float = 1.0
    legacy_frequency_loss: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "decoder_channels", "frequency_blocks", "patch_size", "block_size")
        at_least_zero(self, "pixel_weight", "frequency_weight", "alpha")
        if not 0 < self.mask_ratio < 1:
            raise InputError(f"mask_ratio is {self.mask_ratio}, expected a number between 0 and 1, both excluded")
        if not 0 < self.rebuild <= 1:
            raise InputError(f"rebuild is {self.rebuild}, expected a share above 0 and at most 1")
        if self.rebuild < 1 and self.encode != "visible":
            raise InputError(f"rebuild is {self.rebuild}, but encode=all rebuilds everything: choose encode=visible")
        if self.encode == "visible" and self.stem:
            raise InputError(
                "stem is true, but with encode=visible nothing is computed at hidden voxels, where the stem would be "
                "trained: choose encode=all, or leave stem out"
            )
        if self.encode == "visible" and self.decoder != "pyramid":
            raise InputError(
                f"decoder is {self.decoder}, which finds no features in hidden positions: choose decoder=pyramid for "
                "encode=visible"
            )

    @classmethod
    def published(cls, **changes: Any) -> "PretrainingSettings":
        """Return the settings of BDFM's public code; `changes` replace single settings.

        Example:
            >>> PretrainingSettings.published(mask_ratio=0.5).frequency_padding
            'zero'
        """
        return cls(**{**PRESETS["published"].settings, **changes})


@dataclass(frozen=True, kw_only=True)
class FrequencyCorruptionSettings(CropSettings):
    """Frepa: corrupt images in space or frequency, and rebuild them. The defaults correct its public code's faults.

    Attributes:
        image_branch: probability that an image's patches are replaced by noise; else its spectrum is corrupted.
        ratio: least and largest share of patches that hold foreground, or probability of frequencies, to corrupt.
        patch_size: voxels per axis of a patch; by default a sixteenth of the axis (published), at least 4.
        patch_fill: noise with the "histogram" of the patch, or with its "moments" (published).
        foreground: smallest standard deviation of a patch to corrupt, relative to the image's; 0 takes every patch.
        mask_form: mask single frequencies ("radial"), "patches" of the spectrum (published) or "none".
        mask_curve: probability over the frequency: "smooth", 1 - exp(-rho^2 / cut-off^2), or a "step" at the cut-off.
        mask_cutoff: in cycles/mm; by default 0.15 / largest spacing.
        spectral_patches: patches per axis of the spectrum, for "patches".
        spectral_fill: what masked frequencies become: "zero", "noise" with the power of their shell, "phase_only", or
            those of the "other_image" of the batch.
        low_strength: least and largest root mean square of the low-frequency perturbation, in standard deviations of
            the image; [0, 0] for none.
        low_width: of the perturbation's spectrum in cycles/mm; by default 0.1 / largest spacing.
        decoder: see `PretrainingSettings`.
        decoder_channels: width of the pixel decoder.
        loss_on: "everywhere" (published), or "masked": the replaced patches; after corrupted spectra everywhere.
        rmse_weight: weight of the root mean square error.
        gradient_weight: weight of the error of first differences per mm.
        high_frequency_weight: weight of the high-frequency loss.
        cutoffs: of the high-frequency loss in cycles/mm; by default 10 to 50 per 512 voxels of the smallest spacing.
        consistency: embeddings of two corruptions of an image that shall agree: "pooled" means, the positions of the
            "last_stage", or "both".
        consistency_weight: weight of 1 - cosine of the two embeddings; 0 makes one corruption per image only.
        stop_gradient: whether the second embedding is a constant target.
        adversarial: size of the step that makes each corruption harder along the gradient of the loss; 0 for none.
        collapse_below: spread of the embeddings (1 if they fill the sphere) under which the report warns of collapse.
        legacy_corruptions: corrupt as the public code does.
        legacy_losses: use the published forms: one RMSE over the batch, differences per voxel, the off-centre filter.
    """

    image_branch: float = 0.5
    ratio: tuple[float, ...] = (0.5, 0.75)
    patch_size: tuple[int, ...] | int | None = None
    patch_fill: Literal["histogram", "moments"] = "histogram"
    foreground: float = 0.1
    mask_form: Literal["radial", "patches", "none"] = "radial"
    mask_curve: Literal["smooth", "step"] = "smooth"
    mask_cutoff: float | None = None
    spectral_patches: int = 32
    spectral_fill: Literal["zero", "noise", "phase_only", "other_image"] = "zero"
    low_strength: tuple[float, ...] = (0.05, 0.2)
    low_width: float | None = None
    decoder: DecoderKind = "pyramid"
    decoder_channels: int = 64
    loss_on: Literal["everywhere", "masked"] = "everywhere"
    rmse_weight: float = 1.0
    gradient_weight: float = 1.0
    high_frequency_weight: float = 0.2
    cutoffs: tuple[float, ...] | None = None
    consistency: Literal["pooled", "last_stage", "both"] = "both"
    consistency_weight: float = 0.1
    stop_gradient: bool = False
    adversarial: float = 0.0
    collapse_below: float = 0.1
    legacy_corruptions: bool = False
    legacy_losses: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "patch_size", "mask_cutoff", "spectral_patches", "low_width", "decoder_channels", "cutoffs")
        at_least_zero(self, "foreground", "rmse_weight", "gradient_weight", "high_frequency_weight")
        at_least_zero(self, "consistency_weight", "collapse_below")
        share(self, "image_branch", "adversarial")
        ordered(self, "ratio", largest=1.0)
        ordered(self, "low_strength")
        if self.legacy_corruptions and self.adversarial:
            raise InputError("adversarial needs the corrected corruptions: set legacy_corruptions to false, or it to 0")
        if not self.rmse_weight + self.gradient_weight + self.high_frequency_weight:
            raise InputError("all losses of the reconstruction have weight 0: set rmse_weight, for instance, to 1")


@dataclass(frozen=True, kw_only=True)
class ContrastiveSettings(CropSettings):
    """Contrastive learning: two views of each crop, and a loss that finds the pairs. The defaults are SimCLR.

    Views are drawn with a probability per part; 0 switches a part off. In 4-D images all frames of a clip change alike,
    but for the noise.

    Attributes:
        second_clip: in 4-D images, where the second of the two clips comes from: the same "run" at another time, or
            another run of the "subject" on the same side of the split, where there is one.
        augmentation: of the loaded crop, before views are made of it; see `CropSettings`.
        crops: whether the two views show "two" boxes of the loaded crop, drawn apart, or "one" and the same.
        region: sides of the loaded crop, relative to those of the patch; above 1 boxes differ more.
        least_share: least share of the loaded crop's volume that a view shows; its sides have the patch's proportions.
        least_overlap: least volume that two boxes share, relative to the smaller one.
        p_flip: probability of reversing an axis, for each axis; none by default, as heads have an upper end, a
            front and two sides.
        p_rotation: probability of a rotation, about all axes.
        degrees: largest angle about an axis, in mm and not in voxels.
        p_scaling: probability of scaling a box, beyond the edge of the loaded crop if need be.
        scaling: least and largest factor of a box's sides; above 1 a view shows more.
        outside: value of places beyond the loaded crop: 0, or that at the nearest edge.
        p_bias: probability of a smooth multiplicative field.
        bias: largest standard deviation of its logarithm.
        p_gamma: probability of a power of the intensities, on the range of the foreground.
        gamma: least and largest exponent.
        p_contrast: probability of more or less contrast about the mean.
        contrast: largest strength, see `intensity_changes.contrast_changed`.
        p_blur: probability of a Gaussian filter.
        blur: least and largest standard deviation, in units of the finest spacing.
        p_low_resolution: probability of larger voxels.
        low_resolution: largest factor of a voxel's side, drawn for each axis.
        p_noise: probability of normal noise.
        noise: its largest standard deviation, relative to that of the view.
        standardise: whether each view ends with mean 0 and standard deviation 1 in the foreground. Images of different
            scanners differ in both, so these would tell pairs without any anatomy.
        legacy_views: make the views of 3D-Neuro-SimCLR in place of all this, see `objectives.legacy_views`.
        temperature: divisor of the cosines in the loss.
        standardise_embeddings: centre and scale each dimension of the embeddings over the whole batch, as the last
            batch norm of SimCLR's projector does, but without parameters.
        decoupled: leave the pair out of the denominator (Yeh et al. 2022, https://arxiv.org/abs/2110.06848).
        queue: embeddings of earlier steps that serve as further negatives.
        same_patient: other scans of one patient in a batch are "negative" ones, left out ("exclude"), or further
            "positive" ones. Crops of one scan are of one patient, too.
        hidden: width of the projector between its layers; by default that of the features.
        projection: width of the embeddings.
        joint_forward: encode both views of a batch at once, so that batch norm sees both; else one after the other, as
            the published code does.
        probe_neighbours: crops of other patients from which the foreground of a crop is told, to see what the
            features know; 0 for no probe.
    """

    second_clip: Literal["run", "subject"] = "run"
    augmentation: Literal["mirror", "none", "spatial"] = "none"
    crops: Literal["two", "one"] = "two"
    region: float = 1.0
    least_share: float = 0.5
    least_overlap: float = 0.5
    p_flip: float = 0.0
    p_rotation: float = 0.5
    degrees: float = 15.0
    p_scaling: float = 0.3
    scaling: tuple[float, ...] = (0.8, 1.25)
    outside: Literal["zero", "edge"] = "zero"
    p_bias: float = 0.5
    bias: float = 0.3
    p_gamma: float = 0.5
    gamma: tuple[float, ...] = (0.6, 1.7)
    p_contrast: float = 0.3
    contrast: float = 1.5
    p_blur: float = 0.2
    blur: tuple[float, ...] = (0.5, 1.0)
    p_low_resolution: float = 0.2
    low_resolution: float = 2.0
    p_noise: float = 0.3
    noise: float = 0.2
    standardise: bool = True
    legacy_views: bool = False
    temperature: float = 0.2
    standardise_embeddings: bool = True
    decoupled: bool = False
    queue: int = 0
    same_patient: Literal["exclude", "positive", "negative"] = "exclude"
    hidden: int | None = None
    projection: int = 64
    joint_forward: bool = True
    probe_neighbours: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "region", "scaling", "gamma", "low_resolution", "temperature", "hidden", "projection")
        at_least_zero(self, "degrees", "bias", "contrast", "noise", "queue", "probe_neighbours")
        share(self, *(each.name for each in fields(self) if each.name.startswith("p_")), "least_overlap")
        for name in ("scaling", "gamma", "blur"):
            ordered(self, name)
        if not 0 < self.least_share <= 1:
            raise InputError(f"least_share is {self.least_share}, expected a share above 0 and up to 1")
        for name in ("region", "low_resolution"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class WeightedObjective:
    """One objective of a mixture.

    Attributes:
        name: of the objective, see `OBJECTIVE_SETTINGS`.
        weight: of its loss in the sum.
        settings: an instance of its settings; crops, augmentation and pictures are the mixture's.
    """

    name: str
    weight: float
    settings: CropSettings

    def __post_init__(self) -> None:
        positive(self, "weight")


@dataclass(frozen=True, kw_only=True)
class MixtureSettings(CropSettings):
    """Objectives that are trained together; their losses are added with weights.

    Attributes:
        objectives: in the plans a list of tables: "name", "weight" (1 by default), "preset" (a name in `PRESETS`), and
            the objective's settings.
    """

    objectives: tuple[WeightedObjective, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.objectives:
            raise InputError("pretraining.objectives is empty, expected at least one objective")


OBJECTIVE_SETTINGS: Mapping[str, type[CropSettings]] = MappingProxyType(
    {
        "masked": PretrainingSettings,
        "frequency_corruption": FrequencyCorruptionSettings,
        "contrastive": ContrastiveSettings,
        "sequence": SequenceSettings,
    }
)
"""Name of an objective in the plans -> class of its settings."""
