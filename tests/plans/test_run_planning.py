"""`bdfm plan` for data sets of 4-D runs."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.checksums import Checksums
from bdfm_nnunet.cost_records import Costs
from bdfm_nnunet.data.sequence_dataset import SequenceDataset
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.nnunet_files import read_plans_file
from bdfm_nnunet.plans import add_variant, describe_plans, neurostorm_planner, plan_dataset, run_data, run_planning
from bdfm_nnunet.plans.memory_targets import configuration_costs
from tests.plans.planted_runs import DATASET, make_runs, write_run

Folders = tuple[Path, Path]
FILES = {f"{case}{ending}" for case in "abcd" for ending in (".b2nd", "_mask.b2nd", ".json")}


_COUNTED: dict[str, Costs] = {}


@pytest.fixture
def runs(nnunet_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """A data set of four runs; costs of equal networks are counted once for all tests."""

    def costs(configuration: dict[str, Any], **options: Any) -> Costs:
        key = json.dumps([configuration["architecture"], options], sort_keys=True)
        if key not in _COUNTED:
            _COUNTED[key] = configuration_costs(configuration, **options)
        return _COUNTED[key]

    for module in (run_planning, neurostorm_planner):
        monkeypatch.setattr(module, "configuration_costs", costs)
    return make_runs(nnunet_dirs)


def _plan(**options: Any) -> dict[str, Any]:
    found: dict[str, Any] = read_plans_file(plan_dataset(700, workers=1, **options))["configurations"]["4d"]
    return found


def test_a_data_set_of_runs_is_planned_without_any_option(runs: Folders) -> None:
    raw, folder = runs
    configuration = _plan()
    assert configuration["patch_size"] == [8, 8, 8, 6] and configuration["spacing"] == [6, 6, 6, 0.8]
    assert configuration["batch_size"] == 2 and configuration["data_identifier"] == "sequences"
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert kwargs["strides"] == [[1, 1, 1, 1], [2, 2, 2, 1], [2, 2, 2, 1]] and kwargs["features_per_stage"] == [36, 72]
    build_network(configuration, inputs=1, outputs=2, deep_supervision=False)
    assert {path.name for path in (folder / "sequences").iterdir()} == FILES
    for name in ("dataset.json", "splits_final.json", "manifest.json"):
        assert json.loads((folder / name).read_text()) == json.loads((raw / name).read_text())
    fingerprint = json.loads((folder / "dataset_fingerprint.json").read_text())
    assert fingerprint["shapes_after_crop"] == [[8, 8, 8, 6]] * 4 and fingerprint["spacings"] == [[6, 6, 6, 0.8]] * 4
    summary = describe_plans(folder / "BDFMPlans.json")
    assert "8 x 8 x 8 voxels, 6 frames, batch of 2" in summary and "6.0 x 6.0 x 6.0 mm, 0.8 s" in summary


def test_nnunet_trainers_can_be_made_of_the_plans(runs: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    _, folder = runs
    path = plan_dataset(700, workers=1)
    plans, dataset = json.loads(path.read_text()), json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans | {"continue_training": False}, "4d", 0, dataset, torch.device("cpu"))
    managers = trainer.plans_manager, trainer.configuration_manager
    assert determine_num_input_channels(*managers, dataset) == 1 and trainer.label_manager.num_segmentation_heads == 2
    assert Path(trainer.preprocessed_dataset_folder) == folder / "sequences"
    trainer.dataset_class = SequenceDataset
    assert trainer.do_split() == (["a", "b"], ["c", "d"])


def test_runs_take_no_room_twice_and_are_placed_once(runs: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, folder = runs
    _plan()
    assert all(os.path.samefile(folder / "sequences" / name, raw / "sequencesTr" / name) for name in FILES)
    before = (folder / "sequences").stat().st_ino
    monkeypatch.setattr(os, "link", lambda *_, **__: pytest.fail("placed again"))
    _plan(gpu_memory=1)
    assert (folder / "sequences").stat().st_ino == before


@pytest.mark.parametrize("links", [True, False])
def test_what_changed_is_placed_anew(links: bool, runs: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, folder = runs

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    _plan()
    checksums = Checksums.of(folder / "sequences")
    assert checksums is not None and checksums.sizes_fit()
    write_run(raw / "sequencesTr", "a", (8, 8, 8, 9))
    (folder / "sequences" / "left_over.txt").touch()
    _plan()
    data = SequenceDataset(folder / "sequences")
    assert data.header("a").shape[3] == 9 and data.clip("a", 3, 6).shape == (8, 8, 8, 6)
    assert {path.name for path in (folder / "sequences").iterdir()} == FILES
    shutil.rmtree(raw / "sequencesTr")
    assert data.clip("b", 0, 6).any()


def test_an_interrupted_placing_leaves_no_data(runs: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = runs

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_data, "_place", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _plan()
    assert {path.name for path in folder.iterdir()} >= {"BDFMPlans.json"}
    assert not (folder / "sequences").exists() and not [each for each in folder.iterdir() if "partial" in each.name]
    monkeypatch.undo()


def test_plans_alone_place_nothing(runs: Folders) -> None:
    _plan(preprocess=False)
    assert not (runs[1] / "sequences").exists()


def test_variants_follow_the_plans(runs: Folders) -> None:
    _plan()
    path = add_variant(700, variant="long", settings={"patch_size": [8, 8, 8, 3], "training.epochs": 7})
    configurations = json.loads(path.read_text())["configurations"]
    assert configurations["long"]["inherits_from"] == "4d"
    assert configurations["long"]["architecture"]["arch_kwargs"]["input_shape"] == [8, 8, 8, 3]
    again = read_plans_file(plan_dataset(700, gpu_memory=2, workers=1))["configurations"]
    assert again["long"]["training"] == {"epochs": 7}
    for patch, axis in (([8, 9, 8, 4], 1), ([8, 8, 8], None)):
        with pytest.raises(InputError, match="expected 4 whole numbers" if axis is None else f"on axis {axis}: take 8"):
            add_variant(700, variant="other", settings={"patch_size": patch})
    with pytest.raises(InputError, match="would change a planned configuration"):
        add_variant(700, variant="4d", settings={"batch_size": 3})


def test_switches_of_the_network_are_settings_of_variants(runs: Folders) -> None:
    _plan()
    settings = {"architecture.both_directions": True, "architecture.legacy": True, "patch_size": [8, 8, 8, 3]}
    path = add_variant(700, variant="both", settings=settings)
    configurations = json.loads(path.read_text())["configurations"]
    kwargs, planned = (configurations[name]["architecture"]["arch_kwargs"] for name in ("both", "4d"))
    changed = {key for key in kwargs if kwargs[key] != planned[key]}
    assert changed == {"both_directions", "legacy", "input_shape"} and configurations["both"]["costs"] is None
    network = build_network(configurations["both"], inputs=1, outputs=2, deep_supervision=False)
    assert network.encoder.stages[0].blocks[0].mamba.reverse_gate is not None  # type: ignore[union-attr]
    for name, value, fault in (
        ("architecture.legacy", 1, "expected true or false"),
        ("architecture.mlp_ratio", 2.0, "is no switch of the planned network: its switches are full_last_window, both"),
        ("architecture.both", True, "is no switch"),
    ):
        with pytest.raises(InputError, match=fault):
            add_variant(700, variant="other", settings={name: value})


# -------------------------------------------------------------------------------------------------- wrong combinations


def _other_shape(raw: Path) -> None:
    write_run(raw / "sequencesTr", "c", (8, 9, 8, 6))


def _other_spacing(raw: Path) -> None:
    write_run(raw / "sequencesTr", "c", (8, 8, 8, 6), spacing=5.0)


def _other_time(raw: Path) -> None:
    write_run(raw / "sequencesTr", "c", (8, 8, 8, 6), repetition_time=2.0)


def _other_scores(raw: Path) -> None:
    write_run(raw / "sequencesTr", "c", (8, 8, 8, 6), standardised="voxel")


def _short(raw: Path) -> None:
    write_run(raw / "sequencesTr", "c", (8, 8, 8, 3))


def _no_mask(raw: Path) -> None:
    (raw / "sequencesTr" / "c_mask.b2nd").unlink()


def _cut(raw: Path) -> None:
    path = raw / "sequencesTr" / "c.b2nd"
    path.write_bytes(path.read_bytes()[:-200])


def _missing(raw: Path) -> None:
    for name in ("c.json", "c.b2nd", "c_mask.b2nd"):
        (raw / "sequencesTr" / name).unlink()


def _empty(raw: Path) -> None:
    shutil.rmtree(raw / "sequencesTr")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (_other_shape, r"c\.json has 8 x 9 x 8 voxels, not the 8 x 8 x 8 of .*a\.json: .* --size"),
        (_other_spacing, r"c\.json has voxels of 5 x 5 x 5 mm, not the 6 x 6 x 6 mm of"),
        (_other_time, r"c\.json has 2 s between frames, not the 0\.8 s of .*--time-step"),
        (_other_scores, r"c\.json has standard scores of each voxel, not of each run of .*--standardise"),
        (_short, r"run c has 3 frames, a clip takes at least 4: .*--min-frames"),
        (_no_mask, r"c_mask\.b2nd of run c does not exist: convert"),
        (_cut, r"c\.b2nd cannot be read"),
        (_missing, r"holds 3 runs, .*dataset\.json names 4"),
        (_empty, r"holds 0 runs"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence_and_leaves_nothing(
    harm: Callable[[Path], None], sentence: str, runs: Folders
) -> None:
    harm(runs[0])
    with pytest.raises(InputError, match=sentence):
        _plan()
    assert not list(runs[1].glob("*.json")) and not (runs[1] / "sequences").exists()


@pytest.mark.parametrize("network", ["swin", "primus-s", "resenc"])
def test_networks_of_images_are_refused_for_runs(network: str, runs: Folders) -> None:
    with pytest.raises(InputError, match=f"{network} reads 3-D images, but data set 700 holds 4-D runs: .*neurostorm"):
        _plan(network=network)
    assert _plan(network="neurostorm", preprocess=False)["patch_size"] == [8, 8, 8, 6]


def test_a_network_of_runs_is_refused_for_images(skeleton: Callable[..., Any]) -> None:
    skeleton()
    with pytest.raises(InputError, match=r"neurostorm reads 4-D runs, but .*Dataset501_Skeleton holds 3-D images"):
        plan_dataset(501, network="neurostorm")


def test_other_splits_than_the_raw_ones_are_refused(runs: Folders) -> None:
    _plan()
    (runs[1] / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    with pytest.raises(InputError, match="disagrees with the one in"):
        _plan()


def test_too_little_memory_is_one_sentence(runs: Folders) -> None:
    with pytest.raises(InputError, match="too little for any network: give at least 0"):
        _plan(gpu_memory=0.001)
    assert DATASET["labels"]["brain"] == 1
