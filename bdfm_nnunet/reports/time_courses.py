"""A figure of the time courses of voxels of a 4-D image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bdfm_nnunet.reports.figures import COLOURS


def time_course_figure(courses: Mapping[str, NDArray[Any]], hidden: NDArray[Any], *, title: str = "") -> Figure:
    """Draw the time courses of some voxels below one another; frames in which a voxel was hidden are shaded.

    Args:
        courses: name -> (voxels, frames).
        hidden: boolean (voxels, frames), True = hidden.
        title: heading.
    """
    voxels, frames = hidden.shape
    figure = Figure(figsize=(6.0, 0.8 + 1.6 * voxels), layout="constrained")
    places = figure.subplots(voxels, 1, sharex=True, squeeze=False)[:, 0]
    for number, axes in enumerate(places):
        for frame in np.flatnonzero(hidden[number]):
            axes.axvspan(frame - 0.5, frame + 0.5, color="0.88", lw=0)
        for colour, (name, values) in zip(("#000000", *COLOURS), courses.items()):
            axes.plot(np.arange(frames), values[number], color=colour, marker="o", markersize=2.5, lw=1.2, label=name)
        axes.set_xlim(-0.5, frames - 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    places[0].legend(fontsize=8, frameon=False, ncols=len(courses))
    places[-1].set_xlabel("frame (shaded: hidden from the encoder)")
    figure.suptitle(title, fontsize=10)
    return figure
