"""Classes, numbers and survival of whole subjects, from a pre-trained encoder or from scratch."""

from bdfm_nnunet.tasks.reidentification import Reidentification
from bdfm_nnunet.tasks.subject_level import Classification, Regression, Survival
from bdfm_nnunet.training.trainer import Trainer


class nnUNetTrainerBDFMClassification(Trainer):
    """Classification of subjects by the binary, multi-class and ordinal columns of targets.csv.

    A case is shown as one crop or as a bag of crops that cover it, and needs no segmentation. The settings are the
    configuration's "finetuning" block, see `SubjectSettings`; weights and strategies are those of `nnUNetTrainerBDFM`.
    """

    task_class = Classification


class nnUNetTrainerBDFMRegression(Trainer):
    """Regression of the continuous columns of targets.csv; otherwise as `nnUNetTrainerBDFMClassification`."""

    task_class = Regression


class nnUNetTrainerBDFMSurvival(Trainer):
    """Time to an event by the survival columns of targets.csv; otherwise as `nnUNetTrainerBDFMClassification`."""

    task_class = Survival


class nnUNetTrainerReidentification(Trainer):
    """Who is who: subjects as classes in training, and other subjects found again by their features in validation.

    It needs no targets, and subjects with several runs or sessions; settings are those of
    `nnUNetTrainerBDFMClassification` without `targets`.
    """

    task_class = Reidentification
