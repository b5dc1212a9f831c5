"""A project that nobody knew plugs into the seam with one file, `toy_reader.py`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.checkpoints.readers import READERS
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure
from tests.checkpoints.readers.toy_reader import PatchFormerReader
from tests.networks.zoo import network

BATCH_NORM = {"norm_op": torch.nn.BatchNorm3d, "norm_op_kwargs": {"eps": 1e-5}}


@pytest.fixture(autouse=True)
def patchformer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdfm_nnunet.checkpoints.readers.READERS", [PatchFormerReader(), *READERS])


def _source() -> torch.nn.Module:
    torch.manual_seed(3)
    source: torch.nn.Module = network("plain", 1, **BATCH_NORM).train()
    with torch.no_grad():
        source(3 + 2 * torch.randn(2, 1, 32, 32, 32))
    return source.eval()


def _foreign(source: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The encoder of a network as PatchFormer would store it."""
    found: dict[str, torch.Tensor] = {"projector.weight": torch.ones(2, 2)}
    for name, value in source.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["encoder", "stages"] and parts[6] in ("conv", "norm"):
            ending = {"running_mean": "mean", "running_var": "variance"}.get(parts[7], parts[7])
            turned = value.permute(0, 4, 3, 2, 1).contiguous() if value.ndim == 5 else value
            found[f"trunk.{parts[2]}.{parts[6]}{parts[5]}.{ending}"] = turned
    return found


def _saved(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "patchformer.ckpt"
    torch.save({"patchformer": {"dataset": "Ours"}, "averaged": _foreign(_source()), **changes}, path)
    return path


def test_a_network_takes_its_weights_and_computes_the_same(tmp_path: Path) -> None:
    path, source, target = _saved(tmp_path), _source(), network("plain", 1, **BATCH_NORM).eval()
    report = load_pretrained(target, path)
    assert report.encoder_share == 1 and report.buffers > 0 and not report.adapted
    image = 3 + 2 * torch.randn(1, 1, 32, 32, 32)
    for ours, theirs in zip(target.encoder(image), source.encoder(image), strict=True):
        assert torch.equal(ours, theirs)


def test_the_report_names_the_project(tmp_path: Path) -> None:
    report = load_pretrained(network("plain", 4, **BATCH_NORM), _saved(tmp_path))
    assert report.kind == "patchformer"
    assert "\n  patchformer: images are scaled to 0..1; kernels were turned" in str(report)
    assert report.ignored["projector.weight"] == "derived from other entries"
    assert "input channels 1 to 4" in report.adapted.values()


def test_images_and_exposure_come_through_the_same_door(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(_saved(tmp_path))
    assert checkpoint.images is not None and checkpoint.images.axes == (2, 1, 0)
    assert Exposure.of_checkpoint(checkpoint).runs == ({"dataset": "Ours"},)


def test_other_files_are_read_as_before(tmp_path: Path) -> None:
    torch.save({"network_weights": {"a": torch.ones(1)}}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").kind == "nnunet"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_its_weights_are_checked_like_all_others(tmp_path: Path, bad: float) -> None:
    path = _saved(tmp_path, averaged={"trunk.0.conv0.weight": torch.full((1, 3, 3, 3, 1), bad)})
    with pytest.raises(InputError, match=r"patchformer\.ckpt cannot be used as weights: .* not finite"):
        load_pretrained(network("plain", 1), path)


def test_no_reader_can_give_two_tensors_one_name(tmp_path: Path) -> None:
    averaged = {"trunk.0.conv0.bias": torch.ones(8), "encoder.stages.0.0.convs.0.conv.bias": torch.zeros(8)}
    path = _saved(tmp_path, averaged=averaged)
    with pytest.raises(InputError, match=r"patchformer\.ckpt .*trunk\.0\.conv0\.bias and encoder\.stages.* are both"):
        load_pretrained(network("plain", 1), path)
    assert set(read_checkpoint(path).weights) == set(averaged)  # as they are in the file
