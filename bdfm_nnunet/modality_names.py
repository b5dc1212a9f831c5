"""Names that one modality has in public data sets."""

_MODALITIES = (
    ("t1", "t1w", "t1n", "t1weighted", "t1native"),
    ("t1c", "t1ce", "t1gd", "t1wce", "t1post", "t1km"),
    ("t2", "t2w", "t2weighted"),
    ("flair", "t2f", "t2flair", "fluidattenuated"),
    ("dwi", "dw", "dwib1000", "b1000"),
    ("adc", "adcmap"),
    ("t2s", "t2star", "t2starw"),
    ("swi", "swan"),
    ("pd", "pdw"),
)
"""Names of one modality, as letters and digits only; the first stands for all of them."""


def modality_of(name: str) -> str:
    """Return the name that stands for all names of a modality; any other name as letters and digits only.

    >>> modality_of("T1-Gd"), modality_of("T2_FLAIR"), modality_of("CT 1")
    ('t1c', 'flair', 'ct1')
    """
    plain = "".join(letter for letter in name.casefold() if letter.isalnum())
    return next((names[0] for names in _MODALITIES if plain in names), plain)


def is_modality(name: str) -> bool:
    """Return whether a name is one of a modality that is known.

    >>> is_modality("t2f"), is_modality("seg")
    (True, False)
    """
    return any(modality_of(name) == names[0] for names in _MODALITIES)
