"""container.json: what the entry point of a container needs to know of its model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bdfm_nnunet.containers.challenge_forms import ChallengeForm, find_form
from bdfm_nnunet.containers.input_cases import ChannelNames
from bdfm_nnunet.containers.staged_case import Staging
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.safe_names import check_name

SETTINGS, MODEL, RULES = "container.json", "model", "postprocessing.json"
_SHAPE = {
    "challenge": str, "folds": [str], "checkpoint": str, "channels": [str], "optional": [str], "labels": {str: int},
    "orientation": str, "by_nibabel": bool, "mirroring": bool, "target": str, "version": str,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ContainerSettings:
    """The model of a container, and how its images become what it reads.

    Attributes:
        challenge: name of a `ChallengeForm`.
        folds: of the model, which are averaged.
        checkpoint: file of each fold.
        channels: of the model in its order; of an embedding the one that is shown.
        optional: channels that a case may lack.
        labels: nnU-Net's value to that of the challenge, as text; background aside.
        orientation: of all images of the training; empty: not known, or several.
        by_nibabel: whether the model's reader takes what SimpleITK refuses.
        mirroring: whether mirrored copies are predicted too.
        target: that is predicted for subjects; empty for other models.
        version: of this package.
    """

    challenge: str
    folds: tuple[str, ...]
    checkpoint: str
    channels: tuple[str, ...]
    version: str
    optional: tuple[str, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    orientation: str = ""
    by_nibabel: bool = False
    mirroring: bool = True
    target: str = ""

    @classmethod
    def read(cls, folder: Path) -> "ContainerSettings":
        """Read those of a container's folder.

        Raises:
            InputError: the folder is none.
        """
        path = folder / SETTINGS
        if not path.is_file():
            raise InputError(f"{folder} is no container, it has no {SETTINGS}: write one with `bdfm container`")
        content = read_json(path, _SHAPE)
        for name in (content["checkpoint"], *content["folds"]):
            check_name(name, f"a name in {path}:")
        find_form(content["challenge"])
        known: dict[str, Any] = {name: content[name] for name in _SHAPE}
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        return cls(**known)

    def write(self, folder: Path) -> None:
        """Write them into a folder."""
        write_json(folder / SETTINGS, asdict(self))

    @property
    def form(self) -> ChallengeForm:
        """The challenge."""
        return find_form(self.challenge)

    @property
    def names(self) -> ChannelNames:
        """The channels as they are found in names of files."""
        return ChannelNames(self.channels, self.optional, self.form.stand_ins)

    @property
    def staging(self) -> Staging:
        """How cases become what the model reads."""
        return Staging(self.channels, self.optional, self.orientation, self.by_nibabel)

    @property
    def inverse(self) -> dict[int, int]:
        """nnU-Net's label value to that of the challenge."""
        return {int(value): label for value, label in self.labels.items()}
