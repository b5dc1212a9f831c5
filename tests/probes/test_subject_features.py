"""Features of a data set's preprocessed cases, by a checkpoint of a stock training among others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdfm_nnunet.checkpoints.readers import ExpectedImages
from bdfm_nnunet.cli import main
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.probes.encoder_choice import encoder_for
from bdfm_nnunet.probes.feature_tables import read_features
from bdfm_nnunet.probes.fitted_images import FittedImages
from bdfm_nnunet.probes.labelled_cases import LabelledCase, preprocessed_cases
from bdfm_nnunet.probes.pooled_features import pool_image
from bdfm_nnunet.probes.subject_features import FeatureSettings, dataset_features, vectors_of
from bdfm_nnunet.studies.image_features import frozen_encoder
from tests.conftest import Prepared
from tests.studies.test_image_features import ARCHITECTURE

CHANNELS = 4


def stock_training(prepared: Prepared, folder: Path, *, channels: int = CHANNELS, **changes: Any) -> Path:
    """Write the folder of a stock training on the prepared data set, with a small PlainConvUNet, and return it."""
    data = prepared.folder("nnUNet_preprocessed", prepared.labelled)
    plans = json.loads((data / f"{prepared.plans}.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration |= {"patch_size": [24, 32, 32], "architecture": ARCHITECTURE, **changes}
    schemes = ("normalization_schemes", "use_mask_for_norm")
    configuration |= {name: configuration[name][:1] * channels for name in schemes}
    torch.manual_seed(7)
    network = build_network(configuration, inputs=channels, outputs=4, deep_supervision=False)
    dataset = json.loads((data / "dataset.json").read_text())
    content = {
        "network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer", "current_epoch": 1,
        "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": dataset},
    }  # fmt: skip
    training = folder / "Dataset502_Made" / f"nnUNetTrainer__{prepared.plans}__3d_fullres"
    (training / "fold_0").mkdir(parents=True)
    torch.save(content, training / "fold_0" / "checkpoint_final.pth")
    return training


def _cases(prepared: Prepared) -> list[LabelledCase]:
    found = preprocessed_cases(prepared.labelled, prepared.plans, "3d_fullres")
    return list(found.read(range(CHANNELS)))


@pytest.fixture(scope="module")
def training(prepared_of_module: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock_training(prepared_of_module, tmp_path_factory.mktemp("stock"))


def test_the_folder_of_a_stock_training_gives_a_vector_per_case(
    prepared: Prepared, training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features.npz"
    command = ["features", "-d", str(prepared.labelled), "--weights", str(training), "-o"]
    assert main([*command, str(out), "--window", "whole", "--stages", "0,2"]) == 0
    said = capsys.readouterr().out
    assert "6 cases with 12 features each" in said and "100.0% of the encoder is loaded" in said
    found, network = read_features(out), encoder_of(_network(training)).module
    for case in _cases(prepared):
        sizes = [-n % step for n, step in zip(case.image.shape[1:], (2, 4, 4), strict=True)]
        padded = torch.nn.functional.pad(case.image, [n for size in reversed(sizes) for n in (0, size)])
        with torch.no_grad():
            maps = network(padded[None])
        expected = []
        for at, stride in ((0, (1, 1, 1)), (2, (2, 4, 4))):
            counts = torch.zeros(padded.shape[1:])
            counts[tuple(map(slice, case.image.shape[1:]))] = 1
            weight = torch.nn.functional.avg_pool3d(counts[None, None], stride, stride)[0, 0]
            expected.append(((maps[at][0] * weight).sum((1, 2, 3)) / weight.sum()).numpy())
        np.testing.assert_allclose(found.of([case.name])[0], np.concatenate(expected), rtol=1e-3, atol=1e-5)
    assert found.description["weights"]["trainer"] == "nnUNetTrainer"
    assert found.description["dataset"] == prepared.folder("nnUNet_raw", prepared.labelled).name
    assert [stage["channels"] for stage in found.description["stages"]] == [4, 8]
    before = out.stat().st_mtime_ns
    capsys.readouterr()
    assert main([*command, str(tmp_path / "scans"), "--npy", "--window", "whole", "--stages", "0,2"]) == 0
    np.testing.assert_array_equal(read_features(tmp_path / "scans").features, found.features)
    assert len(list((tmp_path / "scans").glob("*.npy"))) == 6 and out.stat().st_mtime_ns == before


def _network(training: Path) -> Any:
    content = torch.load(training / "fold_0/checkpoint_final.pth", weights_only=True)
    configuration = content["init_args"]["plans"]["configurations"]["3d_fullres"]
    network = build_network(configuration, inputs=CHANNELS, outputs=4, deep_supervision=False).eval()
    network.load_state_dict(content["network_weights"])
    return network


def test_every_setting_acts_and_order_does_not(prepared: Prepared, training: Path, tmp_path: Path) -> None:
    def made(name: str, settings: FeatureSettings, **known: Any) -> np.ndarray:
        return dataset_features(prepared.labelled, training, tmp_path / name, settings, **known).features

    base = FeatureSettings()
    first = made("base.csv", base)
    assert first.shape == (6, 8)
    shapes = {"stages": ("all", 18), "pooling": ("mean+std", 16), "foreground": (True, 8), "window": ("whole", 8)}
    for setting, (value, width) in shapes.items():
        other = made(f"{setting}.npz", replace(base, **{setting: value}))  # type: ignore[arg-type]
        assert other.shape == (6, width)
        assert np.allclose(other[:, -8:], first, rtol=1e-4) == (setting == "stages")  # which puts others before
    assert made("max.npz", replace(base, pooling="max")).mean() > first.mean()
    assert made("covariance.npz", replace(base, pooling="covariance")).shape == (6, 36)
    cases = list(reversed(read_features(tmp_path / "base.csv").cases))
    _, encoder = encoder_for(prepared.labelled, training)
    alone = preprocessed_cases(prepared.labelled, prepared.plans, "3d_fullres", cases=cases[:1])
    (case,) = alone.read(range(CHANNELS))
    images, inside = FittedImages(alone, encoder.checkpoint.images, CHANNELS)(case)
    (found,) = vectors_of(encoder.view, encoder.tile, base, ["mean"])(images, inside)
    np.testing.assert_array_equal(found, first[-1])


def test_channels_one_by_one(prepared: Prepared, tmp_path: Path) -> None:
    """An encoder of one channel is shown each of them: features of all in turn."""
    training = stock_training(prepared, tmp_path, channels=1)
    table = dataset_features(prepared.labelled, training, tmp_path / "f.npz")
    assert table.features.shape == (6, 8 * CHANNELS)
    assert any("the 4 channels in turn" in note for note in table.description["notes"])
    encoder, case = frozen_encoder(training), _cases(prepared)[0]
    assert any(n > full for n, full in zip(case.image.shape[1:], encoder.tile, strict=True))  # several windows
    known = {"window": encoder.tile, "stages": [2], "poolings": ["mean"]}
    weights = torch.ones(case.image.shape[1:])
    (third,) = pool_image(encoder.view, case.image[2:3], weights, **known)  # type: ignore[arg-type]
    np.testing.assert_allclose(table.features.reshape(6, CHANNELS, 8)[0, 2], third, rtol=1e-5)


def test_images_of_other_plans_are_turned_into_those_of_the_training(prepared: Prepared) -> None:
    """Axes, spacing and scaling of the weights' own training."""
    found = preprocessed_cases(prepared.labelled, prepared.plans, "3d_fullres")
    case = _cases(prepared)[0]
    expected = images_of_training(axes=(2, 0, 1), spacing=(8.0, 4.0, 4.0), scheme="RescaleTo01Normalization")
    fitted = FittedImages(found, expected, CHANNELS)
    ((image,), inside) = fitted(case)
    z, y, x = case.image.shape[1:]
    assert tuple(image.shape) == (CHANNELS, x, round(z / 2), y) and inside.shape == image.shape[1:]
    assert image.amin((1, 2, 3)).tolist() == [0.0] * CHANNELS and image.amax((1, 2, 3)).tolist() == [1.0] * CHANNELS
    assert len(fitted.notes) == 2 and "are resampled to 8x4x4 mm" in fitted.notes[0]
    with pytest.raises(
        InputError, match=r"normalised by CTNormalization, those of .* plan the data set like the weights"
    ):
        FittedImages(found, images_of_training(scheme="CTNormalization"), CHANNELS)
    with pytest.raises(InputError, match=r"reads 3 channels and the cases of .* have 4"):
        FittedImages(found, None, 3)


def images_of_training(
    *, axes: tuple[int, ...] = (0, 1, 2), spacing: tuple[float, ...] = (4.0, 4.0, 4.0), scheme: str
) -> ExpectedImages:
    return ExpectedImages(axes=axes, normalisation=(scheme,) * CHANNELS, masked=(False,) * CHANNELS, spacing=spacing)


def test_what_cannot_be_used_is_one_sentence(
    prepared: Prepared, training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, weights = ["-d", str(prepared.labelled)], ["--weights", str(training)]
    faults = {
        "no images are named": [*weights, "-o", "f.npz"],
        "--maps are written for IMAGES": [*data, *weights, "--maps", "-o", "f.npz"],
        "--npy writes a file per scan": [*data, *weights, "--npy", "-o", "f.npz"],
        "names no stages of this encoder": [*data, *weights, "--stages", "7", "-o", str(tmp_path / "f.npz")],
        "Other.json does not exist": [*data, *weights, "-p", "Other", "-o", str(tmp_path / "f.npz")],
        "has the ending .h5": [*data, *weights, "-o", "f.h5"],
        "--foreground is for one vector per case": [str(tmp_path), *weights, "--foreground", "-o", str(tmp_path / "m")],
        "name a file such as": [*data, "--weights", str(tmp_path / "fold_0"), "-o", "f.npz"],
    }
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0/checkpoint_best.pth").write_bytes(b"")
    for fault, arguments in faults.items():
        assert main(["features", *arguments]) == 2, fault
        assert fault in capsys.readouterr().err
