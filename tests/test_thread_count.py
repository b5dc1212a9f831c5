import pytest

from bdfm_nnunet.thread_count import named_threads


@pytest.mark.parametrize(
    ("named", "number"), [("3", 3), ("1", 1), ("0", None), ("", None), ("-2", None), ("4,2", None), ("²", None)]
)
def test_a_whole_number_counts_and_nothing_else(
    named: str, number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", named)
    assert named_threads() == number


def test_without_the_variable_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert named_threads() is None
