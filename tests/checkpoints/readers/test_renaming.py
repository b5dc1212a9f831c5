import pytest
import torch

from bdfm_nnunet.checkpoints.readers.renaming import rename
from bdfm_nnunet.checkpoints.readers.weight_sets import named_tensors
from bdfm_nnunet.errors import InputError

ONE = torch.ones(1)


def test_the_first_usual_container_is_opened_at_any_depth() -> None:
    assert named_tensors({"a": ONE, "model": {"b": ONE}, "state_dict": {"teacher": {"c": ONE, "n": 5}}}) == {"c": ONE}
    assert named_tensors({"a": ONE, "model": 5}) == {"a": ONE}
    assert named_tensors({"a": ONE, "model": {}}) == {}


def test_rows_are_applied_in_turn() -> None:
    table = ((r"^a\.", "b."), (r"^b\.", "c."), (r"\.0\.", ".1+1."), (r"^x", None))
    renamed = rename({"a.0.w": ONE, "b.w": 2 * ONE, "xy": ONE}, table)
    assert {name: value.item() for name, value in renamed.weights.items()} == {"c.2.w": 1, "c.w": 2}
    assert list(renamed.dropped) == ["xy"]


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match=r"the weights a\.w and b\.w are both b\.w here"):
        rename({"a.w": ONE, "b.w": ONE}, ((r"^a\.", "b."),))
