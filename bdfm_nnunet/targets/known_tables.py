"""Tables that are read as they are: of UCSF-PDGM, UPENN-GBM, OASIS-1 to -3, ADNI, and of converted runs.

Names of columns and spellings of cells are those that public code reads from these files. A table is recognised by its
columns; those that another version lacks are left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.targets.column_requests import ClassSpelling, ColumnRequest, GroupRequest
from bdfm_nnunet.targets.target_tables import TargetTable
from bdfm_nnunet.targets.target_types import TargetType

BINARY, ORDINAL, CONTINUOUS, SURVIVAL = (
    TargetType.BINARY, TargetType.ORDINAL, TargetType.CONTINUOUS, TargetType.SURVIVAL,
)  # fmt: skip
NO_TABLE = "none"
"""Name by which a user says that a table is none of these."""


@dataclass(frozen=True, kw_only=True)
class KnownTable:
    """A table of a public data set.

    Attributes:
        name: by which it is chosen.
        title: what it is.
        columns: that tell it from others; all of them are there.
        targets: its targets.
        groups: its groupings.
        id_column: column of the ids; empty: the one that names most cases.
        clock: unit of the times of visits, `days` or `months`; empty: rows are no visits.
        clock_column: their column.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    targets: tuple[ColumnRequest, ...]
    groups: tuple[GroupRequest, ...] = ()
    id_column: str = ""
    clock: str = ""
    clock_column: str = ""


def _classes(**spellings: str) -> tuple[ClassSpelling, ...]:
    return tuple(ClassSpelling(name, tuple(words.split("|"))) for name, words in spellings.items())


def _age(source: str, plus: str = "") -> ColumnRequest:
    return ColumnRequest(
        name="age", type=CONTINUOUS, source=source, unit="years", plus=plus, per_scan=True, optional=True
    )


def _sex(source: str, classes: tuple[ClassSpelling, ...] = ()) -> ColumnRequest:
    classes = classes or _classes(F="F|female", M="M|male")
    return ColumnRequest(name="sex", type=BINARY, source=source, classes=classes, optional=True)


def _dementia(source: str) -> tuple[ColumnRequest, ...]:
    """Return the clinical dementia rating, and whether it is above 0."""
    grades = tuple(ClassSpelling(grade, (grade,)) for grade in ("0", "0.5", "1", "2", "3"))
    impaired = (ClassSpelling("no", ("0",)), ClassSpelling("yes", ("0.5", "1", "2", "3")))
    return (
        ColumnRequest(name="cdr", type=ORDINAL, source=source, classes=grades, per_scan=True, optional=True),
        ColumnRequest(name="impaired", type=BINARY, source=source, classes=impaired, per_scan=True, optional=True),
    )


def _score(name: str, source: str) -> ColumnRequest:
    return ColumnRequest(name=name, type=CONTINUOUS, source=source, per_scan=True, optional=True)


_UCSF = KnownTable(
    name="ucsf-pdgm",
    title="clinical table of UCSF-PDGM (UCSF-PDGM-metadata_v2 and v5)",
    columns=("ID", "IDH", "WHO CNS Grade", "1-dead 0-alive", "OS"),
    id_column="ID",
    targets=(
        ColumnRequest(
            name="idh", type=BINARY, source="IDH", missing=("indeterminate",),
            classes=_classes(wildtype="wildtype|wild-type|wild type|wt", mutant="mut*|IDH1*|IDH2*"),
        ),
        ColumnRequest(name="grade", type=ORDINAL, source="WHO CNS Grade",
                      classes=(*(ClassSpelling(number, (number, roman)) for number, roman in
                                 (("2", "II"), ("3", "III"), ("4", "IV"))),)),
        ColumnRequest(
            name="mgmt", type=BINARY, source="MGMT status", missing=("indeterminate",), optional=True,
            classes=_classes(negative="negative|unmethylated", positive="positive|methylated"),
        ),
        ColumnRequest(
            name="codeletion", type=BINARY, source="1p/19q", missing=("indeterminate", "relative*"), optional=True,
            classes=_classes(no="intact|not co*|non-co*|not-co*|no|negative",
                             yes="co-del*|codel*|yes|positive"),
        ),
        ColumnRequest(name="os", type=SURVIVAL, source="OS", event="1-dead 0-alive", unit="days", per_scan=True),
        _age("Age at MRI"), _sex("Sex"),
    ),
    groups=(GroupRequest(name="sex", source="Sex", optional=True),),
)  # fmt: skip

_UPENN = KnownTable(
    name="upenn-gbm",
    title="clinical table of UPENN-GBM (UPENN-GBM_clinical_info)",
    columns=("ID", "IDH1", "MGMT", "Survival_from_surgery_days_UPDATED"),
    id_column="ID",
    targets=(
        ColumnRequest(name="idh", type=BINARY, source="IDH1", missing=("NOS/NEC",),
                      classes=_classes(wildtype="wildtype", mutant="mutated|mutant")),
        ColumnRequest(name="mgmt", type=BINARY, source="MGMT", missing=("indeterminate",),
                      classes=_classes(unmethylated="unmethylated", methylated="methylated")),
        ColumnRequest(
            name="os", type=SURVIVAL, source="Survival_from_surgery_days_UPDATED", event="Survival_Status",
            times=("Survival_Censor",), unit="days", per_scan=True, optional=True,
            classes=_classes(censored="alive|lost*|deceased - uncertain*", dead="deceased"),
        ),
        ColumnRequest(name="resection_above_90", type=BINARY, source="GTR_over90percent", optional=True,
                      classes=_classes(no="N|no", yes="Y|yes")),
        _score("kps", "KPS"), _age("Age_at_scan_years"), _sex("Gender"),
    ),
    groups=(GroupRequest(name="sex", source="Gender", optional=True),),
)  # fmt: skip

_OASIS_1 = KnownTable(
    name="oasis1",
    title="table of OASIS-1 (oasis_cross-sectional)",
    columns=("ID", "M/F", "Hand", "Age", "CDR", "Delay"),
    id_column="ID",
    targets=(_age("Age"), _sex("M/F"), *_dementia("CDR"), _score("mmse", "MMSE")),
    groups=(GroupRequest(name="sex", source="M/F"),),
)
_OASIS_2 = KnownTable(
    name="oasis2",
    title="table of OASIS-2 (oasis_longitudinal)",
    columns=("Subject ID", "MRI ID", "Group", "Visit", "M/F", "CDR"),
    id_column="MRI ID",
    targets=(_age("Age"), _sex("M/F"), *_dementia("CDR"), _score("mmse", "MMSE")),
    groups=(GroupRequest(name="sex", source="M/F"),),
)
_OASIS_3_CDR = KnownTable(
    name="oasis3-cdr",
    title="clinical dementia ratings of OASIS-3 (OASIS3_UDSb4_cdr)",
    columns=("OASISID", "OASIS_session_label", "days_to_visit", "CDRTOT"),
    id_column="OASISID",
    clock="days",
    clock_column="days_to_visit",
    targets=(_age("age at visit"), *_dementia("CDRTOT"), _score("mmse", "MMSE")),
)
_OASIS_3_DEMOGRAPHICS = KnownTable(
    name="oasis3-demographics",
    title="demographics of OASIS-3 (OASIS3_demographics)",
    columns=("OASISID", "AgeatEntry", "GENDER"),
    id_column="OASISID",
    targets=(_sex("GENDER", _classes(F="2|F|female", M="1|M|male")), _score("education", "EDUC")),
    groups=(
        GroupRequest(name="sex", source="GENDER"),
        GroupRequest(name="race", source="race", optional=True),
    ),
)
_OASIS_3_SCANS = KnownTable(
    name="oasis3-scans",
    title="list of the MR sessions of OASIS-3",
    columns=("Subject", "M/F", "Age", "Scanner", "Scans"),
    targets=(_age("Age"), _sex("M/F")),
    groups=(GroupRequest(name="sex", source="M/F"), GroupRequest(name="scanner", source="Scanner")),
)
_ADNI_DIAGNOSES = _classes(CN="CN|NL|*to NL|SMC", MCI="MCI|EMCI|LMCI|*to MCI", AD="AD|dementia|*to dementia")


def _adni_targets(source: str) -> tuple[ColumnRequest, ColumnRequest]:
    """Return the diagnosis in a column as three ordered classes, and as disease or none, where MCI is neither."""
    none, mild, disease = _ADNI_DIAGNOSES
    common: Any = {"source": source, "per_scan": True}
    return (
        ColumnRequest(name="diagnosis", type=ORDINAL, classes=_ADNI_DIAGNOSES, **common),
        ColumnRequest(name="ad", type=BINARY, classes=(none, disease), missing=mild.spellings, **common),
    )


_ADNI_MERGED = KnownTable(
    name="adnimerge",
    title="merged table of ADNI (ADNIMERGE)",
    columns=("PTID", "VISCODE", "DX", "AGE", "PTGENDER"),
    id_column="PTID",
    clock="months",
    clock_column="VISCODE",
    targets=(
        *_adni_targets("DX"),
        _age("AGE", plus="Years_bl"), _sex("PTGENDER"), _score("mmse", "MMSE"), _score("cdr_sum", "CDRSB"),
    ),
    groups=(GroupRequest(name="sex", source="PTGENDER"), GroupRequest(name="site", source="SITE", optional=True)),
)  # fmt: skip
_ADNI_COLLECTION = KnownTable(
    name="adni-collection",
    title="list of a collection of ADNI's or AIBL's archive (Image Data ID, Subject, Group ...)",
    columns=("Image Data ID", "Subject", "Group", "Sex", "Age"),
    clock="months",
    clock_column="Visit",
    targets=(
        *_adni_targets("Group"),
        _age("Age"), _sex("Sex"),
    ),
    groups=(GroupRequest(name="sex", source="Sex"),),
)  # fmt: skip
_RUNS = KnownTable(
    name="runs",
    title="table of runs that `bdfm convert` writes (runs.csv)",
    columns=("case", "patient", "task", "frames_dropped", "displacement", "brain_voxels"),
    id_column="case",
    targets=(
        ColumnRequest(name="task", type=TargetType.MULTICLASS, source="task", per_scan=True, optional=True),
        ColumnRequest(
            name="displacement", type=CONTINUOUS, source="displacement", unit="mm", per_scan=True, optional=True
        ),
    ),
)

KNOWN_TABLES = {
    table.name: table
    for table in (
        _UCSF, _UPENN, _OASIS_1, _OASIS_2, _OASIS_3_CDR, _OASIS_3_DEMOGRAPHICS, _OASIS_3_SCANS, _ADNI_MERGED,
        _ADNI_COLLECTION, _RUNS,
    )
}  # fmt: skip
"""Name to table, those first whose columns tell most."""


def known_table(table: TargetTable, name: str | None = None) -> KnownTable | None:
    """Return the known table that a table is, or that was named.

    Args:
        table: the table.
        name: of a known one; `none` for none of them; None to recognise it.

    Raises:
        InputError: no known table has the name, or the table lacks its columns.
    """
    if name == NO_TABLE:
        return None
    if name is None:
        return next((known for known in KNOWN_TABLES.values() if not _lacking(table, known.columns)), None)
    if name not in KNOWN_TABLES:
        raise InputError(f"--known {name} is no known table, expected {', '.join(KNOWN_TABLES)} or {NO_TABLE}")
    known = KNOWN_TABLES[name]
    if lacking := _lacking(table, known.columns):
        raise InputError(
            f"{table.path} is not the {known.title}: it lacks {', '.join(lacking)}; leave out --known and name the "
            "targets with --column"
        )
    return known


def _lacking(table: TargetTable, columns: Iterable[str]) -> list[str]:
    return [column for column in columns if table.find(column) is None]


def targets_there(table: TargetTable, known: KnownTable) -> list[ColumnRequest]:
    """Return the targets of a known table whose columns this version of it has."""
    found = []
    for request in known.targets:
        lacking = _lacking(table, [name for name in (request.source, request.event, request.plus) if name])
        if lacking == [request.plus]:
            continue
        if not lacking or not request.optional:
            found.append(request)
    return found


def groups_there(table: TargetTable, known: KnownTable) -> list[GroupRequest]:
    """Return the groupings of a known table whose columns this version of it has."""
    return [group for group in known.groups if not _lacking(table, [group.source])]
