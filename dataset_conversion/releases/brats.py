"""The BraTS releases."""

from collections.abc import Mapping
from typing import Any

from bdfm_nnunet.dataset_conversion.release import LABEL, Release, Repair, Source, Table

TUMOUR_REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing_tumor": (3,)}
"""Regions of 1 necrosis, 2 oedema, 3 enhancing tumour; painted as 2, then 1, then 3."""
TUMOUR_ORDER = (2, 1, 3)

ANYWHERE = r"(?:.*/)?{case}"
"""Files are found by name, in whatever folders."""
NOT_TRAINING = r"(?i:validation|testing)"
"""In the folder names of the parts that were published without segmentation."""

UNDERSCORED = {name: Source(f"{ANYWHERE}_{name}") for name in ("t1", "t1ce", "t2", "flair")}
"""Channels until 2021: T1, T1 after contrast, T2, T2-FLAIR."""
HYPHENATED = {name: Source(f"{ANYWHERE}-{name}") for name in ("t1n", "t1c", "t2w", "t2f")}
"""Channels since 2023, the same four."""

_GLIOMA = {1: "necrotic tumour core (NCR)", 2: "peritumoural oedema (ED)", 3: "enhancing tumour (ET)"}
_OTHER = {
    1: "non-enhancing tumour core (NETC)",
    2: "surrounding non-enhancing FLAIR hyperintensity (SNFH)",
    3: "enhancing tumour (ET)",
}
_CAVITY = {4: "resection cavity (RC)"}
GRID: dict[str, Any] = {"grid": (240, 240, 155), "spacing": (1.0, 1.0, 1.0), "origin": (0.0, -239.0, 0.0)}
"""SRI24 as BraTS uses it."""

# --------------------------------------------------------------------------------------------------- 2018 to 2021

OLD_LABELS = {
    1: "necrotic and non-enhancing tumour core (NCR/NET)",
    2: "peritumoural oedema (ED)",
    4: "enhancing tumour (ET)",
}
OLD_LABEL_MAP = {4: 3}
_MENZE = "Menze et al., doi:10.1109/TMI.2014.2377694; Bakas et al., doi:10.1038/sdata.2017.117 and arXiv:1811.02629"
_ELDER_TERMS = "free for research after registration, with the citations that the organisers ask for"


def _until2021(year: int, case_pattern: str, **fields: Any) -> Release:
    settings: dict[str, Any] = {
        "channels": UNDERSCORED,
        "label": (Source(f"{ANYWHERE}_seg"),),
        "labels": OLD_LABELS,
        "label_map": OLD_LABEL_MAP,
        "regions": TUMOUR_REGIONS,
        "regions_class_order": TUMOUR_ORDER,
        "patient_pattern": r"^(.+)$",
        "unlabelled_part": NOT_TRAINING,
        "submission_name": "{case}.nii.gz",
        "licence": _ELDER_TERMS,
        "citation": _MENZE,
        **GRID,
        **fields,
    }
    return Release(
        name=f"brats{year}",
        title=f"BraTS {year} adult glioma",
        dataset_name=f"BraTS{year}",
        case_pattern=case_pattern,
        **settings,
    )


def _with_site(prefix: str) -> dict[str, str]:
    """Return patterns of ids that begin with the institution and end with a number that is not part of the patient."""
    return {
        "case_pattern": rf"{prefix}_[A-Za-z0-9]+_[A-Za-z0-9]+_\d+",
        "patient_pattern": rf"^({prefix}_.+)_\d+$",
        "site_pattern": rf"^{prefix}_([A-Za-z0-9]+)_",
    }


def _mapping(path: str, year: int, *, site: tuple[str, ...] = ()) -> Table:
    """Return the organisers' table of the ids that a case had in other years."""
    years = (2023, 2021, 2020, 2019, 2018, 2017)
    names = [form.format(every) for form in ("BraTS{}", "BraTS_{}_subject_ID") for every in years]
    own = tuple(name for name in names if str(year) in name)
    others = tuple(name for name in names if name not in own)
    return Table(
        path=path,
        id=own,
        aliases=(*others, "TCGA_TCIA_subject_ID"),
        alias_pattern=r"^(BraTS-GLI-\d+)-\d+$|^(.+?)(?:_1)?$",
        site=site,
    )


_SITE = ("Site No (represents the originating institution)", "Site")

_UNTIL_2021 = (
    _until2021(
        2018,
        **_with_site("Brats18"),
        url="https://www.med.upenn.edu/sbia/brats2018/data.html",
        overlaps=("brats2019", "brats2020", "brats2021", "brats2023-gli", "brats2025-gli-pre", "msd-brain-tumour"),
        notes=("mirrors hold .nii in place of .nii.gz; both are read, and the folders HGG and LGG tell the grade",),
    ),
    _until2021(
        2019,
        **_with_site("BraTS19"),
        url="https://www.med.upenn.edu/cbica/brats2019/data.html",
        overlaps=("brats2018", "brats2020", "brats2021", "brats2023-gli", "brats2025-gli-pre", "msd-brain-tumour"),
        notes=("mirrors hold .nii in place of .nii.gz; both are read, and the folders HGG and LGG tell the grade",),
    ),
    _until2021(
        2020,
        r"BraTS20_(?:Training|Validation|Testing)_\d{3}",
        ending=".nii",
        unlabelled_part=r"BraTS20_(?:Validation|Testing)_",
        url="https://www.med.upenn.edu/cbica/brats2020/data.html",
        overlaps=("brats2018", "brats2019", "brats2021", "brats2023-gli", "brats2025-gli-pre", "msd-brain-tumour"),
        tables=(_mapping(r"(?:.*/)?name_mapping[^/]*\.csv", 2020),),
        repairs=(
            Repair(
                case="BraTS20_Training_355",
                why="the segmentation was published as W39_1998.09.19_Segm",
                files={LABEL: r"(?:.*/)?{case}/W39_1998\.09\.19_Segm"},
            ),
        ),
        notes=("name_mapping.csv, where it lies in the download, gives the ids of earlier years",),
    ),
    _until2021(
        2021,
        r"BraTS2021_\d{5}",
        url="https://www.synapse.org/Synapse:syn25829067",
        citation="Baid et al., arXiv:2107.02314; " + _MENZE,
        overlaps=("brats2018", "brats2019", "brats2020", "brats2023-gli", "brats2025-gli-pre", "msd-brain-tumour",
                  "ucsf-pdgm", "upenn-gbm"),
        tables=(_mapping(r"(?:.*/)?BraTS21-17_Mapping[^/]*\.(?:csv|xlsx)", 2021, site=_SITE),),
        notes=("enhancing tumour is missing in about 3 % of the cases, oedema in some",),
    ),
)  # fmt: skip

# ------------------------------------------------------------------------------------------------------ since 2023


def _since2023(year: int, task: str, title: str, citation: str, **fields: Any) -> Release:
    family = "GLI" if task == "GLI-PRE" else task
    settings: dict[str, Any] = {
        "case_pattern": rf"BraTS-{family}-\d{{5}}-\d{{3}}",
        "patient_pattern": rf"(BraTS-{family}-\d{{5}})-\d{{3}}$",
        "session_pattern": r"-(\d{3})$",
        "channels": HYPHENATED,
        "label": (Source(f"{ANYWHERE}-seg"),),
        "labels": _OTHER,
        "regions": TUMOUR_REGIONS,
        "regions_class_order": TUMOUR_ORDER,
        "unlabelled_part": NOT_TRAINING,
        "submission_name": "{case}.nii.gz",
        **GRID,
        **fields,
    }
    return Release(
        name=f"brats{year}-{task.lower()}",
        title=f"BraTS {year} {title}",
        dataset_name=f"BraTS{year}{task.replace('-', '')}",
        citation=citation,
        **settings,
    )


_2023 = {
    "licence": "terms of the BraTS 2023 data agreement on Synapse",
    "url": "https://www.synapse.org/Synapse:syn51156910",
}
_2024 = {
    "licence": "CC BY-NC 4.0, after registration and a form on Synapse",
    "url": "https://www.synapse.org/Synapse:syn53708249",
}
_2025 = {
    "licence": "terms of the BraTS 2025 data agreement on Synapse",
    "url": "https://www.synapse.org/Synapse:syn64153130",
}
_2026 = {
    "licence": "CC BY-NC 4.0 unless otherwise indicated, after registration and a form on Synapse",
    "url": "https://www.synapse.org/Synapse:syn74274097",
}
_GLI_MAPPING = _mapping(r"(?:.*/)?BraTS2023_2017_GLI_Mapping[^/]*\.(?:csv|xlsx)", 2023, site=_SITE)
_GLIOMA_KIN = ("brats2018", "brats2019", "brats2020", "brats2021", "msd-brain-tumour", "ucsf-pdgm", "upenn-gbm")

_OF_2023 = (
    _since2023(
        2023, "GLI", "adult glioma (pre-treatment)", "Baid et al., arXiv:2107.02314",
        labels=_GLIOMA, tables=(_GLI_MAPPING,), overlaps=(*_GLIOMA_KIN, "brats2024-gli", "brats2025-gli-pre"),
        notes=("the images are those of BraTS 2021 under other names, with label 4 now 3",
               "a patient has the same five digits here and in brats2024-gli"), **_2023,
    ),
    _since2023(
        2023, "MEN", "meningioma (pre-treatment)", "LaBella et al., arXiv:2305.07642",
        overlaps=("brats2024-goat",),
        notes=("a patient's only scan may be -001, and the numbers of later scans have gaps",
               "in about 90 % of the cases the labels touch the edge of the skull-stripped brain"), **_2023,
    ),
    _since2023(
        2023, "MET", "brain metastases", "Moawad et al., arXiv:2306.00838",
        overlaps=("brats2024-met", "brats2025-met", "brats2024-goat"),
        notes=("the published t2w file of BraTS-MET-00232-000 is damaged; 2024 has a repaired copy, to be put into the "
               "place of the case's folder",), **_2023,
    ),
    _since2023(
        2023, "PED", "paediatric tumours", "Kazerooni et al., arXiv:2305.17033",
        overlaps=("brats2024-ped", "brats2024-goat"),
        notes=("labels mean other tissues in brats2024-ped",), **_2023,
    ),
    _since2023(
        2023, "SSA", "adult glioma in Sub-Saharan Africa", "Adewole et al., arXiv:2305.19369",
        labels=_GLIOMA, overlaps=("brats2024-goat",), **_2023,
    ),
)  # fmt: skip

# RC belongs to no composite region.
_WITH_CAVITY = {**TUMOUR_REGIONS, "resection_cavity": (4,)}
_SCORED_WITH_CAVITY = {**_WITH_CAVITY, "non_enhancing_tumor_core": (1,), "surrounding_hyperintensity": (2,)}
_CAVITY_ORDER = (*TUMOUR_ORDER, 4)

_PED_LABELS = {
    1: "enhancing tumour (ET)",
    2: "non-enhancing tumour (NET)",
    3: "cystic component (CC)",
    4: "peritumoural oedema (ED)",
}
# Fit for painting: oedema, then non-enhancing, then cystic, then enhancing.
_PED_REGIONS = {
    "whole_tumor": (1, 2, 3, 4),
    "tumor_core": (1, 2, 3),
    "cystic_component": (3,),
    "enhancing_tumor": (1,),
}
_PED_ORDER = (4, 2, 3, 1)
_PED_SCORED = {**_PED_REGIONS, "non_enhancing_tumor": (2,), "edema": (4,)}

_OF_2024 = (
    _since2023(
        2024, "GLI", "adult glioma after treatment", "de Verdier et al., arXiv:2405.18368",
        labels={**_OTHER, **_CAVITY}, regions=_WITH_CAVITY, regions_class_order=_CAVITY_ORDER,
        scored_regions=_SCORED_WITH_CAVITY, grid=(182, 218, 182), origin=None,
        overlaps=("brats2023-gli", "brats2025-gli-pre", "MU-Glioma-Post (in part)"),
        tables=(Table(r"(?:.*/)?BraTS-PTG[^/]*\.xlsx", id=("BraTS Subject ID",), site=("Site", "Institution")),),
        notes=("suffixes -100, -101 ... are scans after treatment; the five digits are those of brats2023-gli where "
               "both have the patient (inferred from the numbers)",
               "others found three pairs of identical scans under different patients: content hashes find them"),
        **_2024,
    ),
    _since2023(
        2024, "MEN-RT", "meningioma before radiotherapy", "LaBella et al., arXiv:2405.18383",
        case_pattern=r"BraTS-MEN-RT-\d{4}-\d+", patient_pattern=r"(BraTS-MEN-RT-\d{4})-\d+$",
        session_pattern=r"-(\d+)$", channels={"t1c": Source(f"{ANYWHERE}_t1c")}, label=(Source(f"{ANYWHERE}_gtv"),),
        labels={1: "gross tumour volume (GTV)"}, regions={"gross_tumor_volume": (1,)}, regions_class_order=(),
        grid=None, spacing=None, origin=None,
        submission_name="{case}_gtv.nii.gz",
        replacements=r"^(?!.*BraTS-MEN-RT-Train-v2).*BraTS-MEN-RT-0402-1/",
        notes=("native resolution, defaced but not skull-stripped: the brain mask of --unlabelled is the whole head",
               "BraTS-MEN-RT-0402-1 was published again: the copy outside of BraTS-MEN-RT-Train-v2 is taken",
               "the name of files to hand in is not certain"), **_2024,
    ),
    _since2023(
        2024, "MET", "brain metastases", "Moawad et al., arXiv:2306.00838",
        overlaps=("brats2023-met", "brats2025-met", "brats2024-goat"), replacements=r"fixed-cases",
        notes=("three archives: unpack them side by side; files of the fixed cases replace those of the second part",
               "grids differ in some cases; that of most is SRI24",
               "in the repaired copy of BraTS-MET-00232-000 the headers of image and segmentation may differ: then "
               "the case is refused"), **_2024,
    ),
    _since2023(
        2024, "PED", "paediatric tumours", "Kazerooni et al., arXiv:2404.15009",
        labels=_PED_LABELS, regions=_PED_REGIONS, regions_class_order=_PED_ORDER, scored_regions=_PED_SCORED,
        overlaps=("brats2023-ped", "brats2024-goat", "brats2026-ped"),
        replacements=r"^(?!.*BraTS-PEDs2024_Training).*BraTS-PED-00255-000/",
        repairs=(
            Repair(case="BraTS-PED-00255-000", plain=True,
                   why="a file was published uncompressed under the name .nii.gz; it is compressed in the data set"),
        ),
        notes=("the order of labels differs from every other BraTS release",
               "BraTS-PED-00255-000 was published again: the copy outside of BraTS-PEDs2024_Training is taken"),
        **_2024,
    ),
    _since2023(
        2024, "GoAT", "tumours of all kinds (generalisability)", "BraTS 2024, task GoAT: see the page on Synapse",
        case_pattern=r"BraTS-GoAT-\d{5}", patient_pattern=r"^(BraTS-GoAT-\d{5})$", session_pattern="",
        unlabelled_part=r"(?i:validation|testing|unlabel|without)",
        overlaps=("brats2026-goat", "brats2023-gli", "brats2023-men", "brats2023-met", "brats2023-ped",
                  "brats2023-ssa"),
        notes=("ids hide source and patient: only content hashes tell which scans are in other releases",
               "the name of the folder without segmentations is not certain"), **_2024,
    ),
)  # fmt: skip

_MET_REPAIRS = (
    Repair(case="BraTS-MET-01094-002", values={6: 0}, why="stray voxels of label 6, which means nothing"),
    Repair(case="BraTS-MET-01184-002", values={8: 0}, why="stray voxels of label 8, which means nothing"),
    Repair(case=".*", missing=("t2w",), why="there is no T2 scan: the channel is zeros"),
)
_OF_2025 = (
    _since2023(
        2025, "GLI-PRE", "adult glioma before treatment", "Baid et al., arXiv:2107.02314",
        labels=_GLIOMA, tables=(_GLI_MAPPING,), overlaps=("brats2023-gli", "brats2024-gli", *_GLIOMA_KIN),
        notes=("taken to be the cases of brats2023-gli (inferred, not checked)",), **_2025,
    ),
    _since2023(
        2025, "MET", "brain metastases before and after treatment", "Moawad et al., arXiv:2306.00838",
        labels={**_OTHER, **_CAVITY}, regions=_WITH_CAVITY, regions_class_order=_CAVITY_ORDER,
        scored_regions=_SCORED_WITH_CAVITY, grid=None, spacing=None, origin=None, repairs=_MET_REPAIRS,
        overlaps=("brats2023-met", "brats2024-met", "brats2026-met"), replacements=r"corrected-labels",
        notes=("name the folder that holds all parts, also `UCSD - Training`, half of the cases",
               "UCSF and UCSD scans are in their native space, the others in SRI24",
               "only UCSD has resection cavities; T2 is not mandatory; some segmentations are empty",
               "the official validation set holds later scans of UCSD training patients: split by patient"),
        **_2025,
    ),
)  # fmt: skip

_MET_SCORED_2026 = {**_WITH_CAVITY, "metastasis": (1, 3, 4)}
"""With what a lesion is for the leaderboard of detection: ET, NETC and RC together."""
_OF_2026 = (
    _since2023(
        2026, "MET", "brain metastases before and after treatment", "Moawad et al., arXiv:2306.00838",
        labels={**_OTHER, **_CAVITY}, regions=_WITH_CAVITY, regions_class_order=_CAVITY_ORDER,
        scored_regions=_MET_SCORED_2026, grid=None, spacing=None, origin=None, repairs=_MET_REPAIRS,
        overlaps=("brats2023-met", "brats2024-met", "brats2025-met"), replacements=r"corrected-labels",
        unlabelled_part=r"(?i:validation|testing|ulm|unlabel|unannotated)",
        notes=("the scans are those of 2025, whose labels were checked anew, and the archives keep the name of 2025; "
               "name the folder that holds all parts",
               "UCSF, UCSD and Ulm scans are in their native space, the others in SRI24; T2 is not mandatory",
               "the 200 scans of Ulm have no segmentation: the name of their folder is not certain",
               "the official validation set holds later scans of UCSD training patients: split by patient"), **_2026,
    ),
    _since2023(
        2026, "PED", "paediatric tumours before and after treatment", "Kazerooni et al., arXiv:2404.15009",
        labels=_PED_LABELS, regions=_PED_REGIONS, regions_class_order=_PED_ORDER, scored_regions=_PED_SCORED,
        grid=None, spacing=None, origin=None, replacements=r"Batch2_Release",
        overlaps=("brats2023-ped", "brats2024-ped", "brats2024-goat", "brats2026-goat"),
        notes=("defaced but not skull-stripped: the brain mask of --unlabelled is the whole head",
               "unpack BraTS26_PED_training and the second batch side by side; of a case in both, the second is taken",
               "35 patients have three or more time points after treatment: the last three digits of an id are the "
               "time point, the five before them the patient",
               "the grid of the scans is not known to us"), **_2026,
    ),
    _since2023(
        2026, "GoAT", "tumours of all kinds (generalisability)", "BraTS 2026, task GoAT: see the page on Synapse",
        case_pattern=r"BraTS-GoAT-\d{5}", patient_pattern=r"^(BraTS-GoAT-\d{5})$", session_pattern="",
        labels=_GLIOMA, unlabelled_part=r"(?i:validation|testing|unlabel|without)",
        overlaps=("brats2024-goat", "brats2023-gli", "brats2023-men", "brats2023-met", "brats2023-ped",
                  "brats2023-ssa"),
        notes=("the archives are those of 2024 (inferred from their names)",
               "ids hide source and patient: only content hashes tell which scans are in other releases"), **_2026,
    ),
)  # fmt: skip

BRATS: Mapping[str, Release] = {
    release.name: release for release in (*_UNTIL_2021, *_OF_2023, *_OF_2024, *_OF_2025, *_OF_2026)
}  # fmt: skip
