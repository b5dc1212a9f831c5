"""The shared fixtures are what their descriptions say."""

import json
import os
from pathlib import Path


def test_brats_tree_has_six_cases_of_five_patients(brats_tree):
    names = sorted(path.name for path in brats_tree.iterdir() if path.is_dir())
    assert len(names) == 6 and len({name.rpartition("-")[0] for name in names}) == 5


def test_nnunet_dirs_are_named_by_the_environment(nnunet_dirs):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        assert Path(os.environ[variable]) == nnunet_dirs / variable
        assert (nnunet_dirs / variable).is_dir()


def test_prepared_is_planned_and_preprocessed(prepared):
    for dataset_id in (prepared.labelled, prepared.unlabelled):
        folder = prepared.folder("nnUNet_preprocessed", dataset_id)
        plans = json.loads((folder / f"{prepared.plans}.json").read_text())
        configuration = plans["configurations"]["3d_fullres"]
        assert "SwinUNet" in configuration["architecture"]["network_class_name"]
        cases = {path.name.split(".")[0] for path in (folder / configuration["data_identifier"]).iterdir()}
        assert len({case for case in cases if not case.endswith("_seg")}) == 6
    assert not list(Path(os.environ["nnUNet_results"]).iterdir())
