"""The tables of public data sets are read as they are.

Columns and spellings are those that public code reads from these files; ids, ages and times are made up.
"""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.targets import TargetType, read_targets
from bdfm_nnunet.targets.column_requests import column_request
from tests.targets.conftest import Install

UCSF = (
    "ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis (WHO 2021),MGMT status,MGMT index,1p/19q,IDH,"
    "1-dead 0-alive,OS,EOR,Biopsy prior to imaging,BraTS21 ID,BraTS21 Segmentation Cohort,BraTS21 MGMT Cohort\n"
    'UCSF-PDGM-004,M,66,4,"Glioblastoma, IDH-wildtype",negative,0,unknown,wildtype,1,1303,STR,No,BraTS2021_00097,,\n'
    'UCSF-PDGM-005,F,80,4,"Glioblastoma, IDH-wildtype",indeterminate,unknown,unknown,wildtype,1,274,biopsy,No,,,\n'
    'UCSF-PDGM-010,F,40,2,"Astrocytoma, IDH-mutant",positive,5,intact,IDH1 p.R132H,0,,GTR,No,,,\n'
    'UCSF-PDGM-0011,M,35,3,"Oligodendroglioma",positive,3,Co-deletion,IDH2 p.R172K,0,2001,GTR,No,,,\n'
    'UCSF-PDGM-012,M,51,3,"Astrocytoma",unknown,unknown,relative co-deletion,mutated (NOS),0,900,GTR,No,,,\n'
    'UCSF-PDGM-433,M,70,4,"Glioblastoma, IDH-wildtype",positive,7,unknown,wildtype,1,400,GTR,No,,,\n'
    'UCSF-PDGM-0433_FU016d,M,70,4,"Glioblastoma, IDH-wildtype",positive,7,unknown,wildtype,1,384,GTR,Yes,,,\n'
    'UCSF-PDGM-999,M,70,4,"Glioblastoma, IDH-wildtype",positive,7,unknown,wildtype,1,400,GTR,No,,,\n'
)
UCSF_CASES = {f"UCSF-PDGM-{number:04d}": f"UCSF-PDGM-{number:04d}" for number in (4, 5, 10, 11, 12, 433)} | {
    "UCSF-PDGM-0433_FU016d": "UCSF-PDGM-0433"
}


def test_ucsf_pdgm_as_it_is(install: Install) -> None:
    report = install(UCSF, UCSF_CASES, name="UCSF-PDGM-metadata_v5.csv", release="ucsf-pdgm")
    targets = report.targets
    assert "clinical table of UCSF-PDGM" in report.source
    assert set(targets.columns) == {"idh", "grade", "mgmt", "codeletion", "os", "age", "sex"}
    assert targets.columns["idh"].classes == ("wildtype", "mutant")
    np.testing.assert_array_equal(targets.numbers["idh"].ravel(), [0, 0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(targets.numbers["grade"].ravel(), [2, 2, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(targets.numbers["mgmt"].ravel(), [0, np.nan, 1, 1, np.nan, 1, 1])
    np.testing.assert_array_equal(targets.numbers["codeletion"].ravel(), [*[np.nan] * 2, 0, 1, *[np.nan] * 3])
    survival = [[1303, 1], [274, 1], [np.nan] * 2, [2001, 0], [900, 0], [400, 1], [384, 1]]
    np.testing.assert_array_equal(targets.numbers["os"], survival)
    assert targets.columns["age"].unit == "years" and targets.groups["sex"]["UCSF-PDGM-0010"] == "F"
    assert len(set(targets.patients.values())) == 6
    assert any("row 9 'UCSF-PDGM-999'" in note for note in report.notes)


def test_single_targets_of_a_known_table(install: Install) -> None:
    columns = tuple(map(column_request, ("idh:binary", "grade", "years:continuous=Age at MRI")))
    targets = install(UCSF, UCSF_CASES, columns=columns).targets
    assert list(targets.columns) == ["idh", "grade", "years"] and "sex" in targets.groups
    assert targets.columns["idh"].classes == ("wildtype", "mutant")
    with pytest.raises(InputError, match="is a class beyond the 2 of a binary target"):
        install(UCSF, UCSF_CASES, columns=(column_request("idh:binary=IDH"),))


def test_damaged_tables_are_refused_in_one_sentence_or_read_back_as_installed(install: Install, tmp_path: Path) -> None:
    draw = random.Random(3)
    junk = [
        "",
        "\0",
        "'",
        '"',
        ",",
        ";",
        "\n",
        "=1+1",
        "1e999",
        "nan",
        "#N/A",
        "\u0661",
        "1,5",
        "2020-01-01",
        "../x",
        "*[",
    ]
    ends = set()
    for _ in range(40):
        text = UCSF
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(text))
            text = text[:at] + draw.choice(junk) + text[at + draw.choice((0, 0, 9)) :]
        try:
            report = install(text, UCSF_CASES, known=draw.choice((None, "none")))
        except InputError as error:
            assert "\n" not in str(error)
            ends.add("refused")
            continue
        back = read_targets(tmp_path / "Dataset501_Demo")
        assert back.columns == report.targets.columns and back.groups == report.targets.groups
        for name in back.columns:
            np.testing.assert_array_equal(back.numbers[name], report.targets.numbers[name])
        ends.add("read")
    assert ends == {"refused", "read"}


def test_a_balanced_part_is_drawn_by_patient_and_seed(install: Install) -> None:
    rows = [f"UCSF-PDGM-{number:03d},{'IDH1 p.R132C' if number % 4 == 0 else 'wildtype'},4,1,{number}"
            for number in range(1, 41)]  # fmt: skip
    table = "\n".join(["ID,IDH,WHO CNS Grade,1-dead 0-alive,OS", *rows, "UCSF-PDGM-0001_FU010d,wildtype,4,1,5"])
    cases = {f"UCSF-PDGM-{number:04d}": f"UCSF-PDGM-{number:04d}" for number in range(1, 41)}
    cases["UCSF-PDGM-0001_FU010d"] = "UCSF-PDGM-0001"
    columns: list[set[str]] = []
    for seed in (1, 1, 2):
        report = install(table, cases, balanced="idh", seed=seed)
        known = report.targets.known("idh")
        assert sorted(report.targets.values("idh", known).ravel()) == [0] * 10 + [1] * 10
        assert len({report.targets.patients[case] for case in known}) == 20
        assert len(report.targets.known("os")) == 41
        columns.append(set(known))
    assert columns[0] == columns[1] != columns[2]
    with pytest.raises(InputError, match=r"--balanced os names no target with classes \(idh"):
        install(table, cases, balanced="os")


UPENN = """\
ID,Gender,Age_at_scan_years,Survival_from_surgery_days_UPDATED,Survival_Status,Survival_Censor,Time_since_baseline_preop,\
IDH1,MGMT,KPS,GTR_over90percent,PsP_TP_score
UPENN-GBM-00001_11,F,63.04,500,Deceased,,0,Wildtype,Methylated,90,Y,
UPENN-GBM-00001_21,F,64.2,77,Deceased,,423,Wildtype,Methylated,Not Available,Not Applicable,3.0
UPENN-GBM-00002_11,M,70.5,Not Available,Alive,812,0,NOS/NEC,Indeterminate,80,N,
UPENN-GBM-00003_11,M,48,Not Available,Lost to Follow-up,31,0,Mutated,Unmethylated,100,Y,
UPENN-GBM-00004_11,M,55,Not Available,Deceased - uncertain date of death,60,0,Wildtype,Not Available,100,Not Available,
"""


def test_upenn_gbm_as_it_is(install: Install) -> None:
    cases = {line.split(",")[0]: line[:15] for line in UPENN.splitlines()[1:]}
    targets = install(UPENN, cases).targets
    order = list(targets.cases)
    assert order[1] == "UPENN-GBM-00001_21"
    np.testing.assert_array_equal(targets.numbers["os"], [[500, 1], [77, 1], [812, 0], [31, 0], [60, 0]])
    np.testing.assert_array_equal(targets.numbers["idh"].ravel(), [0, 0, np.nan, 1, 0])
    np.testing.assert_array_equal(targets.numbers["mgmt"].ravel(), [1, 1, np.nan, 0, np.nan])
    np.testing.assert_array_equal(targets.numbers["age"].ravel(), [63.04, 64.2, 70.5, 48, 55])
    np.testing.assert_array_equal(targets.numbers["resection_above_90"].ravel(), [1, np.nan, 0, 1, np.nan])


OASIS_1 = """\
ID;M/F;Hand;Age;Educ;SES;MMSE;CDR;eTIV;nWBV;ASF;Delay;;
OAS1_0001_MR1;F;R;74;2;3;29;0;1344;0,743;1,306;N/A;;
OAS1_0002_MR1;F;R;55;4;1;29;0,5;1147;0,81;1,531;N/A;;
OAS1_0007_MR1;M;R;21;;;;;1516;0,83;1,157;N/A;;
OAS1_0061_MR1;M;R;20;;;;;1516;0,83;1,157;N/A;;
OAS1_0061_MR2;M;R;20;;;30;;1516;0,83;1,157;40;;
OAS1_0031_MR1;M;R;88;1;4;26;1;1419;0,674;1,236;N/A;;
"""


def test_oasis_1_from_a_german_spreadsheet(install: Install) -> None:
    cases = {line.split(";")[0]: line[:9] for line in OASIS_1.splitlines()[1:]}
    report = install(OASIS_1.encode("utf-8-sig"), cases)
    targets = report.targets
    assert targets.columns["cdr"].type is TargetType.ORDINAL
    assert targets.columns["cdr"].classes == ("0", "0.5", "1", "2", "3")
    cdr = dict(zip(targets.cases, targets.numbers["cdr"].ravel()))
    assert cdr["OAS1_0002_MR1"] == 1 and cdr["OAS1_0031_MR1"] == 2 and np.isnan(cdr["OAS1_0007_MR1"])
    assert dict(zip(targets.cases, targets.numbers["impaired"].ravel()))["OAS1_0031_MR1"] == 1
    assert targets.columns["sex"].classes == ("F", "M")
    assert any("no case has the class 2 or 3" in note for note in report.notes)


OASIS_3_CDR = """\
OASISID,OASIS_session_label,days_to_visit,age at visit,MMSE,memory,CDRSUM,CDRTOT,dx1
OAS30001,OAS30001_UDSb4_d0000,0000,65.15,28,0,0,0,Cognitively normal
OAS30001,OAS30001_UDSb4_d0339,0339,66.08,28,0,0,0,Cognitively normal
OAS30001,OAS30001_UDSb4_d0722,0722,67.12,30,0.5,1,0.5,uncertain dementia
OAS30002,OAS30002_UDSb4_d0010,0010,70,.,0,4,1,AD Dementia
"""


def test_oasis_3_takes_the_visit_nearest_to_the_scan(install: Install) -> None:
    cases = {f"OAS30001_MR_d{day}": "OAS30001" for day in ("0129", "0757", "2430")} | {"OAS30002_MR_d0000": "OAS30002"}
    targets = install(OASIS_3_CDR, cases).targets
    np.testing.assert_array_equal(targets.numbers["cdr"].ravel(), [0, 1, np.nan, 2])
    np.testing.assert_array_equal(targets.numbers["age"].ravel(), [65.15, 67.12, np.nan, 70])
    names = {case.replace("_MR_", "_ses-"): patient for case, patient in cases.items()}
    np.testing.assert_array_equal(install(OASIS_3_CDR, names).targets.numbers["cdr"].ravel(), [0, 1, np.nan, 2])


def test_oasis_3_demographics_go_beside_the_ratings(install: Install) -> None:
    cases = {"OAS30001_MR_d0129": "OAS30001", "OAS30002_MR_d0000": "OAS30002"}
    install(OASIS_3_CDR, cases)
    table = "OASISID,Subject_accession,AgeatEntry,AgeatDeath,YOB,GENDER,EDUC,race\nOAS30001,C1,65,,,1,12,White\n"
    report = install(table + "OAS30002,C2,70,,,2,16,Black\n", cases, add=True)
    assert set(report.targets.columns) == {"age", "cdr", "impaired", "sex", "education"}
    np.testing.assert_array_equal(report.targets.numbers["sex"].ravel(), [1, 0])
    assert report.targets.groups["race"] == {"OAS30001_MR_d0129": "White", "OAS30002_MR_d0000": "Black"}


ADNIMERGE = """\
"RID","COLPROT","PTID","SITE","VISCODE","EXAMDATE","DX_bl","AGE","PTGENDER","PTEDUCAT","APOE4","CDRSB","MMSE","DX","Years_bl"
"2","ADNI1","011_S_0002","11","bl","2005-09-08","CN","74.3","Male","16","0","0","28","CN","0"
"2","ADNI1","011_S_0002","11","m06","2006-03-06","CN","74.3","Male","16","0","0","28","NL to MCI","0.49"
"3","ADNI1","011_S_0003","11","bl","2005-09-12","AD","81.3","Male","18","1","4.5","20","Dementia","0"
"5","ADNI1","022_S_0005","22","bl","2005-09-07","LMCI","73.7","Female","16","0","1","29","MCI","0"
"5","ADNI1","022_S_0005","22","m36","2008-09-07","LMCI","73.7","Female","16","0","","","","3.0"
"""


def test_adnimerge_with_names_of_bids(install: Install) -> None:
    cases = {
        "sub-ADNI011S0002_ses-M000": {"patient": "sub-ADNI011S0002", "session": "M000"},
        "sub-ADNI011S0002_ses-M006": {"patient": "sub-ADNI011S0002", "session": "ses-M006"},
        "sub-ADNI011S0003_ses-M00": "sub-ADNI011S0003",
        "022_S_0005": "022_S_0005",
    }
    report = install(ADNIMERGE, cases)
    targets = report.targets
    by_case = {name: dict(zip(targets.cases, targets.numbers[name].ravel())) for name in targets.columns}
    assert by_case["diagnosis"] == {
        "022_S_0005": 1, "sub-ADNI011S0002_ses-M000": 0, "sub-ADNI011S0002_ses-M006": 1, "sub-ADNI011S0003_ses-M00": 2,
    }  # fmt: skip
    assert by_case["age"]["sub-ADNI011S0002_ses-M006"] == pytest.approx(74.79)
    assert by_case["ad"]["sub-ADNI011S0003_ses-M00"] == 1 and np.isnan(by_case["ad"]["022_S_0005"])
    assert targets.groups["site"]["022_S_0005"] == "22"


def test_a_collection_of_the_archive(install: Install) -> None:
    table = (
        '"Image Data ID","Subject","Group","Sex","Age","Visit","Modality","Description","Type","Acq Date","Format"\n'
        '"I1","002_S_0295","CN","M","85","bl","MRI","MP-RAGE","Original","4/18/2006","DCM"\n'
        '"I2","002_S_0413","AD","F","76","bl","MRI","MP-RAGE","Original","5/19/2006","DCM"\n'
        '"I3","002_S_0413","AD","F","77","m12","MRI","MP-RAGE","Original","5/22/2007","DCM"\n'
    )
    targets = install(table, {"002_S_0295": "002_S_0295", "002_S_0413": "002_S_0413"}).targets
    np.testing.assert_array_equal(targets.numbers["ad"].ravel(), [0, 1])
    np.testing.assert_array_equal(targets.numbers["age"].ravel(), [85, 76])
    by_image = install(table, {"I1": "002_S_0295", "I3": "002_S_0413"}).targets
    np.testing.assert_array_equal(by_image.numbers["age"].ravel(), [85, 77])


def test_bids_participants_with_their_sidecar(install: Install, tmp_path: Path) -> None:
    (tmp_path / "participants.json").write_text(
        json.dumps(
            {
                "age": {"Description": "age", "Units": "year"},
                "group": {"Levels": {"patient": "with epilepsy", "control": "healthy"}},
                "rating": {"Levels": {"3": "worst", "2": "worse", "1": "good"}},
            }
        )
    )
    rows = [f"sub-{n:02d}\t{20 + n}.5\t{'patient' if n % 2 else 'control'}\t{n % 3 + 1}\tn/a" for n in range(1, 13)]
    table = "\n".join(["participant_id\tage\tgroup\trating\thandedness", *rows]) + "\n"
    cases = {f"sub-{n:02d}_ses-1_T1w": {"patient": f"sub-{n:02d}", "session": "1"} for n in range(1, 13)}
    report = install(table, cases, name="participants.tsv")
    assert report.targets.columns["age"].unit == "years"
    assert report.targets.columns["group"].classes == ("control", "patient")
    assert report.targets.columns["rating"].classes == ("3", "2", "1")
    assert "handedness" not in report.targets.columns
    assert any("no target was made of handedness" in note for note in report.notes)


def test_sessions_of_a_longitudinal_table_are_told_apart(install: Install) -> None:
    table = "participant_id\tsession_id\tage\nsub-01\tses-1\t30\nsub-01\tses-2\t31\nsub-02\tses-1\t40\n"
    cases = {f"{s}_{e}": {"patient": s, "session": e} for s, e in
             (("sub-01", "ses-1"), ("sub-01", "ses-2"), ("sub-02", "ses-1"), ("sub-02", "ses-2"))}  # fmt: skip
    report = install(table, cases, name="sessions.tsv")
    np.testing.assert_array_equal(report.targets.numbers["age"].ravel(), [30, 31, 40, np.nan])


def test_runs_have_their_own_task_and_motion(install: Install) -> None:
    """As `bdfm convert fmri-...` writes them: what a subject did differs from run to run."""
    table = (
        "case,patient,session,site,family,task,frames,source_frames,source_repetition_time,frames_dropped,displacement,"
        "brain_voxels\na_rest,a,,Ulm,,rest,99,99,0.8,0,0.1,7\na_motor,a,,Ulm,,motor,80,80,0.8,0,0.25,7\n"
        "b_motor,b,,Ulm,,motor,70,70,0.8,0,,7\nb_wm,b,,Ulm,,wm,60,60,0.8,0,0.3,7\n"
    )
    rows = {name: name[0] for name in ("a_rest", "a_motor", "b_motor", "b_wm")}
    found = install(table, rows).targets
    assert found.columns["task"].type is TargetType.MULTICLASS
    classes = [found.columns["task"].classes[int(each)] for each in found.values("task", list(rows))[:, 0]]
    assert classes == ["rest", "motor", "motor", "wm"]
    assert found.columns["displacement"].unit == "mm"
    assert np.allclose(found.values("displacement", list(rows))[:, 0], [0.1, 0.25, np.nan, 0.3], equal_nan=True)


def test_a_table_can_be_named_or_declared_unknown(install: Install) -> None:
    cases = {line.split(";")[0]: line[:9] for line in OASIS_1.splitlines()[1:]}
    report = install(OASIS_1, cases, known="none")
    assert "nWBV" in report.targets.columns and "M_F" in report.targets.columns
    with pytest.raises(InputError, match=r"is not the clinical table of UCSF-PDGM .*: it lacks IDH"):
        install(OASIS_1, cases, known="ucsf-pdgm")
    with pytest.raises(InputError, match="--known ucsf is no known table, expected ucsf-pdgm, upenn-gbm"):
        install(OASIS_1, cases, known="ucsf")
