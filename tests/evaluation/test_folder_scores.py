"""Two folders of small label files, scored and broken in every way a user may break them."""

import csv
import json
import re
import shutil
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import SimpleITK as sitk

from bdfm_nnunet.cli import main
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation import METRICS, evaluate_folders, score_case
from bdfm_nnunet.evaluation.score_tables import comparison_table
from bdfm_nnunet.results import Provenance, RunResult, read_result, write_result
from tests.limits import largest_file

REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing_tumor": (3,)}


def write(path, labels, spacing=(1.0, 1.0, 2.0), origin=(0.0, -239.0, 0.0)):
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path))


def labels_of(start):
    labels = np.zeros((14, 16, 18), dtype=np.uint8)
    labels[start : start + 8, 3:12, 3:12] = 2
    labels[start + 2 : start + 6, 5:10, 5:10] = 1
    labels[start + 2 : start + 6, 5:7, 5:10] = 3
    return labels


@pytest.fixture
def folders(tmp_path):
    reference, prediction = tmp_path / "reference", tmp_path / "prediction"
    for number in range(3):
        write(reference / f"case_{number}.nii.gz", labels_of(2))
        write(prediction / f"case_{number}.nii.gz", labels_of(2 + number))
    (prediction / "dataset.json").write_text("{}")
    (prediction / "._case_0.nii.gz").write_bytes(b"junk")
    return reference, prediction


def evaluate(folders, **settings):
    return evaluate_folders(*folders, regions=REGIONS, release="brats2023-gli", **settings)


def test_scores_by_hand(folders):
    result = evaluate(folders)
    rows = {row["case"]: row["regions"] for row in result["cases"]}
    assert rows["case_0"]["whole_tumor"]["dice"] == 1
    assert rows["case_0"]["whole_tumor"]["hd95_mm"] == 0
    # Shifted by one slice of 2 mm: 7 of 8 slices overlap, and the core by 3 of 4.
    assert rows["case_1"]["whole_tumor"]["dice"] == pytest.approx(7 / 8)
    assert rows["case_1"]["tumor_core"]["dice"] == pytest.approx(3 / 4)
    assert rows["case_1"]["enhancing_tumor"]["hd95_mm"] == pytest.approx(2.0)
    assert rows["case_1"]["whole_tumor"]["reference_mm3"] == 8 * 9 * 9 * 2
    summary = result["summary"]["whole_tumor"]
    assert summary["dice"]["mean"] == pytest.approx((1 + 7 / 8 + 6 / 8) / 3)
    assert summary["hd95_mm"]["median"] == pytest.approx(2.0)
    assert set(summary) == {"dice", "hd95_mm"}


def test_files_name_release_metric_version_and_definition(folders, tmp_path):
    out = tmp_path / "new" / "scores.json"
    result = evaluate(folders, out=out)
    stored = json.loads(out.read_text())
    assert stored == json.loads(json.dumps(result))
    assert (stored["release"], stored["metrics"], stored["parameters"]) == (
        "brats2023-gli", "whole", {"missing_distance_mm": 374.0},
    )  # fmt: skip
    assert "95th percentiles" in stored["definition"]
    with out.with_suffix(".csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9
    assert rows[3]["case"] == "case_1" and rows[3]["region"] == "whole_tumor" and rows[3]["metrics"] == "whole"
    assert float(rows[3]["dice"]) == pytest.approx(7 / 8)
    assert {path.name for path in out.parent.iterdir()} == {"scores.json", "scores.csv", "scores.md"}


def test_files_name_what_was_scored(folders, tmp_path):
    prediction = folders[1] / "prediction_summary.json"
    exposure = {"runs": [{"dataset": "Dataset501_A", "train": 3, "val": 1}], "note": None}
    made_by = Provenance(licences={"ixi": "CC BY-SA 3.0"}, citations=["Us (2026)"])
    write_result(prediction, RunResult(kind="prediction", exposure=exposure, provenance=made_by))
    out = tmp_path / "scores.json"
    evaluate(folders, out=out, seed=4)
    result = read_result(out, kind="evaluation")
    found = result.provenance
    assert found is not None and (result.exposure, found.licences, found.citations) == (
        exposure, {"ixi": "CC BY-SA 3.0"}, ("Us (2026)",)
    )  # fmt: skip
    assert [(each.role, each.count) for each in found.inputs] == [
        ("references", 3), ("predictions", 3), ("run sheet of the predictions", 1)
    ]  # fmt: skip
    assert found.seeds == {"intervals": 4} and len(found.sessions) == 1
    assert "Metric version whole" in out.with_suffix(".md").read_text()
    assert main(["verify", str(out)]) == 0
    out.with_suffix(".csv").write_text(out.with_suffix(".csv").read_text().replace("case_1", "case_9"))
    assert main(["verify", str(out)]) == 3
    prediction.write_text("{")  # of no use, which is no reason to score nothing
    evaluate(folders, out=out)
    assert read_result(out).exposure is None


@pytest.mark.parametrize("metrics", METRICS)
def test_workers_give_the_same_result(folders, metrics):
    assert evaluate(folders, metrics=metrics, workers=2) == evaluate(folders, metrics=metrics, workers=0)


WITHOUT_EMPTY = {"panoptic-2026", "brats-2026", "small-lesions", "vessels"}
"""Versions that leave out regions which are empty on both sides."""


@pytest.mark.parametrize("metrics", METRICS)
def test_every_version_names_its_rules_and_fills_the_table(folders, tmp_path, metrics):
    write(folders[0] / "case_2.nii.gz", np.zeros((14, 16, 18), dtype=np.uint8))
    write(folders[1] / "case_2.nii.gz", np.zeros((14, 16, 18), dtype=np.uint8))
    options = {"small_mm3": 1e6} if metrics == "small-lesions" else {}  # the tumours here are large
    result = evaluate(folders, metrics=metrics, out=tmp_path / "scores.json", **options)
    # Strict JSON: no NaN.
    stored = json.loads((tmp_path / "scores.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert stored == json.loads(json.dumps(result))
    assert stored["parameters"] and stored["definition"] == METRICS[metrics].definition
    for measure in METRICS[metrics].measures:
        summary = stored["summary"]["tumor_core"][measure]
        assert (summary["cases"], summary["undefined"]) == ((2, 1) if metrics in WITHOUT_EMPTY else (3, 0))
    with (tmp_path / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    decisive = next(iter(METRICS[metrics].measures))
    assert [row[decisive] == "" for row in rows[-3:]] == [metrics in WITHOUT_EMPTY] * 3
    assert float(rows[0][decisive]) == 1 and rows[0]["metrics"] == metrics


def test_lesions_of_a_case_are_listed(folders):
    rows = evaluate(folders, metrics="lesionwise-2023")["cases"]
    (lesion,) = rows[1]["lesions"]["whole_tumor"]
    assert lesion["volume_mm3"] == 8 * 9 * 9 * 2 and lesion["dice"] == pytest.approx(7 / 8)
    assert "lesions" not in evaluate(folders)["cases"][0]


def test_rules_of_another_task_can_be_asked_for(folders):
    result = evaluate_folders(*folders, regions=REGIONS, release="atlas-r2", metrics="lesionwise-2024", task="MET")
    assert result["parameters"]["task"] == "MET" and result["parameters"]["regions"]["tumor_core"]["threshold_mm3"] == 2
    with pytest.raises(InputError, match="atlas-r2' has no rules in lesionwise-2024"):
        evaluate_folders(*folders, regions=REGIONS, release="atlas-r2", metrics="lesionwise-2024")


def test_missing_predictions_score_nothing_where_the_version_says_so(folders):
    (folders[1] / "case_1.nii.gz").unlink()
    result = evaluate(folders, metrics="panoptic-2026", allow_missing=True)
    assert result["missing"] == ["case_1"]
    scored = result["cases"][1]["regions"]["tumor_core"]
    assert (scored["sq_dsc"], scored["sq_hd95_mm"], scored["global_hd95_mm"], scored["fn"]) == (0, 373, 373, 1)
    assert result["summary"]["tumor_core"]["sq_dsc"]["cases"] == 3
    with pytest.raises(InputError, match="metrics='whole' has no score for a case without prediction"):
        evaluate(folders, allow_missing=True)
    with pytest.raises(InputError, match="is missing"):
        evaluate(folders, metrics="panoptic-2026")


def test_killed_worker_is_one_sentence(folders, monkeypatch):
    def broken(*_):
        raise BrokenProcessPool("gone")

    monkeypatch.setattr("bdfm_nnunet.worker_pools.ProcessPoolExecutor.map", broken)
    with pytest.raises(InputError, match=r"ended one of the 2 worker processes.*fewer --workers"):
        evaluate(folders, workers=2)


def test_score_case_wants_two_volumes_of_one_shape():
    with pytest.raises(ValueError, match="expected two volumes"):
        score_case(np.zeros((3, 3, 3)), np.zeros((3, 3, 4)), spacing=(1, 1, 1), regions=REGIONS, release="x")


@pytest.mark.parametrize("metrics", METRICS)
def test_score_case_gives_what_the_table_holds(folders, metrics):
    row = evaluate(folders, metrics=metrics)["cases"][1]["regions"]
    arrays = [sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "case_1.nii.gz"))).T for folder in folders]
    found = score_case(*arrays, spacing=(1, 1, 2), regions=REGIONS, release="brats2023-gli", metrics=metrics)
    for region, scores in row.items():
        numbers = {name: np.nan if value is None else value for name, value in scores.items()}
        assert found[region] == pytest.approx(numbers, nan_ok=True)


def test_progress_shows_a_bar(folders, capfd):
    evaluate(folders)
    assert "evaluate" not in capfd.readouterr().err
    evaluate(folders, progress=True)
    assert "3/3" in capfd.readouterr().err


def test_seed_moves_the_interval_only(folders):
    # With three cases the quantiles fall on the same few means whatever the draws: eight spread-out ones.
    for number in range(3, 8):
        labels = labels_of(2)
        labels[3, 3 : 4 + number] = 0
        write(folders[0] / f"case_{number}.nii.gz", labels_of(2))
        write(folders[1] / f"case_{number}.nii.gz", labels)
    a, b = evaluate(folders)["summary"], evaluate(folders, seed=7)["summary"]
    assert a["tumor_core"]["dice"]["mean"] == b["tumor_core"]["dice"]["mean"]
    assert a != b


def test_missing_distance_is_used_for_a_missed_region(folders):
    write(folders[1] / "case_0.nii.gz", np.zeros((14, 16, 18), dtype=np.uint8))
    missed = evaluate(folders, missing_distance=77.0)["cases"][0]["regions"]["enhancing_tumor"]
    assert (missed["dice"], missed["hd95_mm"]) == (0.0, 77.0)


def test_oblique_volumes_keep_their_spacing(tmp_path):
    for name, shift in (("reference", 2), ("prediction", 3)):
        image = sitk.GetImageFromArray(labels_of(shift))
        image.SetSpacing((1.0, 1.0, 3.0))
        image.SetDirection((0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
        (tmp_path / name).mkdir()
        sitk.WriteImage(image, str(tmp_path / name / "a.nii.gz"))
    result = evaluate((tmp_path / "reference", tmp_path / "prediction"))
    assert result["cases"][0]["regions"]["whole_tumor"]["hd95_mm"] == pytest.approx(3.0, abs=1e-4)


def test_nii_matches_nii_gz(folders):
    source = folders[1] / "case_0.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(source)), str(folders[1] / "case_0.nii"))
    with pytest.raises(InputError, match=r"case_0\.nii\.gz and case_0\.nii are the same case: remove one"):
        evaluate(folders)
    source.unlink()
    assert evaluate(folders)["cases"][0]["regions"]["whole_tumor"]["dice"] == 1


def refuse_missing(reference, prediction):
    (prediction / "case_1.nii.gz").unlink()
    return r"prediction.case_1\.nii\.gz is missing \(1 of 3 .*predict it"


def refuse_extra(reference, prediction):
    (reference / "case_2.nii.gz").unlink()
    return r"prediction.case_2\.nii\.gz has no reference .*add the reference"


def refuse_shape(reference, prediction):
    write(prediction / "case_1.nii.gz", labels_of(2)[:, :, :-1])
    return r"case_1\.nii\.gz has the shape \(17, 16, 14\) but its reference \(18, 16, 14\): .*resample"


def refuse_origin(reference, prediction):
    write(prediction / "case_1.nii.gz", labels_of(2), origin=(0.0, 0.0, 0.0))
    return r"case_1\.nii\.gz lies up to 239 mm from its reference .*resample"


def refuse_spacing(reference, prediction):
    write(prediction / "case_1.nii.gz", labels_of(2), spacing=(1.0, 1.0, 1.0))
    return r"case_1\.nii\.gz lies up to 13 mm from its reference"


def refuse_label(reference, prediction):
    write(prediction / "case_1.nii.gz", labels_of(2) * 2)
    return r"case_1\.nii\.gz holds the value 4, expected only \[0, 1, 2, 3\]: .*map its labels"


def refuse_fraction(reference, prediction):
    write(prediction / "case_1.nii.gz", labels_of(2).astype(np.float32) * 0.5)
    return r"case_1\.nii\.gz holds the value 0\.5"


def refuse_nan(reference, prediction):
    write(prediction / "case_1.nii.gz", np.full((14, 16, 18), np.nan, dtype=np.float32))
    return r"case_1\.nii\.gz holds the value nan"


def refuse_four_axes(reference, prediction):
    image = sitk.JoinSeries([sitk.GetImageFromArray(labels_of(2))] * 2)
    sitk.WriteImage(image, str(prediction / "case_1.nii.gz"))
    return r"case_1\.nii\.gz has 4 dimensions, expected 3"


def refuse_truncated(reference, prediction):
    path = prediction / "case_1.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return r"case_1\.nii\.gz cannot be read as NIfTI .*write it again"


def refuse_no_file(reference, prediction):
    shutil.rmtree(prediction)
    prediction.mkdir()
    return r"prediction holds no \.nii\.gz or \.nii file"


def refuse_no_folder(reference, prediction):
    shutil.rmtree(reference)
    return r"reference is not a folder"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("break_it", [v for n, v in sorted(globals().items()) if n.startswith("refuse_")])
def test_refused_with_one_sentence_and_nothing_written(folders, tmp_path, break_it, workers):
    message = break_it(*folders)
    with pytest.raises(InputError, match=message) as caught:
        evaluate(folders, out=tmp_path / "scores.json", workers=workers)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "scores.json").exists() and not (tmp_path / "scores.csv").exists()


def test_faults_at_the_command_line(folders, tmp_path, capsys):
    command = ["evaluate", *map(str, folders), "--release", "brats2023-gli", "-o", str(tmp_path / "scores.json")]
    refuse_truncated(*folders)
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bdfm: error: ") and "case_1.nii.gz cannot be read as NIfTI" in line
    assert not list(tmp_path.glob("*scores*"))


@pytest.mark.parametrize("size", [100, 1_000])
def test_disk_that_takes_no_more(folders, tmp_path, size, capsys):
    out = tmp_path / "new" / "scores.json"
    command = ["evaluate", *map(str, folders), "--release", "brats2023-gli", "-o", str(out)]
    with largest_file(size):
        assert main(command) == 2
    assert re.search(r"bdfm: error: cannot write .*scores\..*(free|raise)", capsys.readouterr().err)
    assert not list(out.parent.iterdir())


def test_place_that_cannot_be_written(folders, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*name a folder in the place of that file"):
        evaluate(folders, out=tmp_path / "file" / "scores.json")


def test_unknown_metric_and_wrong_ending_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match="metrics='lesions' is not known: choose one of whole"):
        evaluate(folders, metrics="lesions")
    with pytest.raises(InputError, match=r"scores\.csv does not end in \.json"):
        evaluate(folders, out=tmp_path / "scores.csv")


def test_comparison_table(folders):
    result = evaluate(folders)
    text = comparison_table({"scratch": result, "fine-tuned": result})
    lines = text.splitlines()
    assert lines[0] == "| Region | Dice, scratch | Dice, fine-tuned | HD95 (mm), scratch | HD95 (mm), fine-tuned |"
    assert len(lines) == 5 and all(line.count("|") == 6 for line in lines)
    assert lines[2].startswith("| whole_tumor | 0.875 [") and lines[2].endswith("] |")


def test_comparison_table_of_other_measures_shows_what_is_not_defined(folders):
    empty = np.zeros((14, 16, 18), dtype=np.uint8)
    for folder in folders:
        for path in folder.glob("case*"):
            write(path, np.where(labels_of(2) == 3, 1, labels_of(2)).astype(np.uint8) + empty)
    text = comparison_table({"ours": evaluate(folders, metrics="panoptic-2026")}, ["sq_dsc", "sq_hd95_mm"])
    lines = text.splitlines()
    assert lines[0] == "| Region | sq_dsc, ours | sq HD95 (mm), ours |"
    assert lines[2] == "| whole_tumor | 1.000 [1.000, 1.000] | 0.0 [0.0, 0.0] |"
    assert lines[4] == "| enhancing_tumor | - | - |"
