"""What a subject-level network gives for each target: its numbers, their loss, and what a table of predictions says."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_tables import Predictions
from bdfm_nnunet.evaluation.survival_curves import at_common_times
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.losses.subject_losses import (
    breslow_hazard,
    cox_loss,
    ordinal_steps,
    sequential_loss,
    step_probabilities,
    survival_steps,
)
from bdfm_nnunet.settings import SubjectSettings
from bdfm_nnunet.targets import TargetColumn, Targets, TargetType
from bdfm_nnunet.targets.column_requests import CLIPS, SPREAD

Numbers = NDArray[np.float64]
_SHAPE = {
    "name": str,
    "type": str,
    "classes": [str],
    "unit": str,
    "known": float,
    "weights": [float],
    "edges": [float],
    "mean": float,
    "deviation": float,
    "cox": bool,
    "baseline?": [float],
}
ENTRY_SHAPE = {"targets": [_SHAPE], "crop": [int], "overlap": float, "pooling": str, "head?": str}
"""The shape of what a checkpoint says of a subject-level task."""


@dataclass(frozen=True, kw_only=True)
class TargetOutput:
    """One target of a network, with what of the training cases its loss and its predictions need.

    Attributes:
        column: the target.
        known: share of the training cases whose value is known; losses are divided by it, so that those of a batch and
            of its micro-batches agree.
        weights: of the classes.
        edges: upper ends of the intervals of a discrete-time survival; of Cox's, times of the baseline.
        mean: of a continuous target.
        deviation: its standard deviation.
        cox: whether a survival has one log hazard instead of intervals.
        baseline: of Cox's, the cumulative hazard of the baseline at `edges`; empty until the training has ended.
    """

    column: TargetColumn
    known: float
    weights: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0
    cox: bool = False
    baseline: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Numbers per case."""
        kind = self.column.type
        if kind is TargetType.MULTICLASS:
            return len(self.column.classes)
        if kind is TargetType.ORDINAL:
            return len(self.column.classes) - 1
        return len(self.edges) if kind is TargetType.SURVIVAL and not self.cox else 1

    # --- learning -----------------------------------------------------------------------------------------------

    def loss(self, outputs: Tensor, truth: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Return the loss, summed over the cases whose value is known, by the number that a batch has on average.

        Args:
            outputs: (B, width).
            truth: (B, 1), or (B, 2) for survival; NaN is missing.
            smoothing: share of the probability that a label leaves to other classes.
        """
        present = ~truth.isnan().any(1)
        each = self._losses(outputs, truth.nan_to_num(), smoothing)
        if self.weights:
            each = each * each.new_tensor(self.weights)[truth.nan_to_num()[:, 0].long()]
        return torch.where(present, each, 0).sum() / (len(truth) * self.known)

    def _losses(self, outputs: Tensor, truth: Tensor, smoothing: float) -> Tensor:
        kind, first = self.column.type, truth[:, 0]
        if kind is TargetType.BINARY:
            wanted = first * (1 - smoothing) + smoothing / 2
            return functional.binary_cross_entropy_with_logits(outputs[:, 0], wanted, reduction="none")
        if kind is TargetType.MULTICLASS:
            return functional.cross_entropy(outputs, first.long(), label_smoothing=smoothing, reduction="none")
        if kind is TargetType.ORDINAL:
            steps = ordinal_steps(first.long(), len(self.column.classes))
            return sequential_loss(outputs, *steps, smoothing=smoothing)
        if kind is TargetType.CONTINUOUS:
            return functional.smooth_l1_loss(outputs[:, 0], (first - self.mean) / self.deviation, reduction="none")
        return sequential_loss(outputs, *survival_steps(first, truth[:, 1], first.new_tensor(self.edges)))

    def with_baseline(self, risks: Tensor, truth: Tensor, settings: SubjectSettings) -> "TargetOutput":
        """Return the output of a Cox model with the baseline hazard of its training cases, by Breslow's estimator.

        Args:
            risks: (B,), what the trained network says of them.
            truth: (B, 2); NaN is missing.
            settings: number of times.
        """
        known = ~truth.isnan().any(1)
        times, events = truth[known].double().unbind(1)
        edges = _event_times(times[events > 0].numpy(), settings.survival_bins)
        hazard = breslow_hazard(risks[known], times, events, torch.tensor(edges, dtype=torch.float64))
        return replace(self, edges=edges, baseline=tuple(hazard.tolist()))

    # --- telling ------------------------------------------------------------------------------------------------

    def predicted(self, outputs: Tensor) -> dict[str, Numbers]:
        """Return probabilities, values or risks by the name of their column in a table of predictions.

        Args:
            outputs: (B, width).

        Returns:
            Column -> (B,). A class of several is not among them: it is that of the largest probability, also after
            predictions were averaged.
        """
        name, kind = self.column.name, self.column.type
        outputs = outputs.detach().double().cpu()
        if kind is TargetType.BINARY:
            found = {name: outputs[:, 0].sigmoid()}
        elif kind in (TargetType.MULTICLASS, TargetType.ORDINAL):
            chances = outputs.softmax(1) if kind is TargetType.MULTICLASS else _class_chances(outputs)
            found = {f"{name}={label}": chances[:, at] for at, label in enumerate(self.column.classes)}
        elif kind is TargetType.CONTINUOUS:
            found = {name: outputs[:, 0] * self.deviation + self.mean}
        elif self.cox:
            relative = outputs[:, 0].exp()
            at = {f"{name}@{edge:g}": (-hazard * relative).exp() for edge, hazard in zip(self.edges, self.baseline)}
            found = {name: outputs[:, 0], **at}
        else:
            passed = step_probabilities(outputs)[1]
            at = {f"{name}@{edge:g}": passed[:, number] for number, edge in enumerate(self.edges)}
            found = {name: 1 - passed.mean(1), **at}
        return {key: value.numpy() for key, value in found.items()}

    def weights_of_contributions(self, outputs: Tensor) -> Tensor:
        """Return how much each number of a case, (width,), counts in a map of what speaks for its prediction.

        For the positive class, the predicted one of several, a high class of an ordinal target, a large value in its
        unit, or an early event.
        """
        kind = self.column.type
        if kind is TargetType.MULTICLASS:
            return functional.one_hot(outputs.argmax(), self.width).to(outputs)
        if kind is TargetType.CONTINUOUS:
            return outputs.new_full((1,), self.deviation)
        return outputs.new_full((self.width,), (-1 if kind is TargetType.ORDINAL else 1) / self.width)

    # --- files --------------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """Return it in plain types, for a checkpoint."""
        plain = asdict(self)
        column = plain.pop("column")
        lists = {name: list(plain[name]) for name in ("weights", "edges", "baseline")}
        return {**plain, **lists, **column, "type": str(self.column.type), "classes": list(self.column.classes)}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "TargetOutput":
        """Return what `as_dict` gave, of the shape in `ENTRY_SHAPE`; ValueError where no output can be made of it."""
        column = TargetColumn(entry["name"], TargetType(entry["type"]), tuple(entry["classes"]), entry["unit"])
        numbers: Any = {name: entry[name] for name in ("known", "mean", "deviation", "cox")}
        lists: Any = {name: tuple(entry.get(name, ())) for name in ("weights", "edges", "baseline")}
        if entry["cox"] and len(lists["baseline"]) != len(lists["edges"]):
            raise ValueError(f"{column.name} has a baseline of {len(lists['baseline'])} times")
        return cls(column=column, **lists, **numbers)


def _class_chances(outputs: Tensor) -> Tensor:
    stopping, passed = step_probabilities(outputs)
    return torch.cat([stopping, passed[:, -1:]], 1)


def split_outputs(outputs: Sequence[TargetOutput], rows: Tensor) -> list[Tensor]:
    """Return the numbers of each target, (..., width), from those of all, (..., sum of widths)."""
    return list(rows.split([output.width for output in outputs], -1))


def losses_of(
    outputs: Sequence[TargetOutput], rows: Tensor, truth: Sequence[Tensor], *, smoothing: float = 0.0
) -> dict[str, Tensor]:
    """Return the loss of each target by its name.

    Args:
        outputs: the targets.
        rows: outputs of the network, (B, sum of widths).
        truth: of each target (B, 1), or (B, 2) for survival; NaN is missing.
        smoothing: as of `TargetOutput.loss`.
    """
    found: dict[str, Tensor] = {}
    for output, part, values in zip(outputs, split_outputs(outputs, rows.float()), truth, strict=True):
        if output.cox:
            known = ~values.isnan().any(1)
            found[output.column.name] = cox_loss(part[known, 0], *values[known].unbind(1))
        else:
            found[output.column.name] = output.loss(part, values, smoothing=smoothing)
    return found


@dataclass(frozen=True)
class Member:
    """What one network of an ensemble gives.

    Attributes:
        outputs: its targets, with the numbers of its own training cases.
        rows: outputs of the network by case.
    """

    outputs: Sequence[TargetOutput]
    rows: Mapping[str, Tensor]

    def columns(self, cases: Sequence[str]) -> dict[str, Numbers]:
        """Return its columns of a table of predictions, the names of classes aside."""
        parts = split_outputs(self.outputs, torch.stack([self.rows[case] for case in cases]))
        tables = [output.predicted(part) for output, part in zip(self.outputs, parts, strict=True)]
        return {key: values for table in tables for key, values in table.items()}


def table_of(
    members: Sequence[Member], patients: Mapping[str, str], *, clips: Mapping[str, int] | None = None
) -> Predictions:
    """Return the table of predictions.

    Args:
        members: networks for the same targets; probabilities, values and risks of several are averaged, each by the
            numbers of its own training cases, and the table gets their standard deviation. Survival is averaged at
            times that all know.
        patients: case to patient; a case that it does not know counts as a patient.
        clips: of runs, case to the number of clips that its row is the mean of.
    """
    cases = sorted(members[0].rows)
    tables = at_common_times([member.columns(cases) for member in members])
    columns: dict[str, NDArray[Any]] = {} if clips is None else {CLIPS: np.array([clips[case] for case in cases])}
    for output in members[0].outputs:
        name = output.column.name
        own = [key for key in tables[0] if key == name or key.startswith((f"{name}=", f"{name}@"))]
        columns |= _joined(output, [{key: table[key] for key in own} for table in tables])
    return Predictions(tuple(cases), tuple(patients.get(case, case) for case in cases), columns)


def _joined(output: TargetOutput, members: Sequence[Mapping[str, Numbers]]) -> dict[str, NDArray[Any]]:
    """Return the columns of one target as the mean over the members of an ensemble."""
    name, column = output.column.name, output.column
    stacked = {key: np.stack([member[key] for member in members]) for key in members[0]}
    means = {key: values.mean(0) for key, values in stacked.items()}
    if name in means:
        spread = stacked[name].std(0)
        chosen: dict[str, NDArray[Any]] = {}
    else:
        chances = np.stack([means[f"{name}={label}"] for label in column.classes])
        best = chances.argmax(0)
        each = np.stack([stacked[f"{name}={label}"] for label in column.classes]).std(1)
        spread = np.take_along_axis(each, best[None], 0)[0]
        chosen = {name: np.array(column.classes)[best]}
    return {**chosen, **means, **({f"{name}{SPREAD}": spread} if len(members) > 1 else {})}


def outputs_of(
    targets: Targets,
    names: Sequence[str],
    cases: Sequence[str],
    settings: SubjectSettings,
    *,
    by_patient: bool = False,
) -> list[TargetOutput]:
    """Return the outputs of a network for targets, as the values of its training cases ask.

    Args:
        targets: targets of the data set.
        names: those to learn.
        cases: training cases.
        settings: weights of classes, and the kind of survival.
        by_patient: take mean and deviation of a number over patients, each with the mean of his or her cases, and the
            intervals of a survival from its patients.

    Raises:
        InputError: nothing is known of a target, or it does not vary.
    """
    patients = [targets.patients.get(case, case) for case in cases] if by_patient else list(cases)
    return [_output_of(targets.columns[name], targets.values(name, cases), settings, patients) for name in names]


def _output_of(
    column: TargetColumn, values: Numbers, settings: SubjectSettings, patients: Sequence[str]
) -> TargetOutput:
    there = ~np.isnan(values).any(1)
    present = values[there]
    if not len(present):
        raise InputError(
            f"no training case of this fold has a value of the target {column.name}: install its values with "
            "`bdfm targets`, or make the splits anew with `bdfm splits --target`"
        )
    known, kind = len(present) / len(values), column.type
    if kind.has_classes:
        return TargetOutput(column=column, known=known, weights=_class_weights(column, present, settings))
    if kind is TargetType.CONTINUOUS:
        return _continuous(column, _of_patients(present[:, 0], np.array(patients)[there]), known)
    return _survival(column, _each_once(present, np.array(patients)[there]), known, settings)


def _class_weights(column: TargetColumn, present: Numbers, settings: SubjectSettings) -> tuple[float, ...]:
    counts = np.bincount(present[:, 0].astype(int), minlength=len(column.classes))
    absent = [label for label, count in zip(column.classes, counts, strict=True) if not count]
    if (counts > 0).sum() < 2:
        raise InputError(
            f"all training cases of this fold have the same {column.name}, {column.classes[int(counts.argmax())]}: "
            "make the splits anew with `bdfm splits --target`"
        )
    if absent:
        raise InputError(
            f"no training case of this fold has the {column.name} {', '.join(absent)}: make the splits anew with "
            "`bdfm splits --target`, or leave the class out with `bdfm targets`"
        )
    if settings.class_weights == "none":
        return ()
    return tuple(float(len(present) / (len(counts) * count)) for count in counts)


def _of_patients(values: Numbers, patients: NDArray[Any]) -> Numbers:
    """Return the mean value of each patient, in the order in which they come."""
    return np.array([values[patients == patient].mean() for patient in dict.fromkeys(patients.tolist())])


def _each_once(values: Numbers, patients: NDArray[Any]) -> Numbers:
    """Return the values of each patient once, whatever the number of his or her cases that have them."""
    rows = {(patient, *row): at for at, (patient, row) in enumerate(zip(patients.tolist(), values.tolist()))}
    return values[sorted(rows.values())]


def _continuous(column: TargetColumn, values: Numbers, known: float) -> TargetOutput:
    deviation = float(values.std())
    if not deviation > 0:
        raise InputError(
            f"all training cases of this fold have the same {column.name}, {values[0]:g}: a regression needs values "
            "that differ"
        )
    return TargetOutput(column=column, known=known, mean=float(values.mean()), deviation=deviation)


def _survival(column: TargetColumn, present: Numbers, known: float, settings: SubjectSettings) -> TargetOutput:
    times = present[present[:, 1] > 0, 0]
    if not len(times):
        raise InputError(
            f"no training case of this fold has an event of the target {column.name}: make the splits anew with "
            "`bdfm splits --target`"
        )
    if settings.survival_loss == "cox":
        return TargetOutput(column=column, known=known, cox=True)
    return TargetOutput(column=column, known=known, edges=_event_times(times, settings.survival_bins))


def _event_times(times: Numbers, count: int) -> tuple[float, ...]:
    """Return at most so many times with equally many events between them, the last event's the last."""
    edges = np.unique(np.quantile(times, np.linspace(0, 1, count + 1)[1:], method="higher"))
    return tuple(float(edge) for edge in edges if edge > 0)


def same_task(first: Any, second: Any) -> bool:
    """Return whether two checkpoints tell one task, baselines aside, which are known once a training has ended."""
    return not fault_of(first, ENTRY_SHAPE) and _without_baselines(first) == _without_baselines(second)


def _without_baselines(entry: Mapping[str, Any]) -> dict[str, Any]:
    targets = [{**each, "baseline": [], **({"edges": []} if each["cox"] else {})} for each in entry["targets"]]
    return {"head": "linear", **entry, "targets": targets}
