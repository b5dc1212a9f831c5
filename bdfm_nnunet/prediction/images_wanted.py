"""The images that a trained model reads: channels, format, and the spacing that they are resampled to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bdfm_nnunet.nnunet_files import channels_of, outputs_of


@dataclass(frozen=True)
class ImagesWanted:
    """The images that a model reads.

    Attributes:
        channels: names of its channels.
        classes: channels of its result.
        ending: of its files.
        reader: makes nnU-Net's reader.
        by_nibabel: whether that reader takes what SimpleITK does not.
        spacing: to which images are resampled, axis by axis as `transpose` orders them; two axes where slices stay.
        transpose: order of the axes (z, y, x) in the network.
        flat: whether files with two axes are taken, as a model of slices does.
        some_suffice: whether cases may lack channels, as the model has learnt to do without.
    """

    channels: Sequence[str]
    classes: int
    ending: str
    reader: Callable[[], Any]
    by_nibabel: bool
    spacing: Sequence[float]
    transpose: Sequence[int]
    flat: bool
    some_suffice: bool = False

    @classmethod
    def of(
        cls, plans: Any, configuration: Any, dataset: Mapping[str, Any], *, some_suffice: bool = False
    ) -> "ImagesWanted":
        """Take it from nnU-Net's views of plans and configuration, and the content of dataset.json."""
        by_nibabel = plans.plans.get("image_reader_writer") != "SimpleITKIO"
        return cls(
            channels=channels_of(dataset),
            classes=outputs_of(dataset),
            ending=dataset["file_ending"],
            reader=plans.image_reader_writer_class,
            by_nibabel=by_nibabel,
            spacing=configuration.spacing,
            transpose=plans.transpose_forward,
            flat=len(configuration.patch_size) == 2 and not by_nibabel,
            some_suffice=some_suffice,
        )
