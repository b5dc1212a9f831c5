"""Tables of sites from any program, and what they may not leave open."""

from pathlib import Path

import pytest

from bdfm_nnunet.dataset_conversion.reading.site_tables import read_families, read_sites
from bdfm_nnunet.errors import InputError

ROWS = [("id", "site"), ("hosp0", "A"), ("hosp01", "B"), ("Müller", "Köln")]


def write(path: Path, rows: list[tuple[str, ...]], *, mark: str = ",", encoding: str = "utf-8") -> Path:
    path.write_bytes("".join(f"{mark.join(row)}\r\n" for row in rows).encode(encoding))
    return path


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_any_mark_and_encoding(mark: str, encoding: str, tmp_path: Path) -> None:
    expected = {"hosp0": "A", "hosp1": "B", "müller": "Köln"}
    assert read_sites(write(tmp_path / "sites.csv", ROWS, mark=mark, encoding=encoding)) == expected


def test_quotes_and_a_table_without_a_first_row_of_names(tmp_path: Path) -> None:
    (tmp_path / "sites.csv").write_text('"a","Ulm, South"\n\n"b","Bonn"\n')
    assert read_sites(tmp_path / "sites.csv") == {"a": "Ulm, South", "b": "Bonn"}


def test_a_column_that_is_called_site_is_read_wherever_it_stands(tmp_path: Path) -> None:
    """As in participants.tsv of BIDS; the second column would be the age."""
    rows = [("age", "participant_id", "scanner_site"), ("40", "sub-01", "Ulm"), ("41", "sub-02", "n/a")]
    assert read_sites(write(tmp_path / "participants.tsv", rows, mark="\t")) == {"sub-1": "Ulm"}
    rows = [("Site", "who"), ("Ulm", "a"), ("Bonn", "b")]
    assert read_sites(write(tmp_path / "sites.csv", rows)) == {"a": "Ulm", "b": "Bonn"}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("id", "age", "sex"), ("a", "1", "f")], "none of which is called site"),
        ([("a", "Ulm"), ("b",)], "no site in row 2"),
        ([("id", "site"), ("a01", "Ulm"), ("a1", "Bonn")], "two sites for a1, Ulm and Bonn"),
        ([("id", "site", "site"), ("a", "Ulm", "Bonn")], "two columns called site"),
        ([], "has no row"),
    ],
)
def test_what_is_not_clear_is_a_sentence(rows: list[tuple[str, ...]], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"sites\.csv.*{sentence}"):
        read_sites(write(tmp_path / "sites.csv", rows))


def test_families_are_read_by_their_own_columns(tmp_path: Path) -> None:
    rows = [("Age", "Subject", "Family_ID"), ("22", "100307", "51488_81149"), ("23", "100408", "n/a")]
    assert read_families(write(tmp_path / "restricted.csv", rows)) == {"100307": "51488_81149"}
    with pytest.raises(InputError, match="two families for 1, a and b"):
        read_families(write(tmp_path / "restricted.csv", [("id", "family"), ("1", "a"), ("1", "b")]))
