"""Tissues: which label is which, and how bright each is in the usual contrasts."""

from collections.abc import Mapping
from pathlib import Path

from bdfm_nnunet.data.phantom import CONTRASTS
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.modality_names import modality_of

PARENCHYMA = ("white", "grey", "deep")
BRAIN = (*PARENCHYMA, "fluid")
LESION_PARTS = ("necrosis", "oedema", "enhancing", "cavity")
"""Tissues that lesions are made of, in the order of their labels."""

_CONTRASTS = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f"}
"""Modality to its contrast."""
_IN_THE_BRAIN = ("white", "grey", "fluid", "necrosis", "oedema", "enhancing")
_ELSEWHERE = {
    "deep": (0.84, 0.85, 0.66, 0.80),
    "vessel": (0.50, 1.60, 0.20, 0.20),
    "bone": (0.15, 0.15, 0.10, 0.10),
    "marrow": (0.95, 0.95, 0.50, 0.50),
    "muscle": (0.60, 0.65, 0.35, 0.45),
    "skin": (1.15, 1.15, 0.70, 0.80),
    "eye": (0.30, 0.32, 1.55, 0.28),
    "mucosa": (0.65, 1.35, 1.30, 1.05),
}
"""Brightness relative to white matter in T1: t1n, t1c, t2w, t2f."""

HEAD: dict[int, str] = {
    **dict.fromkeys((2, 41, 7, 46, 16, 25, 57, 28, 60, 77, 85, 136, 137, 163, 164), "white"),
    **dict.fromkeys((*range(251, 256), 512), "white"),
    **dict.fromkeys((3, 42, 8, 47, 17, 53, 18, 54, *range(1000, 1036), *range(2000, 2036)), "grey"),
    **dict.fromkeys((10, 49, 11, 50, 12, 51, 13, 52, 26, 58), "deep"),
    **dict.fromkeys((4, 43, 5, 44, 14, 15, 24, 72, 257), "fluid"),
    **dict.fromkeys((30, 62, 502, 514), "vessel"),
    **dict.fromkeys((31, 63, 509), "mucosa"),
    **dict.fromkeys((507, 508, 530), "muscle"),
    506: "eye", 511: "skin", 515: "bone", 516: "marrow",
}  # fmt: skip
"""FreeSurfer's numbers, and those from 502 on of maps of whole heads, which were named by where they lie."""

TABLES = {"head": HEAD}


def read_tissues(name: str) -> dict[int, str]:
    """Return label -> tissue of a table that ships with the package, or of a JSON file, {"2": "white", ...}.

    Raises:
        InputError: there is no table of that name, or the file is something else.

    Example:
        >>> read_tissues("head")[41]
        'white'
    """
    if name in TABLES:
        return dict(TABLES[name])
    path = Path(name)
    if not path.exists():
        raise InputError(f"tissues {name} is neither {' nor '.join(TABLES)} nor a file: name a JSON file of labels")
    content = read_json(path, {str: str})
    for label in content:
        if not label.isdecimal():
            raise InputError(f'{path} has {label!r} where a label was expected: write it as {{"2": "white"}}')
    return {int(label): tissue for label, tissue in content.items()}


def modality_levels(channel: str) -> Mapping[str, float]:
    """Return tissue -> brightness in a contrast, relative to white matter in T1.

    Raises:
        InputError: the name of the channel is none of a known contrast.

    Example:
        >>> levels = modality_levels("FLAIR")
        >>> levels["oedema"] > levels["grey"] > levels["fluid"]
        True
    """
    key = _CONTRASTS.get(modality_of(channel))
    if key is None:
        raise InputError(
            f"the contrast of channel {channel!r} is not known: name it t1, t1c, t2 or flair, or draw contrasts freely"
        )
    brain = dict(zip(_IN_THE_BRAIN, CONTRASTS[key]))
    number = list(CONTRASTS).index(key)
    return {**brain, "cavity": brain["fluid"], **{name: levels[number] for name, levels in _ELSEWHERE.items()}}
