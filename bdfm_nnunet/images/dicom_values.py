"""Values of DICOM attributes, whatever a file holds in their place."""

from typing import Any


def text_of(dataset: Any, name: str) -> str:
    r"""Return an attribute as text, several values with a backslash between them; empty if there is none.

    >>> text_of({"ImageType": ["ORIGINAL", "PRIMARY"]}, "ImageType"), text_of({}, "ImageType")
    ('ORIGINAL\\PRIMARY', '')
    """
    value = dataset.get(name)
    if value is None:
        return ""
    parts = value if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
    return "\\".join(str(part) for part in parts).strip(" \0")


def number_of(dataset: Any, name: str) -> float | None:
    """Return the first value of an attribute as a number; None if it is none, or is not finite.

    >>> number_of({"EchoTime": "2.5"}, "EchoTime"), number_of({"EchoTime": "soon"}, "EchoTime")
    (2.5, None)
    """
    text = text_of(dataset, name).partition("\\")[0]
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def numbers_of(dataset: Any, name: str, count: int) -> tuple[float, ...]:
    """Return so many finite numbers, or none at all.

    >>> numbers_of({"PixelSpacing": [0.5, 0.5]}, "PixelSpacing", 2)
    (0.5, 0.5)
    >>> numbers_of({"PixelSpacing": "1"}, "PixelSpacing", 2)
    ()
    """
    try:
        values = tuple(float(part) for part in text_of(dataset, name).split("\\"))
    except ValueError:
        return ()
    return values if len(values) == count and all(abs(value) < float("inf") for value in values) else ()
