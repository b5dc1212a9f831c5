"""Sites that are kept out of all folds are not trained on by fold `all`, and their record comes with the splits."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_json
from bdfm_nnunet.patients import CaseList
from bdfm_nnunet.split_files import SPLITS, SPLITS_TABLE, read_kept_out
from bdfm_nnunet.training.fold_data import FoldData
from bdfm_nnunet.training.raw_dataset import bring_splits

SPLIT = (["a", "b", "c"], ["a", "b", "c"])


@pytest.fixture
def log() -> list[str]:
    return []


def fold_data(folder: Path, fold: object, log: list[str], monkeypatch: pytest.MonkeyPatch) -> FoldData:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    trainer = SimpleNamespace(
        fold=fold, preprocessed_dataset_folder_base=str(folder), print_to_log_file=log.append,
        plans_manager=SimpleNamespace(dataset_name=folder.name),
    )  # fmt: skip
    return FoldData(trainer)


def test_fold_all_leaves_them_out_and_says_so_once(
    tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / SPLITS_TABLE, {"folds": [], "external": {"site=Ulm": ["b"]}, "without_target": ["c"]})
    data = fold_data(tmp_path, "all", log, monkeypatch)
    assert data.keep_split(SPLIT) == data.keep_split(SPLIT) == (["a", "c"], ["a", "c"])
    assert len(log) == 1 and log[0].startswith("1 cases of sites that `bdfm splits --external` keeps out")
    assert fold_data(tmp_path, 0, log, monkeypatch).keep_split(SPLIT) == SPLIT and len(log) == 1


def test_fold_all_of_kept_out_cases_alone_is_refused(
    tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fold_data(tmp_path, "all", log, monkeypatch).keep_split(SPLIT) == SPLIT
    write_json(tmp_path / SPLITS_TABLE, {"folds": [], "external": {"site=Ulm": ["a", "b", "c"]}})
    with pytest.raises(InputError, match="every case is of a site that was kept out"):
        fold_data(tmp_path, "all", log, monkeypatch).keep_split(SPLIT)


def test_the_record_comes_with_the_splits(tmp_path: Path, log: list[str]) -> None:
    raw, preprocessed = tmp_path / "raw", tmp_path / "preprocessed"
    for folder in (raw, preprocessed):
        folder.mkdir()
    write_json(raw / SPLITS, [{"train": ["a"], "val": ["c"]}])
    write_json(raw / SPLITS_TABLE, {"folds": [], "external": {"site=Ulm": ["b"]}})
    bring_splits(preprocessed, raw, CaseList("x", "x", []), log.append)
    assert read_kept_out(preprocessed).external == {"b"} and len(log) == 1
