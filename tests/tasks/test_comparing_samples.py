"""A training whose objective compares samples, by LARS: in micro-batches and after a stop it is the same."""

from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdfm_nnunet.losses import chance_level, nt_xent
from bdfm_nnunet.objectives.base import Monitored, Objective
from bdfm_nnunet.tasks.pretraining import Pretraining
from bdfm_nnunet.training.lars import LARS
from bdfm_nnunet.training.trainer import Trainer
from tests.conftest import Prepared
from tests.training.going_on import assert_same_run, stopped_and_continued
from tests.training.trainings import curves, make_trainer

SETTINGS = {
    "batch_size": 4, "training.epochs": 2, "training.iterations_per_epoch": 3, "training.optimizer": "lars",
    "training.workers": 0, "training.warmup_epochs": 0,
}  # fmt: skip


class Mirrored(Objective):
    """The views of a pair are an image and its mirror image."""

    compares_samples = True
    panels = MappingProxyType({"chance": {"chance": "chance"}})

    def __init__(self, view: Any, settings: Any = None, **options: Any) -> None:
        super().__init__(view, settings, **options)
        self.head = nn.Linear(view.channels[-1], 4)

    def draw(self, batch: int, spatial: Any, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"noise": torch.randn(batch, 1, *spatial, generator=generator)}

    def represent(self, images: Tensor, **drawn: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        views = torch.cat([images, images.flip(2) + drawn["noise"]])
        first, second = self.head(self.encoder(views)[-1].flatten(2).mean(2)).chunk(2)
        return {"first": first, "second": second}, {}

    def compare(self, representations: Any) -> dict[str, Tensor]:
        return {"loss": nt_xent(representations["first"], representations["second"], temperature=0.1)}

    def monitor(self, images: Tensor, **drawn: Tensor) -> Monitored:
        return Monitored(self(images, **drawn) | {"chance": torch.tensor(chance_level(len(images)))})


class MirroredPretraining(Pretraining):
    objective_class = Mirrored


class nnUNetTrainerMirrored(Trainer):
    task_class = MirroredPretraining


def _make(prepared: Prepared, variant: str, accumulate: int) -> Any:
    settings = SETTINGS | {"training.accumulate": accumulate}
    trainer = make_trainer(nnUNetTrainerMirrored, prepared, prepared.unlabelled, variant, settings)
    trainer.configuration_manager.configuration["architecture"]["arch_kwargs"]["drop_path_rate"] = 0.0
    return trainer


def test_micro_batches_and_stops_change_nothing(prepared: Prepared) -> None:
    whole, cut = _make(prepared, "mirrored_whole", 1), _make(prepared, "mirrored_cut", 2)
    for trainer in (whole, cut):
        trainer.run_training()
        assert isinstance(trainer.optimizer, LARS)
        assert curves(trainer)["lrs"][0] == pytest.approx(0.3 * 4 / 256)
    for name, values in curves(whole).items():
        assert curves(cut)[name] == pytest.approx(values, rel=1e-3), name
    assert_same_run(stopped_and_continued(lambda: _make(prepared, "mirrored_stopped", 2), step=4), cut)
