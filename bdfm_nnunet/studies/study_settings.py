"""The settings of a study: arms, label fractions, seeds, and the one search that every arm gets."""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.presets import PRETRAINERS, SUBJECT_TRAINERS
from bdfm_nnunet.safe_names import check_name

RATE = "training.initial_lr"
LONGEST_EPOCH = 50
_OF_THE_STUDY = {
    RATE: "rates",
    "training.seed": "seeds",
    "training.epochs": "steps",
    "training.iterations_per_epoch": "steps",
}
"""Settings that are the same for all arms, and the entry of the study that sets them."""
_OF_PRETRAINING = {name: "pretrain_steps" if option == "steps" else option for name, option in _OF_THE_STUDY.items()}
del _OF_PRETRAINING[RATE]
_OF_AN_ARM = {"finetuning.weights": "weights", "finetuning.weights_sha256": "weights"}
_OF_SUBJECTS = {"finetuning.targets": "targets"}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to come to a segmentation or to targets of subjects, compared with others.

    Attributes:
        name: of the arm, also in the names of its folders.
        weights: checkpoint that it is fine-tuned from, `last:ID`, or "none".
        pretrain: trainer with which the study pre-trains it first, such as nnUNetTrainerBDFMPretrain.
        strategy: shorthand for the setting finetuning.strategy.
        plans: name of the plans, if not those of the study.
        configuration: one of their configurations, if not that of the study.
        trainer: of fine-tuning, if not that of the study.
        baseline: arm that it is compared with, if not that of the study; for instance the same network from scratch.
        rates: learning rates that it searches, as many as those of the study, if not the same ones.
        set: settings of fine-tuning, as `bdfm plan --set` takes them.
        pretrain_set: settings of pre-training.
        pretrain_steps: optimiser steps of pre-training, if not as many as those of the study.
        pretrain_on: number of the data set for pre-training, if not that of the study.

    Example:
        >>> Arm(name="bdfm", pretrain="nnUNetTrainerBDFMPretrain").is_pretrained
        True
    """

    name: str
    weights: str = "none"
    pretrain: str = ""
    strategy: str = ""
    plans: str = ""
    configuration: str = ""
    trainer: str = ""
    baseline: str = ""
    rates: tuple[float, ...] = ()
    set: Mapping[str, Any] = field(default_factory=dict)
    pretrain_set: Mapping[str, Any] = field(default_factory=dict)
    pretrain_steps: int = 0
    pretrain_on: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "arm")
        if self.pretrain and self.weights != "none":
            raise InputError(f"arm {self.name} has pretrain and weights: leave out one, it starts from the other")
        for entry in ("pretrain_set", "pretrain_steps", "pretrain_on"):
            if getattr(self, entry) and not self.pretrain:
                raise InputError(f"arm {self.name} has {entry} but no pretrain: name the trainer that it is for")
        if self.pretrain_steps and not _is_length(self.pretrain_steps):
            expected = _EXPECTED["pretrain_steps"]
            raise InputError(f"arm {self.name}: pretrain_steps is {self.pretrain_steps}, expected {expected}")
        if self.pretrain and self.pretrain not in PRETRAINERS:
            hint = nearest(self.pretrain, PRETRAINERS)
            raise InputError(f"arm {self.name}: {self.pretrain} is no pre-training: {hint}")
        _check_free(f"arm {self.name}", self.set, _OF_THE_STUDY | _OF_AN_ARM)
        _check_free(f"arm {self.name}", self.pretrain_set, _OF_PRETRAINING)

    @property
    def is_pretrained(self) -> bool:
        """Whether it starts from weights of any kind."""
        return bool(self.pretrain) or self.weights != "none"


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """A study: arms x label fractions x seeds on the same cases, plan and steps.

    Attributes:
        dataset: number of the data set whose labels are learnt; it is planned already.
        arms: what is compared.
        fractions: percent of the training cases whose labels are used.
        seeds: number of repetitions; each draws its label fractions, first weights and batches anew.
        test: number of the data set whose cases are the test; None for `hold_out`.
        hold_out: percent of the patients that are held out as test cases, where there is no `test`.
        rotate: whether each seed holds out the next `hold_out` percent: with 25 and four patients, leave one out.
        validation: percent of the remaining patients that choose the settings of every arm; 0 where every arm has but
            one to try.
        baseline: arm that the others are compared with; by default the first from scratch.
        plans: name of the plans.
        configuration: one of their configurations.
        trainer: of fine-tuning and of training from scratch; one of `presets.SUBJECT_TRAINERS` for targets of subjects.
        targets: of such a trainer, columns of targets.csv that are learnt and scored; by default all of its kind.
        steps: optimiser steps of fine-tuning, the same for all arms and fractions.
        rates: learning rates that every arm tries.
        search: further settings of fine-tuning that every arm tries: name -> values.
        search_seeds: "each" searches anew with every seed, "first" takes what was best with the first.
        halving: give few steps to all of the search first, and all steps to the best third only, step by step.
        pretrain_on: number of the data set for pre-training; by default the training cases of `dataset`.
        pretrain_steps: optimiser steps of pre-training.
        pretrain_seeds: "each" pre-trains anew with every seed, "first" takes that of the first seed for all.
        set: settings of fine-tuning of all arms.
        pretrain_set: settings of pre-training of all arms.
        mirroring: whether predictions are the mean over mirrored images.
        split_seed: of the order in which patients are dealt out.

    Example:
        >>> study = StudySettings(dataset=43, hold_out=20, arms=(Arm(name="scratch"),), rates=(1e-3, 3e-3))
        >>> study.baseline, study.trials(study.arms[0])
        ('scratch', [{'training.initial_lr': 0.001}, {'training.initial_lr': 0.003}])
    """

    dataset: int
    arms: tuple[Arm, ...]
    fractions: tuple[float, ...] = (5.0, 20.0, 100.0)
    seeds: int = 3
    test: int | None = None
    hold_out: float = 0.0
    rotate: bool = False
    validation: float = 20.0
    baseline: str = ""
    plans: str = "BDFMPlans"
    configuration: str = "3d_fullres"
    trainer: str = "nnUNetTrainerBDFM"
    targets: tuple[str, ...] = ()
    steps: int = 1000
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    search: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    search_seeds: Literal["each", "first"] = "each"
    halving: bool = False
    pretrain_on: int | None = None
    pretrain_steps: int = 1000
    pretrain_seeds: Literal["each", "first"] = "each"
    set: Mapping[str, Any] = field(default_factory=dict)
    pretrain_set: Mapping[str, Any] = field(default_factory=dict)
    mirroring: bool = False
    split_seed: int = 12345

    def __post_init__(self) -> None:
        self._check_arms()
        self._check_numbers()
        _check_free("the study", self.set, _OF_THE_STUDY | _OF_AN_ARM)
        _check_free("the study", self.search, _OF_THE_STUDY | _OF_AN_ARM)
        _check_free("the study", self.pretrain_set, _OF_PRETRAINING)
        if (self.test is None) == (not self.hold_out):
            raise InputError("a study has either test = ID or hold_out = PERCENT: say where its test cases are")
        if self.rotate and not 0 < self.hold_out <= 50:
            raise InputError("rotate lets each seed hold out other patients: give hold_out, up to 50 percent")
        for arm in self.arms if not self.validation else ():
            if len(self.trials(arm)) > 1:
                raise InputError(
                    f"validation is 0, but arm {arm.name} has {len(self.trials(arm))} settings to choose among: "
                    "give it one of rates and no search, or validation cases"
                )
        self._check_pretraining()
        self._check_subjects()
        scratch = [arm.name for arm in self.arms if not arm.is_pretrained]
        object.__setattr__(self, "baseline", self.baseline or (scratch or [self.arms[0].name])[0])
        names = [arm.name for arm in self.arms]
        for wrong in {self.baseline, *(arm.baseline or self.baseline for arm in self.arms)} - {*names}:
            raise InputError(f"baseline is {wrong!r}: {nearest(wrong, names)}")

    def _check_pretraining(self) -> None:
        """Refuse one pre-training for all seeds where a later seed tests on what the first one has for training."""
        own = [arm.name for arm in self.arms if arm.pretrain and not (arm.pretrain_on or self.pretrain_on)]
        if own and self.rotate and self.pretrain_seeds == "first":
            raise InputError(
                f'pretrain_seeds is "first", but arm {own[0]} is pre-trained on cases that later seeds hold out: give '
                'pretrain_on, or pretrain_seeds = "each"'
            )

    @property
    def subject_trainer(self) -> str:
        """The trainer of targets of subjects that all arms have; empty where they segment."""
        trainer = self.arms[0].trainer or self.trainer
        return trainer if trainer in SUBJECT_TRAINERS else ""

    def _check_subjects(self) -> None:
        """Refuse arms that are scored by different measures, and what only segmentations have."""
        for whose, chosen in (
            ("the study", {**self.set, **self.search}),
            *((f"arm {a.name}", a.set) for a in self.arms),
        ):
            _check_free(whose, chosen, _OF_SUBJECTS)
        trainers = {arm.name: arm.trainer or self.trainer for arm in self.arms}
        kinds = {name: trainer if trainer in SUBJECT_TRAINERS else "" for name, trainer in trainers.items()}
        for name in (name for name, kind in kinds.items() if kind != self.subject_trainer):
            first = self.arms[0].name
            raise InputError(
                f"arm {name} is trained by {trainers[name]}, arm {first} by {trainers[first]}, which are scored by "
                "different measures: compare them in a study each"
            )
        if self.targets and not self.subject_trainer:
            raise InputError(
                f"the study names targets, which {self.trainer} does not learn: name one of "
                f"{', '.join(SUBJECT_TRAINERS)} as trainer"
            )
        if not all(self.targets) or len(set(self.targets)) < len(self.targets):
            raise InputError(f"targets is {', '.join(self.targets)}, expected different names of columns")
        if self.mirroring and self.subject_trainer:
            raise InputError("mirroring is of segmentations, targets of subjects have none: leave it out")

    def _check_arms(self) -> None:
        names = [arm.name.casefold() for arm in self.arms]
        if not names or len(set(names)) < len(names):
            raise InputError(f"the arms are {', '.join(names) or 'none'}: give at least one, and each its own name")
        for arm in self.arms:
            if arm.rates and len(arm.rates) != len(self.rates):
                raise InputError(
                    f"arm {arm.name} has {len(arm.rates)} rates, the study {len(self.rates)}: no arm may try more or "
                    "fewer than the others"
                )

    def _check_numbers(self) -> None:
        rates = [rate for rates in (self.rates, *(arm.rates for arm in self.arms)) for rate in rates]
        faults = {
            "fractions": not self.fractions or not all(0 < each <= 100 for each in self.fractions),
            "rates": not self.rates or not all(rate > 0 for rate in rates),
            "seeds": self.seeds < 1,
            "hold_out": not 0 <= self.hold_out < 100,
            "validation": not 0 <= self.validation < 100,
            "search": not all(self.search.values()),
            "search_seeds": self.search_seeds not in ("each", "first"),
            "pretrain_seeds": self.pretrain_seeds not in ("each", "first"),
        }
        faults |= {name: not _is_length(getattr(self, name)) for name in ("steps", "pretrain_steps")}
        for name in (name for name, fault in faults.items() if fault):
            raise InputError(f"{name} is {_shown(getattr(self, name))}, expected {_EXPECTED[name]}")
        for name in ("fractions", "rates"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"{name} is {_shown(getattr(self, name))}: name each once")

    def arm(self, name: str) -> Arm:
        """Return the arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def complete(self, arm: Arm) -> Arm:
        """Return an arm with what it takes over from the study filled in."""
        strategy = {"finetuning.strategy": arm.strategy} if arm.strategy else {}
        targets = {"finetuning.targets": list(self.targets)} if self.targets else {}
        return replace(
            arm,
            plans=arm.plans or self.plans,
            configuration=arm.configuration or self.configuration,
            trainer=arm.trainer or self.trainer,
            baseline=arm.baseline or self.baseline,
            rates=arm.rates or self.rates,
            set={**self.set, **arm.set, **strategy, **targets},
            pretrain_set={**self.pretrain_set, **arm.pretrain_set} if arm.pretrain else {},
            pretrain_steps=(arm.pretrain_steps or self.pretrain_steps) if arm.pretrain else 0,
            pretrain_on=(arm.pretrain_on or self.pretrain_on) if arm.pretrain else None,
        )

    def trials(self, arm: Arm) -> list[dict[str, Any]]:
        """Return the settings that an arm tries; every arm has as many."""
        tried = {RATE: arm.rates or self.rates, **self.search}
        return [dict(zip(tried, values)) for values in itertools.product(*tried.values())]

    def as_dict(self) -> dict[str, Any]:
        """Return the settings in plain types, of arms by name only what they set."""
        told = asdict(self) | {"arms": {arm.name: _set_by(arm) for arm in self.arms}}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "StudySettings":
        """Return the settings that a file or `as_dict` tells.

        Raises:
            InputError: an entry does not exist, is of another type or is out of its range.

        Example:
            >>> StudySettings.from_dict({"dataset": 43, "hold_out": 20, "arms": {"scratch": {}}, "step": 10})
            Traceback (most recent call last):
            bdfm_nnunet.errors.InputError: step is no entry of a study: did you mean steps?
        """
        names = [each.name for each in fields(cls)]
        _check_entries(content, names, "a study", _SHAPE)
        for name, arm in content["arms"].items():
            _check_entries(arm, [each.name for each in fields(Arm)][1:], f"the arm {name}", _ARM)
        arms = tuple(Arm(name=name, **_frozen(arm)) for name, arm in content["arms"].items())
        return cls(**_frozen(content) | {"arms": arms})


_EXPECTED = {
    "fractions": "percentages above 0 and up to 100",
    "rates": "learning rates above 0",
    "seeds": "a number of at least 1",
    "hold_out": "a percentage from 0 to below 100",
    "validation": "a percentage from 0 to below 100",
    "search_seeds": "each or first",
    "pretrain_seeds": "each or first",
    "search": "at least one value for each setting",
    "steps": f"a whole number up to {LONGEST_EPOCH} or a multiple of 10",
    "pretrain_steps": f"a whole number up to {LONGEST_EPOCH} or a multiple of 10",
}
_VALUES = {str: object}
_ARM = {
    **dict.fromkeys(("weights?", "pretrain?", "strategy?", "plans?", "configuration?", "trainer?", "baseline?"), str),
    "rates?": [float], "set?": _VALUES, "pretrain_set?": _VALUES, "pretrain_steps?": int,
    "pretrain_on?": (int, None),
}  # fmt: skip
_SHAPE = {
    "dataset": int, "arms": {str: dict}, "fractions?": [float], "seeds?": int, "test?": (int, None),
    "targets?": [str], "hold_out?": float, "validation?": float, "rates?": [float], "search?": {str: list},
    "halving?": bool, "rotate?": bool, "pretrain_on?": (int, None), "mirroring?": bool, "set?": _VALUES,
    "pretrain_set?": _VALUES,
    **dict.fromkeys(("baseline?", "plans?", "configuration?", "trainer?", "search_seeds?", "pretrain_seeds?"), str),
    **dict.fromkeys(("steps?", "pretrain_steps?", "split_seed?"), int),
}  # fmt: skip


def lengths(steps: int, *, longest: int = LONGEST_EPOCH, epochs: int = 20) -> tuple[int, int]:
    """Return epochs and steps an epoch of a training of that many steps.

    Args:
        steps: of the training.
        longest: most steps of an epoch.
        epochs: number to have at least, where there are as many steps; strategies of fine-tuning count in epochs.

    Example:
        >>> lengths(1000), lengths(37), lengths(130)
        ((20, 50), (37, 1), (26, 5))
    """
    most = max(1, min(longest, steps // epochs))
    epoch = next(size for size in range(most, 0, -1) if steps % size == 0)
    return steps // epoch, epoch


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """Return what was meant by a name that does not exist, as the end of a sentence.

    Example:
        >>> nearest("scrach", ["scratch", "bdfm"])
        'did you mean scratch?'
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else f"name one of {', '.join(known)}"


def _is_length(steps: int) -> bool:
    return steps >= 1 and (steps <= LONGEST_EPOCH or steps % 10 == 0)


def _shown(value: Any) -> str:
    return ", ".join(f"{each:g}" for each in value) or "empty" if isinstance(value, tuple) else str(value)


def _check_free(whose: str, settings: Mapping[str, Any], taken: Mapping[str, str]) -> None:
    for name in settings:
        if name in taken:
            raise InputError(f"{whose} sets {name}: give it as {taken[name]}, so that all arms are treated alike")


def _check_entries(content: Mapping[str, Any], names: Sequence[str], what: str, shape: Any) -> None:
    for name in content:
        if name not in names:
            raise InputError(f"{name} is no entry of {what}: {nearest(str(name), names)}")
    if fault := fault_of(content, shape):
        raise InputError(f"{what} is not as expected: {fault}")


def _frozen(content: Mapping[str, Any]) -> dict[str, Any]:
    kinds: dict[str, Any] = {"fractions": float, "rates": float, "targets": str}
    return {name: tuple(map(kinds[name], value)) if name in kinds else value for name, value in content.items()}


def _set_by(arm: Arm) -> dict[str, Any]:
    told = {name: value for name, value in asdict(arm).items() if value and name != "name"}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items() if value != "none"}
