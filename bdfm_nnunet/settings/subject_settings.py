"""Settings of subject-level tasks: classification, regression and survival."""

from dataclasses import dataclass
from typing import Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.settings.training_settings import WeightSettings
from bdfm_nnunet.settings.value_checks import at_least_zero, positive, share, share_below_one


@dataclass(frozen=True, kw_only=True)
class SubjectSettings(WeightSettings):
    """What a network learns of whole subjects, from what views of them, and how fast; see docs/subjects.md.

    Attributes:
        targets: columns of targets.csv to learn; by default all of the trainer's kind.
        view: "whole" shows each case as one crop that holds the largest case; "crops" as crops of the patch size that
            cover it; "auto" is "whole" where such a crop has at most twice the voxels of the patch.
        crop_overlap: share of a crop that its neighbour covers too.
        most_crops: crops of a case in a training step, drawn anew in each from those that cover it; by default all. A
            label belongs to the whole case, so fewer may miss what it is about.
        clips: clips of a run of functional MRI in a training step, each drawn from another part of the run; predictions
            are the mean over all clips of a run.
        pooling: "mean" of the features of all positions of all crops, or "attention", their mean with learned weights
            (gated attention, Ilse et al. 2018, https://arxiv.org/abs/1802.04712); "auto" is "attention" for classes,
            "mean" for numbers and survival, which often grow with the extent of something, and for runs.
        head: "linear" after that pooling; for runs also the published heads of NeuroSTORM: "v1" is linear after the
            mean of features that are not normalised, "v2" has a linear layer of four times the channels between, "v3"
            a transformer with a token for the class.
        class_weights: "balanced" weighs each class by the inverse of its frequency among the training cases, so that
            probabilities are those of balanced classes; "none" keeps those of the training cases.
        label_smoothing: share of the probability that a label leaves to other classes.
        survival_loss: "discrete" learns the hazard of each of `survival_bins` intervals (Gensheimer and Narasimhan
            2019, https://doi.org/10.7717/peerj.6257) and works with any batch; "cox" the partial likelihood within each
            batch, with Efron's rule for ties, for batches of many subjects.
        survival_bins: intervals with equally many events of the training cases; with "cox", as many times at which
            survival is predicted.
        mirror_axes: axes of the preprocessed images along which training may mirror a case; by default none, since a
            side may matter.
        rotation: largest angle in degrees about each axis.
        scaling: largest change of size, as a share; by default 0, since a size may matter.
        shift: largest shift of the crops, as a share of their size.
        p_intensity: probability of each intensity change (bias field, gamma, contrast, blur, resolution, noise).
        dropout: share of the pooled features that a step leaves out, and of what the transformer of "v3" computes.

    Example:
        >>> SubjectSettings(targets=("idh",), class_weights="balanced").view
        'auto'
    """

    targets: tuple[str, ...] = ()
    view: Literal["auto", "whole", "crops"] = "auto"
    crop_overlap: float = 0.0
    most_crops: int | None = None
    clips: int = 1
    pooling: Literal["auto", "mean", "attention"] = "auto"
    head: Literal["linear", "v1", "v2", "v3"] = "linear"
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: float = 0.0
    survival_loss: Literal["discrete", "cox"] = "discrete"
    survival_bins: int = 10
    mirror_axes: tuple[int, ...] = ()
    rotation: float = 15.0
    scaling: float = 0.0
    shift: float = 0.05
    p_intensity: float = 0.15
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "most_crops", "clips", "survival_bins")
        at_least_zero(self, "rotation")
        share(self, "label_smoothing", "shift", "p_intensity")
        share_below_one(self, "crop_overlap", "scaling", "dropout")
        if len(set(self.mirror_axes)) < len(self.mirror_axes) or min(self.mirror_axes, default=0) < 0:
            raise InputError(f"mirror_axes is {list(self.mirror_axes)}, expected different axes, counted from 0")
        if not all(self.targets) or len(set(self.targets)) < len(self.targets):
            raise InputError(f"targets is {list(self.targets)}, expected different names of columns in targets.csv")
