"""Runs that are stopped at any step go on as if nothing had been; what can go wrong on the way ends in a sentence."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain, nnUNetTrainerSimMIM
from bdfm_nnunet.training import run
from bdfm_nnunet.training.signals import TrainingPaused
from tests.conftest import Prepared, leave_out_figures
from tests.limits import largest_file
from tests.training.trainings import checkpoint, curves, make_trainer

LENGTH = {"training.epochs": 2, "training.iterations_per_epoch": 4, "training.save_every": 5}
Hook = Callable[[Any], None]


def _make(prepared: Prepared, variant: str, kind: type = nnUNetTrainerBDFMPretrain, **settings: Any) -> Any:
    dataset = prepared.labelled if kind is nnUNetTrainerBDFM else prepared.unlabelled
    return make_trainer(kind, prepared, dataset, variant, LENGTH | settings)


def _at(trainer: Any, step: int, action: Hook) -> Any:
    """The trainer, with something that happens at the end of a step."""
    train_step = trainer.train_step

    def stepping(batch: Any) -> Any:
        terms = train_step(batch)
        if trainer.run.step_number == step:
            action(trainer)
        return terms

    trainer.train_step = stepping
    return trainer


def _send(number: int = signal.SIGTERM) -> Hook:
    return lambda trainer: os.kill(os.getpid(), number)


def _weights(trainer: Any) -> dict[str, torch.Tensor]:
    return read_checkpoint(checkpoint(trainer)).weights


def _log(trainer: Any) -> str:
    return "".join(path.read_text() for path in sorted(Path(trainer.output_folder).glob("training_log*.txt")))


@pytest.fixture(scope="module")
def undisturbed(prepared_of_module: Prepared) -> dict[type, Any]:
    """A finished run of each trainer."""
    runs = {kind: _make(prepared_of_module, "whole", kind) for kind in (nnUNetTrainerBDFMPretrain, nnUNetTrainerBDFM)}
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out_figures(monkeypatch)
        for trainer in runs.values():
            trainer.run_training()
    return runs


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (signal.SIGTERM, nnUNetTrainerBDFMPretrain),
        (signal.SIGUSR1, nnUNetTrainerBDFM),
        (signal.SIGINT, nnUNetTrainerBDFMPretrain),
    ],
)
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(
    number: int, kind: type, prepared: Prepared, undisturbed: dict[type, Any]
) -> None:
    first = _at(_make(prepared, "stopped", kind), 6, _send(number))
    with pytest.raises(TrainingPaused) as paused:
        first.run_training()
    assert paused.value.code == (130 if number == signal.SIGINT else 75)
    assert "Training paused after step 2 of epoch 2" in _log(first) and not checkpoint(first).exists()
    assert len(read_checkpoint(checkpoint(first, "latest")).progress["processes"][0]["outputs"]) == 2
    second = _make(prepared, "stopped", kind)
    second.load_checkpoint(str(checkpoint(second, "latest")))
    steps: list[int] = []
    _at(second, 7, lambda trainer: steps.append(trainer.run.iteration))
    second.run_training()
    assert steps == [3]
    assert curves(second) == curves(undisturbed[kind])
    ours, theirs = _weights(second), _weights(undisturbed[kind])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not checkpoint(second, "latest").exists() and not checkpoint(second, "previous").exists()


def test_a_signal_during_the_validation(prepared: Prepared, undisturbed: dict[type, Any]) -> None:
    first = _make(prepared, "validating")
    validation_step = first.validation_step

    def stopping(batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return validation_step(batch)

    first.validation_step = stopping
    with pytest.raises(TrainingPaused):
        first.run_training()
    second = _make(prepared, "validating")
    second.load_checkpoint(str(checkpoint(second, "latest")))
    assert second.current_epoch == 0
    second.run_training()
    assert curves(second) == curves(undisturbed[nnUNetTrainerBDFMPretrain])


def test_checkpoints_every_so_often_and_the_one_before(prepared: Prepared) -> None:
    """An interval of no time at all: a checkpoint after each step."""
    trainer = _make(prepared, "often", **{"training.checkpoint_minutes": 1e-9})
    seen: list[tuple[int, int]] = []
    save = trainer.save_checkpoint

    def saving(filename: str) -> None:
        save(filename)
        folder = Path(trainer.output_folder)
        places = [read_checkpoint(folder / f"checkpoint_{name}.pth").progress for name in ("latest", "previous")
                  if (folder / f"checkpoint_{name}.pth").exists()]  # fmt: skip
        seen.append(tuple(place["iteration"] for place in places if place))

    trainer.save_checkpoint = saving
    _at(trainer, 4, _send())
    with pytest.raises(TrainingPaused):
        trainer.run_training()
    assert seen == [(1,), (2, 1), (3, 2), (4, 3)]


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: str, prepared: Prepared, undisturbed: dict[type, Any]
) -> None:
    first = _at(_make(prepared, f"damage_{damage}", **{"training.checkpoint_minutes": 1e-9}), 3, _send())
    with pytest.raises(TrainingPaused):
        first.run_training()
    latest = checkpoint(first, "latest")
    if damage == "cut":
        latest.write_bytes(latest.read_bytes()[:5000])
    else:
        latest.unlink()
    second = _make(prepared, f"damage_{damage}")
    second.load_checkpoint(str(latest))
    assert "WARNING" in _log(second) and "continuing from checkpoint_previous.pth" in _log(second)
    assert second.run.midway["iteration"] == 2
    second.run_training()
    assert curves(second) == curves(undisturbed[nnUNetTrainerBDFMPretrain])
    checkpoint(second).write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"checkpoint_final\.pth"):
        _make(prepared, f"damage_{damage}").load_checkpoint(str(checkpoint(second)))


def test_the_time_is_up(prepared: Prepared) -> None:
    trainer = _make(prepared, "hours", **{"training.max_hours": 1e-6})
    with pytest.raises(TrainingPaused) as paused:
        trainer.run_training()
    assert paused.value.code == 75
    assert "step 1 of epoch 1, because the time of max_hours is up; checkpoint_latest.pth is saved" in _log(trainer)
    assert checkpoint(trainer, "latest").is_file()


def test_paused_without_checkpoints(prepared: Prepared) -> None:
    trainer = _at(_make(prepared, "unsaved"), 1, _send())
    trainer.disable_checkpointing = True
    with pytest.raises(TrainingPaused):
        trainer.run_training()
    assert "nothing is saved" in _log(trainer) and not list(Path(trainer.output_folder).glob("*.pth"))


@pytest.mark.parametrize("kind", [nnUNetTrainerBDFMPretrain, nnUNetTrainerBDFM])
def test_the_best_checkpoint_after_a_kill_is_what_it_would_have_been(kind: type, prepared: Prepared) -> None:
    """The kill falls right after checkpoint_latest.pth of an epoch that is the best so far."""
    first = _make(prepared, "killed", kind, **{"training.save_every": 1})
    save = first.save_checkpoint

    def killed(filename: str) -> None:
        save(filename)
        if filename.endswith("latest.pth"):
            raise KeyboardInterrupt

    first.save_checkpoint = killed
    with pytest.raises(KeyboardInterrupt):
        first.run_training()
    best, second = _make(prepared, "killed", kind), _make(prepared, "killed", kind)
    best.load_checkpoint(str(checkpoint(first, "best")))
    second.load_checkpoint(str(checkpoint(first, "latest")))
    assert second.current_epoch == best.current_epoch == 1
    assert second._best_ema == best._best_ema is not None
    second.save_if_best(second._best_ema - 1)
    best.load_checkpoint(str(checkpoint(first, "best")))
    assert best._best_ema == second._best_ema


def test_one_training_at_a_time_in_a_folder(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LOCK_SECONDS", 0.1)
    refusals: list[str] = []

    def second(trainer: Any) -> None:
        with pytest.raises(InputError, match=r"another training is at work in .*fold_0: wait for it to end") as raised:
            _make(prepared, "alone").run_training()
        refusals.append(str(raised.value))

    first = _at(_make(prepared, "alone", **{"training.epochs": 1}), 2, second)
    first.run_training()
    assert len(refusals) == 1 and checkpoint(first).is_file()
    _make(prepared, "alone", **{"training.epochs": 1}).run_training()


def test_what_killed_trainings_left_is_swept(prepared: Prepared) -> None:
    trainer = _make(prepared, "swept", **{"training.epochs": 1})
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    folder = Path(trainer.output_folder)
    left = [
        folder / f".{gone.pid}.{name}" for name in ("partial.checkpoint_latest.pth", "link.checkpoint_previous.pth")
    ]
    living = folder / f".{os.getpid()}.partial.checkpoint_latest.pth"
    for path in (*left, living):
        path.touch()
    trainer.run_training()
    assert not any(path.exists() for path in left) and living.exists()


def test_results_that_cannot_be_written_are_a_sentence(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    _make(prepared, "read_only")  # the plans have the variant
    monkeypatch.setenv("nnUNet_results", "/proc/results")
    with pytest.raises(InputError, match=r"cannot write /proc/results.* \(.*\): "):
        _make(prepared, "read_only")


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_cases(poison: str, prepared: Prepared) -> None:
    trainer = _make(prepared, f"broken_{poison}", **{"training.checkpoint_minutes": 1e-9})
    losses_of, keys = trainer.task.losses, []

    def poisoned(batch: Any) -> Any:
        keys.append(batch["keys"])
        terms = losses_of(batch)
        if trainer.run.step_number == 3:
            terms["loss"] = terms["loss"] * torch.nan if poison == "loss" else _with_bad_gradient(terms["loss"])
        return terms

    trainer.task.losses = poisoned
    with pytest.raises(InputError, match=r"not finite in step 3, .*nonfinite_batch\.json names the cases"):
        trainer.run_training()
    (found,) = json.loads((Path(trainer.output_folder) / "nonfinite_batch.json").read_text())
    assert (found["rank"], found["step"], found["keys"]) == (0, 3, keys[2])
    assert found["terms"]["loss" if poison == "loss" else "gradient_norm"] == "nan"
    kept = read_checkpoint(checkpoint(trainer, "latest"))
    assert kept.progress["iteration"] == 2
    assert all(tensor.isfinite().all() for tensor in kept.weights.values() if tensor.is_floating_point())


def _with_bad_gradient(loss: torch.Tensor) -> torch.Tensor:
    copy = loss.clone()
    copy.register_hook(lambda gradient: gradient * torch.nan)
    return copy


@pytest.mark.parametrize("kind", [nnUNetTrainerBDFMPretrain, nnUNetTrainerBDFM])
@pytest.mark.usefixtures("figures")
def test_a_full_disk_costs_a_warning_and_at_the_end_an_error(kind: type, prepared: Prepared) -> None:
    trainer = _make(prepared, "full", kind, **{"training.checkpoint_minutes": 1e-9, "training.save_every": 1})
    done: list[int] = []
    _at(trainer, 8, lambda trainer: done.append(1))
    with largest_file(100_000), pytest.raises(InputError, match=r"checkpoint_final\.pth.*continue with --c"):
        trainer.run_training()
    assert done and not list(Path(trainer.output_folder).glob("*.pth"))
    assert _log(trainer).count("WARNING: training goes on and tries again later") >= 8


def test_a_disk_with_room_again_is_written_to(prepared: Prepared, undisturbed: dict[type, Any]) -> None:
    trainer = _make(prepared, "room", **{"training.checkpoint_minutes": 1e-9})
    limit = largest_file(100_000)
    _at(trainer, 2, lambda trainer: limit.__enter__())
    inner = trainer.train_step

    def stepping(batch: Any) -> Any:
        if trainer.run.step_number == 3:
            limit.__exit__(None, None, None)
        return inner(batch)

    trainer.train_step = stepping
    trainer.run_training()
    assert "tries again later" in _log(trainer)
    assert curves(trainer) == curves(undisturbed[nnUNetTrainerBDFMPretrain])


def test_accumulation_changes_memory_and_not_the_result(prepared: Prepared) -> None:
    """Without dropped paths and with a token that does not start from the data, the curve is the same."""
    found = {}
    for accumulate in (1, 2, 3):
        settings = {"batch_size": 3, "training.accumulate": accumulate, "training.epochs": 1}
        trainer = _make(prepared, f"accumulate{accumulate}", nnUNetTrainerSimMIM, **settings)
        trainer.configuration_manager.configuration["architecture"]["arch_kwargs"]["drop_path_rate"] = 0.0
        sizes: list[int] = []
        losses_of = trainer.task.losses

        def counting(batch: Any, losses_of: Any = losses_of, sizes: list[int] = sizes) -> Any:
            sizes.append(len(batch["data"]))
            return losses_of(batch)

        trainer.task.losses = counting
        trainer.run_training()
        assert sizes[:accumulate] == {1: [3], 2: [2, 1], 3: [1, 1, 1]}[accumulate]
        found[accumulate] = curves(trainer)
    for parts in (2, 3):
        for name, values in found[1].items():
            assert found[parts][name] == pytest.approx(values, rel=1e-4), (name, parts)


def test_micro_batches_of_fine_tuning(prepared: Prepared) -> None:
    """The targets at several resolutions are cut with their images."""
    trainer = _make(prepared, "parts", nnUNetTrainerBDFM, **{"training.accumulate": 2, "training.epochs": 1})
    trainer.run_training()
    assert len(curves(trainer)["train_losses"]) == 1


def test_more_micro_batches_than_samples(prepared: Prepared) -> None:
    """In plans that were written by hand: `bdfm plan --variant` refuses them in the same sentence."""
    trainer = _make(prepared, "too_many", **{"training.accumulate": 2})
    plans = trainer.plans_manager.plans | {"continue_training": False}
    plans["configurations"]["too_many"]["training"]["accumulate"] = 9
    trainer = type(trainer)(plans, "too_many", 0, trainer.dataset_json, trainer.device)
    with pytest.raises(InputError, match=r"batch of 2 cannot be shared by 1 processes with training\.accumulate=9"):
        trainer.run_training()


# ----------------------------------------------------------------------------------------------------- compiling


def _no_backend(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no compiler was found here")


@pytest.mark.parametrize("kind", [nnUNetTrainerBDFMPretrain, nnUNetTrainerBDFM])
def test_a_compiler_that_fails_costs_a_warning(
    kind: type, prepared: Prepared, undisturbed: dict[type, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("nnUNet_compile")
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_(module, backend=_no_backend))
    trainer = _make(prepared, "uncompiled", kind, **{"training.compile": "on"})
    trainer.run_training()
    assert "WARNING: torch.compile failed, so training goes on without it" in _log(trainer)
    assert "no compiler was found here" in _log(trainer)
    assert curves(trainer) == curves(undisturbed[kind])


@pytest.mark.parametrize(
    ("setting", "variable", "calls"),
    [
        ("on", None, True),
        ("auto", None, False),
        ("off", None, False),
        ("on", "f", False),
        ("on", "true", True),
        ("auto", "1", False),
    ],
)
def test_who_compiles(
    setting: str, variable: str | None, calls: bool, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("nnUNet_compile")
    if variable:
        monkeypatch.setenv("nnUNet_compile", variable)
    trainer = _make(prepared, "compiles", **{"training.compile": setting})
    assert trainer._do_i_compile() is calls
    trainer.device = torch.device("cuda", 0)
    assert trainer._do_i_compile() is (setting != "off" and variable != "f")
