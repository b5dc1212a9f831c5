"""The peak of memory of an ensemble against the number of its models: streamed, and with all networks in memory.

Models are plain U-Nets with random weights and one fold each. Each arm is a process that predicts one made-up case with
1 to N of them: `bdfm predict --model ...`, which has one network at a time and averages on the disk, and a program that
holds all networks and all probabilities, as a script that averages by itself does. Both give the same probabilities.

    python benchmarks/ensemble_memory.py [--quick] [--models 1,2,4,8]
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from bdfm_nnunet.networks.network_building import build_network
from harness import Result, Table, numbers, options, parse, prose

RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Several add in another order, and logits are rounded to half precision."""
FLAT = 0.1
"""How much the peak may grow from one model to the most of them."""
IN_MEMORY = """
import sys, numpy as np, torch
from bdfm_nnunet.prediction.case_workers import export_case
from bdfm_nnunet.prediction.predictor import Options, Predictor
images, out, *folders = sys.argv[1:]
torch.set_num_threads(1)
predictors, found = [], []
for folder in folders:
    one = Predictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False,
                    options=Options(precision="fp32"))
    one.initialize_from_trained_model_folder(folder, (0,))
    one.list_of_parameters = list(one.list_of_parameters)
    predictors.append(one)
for one in predictors:
    ((_, probabilities),) = one.predict_from_files(images, None, True, num_processes_preprocessing=1,
                                                   num_processes_segmentation_export=1)
    found.append(probabilities)
np.savez(out, probabilities=np.mean(found, axis=0))
"""


def write_model(folder: Path, *, seed: int, width: int) -> None:
    """Write a model of one fold."""
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 4, "features_per_stage": [width, 2 * width, 4 * width, 8 * width],
            "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": [[3, 3, 3]] * 4,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * 3], "n_conv_per_stage": [1, 1, 2, 4],
            "n_conv_per_stage_decoder": [1, 1, 1], "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }  # fmt: skip
    resampling: dict[str, Any] = {}
    for name in ("data", "seg", "probabilities"):
        resampling[f"resampling_fn_{name}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{name}_kwargs"] = RESAMPLING | {"is_seg": name == "seg"}
    configuration = {
        "data_identifier": "none", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [32, 32, 32], "spacing": [1.0] * 3, "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False], "architecture": architecture, "batch_dice": False, **resampling,
    }  # fmt: skip
    plans = {
        "dataset_name": "Dataset001_Bench", "plans_name": "Bench", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"3d": configuration},
        "foreground_intensity_properties_per_channel": {"0": {}},
    }  # fmt: skip
    dataset = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz",
               "numTraining": 1}  # fmt: skip
    torch.manual_seed(seed)
    network = build_network(configuration, inputs=1, outputs=3, deep_supervision=False)
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    content = {"network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
               "init_args": {"configuration": "3d"}, "inference_allowed_mirroring_axes": None}  # fmt: skip
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")


def peak_of(command: list[str], log: Path) -> float:
    """Run a command and return the most memory it has held, in MiB."""
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=os.environ | ONE_THREAD)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[:3]} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(root: Path, count: int) -> tuple[float, float, float]:
    """Return both peaks in MiB, and the largest difference of the probabilities."""
    folders = [str(root / f"model{number}") for number in range(count)]
    ours, plain = root / f"ours{count}", root / f"plain{count}.npz"
    command = [str(Path(sys.executable).parent / "bdfm"), "predict", "-i", str(root / "images"), "-o", str(ours), "-f",
               "0", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta", "--precision", "fp32",
               "--save_probabilities", "--disable_progress_bar"]  # fmt: skip
    for folder in folders:
        command += ["--model", folder]
    streamed = peak_of(command, root / "streamed.log")
    held = peak_of([sys.executable, "-c", IN_MEMORY, str(root / "images"), str(plain), *folders], root / "held.log")
    found = [np.load(path)["probabilities"] for path in (ours / "case.npz", plain)]
    return streamed, held, float(np.abs(found[0] - found[1]).max())


def main() -> None:
    """Measure both for each number of models and write benchmarks/results/ensemble_memory.json."""
    parser = options(__doc__, rounds=1)
    parser.add_argument("--models", type=numbers, default=[1, 2, 4, 8], help="numbers of models (default: 1,2,4,8)")
    parser.add_argument("--width", type=int, default=64, help="features of the first stage (default: %(default)s)")
    settings = parse(parser, quick={"models": [1, 3], "width": 16})
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for number in range(max(settings.models)):
            write_model(root / f"model{number}", seed=number, width=settings.width)
        (root / "images").mkdir()
        values = np.random.default_rng(0).normal(size=(48, 48, 48)).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.eye(4)), root / "images" / "case_0000.nii.gz")
        weights = (root / "model0" / "fold_0" / "checkpoint_final.pth").stat().st_size / 2**20
        found = {count: measure(root, count) for count in settings.models}
    table = Table(f"Peak of memory, MiB; weights of a model: {weights:.0f} MiB",
                  ["models", "streamed", "all in memory", "largest difference of probabilities"])  # fmt: skip
    for count, (streamed, held, apart) in found.items():
        table.rows.append([str(count), f"{streamed:.0f}", f"{held:.0f}", f"{apart:.1e}"])
    first, last = found[min(found)][0], found[max(found)][0]
    apart = max(row[2] for row in found.values())
    result = Result(
        title="Memory of an ensemble", about=prose(__doc__), settings=vars(settings),
        packages=("torch", "numpy", "nnunetv2"), tables=[table], raw={"found": found},
        goals=[
            ("the peak is flat against the number of models",
             f"{last / first - 1:+.1%} from {min(found)} to {max(found)}", abs(last / first - 1) < FLAT),
            ("streamed equals averaging in memory to 1e-6", f"{apart:.1e}", apart <= 1e-6),
        ],
    )  # fmt: skip
    result.write(settings.json)


if __name__ == "__main__":
    main()
