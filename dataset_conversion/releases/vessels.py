"""Vessels of the brain."""

from bdfm_nnunet.dataset_conversion.release import Release, Source, one_label_each

_COW = {
    1: "BA", 2: "R-PCA", 3: "L-PCA", 4: "R-ICA", 5: "R-MCA", 6: "L-ICA", 7: "L-MCA", 8: "R-Pcom", 9: "L-Pcom",
    10: "Acom", 11: "R-ACA", 12: "L-ACA", 15: "3rd-A2",
}  # fmt: skip
_TOPCOW = Release(
    name="topcow2024",
    title="TopCoW 2024: circle of Willis on MRA and CTA",
    dataset_name="TopCoW2024",
    case_pattern=r"topcow_(?:mr|ct)_\d{3}",
    patient_pattern=r"^(topcow)_(?:mr|ct)(_\d{3})$",
    session_pattern=r"^topcow_(mr|ct)_",
    channels={"angiography": Source(r"(?:.*/)?images(?:Tr|Ts)/{case}_0000")},
    label=(Source(r"(?:.*/)?(?:cow_seg_)?labels(?:Tr|Ts)/{case}"),),
    **one_label_each(_COW),
    case_folder="",
    unlabelled_part=r"(?:^|/)imagesTs/",
    submission_name="{case}.nii.gz",
    licence="open use, the source must be named; commercial use needs permission of the owner, "
    "University Hospital of Zurich",
    url="https://doi.org/10.5281/zenodo.15692630",
    citation="Yang et al., arXiv:2312.17670",
    notes=(
        "MRA and CTA of one number are one patient; convert one kind alone with --only 'topcow_mr_.*'",
        "labels jump from 12 to 15: 15 (third A2) is 13 for nnU-Net",
        "the name of the label folder (cow_seg_labelsTr or labelsTr) is from memory, both are read",
    ),
)

_COSTA = Release(
    name="costa",
    title="COSTA: arteries on time-of-flight MRA of eight centres",
    dataset_name="COSTA",
    case_pattern=r"[^/]+?(?<!_0000)(?<!_0001)",
    patient_pattern=r"^(.+)$",
    site_pattern=r"^(.+?)[-_]?\d+$",
    channels={"TOF": Source(r"(?:.*/)?images(?:Tr|Ts)/{case}(?:_0000)?")},
    extra_channels={"TOF_standardised": Source(r"(?:.*/)?images(?:Tr|Ts)_normed/{case}")},
    label=(Source(r"(?:.*/)?labels(?:Tr|Ts)/{case}"),),
    labels={1: "artery"},
    regions={"artery": (1,)},
    case_folder="",
    unlabelled_part=r"(?:^|/)imagesTs/",
    overlaps=("cerevessmra", "IXI", "ADAM"),
    licence="academic research use only, access on request",
    url="https://doi.org/10.5281/zenodo.11025761",
    citation="Mou et al., COSTA, IEEE Transactions on Medical Imaging 2024",
    notes=(
        "the centre is read from the beginning of the file name, whose form is not certain",
        "the histogram-standardised copies (imagesTr_normed) are a channel to ask for",
        "files that the authors' own converter renamed to _0000 are read; its _0001 copies are not",
    ),
)

_VESSEL_LABELS = r"(?i:gt|labels?|masks?)"
_CEREVESS = Release(
    name="cerevessmra",
    title="CereVessMRA: vessels on time-of-flight MRA",
    dataset_name="CereVessMRA",
    case_pattern=r"[^/]+?",
    patient_pattern=r"^(IXI\d+)-|^(.+)$",
    site_pattern=r"^IXI\d+-(Guys|HH|IOP)",
    channels={"TOF": Source(rf"(?:.*/)?(?!{_VESSEL_LABELS}/)[^/]+/{{case}}")},
    label=(Source(rf"(?:.*/)?{_VESSEL_LABELS}/{{case}}"),),
    labels={1: "vessel"},
    regions={"vessel": (1,)},
    case_folder="",
    overlaps=("costa", "IXI"),
    licence="terms of the record at Science Data Bank; not checked, read them there",
    url="https://doi.org/10.57760/sciencedb.13880",
    citation="CereVessMRA, doi:10.57760/sciencedb.13880",
    notes=(
        "only the folder gt is certain: images are taken from whatever folder lies beside it, by the same file name",
        "part of the images are of IXI and have to be fetched there; a label without image is reported as refused",
    ),
)

VESSELS = {release.name: release for release in (_TOPCOW, _COSTA, _CEREVESS)}
