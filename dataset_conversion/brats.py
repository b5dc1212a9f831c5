"""The BraTS releases."""

from bdfm_nnunet.dataset_conversion.release import Release

HYPHENATED = {"t1n": "-t1n", "t1c": "-t1c", "t2w": "-t2w", "t2f": "-t2f"}
"""Channels since 2023: T1, T1 after contrast, T2, T2-FLAIR."""

TUMOUR_REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing_tumor": (3,)}
"""Regions of 1 necrosis, 2 oedema, 3 enhancing tumour; painted as 2, then 1, then 3."""

_GLIOMA = {1: "necrotic tumour core (NCR)", 2: "peritumoural oedema (ED)", 3: "enhancing tumour (ET)"}
_OTHER = {
    1: "non-enhancing tumour core (NETC)",
    2: "surrounding non-enhancing FLAIR hyperintensity (SNFH)",
    3: "enhancing tumour (ET)",
}


def _brats2023(
    task: str, title: str, citation: str, *, labels: dict[int, str] = _OTHER, notes: tuple[str, ...] = ()
) -> Release:
    return Release(
        name=f"brats2023-{task.lower()}",
        title=f"BraTS 2023 {title}",
        dataset_name=f"BraTS2023{task}",
        case_pattern=rf"BraTS-{task}-\d{{5}}-\d{{3}}",
        patient_pattern=rf"(BraTS-{task}-\d{{5}})-\d{{3}}$",
        channels=HYPHENATED,
        label_suffix="-seg",
        labels=labels,
        regions=TUMOUR_REGIONS,
        regions_class_order=(2, 1, 3),
        grid=(240, 240, 155),
        licence="terms of the BraTS 2023 data agreement on Synapse",
        url="https://www.synapse.org/Synapse:syn51156910",
        citation=citation,
        notes=notes,
    )


_ENTRIES = (
    _brats2023(
        "GLI", "adult glioma (pre-treatment)", "Baid et al., arXiv:2107.02314", labels=_GLIOMA,
        notes=("the images are those of BraTS 2021 under other names, with label 4 now 3",),
    ),
    _brats2023("MEN", "meningioma (pre-treatment)", "LaBella et al., arXiv:2305.07642",
               notes=("a patient's only scan may be -001, and the numbers of later scans have gaps",)),
    _brats2023("MET", "brain metastases", "Moawad et al., arXiv:2306.00838",
               notes=("the published t2w file of BraTS-MET-00232-000 is damaged; 2024 has a repaired copy",)),
    _brats2023("PED", "paediatric tumours", "Kazerooni et al., arXiv:2305.17033"),
    _brats2023("SSA", "adult glioma in Sub-Saharan Africa", "Adewole et al., arXiv:2305.19369", labels=_GLIOMA),
)  # fmt: skip
BRATS = {release.name: release for release in _ENTRIES}
