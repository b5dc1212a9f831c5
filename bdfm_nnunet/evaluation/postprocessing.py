"""Rules for small components: what they are, and how they change label maps.

A rule looks at one region, which is the union of some label values. Rules are applied one after the other to the label
map, each to what the one before has left, so a label map always stays one: regions cannot overlap in a wrong way.
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
"""No file of nnU-Net holds a larger label."""
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
    """What to do with little of a region.

    Attributes:
        region: name of the region.
        values: label values that the region consists of.
        what: `components`: each connected component (26 neighbours) by itself; `total`: all of the region together.
        below_mm3: a component, or the total, of less than this volume is changed.
        becomes: the label value that its voxels get; 0 removes them.
    """

    region: str
    values: tuple[int, ...]
    what: Literal["components", "total"]
    below_mm3: float
    becomes: int


@dataclass(frozen=True)
class RuleSet:
    """Rules in the order in which they are applied, and where they come from.

    Attributes:
        release: name of the release or data set whose label values they are meant for.
        metrics: version of the metric that they were tuned for.
        rules: may be empty.
        labels: every label value that a prediction may hold.
        evidence: what tuning found, for the record.
    """

    release: str
    metrics: str
    rules: tuple[Rule, ...]
    labels: tuple[int, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The content of a rules file."""
        return {"format": FORMAT, **asdict(self)}

    def write(self, path: Path) -> None:
        """Writes a rules file."""
        write_json(path, self.as_dict())

    def summary(self) -> str:
        """A few lines for a terminal."""
        lines = [
            f"  {rule.region}: {rule.what} below {rule.below_mm3:g} mm3 become label {rule.becomes}"
            for rule in self.rules
        ]
        head = f"{len(lines)} rules for {self.release}, tuned for {self.metrics}"
        return "\n".join([head, *lines, *self.evidence.get("text", ())])


def read_rules(path: Path | str) -> RuleSet:
    """Reads a rules file.

    Raises:
        InputError: it is missing or no rules file.
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
    """What is wrong with rules of the right shape; empty where nothing is."""
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
    """A label map after the rules.

    Args:
        rules: in the order in which they are applied.
        labels: (x, y, z); not changed.
        spacing: mm along each axis.
    """
    voxel_mm3 = float(np.prod(spacing))
    for rule in rules:
        found = small_parts(rule, labels, voxel_mm3=voxel_mm3)
        if found is not None:
            labels = np.where(found, labels.dtype.type(rule.becomes), labels)
    return labels


def small_parts(rule: Rule, labels: NDArray[Any], *, voxel_mm3: float) -> NDArray[np.bool_] | None:
    """The voxels that a rule changes, (x, y, z); None where there are none."""
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
    """How many label maps of a folder were changed."""

    folder: Path
    cases: int
    changed: int

    def summary(self) -> str:
        """One line for a terminal."""
        return f"{self.folder}: {self.changed} of {self.cases} segmentations changed"


def apply_folder(
    prediction: Path | str, rules: Path | str, out: Path | str, *, workers: int = 0, progress: bool | None = None
) -> Applied:
    """Applies a rules file to every segmentation of a folder.

    Args:
        prediction: folder of label maps.
        rules: a rules file.
        out: where the results go; may be `prediction` itself, whose files are then replaced one by one.
        workers: processes; 0 works in this one.
        progress: whether a progress bar is shown; by default on a terminal only.

    Raises:
        InputError: a file cannot be read or written, or holds a label that the rules were not made for.
    """
    return apply_files(
        list(list_cases(Path(prediction)).files.values()), read_rules(rules), Path(out), workers=workers,
        progress=progress,
    )  # fmt: skip


def apply_files(
    paths: Sequence[Path], rules: RuleSet, out: Path, *, workers: int = 0, progress: bool | None = None
) -> Applied:
    """Applies rules to some segmentations and writes all of them to a folder.

    Args:
        paths: label maps.
        rules: what to do.
        out: where the results go, under the names of the files; may be their own folder.
        workers: as in `apply_folder`.
        progress: as in `apply_folder`.

    Raises:
        InputError: a file cannot be read or written, or holds a label that the rules were not made for.
    """
    hidden = None if progress is None else not progress
    done = run_in_processes(paths, partial(apply_file, rules=rules, out=out), workers=workers)
    changed = sum(tqdm(done, total=len(paths), desc="post-processing", unit="case", disable=hidden))
    return Applied(out, len(paths), changed)


def apply_file(path: Path, *, rules: RuleSet, out: Path) -> bool:
    """Apply rules to one label map and write the result to a folder, which may be the file's own.

    Returns:
        Whether anything changed.

    Raises:
        InputError: the file cannot be read or written, or holds a label that the rules were not made for.
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
