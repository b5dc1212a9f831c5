"""What is known of cohorts behind public pre-trainings that keep no record, and of data sets made of them."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from bdfm_nnunet.exposure.exposure_record import Exposure
from bdfm_nnunet.patients import CaseList
from bdfm_nnunet.source_names import cohorts_of

FREPA: dict[str, Any] = {
    "dataset": "Frepa",
    "note": "the weights have the form of Frepa's released encoders, whose authors list no cases: their brain MRI is "
    "UCSF-PDGM and BraTS 2021",
    "perhaps": dict.fromkeys(("ucsf-pdgm", "brats2021"), "its authors name this data set, but not which of its cases"),
}
"""What is known of the released weights of Frepa (https://arxiv.org/abs/2407.14651), in the form of a run."""


def is_frepa(weights: Mapping[str, Tensor]) -> bool:
    """Return whether weights have the names of Frepa's encoders for 2-D images: a ViT with a neck, or a Swin V2.

    Example:
        >>> import torch
        >>> names = {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4), "neck.0.weight": torch.zeros(1)}
        >>> is_frepa({f"encoder.{name}": tensor for name, tensor in names.items()})
        True
    """
    plain = {name.removeprefix("encoder."): tensor for name, tensor in weights.items()}
    for first, other in (("patch_embed.proj.weight", "neck.0.weight"), ("0.0.weight", "1.0.attn.logit_scale")):
        if first in plain and other in plain:
            return plain[first].ndim == 4
    return False


def cohort_sentences(exposure: Exposure, cases: CaseList, ids: Iterable[str]) -> list[str]:
    """Return sentences on cohorts that a pre-training is known, or said, to hold and that the cases seem to be of.

    Releases of a manifest are left to `compare`, which knows them case by case.

    Example:
        >>> run = {"dataset": "3D-Neuro-SimCLR", "perhaps": {"adni": "its authors name it"}}
        >>> cohort_sentences(Exposure((run,)), CaseList("Dataset070_ADNI", "folder-1", []), ["a"])
        ['the cases seem to be of adni (the name Dataset070_ADNI), which 3D-Neuro-SimCLR may hold: its authors name it']
    """
    sentences = []
    for name, why in cohorts_of(cases, ids).items():
        if name in cases.releases:
            continue
        for run in exposure.runs:
            for entry, verb in (("whole", "holds"), ("perhaps", "may hold")):
                if name in run.get(entry, {}):
                    told = run[entry][name]
                    sentences.append(
                        f"the cases seem to be of {name} ({why}), which {run.get('dataset', 'a run')} {verb}: {told}"
                    )
    return list(dict.fromkeys(sentences))
