"""Baselines of features by hand: statistics of batch norms, intensities and volumes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from bdfm_nnunet.files import sha256_of
from bdfm_nnunet.probes.feature_baselines import _known_weights, recalibrate
from bdfm_nnunet.probes.fitted_images import image_volumes, intensity_statistics, label_volumes
from bdfm_nnunet.probes.labelled_cases import LabelledCase

GENERATOR = torch.Generator().manual_seed(8)
IMAGE = torch.randn(2, 4, 5, 6, generator=GENERATOR)
LABELS = torch.zeros(4, 5, 6, dtype=torch.int32)
LABELS[:2, 0, 0], LABELS[2, 0, :3], LABELS[3] = 1, 2, -1
CASE = LabelledCase("a", IMAGE, LABELS)


def test_batch_norms_get_the_statistics_of_the_images() -> None:
    network = nn.Sequential(nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3), nn.Dropout(0.5), nn.BatchNorm3d(3))
    images = [torch.randn(2, 4, 4, 4, generator=GENERATOR) * scale + 5 for scale in (1.0, 3.0)]
    recalibrate(network, images)
    first, second = network[1], network[3]
    assert isinstance(first, nn.BatchNorm3d) and isinstance(second, nn.BatchNorm3d)
    with torch.no_grad():
        maps = [network[0](image[None])[0].flatten(1) for image in images]
    np.testing.assert_allclose(first.running_mean, torch.stack([each.mean(1) for each in maps]).mean(0), rtol=1e-5)
    np.testing.assert_allclose(first.running_var, torch.stack([each.var(1) for each in maps]).mean(0), rtol=1e-5)
    assert not any(module.training for module in network.modules()) and first.momentum == 0.1
    np.testing.assert_allclose(second.running_mean, 0, atol=1e-5)  # of what the first one, in training, has made


def test_intensities_are_those_of_the_foreground() -> None:
    found = intensity_statistics(CASE).reshape(2, -1)
    for row, channel in zip(found, IMAGE, strict=True):
        values = channel[:3].flatten().numpy()
        expected = [values.mean(), values.std(), stats.skew(values), stats.kurtosis(values)]
        expected += np.percentile(values, [1, 5, 25, 50, 75, 95, 99]).tolist()
        np.testing.assert_allclose(row, expected, rtol=1e-4)


def test_volumes_are_in_ml() -> None:
    spacing = (2.0, 1.0, 5.0)
    np.testing.assert_allclose(image_volumes(CASE, spacing), [90 * 0.01, 8, 5, 30], rtol=1e-6)
    np.testing.assert_allclose(label_volumes(CASE, [(1,), (1, 2)], spacing), [0.02, 0.05], rtol=1e-6)


@pytest.mark.parametrize("what", ["kept", "changed", "moved"])
def test_weights_are_taken_only_if_they_are_the_same(tmp_path: Path, what: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"1")
    description = {"weights": {"path": str(path), "sha256": sha256_of(path)}}
    if what == "changed":
        path.write_bytes(b"2")
    if what == "moved":
        path.unlink()
    assert _known_weights(description) == (path if what == "kept" else None)
    assert _known_weights({}) is None and _known_weights({"weights": {"path": 3}}) is None
