"""A model whose targets mean something else than those of the data set is refused."""

from dataclasses import asdict, replace

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.targets import TargetColumn, TargetType
from bdfm_nnunet.targets.target_agreement import check_agreement, columns_told

IDH = TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant"))
AGE = TargetColumn("age", TargetType.CONTINUOUS, unit="years")
COLUMNS = {"idh": IDH, "age": AGE}


def test_what_agrees_and_what_the_data_set_does_not_have_is_taken() -> None:
    check_agreement(COLUMNS, [IDH, replace(AGE, unit=""), TargetColumn("os", TargetType.SURVIVAL)], "t.csv")


@pytest.mark.parametrize(
    ("learned", "why"),
    [
        (replace(IDH, classes=("mutant", "wildtype")), r"idh as binary \(mutant, wildtype\), but"),
        (replace(IDH, classes=("no", "yes")), r"has it as binary \(wildtype, mutant\): install"),
        (replace(IDH, type=TargetType.ORDINAL), "learned idh as ordinal"),
        (replace(AGE, unit="months"), r"continuous \(months\), but targets.json now has it as continuous \(years\)"),
        (TargetColumn("age", TargetType.SURVIVAL), "learned age as survival, but"),
    ],
)  # fmt: skip
def test_another_meaning_is_one_sentence(learned: TargetColumn, why: str) -> None:
    with pytest.raises(InputError, match=why):
        check_agreement(COLUMNS, [learned], "t.csv")


def test_what_files_tell_is_read_in_the_known_form_alone() -> None:
    entry = {**asdict(IDH), "classes": ["wildtype", "mutant"], "more": 1}
    assert columns_told([entry]) == (IDH,)
    for other in (None, {}, [entry, 3], [{**entry, "type": "guess"}], [{**entry, "classes": "ab"}], [{"name": "idh"}]):
        assert columns_told(other) == ()
