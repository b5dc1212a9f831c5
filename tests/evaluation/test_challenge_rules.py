import re

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.challenge_rules import TASKS_2023, TASKS_2024, lesionwise_parameters, tissue_of
from bdfm_nnunet.evaluation.metric_versions import METRICS, choose

GLIOMA = "brats2018 brats2019 brats2020 brats2021 brats2023-gli brats2024-gli brats2024-goat brats2025-gli-pre".split()
TASK_OF = {
    **dict.fromkeys(GLIOMA, "GLI"), "brats2023-men": "MEN", "brats2023-met": "MET", "brats2023-ped": "PED",
    "brats2023-ssa": "SSA", "brats2024-met": "MET", "brats2025-met": "MET", "brats2024-ped": "PED",
}  # fmt: skip


def chosen(metrics, release, **settings):
    return choose(metrics, release=release, regions={"enhancing_tumor": (3,)}, missing_distance=374.0, **settings)


@pytest.mark.parametrize(("release", "task"), TASK_OF.items())
def test_releases_have_the_rules_of_their_task(release, task):
    assert chosen("lesionwise-2023", release).task == TASKS_2023[task]
    assert chosen("lesionwise-2024", release).task == TASKS_2024[task]
    assert chosen("panoptic-2026", release).parameters["task"] == task


def test_radiotherapy_has_rules_since_2024():
    assert chosen("lesionwise-2024", "brats2024-men-rt").task == TASKS_2024["MEN-RT"]
    with pytest.raises(InputError, match=r"release='brats2024-men-rt' has no rules in lesionwise-2023: name a task"):
        chosen("lesionwise-2023", "brats2024-men-rt")


@pytest.mark.parametrize("metrics", ["lesionwise-2023", "lesionwise-2024"])
def test_release_without_task_needs_one_named(metrics):
    message = re.escape(f"release='atlas-r2' has no rules in {metrics}: name a task whose rules to use (GLI, MEN")
    with pytest.raises(InputError, match=message):
        chosen(metrics, "atlas-r2")
    assert chosen(metrics, "atlas-r2", task="MET").parameters["task"] == "MET"
    with pytest.raises(InputError, match=r"task='BRAIN' has no rules"):
        chosen(metrics, "atlas-r2", task="BRAIN")
    for other in ("whole", "panoptic-2026"):
        assert chosen(other, "atlas-r2").version == other


def test_every_release_of_brats_is_known_to_some_version():
    from bdfm_nnunet.dataset_conversion import RELEASES

    names = [name for name in RELEASES if name.startswith("brats")]
    assert len(names) > 12
    for name in names:
        chosen("lesionwise-2024", name)


def test_every_scored_region_of_brats_has_the_organisers_name():
    from bdfm_nnunet.dataset_conversion import RELEASES

    named = {r: tissue_of(r) for n, e in RELEASES.items() if n.startswith("brats") for r in e.evaluated_regions}
    assert len(named) > 8
    for region, tissue in named.items():
        assert tissue.isupper() and len(tissue) <= 4, region


@pytest.mark.parametrize(
    ("region", "tissue"),
    [("enhancing_tumor", "ET"), ("Enhancing Tumour", "ET"), ("et", "ET"), ("WT", "WT"), ("resection_cavity", "RC"),
     ("surrounding_hyperintensity", "SNFH"), ("snfh", "SNFH"), ("lesion", "lesion")],
)  # fmt: skip
def test_regions_by_any_of_their_names(region, tissue):
    assert tissue_of(region) == tissue


def test_parameters_say_what_differs_by_region():
    regions = ["enhancing_tumor", "surrounding_hyperintensity", "resection_cavity"]
    found = lesionwise_parameters("GLI", TASKS_2024["GLI"], regions)
    assert [found["regions"][region]["dilation_voxels"] for region in regions] == [3, 3, 5]
    assert [found["regions"][region]["threshold_mm3"] for region in regions] == [10, 20, 20]
    assert found["penalty_mm"] == 337 and found["false_positives_count"]
    assert lesionwise_parameters("MET", TASKS_2024["MET"], regions)["penalty_mm"] == "diagonal of the volume in voxels"
    assert not lesionwise_parameters("MEN-RT", TASKS_2024["MEN-RT"], regions)["false_positives_count"]


def test_panoptic_parameters_are_those_of_the_task():
    assert chosen("panoptic-2026", "brats2023-ped").parameters == {"task": "PED", "penalty_mm": 373.0}
    sizes = {"large_above_mm3": 27.0, "small_found_from_dice": 0.2}
    assert chosen("panoptic-2026", "brats2025-met").parameters == {"task": "MET", "penalty_mm": 373.0, **sizes}


def test_measures_that_decide_say_which_way_is_better():
    for name, version in METRICS.items():
        assert version.measures and version.definition.endswith("."), name
        for measure, larger in version.measures.items():
            assert larger != measure.endswith("_mm")
