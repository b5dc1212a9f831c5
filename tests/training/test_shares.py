"""What each of several processes takes of the batch; the processes themselves are started in test_torchrun.py."""

from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain
from bdfm_nnunet.training.process_group import ProcessGroup
from tests.conftest import Prepared
from tests.training.trainings import make_trainer


def _of(trainer: Any, rank: int, count: int) -> Any:
    trainer.processes = ProcessGroup(())
    trainer.processes.rank, trainer.processes.count = rank, count
    trainer.is_ddp = count > 1
    return trainer


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_make_up_the_batch_of_the_plans(count: int, prepared: Prepared) -> None:
    """As many samples, and as many of them centred on foreground, as one process would take."""
    settings = {"batch_size": 7, "training.oversample_foreground": 0.4}
    trainer = make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, "shares", settings)
    samples, centred = 0, 0
    for rank in range(count):
        _of(trainer, rank, count)._set_batch_size_and_oversample()
        size, share = trainer.batch_size, trainer.oversample_foreground_percent
        samples += size
        # how nnU-Net's loader counts
        centred += sum(place >= round(size * (1 - share)) for place in range(size))
    assert (samples, centred) == (7, sum(place >= round(7 * 0.6) for place in range(7)))


@pytest.mark.parametrize("count", [2, 3])
def test_masks_belong_to_the_batch(count: int, prepared: Prepared) -> None:
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "masks", {"batch_size": 4})
    trainer.initialize()
    images = torch.zeros(4, 1, 32, 32, 32)
    whole = trainer.task.prepare({"data": images})["drawn"]["mask"]
    parts = []
    for rank in range(count):
        _of(trainer, rank, count)
        parts.append(trainer.task.prepare({"data": images[trainer.share]})["drawn"]["mask"])
    assert torch.equal(torch.cat(parts), whole)


def test_only_rank_0_writes_and_speaks(prepared: Prepared, capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "quiet", {})
    trainer.local_rank = 1
    capsys.readouterr()
    trainer.print_to_log_file("nobody reads this")
    trainer.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    assert capsys.readouterr().out == "" and not list(tmp_path.glob("*.pth"))


def test_dice_over_the_batch_needs_equal_shares(prepared: Prepared) -> None:
    trainer = make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, "dice", {"batch_size": 3})
    trainer.configuration_manager.configuration["batch_dice"] = True
    assert trainer._build_loss() is not None
    with pytest.raises(InputError, match=r"batch_dice needs equal shares, but 2 processes"):
        _of(trainer, 0, 2)._build_loss()
