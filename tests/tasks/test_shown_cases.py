"""What subject-level tasks do with the outputs of crops and clips, and settings of the other kind of case."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.settings import SubjectSettings
from bdfm_nnunet.tasks.shown_cases import ShownCrops, means_of, rows_of
from bdfm_nnunet.tasks.shown_clips import ShownClips


def _batch(key: str, places: list[int], values: list[float]) -> dict[str, Any]:
    return {"keys": [key] * len(places), "places": places, "outputs": torch.tensor(values)[:, None]}


def test_clips_that_two_processes_show_count_once() -> None:
    rows = rows_of([_batch("a", [8, 12], [3.0, 5.0]), _batch("b", [0], [7.0]), _batch("a", [0, 8], [1.0, 3.0])])
    assert rows["a"].flatten().tolist() == [1, 3, 5] and rows["b"].flatten().tolist() == [7]


def test_a_subject_is_the_mean_of_the_clips_of_all_runs() -> None:
    rows = {"a": torch.tensor([[1.0], [2.0], [6.0]]), "b": torch.tensor([[10.0]])}
    assert means_of(rows, [["a", "b"], ["b"]]).flatten().tolist() == [19 / 4, 10]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (ShownClips, {"view": "whole"}),
        (ShownClips, {"crop_overlap": 0.5}),
        (ShownClips, {"most_crops": 2}),
        (ShownCrops, {"clips": 2}),
        (ShownCrops, {"head": "v1"}),
    ],
)
def test_settings_of_the_other_kind_of_case_are_refused(kind: Any, settings: dict[str, Any]) -> None:
    trainer = SimpleNamespace(configuration_name="mine")
    kind(trainer, SubjectSettings()).check()
    with pytest.raises(InputError, match=rf"finetuning\.{next(iter(settings))} is .* for the configuration mine"):
        kind(trainer, SubjectSettings(**settings)).check()
