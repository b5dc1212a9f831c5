"""Run the study in a folder with made-up results: `python run_made_up_study.py DIR LOG SECONDS`.

A test kills it; each task notes in LOG that it began, and leaves a half-written file until it is done.
"""

import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any


def stand_in(log: Path, seconds: float) -> None:
    """Put modules that train nothing into the place of those that do."""
    from bdfm_nnunet.results import write_result
    from tests.studies.study_cohort import result_of

    class TaskRunner:
        def __init__(self, tasks: Any, device: str, *, keep_models: bool) -> None:
            self.tasks = tasks

        def run(self, task: Any) -> None:
            folder = self.tasks.folder(task)
            folder.mkdir(parents=True, exist_ok=True)
            with log.open("a") as stream:
                stream.write(f"{task.name}\n")
            (folder / "half").write_text("not done")
            time.sleep(seconds)
            if (folder.parents[1] / f"fail_{task.name}").exists():
                raise MemoryError("none left")
            write_result(folder / "result.json", result_of(self.tasks.study, task))
            (folder / "half").unlink()

    running, calibration = ModuleType("task_running"), ModuleType("calibration")
    running.TaskRunner = TaskRunner  # type: ignore[attr-defined]
    calibration.find_device = lambda name: name  # type: ignore[attr-defined]
    sys.modules["bdfm_nnunet.studies.task_running"] = running
    sys.modules["bdfm_nnunet.training.calibration"] = calibration


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from bdfm_nnunet.cli import main

    stand_in(Path(sys.argv[2]), float(sys.argv[3]))
    sys.exit(main(["study", "-o", sys.argv[1], *sys.argv[4:]]))
