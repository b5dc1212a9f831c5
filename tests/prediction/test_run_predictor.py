"""Predictions of runs clip by clip: means over clips and folds, subjects, and maps in the space of the runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from bdfm_nnunet.commands.subject_prediction import patients_of_runs
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_tables import per_patient, read_predictions, write_predictions
from bdfm_nnunet.evaluation.subject_units import units_of
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.subject_network import SubjectNetwork
from bdfm_nnunet.prediction import predicted_runs
from bdfm_nnunet.prediction.predicted_runs import RunFiles
from bdfm_nnunet.prediction.run_predictor import RunMaps, predict_runs
from bdfm_nnunet.targets import TargetColumn, TargetType
from bdfm_nnunet.tasks.subject_outputs import TargetOutput
from tests.memory_runs import MemoryRuns
from tests.networks.tiny_storm import tiny_storm

AGE = TargetOutput(
    column=TargetColumn("age", TargetType.CONTINUOUS, unit="years"), known=1.0, mean=50.0, deviation=10.0
)
SEX = TargetOutput(column=TargetColumn("sex", TargetType.BINARY, ("F", "M")), known=1.0)
LENGTHS = {"P1_rest": 10, "P1_task": 4, "P2_rest": 3}
PATIENTS = {"P1_rest": "P1", "P1_task": "P1", "P2_rest": "P2"}


def _model(head: Any = "v1", folds: int = 1, **task: Any) -> Any:
    made = []
    for seed in range(folds):
        torch.manual_seed(seed)
        network = SubjectNetwork(encoder_of(tiny_storm(seed)), 2, head=head).eval()
        told = SimpleNamespace(task={"crop": [8, 8, 8, 4], "head": head, **task})
        made.append(SimpleNamespace(checkpoint=told, outputs=(AGE, SEX), network=network))
    return SimpleNamespace(folds=tuple(made), targets=[AGE.column, SEX.column])


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> RunFiles:
    memory = MemoryRuns(LENGTHS)
    monkeypatch.setattr(predicted_runs, "SequenceCases", lambda folder, cases=None: memory)
    return RunFiles(Path("/data"), SimpleNamespace(spacing=[2.0, 2.0, 2.0, 0.8], configuration={}))


def _by_hand(model: Any, runs: RunFiles, fold: int = 0) -> dict[str, torch.Tensor]:
    """Outputs of every clip: frames 0 to 3, 4 to 7 and so on, the last ones as many as are left."""
    found = {}
    memory: Any = runs.runs
    for case, frames in memory.frames.items():
        clips = [torch.from_numpy(frames[..., at : at + 4])[None, None, None] for at in range(0, frames.shape[3], 4)]
        with torch.no_grad():
            found[case] = torch.cat([model.folds[fold].network(clip) for clip in clips])
    return found


def test_a_run_is_the_mean_of_its_clips_and_a_subject_that_of_all_runs(runs: RunFiles) -> None:
    model = _model(folds=2)
    found = predict_runs(model, runs, patients=PATIENTS)
    clips = [_by_hand(model, runs, fold) for fold in range(2)]
    assert [len(clips[0][case]) for case in LENGTHS] == [3, 1, 1]
    ages = {case: np.mean([float(each[case].mean(0)[0]) * 10 + 50 for each in clips]) for case in LENGTHS}
    assert found.runs.cases == tuple(LENGTHS) and found.runs.patients == tuple(PATIENTS.values())
    assert found.runs.columns["age"] == pytest.approx([ages[case] for case in LENGTHS], rel=1e-5)
    sexes = [np.mean([float(each[case].mean(0)[1].sigmoid()) for each in clips]) for case in LENGTHS]
    assert found.runs.columns["sex"] == pytest.approx(sexes, rel=1e-5)
    joined = [torch.cat([each["P1_rest"], each["P1_task"]]).mean(0) for each in clips]  # four clips, each counts once
    assert found.subjects.cases == ("P1", "P2")
    assert found.subjects.columns["age"][0] == pytest.approx(np.mean([float(row[0]) * 10 + 50 for row in joined]))
    assert found.subjects.columns["sex"][1] == pytest.approx(found.runs.columns["sex"][2])
    assert found.runs.columns["clips"].tolist() == [3, 1, 1] and found.subjects.columns["clips"].tolist() == [4, 1]


def test_means_of_the_table_of_runs_are_those_of_all_clips(runs: RunFiles, tmp_path: Path) -> None:
    found = predict_runs(_model(), runs, patients=PATIENTS)
    write_predictions(tmp_path / "runs.csv", found.runs)
    read = read_predictions(tmp_path / "runs.csv")
    joined = per_patient(read)
    assert joined.columns["age"] == pytest.approx(found.subjects.columns["age"])
    assert joined.columns["clips"].tolist() == [4, 1]
    units = units_of(
        AGE.column, np.ones((3, 1)), read.of("age"), patients=read.patients, counts=read.columns["clips"],
        aggregate="mean",
    )  # fmt: skip
    assert units.values == pytest.approx(found.subjects.columns["age"])
    runs_alike = found.runs.columns["age"][:2].mean()
    assert abs(runs_alike - units.values[0]) > 1e-6  # runs of three clips and of one


@pytest.mark.parametrize("frames", [False, True])
def test_maps_add_up_to_the_prediction(runs: RunFiles, frames: bool, tmp_path: Path) -> None:
    model = _model()
    found = predict_runs(model, runs, patients=PATIENTS, maps=RunMaps(folder=tmp_path, frames=frames))
    bias = model.folds[0].network.head.bias.detach()
    for number, case in enumerate(LENGTHS):
        image = nib.load(tmp_path / f"{case}_age.nii.gz")
        values = np.asarray(image.dataobj, dtype=np.float64)
        assert values.shape == ((8, 8, 8, LENGTHS[case]) if frames else (8, 8, 8)) and values.std() > 0
        assert values.sum() + float(bias[0]) * 10 + 50 == pytest.approx(found.runs.columns["age"][number], rel=1e-4)
        assert np.allclose(image.affine, runs.runs.header(case).affine)
        assert image.header.get_zooms()[:3] == (2, 2, 2) and image.header.get_xyzt_units()[0] == "mm"
        assert not frames or (image.header.get_zooms()[3] == pytest.approx(0.8))
    assert len(list(tmp_path.iterdir())) == 6


def test_maps_of_a_transformer_are_refused_before_anything_is_predicted(runs: RunFiles, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="head v3"):
        predict_runs(_model("v3"), runs, patients=PATIENTS, maps=RunMaps(folder=tmp_path))
    assert predict_runs(_model("v3"), runs, patients=PATIENTS).runs.cases == tuple(LENGTHS)


@pytest.mark.parametrize("spacing", [[3.0, 2.0, 2.0, 0.8], [2.0, 2.0, 2.0, 0.72]])
def test_runs_of_other_voxels_or_another_rhythm_are_refused(
    runs: RunFiles, spacing: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.check()
    other = RunFiles(Path("/data"), SimpleNamespace(spacing=spacing, configuration={}))
    with pytest.raises(InputError, match=r"has voxels of 2x2x2 mm every 0\.8 s, the model is for .* --time-step"):
        other.check()


def test_runs_of_other_standard_scores_are_refused(runs: RunFiles) -> None:
    other = RunFiles(Path("/data"), SimpleNamespace(spacing=[2, 2, 2, 0.8], configuration={"standardised": "voxel"}))
    with pytest.raises(
        InputError, match=r"P1_rest .* scores of each run, the model .* each voxel: .*--standardise voxel"
    ):
        other.check()


def test_clips_hold_every_frame_once_and_say_where_they_are(runs: RunFiles) -> None:
    memory: Any = runs.runs
    parts = list(runs.clips("P1_rest", (8, 8, 8, 4)))
    assert [start for _, start in parts] == [(0, 0, 0, 0), (0, 0, 0, 4), (0, 0, 0, 8)]
    assert np.array_equal(torch.cat([clip[0] for clip, _ in parts], -1).numpy(), memory.frames["P1_rest"])
    (around,) = runs.clips("P2_rest", (10, 8, 8, 4))
    assert around[1] == (-1, 0, 0, 0) and around[0].shape == (1, 10, 8, 8, 3) and (around[0][:, 0] == -3).all()


def test_subjects_are_those_of_the_data_set_or_of_the_manifest_beside_the_runs(runs: RunFiles) -> None:
    assert patients_of_runs(runs, {"P1_rest": "one"}) == {"P1_rest": "one", "P1_task": "P1_task", "P2_rest": "P2_rest"}
