"""What networks of subjects give for each kind of target: losses, tables and several processes."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_scores import score_target
from bdfm_nnunet.losses.joined_batches import gather_rows
from bdfm_nnunet.losses.subject_losses import cox_loss
from bdfm_nnunet.settings import SubjectSettings
from bdfm_nnunet.targets import TargetColumn, Targets, TargetType
from bdfm_nnunet.tasks.subject_level import Survival
from bdfm_nnunet.tasks.subject_outputs import Member, TargetOutput, outputs_of, same_task, split_outputs, table_of
from bdfm_nnunet.training.gradients import add_gradients, micro_batches
from tests.forking import run_together

COLUMNS = {
    "idh": TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant")),
    "site": TargetColumn("site", TargetType.MULTICLASS, ("A", "B", "C")),
    "grade": TargetColumn("grade", TargetType.ORDINAL, ("2", "3", "4")),
    "age": TargetColumn("age", TargetType.CONTINUOUS, unit="years"),
    "death": TargetColumn("death", TargetType.SURVIVAL, unit="days"),
}
CASES = [f"case{number}" for number in range(8)]


def _targets() -> Targets:
    rng = np.random.default_rng(5)
    numbers = {
        "idh": np.array([0, 1, 0, 0, 1, 0, np.nan, 0.0]),
        "site": np.array([0, 1, 2, 2, 1, 0, np.nan, 2.0]),
        "grade": np.array([2, 1, 0, 0, 1, 2, 2, np.nan]),
        "age": np.array([30, 40, np.nan, 60, 70, 80, 35, 45.0]),
    }
    table = {name: values[:, None] for name, values in numbers.items()}
    table["death"] = np.stack([rng.uniform(10, 900, 8), np.array([1, 1, 0, 1, 1, 0, 1, 1.0])], 1)
    return Targets(COLUMNS, tuple(CASES), {case: case for case in CASES}, {}, table)


def _outputs(**settings: Any) -> list[TargetOutput]:
    return outputs_of(_targets(), list(COLUMNS), CASES, SubjectSettings(**settings))


def _truth() -> dict[str, Tensor]:
    return {name: torch.tensor(_targets().values(name, CASES), dtype=torch.float32) for name in COLUMNS}


def _predictions(output: TargetOutput, seed: int = 0) -> Tensor:
    return torch.randn(len(CASES), output.width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", COLUMNS)
def test_missing_values_have_no_gradient_and_the_others_have(name: str) -> None:
    (output,) = (each for each in _outputs() if each.column.name == name)
    numbers, truth = _predictions(output).requires_grad_(), _truth()[name]
    output.loss(numbers, truth).backward()
    assert numbers.grad is not None
    missing = truth.isnan().any(1)
    assert (numbers.grad[missing] == 0).all() and (numbers.grad[~missing].abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", COLUMNS)
def test_micro_batches_add_up_to_the_batch(name: str) -> None:
    (output,) = (each for each in _outputs(class_weights="balanced") if each.column.name == name)
    numbers, truth = _predictions(output), _truth()[name]
    whole = output.loss(numbers, truth)
    parts = [output.loss(numbers[part], truth[part]) * 4 for part in (slice(0, 4), slice(4, 8))]
    assert torch.allclose(whole, sum(parts) / 8)  # type: ignore[arg-type]


def test_the_mean_over_known_cases_is_the_loss_of_a_batch_with_as_many_missing() -> None:
    (output,) = (each for each in _outputs() if each.column.name == "idh")
    numbers, truth = _predictions(output), _truth()["idh"]
    known = ~truth.isnan()[:, 0]
    plain = torch.nn.functional.binary_cross_entropy_with_logits(numbers[known, 0], truth[known, 0])
    assert torch.allclose(output.loss(numbers, truth), plain)


def test_balanced_classes_weigh_alike() -> None:
    (output,) = (each for each in _outputs(class_weights="balanced") if each.column.name == "idh")
    assert output.weights == (7 / (2 * 5), 7 / (2 * 2))


def test_values_come_back_in_their_unit() -> None:
    (output,) = (each for each in _outputs() if each.column.name == "age")
    ages = _targets().values("age", CASES)[:, 0]
    assert output.mean == pytest.approx(np.nanmean(ages)) and output.deviation == pytest.approx(np.nanstd(ages))
    standardised = torch.tensor((ages - output.mean) / output.deviation)[:, None]
    assert output.predicted(standardised)["age"][[0, 1]].tolist() == pytest.approx([30, 40])


def test_probabilities_of_classes_and_of_survival() -> None:
    for output in _outputs():
        found = output.predicted(_predictions(output, seed=3))
        name = output.column.name
        if output.column.type in (TargetType.MULTICLASS, TargetType.ORDINAL):
            assert np.allclose(sum(found[f"{name}={label}"] for label in output.column.classes), 1)
        if output.column.type is TargetType.SURVIVAL:
            curves = np.stack([values for key, values in found.items() if "@" in key])
            assert (np.diff(curves, axis=0) <= 0).all() and ((curves >= 0) & (curves <= 1)).all()
            early = np.argmax(found[name])
            assert curves[:, early].mean() == curves.mean(0).min()


def test_a_checkpoint_holds_all_of_it() -> None:
    for output in _outputs(class_weights="balanced"):
        assert TargetOutput.from_dict(output.as_dict()) == output


def test_cox_tells_survival_at_times_of_events_once_its_baseline_is_known() -> None:
    settings = SubjectSettings(survival_loss="cox", survival_bins=3)
    (output,) = outputs_of(_targets(), ["death"], CASES, settings)
    truth, risks = _truth()["death"], _predictions(output)
    truth[4] = math.nan  # of an unknown case nothing is used
    assert list(output.predicted(risks)) == ["death"]
    ended = output.with_baseline(risks[:, 0], truth, settings)
    known = [at for at in range(8) if at != 4]
    events = sorted(float(truth[at, 0]) for at in known if truth[at, 1])
    assert len(ended.edges) == 3 and set(ended.edges) <= set(events) and ended.edges[-1] == events[-1]
    found = ended.predicted(risks)
    assert np.array_equal(found["death"], output.predicted(risks)["death"]) and ended.width == 1
    for edge in ended.edges:
        hazard = sum(
            1 / sum(math.exp(risks[other, 0]) for other in known if truth[other, 0] >= truth[at, 0])
            for at in known
            if truth[at, 1] and truth[at, 0] <= edge
        )
        expected = [math.exp(-hazard * math.exp(risk)) for risk in risks[:, 0].tolist()]
        assert found[f"death@{edge:g}"].tolist() == pytest.approx(expected, rel=1e-6)
    columns = {name: values[known] for name, values in found.items()}
    scores = score_target(ended.column, truth[known].double().numpy(), columns, patients=known, resamples=20)
    assert scores["integrated_brier"]["value"] is not None
    assert TargetOutput.from_dict(ended.as_dict()) == ended
    with pytest.raises(ValueError, match="a baseline of 0 times"):
        TargetOutput.from_dict({**ended.as_dict(), "baseline": []})


def test_a_baseline_makes_no_other_task() -> None:
    settings = SubjectSettings(survival_loss="cox")
    (output,) = outputs_of(_targets(), ["death"], CASES, settings)
    ended = output.with_baseline(_predictions(output)[:, 0], _truth()["death"], settings)
    begun, after = (
        {"targets": [each.as_dict()], "crop": [8, 8, 8], "overlap": 0.0, "pooling": "mean"} for each in (output, ended)
    )
    assert same_task(after, begun) and same_task(begun, after)
    del begun["targets"][0]["baseline"]  # as older versions write it
    assert same_task(begun, after) and not same_task({**after, "crop": [8, 8, 9]}, begun)
    assert not same_task(None, begun) and not same_task(
        {**after, "targets": [{**after["targets"][0], "unit": "y"}]}, begun
    )
    assert TargetOutput.from_dict(begun["targets"][0]) == output
    # versions without heads had the linear one
    assert same_task({**after, "head": "linear"}, begun) and not same_task({**after, "head": "v1"}, begun)


PATIENTS = dict(zip(CASES, ["a", "a", "a", "a", "b", "b", "c", "d"], strict=True))
DEATHS = np.array([100.0, 100, 100, 100, 200, 200, 300, 400])
"""Of runs of four subjects."""


def _deaths() -> Targets:
    table = np.stack([DEATHS, np.ones(8)], 1)
    return Targets({"death": COLUMNS["death"]}, tuple(CASES), PATIENTS, {}, {"death": table})


def test_intervals_of_survival_hold_as_many_subjects_whatever_the_number_of_their_runs() -> None:
    settings = SubjectSettings(survival_bins=2)
    (of_subjects,) = outputs_of(_deaths(), ["death"], CASES, settings, by_patient=True)
    (of_cases,) = outputs_of(_deaths(), ["death"], CASES, settings)
    assert of_subjects.edges == (300, 400) and of_cases.edges == (200, 400)
    assert of_subjects.known == 1


def test_the_baseline_of_coxs_loss_counts_subjects_by_all_their_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {case: torch.randn(1 + at % 3, 1) for at, case in enumerate(CASES)}
    settings = SubjectSettings(survival_loss="cox")
    task: Any = Survival.__new__(Survival)
    monkeypatch.setattr(Survival, "_names", ["death"])
    task.trainer = SimpleNamespace(local_rank=1, device="cpu")
    task.finetuning, task.targets, task.outputs = settings, _deaths(), outputs_of(_deaths(), ["death"], CASES, settings)
    task.datasets = (SimpleNamespace(identifiers=CASES), None)
    task.shown = SimpleNamespace(predict=lambda *_: rows, joins_subjects=True)
    task._keep_baselines(Path("unused.pth"))
    (ended,) = task.outputs
    risks = [float(torch.cat([rows[case] for case in CASES if PATIENTS[case] == subject]).mean()) for subject in "abcd"]
    at_risk = np.exp(risks)[::-1].cumsum()[::-1]
    assert ended.edges == (200, 300, 400) and ended.baseline == pytest.approx(np.cumsum(1 / at_risk)[1:], rel=1e-5)


def test_numbers_of_runs_are_standardised_over_subjects() -> None:
    """Four runs of one subject weigh as one; two of another at different ages as their mean."""
    patients = dict(zip(CASES, ["a", "a", "a", "a", "b", "b", "c", "d"], strict=True))
    ages = np.array([30, 30, 30, 30, 50, 60, np.nan, 80.0])[:, None]
    targets = Targets({"age": COLUMNS["age"]}, tuple(CASES), patients, {}, {"age": ages})
    (output,) = outputs_of(targets, ["age"], CASES, SubjectSettings(), by_patient=True)
    assert output.mean == pytest.approx(np.mean([30, 55, 80])) and output.known == 7 / 8
    assert output.deviation == pytest.approx(np.std([30, 55, 80]))
    (by_case,) = outputs_of(targets, ["age"], CASES, SubjectSettings())
    assert by_case.mean == pytest.approx(np.nanmean(ages))


def _member(outputs: list[TargetOutput], seed: int) -> Member:
    parts = [_predictions(output, seed) for output in outputs]
    return Member(outputs, {case: torch.cat([part[at] for part in parts]) for at, case in enumerate(CASES)})


def test_an_ensemble_averages_probabilities_and_tells_its_spread() -> None:
    members = [_member(_outputs(), seed) for seed in (1, 2, 3)]
    alone = [table_of([member], {}) for member in members]
    joined = table_of(members, {"case0": "P1"})
    assert joined.patients[:2] == ("P1", "case1")
    stacked = np.stack([table.columns["idh"] for table in alone])
    assert np.allclose(joined.columns["idh"], stacked.mean(0))
    assert np.allclose(joined.columns["idh spread"], stacked.std(0)) and stacked.std(0).min() > 0
    chances = np.stack([joined.columns[f"site={label}"] for label in "ABC"])
    assert joined.columns["site"].tolist() == ["ABC"[best] for best in chances.argmax(0)]
    assert "idh spread" not in alone[0].columns


def test_each_fold_is_read_by_the_numbers_of_its_own_training_cases() -> None:
    """Mean, deviation and intervals of a fold are those of its cases, and differ from those of the next."""
    parts = [outputs_of(_targets(), ["age", "death"], cases, SubjectSettings()) for cases in (CASES[:6], CASES[2:])]
    edges = [[float(f"{edge:g}") for edge in outputs[1].edges] for outputs in parts]
    assert parts[0][0].mean != parts[1][0].mean and edges[0] != edges[1]
    members = [_member(outputs, seed) for seed, outputs in enumerate(parts)]
    alone, joined = [table_of([member], {}) for member in members], table_of(members, {})
    assert np.array_equal(joined.columns["age"], np.mean([table.columns["age"] for table in alone], axis=0))
    found = {float(time): values for name, values in joined.columns.items() if (time := name.partition("@")[2])}
    last = min(own[-1] for own in edges)
    assert set(found) == {edge for own in edges for edge in own if edge <= last}
    for time, values in found.items():
        each = []
        for own, table in zip(edges, alone, strict=True):
            curves = np.stack([np.ones(len(CASES)), *(table.columns[f"death@{edge:g}"] for edge in own)], axis=1)
            each.append([np.interp(time, [0.0, *own], curve) for curve in curves])
        assert np.allclose(values, np.mean(each, 0))


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("idh", [0.0] * 8, "same idh, wildtype"),
        ("idh", [math.nan] * 8, "no training case of this fold has a value"),
        ("site", [0.0, 1.0] * 4, "has the site C"),
        ("age", [50.0] * 8, "same age, 50"),
    ],
)
def test_targets_without_anything_to_learn_are_one_sentence(name: str, values: list[float], expected: str) -> None:
    targets = _targets()
    targets.numbers[name][:, 0] = values
    with pytest.raises(InputError, match=expected):
        outputs_of(targets, [name], CASES, SubjectSettings())


def test_without_an_event_there_is_no_survival_to_learn() -> None:
    targets = _targets()
    targets.numbers["death"][:, 1] = 0
    for loss in ("cox", "discrete"):
        with pytest.raises(InputError, match="no training case of this fold has an event"):
            outputs_of(targets, ["death"], CASES, SubjectSettings(survival_loss=loss))  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------- several processes


class _Heads(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layer = torch.nn.Linear(6, width)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layer(images)
        return out


def _loss(network: Any, batch: dict[str, Any], outputs: list[TargetOutput]) -> dict[str, Tensor]:
    numbers, rows = network(batch["data"]), [CASES.index(case) for case in batch["keys"]]
    if outputs[0].cox:
        joined, truth = gather_rows(numbers)[0], gather_rows(_truth()["death"][rows])[0]
        return {"loss": cox_loss(joined[:, 0], *truth.unbind(1))}
    parts = split_outputs(outputs, numbers)
    each = [output.loss(part, _truth()[output.column.name][rows]) for output, part in zip(outputs, parts, strict=True)]
    return {"loss": torch.stack(each).mean()}


def _of(kind: str) -> list[TargetOutput]:
    if kind == "cox":
        return [each for each in _outputs(survival_loss="cox") if each.cox]
    return _outputs(class_weights="balanced")


def _gradients(network: Any, batch: dict[str, Any], kind: str, *, world: int, parts: int = 1) -> dict[str, Tensor]:
    outputs = _of(kind)
    losses = lambda part: _loss(network, part, outputs)  # noqa: E731
    add_gradients(network, micro_batches(batch, parts), losses, samples=len(CASES), world=world)
    return {name.removeprefix("module."): each.grad for name, each in network.named_parameters()}


def _batch(part: slice) -> dict[str, Any]:
    images = torch.randn(len(CASES), 6, generator=torch.Generator().manual_seed(8))
    return {"data": images[part], "keys": CASES[part]}


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    part = slice(0, 5) if rank == 0 else slice(5, 8)  # shares of different sizes
    found = {}
    for kind in ("all", "cox"):
        network = DistributedDataParallel(_Heads(sum(output.width for output in _of(kind))))
        found[kind] = _gradients(network, _batch(part), kind, world=2)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_have_the_gradient_of_the_joined_batch(tmp_path: Path) -> None:
    run_together(_process, 2, str(tmp_path))
    shared = torch.load(tmp_path / "0.pt", weights_only=True)
    for kind in ("all", "cox"):
        alone = _gradients(_Heads(sum(output.width for output in _of(kind))), _batch(slice(None)), kind, world=1)
        for name, gradient in alone.items():
            torch.testing.assert_close(shared[kind][name], gradient, rtol=1e-4, atol=1e-6, msg=f"{kind} {name}")
