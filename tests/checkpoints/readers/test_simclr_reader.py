from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.checkpoints.readers.simclr_reader import COHORTS, NEURO_SIMCLR, SimclrReader
from bdfm_nnunet.exposure import Exposure, compare
from bdfm_nnunet.networks import ResNet18, ResNet18UNet
from bdfm_nnunet.patients import CaseList
from tests.checkpoints.simclr_weights import OUTPUTS, needs_outputs, weights_of

FEATURES = (4, 6, 8, 10)


@pytest.fixture
def encoder() -> dict[str, Tensor]:
    return {f"encoder.{name}": value for name, value in weights_of(ResNet18(features=FEATURES)).items()}


def _released(encoder: dict[str, Tensor]) -> dict[str, Any]:
    projector = {"projector.0.weight": torch.ones(10, 10), "projector.2.weight": torch.ones(64, 10)}
    weights = {f"module.{name}": value for name, value in (encoder | projector).items()}
    return {"epoch": 150, "model_state_dict": weights, "optimizer_state_dict": {}}


def test_it_is_recognised_by_its_names(encoder: dict[str, Tensor]) -> None:
    reader = SimclrReader()
    bare = {name.removeprefix("encoder."): value for name, value in encoder.items()}
    for content in (_released(encoder), encoder, bare, {"state_dict": encoder}):
        assert reader.recognises(content)
    for content in (
        {"network_weights": encoder},  # one of ours
        encoder | {"decoder.seg_layers.0.weight": torch.ones(1)},
        encoder | {"fc.weight": torch.ones(1)},
        {name: value for name, value in encoder.items() if not name.endswith("downsample.0.bias")},
        {5: torch.ones(1)},
        {},
    ):
        assert not reader.recognises(content)  # type: ignore[arg-type]


@pytest.mark.parametrize("packing", ["released", "encoder", "bare"])
@pytest.mark.parametrize("kind", ["encoder", "unet"])
def test_all_of_the_encoder_is_loaded(tmp_path: Path, encoder: dict[str, Tensor], packing: str, kind: str) -> None:
    bare = {name.removeprefix("encoder."): value for name, value in encoder.items()}
    torch.save({"released": _released(encoder), "encoder": encoder, "bare": bare}[packing], tmp_path / "simclr.tar")
    network: Any = ResNet18(features=FEATURES)
    if kind == "unet":
        network = ResNet18UNet(1, 3, features_per_stage=(4, *FEATURES))
    report = load_pretrained(network, tmp_path / "simclr.tar")
    assert (report.kind, report.encoder_share, report.adapted) == ("simclr_reference", 1.0, {})
    assert report.buffers == sum("running" in name or "num_batches" in name for name in encoder)
    state = network.state_dict()
    for name, value in encoder.items():
        assert torch.equal(state[name if kind == "unet" else name.removeprefix("encoder.")], value)
    assert set(report.ignored) == ({"projector.0.weight", "projector.2.weight"} if packing == "released" else set())


def test_more_channels_are_adapted(tmp_path: Path, encoder: dict[str, Tensor]) -> None:
    torch.save(_released(encoder), tmp_path / "simclr.tar")
    report = load_pretrained(ResNet18(4, features=FEATURES), tmp_path / "simclr.tar")
    assert report.encoder_share == 1.0 and report.adapted == {"conv1.weight": "input channels 1 to 4"}


def test_its_training_is_never_taken_for_none(tmp_path: Path, encoder: dict[str, Tensor]) -> None:
    torch.save(_released(encoder), tmp_path / "simclr.tar")
    exposure = Exposure.of_checkpoint(read_checkpoint(tmp_path / "simclr.tar"))
    assert exposure == Exposure((NEURO_SIMCLR,))
    cases = CaseList("Dataset501_Own", "ppmi", [{"case": "a", "patient": "A"}])
    report = compare(exposure, cases, {"a": "test"}, checkpoint="simclr.tar")
    assert report.record == "partial" and "is unknown" in report.warning()
    assert all(cohort in report.warning() for cohort in COHORTS)


def test_what_the_file_says_itself_counts(tmp_path: Path, encoder: dict[str, Tensor]) -> None:
    own = {"format": 1, "runs": [{"dataset": "Ours"}]}
    torch.save(encoder | {"bdfm_exposure": own}, tmp_path / "own.pth")
    assert Exposure.of_checkpoint(read_checkpoint(tmp_path / "own.pth")).runs == ({"dataset": "Ours"},)


def test_its_images_are_arrays_at_one_millimetre() -> None:
    images = SimclrReader().origin({}).images
    assert images is not None and (images.axes, images.spacing, images.masked) == ((0, 1, 2), (1.0, 1.0, 1.0), (True,))


@needs_outputs
def test_a_checkpoint_as_released() -> None:
    checkpoint = read_checkpoint(OUTPUTS / "simclr_resnet18.narrow_checkpoint.tar")
    assert checkpoint.kind == "simclr_reference" and len(checkpoint.renamed.weights) == 125
    network = ResNet18UNet(1, 3, features_per_stage=(8, 8, 16, 32, 64))
    report = load_pretrained(network, checkpoint.path)
    assert report.encoder_share == 1.0 and report.buffers == 60 and len(report.ignored) == 2
