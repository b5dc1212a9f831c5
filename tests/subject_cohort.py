"""The prepared unlabelled data set with targets of every kind."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.targets import TargetColumn, Targets, TargetType, write_targets
from tests.conftest import Prepared, point_to

COLUMNS = (
    TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant")),
    TargetColumn("site", TargetType.MULTICLASS, ("A", "B", "C")),
    TargetColumn("grade", TargetType.ORDINAL, ("2", "3", "4")),
    TargetColumn("age", TargetType.CONTINUOUS, unit="years"),
    TargetColumn("death", TargetType.SURVIVAL, unit="days"),
)
SHORT_TRAINING = {
    "training.epochs": 2,
    "training.iterations_per_epoch": 3,
    "training.initial_lr": 1e-3,
    "training.workers": 0,
    "finetuning.rotation": 10.0,
    "finetuning.most_crops": 2,
}


def _targets(cases: list[str], patients: dict[str, str]) -> Targets:
    count = len(cases)
    numbers = {
        "idh": np.arange(count) % 2.0,
        "site": np.arange(count) % 3.0,
        "grade": np.arange(count)[::-1] % 3.0,
        "age": np.array([30.0 + 7 * number for number in range(count)]),
    }
    table = {name: values[:, None].astype(float) for name, values in numbers.items()}
    table["death"] = np.array([[100.0 * (number + 1), number % 3 != 1] for number in range(count)])
    table["age"][1] = np.nan
    return Targets({each.name: each for each in COLUMNS}, tuple(cases), patients, {}, table)


def with_targets(prepared: Prepared, root: Path) -> Prepared:
    """Copy the unlabelled data set to a folder of one's own and install targets there."""
    from bdfm_nnunet.patients import groups, read_cases

    own = Prepared(root)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        folder = prepared.folder(variable, own.unlabelled)
        shutil.copytree(folder, own.root / variable / folder.name)
    folder = own.folder("nnUNet_preprocessed", own.unlabelled)
    known = read_cases(folder)
    write_targets(folder, _targets(sorted(row["case"] for row in known.of_part("train")), groups(known.rows)))
    return own


@contextmanager
def own_subjects(prepared: Prepared, root: Path) -> Iterator[Prepared]:
    """Give the data set with targets, and the environment pointing at it."""
    own = with_targets(prepared, root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        point_to(own.root, monkeypatch)
        yield own
