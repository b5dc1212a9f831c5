"""Plans for runs that match a checkpoint of NeuroSTORM, and weights of one in planned networks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import load_neurostorm_reference, load_pretrained
from bdfm_nnunet.checkpoints.checkpoint_writing import write_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.nnunet_files import read_plans_file
from bdfm_nnunet.plans import plan_dataset
from bdfm_nnunet.plans.weights_check import check_weights_of
from tests.checkpoints.described import checkpoint_of_network
from tests.checkpoints.readers.test_neurostorm_reader import lightning
from tests.networks.neurostorm_slow import DEPTHS, EMBED, FRAMES, GRID, PATCH, public_weights
from tests.networks.zoo import network as planned
from tests.plans.planted_runs import make_runs, write_run

SIDE = GRID * PATCH


@pytest.fixture
def published(nnunet_dirs: Path) -> Path:
    """A file of the public code for images of 16 x 16 x 16 voxels and 6 frames; runs of 14 x 16 x 17 and 9 beside."""
    make_runs(nnunet_dirs, (14, 16, 17, 9), spacing=2.0)
    torch.save(lightning(public_weights()), nnunet_dirs / "storm.ckpt")
    return nnunet_dirs / "storm.ckpt"


def _plan(**options: Any) -> dict[str, Any]:
    found: dict[str, Any] = read_plans_file(plan_dataset(700, workers=1, preprocess=False, **options))["configurations"]
    return found["4d"]


def _network(configuration: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return build_network(configuration, inputs=1, outputs=2, deep_supervision=False)


def test_the_network_of_a_published_file_is_planned_and_computes_what_the_file_does(published: Path) -> None:
    configuration = _plan(weights=published)
    assert configuration["patch_size"] == [SIDE, SIDE, SIDE, FRAMES] and configuration["batch_size"] == 2
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert kwargs["features_per_stage"] == [EMBED, 2 * EMBED] and kwargs["depths"] == list(DEPTHS)
    assert kwargs["window_size"] == [4, 4, 4, 4] and kwargs["legacy"] and "frame_seconds" not in kwargs
    finetuning = configuration["finetuning"]
    assert finetuning["weights"] == str(published) and len(finetuning["weights_sha256"]) == 64
    network = _network(configuration)
    report = load_pretrained(network, published, sha256=finetuning["weights_sha256"])
    assert (report.encoder_share, report.source_share, report.adapted) == (1.0, 1.0, {})
    assert [line.partition(":")[0] for line in report.checked] == ["stage 0", "stage 1"]
    images = torch.randn(1, 1, SIDE, SIDE, SIDE, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            encoder_of(network).module(images)[-1], load_neurostorm_reference(published).encoder(images)
        )
    assert check_weights_of(published, dataset_id=700).passed


def test_clips_are_cut_to_the_shortest_run_and_keep_their_positions(published: Path, nnunet_dirs: Path) -> None:
    write_run(nnunet_dirs / "nnUNet_raw" / "Dataset700_Runs" / "sequencesTr", "b", (14, 16, 17, 4), spacing=2.0)
    configuration = _plan(weights=published)
    assert configuration["patch_size"] == [SIDE, SIDE, SIDE, 4]
    assert configuration["finetuning"]["positions"] == "extend"
    network = _network(configuration)
    report = load_pretrained(network, published, positions="extend")
    assert report.adapted["encoder.stages.0.positions.time"] == f"frames ({FRAMES},) to (4,), extend"
    theirs = public_weights()["pos_embeds.0.time_embed"][0, :, 0, 0, 0].T
    torch.testing.assert_close(network.encoder.stages[0].positions.time.data, theirs[:4])


def test_another_time_between_frames_is_read_in_seconds(published: Path, nnunet_dirs: Path) -> None:
    make_runs(nnunet_dirs, (16, 16, 16, 9), spacing=2.0, repetition_time=1.6)
    configuration = _plan(weights=published)
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert (kwargs["frame_seconds"], kwargs["table_seconds"]) == (1.6, 0.8)
    network = _network(configuration)
    report = load_pretrained(network, published)
    assert any("read every 1.6 s of rows for 0.8 s here" in each for each in report.differences)
    positions = network.encoder.stages[0].positions
    torch.testing.assert_close(positions.at_frames(3), positions.time[[0, 2, 4]])


def test_weights_of_other_standard_scores_are_pointed_out(
    published: Path, nnunet_dirs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    assert _plan(weights=published)["standardised"] == "run" and not caplog.text
    make_runs(nnunet_dirs, (14, 16, 17, 9), spacing=2.0, standardised="voxel")
    assert _plan(weights=published)["standardised"] == "voxel"
    assert "scores of each run, the runs have those of each voxel" in caplog.text


def test_plans_like_a_file_have_its_clips_for_any_memory(published: Path) -> None:
    configuration = _plan(like=published, gpu_memory=2)
    assert configuration["patch_size"][:3] == [18, 18, 18]  # tokens of 12 mm do not divide 16 voxels of 2 mm
    assert configuration["patch_size"][3] == FRAMES and "finetuning" not in configuration
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert kwargs["features_per_stage"][0] == 36 and not kwargs["legacy"]


def test_a_checkpoint_of_ours_is_matched_and_loaded(published: Path, nnunet_dirs: Path) -> None:
    """As the pre-training writes it: the encoder under its name beside parts of the objective."""
    configuration = _plan(gpu_memory=1)
    plans = read_plans_file(nnunet_dirs / "nnUNet_preprocessed" / "Dataset700_Runs" / "BDFMPlans.json")
    source = _network(configuration)
    weights = {name: value for name, value in source.state_dict().items() if name.startswith("encoder.")}
    weights["mask_tokens.window"] = torch.zeros(256, 36)
    arguments = {"plans": plans, "configuration": "4d", "fold": 0, "dataset_json": {"channel_names": {"0": "bold"}}}
    content = {"network_weights": weights, "init_args": arguments, "trainer_name": "nnUNetTrainerNeuroSTORM"}
    write_checkpoint(content, nnunet_dirs / "ours.pth")
    matched = _plan(weights=nnunet_dirs / "ours.pth", plans_name="Matched")
    assert matched["architecture"] == configuration["architecture"]
    target = _network(matched)
    torch.nn.init.zeros_(target.encoder.patch_embed.weight)
    report = load_pretrained(target, nnunet_dirs / "ours.pth")
    assert report.encoder_share == 1.0 and not report.adapted
    assert torch.equal(target.encoder.patch_embed.weight, source.encoder.patch_embed.weight)


@pytest.mark.parametrize(("depth", "how"), [("new", "zero"), ("copied", "copied from")])
def test_a_planned_network_of_other_sizes_takes_what_fits(depth: str, how: str, published: Path) -> None:
    """Other frames and image size, and a stage with more blocks, in the corrected form."""
    configuration = _plan(weights=published)
    kwargs = configuration["architecture"]["arch_kwargs"] | {
        "input_shape": [SIDE, SIDE, 8, 9], "depths": [2, 4], "legacy": False,
    }  # fmt: skip
    architecture = configuration["architecture"] | {"arch_kwargs": kwargs}
    network = _network(configuration | {"architecture": architecture, "patch_size": kwargs["input_shape"]})
    report = load_pretrained(network, published, depth=depth)
    assert report.adapted["encoder.stages.0.positions.time"] == f"frames ({FRAMES},) to (9,) by linear interpolation"
    assert report.adapted["encoder.stages.1.positions.space"].startswith("positions (4, 4, 4) to (4, 4, 2)")
    assert any(
        name.startswith("encoder.stages.1.blocks.3.") and each.startswith(how) for name, each in report.adapted.items()
    )
    assert any("legacy" in each for each in report.differences)


def test_what_does_not_match_is_one_sentence(published: Path, nnunet_dirs: Path) -> None:
    configuration = _plan(gpu_memory=1)
    with pytest.raises(InputError, match=r"storm\.ckpt .*expected at least"):
        load_pretrained(_network(configuration), published)
    torch.save({"network_weights": planned("swin", 1).state_dict()}, nnunet_dirs / "swin.pth")
    with pytest.raises(InputError, match=r"swin\.pth holds no plans"):
        _plan(weights=nnunet_dirs / "swin.pth")
    checkpoint_of_network(nnunet_dirs / "swin.pth", "swin", 1)
    with pytest.raises(InputError, match=r"swin\.pth is of a swin network, which reads 3-D images, but the data set"):
        _plan(weights=nnunet_dirs / "swin.pth")
    with pytest.raises(InputError, match=r"--spacing is for images, but data set 700 holds 4-D runs"):
        _plan(like=published, spacing="default")
    make_runs(nnunet_dirs, (8, 8, 8, 6))
    for option in ("weights", "like"):
        with pytest.raises(InputError, match=r"voxels of 2 x 2 x 2 mm, the runs have 6 x 6 x 6 mm: .*--spacing 2"):
            _plan(**{option: published})
