import errno
import json
import logging
import multiprocessing
import multiprocessing.dummy
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.checksums import Checksums, checksums_path
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.inputs.input_fingerprint import INPUT_FINGERPRINT, InputFingerprint
from bdfm_nnunet.plans import add_variant, describe_plans, image_planning, plan_dataset, preprocessing
from bdfm_nnunet.plans.variants import DEFAULT_CONFIGURATIONS
from tests.limits import largest_file


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's worker processes as threads, which need not import torch for seconds."""
    real = multiprocessing.get_context
    monkeypatch.setattr(
        multiprocessing, "get_context", lambda method=None: multiprocessing.dummy if method == "spawn" else real(method)
    )


@pytest.fixture
def own_copy(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The prepared labelled data set, raw and preprocessed, copied so that a test may harm it."""
    folders = []
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        source = prepared.folder(variable, prepared.labelled)
        folders.append(Path(shutil.copytree(source, tmp_path / variable / source.name)))
        monkeypatch.setenv(variable, str(tmp_path / variable))
    plans = folders[1] / f"{prepared.plans}.json"
    content = json.loads(plans.read_text())
    for variant in set(content["configurations"]) - set(DEFAULT_CONFIGURATIONS):  # of other tests
        del content["configurations"][variant]
    plans.write_text(json.dumps(content))
    return folders[0], folders[1]


def configuration_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())["configurations"]["3d_fullres"]
    return found


@pytest.mark.usefixtures("threads")
def test_data_is_preprocessed_once_for_all_networks(own_copy: tuple[Path, Path]) -> None:
    raw, preprocessed = own_copy
    cases = json.loads((raw / "dataset.json").read_text())["numTraining"]
    data = preprocessed / "nnUNetPlans_3d_fullres"
    assert len(list(data.glob("*_seg.b2nd"))) == cases
    plan_dataset(502, network="swin", gpu_memory=0.25, workers=1)
    times = {path: path.stat().st_mtime_ns for path in data.iterdir()}
    known = InputFingerprint.read(preprocessed / INPUT_FINGERPRINT)
    assert (known.cases, known.channels, known.orientations) == (6, ("t1n", "t1c", "t2w", "t2f"), ("LPS",))
    path = plan_dataset(502, network="resenc", gpu_memory=0.5, plans_name="Residual", workers=1)
    assert configuration_of(path)["architecture"]["network_class_name"].endswith("ResidualEncoderUNet")
    assert {path: path.stat().st_mtime_ns for path in data.iterdir()} == times
    image = min((raw / "imagesTr").iterdir())
    os.utime(image, ns=(0, 0))
    plan_dataset(502, network="swin", gpu_memory=0.25, workers=1)
    assert {path: path.stat().st_mtime_ns for path in data.iterdir()} != times
    leftovers = [entry.name for entry in preprocessed.iterdir() if "partial" in entry.name]
    assert leftovers == []


@pytest.mark.usefixtures("threads")
def test_an_interrupted_preprocessing_leaves_no_data(
    own_copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, preprocessed = own_copy
    shutil.rmtree(preprocessed / "nnUNetPlans_3d_fullres")

    def interrupted(_: int, plans_name: str, *__: Any) -> None:
        settings = configuration_of(preprocessed / f"{plans_name}.json")
        (preprocessed / settings["data_identifier"]).mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(preprocessing, "preprocess_dataset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan_dataset(502, gpu_memory=0.25, workers=1)
    assert not (preprocessed / "nnUNetPlans_3d_fullres").exists()
    assert not [entry for entry in preprocessed.iterdir() if "partial" in entry.name]


@pytest.mark.usefixtures("threads")
def test_incomplete_data_is_made_again(own_copy: tuple[Path, Path]) -> None:
    _, preprocessed = own_copy
    plan_dataset(502, gpu_memory=0.25, workers=1)
    lost = min((preprocessed / "nnUNetPlans_3d_fullres").glob("*_seg.b2nd"))
    lost.unlink()
    plan_dataset(502, gpu_memory=0.25, workers=1)
    assert lost.is_file()


@pytest.mark.usefixtures("threads")
@pytest.mark.usefixtures("threads")
def test_a_kill_leaves_no_word_of_data_that_is_not_there(
    own_copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the renaming of the data and the record; then everything is put back as it was before."""
    raw, preprocessed = own_copy
    record = json.loads((preprocessed / "bdfm_preparation.json").read_text())

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preprocessing, "_data_state", lambda *_: "another state")
        patch.setattr(preprocessing, "write_checksums", killed)
        with pytest.raises(KeyboardInterrupt):
            plan_dataset(502, network="swin", gpu_memory=0.25, workers=1)
    assert "nnUNetPlans_3d_fullres" not in json.loads((preprocessed / "bdfm_preparation.json").read_text())["data"]
    assert Checksums.of(preprocessed / "nnUNetPlans_3d_fullres") is None
    before = {path: path.stat().st_mtime_ns for path in (preprocessed / "nnUNetPlans_3d_fullres").iterdir()}
    plan_dataset(502, network="swin", gpu_memory=0.25, workers=1)
    assert json.loads((preprocessed / "bdfm_preparation.json").read_text()) == record
    assert all(path.stat().st_mtime_ns != time for path, time in before.items())


def test_checksums_are_written_and_damage_is_mended(
    own_copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = own_copy[1] / "nnUNetPlans_3d_fullres"
    checksums = Checksums.of(data)
    assert checksums is not None and checksums.sizes_fit()
    for path in data.iterdir():
        checksums.verify(path.name)
    checksums_path(data).unlink()  # an earlier version of this package has preprocessed it
    plan_dataset(502, network="swin", gpu_memory=0.25, workers=1)
    again = Checksums.of(data)
    assert again is not None and again.sizes_fit()

    def refused(*_: Any) -> None:
        raise ValueError("enough for this test")

    monkeypatch.setattr(preprocessing, "preprocess_dataset", refused)
    min(data.glob("*.pkl")).write_bytes(b"made anew by another program")
    with pytest.raises(InputError, match="enough for this test"):
        plan_dataset(502, network="swin", gpu_memory=0.25, workers=1)


@pytest.mark.parametrize("content", ["[" * 9999, "7", "{}", '{"raw": 3}', "\xff", '{"spacings": []}'])
@pytest.mark.parametrize("name", ["bdfm_preparation.json", "dataset_fingerprint.json"])
def test_damaged_records_are_made_anew(
    own_copy: tuple[Path, Path], name: str, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own_copy[1] / name
    path.write_text(content, encoding="latin-1")
    done: list[int] = []

    def extracting(*_: Any, **__: Any) -> None:
        done.append(1)
        raise ValueError("enough for this test")

    monkeypatch.setattr(preprocessing, "extract_fingerprint_dataset", extracting)
    with pytest.raises(InputError, match="enough for this test"):
        preprocessing.prepare_fingerprint(502, workers=1)
    assert done and not (own_copy[1] / "dataset_fingerprint.json").exists()


def test_what_killed_runs_left_is_swept(own_copy: tuple[Path, Path]) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    left = own_copy[1] / f".{gone.pid}.partial.nnUNetPlans_3d_fullres"
    left.mkdir()
    living = own_copy[1] / f".{os.getpid()}.partial.BDFMPlans.json"
    living.touch()
    preprocessing.prepare_fingerprint(502, workers=1)
    assert not left.exists() and living.exists()


def test_a_damaged_image_is_named(own_copy: tuple[Path, Path]) -> None:
    raw, preprocessed = own_copy
    image = sorted((raw / "imagesTr").iterdir())[2]
    content = image.read_bytes()
    image.unlink()  # the file may be a link to the cohort's
    image.write_bytes(content[:100])
    before = (preprocessed / "BDFMPlans.json").read_bytes()
    with pytest.raises(InputError, match=image.name):
        plan_dataset(502, gpu_memory=0.25, workers=1)
    assert (preprocessed / "BDFMPlans.json").read_bytes() == before


def test_a_missing_image_is_named(own_copy: tuple[Path, Path]) -> None:
    raw, _ = own_copy
    label = min((raw / "labelsTr").iterdir())
    label.unlink()
    with pytest.raises(InputError, match=f"{label.name}.*does not exist"):
        plan_dataset(502, workers=1)


@pytest.mark.usefixtures("threads")
def test_other_splits_in_the_raw_folder_are_an_error(own_copy: tuple[Path, Path]) -> None:
    raw, _ = own_copy
    splits = json.loads((raw / "splits_final.json").read_text())
    splits[0]["train"], splits[0]["val"] = splits[0]["val"], splits[0]["train"]
    (raw / "splits_final.json").unlink()
    (raw / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(InputError, match=r"splits_final\.json .* disagrees"):
        plan_dataset(502, gpu_memory=0.25, workers=1)


def test_a_file_in_the_place_of_the_folder_is_named(
    skeleton: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skeleton((40, 40, 40))
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot write .*file.*name a folder in the place of that file"):
        plan_dataset(501)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("step", ["extract_fingerprint_dataset", "preprocess_dataset"])
def test_a_full_disk_leaves_nothing_half_done(
    own_copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _, preprocessed = own_copy
    shutil.rmtree(preprocessed)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(preprocessed))

    monkeypatch.setattr(preprocessing, step, full)
    with pytest.raises(InputError, match=r"cannot write .*No space left.*free some space"):
        plan_dataset(502, gpu_memory=0.25, workers=1)
    assert not list(preprocessed.glob("nnUNetPlans*"))
    assert not list(preprocessed.glob(".*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "unet"}, "--network 'unet' does not exist: choose one of swin, resenc, plain, resnet18"),
        ({"gpu_memory": 0}, "--gpu-memory is 0, expected GB above 0"),
        ({"workers": 0}, "--workers is 0, expected at least 1"),
        ({"plans_name": "a/b"}, "is not a plans name"),
    ],
)
def test_impossible_settings(skeleton: Callable[..., Any], settings: dict[str, Any], message: str) -> None:
    skeleton((40, 40, 40))
    with pytest.raises(InputError, match=message):
        plan_dataset(501, **settings)


def test_missing_folders_are_named(skeleton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = skeleton((40, 40, 40))
    with pytest.raises(InputError, match="no data set Dataset077_"):
        plan_dataset(77)
    (made.raw / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"has no dataset\.json"):
        plan_dataset(501)
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(InputError, match="nnUNet_raw is not set"):
        plan_dataset(501)


def test_two_data_sets_of_one_number(skeleton: Callable[..., Any]) -> None:
    made = skeleton((40, 40, 40))
    made.raw.with_name("Dataset501_Other").mkdir()
    with pytest.raises(InputError, match="501 is taken by Dataset501_Other and Dataset501_Skeleton: rename or remove"):
        plan_dataset(501)


@pytest.mark.usefixtures("threads")
def test_a_disk_that_fills_up_while_preprocessing(own_copy: tuple[Path, Path]) -> None:
    """The library that writes preprocessed data does not say that the disk is full."""
    _, preprocessed = own_copy
    shutil.rmtree(preprocessed)
    with largest_file(40_000), pytest.raises(InputError, match=r"cannot be preprocessed .*free some space"):
        plan_dataset(502, gpu_memory=0.25, workers=1)
    assert not [path for path in preprocessed.rglob("*") if path.suffix in (".b2nd", ".pkl")]
    assert not list(preprocessed.glob(".*"))


def test_planning_anew_keeps_variants_up_to_date(
    skeleton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(image_planning, "prepare_fingerprint", lambda *_, **__: None)
    skeleton((40, 40, 40))
    path = plan_dataset(501, gpu_memory=0.05, preprocess=False)
    before = configuration_of(path)
    add_variant(501, variant="short", settings={"training.epochs": 2})
    caplog.set_level(logging.INFO)
    plan_dataset(501, gpu_memory=0.3, preprocess=False)
    assert configuration_of(path)["architecture"] != before["architecture"]
    variant = json.loads(path.read_text())["configurations"]["short"]
    assert variant["inherits_from"] == "3d_fullres"
    assert variant["training"] == {"epochs": 2}
    assert "kept the configurations short" in caplog.text


def test_description_names_what_was_chosen(skeleton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_planning, "prepare_fingerprint", lambda *_, **__: None)
    skeleton((40, 40, 40))
    path = plan_dataset(501, gpu_memory=0.3, preprocess=False)
    rows = dict(line.split(None, 1) for line in describe_plans(path).splitlines())
    assert rows["network"] == "SwinUNet"
    assert rows["patch"] == "40 x 40 x 40 voxels, batch of 2"
    assert rows["strides"] == "1 x 1 x 1, 4 x 4 x 4, 2 x 2 x 2"
    assert rows["attention"] == "windows of 5 x 5 x 5 tokens, 2-2 blocks"
    assert rows["parameters"] == "2.2 million"
    assert rows["memory"].endswith("of 0.3 GB")
    assert "weights" not in rows
