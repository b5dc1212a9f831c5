"""Names of public data sets: compared as people write them, recognised by a data set's name and by case ids."""

import re
from collections.abc import Iterable

from bdfm_nnunet.patients import OPEN_RELEASES, CaseList

_OTHER_BRATS = r"men|met|ped|ssa|africa|goat|20(?:18|19|20|21|23)"
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
    "brats2018": (r"brats2018", r"Brats18_"),
    "brats2019": (r"brats2019", r"BraTS19_"),
    "brats2020": (r"brats2020", r"BraTS20_"),
    "brats2021": (r"brats2021", r"BraTS2021_\d{5}"),
    "brats2023-gli": (r"brats2023gli|brats2023", r"BraTS-GLI-\d{5}-\d{3}"),
    "brats-men": (r"brats(?:20\d\d)?men\w*", r"BraTS-MEN-"),
    "brats-met": (r"brats(?:20\d\d)?met\w*", r"BraTS-METS?-"),
    "brats-ped": (r"brats(?:20\d\d)?ped\w*", r"BraTS-PEDs?-"),
    "brats-ssa": (r"brats(?:20\d\d)?(?:ssa|africa)\w*", r"BraTS-SSA-"),
    "brats-goat": (r"brats(?:20\d\d)?goat\w*", r"BraTS-GoAT-"),
    "brats": (rf"brats(?!(?:20\d\d)?(?:{_OTHER_BRATS}))\w*", r"(?!)"),
    "msd-brain-tumour": (r"msdbraintumou?r|task01(?:brats|braintumou?r)?", r"BRATS_\d{3}(?!\d)"),
    "fomo300k": (r"fomo300k\w*", r"(?!)"),
    "oasis1": (r"oasis1?", r"OAS1_\d{4}"),
    "oasis3": (r"oasis3", r"OAS3\d{4}"),
}
"""Cohort -> pattern of a word in the data set's name, and pattern at the beginning of a case id."""


def plain_source(name: str) -> str:
    """Return the name of a source without case and marks, for comparison.

    Example:
        >>> plain_source("BraTS 2023-GLI"), plain_source("UCSF_PDGM")
        ('brats2023gli', 'ucsfpdgm')
    """
    return re.sub(r"[\W_]+", "", name.casefold())


def stands_for_any(source: str) -> bool:
    """Return whether a source is the name of a layout, such as `bids`, under which any data may have been converted.

    Example:
        >>> stands_for_any("folder-0a1b2c3d"), stands_for_any("oasis1")
        (True, False)
    """
    return re.sub(r"-[0-9a-f]{8}$", "", source) in OPEN_RELEASES


def by_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return the cohorts whose case or patient ids these are, each with how that is known.

    Example:
        >>> by_ids(["BraTS2021_00012-t1", "sub-1"])
        {'brats2021': 'ids like BraTS2021_00012-t1'}
    """
    ids = list(ids)
    found = {}
    for name, (_, beginning) in COHORTS.items():
        if first := next((each for each in ids if re.match(beginning, each)), None):
            found[name] = f"ids like {first}"
    return found


def by_name(dataset: str) -> dict[str, str]:
    """Return the cohorts that the name of a data set speaks of, each with how that is known.

    Example:
        >>> by_name("Dataset070_ADNI2")
        {'adni': 'the name Dataset070_ADNI2'}
    """
    words = re.split(r"[^a-z0-9]+", dataset.partition("_")[2].casefold())
    found = (name for name, (word, _) in COHORTS.items() if any(re.fullmatch(word, each) for each in words))
    return dict.fromkeys(found, f"the name {dataset}")


def cohorts_of(cases: CaseList, ids: Iterable[str]) -> dict[str, str]:
    """Return the cohorts that a data set seems to come from, each with how that is known.

    Args:
        cases: the data set; its releases count as well.
        ids: case ids.

    Example:
        >>> cohorts_of(CaseList("Dataset070_ADNI2", "folder-1", []), ["011_S_0005_bl"])
        {'adni': 'the name Dataset070_ADNI2'}
    """
    return {**by_ids(ids), **by_name(cases.name), **dict.fromkeys(cases.releases, "its release")}
