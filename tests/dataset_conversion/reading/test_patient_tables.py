"""Tables inside a download."""

import builtins
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from bdfm_nnunet.dataset_conversion.reading.scanning import Scan, scan
from bdfm_nnunet.dataset_conversion.release import Release, Source, Table
from bdfm_nnunet.table_files import read_table

RELEASE = Release(
    name="made-up",
    title="made up",
    dataset_name="MadeUp",
    case_pattern=r"AB-\d{4}_\d",
    patient_pattern=r"^(AB-\d{4})_",
    channels={"a": Source(r"(?:.*/)?{case}")},
    tables=(
        Table(r"(?:.*/)?info[^/]*\.(?:csv|tsv|xlsx)", id=("Case", "ID"), aliases=("Old", "Other"),
              alias_pattern=r"^(.+?)(?:_1)?$", site=("Site", "Centre")),
    ),
)  # fmt: skip


@pytest.fixture
def download(tmp_path: Path) -> Path:
    for case in ("AB-0004_1", "AB-0004_2", "AB-0017_1"):
        (tmp_path / f"{case}.nii").touch()
    return tmp_path


def known(found: Scan) -> dict[str, tuple[list[str], str]]:
    return {case: (content.aliases, content.site) for case, content in found.cases.items()}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("info.csv", b"ID,Old,Centre\nAB-004,X_7_1,Ulm\nAB-17_1,NA,n/a\n"),
        ("sub/info_v2.csv", "\ufeffID;Old;Centre\r\nab-4;X_7_1;Ulm\r\n".encode()),
        ("info.tsv", b"ID\tOld\tCentre\textra\nAB-0004\tX_7_1\tUlm\n"),
    ],
)
def test_text_tables_of_any_form(name: str, content: bytes, download: Path) -> None:
    (download / name).parent.mkdir(exist_ok=True)
    (download / name).write_bytes(content)
    expected = {"AB-0004_1": (["X_7"], "Ulm"), "AB-0004_2": (["X_7"], "Ulm"), "AB-0017_1": ([], "")}
    assert known(scan(download, RELEASE)) == expected


def test_workbook(download: Path) -> None:
    book = openpyxl.Workbook()
    for row in (
        ["Case ", "Other", "Old", "Site"],
        ["AB-0004_2", None, 12, 3],
        ["AB-0017_1", "B", "A", "x"],
        [None] * 4,
    ):
        book.active.append(row)
    book.save(download / "info.xlsx")
    found = scan(download, RELEASE)
    assert known(found) == {"AB-0004_1": ([], ""), "AB-0004_2": (["12"], "3"), "AB-0017_1": (["A", "B"], "x")}
    assert found.notes == ["info.xlsx knows 2 of the ids in the download"]


def test_a_quoted_comma_is_no_new_column(download: Path) -> None:
    (download / "info.csv").write_text('ID,Diagnosis,Centre\nAB-0017,"glioma, grade 4",Bonn\n')
    assert known(scan(download, RELEASE))["AB-0017_1"] == ([], "Bonn")


def test_letters_that_are_not_utf8(download: Path) -> None:
    (download / "info.csv").write_bytes("ID,Centre\nAB-0017,Köln\n".encode("latin-1"))
    assert known(scan(download, RELEASE))["AB-0017_1"][1] == "Köln"


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("info.xlsx", b"no zip", r"info.xlsx is no readable workbook"),
        ("info.csv", b"Name,Old\nAB-0004,X\n", r"info.csv has no column Case or ID"),
        ("info.csv", b"", r"info.csv has no column Case or ID"),
        ("info.csv", b'ID,Old\nAB-0004,"' + b"x" * 200_000, r"info.csv is no table of text"),
    ],
)
def test_a_table_that_cannot_be_used_is_a_note(name: str, content: bytes, note: str, download: Path) -> None:
    (download / name).write_bytes(content)
    found = scan(download, RELEASE)
    assert len(found.cases) == 3
    (only,) = found.notes
    assert only.startswith(note)


def test_without_the_package_a_note_says_what_to_install(download: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openpyxl.Workbook().save(download / "info.xlsx")
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "openpyxl":
            raise ImportError
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    (note,) = scan(download, RELEASE).notes
    assert 'pip install "bdfm-nnunet[tables]"' in note


def test_rows_that_are_too_short(download: Path) -> None:
    (download / "info.csv").write_text("ID,Old,Centre\nAB-0004\n\nAB-0017,X\n")
    assert known(scan(download, RELEASE))["AB-0017_1"] == (["X"], "")


def test_cells_are_text(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["a", 1.5, None, True])
    book.save(tmp_path / "t.xlsx")
    assert read_table(tmp_path / "t.xlsx") == [["a", "1.5", "", "True"]]
