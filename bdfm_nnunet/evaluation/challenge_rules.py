"""The rules of the BraTS challenges: numbers per task and region, and the task of each release.

Sources: the organisers' announcement of the lesion-wise metrics of 2023
(https://www.synapse.org/Synapse:syn51156910/discussion/threadId=10357) and their public evaluation code of each year.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bdfm_nnunet.errors import InputError

# Names that regions have in data sets, by the organisers' abbreviation.
_NAMES = {
    "WT": ("whole_tumor",),
    "TC": ("tumor_core",),
    "ET": ("enhancing_tumor",),
    "NETC": ("non_enhancing_tumor_core", "necrosis", "ncr"),
    "SNFH": ("surrounding_hyperintensity", "surrounding_non_enhancing_flair_hyperintensity"),
    "RC": ("resection_cavity",),
    "NET": ("non_enhancing_tumor",),
    "CC": ("cystic_component",),
    "ED": ("edema", "oedema", "peritumoral_edema"),
    "GTV": ("gross_tumor_volume",),
    "MET": ("metastasis",),
}
_TISSUES = {name: tissue for tissue, names in _NAMES.items() for name in (tissue.lower(), *names)}


def tissue_of(region: str) -> str:
    """Return the organisers' abbreviation of a region; other names are returned unchanged.

    Example:
        >>> tissue_of("enhancing_tumor"), tissue_of("Peritumoral edema"), tissue_of("stroke")
        ('ET', 'ED', 'stroke')
    """
    name = region.lower().replace("tumour", "tumor").replace("-", "_").replace(" ", "_")
    return _TISSUES.get(name, region)


@dataclass(frozen=True)
class Rule:
    """Numbers for the lesions of one region.

    Attributes:
        dilation: voxels by which lesions are dilated before pieces that touch are joined.
        threshold: lesions up to this volume do not count.

    Example:
        >>> TASKS_2024["GLI"].rule_for("ET")
        Rule(dilation=3, threshold=10)
    """

    dilation: int
    threshold: float


@dataclass(frozen=True)
class Task:
    """The rules of one challenge task.

    Attributes:
        rule: rule of all tissues that are not in `own_rules`.
        own_rules: tissue -> its rule.
        penalty: HD95 in mm of a lesion that only one side has; None: the diagonal of the volume in voxels.
        false_positives_count: whether a false lesion lowers the mean.
        joins_prediction: whether predicted pieces are joined by dilation and small ones dropped, as in the reference.
        threshold_in_mm3: whether the threshold of predicted lesions is in mm3 instead of voxels; the threshold of
            reference lesions is always in mm3.
        partners: tissue -> tissues that join its lesions by contact, in this order.
        large_mm3: lesions above this size are large (2026, metastases).
        overlap: Dice from which a lesion that is not large counts as found.
        large_includes: whether a lesion of exactly `large_mm3` is large.
        detected_from: Dice values over which F1 of detection is integrated.
        nsd_mm: tolerance of NSD in mm; None: the smallest spacing.
        leaderboards: name -> tissues and measures that it is made of.
        source: where these numbers are from, in words.

    Example:
        >>> met = TASKS_2023["MET"]
        >>> met.rule_for("ET"), met.penalty_for((240, 240, 155))
        (Rule(dilation=1, threshold=2), 374.0)
    """

    rule: Rule = Rule(0, 0)
    own_rules: Mapping[str, Rule] = field(default_factory=dict)
    penalty: float | None = 374.0
    false_positives_count: bool = True
    joins_prediction: bool = True
    threshold_in_mm3: bool = False
    partners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    large_mm3: float | None = None
    overlap: float = 0.0
    large_includes: bool = False
    detected_from: tuple[float, ...] = ()
    nsd_mm: float | None = None
    leaderboards: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    source: str = ""

    def rule_for(self, tissue: str) -> Rule:
        """Return the rule of a tissue."""
        return self.own_rules.get(tissue, self.rule)

    def penalty_for(self, shape: Sequence[int]) -> float:
        """Return the HD95 of a lesion that only one side has, for a volume of this shape."""
        return math.dist(shape, [0] * len(shape)) if self.penalty is None else self.penalty


def _task2023(dilation: int, threshold: float) -> Task:
    return Task(Rule(dilation, threshold), joins_prediction=False)


TASKS_2023 = {
    "GLI": _task2023(3, 50),
    "SSA": _task2023(3, 50),
    "PED": _task2023(3, 50),
    "MEN": _task2023(1, 50),
    "MET": _task2023(1, 2),
}

_CAVITY_OR_CORE = Rule(5, 20)
TASKS_2024 = {
    "GLI": Task(
        Rule(3, 20),
        # SNFH was meant to have 5: the code asks for "SFNH".
        own_rules={"ET": Rule(3, 10), "NETC": _CAVITY_OR_CORE, "RC": _CAVITY_OR_CORE},
        penalty=337.0,
        partners={
            "NETC": ("ET", "RC"),
            "ET": ("NETC", "RC"),
            "RC": ("ET", "NETC"),
            "SNFH": ("ET", "RC", "NETC"),
        },
    ),
    "MEN": _task2023(1, 50),
    "MEN-RT": Task(Rule(1, 50), penalty=None, false_positives_count=False, threshold_in_mm3=True),
    "MET": Task(Rule(1, 2), penalty=None, partners={"ET": ("NETC",)}),
    "PED": Task(Rule(5, 10)),
    "SSA": Task(Rule(3, 50), partners={"ET": ("NETC",)}),
}

_SEGMENTATION = Task(penalty=373.0)
TASKS_2026 = {
    **dict.fromkeys(("GLI", "SSA", "PED", "MEN", "MEN-RT", "OTHER"), _SEGMENTATION),
    "MET": Task(penalty=373.0, large_mm3=27.0, overlap=0.2),
}

_WIKI = "https://www.synapse.org/Synapse:syn74274097/wiki/"
_PACKAGE = "configuration {} of the organisers' public package brats-evaluation 0.0.10"
_BOARD = ("global_dice", "global_nsd")
_GOAT = Task(
    penalty=373.0,
    nsd_mm=1.0,
    leaderboards={"segmentation": (("ET", "TC", "WT"), _BOARD)},
    source=f"Dice and NSD at 1 mm, HD95 for information: the organisers' page {_WIKI}639592 as of 2026-07-24, as "
    f"participants report it; in spring it named Dice and HD95; {_PACKAGE.format('GoAT')}",
)
_PED = Task(
    penalty=373.0,
    nsd_mm=1.0,
    leaderboards={"segmentation": (("ET", "NET", "CC", "ED", "TC", "WT"), ("sq_dsc", "sq_nsd"))},
    source=f"lesion-wise Dice and NSD of six regions: {_WIKI}639598 as of 2026-03-28, which names no tolerance: 1 mm "
    f"is the spacing, which {_PACKAGE.format('ped')} takes",
)
_MET = Task(
    penalty=373.0,
    large_mm3=27.0,
    overlap=0.2,
    large_includes=True,
    detected_from=tuple(step / 10 for step in range(1, 10)),
    leaderboards={
        "segmentation": (("ET", "TC", "WT", "RC"), ("large_dsc", "large_nsd")),
        "detection": (("MET",), ("detection_f1", "detection_auc_f1")),
    },
    source="27 mm3 and 0.2: the organisers' public scoring script, which calls the package with these; small lesions "
    f"are those below 27 mm3 on {_WIKI}639577 (2026-05-01), too; {_WIKI}639602 (2026-04-08) names the leaderboards and "
    "what a lesion is in detection (ET, NETC and RC together), but not the thresholds of F1: 0.1 to 0.9 is our choice",
)
TASKS_BRATS2026 = {
    "GLI": Task(penalty=373.0, source=_PACKAGE.format("gli")),
    "SSA": Task(penalty=373.0, source=_PACKAGE.format("gli")),
    "MEN": Task(penalty=373.0, source=_PACKAGE.format("MenPre")),
    "MEN-RT": Task(penalty=373.0, source=_PACKAGE.format("MenRT")),
    "PED": _PED,
    "GOAT": _GOAT,
    "MET": _MET,
    "MET-PACKAGE": replace(_MET, large_mm3=20.0, overlap=0.1, source=f"the defaults of the {_PACKAGE.format('mets')}"),
    "MET-WIKI": replace(
        _MET,
        large_mm3=275.0,
        large_includes=False,
        source=f"segmentation of lesions above 275 mm3 alone: {_WIKI}639602 as of 2026-04-08; the rest as in MET",
    ),
    "OTHER": Task(penalty=373.0, source="as for the other tasks"),
}
"""Sources differ on metastases: MET is what the organisers' script does, the others are the package and the wiki."""

_GLIOMA = ("brats2018", "brats2019", "brats2020", "brats2021", "brats2023-gli", "brats2024-gli", "brats2025-gli-pre",
           "msd-brain-tumour", "ucsf-pdgm", "upenn-gbm")  # fmt: skip
_RELEASES: dict[str, str] = {
    **dict.fromkeys(_GLIOMA, "GLI"),
    **dict.fromkeys(("brats2024-goat", "brats2026-goat"), "GOAT"),
    "brats2026-met": "MET",
    "brats2026-ped": "PED",
    "brats2023-men": "MEN",
    "brats2024-men-rt": "MEN-RT",
    "brats2023-met": "MET",
    "brats2024-met": "MET",
    "brats2025-met": "MET",
    "brats2023-ped": "PED",
    "brats2024-ped": "PED",
    "brats2023-ssa": "SSA",
}


def task_name(tasks: Mapping[str, Task], release: str, task: str | None, metrics: str) -> str:
    """Return the name of the task to score by: `task` if it is given, else the release's task.

    Args:
        tasks: the tasks of a metric version by name.
        release: name of a release or data set.
        task: name of a task, or None.
        metrics: name of the metric version, for the message.

    Raises:
        InputError: the metric version does not have the task.

    Example:
        >>> task_name(TASKS_2023, "brats2023-men", None, "lesionwise-2023")
        'MEN'
    """
    name = task or _RELEASES.get(release, "OTHER")
    if name == "GOAT" and name not in tasks:
        name = "GLI"  # earlier years scored it like gliomas
    if name in tasks:
        return name
    known = ", ".join(sorted(set(tasks) - {"OTHER"}))
    what = f"task={task!r}" if task else f"release={release!r}"
    raise InputError(
        f"{what} has no rules in {metrics}: name a task whose rules to use ({known}), "
        "or choose the metrics whole, panoptic-2026 or brats-2026"
    )


def panoptic_parameters(name: str, task: Task, _: Sequence[str]) -> dict[str, Any]:
    """Return the rules of a task as a panoptic result records them.

    Example:
        >>> panoptic_parameters("MET", TASKS_2026["MET"], [])
        {'task': 'MET', 'penalty_mm': 373.0, 'large_above_mm3': 27.0, 'small_found_from_dice': 0.2}
    """
    sizes = {} if task.large_mm3 is None else {"large_above_mm3": task.large_mm3, "small_found_from_dice": task.overlap}
    return {"task": name, "penalty_mm": task.penalty, **sizes}


def leaderboard_parameters(name: str, task: Task, regions: Sequence[str]) -> dict[str, Any]:
    """Return the rules of a task as a result of `brats-2026` records them.

    Example:
        >>> found = leaderboard_parameters("GOAT", TASKS_BRATS2026["GOAT"], ["enhancing_tumor"])
        >>> found["nsd_tolerance_mm"], found["leaderboards"]["segmentation"]
        (1.0, {'regions': ['enhancing_tumor'], 'measures': ['global_dice', 'global_nsd']})
    """
    boards = {
        board: {"regions": [each for each in regions if tissue_of(each) in tissues], "measures": list(measures)}
        for board, (tissues, measures) in task.leaderboards.items()
    }
    sizes = {}
    if task.large_mm3 is not None:
        sizes = {
            "large_from_mm3" if task.large_includes else "large_above_mm3": task.large_mm3,
            "found_from_dice": task.overlap,
            "f1_integrated_over_dice": list(task.detected_from),
        }
    return {
        "task": name,
        "penalty_mm": task.penalty,
        "nsd_tolerance_mm": "the smallest spacing" if task.nsd_mm is None else task.nsd_mm,
        **sizes,
        "leaderboards": {board: entry for board, entry in boards.items() if entry["regions"]},
        "source": task.source,
    }


def lesionwise_parameters(name: str, task: Task, regions: Sequence[str]) -> dict[str, Any]:
    """Return the rules of a task as a lesion-wise result records them.

    Example:
        >>> lesionwise_parameters("MEN", TASKS_2023["MEN"], ["tumor_core"])["regions"]
        {'tumor_core': {'dilation_voxels': 1, 'threshold_mm3': 50, 'joined_by_contact_with': []}}
    """
    rules = {region: task.rule_for(tissue_of(region)) for region in regions}
    return {
        "task": name,
        "penalty_mm": "diagonal of the volume in voxels" if task.penalty is None else task.penalty,
        "false_positives_count": task.false_positives_count,
        "prediction_joined_and_small_ones_dropped": task.joins_prediction,
        "predicted_threshold_unit": "mm3" if task.threshold_in_mm3 else "voxels",
        "regions": {
            region: {
                "dilation_voxels": rule.dilation,
                "threshold_mm3": rule.threshold,
                "joined_by_contact_with": list(task.partners.get(tissue_of(region), ())),
            }
            for region, rule in rules.items()
        },
    }
