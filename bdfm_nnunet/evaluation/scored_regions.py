"""What of a data set is scored: its regions and the label that counts for nothing, as dataset.json tells them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bdfm_nnunet.errors import InputError

_IGNORE, _LARGEST = "ignore", 65535


@dataclass(frozen=True)
class Target:
    """Regions to be scored.

    Attributes:
        name: of the release or data set, by which the rules of a challenge are chosen.
        regions: region name -> label values it consists of.
        ignore: label value of reference voxels that count for nothing; None where there is none.
        source_values: label value -> value in the source's own files, where they differ.
    """

    name: str
    regions: dict[str, tuple[int, ...]]
    ignore: int | None = None
    source_values: Mapping[int, int] = field(default_factory=dict)

    def in_source_values(self) -> "Target":
        """The same for files with the source's own label values."""
        regions = {
            name: tuple(self.source_values.get(value, value) for value in values)
            for name, values in self.regions.items()
        }
        ignore = None if self.ignore is None else self.source_values.get(self.ignore, self.ignore)
        return Target(self.name, regions, ignore)


def target_of_dataset(
    dataset: Mapping[str, Any], *, name: str, path: str, source_values: Mapping[int, int] | None = None
) -> Target:
    """Return what nnU-Net would score of a data set: every label or region but background and `ignore`.

    Args:
        dataset: content of a dataset.json that `bdfm_nnunet.nnunet_files` has checked.
        name: of the data set.
        path: of the file, for messages.
        source_values: as in `Target`.

    Raises:
        InputError: its labels cannot be scored.

    >>> target_of_dataset({"labels": {"background": 0, "all": [1, 2], "core": 2}}, name="a", path="b").regions
    {'all': (1, 2), 'core': (2,)}
    """
    labels = {
        key: tuple(value if isinstance(value, (list, tuple)) else [value]) for key, value in dataset["labels"].items()
    }
    values = [value for found in labels.values() for value in found]
    fault = ""
    if not all(labels.values()):
        fault = "a region without labels"
    elif not all(0 <= value <= _LARGEST for value in values):
        fault = f"a label that is not between 0 and {_LARGEST}"
    elif len(labels.get(_IGNORE, (0,))) != 1:
        fault = "more than one label to ignore"
    regions = {key: found for key, found in labels.items() if key != _IGNORE and set(found) != {0}}
    as_regions = any(len(found) > 1 for found in labels.values())
    order = dataset.get("regions_class_order")
    if not fault and not regions:
        fault = "no label beside the background"
    if not fault and as_regions and order is not None and len(order) != len(regions):
        fault = f"{len(regions)} regions but {len(order)} values in regions_class_order"
    if fault:
        raise InputError(f"{path} has {fault}: correct it, or convert the data set again")
    ignore = labels[_IGNORE][0] if _IGNORE in labels else None
    return Target(name, regions, ignore, dict(source_values or {}))
