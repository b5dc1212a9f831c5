"""What all trainings of these tests share."""

import pytest
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from bdfm_nnunet.trainers import pretraining


@pytest.fixture
def figures() -> None:
    """Asks for the figures of each epoch, which are drawn for whoever looks at them: they cost more than the steps."""


@pytest.fixture(autouse=True)
def _figures_for_those_who_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "figures" in request.fixturenames:
        return
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda logger, folder: None)
    for name in ("progress_figure", "reconstruction_figure", "save_figure"):
        monkeypatch.setattr(pretraining, name, lambda *data, **settings: None)
