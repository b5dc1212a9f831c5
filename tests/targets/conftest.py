"""Data sets that consist of a manifest, and tables that are installed in them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.files import write_json
from bdfm_nnunet.patients import CaseList, read_cases
from bdfm_nnunet.targets.target_installing import TableOptions, TargetsReport, install_targets

Install = Callable[..., TargetsReport]


def data_set(folder: Path, rows: Mapping[str, Mapping[str, Any] | str], release: str = "") -> CaseList:
    """Write a manifest of case to patient, or to more of its row, and read it."""
    entries = [{"case": case} | ({"patient": row} if isinstance(row, str) else dict(row)) for case, row in rows.items()]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "manifest.json", {"release": release, "cases": entries})
    return read_cases(folder)


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Return a function that installs a text, or a file, as the targets of a data set."""

    def run(
        table: str | bytes | Path,
        rows: Mapping[str, Any],
        *,
        name: str = "table.csv",
        release: str = "",
        **options: Any,
    ) -> TargetsReport:
        path = table if isinstance(table, Path) else tmp_path / name
        if isinstance(table, str):
            path.write_text(table, encoding="utf-8")
        elif isinstance(table, bytes):
            path.write_bytes(table)
        folder = tmp_path / "Dataset501_Demo"
        return install_targets(data_set(folder, rows, release), [folder], path, TableOptions(**options))

    return run
