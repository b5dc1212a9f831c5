"""`bdfm evaluate`: what it hands over."""

from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet import cli


def test_evaluate_hands_over_the_regions_of_the_release(replace: Any) -> None:
    calls = replace("bdfm_nnunet.evaluation", "evaluate_folders")
    assert cli.main("evaluate ref pred --release brats2023-men -o scores.json --workers 1".split()) == 0
    ((args, settings),) = calls
    assert args == (Path("ref"), Path("pred"))
    assert settings == {
        "regions": {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing_tumor": (3,)},
        "release": "brats2023-men", "metrics": "whole", "out": Path("scores.json"), "workers": 1,
        "task": None, "allow_missing": False, "only_predicted": False, "ignore": None,
        "small_mm3": None,
    }  # fmt: skip


def test_evaluate_knows_the_labels_on_the_disk(replace: Any) -> None:
    calls = replace("bdfm_nnunet.evaluation", "evaluate_folders")
    command = "evaluate ref pred --release brats2020 --source-labels --metrics lesionwise-2023 -o s.json --task MET"
    assert cli.main(command.split()) == 0
    assert calls[0][1]["regions"] == {"whole_tumor": (1, 2, 4), "tumor_core": (1, 4), "enhancing_tumor": (4,)}
    assert (calls[0][1]["metrics"], calls[0][1]["task"]) == ("lesionwise-2023", "MET")


def test_metric_versions_are_those_of_the_library() -> None:
    from bdfm_nnunet.commands.scores import VERSIONS
    from bdfm_nnunet.evaluation import METRICS

    assert set(VERSIONS) == set(METRICS)


def test_evaluate_knows_what_is_small(replace: Any, capsys: Any) -> None:
    calls = replace("bdfm_nnunet.evaluation", "evaluate_folders")
    command = "evaluate ref pred --release brats2023-men -o s.json --metrics small-lesions --small-mm3"
    assert cli.main([*command.split(), "27.5"]) == 0
    assert (calls[0][1]["metrics"], calls[0][1]["small_mm3"]) == ("small-lesions", 27.5)
    for wrong in ("0", "-3", "nan", "many"):
        with pytest.raises(SystemExit):
            cli.main([*command.split(), wrong])
        assert "a number above 0 was expected" in capsys.readouterr().err
