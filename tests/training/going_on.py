"""Runs of any trainer that are stopped or killed, and taken up."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.training.signals import TrainingPaused
from tests.training.trainings import checkpoint, curves


def stopped_and_continued(make: Callable[[], Any], *, step: int) -> Any:
    """A run that a signal ends after a step, continued with `--c` in a new trainer to its end."""
    first = make()
    train_step = first.train_step

    def stepping(batch: Any) -> Any:
        terms = train_step(batch)
        if first.run.step_number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return terms

    first.train_step = stepping
    with pytest.raises(TrainingPaused):
        first.run_training()
    assert not checkpoint(first).exists()
    return continued(make, done=step)


def killed(make: Callable[[], Any], *, step: int) -> Any:
    """A run that ends within a step and saves nothing more, as one that is killed."""
    trainer = make()
    train_step = trainer.train_step

    def stepping(batch: Any) -> Any:
        if trainer.run.step_number == step:
            raise KeyboardInterrupt
        return train_step(batch)

    trainer.train_step = stepping
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    return trainer


def continued(make: Callable[[], Any], *, done: int) -> Any:
    """A new trainer that goes on from checkpoint_latest.pth, which holds these steps, to the end."""
    trainer = make()
    trainer.load_checkpoint(str(checkpoint(trainer, "latest")))
    assert trainer.run.steps_done == done
    trainer.run_training()
    return trainer


def assert_same_run(ours: Any, theirs: Any) -> None:
    """The same curves and last weights, to the bit."""
    assert curves(ours) == curves(theirs)
    mine, other = (read_checkpoint(checkpoint(trainer)).weights for trainer in (ours, theirs))
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in other)
