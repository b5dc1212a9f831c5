"""Brain structures and tissues."""

from itertools import combinations

from bdfm_nnunet.dataset_conversion.release import Release, Source, one_label_each

_SIDED = (
    "cerebral white matter", "cerebral cortex", "lateral ventricle", "inferior lateral ventricle",
    "cerebellum white matter", "cerebellum cortex", "thalamus", "caudate", "putamen", "pallidum",
)  # fmt: skip
_SIDED_TOO = ("hippocampus", "amygdala", "accumbens", "ventral DC", "vessel", "choroid plexus")
_STRUCTURES = (
    *(f"left {name}" for name in _SIDED),
    "third ventricle",
    "fourth ventricle",
    "brain stem",
    *(f"left {name}" for name in _SIDED_TOO),
    *(f"right {name}" for name in (*_SIDED, *_SIDED_TOO)),
)
_MARCUS = "Marcus et al., doi:10.1162/jocn.2007.19.9.1498"
_OASIS_TERMS = "OASIS data use agreement"

_L2R = Release(
    name="l2r-oasis",
    title="Learn2Reg OASIS: 35 structures on T1-weighted MRI",
    dataset_name="L2ROASIS",
    case_pattern=r"OASIS_\d{4}",
    patient_pattern=r"^(OASIS_\d{4})$",
    channels={"T1": Source(r"(?:.*/)?images(?:Tr|Ts)/{case}_0000")},
    label=(Source(r"(?:.*/)?labels(?:Tr|Ts)/{case}(?:_0000)?"),),
    **one_label_each(dict(enumerate(_STRUCTURES, start=1))),
    case_folder="",
    unlabelled_part=r"(?:^|/)imagesTs/",
    grid=(160, 224, 192),
    spacing=(1.0, 1.0, 1.0),
    overlaps=("oasis1",),
    licence=_OASIS_TERMS,
    url="https://learn2reg.grand-challenge.org",
    citation=f"Hoopes et al., arXiv:2101.01035; {_MARCUS}",
    notes=(
        "the names of the 35 structures are from memory; seg35_labels.txt of the neurite OASIS data is authoritative",
        "a variant with 4 tissues exists: its values would pass for the first four structures, so look at the labels "
        "in the manifest",
        "the subjects are among those of OASIS-1, under other numbers",
    ),
)

_OASIS1 = Release(
    name="oasis1",
    title="OASIS-1: cross-sectional T1-weighted MRI with tissues",
    dataset_name="OASIS1",
    case_pattern=r"OAS1_\d{4}_MR\d",
    patient_pattern=r"^(OAS1_\d{4})_MR",
    session_pattern=r"_(MR\d)$",
    channels={"T1": Source(r"(?:.*/)?T88_111/{case}_mpr_n\d_anon_111_t88_masked_gfc")},
    extra_channels={"T1_with_skull": Source(r"(?:.*/)?T88_111/{case}_mpr_n\d_anon_111_t88_gfc")},
    label=(Source(r"(?:.*/)?FSL_SEG/{case}_mpr_n\d_anon_111_t88_masked_gfc_fseg"),),
    **one_label_each({1: "cerebrospinal fluid", 2: "grey matter", 3: "white matter"}),
    ending=".img",
    grid=(176, 208, 176),
    spacing=(1.0, 1.0, 1.0),
    overlaps=("l2r-oasis",),
    licence=_OASIS_TERMS,
    url="https://www.oasis-brains.org",
    citation=_MARCUS,
    notes=(
        "Analyze pairs (.hdr and .img), a header without orientation: left and right are as the files say",
        "the tissues are automatic (FSL FAST), on the atlas-registered scan; raw scans are not used",
        "MR1 and MR2 are two sessions of one subject",
    ),
)

_OASIS3_FILE = r"(?:.*/)?sub-(?P<subject>OAS3\d{4})_ses(?:s)?-(?P<day>d\d+)(?:_acq-[A-Za-z0-9]+)?(?P<run>_run-\d+)?"
_OASIS3 = Release(
    name="oasis3",
    title="OASIS-3: longitudinal MRI, no segmentation",
    dataset_name="OASIS3",
    case_pattern=r"OAS3\d{4}_MR_d\d+(?:_run-\d+)?",
    patient_pattern=r"^(OAS3\d{4})_",
    session_pattern=r"_(d\d+)",
    channels={"T1w": Source(f"{_OASIS3_FILE}_T1w")},
    extra_channels={name: Source(f"{_OASIS3_FILE}_{name}") for name in ("T2w", "FLAIR")},
    case_name="{subject}_MR_{day}{run}",
    case_folder="",
    licence=_OASIS_TERMS,
    url="https://www.oasis-brains.org",
    citation="LaMontagne et al., doi:10.1101/2019.12.13.19014902",
    notes=(
        "there are no segmentations: convert with --unlabelled",
        "every run of a session is a case; several channels together need the same run number",
    ),
)

_TRACTS = ("OR_left", "OR_right", "CST_left", "CST_right")


def bits(names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Return the regions of masks that may overlap: structure i has every value in which bit i is set."""
    return {
        name: tuple(
            sorted(
                sum(1 << other for other in (index, *others))
                for count in range(len(names))
                for others in combinations([n for n in range(len(names)) if n != index], count)
            )
        )
        for index, name in enumerate(names)
    }


_BRAINPTM = Release(
    name="brainptm2021",
    title="BrainPTM 2021: optic radiation and corticospinal tract",
    dataset_name="BrainPTM2021",
    case_pattern=r"case_\d+",
    patient_pattern=r"^(BrainPTM_case_\d+)$",
    channels={"T1": Source(r"(?:.*/)?sheba75_data_(?:train|test)/{case}/T1")},
    extra_channels={
        "diffusion_first": Source(r"(?:.*/)?sheba75_data_(?:train|test)/{case}/Diffusion", volume=0)
    },
    masks={name: Source(rf"(?:.*/)?sheba75_tracts_train/{{case}}/{name}") for name in _TRACTS},
    regions=bits(_TRACTS),
    regions_class_order=(1, 2, 4, 8),
    case_name="BrainPTM_{case}",
    case_folder=r"(?:.*/)?sheba75_data_(?:train|test)/{case}",
    unlabelled_part=r"(?:^|/)sheba75_data_test/",
    grid=(128, 144, 128),
    spacing=(1.25, 1.25, 1.25),
    licence="terms of the challenge; not checked, read them at the source",
    url="https://zenodo.org/records/4600679",
    citation="BrainPTM 2021, https://brainptm-2021.grand-challenge.org (Avital, Nelkenbaum et al.)",
    notes=(
        "the four tracts are masks of their own that may overlap: bit i of the label (1, 2, 4, 8) is tract i; where "
        "tracts overlap, a segmentation that nnU-Net paints holds the one painted last, its probabilities hold both",
        "four of the 60 training cases have no corticospinal tracts and are refused when labels are asked for",
        "sheba75_tracts_test_dummy holds no truth and is not used",
        "the diffusion image is 4-D; of its volumes only the first can be asked for (--channels diffusion_first)",
    ),
)  # fmt: skip

_MR_LABELS = {
    1: "cortical grey matter",
    2: "basal ganglia",
    3: "white matter",
    4: "white matter lesions",
    5: "extracerebral cerebrospinal fluid",
    6: "ventricles",
    7: "cerebellum",
    8: "brain stem",
}
_MR_TERMS = "terms of the challenge; not checked, read them at the source"

_MR13_CASE = r"(?:.*/)?(?P<part>Training|Test)(?:ing)?Data/(?P<number>\d+)"
_MR13 = Release(
    name="mrbrains13",
    title="MRBrainS13: brain structures on 3 T MRI",
    dataset_name="MRBrainS13",
    case_pattern=r"MRBrainS13_(?:Training|Test)_\d+",
    patient_pattern=r"^(.+)$",
    channels={name: Source(f"{_MR13_CASE}/{name}") for name in ("T1", "T1_IR", "T2_FLAIR")},
    extra_channels={"T1_1mm": Source(f"{_MR13_CASE}/T1_1mm")},
    label=(Source(f"{_MR13_CASE}/LabelsForTraining"),),
    **one_label_each(_MR_LABELS),
    case_name="MRBrainS13_{part}_{number}",
    case_folder=_MR13_CASE,
    ending=".nii",
    unlabelled_part=r"(?:^|/)Test(?:ing)?Data/",
    grid=(240, 240, 48),
    licence=_MR_TERMS,
    url="https://doi.org/10.34894/645ZIN",
    citation="Mendrik et al., doi:10.1155/2015/813696",
    notes=(
        "T1_1mm has a grid of its own: it can only be converted alone, with --channels T1_1mm --unlabelled",
        "LabelsForTesting (three tissues) is not used: merge 1 and 2, 3 and 4, 5 and 6 for it",
        "the name of the folder without labels is from memory",
    ),
)

_MR18_CASE = r"(?:.*/)?(?P<part>training|test)/(?P<number>\d+)"
_MR18 = Release(
    name="mrbrains18",
    title="MRBrainS18: brain structures and pathology on 3 T MRI",
    dataset_name="MRBrainS18",
    case_pattern=r"MRBrainS18_(?:training|test)_\d+",
    patient_pattern=r"^(.+)$",
    channels={
        "T1": Source(f"{_MR18_CASE}/pre/reg_T1"),
        "IR": Source(f"{_MR18_CASE}/pre/reg_IR"),
        "FLAIR": Source(f"{_MR18_CASE}/pre/FLAIR"),
    },
    label=(Source(f"{_MR18_CASE}/segm"),),
    **one_label_each({**_MR_LABELS, 9: "infarction", 10: "other"}),
    case_name="MRBrainS18_{part}_{number}",
    case_folder=_MR18_CASE,
    unlabelled_part=r"(?:^|/)test/",
    grid=(240, 240, 48),
    licence=_MR_TERMS,
    url="https://mrbrains18.isi.uu.nl/data",
    citation="MRBrainS18, https://mrbrains18.isi.uu.nl (Kuijf, Bennink et al.)",
    notes=(
        "the bias-corrected scans of `pre` that are registered to FLAIR are used, those of `orig` are not",
        "the official score leaves out 9 (infarction) and 10 (other)",
        "where the label file lies (`segm` in the case's folder) and the test part's folder are from memory",
    ),
)

_HIPPOCAMPUS = Release(
    name="msd-hippocampus",
    title="Medical Segmentation Decathlon, task 4: hippocampus",
    dataset_name="MSDHippocampus",
    case_pattern=r"hippocampus_\d{3}",
    patient_pattern=r"^(hippocampus_\d{3})$",
    channels={"T1": Source(r"(?:.*/)?images(?:Tr|Ts)/{case}")},
    label=(Source(r"(?:.*/)?labelsTr/{case}"),),
    **one_label_each({1: "anterior", 2: "posterior"}),
    case_folder="",
    unlabelled_part=r"(?:^|/)imagesTs/",
    spacing=(1.0, 1.0, 1.0),
    submission_name="{case}.nii.gz",
    licence="CC BY-SA 4.0",
    url="http://medicaldecathlon.com",
    citation="Antonelli et al., doi:10.1038/s41467-022-30695-9; Simpson et al., arXiv:1902.09063",
    notes=(
        "crops of about 36 x 50 x 35 voxels around the hippocampus, 260 with labels and 130 without",
        "the decathlon's papers count fewer subjects than volumes (from memory, not checked), and ids do not tell "
        "which volumes are of one subject: splits by case may have a subject on both sides",
    ),
)

ANATOMY = {release.name: release for release in (_HIPPOCAMPUS, _L2R, _OASIS1, _OASIS3, _BRAINPTM, _MR13, _MR18)}
