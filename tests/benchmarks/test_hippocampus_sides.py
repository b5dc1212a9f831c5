"""The data set of sides: half of the cases are mirrored, and the table says which and how large each is."""

import csv
import json
from pathlib import Path

import hippocampus_sides
import numpy as np
import pytest
import SimpleITK as sitk

SHAPE = (6, 8, 10)  # z, y, x


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four cases with random values and one label each, of other sizes."""
    rng, folder = np.random.default_rng(3), tmp_path / "source"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(4):
        image = sitk.GetImageFromArray(rng.normal(size=SHAPE).astype(np.float32))
        label = sitk.GetImageFromArray((np.arange(480).reshape(SHAPE) < 40 * (number + 1)).astype(np.uint8))
        for each in (image, label):
            each.SetSpacing((1.0, 1.0, 1.5))
        sitk.WriteImage(image, str(folder / "imagesTr" / f"h{number}_0000.nii.gz"))
        sitk.WriteImage(label, str(folder / "labelsTr" / f"h{number}.nii.gz"))
    dataset = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "h": 1}, "numTraining": 4, "other": 1}
    (folder / "dataset.json").write_text(json.dumps(dataset | {"file_ending": ".nii.gz"}))
    return folder


def test_half_are_mirrored_and_the_table_tells_which(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    monkeypatch.setattr("sys.argv", ["hippocampus_sides.py", str(source), str(target)])
    hippocampus_sides.main()
    with (target / "sides.csv").open(encoding="utf-8") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert sorted(row["side"] for row in rows.values()) == ["as acquired"] * 2 + ["mirrored"] * 2
    for number, (case, row) in enumerate(sorted(rows.items())):
        assert float(row["volume"]) == pytest.approx(40 * (number + 1) * 1.5 / 1000)
        full = sitk.GetArrayFromImage(sitk.ReadImage(str(source / "imagesTr" / f"{case}_0000.nii.gz")))
        halved = full.reshape(3, 2, 4, 2, 5, 2).mean((1, 3, 5))
        expected = halved[..., ::-1] if row["side"] == "mirrored" else halved
        image = sitk.ReadImage(str(target / "imagesTr" / f"{case}_0000.nii.gz"))
        np.testing.assert_allclose(sitk.GetArrayFromImage(image), expected, atol=1e-5)
        label = sitk.ReadImage(str(target / "labelsTr" / f"{case}.nii.gz"))
        assert label.GetSize() == image.GetSize() and label.GetSpacing() == image.GetSpacing() == (2.0, 2.0, 3.0)
    assert "other" not in json.loads((target / "dataset.json").read_text())
