"""Tables in every form in which spreadsheets and scripts write them."""

import csv
import io
from pathlib import Path

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.table_files import read_table, write_table

ROWS = [["id", "site", "note"], ["p-01", "Zürich", "a, b"], ["p-02", "Bern", ""]]


def _text(mark: str, end: str) -> str:
    rows = (mark.join(f'"{cell}"' if mark in cell or "," in cell else cell for cell in row) for row in ROWS)
    return end.join(rows) + end


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_any_mark_line_end_and_encoding(tmp_path: Path, mark: str, end: str, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes((end + _text(mark, end) + mark * 2 + end).encode(encoding))
    assert read_table(tmp_path / "t.csv") == ROWS


def test_a_comma_inside_cells_does_not_win_over_the_semicolons_between_them(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id;volume, mm\na;1,5\nb;2,5\nc;3\n")
    assert read_table(tmp_path / "t.csv") == [["id", "volume, mm"], ["a", "1,5"], ["b", "2,5"], ["c", "3"]]


def test_one_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id\na\n\nb\n")
    assert read_table(tmp_path / "t.csv") == [["id"], ["a"], ["b"]]


@pytest.mark.parametrize("content", [b"a,b\n\0,c\n", b'a,"b\n'])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.csv is no table of text"):
        read_table(tmp_path / "t.csv")


def test_no_cell_is_a_formula_and_numbers_stay(tmp_path: Path) -> None:
    cells = ['=HYPERLINK("x")', "+1+1", "@SUM(1)", "-x", "\tx", "-1.5e-3", "+2", "plain", -1, None]
    write_table(tmp_path / "t.csv", [cells])
    (row,) = csv.reader(io.StringIO((tmp_path / "t.csv").read_text(), newline=""))
    assert row == ['\'=HYPERLINK("x")', "'+1+1", "'@SUM(1)", "'-x", "'\tx", "-1.5e-3", "+2", "plain", "-1", ""]


def test_a_name_that_is_no_utf_8_does_not_end_the_table(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [["\udcff"], ["x"]])
    assert read_table(tmp_path / "t.csv") == [["\\udcff"], ["x"]]


def test_rows_end_as_asked_for(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [["a", "b"], ["c", "d"]], line_end="\r\n")
    assert (tmp_path / "t.csv").read_bytes() == b"a,b\r\nc,d\r\n"
