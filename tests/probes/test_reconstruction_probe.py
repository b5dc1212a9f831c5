"""The probe on the made-up cohort with lesions: by the command and by its function."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet import cli
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.probes.masked_model import load_masked_model
from bdfm_nnunet.probes.reconstruction_probe import probe_reconstruction
from bdfm_nnunet.probes.reconstruction_scoring import ReconstructionProbe, Scoring
from bdfm_nnunet.results import read_result
from tests.checkpoints.test_bdfm_reference import reference_names, small_published
from tests.conftest import Prepared
from tests.probes.masked_checkpoints import masked_checkpoint

CASES = 2
LIGHT = {"decoder_channels": 8, "frequency_blocks": 1}


@pytest.fixture
def probe(prepared: Prepared, tmp_path: Path) -> ReconstructionProbe:
    weights = masked_checkpoint(prepared, tmp_path / "masked.pth", pretraining=LIGHT)
    names = sorted(path.name.removesuffix("_seg.b2nd") for path in _data(prepared).glob("*_seg.b2nd"))
    return ReconstructionProbe(
        weights=weights, dataset_id=prepared.labelled, plans=prepared.plans, cases=names[:CASES], draws=1,
        channels=["t1c"],
    )  # fmt: skip


def _data(prepared: Prepared) -> Path:
    (data,) = prepared.folder("nnUNet_preprocessed", prepared.labelled).glob("*_3d_fullres")
    return data


def test_the_command_prints_writes_and_draws(
    prepared: Prepared, probe: ReconstructionProbe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores" / "lesions.json"
    options = f"-d {prepared.labelled} -p {prepared.plans} --cases {','.join(probe.cases)} --draws 1 --channels t1c"
    assert cli.main(["probe", "reconstruction", str(probe.weights), *options.split(), "-o", str(out)]) == 0
    result = read_result(out, kind="reconstruction")
    assert result.scores is not None and result.settings is not None
    regions = result.scores["regions"]
    assert "whole_tumor" in regions and len(regions) > 1
    assert [row["case"] for row in result.scores["cases"]] == list(probe.cases)
    for row in result.scores["cases"]:
        whole, healthy = row["regions"]["whole_tumor"], row["regions"]["healthy"]
        assert 0 < whole["volume_mm3"] < healthy["volume_mm3"] and whole["volume_mm3"] % 64 == 0
        assert all(
            math.isfinite(healthy[f"{name}{fill}"]) for name in ("psnr", "ssim", "hfen") for fill in ("", "_mean_fill")
        )
    assert result.extra["seed_of_training"] == 9 and set(result.extra["patients"]) == set(probe.cases)
    assert "Not all is known" in result.extra["seen"]  # a checkpoint without a record of its cases
    assert result.settings["pretraining"]["mask_ratio"] == 0.75
    shown = capsys.readouterr().out
    assert all(region in shown for region in regions) and "against healthy" in shown
    for name in ("lesions_worst.png", "lesions_median.png"):
        assert (out.parent / name).stat().st_size > 10_000
    alone = probe_reconstruction(replace(probe, cases=probe.cases[1:])).scores  # the same again, without the other case
    assert alone is not None and alone["cases"] == result.scores["cases"][1:]


def test_every_setting_acts(prepared: Prepared, probe: ReconstructionProbe, tmp_path: Path) -> None:
    def rows(changed: ReconstructionProbe) -> Any:
        scoring = Scoring(replace(changed, cases=probe.cases[:1]))
        (case,) = scoring.found.read(scoring.channels)
        middle = (slice(4, 36), slice(8, 40), slice(4, 36))  # one window
        part = replace(case, image=case.image[(slice(None), *middle)], labels=case.labels[middle])
        return scoring.row(part)["regions"]

    first = rows(probe)
    other = masked_checkpoint(prepared, tmp_path / "other.pth", pretraining=LIGHT, seed=3)
    for changed in (
        replace(probe, weights=other),
        replace(probe, seed=1),
        replace(probe, draws=2),
        replace(probe, output="frequency"),
        replace(probe, channels=["t2f"]),
    ):
        assert rows(changed)["healthy"]["psnr"] != first["healthy"]["psnr"], changed
    two = [rows(replace(probe, channels=[name]))["healthy"]["psnr"] for name in ("t1c", "t2f")]
    assert rows(replace(probe, channels=["t1c", "t2f"]))["healthy"]["psnr"] == pytest.approx(sum(two) / 2, rel=0.02)
    (name, *_) = (region for region in first if region != "healthy")
    assert list(rows(replace(probe, labels=[name]))) == [name, "healthy"]


def test_a_fold_is_its_validation_cases(prepared: Prepared, probe: ReconstructionProbe) -> None:
    folder = prepared.folder("nnUNet_preprocessed", prepared.labelled)
    folds = json.loads((folder / "splits_final.json").read_text())
    assert list(Scoring(replace(probe, cases=(), fold=1)).found.cases) == sorted(folds[1]["val"])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"labels": ["oedema of the moon"]}, r"dataset\.json has no label 'oedema of the moon': choose among"),
        ({"channels": ["PET"]}, r"dataset\.json has no channel 'PET': choose among"),
        ({"fold": 99}, r"splits_final\.json has no fold 99"),
        ({"cases": ["nobody"]}, "has no preprocessed case 'nobody'"),
        ({"plans": "Other"}, r"Other\.json does not exist"),
        ({"draws": 0}, "draws is 0, expected 1 or more"),
        ({"weights": "nothing.pth"}, r"nothing\.pth"),
    ],
)
def test_what_is_missing_is_one_sentence(probe: ReconstructionProbe, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        Scoring(replace(probe, **changes))


def test_a_data_set_of_brain_masks_has_no_lesions(prepared: Prepared, probe: ReconstructionProbe) -> None:
    with pytest.raises(InputError, match=r"Unlabelled was converted with --unlabelled.*name a data set with labels"):
        Scoring(replace(probe, dataset_id=prepared.unlabelled, cases=()))


def _spaced(content: dict[str, Any]) -> None:
    content["init_args"]["plans"]["configurations"]["3d_fullres"]["spacing"] = [2.0, 4.0, 4.0]


def _turned(content: dict[str, Any]) -> None:
    plans = content["init_args"]["plans"]
    plans["transpose_forward"], plans["transpose_backward"] = [1, 0, 2], [1, 0, 2]


def _normalised(content: dict[str, Any]) -> None:
    configuration = content["init_args"]["plans"]["configurations"]["3d_fullres"]
    configuration["normalization_schemes"] = ["CTNormalization"] * len(configuration["normalization_schemes"])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_spaced, "is for voxels of 2x4x4 mm, .* was preprocessed to 4x4x4"),
        (_turned, r"is for axes in the order \(1, 0, 2\), the plans have \(0, 1, 2\)"),
        (_normalised, "is for images normalised by CTNormalization, .* by ZScoreNormalization"),
    ],
)
def test_images_of_another_kind_are_refused(
    prepared: Prepared, probe: ReconstructionProbe, tmp_path: Path, change: Any, fault: str
) -> None:
    weights = masked_checkpoint(prepared, tmp_path / "other.pth", change=change)
    with pytest.raises(InputError, match=rf"{fault}.*`bdfm plan --weights"):
        Scoring(replace(probe, weights=weights))


def test_channels_that_are_read_together_are_those_of_the_training(
    prepared: Prepared, probe: ReconstructionProbe, tmp_path: Path
) -> None:
    weights = masked_checkpoint(prepared, tmp_path / "all.pth", pretraining={"channels": "all"}, inputs=4)
    found = Scoring(replace(probe, weights=weights, channels=[]))
    assert found.model.objective.view.in_channels == len(found.channels) == 4
    with pytest.raises(InputError, match=r"reads 4 channels together .*not t1c: choose them in this order"):
        Scoring(replace(probe, weights=weights))
    with pytest.raises(InputError, match="reads 4 channels together"):
        Scoring(replace(probe, weights=weights, channels=["t2w", "t1n", "t1c", "t2f"]))


def test_the_public_file_wants_images_in_its_order_of_axes(probe: ReconstructionProbe, tmp_path: Path) -> None:
    objective = small_published()
    torch.save({"state_dict": reference_names(objective), "global_step": 1}, tmp_path / "bdfm.pt")
    model = load_masked_model(tmp_path / "bdfm.pt")
    assert model.crop == (96, 96, 96) and model.seed is None and not model.objective.training
    assert torch.equal(model.objective.pixel_decoder.expand.weight, objective.pixel_decoder.expand.weight)
    with pytest.raises(InputError, match=r"for axes in the order \(0, 2, 1\).*`bdfm plan --like .*bdfm\.pt`"):
        Scoring(replace(probe, weights=tmp_path / "bdfm.pt"))


def test_an_image_that_simmim_does_not_have(prepared: Prepared, probe: ReconstructionProbe, tmp_path: Path) -> None:
    weights = masked_checkpoint(prepared, tmp_path / "simmim.pth", trainer="nnUNetTrainerSimMIM")
    with pytest.raises(InputError, match="has no image of a frequency decoder: choose pixel"):
        Scoring(replace(probe, weights=weights, output="frequency"))


def test_the_command_refuses_in_one_line(probe: ReconstructionProbe, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["probe", "reconstruction", str(probe.weights), "-d", str(probe.dataset_id), "-p", "Other"])
    told = capsys.readouterr().err.strip()
    assert code == 2 and told.count(os.linesep) == 0 and "Other.json does not exist" in told
