"""Public cohorts that pre-trainings name, recognised by the names of a data set and by case ids."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from bdfm_nnunet.exposure.exposure_record import Exposure
from bdfm_nnunet.patients import CaseList

COHORTS: dict[str, tuple[str, str]] = {
    "adni": (r"adni\d?", r"\d{3}_S_\d{4,5}"),
    "aomic": (r"aomic|piop\d?", r"(?!)"),
    "corr": (r"corr|nki|nkirs|rockland", r"(?:sub-)?A000\d{5}"),
    "dlbs": (r"dlbs", r"(?!)"),
    "gsp": (r"gsp", r"Sub\d{4}_Ses\d"),
    "habs-hd": (r"habs|habshd", r"(?!)"),
    "mcsa": (r"mcsa", r"(?!)"),
    "nifd": (r"nifd|ftldni", r"\d_S_\d{4}"),
    "ppmi": (r"ppmi", r"PPMI_?\d+"),
    "sald": (r"sald", r"(?!)"),
    "soop": (r"soop", r"(?!)"),
    "ucsf-pdgm": (r"ucsf|pdgm|ucsfpdgm", r"UCSF-PDGM-\d{3,4}"),
    "upenn-gbm": (r"upenn|upenngbm", r"UPENN-GBM-\d{5}"),
    "brats2021": (r"brats2021", r"BraTS2021_\d{5}"),
    "brats2023-gli": (r"brats2023gli|brats2023", r"BraTS-GLI-\d{5}-\d{3}"),
    "oasis1": (r"oasis1?", r"OAS1_\d{4}"),
    "oasis3": (r"oasis3", r"OAS3\d{4}"),
}
"""Cohort -> pattern of a word in the data set's name, and pattern at the beginning of a case id."""


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


def cohorts_of(cases: CaseList, ids: Iterable[str]) -> dict[str, str]:
    """Return the cohorts that a data set seems to come from, each with why.

    Args:
        cases: the data set; its releases count as well.
        ids: case ids.

    Example:
        >>> cohorts_of(CaseList("Dataset070_ADNI2", "folder-1", []), ["011_S_0005_bl"])
        {'adni': 'the name Dataset070_ADNI2'}
    """
    words = re.split(r"[^a-z0-9]+", cases.name.partition("_")[2].casefold())
    found = dict.fromkeys(cases.releases, "its release")
    ids = list(ids)
    for name, (word, beginning) in COHORTS.items():
        if any(re.fullmatch(word, each) for each in words):
            found.setdefault(name, f"the name {cases.name}")
        elif first := next((case for case in ids if re.match(beginning, case)), None):
            found.setdefault(name, f"ids like {first}")
    return found


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
