"""Tumour data sets beside BraTS."""

from bdfm_nnunet.dataset_conversion.release import Release, Source, Table
from bdfm_nnunet.dataset_conversion.releases.brats import (
    ANYWHERE,
    GRID,
    OLD_LABEL_MAP,
    OLD_LABELS,
    TUMOUR_ORDER,
    TUMOUR_REGIONS,
)

_MSD_IMAGE = r"(?:.*/)?images(?:Tr|Ts)/{case}"
_MSD = Release(
    name="msd-brain-tumour",
    title="Medical Segmentation Decathlon, task 1: brain tumour",
    dataset_name="MSDBrainTumour",
    case_pattern=r"BRATS_\d{3}",
    patient_pattern=r"^(BRATS_\d{3})$",
    channels={name: Source(_MSD_IMAGE, volume=index) for index, name in enumerate(("FLAIR", "T1w", "t1gd", "T2w"))},
    label=(Source(r"(?:.*/)?labelsTr/{case}"),),
    labels={1: "oedema", 2: "non-enhancing tumour", 3: "enhancing tumour"},
    regions={"whole_tumor": (1, 2, 3), "tumor_core": (2, 3), "enhancing_tumor": (3,)},
    regions_class_order=(1, 2, 3),
    case_folder="",
    unlabelled_part=r"(?:^|/)imagesTs/",
    grid=(240, 240, 155),
    spacing=(1.0, 1.0, 1.0),
    overlaps=("brats2018", "brats2019", "brats2020", "brats2021", "brats2023-gli", "brats2025-gli-pre"),
    submission_name="{case}.nii.gz",
    licence="CC BY-SA 4.0",
    url="http://medicaldecathlon.com",
    citation="Antonelli et al., doi:10.1038/s41467-022-30695-9; Simpson et al., arXiv:1902.09063",
    notes=(
        "images are 4-D: FLAIR, T1w, t1gd, T2w; each becomes a file of its own",
        "labels 1 and 2 are swapped against BraTS",
        "cases are those of BraTS 2016 and 2017 under other names",
    ),
)

_UCSF_FOLLOW_UPS = {315: 433, 278: 431, 175: 396, 138: 429, 181: 409, 289: 391}
_UCSF_EXTRA = ("ADC", "ASL", "DWI", "SWI", *(f"DTI_eddy_{name}" for name in ("FA", "MD", "L1", "L2", "L3")))
_UCSF = Release(
    name="ucsf-pdgm",
    title="UCSF preoperative diffuse glioma MRI (UCSF-PDGM)",
    dataset_name="UCSFPDGM",
    case_pattern=r"UCSF-PDGM-\d{3,4}(?:_FU\d{3}d)?",
    patient_pattern=r"^(UCSF-PDGM-\d{3,4})",
    session_pattern=r"_(FU\d{3}d)$",
    channels={name: Source(f"{ANYWHERE}_{name}") for name in ("T1", "T1c", "T2", "FLAIR")},
    extra_channels={name: Source(f"{ANYWHERE}_{name}") for name in _UCSF_EXTRA},
    label=(Source(f"{ANYWHERE}_tumor_segmentation"),),
    labels=OLD_LABELS,
    label_map=OLD_LABEL_MAP,
    regions=TUMOUR_REGIONS,
    regions_class_order=TUMOUR_ORDER,
    case_folder=r"(?:.*/)?{case}_nifti",
    grid=GRID["grid"],
    spacing=GRID["spacing"],
    tables=(Table(r"(?:.*/)?UCSF-PDGM-metadata[^/]*\.csv", id=("ID",), aliases=("BraTS21 ID",)),),
    aliases={f"UCSF-PDGM-{old:04d}": f"UCSF-PDGM-{patient:04d}" for old, patient in _UCSF_FOLLOW_UPS.items()},
    overlaps=("brats2021", "brats2023-gli", "brats2025-gli-pre"),
    licence="CC BY 4.0",
    url="https://doi.org/10.7937/tcia.bdgf-8v37",
    citation="Calabrese et al., doi:10.1148/ryai.220058",
    notes=(
        "files have a scaling in their header, which is applied where values are compared",
        "the files `_bias` and the 4-D DTI_eddy_noreg are not used",
        "six follow-up scans have ids of their own in early versions of the release and count for their patient",
        "the column `BraTS21 ID` of the metadata table tells which cases are in BraTS",
    ),
)

_UPENN_IMAGE = r"(?:.*/)?images_structural/(?:.*/)?{case}"
_UPENN = Release(
    name="upenn-gbm",
    title="University of Pennsylvania glioblastoma (UPENN-GBM)",
    dataset_name="UPENNGBM",
    case_pattern=r"UPENN-GBM-\d{5}_\d{2}",
    patient_pattern=r"^(UPENN-GBM-\d{5})_",
    session_pattern=r"_(\d{2})$",
    channels={name: Source(f"{_UPENN_IMAGE}_{name}") for name in ("T1", "T1GD", "T2", "FLAIR")},
    extra_channels={
        f"DTI_{name}": Source(rf"(?:.*/)?images_DTI/(?:.*/)?{{case}}_DTI_{name}") for name in ("AD", "FA", "RD", "TR")
    },
    label=(
        Source(r"(?:.*/)?images_segm/(?:.*/)?{case}_segm", kind="manual"),
        Source(r"(?:.*/)?automated_segm/(?:.*/)?{case}(?:_automated_approx)?_segm", kind="automated"),
    ),
    labels=OLD_LABELS,
    label_map=OLD_LABEL_MAP,
    regions=TUMOUR_REGIONS,
    regions_class_order=TUMOUR_ORDER,
    case_folder=r"(?:.*/)?images_structural/{case}",
    unlabelled_part=r"UPENN-GBM-\d{5}_21",
    grid=GRID["grid"],
    spacing=GRID["spacing"],
    overlaps=("brats2021", "brats2023-gli", "brats2025-gli-pre"),
    licence="CC BY",
    url="https://doi.org/10.7937/TCIA.709X-DN49",
    citation="Bakas et al., doi:10.1038/s41597-022-01560-7",
    notes=(
        "segmentations corrected by hand are taken before automated ones; the manifest says which",
        "_11 is the scan before surgery, _21 a follow-up, which has no segmentation",
        "names of the segmentation and DTI files are from memory",
    ),
)

TUMOURS = {release.name: release for release in (_MSD, _UCSF, _UPENN)}
