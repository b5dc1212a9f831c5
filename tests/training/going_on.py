"""Runs of any trainer that are stopped by a signal and taken up."""

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
    second = make()
    second.load_checkpoint(str(checkpoint(second, "latest")))
    assert second.run.steps_done == step
    second.run_training()
    return second


def assert_same_run(ours: Any, theirs: Any) -> None:
    """The same curves and last weights, to the bit."""
    assert curves(ours) == curves(theirs)
    mine, other = (read_checkpoint(checkpoint(trainer)).weights for trainer in (ours, theirs))
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in other)
