"""Every release: its tree converts as planted, nnU-Net accepts it, and the way back gives the published labels."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion import RELEASES, Release, convert, find_release
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from tests.dataset_conversion.converted import verify_with_nnunet
from tests.dataset_conversion.planting import REFUSED, Planted, Planter
from tests.dataset_conversion.trees import TREES, make_tree

NAMES = (
    "brats2018 brats2019 brats2020 brats2021 brats2023-gli brats2023-men brats2023-met brats2023-ped brats2023-ssa "
    "brats2024-gli brats2024-men-rt brats2024-met brats2024-ped brats2024-goat brats2025-gli-pre brats2025-met "
    "brats2026-met brats2026-ped brats2026-goat "
    "msd-brain-tumour ucsf-pdgm upenn-gbm atlas-r2 isles2022 msd-hippocampus l2r-oasis oasis1 oasis3 "
    "brainptm2021 mrbrains13 mrbrains18 topcow2024 costa cerevessmra folder bids"
).split()


def test_every_release_is_there_and_has_a_tree() -> None:
    of_volumes = [name for name, release in RELEASES.items() if release.runs is None and name != "dicom"]
    assert of_volumes == list(TREES) == NAMES
    assert all(release.name == name for name, release in RELEASES.items())
    assert len({release.dataset_name for release in RELEASES.values()}) == len(RELEASES)


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_complete_and_survives_json(name: str) -> None:
    release = RELEASES[name]
    assert release.licence and release.url and release.citation
    assert Release.from_dict(json.loads(json.dumps(release.as_dict()))) == release
    for kin in release.overlaps:
        assert kin in RELEASES or not kin.startswith(("brats", "oasis")), kin


@pytest.mark.parametrize("name", NAMES)
def test_description_says_what_a_user_needs(name: str) -> None:
    release = RELEASES[name]
    words = " ".join(release.describe().split())
    for text in (
        release.title,
        release.example(next(iter(release.channels))),
        *release.labels.values(),
        *release.notes,
    ):
        assert " ".join(text.split()) in words
    assert release.licence in words and release.url in words


@pytest.mark.parametrize("name", [name for name in NAMES if RELEASES[name].labels])
def test_nnunet_paints_every_label_back(name: str) -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    release = RELEASES[name]
    values = np.array([0, *sorted(release.target_of(value) for value in release.labels)])
    ordered = bool(release.regions_class_order)
    regions = {key: list(value) if ordered else value[0] for key, value in release.regions.items()}
    manager = LabelManager({"background": 0, **regions}, list(release.regions_class_order) or None)
    assert manager.has_regions == ordered
    if ordered:
        present = np.stack([np.isin(values, np.atleast_1d(region)) for region in manager.foreground_regions])
    else:
        present = np.stack([values == value for value in manager.all_labels])
    painted = manager.convert_probabilities_to_segmentation(present[:, None, None].astype(np.float32))
    assert painted.ravel().tolist() == values.tolist()


WT, TC, ET = "whole_tumor", "tumor_core", "enhancing_tumor"
UNTIL_2021 = {WT: {1, 2, 4}, TC: {1, 4}, ET: {4}}
SINCE_2023 = {WT: {1, 2, 3}, TC: {1, 3}, ET: {3}}
AFTER_TREATMENT = {
    **SINCE_2023, "resection_cavity": {4}, "non_enhancing_tumor_core": {1}, "surrounding_hyperintensity": {2},
}  # fmt: skip
CHILDREN = {
    WT: {1, 2, 3, 4}, TC: {1, 2, 3}, ET: {1}, "non_enhancing_tumor": {2}, "cystic_component": {3}, "edema": {4},
}  # fmt: skip
ON_DISK = {
    **{f"brats{year}": UNTIL_2021 for year in (2018, 2019, 2020, 2021)},
    "ucsf-pdgm": UNTIL_2021,
    "upenn-gbm": UNTIL_2021,
    **{f"brats2023-{task}": SINCE_2023 for task in ("gli", "men", "met", "ped", "ssa")},
    **{f"brats{task}": SINCE_2023 for task in ("2024-met", "2024-goat", "2025-gli-pre", "2026-goat")},
    "brats2024-gli": AFTER_TREATMENT,
    "brats2025-met": AFTER_TREATMENT,
    "brats2024-men-rt": {"gross_tumor_volume": {1}},
    "brats2024-ped": CHILDREN,
    "brats2026-ped": CHILDREN,
    "brats2026-met": {**SINCE_2023, "resection_cavity": {4}, "metastasis": {1, 3, 4}},
    "msd-brain-tumour": {WT: {1, 2, 3}, TC: {2, 3}, ET: {3}},
}  # fmt: skip
"""The organisers' regions in the values of the published files."""


@pytest.mark.parametrize("name", ON_DISK)
def test_regions_mean_what_the_organisers_mean(name: str) -> None:
    release = RELEASES[name]
    inverse = release.inverse_label_map()
    regions = {key: {inverse[value] for value in values} for key, values in release.evaluated_regions.items()}
    assert regions == ON_DISK[name]
    assert set(release.regions) <= set(regions)


def test_overlapping_masks_paint_every_structure_that_is_alone() -> None:
    release = RELEASES["brainptm2021"]
    for index, (values, painted) in enumerate(zip(release.regions.values(), release.regions_class_order, strict=True)):
        assert values == tuple(value for value in range(1, 16) if value >> index & 1)
        assert painted == 1 << index


@pytest.mark.parametrize("name", NAMES)
def test_tree_converts_as_planted(name: str, tmp_path: Path, raw: Path) -> None:
    planted = make_tree(name, tmp_path / "download", seed=NAMES.index(name))
    report = convert(name, tmp_path / "download", dataset_id=501, unlabelled=planted.unlabelled)
    manifest = read_json(report.manifest)
    rows = {row["case"]: row for row in manifest["cases"]}
    assert {case: row["status"] for case, row in rows.items()} == planted.statuses, report.refused
    assert {case for case, row in rows.items() if row["part"] == "test"} == planted.test
    assert manifest["counts"]["junk"] == planted.junk
    _check_details(rows, planted)
    verify_with_nnunet(report.folder)
    for case, label in planted.labels.items():
        np.testing.assert_array_equal(_as_published(report.folder, case, manifest), label, err_msg=case)
    for case, masks in planted.masks.items():
        written = _values(report.folder / f"labelsTr/{case}.nii.gz")
        for index, mask in enumerate(masks.values()):
            np.testing.assert_array_equal(written >> index & 1, mask, err_msg=case)
    for case in planted.test - {case for case, status in planted.statuses.items() if status == REFUSED}:
        assert (report.folder / f"imagesTs/{case}_0000.nii.gz").exists()


def _check_details(rows: Mapping[str, Any], planted: Planted) -> None:
    assert {case: rows[case]["patient"] for case in planted.patients} == planted.patients
    assert {case: rows[case]["aliases"] for case in planted.aliases} == planted.aliases
    assert {case: rows[case]["site"] for case in planted.sites} == planted.sites
    for case, words in planted.notes.items():
        assert any(words in note for note in rows[case]["notes"])
    for case, status in planted.statuses.items():
        assert bool(rows[case]["reason"]) == (status != "ok")


def _as_published(folder: Path, case: str, manifest: Mapping[str, Any]) -> np.ndarray:
    written = _values(folder / f"labelsTr/{case}.nii.gz")
    result = np.zeros_like(written)
    for value, published in manifest["inverse_labels"].items():
        result[written == int(value)] = published
    return result


def _values(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).astype(int)


def test_other_channels_on_request(tmp_path: Path, raw: Path) -> None:
    """FLAIR of ISLES alone: the grid is its own, so that labels cannot go with it."""
    make_tree("isles2022", tmp_path / "download")
    report = convert("isles2022", tmp_path / "download", dataset_id=501, channels=["flair"], unlabelled=True)
    assert [record.shape for record in report.good] == [[12, 12, 5]] * 2
    both = convert("isles2022", tmp_path / "download", dataset_id=502, channels=["flair", "adc"], unlabelled=True)
    assert len(both.refused) == 2


def test_only_some_cases(tmp_path: Path, raw: Path) -> None:
    make_tree("topcow2024", tmp_path / "download")
    report = convert("topcow2024", tmp_path / "download", dataset_id=501, only="topcow_ct_.*")
    assert [record.case for record in report.records] == ["topcow_ct_001", "topcow_ct_002"]


def test_files_that_the_converter_of_costa_renamed(tmp_path: Path, raw: Path) -> None:
    planter = Planter(tmp_path / "download", 0)
    for name in ("ADAM_10_0000", "ADAM_10_0001"):
        planter.image(f"imagesTr/{name}.nii.gz")
    planter.label("labelsTr/ADAM_10.nii.gz", (1,))
    report = convert("costa", tmp_path / "download", dataset_id=501)
    assert [record.case for record in report.good] == ["ADAM_10"]
    assert report.unused == ["imagesTr/ADAM_10_0001.nii.gz"]


def test_find_release_takes_names_alone() -> None:
    assert find_release("oasis1") is RELEASES["oasis1"]
    with pytest.raises(InputError, match="did you mean brats2024-men-rt"):
        find_release("BraTS2024-MENRT")
