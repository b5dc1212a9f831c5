"""`bdfm connectivity`: a planted coupling is found, confounds go, interruptions, and bad input."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.cli import main
from bdfm_nnunet.data.sequence_cases import SequenceCases
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.probes import functional_connectivity
from bdfm_nnunet.probes.feature_tables import read_features
from bdfm_nnunet.probes.functional_connectivity import ConnectivitySettings, connectivity_features
from tests.probes.stored_runs import AFFINE, STEP, data_set, store

SHAPE, FRAMES = (9, 10, 8), 60
HALVES = np.where(np.indices(SHAPE)[0] < 4, 7, np.where(np.indices(SHAPE)[1] < 5, 3, 9)).astype(np.int16)
"""An atlas: 7 on the left, 3 and 9 on the right."""


def _frames(seed: int, coupling: float) -> np.ndarray:
    """Courses of the three regions, of which 3 and 9 share a part, and noise in each voxel."""
    rng = np.random.default_rng(seed)
    own, shared = rng.normal(size=(3, FRAMES)), rng.normal(size=FRAMES)
    courses = dict(zip((7, 3, 9), own, strict=True))
    for number in (3, 9):
        courses[number] = np.sqrt(1 - coupling) * courses[number] + np.sqrt(coupling) * shared
    values = np.zeros((*SHAPE, FRAMES))
    for number, course in courses.items():
        values[number == HALVES] = course
    return values + 0.3 * rng.normal(size=values.shape)


@pytest.fixture
def runs(nnunet_dirs: Path) -> Path:
    return data_set(nnunet_dirs, 700, {f"s{n}_run1": _frames(n, coupling=0.8) for n in range(3)})


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    image = nib.Nifti1Image(HALVES, AFFINE)
    nib.save(image.as_reoriented([[0, -1], [1, 1], [2, 1]]), tmp_path / "atlas.nii.gz")
    return tmp_path / "atlas.nii.gz"


def test_a_planted_coupling_is_found(
    runs: Path, atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["connectivity", "-d", "700", "--atlas", str(atlas), "-o", str(tmp_path / "f.npz")]) == 0
    printed = capsys.readouterr().out
    assert "3 runs with 3 connections each" in printed and "drift slower than 128 s" in printed
    table = read_features(tmp_path / "f.npz")
    assert table.cases == ("s0_run1", "s1_run1", "s2_run1") and table.description["regions"] == [3, 7, 9]
    found = np.tanh(table.features)
    assert (found[:, 1] > 0.6).all() and np.abs(found[:, [0, 2]]).max() < 0.4
    preprocessed = runs.parents[1] / "nnUNet_preprocessed" / runs.name
    preprocessed.mkdir()
    (runs / "sequencesTr").rename(preprocessed / "sequences")
    again = connectivity_features(700, tmp_path / "b.csv", ConnectivitySettings(blocks=6))
    assert again.features.shape == (3, 15) and (np.tanh(again.features).max(axis=1) > 0.8).all()


def test_every_setting_acts(runs: Path, atlas: Path, tmp_path: Path) -> None:
    plain = ConnectivitySettings(atlas=atlas)
    settings = [plain, replace(plain, partial=True), replace(plain, high_pass=8.0), replace(plain, global_signal=True),
                replace(plain, atlas=None, blocks=3)]  # fmt: skip
    found = [connectivity_features(700, tmp_path / "f.npz", each) for each in settings]
    for one, other in pairwise(found):
        assert one.features.shape == other.features.shape == (3, 3) and not np.allclose(one.features, other.features)
        assert one.description["settings"] != other.description["settings"]


def test_motion_of_the_download_is_taken_out(nnunet_dirs: Path, atlas: Path, tmp_path: Path) -> None:
    """Motion that moves all regions together couples them, until it is taken out; two frames were dropped."""
    folder = data_set(nnunet_dirs, 700, {"s0_run1": _frames(0, 0.0)})
    motion = np.cumsum(np.random.default_rng(9).normal(size=(FRAMES + 2, 6)), axis=0)
    moved = _frames(0, 0.0) + 2 * motion[2:, 1]
    told = {"source": {"confounds": "a/c.tsv"}, "source_frames": FRAMES + 2, "frames_dropped": 2}
    (folder / "sequencesTr" / "s0_run1.b2nd").unlink()
    (folder / "sequencesTr" / "s0_run1_mask.b2nd").unlink()
    store(folder, "s0_run1", moved, **told)
    (tmp_path / "a").mkdir()
    names = "trans_x\ttrans_y\ttrans_z\trot_x\trot_y\trot_z\n"
    (tmp_path / "a" / "c.tsv").write_text(names + "\n".join("\t".join(map(str, row)) for row in motion))
    plain = ConnectivitySettings(atlas=atlas, high_pass=0)
    coupled, without = (
        np.tanh(connectivity_features(700, tmp_path / "f.npz", each).features[0])
        for each in (plain, replace(plain, confounds=tmp_path))
    )
    assert coupled.min() > 0.7 and np.abs(without).max() < 0.4
    (tmp_path / "a" / "c.tsv").write_text(names + "1\t1\t1\t1\t1\t1\n")
    with pytest.raises(InputError, match="has 1 rows for the 62 frames of s0_run1"):
        connectivity_features(700, tmp_path / "g.npz", replace(plain, confounds=tmp_path))


def test_an_interrupted_command_goes_on(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atlas: Path
) -> None:
    whole = functional_connectivity._vector
    done: list[str] = []

    def stopping(cases: SequenceCases, case: str, *more: object) -> np.ndarray:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(case)
        return whole(cases, case, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(functional_connectivity, "_vector", stopping)
    settings = ConnectivitySettings(atlas=atlas)
    with pytest.raises(KeyboardInterrupt):
        connectivity_features(700, tmp_path / "f.npz", settings)
    monkeypatch.setattr(functional_connectivity, "_vector", lambda *a: done.append(a[1]) or whole(*a))
    connectivity_features(700, tmp_path / "f.npz", settings)
    assert done == ["s0_run1", "s1_run1", "s2_run1"]


def test_regions_without_voxels_are_left_out(runs: Path, tmp_path: Path) -> None:
    labels = HALVES.copy()
    labels[0, 0, 0] = 2  # outside of the brain
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / "a.nii")
    table = connectivity_features(700, tmp_path / "f.npz", ConnectivitySettings(atlas=tmp_path / "a.nii"))
    assert table.description["regions"] == [3, 7, 9]
    assert any("1 regions without a voxel in some run are left out (2)" in note for note in table.description["notes"])


def test_bad_input_is_one_sentence(runs: Path, atlas: Path, tmp_path: Path) -> None:
    far = AFFINE.copy()
    far[0, 3] = 500
    nib.save(nib.Nifti1Image(HALVES, far), tmp_path / "far.nii")
    with pytest.raises(InputError, match=r"far\.nii has 0 regions that every run shows and covers 0%"):
        connectivity_features(700, tmp_path / "f.npz", ConnectivitySettings(atlas=tmp_path / "far.nii"))
    with pytest.raises(InputError, match="converted without a table of confounds"):
        connectivity_features(700, tmp_path / "f.npz", ConnectivitySettings(atlas=atlas, confounds=tmp_path))
    with pytest.raises(InputError, match="60 frames, too few for 60 confounds"):
        connectivity_features(700, tmp_path / "f.npz", ConnectivitySettings(atlas=atlas, high_pass=STEP))
    path = runs / "sequencesTr" / "s1_run1.json"
    write_json(path, read_json(path) | {"affine": far.tolist()})
    with pytest.raises(InputError, match="s0_run1 and s1_run1 lie on different grids"):
        connectivity_features(700, tmp_path / "f.npz")
    assert not (tmp_path / "f.npz").exists()
    for wrong in ({"blocks": 1}, {"high_pass": -1.0}, {"confounds": tmp_path / "none"}):
        with pytest.raises(InputError, match=next(iter(wrong)) if "confounds" not in wrong else "is no folder"):
            ConnectivitySettings(**wrong)
    assert main(["connectivity", "-d", "700", "--atlas", str(atlas), "--blocks", "9", "-o", "x.npz"]) == 2
