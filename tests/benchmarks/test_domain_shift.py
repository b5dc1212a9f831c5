"""The table of the study of domain shift, from a study.json that is made up, and its images from tiny maps."""

import json
from pathlib import Path

import domain_shift
import nibabel
import numpy as np
import pytest

from bdfm_nnunet.nnunet_files import read_dataset_json


def _study(folder: Path) -> Path:
    """Two arms; the second gains 0.2 on T2 alone, and a head of 0.5 misses a region there."""
    entries = [
        {"arm": arm, "seed": seed, "region": region, "case": f"my_head_{head}_000{head}_{contrast}", "dice": dice}
        for arm in ("scratch", "random")
        for seed in (0, 1)
        for region in ("white", "deep")
        for head in (1, 2)
        for contrast in domain_shift.CONTRASTS
        if (dice := 0.3 + 0.2 * (contrast == "T2" and arm == "random") + 0.1 * head)
    ]
    entries[1]["dice"] = None
    (folder / "study.json").write_text(json.dumps(entries))
    return folder


def test_the_table_has_every_contrast_and_the_difference_from_the_first_arm(tmp_path: Path) -> None:
    scores = domain_shift.scores_by_contrast(_study(tmp_path))
    assert scores["random"]["T2"]["heads"] == ["my_head_1", "my_head_2"]
    assert scores["random"]["T2"]["dice"].shape == (2, 2, 2)
    assert np.isnan(scores["scratch"]["T2"]["dice"]).sum() == 1
    lines = domain_shift.table(tmp_path).splitlines()
    assert lines[0] == "| arm | T1 | T2 | FLAIR |" and lines[2] == "| scratch | 0.450 | 0.450 | 0.450 |"
    assert lines[3].startswith("| random | 0.450 (+0.000 [+0.000, +0.000]) | 0.650 (+0.200 [+0.200, +0.200]) | 0.450 (")
    domain_shift.figure(tmp_path, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_images_of_all_contrasts_show_the_same_anatomy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, raw = tmp_path / "maps", tmp_path / "raw"
    maps.mkdir()
    raw.mkdir()
    monkeypatch.setenv("nnUNet_raw", str(raw))
    monkeypatch.setattr(domain_shift, "HEADS", 1)
    monkeypatch.setattr(domain_shift, "TEST_HEADS", 1)
    labels = np.zeros((40, 40, 40), dtype=np.uint8)
    labels[6:34, 6:34, 6:34], labels[12:28, 12:28, 12:28], labels[18:22, 18:22, 18:22] = 3, 2, 4
    for number in range(2):
        nibabel.save(nibabel.Nifti1Image(labels, np.diag([3.0, 3, 3, 1])), maps / f"head_{number}.nii.gz")
    domain_shift.draw(maps, spacing=6.0)
    with pytest.raises(SystemExit, match="is there already"):
        domain_shift.draw(maps, spacing=6.0)
    training, test = raw / domain_shift.TRAINING, raw / domain_shift.TEST
    for name in ("channel_names", "labels"):
        assert read_dataset_json(training / "dataset.json")[name] == read_dataset_json(test / "dataset.json")[name]
    assert [path.name for path in (training / "imagesTr").iterdir()] == ["head_0_0000_T1_0000.nii.gz"]
    levels = {}
    for contrast in domain_shift.CONTRASTS:
        image = nibabel.load(test / "imagesTr" / f"head_1_0000_{contrast}_0000.nii.gz").get_fdata()
        drawn = nibabel.load(test / "labelsTr" / f"head_1_0000_{contrast}.nii.gz").get_fdata()
        levels[contrast] = [image[drawn == value].mean() for value in (1, 2)]
    assert levels["T1"][0] > levels["T1"][1] and levels["T2"][0] < levels["T2"][1]
    with pytest.raises(SystemExit, match="2 label maps, 3 are needed"):
        monkeypatch.setattr(domain_shift, "HEADS", 2)
        domain_shift.draw(maps, spacing=6.0)
