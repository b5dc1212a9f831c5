"""The comparison of two commits: what varies is found, what two runs of the same code differ in is not."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import compare_commits
import numpy as np
import pytest
import torch
from differences import KINDS, changed, differences

FOLD = "nnUNet_results/Dataset1_A/T__P__short/fold_0"


def _write(root: Path) -> Path:
    """Results of a commit, in miniature."""
    weight = torch.arange(6.0).view(2, 3)
    logging = {"train_losses": [1.0, 0.5], "epoch_start_timestamps": [float(len(str(root)))]}
    checkpoint = {"network_weights": {"weight": weight}, "logging": logging, "init_args": {"any": str(root)}}
    for name, content in {
        "nnUNet_raw/Dataset1_A/manifest.json": {"case": "a", "source": f"{root}/tree", "converted_time": str(root)},
        "nnUNet_preprocessed/Dataset1_A/Plans.json": {"batch_size": 2, "version": str(root)},
        "scores/test.json": {"dice": float("nan")},
    }.items():
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    images = root / "nnUNet_raw/Dataset1_A/a.nii.gz"
    with gzip.GzipFile(images, "wb", mtime=len(str(root))) as stream:  # as files of two moments are
        stream.write(b"voxels")
    blosc2.asarray(np.arange(8.0), urlpath=str(root / "nnUNet_preprocessed/Dataset1_A/a.b2nd"), mode="w")
    (root / FOLD / "validation").mkdir(parents=True)
    (root / FOLD / "validation" / "a.nii.gz").write_bytes(images.read_bytes())
    torch.save(checkpoint, root / FOLD / "checkpoint_final.pth")
    return root


def _edit_json(name: str, **entries: Any) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(json.dumps(json.loads((root / name).read_text()) | entries))


def _edit_checkpoint(root: Path) -> None:
    content = torch.load(root / FOLD / "checkpoint_final.pth", weights_only=True)
    weight = content["network_weights"]["weight"]
    weight[1, 2] = torch.nextafter(weight[1, 2], torch.tensor(9.0))
    content["logging"]["train_losses"][1] = 0.25
    torch.save(content, root / FOLD / "checkpoint_final.pth")


def _edit_array(root: Path) -> None:
    path = root / "nnUNet_preprocessed/Dataset1_A/a.b2nd"
    blosc2.asarray(np.arange(8.0) + 1e-12, urlpath=str(path), mode="w")


EDITS: dict[str, Callable[[Path], object]] = {
    "manifests": _edit_json("nnUNet_raw/Dataset1_A/manifest.json", case="b"),
    "images and labels": lambda root: (root / "nnUNet_raw/Dataset1_A/a.nii.gz").write_bytes(gzip.compress(b"other")),
    "plans": _edit_json("nnUNet_preprocessed/Dataset1_A/Plans.json", batch_size=3),
    "preprocessed cases": _edit_array,
    "checkpoints": _edit_checkpoint,
    "segmentations": lambda root: (root / FOLD / "validation/a.nii.gz").unlink(),
    "scores": _edit_json("scores/test.json", dice=0.5),
}


def test_results_of_the_same_code_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = differences(_write(tmp_path / "first"), _write(tmp_path / "the second"))
    assert {kind: files for kind, (files, _) in found.items()} == dict.fromkeys(KINDS, 1)
    assert compare_commits.report(found) == 0, capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_differs_is_named(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = _write(tmp_path / "first"), _write(tmp_path / "second")
    EDITS[kind](second)
    found = differences(first, second)
    assert {name for name, (_, changes) in found.items() if changes} == {kind}
    assert compare_commits.report(found) == 1
    assert f"{kind}: 1 files, {2 if kind == 'checkpoints' else 1} differences" in capsys.readouterr().out


def test_places_are_named() -> None:
    first = {"a": [1, {"b": torch.ones(2)}], "c": 1, "seconds": 3, "nothing": float("nan")}
    second = {"a": [1, {"b": torch.ones(3)}], "d": 1, "seconds": 4, "nothing": float("nan")}
    places = [place for place, _ in changed(first, second)]
    assert places == ["a[1].b", "c", "d"]


def test_a_commit_is_laid_out_as_it_is_installed(tmp_path: Path) -> None:
    package = compare_commits.lay_out("HEAD", tmp_path) / "bdfm_nnunet"
    for part in ("cli.py", "trainers/__init__.py", "plans/planning.py", "dataset_conversion/cohort.py"):
        assert (package / part).is_file()
