"""Stand-ins for tensorboard, wandb and mlflow with the signatures of the real ones, as far as we call them."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest


class Written(NamedTuple):
    """What one opened run was given: values by epoch, pictures by epoch, the rest."""

    options: dict[str, Any]
    values: dict[int, dict[str, float]]
    pictures: list[tuple[str, int]]
    summary: dict[str, Any]
    ends: list[str]


def _written(**options: Any) -> Written:
    return Written(options, {}, [], {}, [])


class SummaryWriter:
    """torch.utils.tensorboard.SummaryWriter."""

    opened: list[Written]

    def __init__(self, log_dir: str | None = None, comment: str = "", purge_step: int | None = None) -> None:
        self.written = _written(log_dir=log_dir, purge_step=purge_step)
        self.opened.append(self.written)

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        if tag.startswith("summary/"):
            self.written.summary[tag.removeprefix("summary/")] = scalar_value
        else:
            self.written.values.setdefault(global_step, {})[tag] = scalar_value

    def add_text(self, tag: str, text_string: str, global_step: int) -> None:
        self.written.options[tag] = text_string

    def add_image(self, tag: str, img_tensor: Any, global_step: int, *, dataformats: str) -> None:
        assert dataformats == "HWC" and img_tensor.shape[-1] == 3
        self.written.pictures.append((tag, global_step))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.written.ends.append("closed")


class WandbRun:
    """wandb.Run, which refuses epochs before its last one as the real one ignores them."""

    def __init__(self, written: Written, identity: str) -> None:
        self.written, self.id, self.summary, self._step = written, identity, written.summary, 0

    def log(self, data: dict[str, Any], step: int) -> None:
        assert step >= self._step
        self._step = step
        for name, value in data.items():
            if isinstance(value, SimpleNamespace):
                self.written.pictures.append((name, step))
            else:
                self.written.values.setdefault(step, {})[name] = value

    def finish(self, exit_code: int | None = None) -> None:
        self.written.ends.append("finished")


class MlflowClient:
    """mlflow.MlflowClient; every value that was ever logged is kept, as there."""

    opened: list[Written]
    history: list[tuple[str, str, int]]

    def __init__(self, tracking_uri: str | None = None) -> None:
        self.written = _written(tracking_uri=tracking_uri)
        self.opened.append(self.written)

    def get_experiment_by_name(self, name: str) -> Any:
        return None

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        self.written.options.update(experiment=name, artifact_location=artifact_location)
        return "1"

    def create_run(self, experiment_id: str, *, run_name: str | None = None) -> Any:
        run = f"run{len(self.opened)}"
        self.written.options.update(run=run, run_name=run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=run))

    def update_run(self, run_id: str, status: str | None = None) -> None:
        self.written.options.update(run=run_id, status=status)

    def log_param(self, run_id: str, key: str, value: Any) -> None:
        self.written.options.setdefault("params", {})[key] = value

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        for metric in metrics:
            self.history.append((run_id, metric.key, metric.step))
            self.written.values.setdefault(metric.step, {})[metric.key] = metric.value

    def log_metric(self, run_id: str, key: str, value: float) -> None:
        self.written.summary[key] = value

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str) -> None:
        self.written.pictures.append((artifact_path, int(local_path.rpartition("_")[2][:4]) - 1))

    def set_terminated(self, run_id: str) -> None:
        self.written.ends.append("terminated")


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(content)
    return module


def install(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Written]]:
    """Put the stand-ins where imports find them; returns name of a logger -> its runs in their order."""
    opened: dict[str, list[Written]] = {"tensorboard": [], "wandb": [], "mlflow": []}

    def init(
        *, project: str, name: str, id: str | None, dir: str, config: dict[str, Any], mode: str, reinit: bool,
        settings: Any, resume: str | None = None,
    ) -> WandbRun:  # fmt: skip
        written = _written(project=project, id=id, dir=dir, config=config, mode=mode, resume=resume)
        opened["wandb"].append(written)
        return WandbRun(written, id or f"run{len(opened['wandb'])}")

    monkeypatch.setattr(SummaryWriter, "opened", opened["tensorboard"], raising=False)
    monkeypatch.setattr(MlflowClient, "opened", opened["mlflow"], raising=False)
    monkeypatch.setattr(MlflowClient, "history", [], raising=False)
    metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)  # noqa: E731
    for module in (
        _module("tensorboard"),
        _module("torch.utils.tensorboard", SummaryWriter=SummaryWriter),
        _module("wandb", init=init, Image=lambda path: SimpleNamespace(path=path), Settings=lambda **_: None),
        _module("mlflow", MlflowClient=MlflowClient),
        _module("mlflow.entities", Metric=metric),
    ):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for variable in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    return opened
