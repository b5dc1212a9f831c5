"""Cases that lack channels: which models take them, and that they see what training showed."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.inference import predict_from_raw_data as nnunet
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from bdfm_nnunet import cli
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.prediction.case_images import find_cases
from bdfm_nnunet.prediction.images_wanted import ImagesWanted
from bdfm_nnunet.prediction.known_inputs import KnownInputs
from bdfm_nnunet.prediction.missing_channels import missing_channels
from bdfm_nnunet.prediction.subject_images import ImageFiles
from tests.conftest import Prepared
from tests.prediction.test_stock_commands import Bench, one_thread, read

RECORD = "bdfm_channel_dropout"


@pytest.fixture
def bench(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    one_thread(monkeypatch)
    return Bench(prepared, tmp_path)


def _record(model: Path, *folds: int, dropout: Any = 0.3) -> None:
    for fold in folds:
        path = model / f"fold_{fold}" / "checkpoint_final.pth"
        torch.save(torch.load(path, weights_only=True) | {RECORD: dropout}, path)


def _lose(images: Path, case: str, *channels: int) -> None:
    for channel in channels:
        (images / f"{case}_{channel:04d}.nii.gz").unlink()


def _expected(bench: Bench, whole: Path, case: str, missing: list[int], out: Path) -> Any:
    """What nnU-Net's own predictor gives where the whole case is preprocessed and channels are then set to 0."""
    stock = nnunet.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    stock.initialize_from_trained_model_folder(str(bench.model), (0,))
    preprocessor = stock.configuration_manager.preprocessor_class(verbose=False)
    files = [str(whole / f"{case}_{channel:04d}.nii.gz") for channel in range(4)]
    data, _, properties = preprocessor.run_case(
        files, None, stock.plans_manager, stock.configuration_manager, stock.dataset_json
    )
    data[missing] = 0
    logits = stock.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    model = (stock.configuration_manager, stock.plans_manager, stock.dataset_json)
    out.mkdir()
    export_prediction_from_logits(logits, properties, *model, str(out / case), False)
    return read(out, [case])[0]


def test_a_case_without_channels_is_told_and_seen_as_in_training(
    bench: Bench,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = shutil.copytree(bench.images, tmp_path / "whole")
    _record(bench.model, 0)
    _lose(bench.images, bench.names[0], 0, 2)
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING):
        assert cli.main(["predict", *bench.arguments(out, "--precision", "fp32", "--disable_tta")]) == 0
    told = [record.getMessage() for record in caplog.records if "lacks" in record.getMessage()]
    assert len(told) == 1
    assert (
        told[0].startswith(f"case {bench.names[0]} lacks channels 0000 (t1n), 0002 (t2w)")
        and "as the model has" in told[0]
    )
    found = read(out, bench.names)
    expected = _expected(bench, whole, bench.names[0], [0, 2], tmp_path / "expected")
    assert (found[0] == expected).mean() > 0.9999 and len(np.unique(expected)) > 1
    others = _expected(bench, whole, bench.names[0], [], tmp_path / "with_all")
    assert (found[0] == others).mean() < 0.999
    assert len(found) == 2


def test_stock_commands_take_zeros_for_a_missing_channel(bench: Bench, tmp_path: Path) -> None:
    whole = shutil.copytree(bench.images, tmp_path / "whole")
    case = bench.names[0]
    for path in bench.images.glob(f"{bench.names[1]}_*"):
        path.unlink()
    image: Any = nibabel.load(bench.images / f"{case}_0001.nii.gz")
    nothing = nibabel.Nifti1Image(np.zeros(image.shape, dtype=np.float32), image.affine)
    nibabel.save(nothing, bench.images / f"{case}_0001.nii.gz")
    stock = nnunet.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    stock.initialize_from_trained_model_folder(str(bench.model), (0,))
    (tmp_path / "stock").mkdir()
    stock.predict_from_files_sequential(str(bench.images), str(tmp_path / "stock"))
    expected = _expected(bench, whole, case, [1], tmp_path / "expected")
    assert (read(tmp_path / "stock", [case])[0] == expected).mean() > 0.9999
    _lose(bench.images, case, 1)
    with pytest.raises(RuntimeError, match="to have 4 channels, but got 3 channels"):
        stock.predict_from_files_sequential(str(bench.images), str(tmp_path / "stock"))


def test_every_fold_must_have_learnt_it(
    bench: Bench,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _record(bench.model, 0)
    _record(bench.model, 1, dropout="0.3")  # no number
    _lose(bench.images, bench.names[1], 3)
    assert cli.main(["predict", *bench.arguments(tmp_path / "out", f="0 1")]) == 2
    message = capsys.readouterr().err
    assert f"{bench.names[1]} lacks channel 0003 (" in message and "the model needs all 4" in message
    assert "without finetuning.channel_dropout: add the files, or take a model that was trained with it" in message
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_an_exported_model_still_takes_them(bench: Bench, tmp_path: Path) -> None:
    _record(bench.model, 0)
    exported = tmp_path / "exported"
    assert (
        cli.main(
            [
                "export",
                str(bench.model / "fold_0" / "checkpoint_final.pth"),
                "-o",
                str(exported),
                "--as",
                "nnUNetTrainer",
            ]
        )
        == 0
    )
    _lose(bench.images, bench.names[0], 1)
    _lose(bench.images, bench.names[1], 0, 1, 2)
    more = (
        "--model",
        str(exported),
        "--model",
        str(bench.model),
        *bench.arguments(tmp_path / "both", "--disable_tta")[6:],
    )
    assert cli.main(["predict", *more]) == 0
    assert read(tmp_path / "both", bench.names)
    found = ["-m", str(exported), *bench.arguments(tmp_path / "out", "--disable_tta")[6:]]
    assert cli.main(["predict", *found]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {f"{name}.nii.gz" for name in bench.names}


def _wanted(ending: str = ".nii.gz", *, some_suffice: bool = True) -> Any:
    return SimpleNamespace(channels=["T1", "T2", "FLAIR"], ending=ending, some_suffice=some_suffice)


@pytest.mark.parametrize(
    ("names", "stand_ins", "missing"),
    [
        (["a_0000", "a_0001", "a_0002"], [0, 1, 2], []),
        (["a_0001", "a_0002"], [0, 0, 1], [0]),
        (["a_0000", "a_0002"], [0, 0, 1], [1]),
        (["a_0000"], [0, 0, 0], [1, 2]),
        (["a_0002"], [0, 0, 0], [0, 1]),
    ],
)
def test_another_channel_stands_in(names: list[str], stand_ins: list[int], missing: list[int]) -> None:
    files = [f"images/{name}.nii.gz" for name in names]
    (found,) = find_cases([files], _wanted())
    assert found == [files[place] for place in stand_ins] and missing_channels(found, ".nii.gz") == missing
    assert find_cases([found], _wanted()) == [found]


@pytest.mark.parametrize(
    "names",
    [[], ["a"], ["a_0003"], ["a_0000", "a_0000"], ["a_0000", "a_0004"], ["a_0000", "a_0001", "a_0002", "a_0003"]],
)
def test_what_is_no_subset_of_the_channels_is_refused(names: list[str]) -> None:
    with pytest.raises(InputError, match="the model needs 3"):
        find_cases([[f"images/{name}.nii.gz" for name in names]], _wanted())


def test_colours_of_other_formats_are_left_to_their_reader() -> None:
    assert find_cases([["a_0000.png"]], _wanted(".png")) == [["a_0000.png"]]
    with pytest.raises(InputError, match="is one of 1 files"):
        find_cases([["a_0001.png"]], _wanted(".png"))


def test_images_of_subjects_lack_channels_too(
    prepared: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = prepared.folder("nnUNet_raw", prepared.labelled)
    case = sorted(path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").glob("*.nii.gz"))[0]
    images = tmp_path / "images"
    images.mkdir()
    for channel in (1, 3):
        shutil.copy(raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz", images)
    folder = prepared.folder("nnUNet_preprocessed", prepared.labelled)
    plans = PlansManager(str(folder / "BDFMPlans.json"))
    model = (plans, plans.get_configuration("3d_fullres"), json.loads((folder / "dataset.json").read_text()))
    with pytest.raises(InputError, match=rf"{case} lacks channels 0000 .*, 0002 .*needs all 4"):
        ImageFiles(*model, images)
    source = ImageFiles(*model, images, some_suffice=True)
    source.check(workers=1, with_maps=False, inputs=KnownInputs())
    assert f"case {case} lacks channels 0000" in caplog.text
    found, _ = source.read(case)
    every, _ = ImageFiles(*model, {case: [str(raw / "imagesTr" / f"{case}_{n:04d}.nii.gz") for n in range(4)]}).read(
        case
    )
    assert source.names == [case] and (found[[0, 2]] == 0).all()
    np.testing.assert_array_equal(found[[1, 3]], every[[1, 3]])
    assert ImagesWanted.of(*model).some_suffice is False
