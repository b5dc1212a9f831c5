"""`bdfm predict` on the shared made-up cohort, with untrained models, beside nnU-Net's own predictor."""

import multiprocessing
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference import predict_from_raw_data as nnunet
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from bdfm_nnunet import cli
from bdfm_nnunet.files import read_json
from bdfm_nnunet.prediction import pools
from tests.conftest import Prepared
from tests.trainers.running import stock_network

CASES = 2


class Bench:
    """Two cases to predict, and a model of two untrained folds with mirroring along one axis."""

    def __init__(self, prepared: Prepared, root: Path) -> None:
        self.images = root / "images"
        self.images.mkdir()
        raw = prepared.folder("nnUNet_raw", prepared.labelled)
        self.labels = raw / "labelsTr"
        self.names = sorted(path.name.removesuffix(".nii.gz") for path in self.labels.glob("*.nii.gz"))[:CASES]
        for name in self.names:
            for path in (raw / "imagesTr").glob(f"{name}_*.nii.gz"):
                shutil.copy(path, self.images)
        self.model = root / "nnUNet_results" / raw.name / "nnUNetTrainer__BDFMPlans__3d_fullres"
        for fold in range(2):
            (self.model / f"fold_{fold}").mkdir(parents=True)
            torch.manual_seed(fold)
            network = stock_network(prepared, channels=4)
            content = {
                "network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
                "init_args": {"configuration": "3d_fullres"}, "inference_allowed_mirroring_axes": (2,),
            }  # fmt: skip
            torch.save(content, self.model / f"fold_{fold}" / "checkpoint_final.pth")
        preprocessed = prepared.folder("nnUNet_preprocessed", prepared.labelled)
        shutil.copy(preprocessed / "dataset.json", self.model)
        shutil.copy(preprocessed / "BDFMPlans.json", self.model / "plans.json")

    def arguments(self, out: Path, *more: str) -> list[str]:
        chosen = ["-d", "502", "-c", "3d_fullres", "-p", "BDFMPlans", "-f", "0", "1"]
        return [*chosen, "-device", "cpu", "-i", str(self.images), "-o", str(out), "-npp", "1", "-nps", "1", *more]


@pytest.fixture
def bench(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 1)  # nnU-Net's command sets as many threads
    monkeypatch.setattr(sys, "argv", ["bdfm"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Bench(prepared, tmp_path)


def read(folder: Path, names: list[str]) -> list[Any]:
    return [sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz"))) for name in names]


def test_segmentations_and_files_are_those_of_nnunet(bench: Bench, tmp_path: Path) -> None:
    stock = nnunet.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(bench.model), (0, 1))
    (tmp_path / "stock").mkdir()
    stock.predict_from_files_sequential(str(bench.images), str(tmp_path / "stock"), save_probabilities=True)
    out = tmp_path / "ours"
    assert cli.main(["predict", *bench.arguments(out, "--precision", "fp32", "--save_probabilities")]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (tmp_path / "stock").iterdir())
    for name, theirs, found in zip(bench.names, read(tmp_path / "stock", bench.names), read(out, bench.names)):
        assert (theirs == found).mean() > 0.9999 and theirs.mean() > 0
        expected, ours = (np.load(folder / f"{name}.npz")["probabilities"] for folder in (tmp_path / "stock", out))
        np.testing.assert_allclose(ours, expected, atol=1e-3)
    assert nnunet.nnUNetPredictor is type(stock)  # nnU-Net's command is its own again


def test_prediction_continues_and_runs_without_workers(bench: Bench, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    assert cli.main(["predict", *bench.arguments(first, "--disable_tta")]) == 0
    kept, lost = (first / f"{name}.nii.gz" for name in bench.names)
    time, content = kept.stat().st_mtime_ns, read(first, bench.names)
    lost.unlink()
    assert cli.main(["predict", *bench.arguments(first, "--disable_tta", "--continue_prediction")]) == 0
    assert kept.stat().st_mtime_ns == time and lost.is_file()
    sequential = bench.arguments(again, "--disable_tta", "-npp", "0", "-nps", "0", "--windows", "2")
    assert cli.main(["predict", *sequential]) == 0
    from_folder = ["-m", str(bench.model), *bench.arguments(tmp_path / "folder", "--disable_tta")[6:]]
    assert cli.main(["predict", *from_folder]) == 0
    for folder in (first, again, tmp_path / "folder"):
        assert all((a == b).mean() > 0.999 for a, b in zip(content, read(folder, bench.names), strict=True))


def test_an_interrupted_export_leaves_nothing_that_looks_whole(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*args: Any) -> None:
        Path(f"{args[5]}.nii.gz").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pools, "export_prediction_from_logits", torn)
    with pytest.raises(OSError, match="No space"):
        cli.main(["predict", *bench.arguments(tmp_path / "out", "--disable_tta")])
    assert not list((tmp_path / "out").glob("*.nii.gz"))
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"-d": "777"}, "there is not one data set 777"),
        ({"-d": "five"}, "there is not one data set five"),
        ({"-p": "Other"}, "nnUNetTrainer__Other__3d_fullres does not exist: train that model first"),
        ({"-chk": "checkpoint_best.pth"}, "has no checkpoint_best.pth of fold 0: finish a training"),
        ({"-f": "3"}, "has no checkpoint_final.pth of fold 3: name those with -f 0 1"),
        ({"-i": "nowhere"}, "nowhere is no folder: name the folder of the images with -i"),
        ({"-i": "."}, "has no file that ends in .nii.gz"),
    ],
    ids=str,
)
def test_bad_input_ends_in_one_sentence(
    changes: dict[str, str], sentence: str, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    arguments = bench.arguments(tmp_path / "out")
    for option, value in changes.items():
        arguments += [option, value]
    if "-d" in changes:
        arguments = ["-d", changes["-d"], *arguments[2:-2]]
    assert cli.main(["predict", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_case_without_one_of_its_channels_is_named(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bench.images / f"{bench.names[1]}_0003.nii.gz").unlink()
    assert cli.main(["predict", *bench.arguments(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert f"{bench.names[1]}_0000.nii.gz is one of 3 files, the model needs 4" in message
    assert "CASE_0003.nii.gz" in message


@pytest.mark.parametrize("damage", ["cut off", "another shape"])
def test_an_image_that_cannot_be_used_is_named_and_the_cases_before_it_are_kept(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    image = bench.images / f"{bench.names[1]}_0002.nii.gz"
    if damage == "cut off":
        image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
        reason = "cannot be read"
    else:
        sitk.WriteImage(sitk.ReadImage(str(image))[:, :, 1:], str(image))
        reason = "has another shape than"
    out = tmp_path / "out"
    assert cli.main(["predict", *bench.arguments(out, "--disable_tta")]) != 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error:" in line)
    assert f"{image} {reason}" in line
    assert [path.name for path in out.glob("*.nii.gz")] == [f"{bench.names[0]}.nii.gz"]


def test_a_folder_that_is_no_model_is_named(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bench.model / "plans.json").unlink()
    assert cli.main(["predict", *bench.arguments(tmp_path / "out")]) == 2
    assert "is no trained model, it has no plans.json" in capsys.readouterr().err


def preprocessing(bench: Bench, previous: str | None) -> tuple[Any, ...]:
    manager = PlansManager(read_json(bench.model / "plans.json"))
    files = sorted(str(path) for path in bench.images.glob(f"{bench.names[0]}_*"))
    dataset = read_json(bench.model / "dataset.json")
    return files, previous, "out", manager, manager.get_configuration("3d_fullres"), dataset, False


def test_the_previous_stage_of_a_cascade_becomes_channels(bench: Bench) -> None:
    label = bench.labels / f"{bench.names[0]}.nii.gz"
    alone = pools.preprocess_case(*preprocessing(bench, None))["data"]
    joined = pools.preprocess_case(*preprocessing(bench, str(label)))["data"]
    np.testing.assert_array_equal(joined[:4], alone)
    assert joined.shape[0] == 4 + 3
    assert set(np.unique(joined[4:])) == {0.0, 1.0}


def test_cases_are_prepared_in_order_and_only_so_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def prepare(number: int) -> pools.Item:
        begun.append(number)
        return {"data": np.zeros(1), "ofile": number}

    monkeypatch.setattr(pools, "preprocess_case", prepare)
    with ThreadPoolExecutor(1) as pool:
        cases = pools.preprocess_ahead([(number,) for number in range(6)], pool, ahead=2)
        assert [next(cases)["ofile"], next(cases)["ofile"]] == [0, 1]
        assert len(begun) <= 4
        assert [item["ofile"] for item in cases] == [2, 3, 4, 5]


def test_workers_are_threads_on_a_cpu_and_processes_elsewhere() -> None:
    for device, kind in (("cpu", ThreadPoolExecutor), ("cuda", ProcessPoolExecutor)):
        with pools.workers(0, torch.device(device)) as pool:
            assert isinstance(pool, kind)


@pytest.mark.slow
def test_processes_prepare_and_export_as_threads_do(bench: Bench, tmp_path: Path) -> None:
    case = preprocessing(bench, None)
    expected = pools.preprocess_case(*case)
    with pools.workers(1, torch.device("cuda")) as pool:
        (item,) = pools.preprocess_ahead([case], pool, ahead=1)
        np.testing.assert_array_equal(item["data"].numpy(), expected["data"])
        logits = np.random.default_rng(0).normal(size=(3, *item["data"].shape[1:])).astype(np.float16)
        model = (case[4], case[3], case[5])
        pool.submit(pools.export_case, logits, item["data_properties"], *model, str(tmp_path / "case"), False).result()
    label = pools.export_case(logits, expected["data_properties"], *model, None, False)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "case.nii.gz")))
    np.testing.assert_array_equal(written, label)
