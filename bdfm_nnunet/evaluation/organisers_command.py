"""The public command of the organisers of BraTS 2026, run where a user has installed it, to compare our scores with.

`brats-evaluation` (https://pypi.org/project/brats-evaluation, AGPL-3.0) is never imported: its command `brats-evaluate`
reads copies of the label maps in a folder of their own and writes a JSON file.
"""

import math
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.challenge_rules import tissue_of
from bdfm_nnunet.files import read_json

COMMAND = "brats-evaluate"
CONFIGURATIONS = {
    "MET": "mets", "PED": "ped", "GOAT": "GoAT", "GLI": "gli", "SSA": "gli", "MEN": "MenPre", "MEN-RT": "MenRT",
}  # fmt: skip
"""Task to the configuration of the package."""
_TISSUES = {"NETC": "NET"}
"""The package's name of a region to ours, for paediatric tumours alone."""
_MEASURES = {
    "tp": "tp", "fp": "fp", "fn": "fn", "rq": "rq", "sq_dsc": "sq_dsc", "global_bin_dsc": "global_dice",
}  # fmt: skip
"""The package's measure to ours. Its distances of a whole region count voxels, its NSD there is at half a voxel: both
are left out (found by running 0.0.10 with panoptica 2.1.7)."""
_DISTANCES = {"sq_nsd": "sq_nsd", "sq_hd95": "sq_hd95_mm"}
"""Compared where the voxels are cubes: from files, the package takes the spacing in the opposite order of axes."""
_SHAPE = {"metrics": [{"subject_name": str}], "missings": [str]}
CLOSE = 1e-6


def organisers_scores(
    pairs: Sequence[tuple[str, Path, Path]], task: str, *, command: str = COMMAND, penalty: float = 373.0
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Score cases with the organisers' command.

    Args:
        pairs: case id, reference and prediction (`.nii.gz`, in the label values of the release).
        task: a key of `CONFIGURATIONS`, or one that begins with it and a hyphen.
        command: name or path of the command.
        penalty: HD95 in mm where no lesion is matched, which the command calls infinite.

    Returns:
        Case -> tissue -> measure, by our names -> its value; None where it is not defined.

    Raises:
        InputError: the command is not there, knows no such task, fails, or writes something else.

    Example:
        >>> organisers_scores([], "MET", command="no-such-command")
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: no-such-command is not installed here: `pip install brats-evaluation` ...
    """
    name = next((task for task in (task, task.rpartition("-")[0]) if task in CONFIGURATIONS), None)
    if name is None:
        raise InputError(f"{command} has no configuration for task {task}: choose one of {', '.join(CONFIGURATIONS)}")
    program = shutil.which(command)
    if program is None:
        raise InputError(f"{command} is not installed here: `pip install brats-evaluation` (AGPL-3.0) brings it")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cases = _laid_out(pairs, folder)
        out = folder / "summary.json"
        arguments = ["--config", CONFIGURATIONS[name], "--ref_path", str(folder / "reference")]
        arguments += ["--pred_path", str(folder / "prediction"), "--summary_json", str(out)]
        run = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, cwd=folder)
        if run.returncode or not out.is_file():
            last = (run.stderr or run.stdout).strip().splitlines()[-1:] or ["no message"]
            raise InputError(f"{command} ended with exit code {run.returncode} ({last[0]}): run it by hand to see why")
        content = read_json(out, _SHAPE)
        found: dict[str, dict[str, dict[str, float | None]]] = {}
        for entry in content["metrics"]:
            file = Path(entry["subject_name"]).name
            measures = _MEASURES | (_DISTANCES if _has_cubes(folder / "reference" / file) else {})
            found[cases[file]] = _scores(entry, name, measures, penalty)
    if missing := [case for case in cases.values() if not found.get(case)]:
        raise InputError(f"{command} gave no scores for {', '.join(missing[:3])}: run it by hand to see why")
    return found


def _laid_out(pairs: Sequence[tuple[str, Path, Path]], folder: Path) -> dict[str, str]:
    """Copy the cases under numbers, which the command needs in names, and return file name -> case."""
    cases = {}
    for number, (case, reference, prediction) in enumerate(pairs):
        file = f"case-{number:05d}-000.nii.gz"
        for side, path in (("reference", reference), ("prediction", prediction)):
            (folder / side).mkdir(exist_ok=True)
            shutil.copyfile(path, folder / side / file)
        cases[file] = case
    return cases


def _has_cubes(path: Path) -> bool:
    steps = nibabel.Nifti1Image.from_filename(path).header.get_zooms()[:3]
    return max(steps) - min(steps) <= CLOSE


def _scores(
    entry: Mapping[str, Any], task: str, measures: Mapping[str, str], penalty: float
) -> dict[str, dict[str, float | None]]:
    found = {}
    for region, values in entry.items():
        if isinstance(values, Mapping):
            tissue = region.upper()
            tissue = _TISSUES.get(tissue, tissue) if task == "PED" else tissue
            found[tissue] = {ours: _number(values.get(theirs), penalty) for theirs, ours in measures.items()}
    return found


def _number(value: Any, penalty: float) -> float | None:
    if not isinstance(value, (int, float)) or math.isnan(value):
        return None
    return penalty if math.isinf(value) else float(value)


def differences(
    rows: Sequence[Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Mapping[str, float | None]]]
) -> list[str]:
    """Return a sentence for every score of ours that is not the organisers'.

    Args:
        rows: "case" and "regions" of our result.
        theirs: as `organisers_scores` returns it.

    Example:
        >>> rows = [{"case": "a", "regions": {"enhancing_tumor": {"rq": 0.5, "sq_dsc": None}}}]
        >>> differences(rows, {"a": {"ET": {"rq": 1.0, "sq_dsc": None}}})
        ['a, enhancing_tumor, rq: 0.5 here, 1.0 there']
    """
    found = []
    for row in rows:
        for region, scores in row["regions"].items():
            for measure, value in theirs.get(row["case"], {}).get(tissue_of(region), {}).items():
                if measure in scores and not _same(scores[measure], value):
                    found.append(f"{row['case']}, {region}, {measure}: {scores[measure]} here, {value} there")
    return found


def _same(ours: float | None, theirs: float | None) -> bool:
    if ours is None or theirs is None or math.isnan(ours):
        return theirs is None and (ours is None or math.isnan(ours))
    return math.isclose(ours, theirs, rel_tol=CLOSE, abs_tol=CLOSE)
