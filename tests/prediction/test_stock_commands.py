"""`bdfm predict` on the shared made-up cohort, with untrained models, beside nnU-Net's own predictor."""

import gzip
import json
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference import predict_from_raw_data as nnunet
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from bdfm_nnunet import cli
from bdfm_nnunet.files import read_json
from bdfm_nnunet.prediction import case_workers
from bdfm_nnunet.results.verification import verify_result
from tests.conftest import Prepared
from tests.limits import largest_file
from tests.training.trainings import stock_network

CASES = 2


def _damage(size: float) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * size)])


def _rewrite(change: Callable[[Any], Any], affine: Any = None) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        image = nibabel.load(path)
        values = change(np.asanyarray(image.dataobj).astype(np.float32))
        nibabel.save(nibabel.Nifti1Image(values, image.affine if affine is None else affine @ image.affine), path)

    return plant


def _voxel(value: float) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[3, 3, 3] = value
        return values

    return change


def _header(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = (32767).to_bytes(2, "little") * 3  # dim[1:4]
    path.write_bytes(gzip.compress(bytes(content)))


SHIFT = np.eye(4) + np.array([[0, 0, 0, 40], *[[0] * 4] * 3])
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (_damage(0.5), "cannot be read as NIfTI, it is truncated or damaged"),
    "no bytes": (_damage(0), "cannot be read"),
    "another shape": (_rewrite(lambda values: values[:, :, 1:]), "has the shape"),
    "shifted by 40 mm": (_rewrite(lambda values: values, SHIFT), "lies up to 40 mm from"),
    "NaN": (_rewrite(_voxel(np.nan)), "has 1 voxels that are NaN or infinite"),
    "infinite": (_rewrite(_voxel(np.inf)), "has 1 voxels that are NaN or infinite"),
    "empty": (_rewrite(np.zeros_like), "is empty (every voxel is 0)"),
    "four axes": (_rewrite(lambda values: np.stack([values] * 2, axis=-1)), "expected one 3-D volume"),
    "sizes beyond memory": (_header, "asks in its header for"),
}


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

    def arguments(self, out: Path, *more: str, **others: str) -> list[str]:
        """Of the command; `others` are values of options in the place of the usual ones."""
        usual = {"d": "502", "c": "3d_fullres", "p": "BDFMPlans", "f": "0", "device": "cpu", "i": str(self.images),
                 "o": str(out), "npp": "1", "nps": "1"}  # fmt: skip
        chosen = {f"-{name}": value.split(" ") for name, value in (usual | others).items()}
        return [word for option, values in chosen.items() for word in (option, *values)] + list(more)


def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nnU-Net's command take one."""
    monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 1)  # it sets as many threads
    monkeypatch.setattr(sys, "argv", ["bdfm"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def bench(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    one_thread(monkeypatch)
    return Bench(prepared, tmp_path)


def read(folder: Path, names: list[str]) -> list[Any]:
    return [sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz"))) for name in names]


def test_segmentations_and_files_are_those_of_nnunet(bench: Bench, tmp_path: Path) -> None:
    stock = nnunet.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(bench.model), (0, 1))
    (tmp_path / "stock").mkdir()
    stock.predict_from_files_sequential(str(bench.images), str(tmp_path / "stock"), save_probabilities=True)
    out = tmp_path / "ours"
    assert cli.main(["predict", *bench.arguments(out, "--precision", "fp32", "--save_probabilities", f="0 1")]) == 0
    theirs = {path.name for path in (tmp_path / "stock").iterdir()}
    assert {path.name for path in out.iterdir()} == theirs | {
        "case_quality.csv",
        "prediction_summary.json",
        "prediction_summary.md",
    }
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
    sequential = bench.arguments(again, "--disable_tta", "--windows", "2", npp="0", nps="0")
    assert cli.main(["predict", *sequential]) == 0
    from_folder = ["-m", str(bench.model), *bench.arguments(tmp_path / "folder", "--disable_tta")[6:]]
    assert cli.main(["predict", *from_folder]) == 0
    for folder in (first, again, tmp_path / "folder"):
        assert all((a == b).mean() > 0.999 for a, b in zip(content, read(folder, bench.names), strict=True))


def test_an_interrupted_export_leaves_nothing_that_looks_whole(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def torn(*args: Any) -> None:
        Path(f"{args[5]}.nii.gz").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(case_workers, "export_prediction_from_logits", torn)
    assert cli.main(["predict", *bench.arguments(tmp_path / "out", "--disable_tta")]) == 2
    assert re.search(r"cannot write .*No space left.*free some space", capsys.readouterr().err)
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
    arguments = bench.arguments(tmp_path / "out", **{option[1:]: value for option, value in changes.items()})
    assert cli.main(["predict", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_case_without_one_of_its_channels_is_named(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bench.images / f"{bench.names[1]}_0003.nii.gz").unlink()
    assert cli.main(["predict", *bench.arguments(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert f"{bench.names[1]} lacks channel 0003 (" in message and "the model needs all 4 (" in message


@pytest.mark.parametrize("fault", FAULTS)
def test_an_image_that_cannot_be_used_is_named_before_any_prediction(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    image = bench.images / f"{bench.names[1]}_0002.nii.gz"
    plant, sentence = FAULTS[fault]
    plant(image)
    out = tmp_path / "out"
    assert cli.main(["predict", *bench.arguments(out, "--disable_tta")]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error:" in line)
    assert str(image) in line and sentence in line and line.endswith("nothing was predicted")
    assert not list(out.glob("*.nii.gz"))


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
    alone = case_workers.preprocess_case(*preprocessing(bench, None))["data"]
    joined = case_workers.preprocess_case(*preprocessing(bench, str(label)))["data"]
    np.testing.assert_array_equal(joined[:4], alone)
    assert joined.shape[0] == 4 + 3
    assert set(np.unique(joined[4:])) == {0.0, 1.0}


def test_cases_are_prepared_in_order_and_only_so_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def prepare(number: int) -> case_workers.Item:
        begun.append(number)
        return {"data": np.zeros(1), "ofile": number}

    monkeypatch.setattr(case_workers, "preprocess_case", prepare)
    with ThreadPoolExecutor(1) as pool:
        cases = case_workers.preprocess_ahead([(number,) for number in range(6)], pool, ahead=2)
        assert [next(cases)["ofile"], next(cases)["ofile"]] == [0, 1]
        assert len(begun) <= 4
        assert [item["ofile"] for item in cases] == [2, 3, 4, 5]


def test_workers_are_threads_on_a_cpu_and_processes_elsewhere() -> None:
    for device, kind in (("cpu", ThreadPoolExecutor), ("cuda", ProcessPoolExecutor)):
        with case_workers.workers(0, torch.device(device)) as pool:
            assert isinstance(pool, kind)


@pytest.mark.slow
def test_processes_prepare_and_export_as_threads_do(bench: Bench, tmp_path: Path) -> None:
    case = preprocessing(bench, None)
    expected = case_workers.preprocess_case(*case)
    with case_workers.workers(1, torch.device("cuda")) as pool:
        (item,) = case_workers.preprocess_ahead([case], pool, ahead=1)
        np.testing.assert_array_equal(item["data"].numpy(), expected["data"])
        logits = np.random.default_rng(0).normal(size=(3, *item["data"].shape[1:])).astype(np.float16)
        model = (case[4], case[3], case[5])
        pool.submit(
            case_workers.export_case, logits, item["data_properties"], *model, str(tmp_path / "case"), False
        ).result()
    label = case_workers.export_case(logits, expected["data_properties"], *model, None, False)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "case.nii.gz")))
    np.testing.assert_array_equal(written, label)


# ------------------------------------------------------------------------------------------- folders, disks and rules


def test_left_overs_are_passed_over_and_counted(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (bench.images / f"._{bench.names[0]}_0000.nii.gz").write_bytes(b"what a Mac leaves behind")
    (bench.images / ".DS_Store").touch()
    caplog.set_level("INFO")
    assert cli.main(["predict", *bench.arguments(tmp_path / "out", "--disable_tta")]) == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == CASES
    assert "2 left-overs of other programs passed over" in caplog.text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("seg.nii.gz", "is not named after a case and a channel"),
     (f"{'x' * 240}_0000.nii.gz", "at most 200 are possible"),
     (b"\xff\xfe_0000.nii.gz", "is no usable name"), ("q_0000.NII.GZ", "rename it")],
)  # fmt: skip
def test_names_that_no_result_could_have(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str | bytes, sentence: str
) -> None:
    path = os.path.join(os.fsencode(bench.images), os.fsencode(name))
    shutil.copy(bench.images / f"{bench.names[0]}_0000.nii.gz", path)
    assert cli.main(["predict", *bench.arguments(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole"
    assert cli.main(["predict", *bench.arguments(whole, "--disable_tta", "--save_probabilities")]) == 0
    sizes = sorted(path.stat().st_size for path in whole.iterdir())
    for number, limit in enumerate((sizes[0] - 1, sizes[-1] - 1)):
        out = tmp_path / f"out_{number}"  # as long as the other, for one of the files holds it
        with largest_file(limit):
            code = cli.main(["predict", *bench.arguments(out, "--disable_tta", "--save_probabilities")])
        assert code == 2 and "cannot write" in capsys.readouterr().err
        for path in set(out.iterdir()) - {out / "prediction_summary.md"}:
            if path.name == "prediction_summary.json":  # names what was written until then
                assert verify_result(path).answer == "unchanged"
            else:
                assert path.stat().st_size == (whole / path.name).stat().st_size


RULE = {"region": "all", "values": [1, 2, 3], "what": "total", "below_mm3": 1e9, "becomes": 0}
RULES = {"format": 1, "release": "brats2023-gli", "metrics": "whole", "labels": [0, 1, 2, 3], "evidence": {}}


def test_rules_are_applied_once_and_to_the_files_of_this_run(bench: Bench, tmp_path: Path) -> None:
    out, rules = tmp_path / "out", tmp_path / "rules.json"
    rules.write_text(json.dumps(RULES | {"rules": [RULE]}))
    out.mkdir()
    label = min(bench.labels.glob("*.nii.gz"))
    shutil.copy(label, out / "earlier.nii.gz")
    shutil.copy(label, out / f"{bench.names[0]}.nii.gz")
    before = label.read_bytes()
    assert any(values.any() for values in read(bench.labels, [label.name.removesuffix(".nii.gz")]))
    more = ("--disable_tta", "--continue_prediction", "--postprocess", str(rules))
    assert cli.main(["predict", *bench.arguments(out, *more)]) == 0
    assert (out / "earlier.nii.gz").read_bytes() == (out / f"{bench.names[0]}.nii.gz").read_bytes() == before
    (predicted,) = read(out, bench.names[1:])
    assert not predicted.any()


def test_rules_that_do_not_know_a_label_of_the_model(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps(RULES | {"rules": [], "labels": [0, 1]}))
    assert cli.main(["predict", *bench.arguments(tmp_path / "out", "--postprocess", str(rules))]) == 2
    assert "--postprocess know the labels [0, 1]" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_without_processes_files_are_whole_too(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    export = case_workers.export_prediction_from_logits

    def watched(*args: Any) -> None:
        seen.append(Path(args[5]).name)
        export(*args)

    monkeypatch.setattr(case_workers, "export_prediction_from_logits", watched)
    sequential = bench.arguments(tmp_path / "out", "--disable_tta", npp="0", nps="0")
    assert cli.main(["predict", *sequential]) == 0
    assert len(seen) == CASES and all(".partial." in name for name in seen)
    with case_workers.workers(0, torch.device("cuda"), only_threads=True) as pool:
        assert isinstance(pool, ThreadPoolExecutor)
