"""What a pre-training has seen of the scored subjects is said beside every score, and never made less."""

from pathlib import Path

import pytest
import torch

from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE
from bdfm_nnunet.checkpoints.readers.public_bdfm_reader import PUBLIC_BDFM
from bdfm_nnunet.checkpoints.readers.simclr_reader import NEURO_SIMCLR
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure, describe_run
from bdfm_nnunet.exposure.known_cohorts import cohort_sentences
from bdfm_nnunet.exposure.subject_exposure import (
    NO_WEIGHTS,
    beside,
    check_untrained,
    exposure_of_weights,
    joined,
    subjects_seen,
    write_record,
)
from bdfm_nnunet.patients import CaseList
from bdfm_nnunet.source_names import cohorts_of

HASHES = {"T1": "a" * 64}
ROWS = [
    {"case": "P1_a", "patient": "P1", "part": "train"},
    {"case": "P2_a", "patient": "P2", "part": "train", "sha256": HASHES},
    {"case": "P3_a", "patient": "P3", "part": "train"},
    {"case": "P4_a", "patient": "P4", "part": "train"},
]
CASES = CaseList("Dataset501_Ward", "ward", ROWS)
IDS = [row["case"] for row in ROWS]


def pretraining(*rows, val=(), name="Dataset900_Cohort", trainer="nnUNetTrainerBDFMPretrain"):
    cases = CaseList(name, "ward", [*rows, *val])
    return describe_run(cases, train=[r["case"] for r in rows], val=[r["case"] for r in val], trainer=trainer)


def test_subjects_are_found_by_patient_and_by_value_hash():
    run = pretraining({"case": "P1_b", "patient": "P1"}, {"case": "x", "patient": "x9", "sha256": HASHES})
    seen = subjects_seen(CASES, [(IDS, Exposure((run,)), "w.pth")])
    assert seen.text == "2 of 4 seen (1 by patient, 1 by content)"
    assert seen.seen == {"P1_a": ("patient",), "P2_a": ("content",)} and seen.record == "complete"


@pytest.mark.parametrize("note", ["w.pth says nothing about the cases it was trained on", NO_WEIGHTS])
def test_no_record_is_unknown_and_not_none(note):
    seen = subjects_seen(CASES, [(IDS, Exposure(note=note), "w.pth")])
    assert (seen.text, seen.record) == ("unknown for all 4", "none")
    assert seen.notes == [f"w.pth: {note}"]


def test_a_record_with_gaps_gives_a_lower_bound():
    exposure = Exposure(note="nobody knows more").then(pretraining({"case": "P1_b", "patient": "P1"}))
    assert subjects_seen(CASES, [(IDS, exposure, "w")]).text == "at least 1 of 4 seen (1 by patient)"


def test_folds_with_records_of_their_own_are_added_up():
    run, other = pretraining({"case": "P1_b", "patient": "P1"}), pretraining({"case": "P3_b", "patient": "P3"})
    seen = subjects_seen(CASES, [(IDS[:2], Exposure((run,)), "0"), (IDS[2:], Exposure((other,)), "1")])
    assert seen.text == "2 of 4 seen (2 by patient)"
    unknown = subjects_seen(CASES, [(IDS[:2], Exposure((run,)), "0"), (IDS[2:], Exposure(note="?"), "1")])
    assert unknown.text == "at least 1 of 4 seen (1 by patient), unknown for 2"


@pytest.mark.parametrize("trainer", ["nnUNetTrainerBDFMClassification", "nnUNetTrainerBDFMSurvival"])
def test_validation_cases_of_the_own_fine_tuning_are_new_and_its_training_cases_not(trainer):
    own = pretraining(*ROWS[:1], val=ROWS[1:], name=CASES.name, trainer=trainer)
    assert subjects_seen(CASES, [(IDS[1:], Exposure((own,)), "fold 0")]).text == "0 of 3 seen"
    assert subjects_seen(CASES, [(IDS, Exposure((own,)), "fold 0")]).seen == {"P1_a": ("patient",)}


@pytest.mark.parametrize("order", [0, 1])
def test_validation_cases_of_a_pre_training_on_the_same_data_count_as_seen(order):
    before = pretraining(*ROWS[:1], val=ROWS[1:], name=CASES.name, trainer="nnUNetTrainerSimCLR")
    own = pretraining(*ROWS[:1], name=CASES.name, trainer="nnUNetTrainerBDFMClassification")
    runs = (before, own) if order else (before,)
    assert len(subjects_seen(CASES, [(IDS, Exposure(runs), "w")]).seen) == 4


def test_public_weights_name_the_cohorts_that_they_hold():
    adni = CaseList("Dataset070_ADNI", "folder-1", [])
    seen = subjects_seen(adni, [(["a", "b"], Exposure((NEURO_SIMCLR,)), "simclr.tar")])
    assert seen.text == "at least 0 of 2 seen, perhaps seen (see the notes)"
    assert any("seem to be of adni" in note and "may hold" in note for note in seen.notes)
    assert any("11 cohorts (adni, aomic, corr" in note for note in seen.notes)


def test_cases_of_public_bdfm_are_seen_by_release_and_by_their_ids():
    gli = CaseList("Dataset021_GLI", "brats2023-gli", [{"case": "BraTS-GLI-00001-000"}])
    assert subjects_seen(gli, [(["BraTS-GLI-00001-000"], Exposure((PUBLIC_BDFM,)), "w")]).text.startswith(
        "at least 1 of 1"
    )
    own = CaseList("Dataset021_Mine", "folder-1", [])
    (sentence,) = cohort_sentences(Exposure((PUBLIC_BDFM,)), own, ["BraTS-GLI-00001-000"])
    assert "ids like BraTS-GLI-00001-000" in sentence and "BD-15k holds" in sentence


@pytest.mark.parametrize("prefix", ["encoder.", ""])
@pytest.mark.parametrize(
    "names", [("patch_embed.proj.weight", "neck.0.weight"), ("0.0.weight", "1.0.attn.logit_scale")]
)
def test_weights_of_frepa_name_what_they_hold(tmp_path: Path, names: tuple[str, str], prefix: str) -> None:
    tensors = (torch.ones(8, 3, 4, 4), torch.ones(8))
    torch.save({f"{prefix}{name}": tensor for name, tensor in zip(names, tensors)}, tmp_path / "frepa.pth")
    exposure, named = exposure_of_weights(tmp_path / "frepa.pth")
    cases = CaseList("Dataset030_PDGM", "ucsf-pdgm", [], content={"release": "ucsf-pdgm"})
    seen = subjects_seen(cases, [(["UCSF-PDGM-0004"], exposure, named)])
    assert seen.text == "at least 0 of 1 seen, perhaps seen (see the notes)"
    assert any("ucsf-pdgm may have been seen" in note for note in seen.notes)
    by_ids = subjects_seen(CaseList("Dataset030_X", "x", []), [(["BraTS2021_00000"], exposure, named)])
    assert any("seem to be of brats2021" in note for note in by_ids.notes)
    torch.save({f"{prefix}{names[0]}": torch.ones(8, 3, 4, 4, 4), names[1]: torch.ones(8)}, tmp_path / "3d.pth")
    assert subjects_seen(cases, [(["a"], *exposure_of_weights(tmp_path / "3d.pth"))]).record == "none"


@pytest.mark.parametrize(
    ("name", "case", "cohort"),
    [
        ("Dataset001_X", "011_S_0005", "adni"),
        ("Dataset001_ADNI3", "x", "adni"),
        ("Dataset001_my-PPMI", "x", "ppmi"),
        ("Dataset001_NKI", "x", "corr"),
        ("Dataset001_X", "A00008326", "corr"),
        ("Dataset001_X", "UCSF-PDGM-004", "ucsf-pdgm"),
        ("Dataset001_X", "OAS30001_MR_d0129", "oasis3"),
        ("Dataset001_Ward", "ward_7", None),
        ("Dataset001_Correlation", "sub-01", None),
    ],
)
def test_cohorts_are_known_by_name_or_ids(name, case, cohort):
    assert list(cohorts_of(CaseList(name, "folder-1", []), [case])) == ([cohort] if cohort else [])


# ------------------------------------------------------------------------------------------ records beside a table


def test_a_record_is_written_beside_a_table_and_read_back(tmp_path: Path):
    run, other = pretraining(ROWS[0]), pretraining(ROWS[1])
    path = write_record(tmp_path / "subjects.csv", [Exposure((run,)), Exposure((run, other), "a gap")])
    assert path.name == "subjects.exposure.json"
    found = beside(tmp_path / "subjects.csv")
    exposure, named = found.exposure, found.name
    assert exposure == joined([Exposure((run, other), "a gap")]) and named == path.name


def test_a_damaged_record_is_unknown_or_refused(tmp_path: Path):
    (tmp_path / "a.exposure.json").write_text('{"format": 1, "runs": [{"train": 3}]}')
    assert "a form that this version does not know" in beside(tmp_path / "a.csv").exposure.note
    (tmp_path / "b.exposure.json").write_text("{")
    with pytest.raises(InputError, match=r"b\.exposure\.json"):
        beside(tmp_path / "b.csv")


def test_the_checkpoint_of_the_fold_tells_it(tmp_path: Path):
    stored = Exposure((pretraining(ROWS[0]),)).as_dict()
    content = {"network_weights": {"encoder.weight": torch.ones(2)}, EXPOSURE: stored}
    torch.save(content, tmp_path / "checkpoint_final.pth")
    (tmp_path / "validation").mkdir()
    found = beside(tmp_path / "validation" / "subjects.csv")
    exposure, named = found.exposure, found.name
    assert (len(exposure.runs), named) == (1, "checkpoint_final.pth")
    assert exposure_of_weights(tmp_path / "checkpoint_final.pth") == (exposure, named)


def test_without_anything_beside_it_is_unknown(tmp_path: Path):
    found = beside(tmp_path / "subjects.csv")
    exposure, named = found.exposure, found.name
    assert (exposure.runs, exposure.note, named) == ((), NO_WEIGHTS, "unknown weights")


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_model_that_knows_kept_out_cases_is_refused(part):
    first, second = pretraining({"case": "P1_a"}), pretraining({"case": "P2_a"}, trainer="nnUNetTrainerBDFMSurvival")
    run = second if part == "train" else {**second, "train": first["train"], "val": second["train"]}
    exposure = Exposure((first, run))
    check_untrained(exposure, "Dataset900_Cohort", ["P3_a", "P1_b"], "w.pth")
    check_untrained(exposure, "Dataset501_Ward", ["P2_a"], "w.pth")
    check_untrained(Exposure((first,)), "Dataset900_Cohort", ["P1_a"], "w.pth")  # a pre-training is reported instead
    check_untrained(Exposure(note="nothing is known"), "Dataset900_Cohort", ["P1_a"], "w.pth")
    with pytest.raises(InputError, match=r"w\.pth has trained on 1 of the cases that are kept out \(P2_a\)"):
        check_untrained(exposure, "Dataset900_Cohort", ["P2_a", "P3_a"], "w.pth")
