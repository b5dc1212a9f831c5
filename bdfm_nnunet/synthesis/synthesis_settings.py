"""The settings of made-up images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.synthesis.tissue_tables import BRAIN, LESION_PARTS, modality_levels

_RANGES = {
    "lesions": (0.0, 1.0),
    "cavities": (0.0, 1.0),
    "spacing": (0.0, 10.0),
    "warp": (0.0, 10.0),
    "bias": (0.0, 1.0),
    "noise": (0.0, 0.5),
    "thickest_slice": (0.0, 10.0),
}


_FINEST = 0.2


def has_contrasts(channels: Iterable[str]) -> bool:
    """Return whether all channels are named after a known contrast.

    Example:
        >>> has_contrasts(["T1", "FLAIR"]), has_contrasts(["T1", "MRA"])
        (True, False)
    """
    try:
        return bool([modality_levels(name) for name in channels])
    except InputError:
        return False


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """What is drawn, and how strongly it varies.

    Attributes:
        channels: of each image.
        tissues: label -> tissue; empty where labels are mere numbers.
        contrasts: "named": a channel called t1, t1c, t2 or flair has about that contrast; "free": any contrast.
        classes: label -> class to learn; several labels may share one. Empty: brain or head, for pre-training.
        label_lesions: whether the parts of drawn lesions are classes too.
        lesions: share of the images that have one or two tumours, which push the tissue outwards.
        cavities: share of the images that have a cavity of a resection, filled with fluid, which draws tissue inwards.
        skull_strip: leave the brain alone.
        spacing: mm; 0: that of the map.
        warp: mm, standard deviation of the random deformation.
        bias: standard deviation of the logarithm of the intensity non-uniformity.
        noise: largest standard deviation of the noise, relative to white matter.
        thickest_slice: mm; half of the channels are blurred as if acquired in slices up to that thick; 0: none.
        seed: of everything random; image k of a seed is the same whatever is drawn beside it.

    Example:
        >>> SynthesisSettings(channels=("t1c", "flair"), lesions=0.8)
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: lesions need to know where the brain is: give a table of tissues with \
white, grey, deep or fluid
    """

    channels: tuple[str, ...] = ("mri",)
    tissues: Mapping[int, str] = field(default_factory=dict)
    contrasts: Literal["named", "free"] = "free"
    classes: Mapping[int, str] = field(default_factory=dict)
    label_lesions: bool = False
    lesions: float = 0.0
    cavities: float = 0.0
    skull_strip: bool = False
    spacing: float = 0.0
    warp: float = 3.0
    bias: float = 0.2
    noise: float = 0.05
    thickest_slice: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name):g}, expected a number from {low:g} to {high:g}")
        if 0 < self.spacing < _FINEST:
            raise InputError(
                f"spacing is {self.spacing:g} mm, expected at least {_FINEST:g}, or 0 for that of the maps"
            )
        if not self.channels or len({name.casefold() for name in self.channels}) < len(self.channels):
            raise InputError(f"channels are {', '.join(self.channels) or 'none'}: name one or more, each once")
        if self.contrasts not in ("named", "free"):
            raise InputError(f"contrasts is {self.contrasts!r}, expected named or free")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}, expected a whole number from 0 up")
        self._check_tissues()
        if self.label_lesions and not (self.lesions or self.cavities):
            raise InputError("lesions are to be labelled but none are drawn: give a share of lesions or cavities")

    def _check_tissues(self) -> None:
        if self.contrasts == "named":
            for name in self.channels:
                modality_levels(name)
            if not self.tissues:
                raise InputError("named contrasts need a table of tissues: give one, or draw contrasts freely")
        wanted = {"lesions": self.lesions, "cavities": self.cavities, "skull stripping": self.skull_strip}
        for name in (name for name, value in wanted.items() if value and not {*BRAIN} & {*self.tissues.values()}):
            verb = "needs" if name.endswith("ing") else "need"
            raise InputError(
                f"{name} {verb} to know where the brain is: give a table of tissues with white, grey, deep or fluid"
            )

    @property
    def class_values(self) -> dict[str, int]:
        """Classes to learn and their labels, 1, 2, ...; those of lesions come last."""
        names = [*dict.fromkeys(self.classes.values()), *(self._lesion_parts if self.label_lesions else ())]
        return {name: value for value, name in enumerate(dict.fromkeys(names), start=1)}

    @property
    def _lesion_parts(self) -> tuple[str, ...]:
        return LESION_PARTS if self.cavities else LESION_PARTS[:3]
