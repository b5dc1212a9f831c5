"""Rules for small components: what they are, and how they change label maps.

A rule looks at one region, which is the union of some label values. Rules are applied one after the other to the label
map, each to what the one before has left, so a label map always stays one: regions cannot overlap in a wrong way.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cc3d
import nibabel
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.volumes import read_segmentation, segmentations_in
from bdfm_nnunet.files import read_json, write_atomically, write_json

FORMAT = 1
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
        release: name of the release whose label values they are meant for.
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
    try:
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        rules = tuple(Rule(**{**rule, "values": tuple(rule["values"])}) for rule in content["rules"])
        if not all(rule.what in ("components", "total") and rule.becomes in content["labels"] for rule in rules):
            raise ValueError("unknown rule")
        return RuleSet(content["release"], content["metrics"], rules, tuple(content["labels"]), content["evidence"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} is no file of rules: write one with `bdfm postprocess tune`") from None


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
    known, out = read_rules(rules), Path(out)
    paths = list(segmentations_in(Path(prediction)).values())
    work = partial(_apply_file, rules=known, out=out)
    bar = partial(
        tqdm, total=len(paths), desc="post-processing", unit="case", disable=None if progress is None else not progress
    )
    if workers:
        with ProcessPoolExecutor(workers) as pool:
            changed = list(bar(pool.map(work, paths)))
    else:
        changed = list(bar(map(work, paths)))
    return Applied(out, len(paths), sum(changed))


def _apply_file(path: Path, *, rules: RuleSet, out: Path) -> bool:
    before = read_segmentation(path, allowed=(0, *rules.labels))
    after = apply(rules.rules, before.labels, spacing=before.spacing)
    target = out / path.name
    changed = bool((after != before.labels).any())
    if changed:
        image: Any = nibabel.load(path)
        header = image.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        with write_atomically(target) as temporary:
            nibabel.save(nibabel.Nifti1Image(after.astype(np.uint8), image.affine, header), temporary)
    elif not (target.exists() and target.samefile(path)):
        with write_atomically(target) as temporary:
            temporary.write_bytes(path.read_bytes())
    return changed
