"""What writes a training's curves and pictures for TensorBoard, Weights & Biases and MLflow.

None of the three packages is imported before it is asked for. What they write lies in the folder `loggers` of the
fold's folder and goes nowhere else unless their own variables say so (WANDB_MODE, MLFLOW_TRACKING_URI).
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

PROJECT = "bdfm_nnunet"


@dataclass(frozen=True)
class RunPlace:
    """Where a run is logged.

    Attributes:
        folder: of all loggers of the fold.
        name: of the run, for people.
        run: identity that the package gave to the run when it began; None for a new one.
        first_step: the next epoch to be logged.
        settings: of the training, as nested plain data.
    """

    folder: Path
    name: str
    run: str | None
    first_step: int
    settings: Mapping[str, Any]


class LogWriter:
    """What one of the packages does with a run.

    Attributes:
        package: to import, and to install.
        forgets: whether what was logged from `first_step` on is taken back when a run goes on.
        run: identity of the run, None where the package needs none.
    """

    package: ClassVar[str]
    forgets: ClassVar[bool] = False
    run: str | None = None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write the values of an epoch."""
        raise NotImplementedError

    def picture(self, name: str, path: Path, step: int) -> None:
        """Write a PNG file of an epoch."""
        raise NotImplementedError

    def summary(self, key: str, value: Any) -> None:
        """Write a value of the whole run."""
        raise NotImplementedError

    def close(self) -> None:
        """End the run, which may go on later."""
        raise NotImplementedError


class TensorBoardWriter(LogWriter):
    """Event files in loggers/tensorboard; `tensorboard --logdir` shows them, those of many runs together."""

    package = "tensorboard"
    forgets = True

    def __init__(self, place: RunPlace) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(place.folder / "tensorboard"), purge_step=place.first_step)
        text = json.dumps(place.settings, indent=2, default=str)
        self._writer.add_text("settings", f"```\n{text}\n```", place.first_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write the values of an epoch."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        """Write a PNG file of an epoch."""
        from matplotlib.image import imread

        self._writer.add_image(name, imread(path)[..., :3], step, dataformats="HWC")
        self._writer.flush()

    def summary(self, key: str, value: Any) -> None:
        """Write a value of the whole run."""
        self._writer.add_scalar(f"summary/{key}", float(value), 0)
        self._writer.flush()

    def close(self) -> None:
        """End the run, which may go on later."""
        self._writer.close()


class WandbWriter(LogWriter):
    """A run of Weights & Biases in loggers/wandb: offline unless WANDB_MODE says otherwise; `wandb sync` uploads it."""

    package = "wandb"

    def __init__(self, place: RunPlace) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE", "offline")
        # a run that is offline goes on by its identity alone: wandb sync joins the parts
        resume = {"resume": "allow"} if place.run and mode == "online" else {}
        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=place.name, id=place.run, dir=str(place.folder),
            config=dict(place.settings), mode=mode, reinit=True, settings=wandb.Settings(console="off"), **resume,
        )  # fmt: skip
        self.run = str(self._run.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write the values of an epoch."""
        self._run.log(dict(values), step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Write a PNG file of an epoch."""
        self._run.log({name: self._image(str(path))}, step=step)

    def summary(self, key: str, value: Any) -> None:
        """Write a value of the whole run."""
        self._run.summary[key] = value

    def close(self) -> None:
        """End the run, which may go on later."""
        self._run.finish()


class MlflowWriter(LogWriter):
    """A run of MLflow in the database loggers/mlflow.db, or where MLFLOW_TRACKING_URI says."""

    package = "mlflow"

    def __init__(self, place: RunPlace) -> None:
        from mlflow import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(tracking_uri=address or f"sqlite:///{place.folder.absolute() / 'mlflow.db'}")
        if place.run is None:
            artifacts = None if address else (place.folder.absolute() / "mlflow_artifacts").as_uri()
            self.run = self._client.create_run(self._experiment(artifacts), run_name=place.name).info.run_id
            for name, value in _flat(place.settings):
                self._client.log_param(self.run, name, value[:500])
        else:
            self.run = place.run
            self._client.update_run(self.run, status="RUNNING")

    def _experiment(self, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name, artifact_location=artifacts))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write the values of an epoch."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run, metrics=[Metric(_allowed(k), v, now, step) for k, v in values.items()])

    def picture(self, name: str, path: Path, step: int) -> None:
        """Write a PNG file of an epoch, whose name tells which."""
        self._client.log_artifact(self.run, str(path), _allowed(name))

    def summary(self, key: str, value: Any) -> None:
        """Write a value of the whole run."""
        self._client.log_metric(self.run, _allowed(key), float(value))

    def close(self) -> None:
        """End the run, which may go on later."""
        self._client.set_terminated(self.run)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield _allowed(f"{before}{name}"), str(value)


def _allowed(name: str) -> str:
    """Return a name that MLflow takes: letters, digits, underscores, dashes, periods, spaces, slashes."""
    return re.sub(r"[^\w\-. /]", "_", name)
