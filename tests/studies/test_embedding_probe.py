"""The probe on the prepared made-up cohort, by the command and by its function."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bdfm_nnunet import cli
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.studies.embedding_probe import Probe, probe_spectrum, table
from tests.conftest import Prepared
from tests.training.trainings import pretrained_encoder


@pytest.fixture
def probe(prepared: Prepared) -> Probe:
    return Probe(prepared.unlabelled, prepared.plans, crops=4, shells=4)


def test_the_command_prints_and_writes_every_stage(
    prepared: Prepared, probe: Probe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, out = pretrained_encoder(prepared, tmp_path / "pretrained.pth"), tmp_path / "spectrum.json"
    command = f"probe spectrum -d {prepared.unlabelled} -p {prepared.plans} --weights {weights} --crops 4 --shells 4"
    assert cli.main([*command.split(), "-o", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["kind"] == "spectrum probe" and found["settings"]["weights"] == "pretrained.pth"
    strides = [stage["stride"] for stage in found["stages"]]
    assert len(strides) >= 2 and strides == sorted(strides)
    for stage in found["stages"]:
        assert len(stage["frequencies"]) == len(stage["recovered"]) == 4
        assert all(math.isfinite(share) and share < 1 for share in stage["recovered"] if share is not None)
        assert stage["frequencies"][-1] < 0.5 / 4  # the cohort has voxels of 4 mm
    assert found == probe_spectrum(replace(probe, weights=weights))  # the same crops again
    assert table(found) in capsys.readouterr().out


def test_weights_crops_and_channels_count(prepared: Prepared, probe: Probe, tmp_path: Path) -> None:
    first = probe_spectrum(probe)
    weights = pretrained_encoder(prepared, tmp_path / "pretrained.pth")
    for other in (
        replace(probe, weights=weights),
        replace(probe, seed=1),
        replace(probe, crops=6),
        replace(probe, channels="all"),
        replace(probe, ridge=1.0),
        replace(probe, fold=1),
    ):
        assert probe_spectrum(other)["stages"] != first["stages"], other


def test_few_positions_are_told(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bdfm_nnunet"):
        probe_spectrum(replace(probe, crops=1))
    assert "give more --crops" in caplog.text


def test_what_is_missing_is_one_sentence(probe: Probe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no fold 9"):
        probe_spectrum(replace(probe, fold=9))
    with pytest.raises(InputError, match=r"Other\.json does not exist"):
        probe_spectrum(replace(probe, plans="Other"))
    with pytest.raises(InputError, match=r"nothing\.pth"):
        probe_spectrum(replace(probe, weights=tmp_path / "nothing.pth"))
    torch.save({"network_weights": {"a.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth"):
        probe_spectrum(replace(probe, weights=tmp_path / "other.pth"))
