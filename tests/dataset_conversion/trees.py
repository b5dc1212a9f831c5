"""Tiny downloads in the real layout of every release, with the irregularities that the real ones have.

`make_tree` writes one and returns what was planted. Where a layout is not certain, the tree has the form that the
entry's notes name.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.dataset_conversion.brats_trees import BRATS_TREES
from tests.dataset_conversion.planting import OK, REFUSED, SHAPE, Planted, Planter


def make_tree(release: str, root: Path, seed: int = 0) -> Planted:
    """Writes the tree of a release to `root`."""
    planter = Planter(root, seed)
    TREES[release](planter)
    return planter.planted


# -------------------------------------------------------------------------------------------------- other tumours


def _msd(p: Planter) -> None:
    """4-D images, hidden files beside them, labels in another order."""
    for case in ("BRATS_001", "BRATS_002"):
        p.image(f"Task01_BrainTumour/imagesTr/{case}.nii.gz", shape=(*SHAPE, 4))
        p.case(case, label=p.label(f"Task01_BrainTumour/labelsTr/{case}.nii.gz", (1, 2, 3)))
    p.image("Task01_BrainTumour/imagesTs/BRATS_485.nii.gz", shape=(*SHAPE, 4))
    p.case("BRATS_485", test=True)
    for folder in ("imagesTr", "labelsTr"):
        (p.root / f"Task01_BrainTumour/{folder}/._BRATS_001.nii.gz").write_bytes(b"junk")
    p.planted.junk += 2


def _ucsf(p: Planter) -> None:
    """Ids of three digits in the table, scaled integers, follow-ups, copies and a 4-D file beside the scans."""
    top = "PKG - UCSF-PDGM Version 5/UCSF-PDGM-v5"
    cases = {"UCSF-PDGM-0004": (1, 2, 4), "UCSF-PDGM-0433_FU016d": (2,), "UCSF-PDGM-0315": (2, 4)}
    for case, values in cases.items():
        stem = f"{top}/{case}_nifti/{case}"
        for name in ("T1", "T1c", "T2", "FLAIR", "ADC", "DTI_eddy_FA"):
            p.image(f"{stem}_{name}.nii.gz", slope=0.37)
        for name in ("T1_bias", "brain_segmentation"):
            p.image(f"{stem}_{name}.nii.gz")
        p.image(f"{stem}_DTI_eddy_noreg.nii.gz", shape=(5, 5, 5, 3))
        p.case(case, label=p.label(f"{stem}_tumor_segmentation.nii.gz", values))
    p.table(f"{top}/UCSF-PDGM-metadata_v5.csv", [
        {"ID": "UCSF-PDGM-004", "Sex": "F", "BraTS21 ID": "BraTS2021_00097"},
        {"ID": "UCSF-PDGM-433", "Sex": "M", "BraTS21 ID": ""},
    ])  # fmt: skip
    p.planted.aliases = {"UCSF-PDGM-0004": ["BraTS2021_00097"], "UCSF-PDGM-0315": []}
    p.planted.patients = {case: "UCSF-PDGM-0433" for case in cases if case != "UCSF-PDGM-0004"}


def _upenn(p: Planter) -> None:
    """Two kinds of segmentation, one of them for all, follow-ups with none, and unstripped copies."""
    for case, kinds in {"UPENN-GBM-00001_11": "a", "UPENN-GBM-00002_11": "am", "UPENN-GBM-00002_21": ""}.items():
        for name in ("T1", "T1GD", "T2", "FLAIR"):
            p.image(f"images_structural/{case}/{case}_{name}.nii.gz")
            p.image(f"images_structural_unstripped/{case}/{case}_{name}_unstripped.nii.gz")
        label = None
        if "a" in kinds:
            label = p.label(f"automated_segm/{case}_automated_approx_segm.nii.gz", (1, 2, 4))
            p.planted.notes[case] = "automated"
        if "m" in kinds:
            label = p.label(f"images_segm/{case}_segm.nii.gz", (1, 2, 4))
            p.planted.notes[case] = "manual"
        p.case(case, label=label, test=not kinds)
        p.planted.patients[case] = case[:-3]


# --------------------------------------------------------------------------------------------------------- lesions


def _atlas(p: Planter) -> None:
    """Sites in the ids, the part without lesions, the workbook."""
    for part, case in (
        ("Training/R001", "sub-r001s001"),
        ("Training/R009", "sub-r009s044"),
        ("Testing/R047", "sub-r047s002"),
    ):
        stem = f"ATLAS_2/{part}/{case}/ses-1/anat/{case}_ses-1_space-MNI152NLin2009aSym"
        p.image(f"{stem}_T1w.nii.gz")
        test = part.startswith("Testing")
        label = None if test else p.label(f"{stem}_label-L_desc-T1lesion_mask.nii.gz", (1,))
        p.case(f"{case}_ses-1", label=label, test=test)
        p.planted.patients[f"{case}_ses-1"] = case
        p.planted.sites[f"{case}_ses-1"] = case[4:8]
    p.table("ATLAS_2/20220425_ATLAS_2.0_MetaData.xlsx", [{"Subject ID": "sub-r001s001", "Sex": "M"}])
    p.image("ATLAS_2/MNI152NLin2009aSym.nii.gz")


def _isles(p: Planter) -> None:
    """FLAIR on a grid of its own, masks among the derivatives, an empty one."""
    for number, values in ((1, (1,)), (2, ())):
        case = f"sub-strokecase{number:04d}"
        stem = f"{case}/ses-0001"
        for name in ("dwi", "adc"):
            p.image(f"ISLES-2022/{stem}/dwi/{case}_ses-0001_{name}.nii.gz")
        p.image(f"ISLES-2022/{stem}/anat/{case}_ses-0001_FLAIR.nii.gz", shape=(12, 12, 5))
        p.case(case, label=p.label(f"ISLES-2022/derivatives/{stem}/{case}_ses-0001_msk.nii.gz", values))


# --------------------------------------------------------------------------------------------------------- anatomy


def _hippocampus(p: Planter) -> None:
    """Float images and labels of bytes, crops of many sizes, hidden files beside them, the test part."""
    for number, shape in ((1, (9, 8, 7)), (3, (8, 11, 6)), (367, (7, 9, 9))):
        case = f"hippocampus_{number:03d}"
        p.image(f"Task04_Hippocampus/imagesTr/{case}.nii.gz", shape=shape)
        p.case(case, label=p.label(f"Task04_Hippocampus/labelsTr/{case}.nii.gz", (1, 2), shape=shape))
    p.image("Task04_Hippocampus/imagesTs/hippocampus_002.nii.gz")
    p.case("hippocampus_002", test=True)
    (p.root / "Task04_Hippocampus/dataset.json").write_text('{"name": "Hippocampus"}')
    for folder in ("imagesTr", "labelsTr"):
        (p.root / f"Task04_Hippocampus/{folder}/._hippocampus_001.nii.gz").write_bytes(b"junk")
    p.planted.junk += 2


def _l2r(p: Planter) -> None:
    """Labels named like images, or not; masks beside them."""
    for number, end in ((1, "_0000"), (2, "")):
        case = f"OASIS_{number:04d}"
        p.image(f"imagesTr/{case}_0000.nii.gz")
        p.image(f"masksTr/{case}_0000.nii.gz")
        p.case(case, label=p.label(f"labelsTr/{case}{end}.nii.gz", range(1, 36)))
    p.image("imagesTs/OASIS_0415_0000.nii.gz")
    p.case("OASIS_0415", test=True)


def _oasis1(p: Planter) -> None:
    """Analyze pairs, one number of averaged scans per case, two sessions of one subject."""
    for case, count in (("OAS1_0001_MR1", 4), ("OAS1_0002_MR1", 3), ("OAS1_0002_MR2", 4)):
        top = f"disc1/{case}"
        stem = f"{case}_mpr_n{count}_anon_111_t88"
        p.image(f"{top}/RAW/{case}_mpr-1_anon.img")
        p.image(f"{top}/PROCESSED/MPRAGE/T88_111/{stem}_gfc.img")
        p.image(f"{top}/PROCESSED/MPRAGE/T88_111/{stem}_masked_gfc.img")
        p.case(case, label=p.label(f"{top}/FSL_SEG/{stem}_masked_gfc_fseg.img", (1, 2, 3)))
        p.planted.patients[case] = case[:9]


def _oasis3(p: Planter) -> None:
    """Sessions by day, several runs, T2 and FLAIR beside."""
    p.planted.unlabelled = True
    for subject, day, folder, run in (
        ("OAS30001", "d0129", "anat2", ""),
        ("OAS30001", "d0757", "anat1", "_run-01"),
        ("OAS30001", "d0757", "anat2", "_run-02"),
        ("OAS30002", "d0371", "anat1", ""),
    ):
        p.image(f"{subject}_MR_{day}/{folder}/NIFTI/sub-{subject}_sess-{day}{run}_T1w.nii.gz")
        p.image(f"{subject}_MR_{day}/{folder}x/NIFTI/sub-{subject}_sess-{day}{run}_acq-TSE_T2w.nii.gz")
        case = f"{subject}_MR_{day}{run}"
        p.case(case)
        p.planted.patients[case] = subject


def _brainptm(p: Planter) -> None:
    """Four masks that overlap, a case without two of them, the test part with dummies."""
    tracts = ("OR_left", "OR_right", "CST_left", "CST_right")
    for number, known in ((1, tracts), (2, tracts), (3, tracts[:2]), (61, ())):
        part, case = ("test" if number > 60 else "train"), f"case_{number}"
        p.image(f"sheba75_data_{part}/{case}/T1.nii.gz")
        p.image(f"sheba75_data_{part}/{case}/brain_mask.nii.gz")
        p.image(f"sheba75_data_{part}/{case}/Diffusion.nii.gz", shape=(*SHAPE, 3))
        masks = {name: p.label(f"sheba75_tracts_train/{case}/{name}.nii.gz", (1,)) for name in known}
        p.case(f"BrainPTM_{case}", REFUSED if len(masks) == 2 else OK, test=number > 60)
        if len(masks) == 4:
            p.planted.masks[f"BrainPTM_{case}"] = masks
    p.label("sheba75_tracts_test_dummy/case_61/OR_left.nii.gz", (1,))


def _mrbrains13(p: Planter) -> None:
    """A scan on another grid, two label files, the same numbers in both parts."""
    for part, number in (("Training", 1), ("Training", 2), ("Test", 1)):
        top, case = f"{part}Data/{number}", f"MRBrainS13_{part}_{number}"
        for name in ("T1", "T1_IR", "T2_FLAIR"):
            p.image(f"{top}/{name}.nii")
        p.image(f"{top}/T1_1mm.nii", shape=(11, 11, 11))
        label = None
        if part == "Training":
            label = p.label(f"{top}/LabelsForTraining.nii", range(1, 9))
            p.label(f"{top}/LabelsForTesting.nii", range(1, 4))
        p.case(case, label=label, test=label is None)


def _mrbrains18(p: Planter) -> None:
    """Unregistered originals beside, numbers with zeros in front, ten labels."""
    for number in ("1", "070"):
        for name in ("reg_T1", "reg_IR", "FLAIR", "IR"):
            p.image(f"training/{number}/pre/{name}.nii.gz")
            p.image(f"training/{number}/orig/{name}.nii.gz")
        p.case(f"MRBrainS18_training_{number}", label=p.label(f"training/{number}/segm.nii.gz", range(1, 11)))


# --------------------------------------------------------------------------------------------------------- vessels


def _topcow(p: Planter) -> None:
    """MRA and CTA of the same patients, labels 1 to 12 and 15."""
    for number in (1, 2):
        for kind in ("mr", "ct"):
            case = f"topcow_{kind}_{number:03d}"
            p.image(f"imagesTr/{case}_0000.nii.gz")
            p.case(case, label=p.label(f"cow_seg_labelsTr/{case}.nii.gz", (*range(1, 13), 15)))
            p.planted.patients[case] = f"topcow_{number:03d}"
    p.image("imagesTs/topcow_mr_131_0000.nii.gz")
    p.case("topcow_mr_131", test=True)


def _costa(p: Planter) -> None:
    for case, site in (("IXI-Guys-001", "IXI-Guys"), ("LocH1-004", "LocH1"), ("ADAM_10", "ADAM")):
        p.image(f"imagesTr/{case}.nii.gz")
        p.image(f"imagesTr_normed/{case}.nii.gz")
        p.case(case, label=p.label(f"labelsTr/{case}.nii.gz", (1,)))
        p.planted.sites[case] = site
    p.image("imagesTs/ADAM_11.nii.gz")
    p.image("imagesTs_normed/ADAM_11.nii.gz")
    p.case("ADAM_11", test=True)


def _cerevess(p: Planter) -> None:
    """A label whose image has to be fetched from elsewhere."""
    for case in ("IXI002-Guys-0828-MRA", "IXI012-HH-1211-MRA", "patient_7"):
        p.image(f"CereVessMRA/images/{case}.nii.gz")
        p.case(case, label=p.label(f"CereVessMRA/gt/{case}.nii.gz", (1,)))
    p.label("CereVessMRA/gt/IXI020-Guys-0700-MRA.nii.gz", (1,))
    p.case("IXI020-Guys-0700-MRA", REFUSED)
    p.planted.patients = {"IXI002-Guys-0828-MRA": "IXI002", "patient_7": "patient_7"}
    p.planted.sites = {"IXI012-HH-1211-MRA": "HH"}


# ------------------------------------------------------------------------------------------------------- open trees


def _folder(p: Planter) -> None:
    p.planted.unlabelled = True
    p.image("one/T1.nii.gz")
    p.image("two/deep/T1.nii")
    for case in ("one_T1", "two_deep_T1"):
        p.case(case)
    p.junk()


def _bids(p: Planter) -> None:
    """With and without sessions, runs, other scans, derivatives and source data, which are none of the raw data."""
    p.planted.unlabelled = True
    (p.root / "dataset_description.json").write_text('{"Name": "made up", "BIDSVersion": "1.8.0"}')
    for folder, case in (
        ("sub-01/ses-1", "sub-01_ses-1"),
        ("sub-01/ses-2", "sub-01_ses-2_acq-mprage_run-1"),
        ("sub-01/ses-2", "sub-01_ses-2_acq-mprage_run-2"),
        ("sub-A2", "sub-A2"),
    ):
        p.image(f"{folder}/anat/{case}_T1w.nii.gz")
        p.image(f"{folder}/anat/{case}_FLAIR.nii.gz")
        p.case(case)
        p.planted.patients[case] = case.partition("_")[0]
    p.image("sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.nii.gz", shape=(*SHAPE, 3))
    p.image("derivatives/bet/sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    p.image("sourcedata/sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    p.table(
        "participants.tsv", [{"participant_id": "sub-01", "site": "Ulm"}, {"participant_id": "sub-A2", "site": "n/a"}]
    )
    p.planted.sites = {"sub-01_ses-1": "Ulm", "sub-A2": ""}


TREES: Mapping[str, Callable[[Planter], None]] = {
    **BRATS_TREES,
    "msd-brain-tumour": _msd,
    "ucsf-pdgm": _ucsf,
    "upenn-gbm": _upenn,
    "atlas-r2": _atlas,
    "isles2022": _isles,
    "msd-hippocampus": _hippocampus,
    "l2r-oasis": _l2r,
    "oasis1": _oasis1,
    "oasis3": _oasis3,
    "brainptm2021": _brainptm,
    "mrbrains13": _mrbrains13,
    "mrbrains18": _mrbrains18,
    "topcow2024": _topcow,
    "costa": _costa,
    "cerevessmra": _cerevess,
    "folder": _folder,
    "bids": _bids,
}
