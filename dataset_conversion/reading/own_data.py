"""Entry fields that every data set of a user needs: its labels as `--labels` names them, its name, its terms."""

import re
from collections.abc import Mapping
from typing import Any

from bdfm_nnunet.dataset_conversion.release import one_label_each
from bdfm_nnunet.errors import InputError

OWN_DATA: dict[str, Any] = {
    "licence": "that of your data",
    "url": "your own data",
    "citation": "that of your data",
}


def own_labels(label: str | None, labels: Mapping[int, str] | None) -> dict[str, Any]:
    """Return the fields of a release that tell its labels.

    Args:
        label: the pattern or suffix of the label files; None where there are none.
        labels: label value to meaning; `{1: "foreground"}` by default.

    Raises:
        InputError: labels without a file, or names that nnU-Net cannot have.
    """
    if label is None:
        if labels:
            raise InputError("label values were named, but no label file: give a pattern for it, or leave them out")
        return {}
    named = {
        value: meaning for value, meaning in (labels or {1: "foreground"}).items() if not _is_background(value, meaning)
    }
    _check_labels(named)
    return one_label_each(named)


def _is_background(value: int, meaning: str) -> bool:
    """Return whether a label is the background, which need not be named."""
    zero, called = value == 0, meaning.strip().casefold() == "background"
    if zero != called:
        raise InputError(
            f"label {value} cannot be called {meaning!r}: in nnU-Net 0 is the background, and nothing else is; write "
            "0=background, or leave it out"
        )
    return zero


_MEANING = re.compile(r"[^\W_][\w .()+'-]*")


def _check_labels(labels: Mapping[int, str]) -> None:
    if not labels:
        raise InputError("no label but the background was named: name the others, as in --labels 1=lesion,2=oedema")
    seen: dict[str, int] = {}
    for value, meaning in labels.items():
        if not _MEANING.fullmatch(meaning) or meaning != meaning.strip():
            raise InputError(
                f"label {value} cannot be called {meaning!r} (--labels): use letters, digits, spaces, hyphens and "
                "underscores, as in --labels 1=lesion,2=oedema"
            )
        other = seen.setdefault(meaning.replace(" ", "_").casefold(), value)
        if other != value:
            raise InputError(
                f"labels {other} and {value} are both called {meaning!r} (--labels): give each its own name"
            )
    if "ignore" in seen and seen["ignore"] != max(labels):
        raise InputError("the label ignore must have the highest value in nnU-Net (--labels): choose another name")


def dataset_name(name: str) -> str:
    """Return the name of a data set, or raise InputError where it cannot be part of a folder's name."""
    if not re.fullmatch(r"[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*", name):
        raise InputError(f"the name {name!r} is no good for a folder of nnU-Net: use letters and digits")
    return name
