"""Cases that lack channels, for models that have learnt to do without some (`finetuning.channel_dropout`).

In the list of a case's files another channel of the case stands in for one that is missing: reading, cropping and
resampling then need to know nothing. Its values are replaced by 0 after normalisation, as in training.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.case_folders import NIFTI
from bdfm_nnunet.prediction.images_wanted import ImagesWanted

logger = logging.getLogger(__name__)


def with_stand_ins(files: Sequence[str], wanted: ImagesWanted) -> list[str] | None:
    """Return a file for every channel of a case that has some of them; None where this is no such case.

    Only NIfTI files: in other formats, one may hold several channels.

    Args:
        files: CASE_0001.nii.gz and the like; stand-ins may be among them.
        wanted: by the model.

    Raises:
        InputError: the model needs all channels.
    """
    names = [f"_{channel:04d}{wanted.ending}" for channel in range(len(wanted.channels))]
    given, files = len(files), present(files)
    found = {name: file for name in names for file in files if file.endswith(name)}
    each_once = 0 < len(found) == len(files) < len(names) and given in (len(files), len(names))
    if wanted.ending not in NIFTI or not each_once:
        return None
    chosen = [found.get(name, files[0]) for name in names]
    if not wanted.some_suffice:
        case, channels = files[0][: -len(names[0])], _named(missing_channels(chosen, wanted.ending), wanted)
        raise InputError(
            f"{case} lacks {channels}, and the model needs all {len(names)} ({', '.join(wanted.channels)}), since it "
            "was trained without finetuning.channel_dropout: add the files, or take a model that was trained with it"
        )
    return chosen


def missing_channels(files: Sequence[str], ending: str) -> list[int]:
    """Return which channels of a case another one stands in for.

    Example:
        >>> missing_channels(["a_0001.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz"], ".nii.gz")
        [0]
    """
    twice = {file for file in files if list(files).count(file) > 1}
    return [n for n, file in enumerate(files) if file in twice and not file.endswith(f"_{n:04d}{ending}")]


def present(files: Sequence[str]) -> list[str]:
    """Return the files of a case, each once."""
    return list(dict.fromkeys(files))


def without_missing(images: Any, files: Sequence[str], ending: str) -> Any:
    """Replace the channels of preprocessed images (C, *spatial) that another one stands in for by 0, in place."""
    for channel in missing_channels(files, ending):
        images[channel] = 0
    return images


def tell_missing(cases: Sequence[Sequence[str]], wanted: ImagesWanted) -> None:
    """Log each case that lacks channels, and which."""
    for files in cases:
        if missing := missing_channels(files, wanted.ending):
            case = Path(files[0]).name[: -len(f"_0000{wanted.ending}")]
            logger.warning(
                "case %s lacks %s: predicted without, as the model has learnt", case, _named(missing, wanted)
            )


def _named(missing: Sequence[int], wanted: ImagesWanted) -> str:
    names = ", ".join(f"{channel:04d} ({wanted.channels[channel]})" for channel in missing)
    return f"channel{'s' * (len(missing) > 1)} {names}"
