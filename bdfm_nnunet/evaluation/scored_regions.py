"""The regions of a data set to score, and the label to ignore, from its dataset.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bdfm_nnunet.errors import InputError

_IGNORE, _LARGEST = "ignore", 65535


@dataclass(frozen=True)
class Target:
    """The regions to score.

    Attributes:
        name: name of the release or data set; it chooses the rules of a challenge.
        regions: region name -> its label values.
        ignore: label value of reference voxels that are not scored; None if there is none.
        source_values: label value -> value in the source's original files, where the two differ.

    Example:
        >>> target = Target("brats2021", {"enhancing_tumor": (3,)}, source_values={3: 4})
        >>> target.in_source_values().regions
        {'enhancing_tumor': (4,)}
    """

    name: str
    regions: dict[str, tuple[int, ...]]
    ignore: int | None = None
    source_values: Mapping[int, int] = field(default_factory=dict)

    def in_source_values(self) -> "Target":
        """Return the target for files with the source's original label values."""
        regions = {
            name: tuple(self.source_values.get(value, value) for value in values)
            for name, values in self.regions.items()
        }
        ignore = None if self.ignore is None else self.source_values.get(self.ignore, self.ignore)
        return Target(self.name, regions, ignore)


def target_of_dataset(
    dataset: Mapping[str, Any], *, name: str, path: str, source_values: Mapping[int, int] | None = None
) -> Target:
    """Return the regions that nnU-Net scores of a data set: all labels or regions except background and `ignore`.

    Args:
        dataset: content of a dataset.json that `bdfm_nnunet.nnunet_files` has checked.
        name: name of the data set.
        path: path of the dataset.json, for messages.
        source_values: as in `Target`.

    Raises:
        InputError: the labels cannot be scored.

    Example:
        >>> dataset = {"labels": {"background": 0, "tumor": [1, 2], "core": 2, "ignore": 3}}
        >>> target = target_of_dataset(dataset, name="Dataset060_Tumour", path="dataset.json")
        >>> target.regions, target.ignore
        ({'tumor': (1, 2), 'core': (2,)}, 3)
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
