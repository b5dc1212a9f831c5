"""Rules for small components, and label maps changed by them.

A rule concerns one region, the union of some label values. Rules are applied one after the other, each to the label map
that the previous one left. The result is always a label map, so regions stay nested as they should.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.pairing import read_segmentation
from bdfm_nnunet.files import read_json, read_regular, write_atomically, write_json
from bdfm_nnunet.images.case_folders import list_cases
from bdfm_nnunet.images.nifti_bytes import packed_values
from bdfm_nnunet.json_shapes import Anything, fault_of
from bdfm_nnunet.worker_pools import run_in_processes

FORMAT = 1
LARGEST = 65535
"""nnU-Net's files hold no larger label."""
SHAPE = {
    "format": int,
    "release": str,
    "metrics": str,
    "labels": [int],
    "rules": [{"region": str, "values": [int], "what": str, "below_mm3": float, "becomes": int}],
    "evidence": {str: Anything},
}
"""The shape of a rules file."""
Labels = NDArray[np.int16]


@dataclass(frozen=True)
class Rule:
    """A rule for small parts of one region.

    Attributes:
        region: name of the region.
        values: label values of the region.
        what: `components`: each connected component (26 neighbours) separately; `total`: the whole region.
        below_mm3: a component, or the total, below this volume is changed.
        becomes: new label value of its voxels; 0 removes them.

    Example:
        >>> rule = Rule("enhancing_tumor", (3,), "total", below_mm3=200, becomes=1)
        >>> labels = np.array([[[3, 0, 1]]])
        >>> apply([rule], labels, spacing=(1, 1, 1))  # an enhancing tumour of 1 mm3 becomes necrosis
        array([[[1, 0, 1]]])
    """

    region: str
    values: tuple[int, ...]
    what: Literal["components", "total"]
    below_mm3: float
    becomes: int


@dataclass(frozen=True)
class RuleSet:
    """Rules in the order in which they are applied, and their origin.

    Attributes:
        release: name of the release or data set whose label values they use.
        metrics: metric version that they were tuned for.
        rules: the rules; may be empty.
        labels: every label value that a prediction may hold.
        evidence: results of the tuning, for the record.

    Example:
        >>> rule = Rule("enhancing_tumor", (3,), "components", below_mm3=50, becomes=0)
        >>> rules = RuleSet("brats2023-gli", "lesionwise-2023", (rule,), labels=(0, 1, 2, 3))
        >>> print(rules.summary())
        1 rules for brats2023-gli, tuned for lesionwise-2023
          enhancing_tumor: components below 50 mm3 become label 0
    """

    release: str
    metrics: str
    rules: tuple[Rule, ...]
    labels: tuple[int, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of a rules file."""
        return {"format": FORMAT, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write a rules file."""
        write_json(path, self.as_dict())

    def summary(self) -> str:
        """Return a few lines for a terminal."""
        lines = [
            f"  {rule.region}: {rule.what} below {rule.below_mm3:g} mm3 become label {rule.becomes}"
            for rule in self.rules
        ]
        head = f"{len(lines)} rules for {self.release}, tuned for {self.metrics}"
        return "\n".join([head, *lines, *self.evidence.get("text", ())])


def read_rules(path: Path | str) -> RuleSet:
    """Read a rules file.

    Raises:
        InputError: the file is missing or is not a rules file.

    Example:
        >>> RuleSet("brats2023-gli", "lesionwise-2023", (), labels=(0, 1, 2, 3)).write(Path("rules.json"))
        >>> read_rules("rules.json").metrics
        'lesionwise-2023'
    """
    content = read_json(path)
    if fault := fault_of(content, SHAPE) or _fault_of_rules(content):
        raise InputError(f"{path} is no file of rules ({fault}): write one with `bdfm postprocess tune`")
    rules = tuple(
        Rule(rule["region"], tuple(rule["values"]), rule["what"], float(rule["below_mm3"]), rule["becomes"])
        for rule in content["rules"]
    )
    return RuleSet(content["release"], content["metrics"], rules, tuple(content["labels"]), content["evidence"])


def _fault_of_rules(content: Mapping[str, Any]) -> str:
    """Return the fault of rules of the right shape; empty if there is none."""
    if content["format"] != FORMAT:
        return f"its format is {content['format']}, expected {FORMAT}"
    labels = content["labels"]
    if not labels or not all(0 <= label <= LARGEST for label in labels):
        return f"labels is {labels[:9]}, expected numbers from 0 to {LARGEST}"
    for at, rule in enumerate(content["rules"]):
        if rule["what"] not in ("components", "total"):
            return f"rules[{at}].what is {rule['what']!r}, expected components or total"
        if rule["below_mm3"] < 0:
            return f"rules[{at}].below_mm3 is {rule['below_mm3']}, expected a volume from 0 up"
        if not rule["values"] or not {*rule["values"], rule["becomes"]} <= {0, *labels}:
            return f"rules[{at}] has a label that is not among {labels[:9]}"
    return ""


def apply(rules: Sequence[Rule], labels: NDArray[Any], *, spacing: Sequence[float]) -> NDArray[Any]:
    """Return a label map after the rules.

    Args:
        rules: rules in the order in which they are applied.
        labels: labels (x, y, z); not changed.
        spacing: voxel size in mm along each axis.

    Example:
        >>> labels = np.array([[[3, 3, 3, 0, 3]]])
        >>> apply([Rule("enhancing_tumor", (3,), "components", below_mm3=2, becomes=0)], labels, spacing=(1, 1, 1))
        array([[[3, 3, 3, 0, 0]]])
    """
    voxel_mm3 = float(np.prod(spacing))
    for rule in rules:
        found = small_parts(rule, labels, voxel_mm3=voxel_mm3)
        if found is not None:
            labels = np.where(found, labels.dtype.type(rule.becomes), labels)
    return labels


def small_parts(rule: Rule, labels: NDArray[Any], *, voxel_mm3: float) -> NDArray[np.bool_] | None:
    """Return the mask (x, y, z) of the voxels that a rule changes; None if there are none.

    Example:
        >>> rule = Rule("enhancing_tumor", (3,), "components", below_mm3=2, becomes=0)
        >>> small_parts(rule, np.array([[[3, 3, 3, 0, 3]]]), voxel_mm3=1.0)
        array([[[False, False, False, False,  True]]])
    """
    mask = np.isin(labels, rule.values)
    limit = rule.below_mm3 / voxel_mm3
    if rule.what == "total":
        return mask if 0 < np.count_nonzero(mask) < limit else None
    if not mask.any():
        return None
    pieces = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26)
    small = np.bincount(pieces.ravel()) < limit
    small[0] = False
    return small[pieces] if small.any() else None


# ---------------------------------------------------------------------------------------------------------- folders


@dataclass(frozen=True)
class Applied:
    """The count of label maps that rules were applied to, and of those that they changed.

    Example:
        >>> print(Applied(Path("out"), cases=3, changed=1).summary())
        out: 1 of 3 segmentations changed
    """

    folder: Path
    cases: int
    changed: int

    def summary(self) -> str:
        """Return one line for a terminal."""
        return f"{self.folder}: {self.changed} of {self.cases} segmentations changed"


def apply_folder(
    prediction: Path | str, rules: Path | str, out: Path | str, *, workers: int = 0, progress: bool | None = None
) -> Applied:
    """Apply a rules file to every segmentation of a folder.

    Args:
        prediction: folder of label maps.
        rules: rules file.
        out: folder of the results; may be `prediction`, whose files are then replaced one by one.
        workers: number of processes; 0 works in this process.
        progress: whether to show a progress bar; by default only on a terminal.

    Raises:
        InputError: a file cannot be read or written, or holds a label that the rules were not made for.

    Example:
        >>> rule = Rule("enhancing_tumor", (3,), "components", below_mm3=20, becomes=0)
        >>> RuleSet("brats2023-gli", "lesionwise-2023", (rule,), labels=(0, 1, 2, 3)).write(Path("small.json"))
        >>> print(apply_folder("predictions", "small.json", "cleaned").summary())
        cleaned: 1 of 3 segmentations changed
    """
    return apply_files(
        list(list_cases(Path(prediction)).files.values()), read_rules(rules), Path(out), workers=workers,
        progress=progress,
    )  # fmt: skip


def apply_files(
    paths: Sequence[Path], rules: RuleSet, out: Path, *, workers: int = 0, progress: bool | None = None
) -> Applied:
    """Apply rules to some segmentations and write all of them to a folder.

    Args:
        paths: files of label maps.
        rules: the rules.
        out: folder of the results, which keep the names of the files; may be the files' folder.
        workers: as in `apply_folder`.
        progress: as in `apply_folder`.

    Raises:
        InputError: a file cannot be read or written, or holds a label that the rules were not made for.

    Example:
        >>> rule = Rule("enhancing_tumor", (3,), "components", below_mm3=20, becomes=0)
        >>> rules = RuleSet("brats2023-gli", "lesionwise-2023", (rule,), labels=(0, 1, 2, 3))
        >>> apply_files([Path("predictions/BraTS-GLI-00003-000.nii.gz")], rules, Path("third")).changed
        1
    """
    hidden = None if progress is None else not progress
    done = run_in_processes(paths, partial(apply_file, rules=rules, out=out), workers=workers)
    changed = sum(tqdm(done, total=len(paths), desc="post-processing", unit="case", disable=hidden))
    return Applied(out, len(paths), changed)


def apply_file(path: Path, *, rules: RuleSet, out: Path) -> bool:
    """Apply rules to one label map and write the result to a folder, which may be the file's folder.

    Returns:
        Whether the rules changed the label map.

    Raises:
        InputError: the file cannot be read or written, or holds a label that the rules were not made for.

    Example:
        >>> rules = RuleSet("brats2023-gli", "lesionwise-2023", (), labels=(0, 1, 2, 3))
        >>> apply_file(Path("predictions/BraTS-GLI-00003-000.nii.gz"), rules=rules, out=Path("unchanged"))
        False
    """
    before = read_segmentation(path, allowed=(0, *rules.labels))
    after = apply(rules.rules, before.labels, spacing=before.spacing)
    target = out / path.name
    changed = bool((after != before.labels).any())
    if changed:
        values = after.astype(np.min_scalar_type(max(rules.labels)))
        content = packed_values(values, like=before.volume.header, gzip=path.suffix == ".gz")
        with write_atomically(target) as temporary:
            temporary.write_bytes(content)
    elif not (target.exists() and target.samefile(path)):
        with write_atomically(target) as temporary:
            temporary.write_bytes(read_regular(path))
    return changed
