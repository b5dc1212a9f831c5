"""The whole command: `nnUNetv2_predict` and `bdfm predict` on a few cases, from the shell to the last file.

The model is small and untrained (mirroring off): what is timed is the frame around the network, that is imports,
preprocessing, worker processes or threads, and export. `prediction.py` times the network.

    python benchmarks/prediction_command.py [--quick] [--cases 2] [--rounds 2]
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from bdfm_nnunet.data.demo import make_cohort
from bdfm_nnunet.data.phantom import CHANNELS
from bdfm_nnunet.number_types import multiplies_bf16
from harness import Result, Spread, Table, alternate, options, parse, prose

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
PATCH = [64, 64, 64]
ARCHITECTURE: dict[str, Any] = {
    "network_class_name": "bdfm_nnunet.networks.swin_unet.SwinUNet",
    "arch_kwargs": {
        "strides": [[1, 1, 1], [4, 4, 4], [2, 2, 2]], "features_per_stage": [8, 24, 48], "depths": [2, 2],
        "num_heads": [2, 4], "window_size": [4, 4, 4],
    },
    "_kw_requires_import": [],
}  # fmt: skip
RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}


def write_model(folder: Path) -> None:
    """Write a model folder of nnU-Net, fold 0, with random weights."""
    resampling = {}
    for name, is_seg in (("data", False), ("seg", True), ("probabilities", False)):
        resampling[f"resampling_fn_{name}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{name}_kwargs"] = RESAMPLING | {"is_seg": is_seg}
    configuration = {
        "data_identifier": "none", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": PATCH,
        "spacing": [1.0, 1.0, 1.0], "normalization_schemes": ["ZScoreNormalization"] * 4,
        "use_mask_for_norm": [True] * 4, "architecture": ARCHITECTURE, "batch_dice": False, **resampling,
    }  # fmt: skip
    plans = {
        "dataset_name": "Dataset001_Bench", "plans_name": "Bench", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"3d": configuration},
        "foreground_intensity_properties_per_channel": {str(number): {} for number in range(4)},
    }  # fmt: skip
    dataset = {
        "channel_names": dict(enumerate(CHANNELS)), "labels": {"background": 0, "core": 1, "oedema": 2, "enhancing": 3},
        "file_ending": ".nii.gz", "numTraining": 1,
    }  # fmt: skip
    kwargs = (ARCHITECTURE["network_class_name"], ARCHITECTURE["arch_kwargs"], [], 4, 4)
    network = get_network_from_plans(*kwargs, deep_supervision=False)
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    content = {
        "network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d"}, "inference_allowed_mirroring_axes": None,
    }  # fmt: skip
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")


def write_images(folder: Path, cases: int) -> None:
    """Write made-up cases at 1 mm under nnU-Net's names."""
    folder.mkdir()
    for number, case in enumerate(make_cohort(folder.parent / "cohort", cases=cases, seed=3, spacing=1.0)):
        for channel, name in enumerate(CHANNELS):
            (case / f"{case.name}-{name}.nii.gz").rename(folder / f"case{number}_{channel:04d}.nii.gz")


def run(root: Path, command: list[str], out: str) -> None:
    """Run one command in a separate process, with its output in a file."""
    environment = os.environ | {name: str(root / name) for name in FOLDERS}
    arguments = ["-m", root / "model", "-f", "0", "-i", root / "images", "-o", root / out, "-device", "cpu",
                 "--disable_tta", "--disable_progress_bar"]  # fmt: skip
    with (root / f"{out}.log").open("w") as log:
        subprocess.run([*command, *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)


def main() -> None:
    """Run both commands in turn and write benchmarks/results/prediction_command.json."""
    parser = options(__doc__, rounds=2)
    parser.add_argument("--cases", type=int, default=2, help="cases to predict (default: %(default)s)")
    settings = parse(parser, quick={"rounds": 1, "cases": 1})
    cases, rounds = settings.cases, settings.rounds
    scripts = Path(sys.executable).parent
    commands = {
        "nnUNetv2_predict": [str(scripts / "nnUNetv2_predict_from_modelfolder")],
        "bdfm predict": [str(scripts / "bdfm"), "predict"],
        "bdfm predict --precision fp32": [str(scripts / "bdfm"), "predict", "--precision", "fp32"],
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_model(root / "model")
        write_images(root / "images", cases)
        arms = {arm: partial(run, root, command, f"out{n}") for n, (arm, command) in enumerate(commands.items())}
        times = alternate(arms, rounds=rounds, warmup=0)
    table = Table(f"The whole command, {cases} case(s) of 240 x 240 x 155", ["command", "seconds", "time / nnU-Net's"])
    table.note = f'The type of "bdfm predict" is {"bf16" if multiplies_bf16() else "fp32"} on this processor.'
    reference = times.seconds["nnUNetv2_predict"]
    for arm, seconds in times.seconds.items():
        ratio = Spread.of([a / b for a, b in zip(seconds, reference, strict=True)])
        table.rows.append([arm, str(times.of(arm)), "1" if seconds is reference else str(ratio)])
    result = Result(
        title="Prediction, the whole command",
        about=prose(__doc__),
        settings=vars(settings),
        packages=("torch", "numpy", "nnunetv2"),
        tables=[table],
        raw={"seconds": times},
    )
    result.write(settings.json)


if __name__ == "__main__":
    main()
