"""`bdfm container check`: a container is run on hostile inputs, and judged by what is right to do with each."""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdfm_nnunet.containers.challenge_forms import ENDINGS
from bdfm_nnunet.containers.check_report import CheckReport
from bdfm_nnunet.containers.container_settings import MODEL, ContainerSettings
from bdfm_nnunet.containers.folder_permissions import listing, only_readable, open_again, open_to_all
from bdfm_nnunet.containers.hostile_inputs import REFERENCE, HostileInput, hostile_inputs
from bdfm_nnunet.containers.made_images import Drawing
from bdfm_nnunet.containers.result_checks import fault_of_result, same_result, told_result
from bdfm_nnunet.containers.sandboxes import IN, OUT, RunReport, Sandbox
from bdfm_nnunet.nnunet_files import read_plans_file, resolve_configuration
from bdfm_nnunet.safe_names import printable

logger = logging.getLogger(__name__)
KEPT = "notes of before.txt"
"""A file that lies in the folder of the results before a run."""


@dataclass(frozen=True)
class Checker:
    """Runs a container on hostile inputs.

    Attributes:
        settings: of the container.
        sandbox: in which it runs.
        drawing: of the plain case.
        work: an empty folder.
        timeout: seconds that a run may take.
    """

    settings: ContainerSettings
    sandbox: Sandbox
    drawing: Drawing
    work: Path
    timeout: float = 3600.0

    def check(self) -> CheckReport:
        """Run all of it."""
        report = CheckReport(self.settings.challenge, ", ".join(self.sandbox.told))
        peaks = [self._cases(report), self._usual(report)]
        peaks += [self._flags(report)] if self.settings.form.flags else []
        self._folders(report)
        measured = [peak for peak in peaks if peak is not None]
        report.peak_mib = max(measured) if measured else None
        limit = self.settings.form.memory_gib
        if measured and limit:
            used = max(measured) / 2**10
            report.add("memory of all of it", f"at most {limit:g} GiB", f"{used:.2f} GiB", used <= limit)
        return report

    # --- cases ------------------------------------------------------------------------------------------------------

    def _cases(self, report: CheckReport) -> float | None:
        """Check the inputs that are cases, all in one run."""
        inputs = hostile_inputs(self.settings, self.drawing, powerless=self.sandbox.powerless)
        source, out = self._folder("cases"), self._folder("results")
        written = [each for each in inputs if self._write(each, source)]
        with only_readable(source), open_to_all(out):
            (out / KEPT).write_text("kept")
            (out / f"{REFERENCE}{self._ending}").write_text("old")
            before = listing(source)
            run = self._run(source, out)
            unchanged = listing(source) == before
        failed = self._judge(written, source, out, run, report)
        good, bad = sum(each.right in ("same", "own grid") for each in written), failed
        code = self.settings.form.partial_exit
        report.add(f"all of these at once ({good} good)", f"exit code {code}", _ended(run), run.code == code or not bad)
        report.add("the folder of the input", "nothing is changed", "unchanged" if unchanged else "changed", unchanged)
        self._judge_output(written, out, report)
        return run.peak_mib

    def _write(self, each: HostileInput, source: Path) -> bool:
        try:
            each.make(source)
        except OSError as error:  # this file system has no such names
            logger.warning("left out, it cannot be made here: %s (%s)", each.what, error.strerror)
            return False
        return True

    def _judge(
        self, inputs: Sequence[HostileInput], source: Path, out: Path, run: RunReport, report: CheckReport
    ) -> int:
        """Add a row for each input, and return how many cases were rightly not predicted."""
        reference = out / f"{REFERENCE}{self._ending}"
        for each in inputs:
            results = [out / f"{case}{self._ending}" for case in each.cases]
            there = [path for path in results if _is_file(path)]
            told = _told(run.log, each.cases)
            if each.right in ("same", "own grid"):
                fault = self._fault(each, source, results, there, reference)
                did = f"{fault}; {told}" if fault and told else fault or _predicted(each, results[0])
                report.add(each.what, _RIGHT[each.right], did, not fault)
            elif each.right == "named":
                report.add(each.what, _RIGHT[each.right], told or "not a word", bool(told) and not there)
            else:
                report.add(each.what, _RIGHT[each.right], "predicted" if there else "nothing was made of it", not there)
        return sum(each.right == "named" for each in inputs)

    def _fault(
        self, each: HostileInput, source: Path, results: Sequence[Path], there: Sequence[Path], reference: Path
    ) -> str:
        """Return what is wrong with the results of an input; empty if nothing is."""
        if len(there) < len(results):
            return "not predicted"
        for path in results:
            image = None
            if self.settings.form.result == "segmentation":
                image = _first_image(source, path.name.removesuffix(self._ending), self.drawing.channels)
            if fault := fault_of_result(path, self.settings, image):
                return fault
            if each.right == "same" and not same_result(path, reference, turned=image):
                return "another result than for the plain case"
        return ""

    def _judge_output(self, inputs: Sequence[HostileInput], out: Path, report: CheckReport) -> None:
        wanted = {f"{case}{self._ending}" for each in inputs for case in each.cases} | {KEPT}
        other = [name for name in os.listdir(out) if name not in wanted or (out / name).is_dir()]
        right = "results alone, without folders"
        report.add("the folder of the results", right, f"also {', '.join(other)}" if other else "so it is", not other)
        kept = (out / KEPT).read_text() == "kept" and (out / f"{REFERENCE}{self._ending}").read_bytes() != b"old"
        report.add(
            "results of before and other files there", "results are replaced, others stay",
            "so it is" if kept else "not so", kept,
        )  # fmt: skip

    # --- other runs -------------------------------------------------------------------------------------------------

    def _usual(self, report: CheckReport) -> float | None:
        """Time a case of the usual size, without the start of the program."""
        source, out = self._folder("usual"), self._folder("usual results")
        usual = Drawing(self.drawing.channels, self.drawing.spacing, self._usual_shape(), self.drawing.orientation)
        for number in (1, 2):
            usual.write(source / f"Usual-{number}")
        with only_readable(source), open_to_all(out):
            run = self._run(source, out)
        seconds = [float(line.rpartition(" in ")[2].split()[0]) for line in run.log.splitlines()
                   if line.startswith("Usual-") and line.endswith(" s") and " in " in line]  # fmt: skip
        size = " x ".join(map(str, usual.shape))
        if run.code != 0 or not seconds:
            report.add(f"two cases of {size} voxels", "predicted", f"{_ended(run)}: {_last_line(run)}", False)
            return run.peak_mib
        report.seconds_per_case, form = min(seconds), self.settings.form
        report.device = "cuda" if os.path.exists("/dev/nvidia0") else "cpu"
        did = f"{report.seconds_per_case:.1f} s on this {report.device}"
        if form.cases:
            report.minutes = report.seconds_per_case * form.cases / 60
            did += f", {report.minutes:.0f} minutes for {form.cases} cases"
        limit = form.seconds
        right = f"at most {limit:.0f} s a case on {form.hardware}" if limit else "predicted"
        in_time = limit is None or report.seconds_per_case <= limit
        if not in_time and report.device == "cpu" and form.hardware:
            did, in_time = f"{did}: not judged, {form.hardware} is faster", True
        report.add(f"a case of {size} voxels", right, did, in_time)
        return run.peak_mib

    def _usual_shape(self) -> tuple[int, ...]:
        """Return the median size of the training's images along x, y, z."""
        plans = read_plans_file(self.sandbox.folder / MODEL / "plans.json")
        found = [each.get("median_image_size_in_voxels") for each in plans["configurations"].values()]
        sizes = next((size for size in found if size and len(size) == 3), None)
        return tuple(max(8, round(size)) for size in reversed(sizes)) if sizes else self.drawing.shape

    def _flags(self, report: CheckReport) -> float | None:
        """Check the call by flags."""
        source, out = self._folder("flags"), self._folder("flag results")
        self.drawing.write(source, "x")
        (source / "bad.nii.gz").write_bytes(b"no image")
        form = self.settings.form
        given = dict(zip(_flags_of(self.settings), self.drawing.channels, strict=True))
        words = [word for flag, channel in given.items() for word in (f"--{flag}", f"{IN}/x-{channel}.nii.gz")]
        with only_readable(source), open_to_all(out):
            name = f"new/result{self._ending}"
            run = self._run(source, out, [*words, "--output", f"{OUT}/{name}"])
            bad = [*words[:-1], f"{IN}/bad.nii.gz", "--output", f"{OUT}/bad{self._ending}"]
            broken = self._run(source, out, bad)
            lacking = self._run(source, out, [*words[2:], "--output", f"{OUT}/lacking{self._ending}"])
        image = source / f"x-{self.drawing.channels[0]}.nii.gz" if form.result == "segmentation" else None
        fault = fault_of_result(out / name, self.settings, image) if (out / name).is_file() else "no file"
        report.add(
            f"--{' --'.join(given)} --output", "exit code 0, a result", fault or _ended(run), not fault and not run.code
        )
        report.add("a broken image by its flag", "exit code 2, no file, a reason",
                   f"{_ended(broken)}: {_last_line(broken)}",
                   broken.code == 2 and not (out / f"bad{self._ending}").exists())  # fmt: skip
        report.add("a flag is missing", "exit code 2, no file, a reason", f"{_ended(lacking)}: {_last_line(lacking)}",
                   lacking.code == 2 and not (out / f"lacking{self._ending}").exists())  # fmt: skip
        return run.peak_mib

    def _folders(self, report: CheckReport) -> None:
        """Check folders that cannot be used, each in a run of its own."""
        source = self._folder("good")
        self.drawing.write(source / "good")
        empty, closed, flat = self._folder("empty"), self._folder("closed"), self._folder("flat")
        (empty / ".DS_Store").write_bytes(b"\0")
        (empty / "labels").mkdir()
        self.drawing.write(flat, "flat")
        file = self.work / "file"
        file.write_text("a file")
        with only_readable(source), only_readable(empty), only_readable(closed), only_readable(flat):
            runs = [("no case at all", empty, self._folder("out 1"), 2)]
            runs.append(("images without any folder", flat, self._folder("out 2"), 0))
            if self.sandbox.powerless:
                runs.append(("results that must not be written", source, closed, 2))
            if self.sandbox.name == "here":
                runs.append(("a file in the place of the results", source, file, 2))
                runs.append(("no folder of the input", self.work / "nowhere", self._folder("out 3"), 2))
            for what, given, out, code in runs:
                with open_to_all(out) if out not in (closed, file) else only_readable(closed):
                    run = self._run(given, out)
                words = f"{_ended(run)}: {_last_line(run)}" if code else _ended(run)
                good = run.code == code and "Traceback" not in run.log
                good = good and (bool(code) or _is_file(out / f"flat{self._ending}"))
                report.add(what, f"exit code {code}" + (", a reason" if code else ", predicted"), words, good)

    # --- shared -----------------------------------------------------------------------------------------------------

    @property
    def _ending(self) -> str:
        return ENDINGS[self.settings.form.result]

    def _folder(self, name: str) -> Path:
        folder = self.work / name
        folder.mkdir()
        return folder

    def _run(self, source: Path, out: Path, arguments: Sequence[str] = (IN, OUT)) -> RunReport:
        return self.sandbox.run(arguments, source, out, timeout=self.timeout)


_RIGHT = {
    "same": "predicted as the plain case",
    "own grid": "predicted on its own grid",
    "named": "named with a reason, not predicted",
    "left aside": "left aside",
}


def check_container(folder: Path, sandbox: Sandbox, *, timeout: float = 3600.0) -> CheckReport:
    """Check a container in a sandbox, and write the report into its folder `check`.

    Args:
        folder: of the container.
        sandbox: in which it runs.
        timeout: seconds that a run may take.

    Raises:
        InputError: the folder is no container.
    """
    settings = ContainerSettings.read(folder)
    plans = read_plans_file(folder / MODEL / "plans.json")
    drawing = Drawing(settings.channels, _spacing(plans), orientation=settings.orientation or "LPS")
    with tempfile.TemporaryDirectory(prefix="bdfm-check-", ignore_cleanup_errors=True) as work:
        Path(work).chmod(0o755)
        try:
            report = Checker(settings, sandbox, drawing, Path(work), timeout).check()
        finally:
            open_again(Path(work))
    report.write(folder / "check", sandbox.name)
    return report


def _spacing(plans: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the voxel size along x, y, z of the first 3-D configuration; 1 mm where there is none.

    nnU-Net's own plans begin with 2-D and coarse ones. Images as coarse as these have voxels left at a finer spacing.
    """
    for name in plans["configurations"]:
        found = resolve_configuration(plans, name).get("spacing") or ()
        if len(found) == 3:
            return tuple(float(found[axis]) for axis in reversed(plans["transpose_backward"]))
    return 1.0, 1.0, 1.0


def _flags_of(settings: ContainerSettings) -> list[str]:
    """Return the flag of each channel."""
    if settings.form.flags == ("input",):
        return ["input"]
    return [
        next(flag for flag in settings.form.flags if settings.names.of_name(flag) == name) for name in settings.channels
    ]


def _first_image(source: Path, case: str, channels: Sequence[str]) -> Path | None:
    """Return an image of a case."""
    places = [source / case, source / "batch 1" / "site A" / case, source / "together", *source.glob("sub-*/ses-1")]
    for place in places:
        if place.is_dir():
            files = sorted(
                path for path in place.iterdir() if ".nii" in path.name.lower() and not path.name.startswith(".")
            )
            first = [path for path in files if channels[0] in path.name or "_0000" in path.name]
            usable = [path for path in first or files if path.is_file() and not path.name.endswith(".nii")]
            if usable or first:
                return (usable or first)[0]
    return None


def _told(log: str, cases: Sequence[str]) -> str:
    """Return the reason that the log gives for not predicting one of some cases."""
    for case in cases:
        begin = f"{printable(case)} is not predicted: "
        for line in log.splitlines():
            if line.startswith(begin):
                return f"named: {line.removeprefix(begin)}"
    return ""


def _predicted(each: HostileInput, result: Path) -> str:
    if each.cases == (REFERENCE,):
        return f"predicted: {told_result(result)}"
    return "predicted, the same" if each.right == "same" else "predicted on its own grid"


def _ended(run: RunReport) -> str:
    return "it did not end" if run.code is None else f"exit code {run.code}"


def _last_line(run: RunReport) -> str:
    lines = [line for line in run.log.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "not a word"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False
