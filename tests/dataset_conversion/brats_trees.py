"""Trees of the BraTS releases."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from tests.dataset_conversion.planting import OK, REFUSED, REPAIRED, SHAPE, Planter

OLD = ("t1", "t1ce", "t2", "flair")
NEW = ("t1n", "t1c", "t2w", "t2f")


def _graded(prefix: str, year: int) -> Callable[[Planter], None]:
    """2018 and 2019: grade and institution in folder and name, mirrors without compression."""

    def plant(p: Planter) -> None:
        top = f"MICCAI_BraTS_{year}_Data"
        p.brats(f"{top}_Training/HGG", f"{prefix}_2013_2_1", OLD, (1, 2, 4), joint="_")
        p.brats(f"{top}_Training/LGG", f"{prefix}_TCIA10_103_1", OLD, (1, 2), joint="_", ending=".nii")
        p.brats(f"{top}_Validation", f"{prefix}_CBICA_AAM_1", OLD, None, joint="_")
        lost = f"{prefix}_CBICA_AAB_1"
        p.brats(f"{top}_Training/HGG", lost, OLD, (1,), joint="_", status=REFUSED)
        (p.root / f"{top}_Training/HGG/{lost}/{lost}_seg.nii.gz").unlink()
        p.planted.patients = {f"{prefix}_2013_2_1": f"{prefix}_2013_2"}
        p.planted.sites = {f"{prefix}_TCIA10_103_1": "TCIA10"}
        p.junk(f"{top}_Training/")

    return plant


def _brats2020(p: Planter) -> None:
    top = "MICCAI_BraTS2020_TrainingData"
    p.brats(top, "BraTS20_Training_001", OLD, (1, 2, 4), joint="_", ending=".nii")
    odd = "BraTS20_Training_355"
    p.brats(top, odd, OLD, (1, 2, 4), joint="_", ending=".nii", status=REPAIRED)
    (p.root / f"{top}/{odd}/{odd}_seg.nii").rename(p.root / f"{top}/{odd}/W39_1998.09.19_Segm.nii")
    p.brats("MICCAI_BraTS2020_ValidationData", "BraTS20_Validation_001", OLD, None, joint="_", ending=".nii")
    p.table(f"{top}/name_mapping.csv", [
        {"Grade": "HGG", "BraTS_2017_subject_ID": "Brats17_CBICA_AAB_1", "BraTS_2018_subject_ID": "NA",
         "TCGA_TCIA_subject_ID": "NA", "BraTS_2019_subject_ID": "BraTS19_CBICA_AAB_1",
         "BraTS_2020_subject_ID": "BraTS20_Training_001"},
    ])  # fmt: skip
    p.planted.aliases = {"BraTS20_Training_001": ["BraTS19_CBICA_AAB", "Brats17_CBICA_AAB"], odd: []}


def _brats2021(p: Planter) -> None:
    top = "RSNA_ASNR_MICCAI_BraTS2021"
    p.brats(f"{top}_TrainingData", "BraTS2021_00000", OLD, (1, 2, 4), joint="_")
    p.brats(f"{top}_TrainingData", "BraTS2021_00002", OLD, (1, 2), joint="_")
    p.brats(f"{top}_ValidationData", "BraTS2021_00001", OLD, None, joint="_")
    p.junk()


def _mapped(name: str, year: int) -> Callable[[Planter], None]:
    """GLI: the organisers' workbook with the ids of other years and the site."""

    def plant(p: Planter) -> None:
        top = f"{name}-GLI-{'PRE-' if year == 2025 else ''}Challenge"
        p.brats(f"{top}-TrainingData", "BraTS-GLI-00000-000", NEW, (1, 2, 3))
        p.brats(f"{top}-TrainingData", "BraTS-GLI-00005-001", NEW, (1, 2, 3))
        p.brats(f"{top}-ValidationData", "BraTS-GLI-00001-000", NEW, None)
        p.table("BraTS2023_2017_GLI_Mapping.xlsx", [
            {"BraTS2023": "BraTS-GLI-00000-000", "BraTS2021": "BraTS2021_00000", "BraTS2019": "BraTS19_CBICA_AAB_1",
             "Site No (represents the originating institution)": "18"},
        ])  # fmt: skip
        p.planted.aliases = {"BraTS-GLI-00000-000": ["BraTS19_CBICA_AAB", "BraTS2021_00000"]}
        p.planted.sites = {"BraTS-GLI-00000-000": "18", "BraTS-GLI-00005-001": ""}
        p.planted.patients = {"BraTS-GLI-00005-001": "BraTS-GLI-00005"}

    return plant


def _brats2023(task: str, cases: tuple[str, ...]) -> Callable[[Planter], None]:
    def plant(p: Planter) -> None:
        top = f"ASNR-MICCAI-BraTS2023-{task}-Challenge"
        for case in cases:
            p.brats(f"{top}-TrainingData", case, NEW, (1, 2, 3))
        p.brats(f"{top}-ValidationData", f"BraTS-{task}-00900-000", NEW, None)
        p.junk(f"{top}-TrainingData/")

    return plant


def _brats2023_met(p: Planter) -> None:
    """The file of 00232 that was published damaged."""
    _brats2023("MET", ("BraTS-MET-00002-000",))(p)
    top, case = "ASNR-MICCAI-BraTS2023-MET-Challenge-TrainingData", "BraTS-MET-00232-000"
    p.brats(top, case, NEW, (1, 2, 3), status=REFUSED)
    path = p.root / top / case / f"{case}-t2w.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])


def _brats2024_gli(p: Planter) -> None:
    p.brats("training_data1_v2", "BraTS-GLI-02251-100", NEW, (1, 2, 3, 4))
    p.brats("training_data1_v2", "BraTS-GLI-02251-101", NEW, (2, 4))
    p.brats("training_data_additional", "BraTS-GLI-00005-100", NEW, (1, 2, 3))
    p.brats("validation_data", "BraTS-GLI-02073-100", NEW, None)
    p.table("BraTS-PTG supplementary demographic information and metadata.xlsx", [
        {"BraTS Subject ID": "BraTS-GLI-02251-100", "Site": "UCSF"},
    ])  # fmt: skip
    p.planted.patients = {"BraTS-GLI-02251-101": "BraTS-GLI-02251", "BraTS-GLI-00005-100": "BraTS-GLI-00005"}
    p.planted.sites = {"BraTS-GLI-02251-100": "UCSF"}


def _brats2024_men_rt(p: Planter) -> None:
    """Native grids, one channel, and a case that was published twice."""

    def rt(folder: str, case: str, values: Iterable[int] | None, shape: tuple[int, ...], status: str = OK) -> None:
        p.brats(folder, case, ("t1c",), values, joint="_", seg="gtv", shape=shape, status=status)

    rt("BraTS-MEN-RT-Train-v2", "BraTS-MEN-RT-0002-1", (1,), (9, 8, 7))
    rt("BraTS-MEN-RT-Train-v2", "BraTS-MEN-RT-0402-1", (1,), (8, 8, 6))
    rt(".", "BraTS-MEN-RT-0402-1", (1,), (7, 8, 6), REPAIRED)
    rt("BraTS-MEN-RT-Val-validation", "BraTS-MEN-RT-0003-1", None, (6, 8, 7))


def _brats2024_met(p: Planter) -> None:
    """The archive of fixed cases beside the one it replaces."""
    top = "MICCAI-BraTS2024-MET-Challenge"
    p.brats(f"{top}-Training_1", "BraTS-MET-00002-000", NEW, (1, 2, 3))
    p.brats(f"{top}-TrainingData_2", "BraTS-MET-00500-000", NEW, (1, 2, 3))
    p.brats(f"{top}-TrainingData_2-fixed-cases", "BraTS-MET-00500-000", NEW, (1, 2, 3), status=REPAIRED)


def _brats2024_ped(p: Planter) -> None:
    top = "BraTS-PEDs2024_Training"
    p.brats(top, "BraTS-PED-00002-000", NEW, (1, 2, 3, 4))
    odd = "BraTS-PED-00255-000"
    p.brats(top, odd, NEW, (2, 4), status=REPAIRED)
    p.image(f"{top}/{odd}/{odd}-t1c.nii.gz", plain=True)
    p.brats("BraTS_Validation_Data", "BraTS-PED-00044-000", NEW, None)
    p.junk(f"{top}/")


def _brats2024_goat(p: Planter) -> None:
    p.brats("MICCAI2024-BraTS-GoAT-TrainingData-With-GroundTruth", "BraTS-GoAT-00003", NEW, (1, 2, 3))
    p.brats("MICCAI2024-BraTS-GoAT-TrainingData-Without-GroundTruth", "BraTS-GoAT-01500", NEW, None)


def _brats2026_ped(p: Planter) -> None:
    """Three time points after treatment, and a second batch with a case of the first."""
    for point in ("000", "001", "002"):
        p.brats("BraTS26_PED_training", f"BraTS-PED-00301-{point}", NEW, (1, 2, 3, 4))
    p.brats("BraTS26_PED_training", "BraTS-PED-00002-000", NEW, (1, 2))
    p.brats("BraTS-PEDs_Batch2_Release", "BraTS-PED-00002-000", NEW, (1, 2, 3, 4), status=REPAIRED)
    p.brats("BraTS26_PED_validation", "BraTS-PED-00044-000", NEW, None)
    p.planted.patients = {f"BraTS-PED-00301-{point}": "BraTS-PED-00301" for point in ("000", "001", "002")}


def _brats2026_met(p: Planter) -> None:
    """The tree of 2025, whose name it keeps, and scans of Ulm that nobody has segmented."""
    _brats2025_met(p)
    p.brats("MICCAI-LH-BraTS2025-MET-Challenge-Training/Ulm", "BraTS-MET-02000-000", NEW, None, shape=(9, 9, 7))


def _brats2025_met(p: Planter) -> None:
    """Labels 6 and 8, corrected labels in a folder of their own, no T2, native grids, an empty segmentation."""
    top = "MICCAI-LH-BraTS2025-MET-Challenge"
    ucsd = f"{top}-Training/UCSD - Training"
    p.brats(f"{top}-Training", "BraTS-MET-00002-000", NEW, (1, 2, 3))
    p.brats(ucsd, "BraTS-MET-00900-001", NEW, (1, 2, 3, 4), shape=(10, 9, 6))
    p.brats(ucsd, "BraTS-MET-00901-000", NEW, ())
    p.brats(f"{top}-Training", "BraTS-MET-00003-000", NEW[:2] + NEW[3:], (1, 2, 3), status=REPAIRED)
    p.brats(f"{top}-Training", "BraTS-MET-00004-000", NEW, (1, 2, 3), status=OK)
    p.write(f"{top}-Training/BraTS-MET-00004-000/BraTS-MET-00004-000-t2w.nii.gz", np.zeros(SHAPE, np.int16))
    for case, stray in (("BraTS-MET-01094-002", 6), ("BraTS-MET-01184-002", 8)):
        label = p.brats(ucsd, case, NEW, (1, 2, 3, stray), status=REPAIRED)
        assert label is not None
        p.planted.labels[case] = np.where(label == stray, 0, label)
    corrected = "BraTS-MET-01094-003"
    p.brats(ucsd, corrected, NEW, (1, 2), status=REPAIRED)
    p.planted.labels[corrected] = p.label(f"{top}-corrected-labels/{corrected}-seg.nii.gz", (1, 2, 3))
    p.brats(f"{top}-Validation", "BraTS-MET-00950-000", NEW, None)


BRATS_TREES: Mapping[str, Callable[[Planter], None]] = {
    "brats2018": _graded("Brats18", 2018),
    "brats2019": _graded("BraTS19", 2019),
    "brats2020": _brats2020,
    "brats2021": _brats2021,
    "brats2023-gli": _mapped("ASNR-MICCAI-BraTS2023", 2023),
    "brats2023-men": _brats2023("MEN", ("BraTS-MEN-00743-001", "BraTS-MEN-00074-000", "BraTS-MEN-00074-003")),
    "brats2023-met": _brats2023_met,
    "brats2023-ped": _brats2023("PED", ("BraTS-PED-00002-000",)),
    "brats2023-ssa": _brats2023("SSA", ("BraTS-SSA-00002-000",)),
    "brats2024-gli": _brats2024_gli,
    "brats2024-men-rt": _brats2024_men_rt,
    "brats2024-met": _brats2024_met,
    "brats2024-ped": _brats2024_ped,
    "brats2024-goat": _brats2024_goat,
    "brats2025-gli-pre": _mapped("BraTS2025", 2025),
    "brats2025-met": _brats2025_met,
    "brats2026-met": _brats2026_met,
    "brats2026-ped": _brats2026_ped,
    "brats2026-goat": _brats2024_goat,
}
