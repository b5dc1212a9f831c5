"""Maps of what each voxel of an image adds to a prediction of its subject, on the grid of the image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import io_orientation, ornt_transform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.files import write_atomically
from bdfm_nnunet.images.case_channels import read_whole
from bdfm_nnunet.images.nifti_bytes import packed_values

Values = NDArray[np.float32]


def joined_crops(parts: Tensor, starts: Sequence[Sequence[int]], crop: Sequence[int], shape: Sequence[int]) -> Values:
    """Return the map of a volume from those of the crops that cover it.

    Each position of a crop stands for a block of voxels, over which its number is spread smoothly. The numbers of crops
    that overlap add up, as they do in the prediction.

    Args:
        parts: (N, *positions), what each position of each crop adds.
        starts: first voxel of each crop; may lie outside of the volume.
        crop: voxels of a crop per axis.
        shape: voxels of the volume per axis.

    Returns:
        (*shape), per voxel; crops that lie inside sum to their parts.

    Example:
        >>> joined_crops(torch.tensor([[[[8.0]]]]), [(0, 0, 0)], (2, 2, 2), (2, 2, 3))[0, 0].tolist()
        [1.0, 1.0, 0.0]
    """
    positions = parts.shape[1:]
    block = np.prod([side / count for side, count in zip(crop, positions, strict=True)])
    fine = functional.interpolate(parts[:, None].float(), tuple(crop), mode="trilinear")[:, 0] / float(block)
    total = torch.zeros(tuple(shape))
    for values, start in zip(fine, starts, strict=True):
        low = [max(at, 0) for at in start]
        high = [min(at + side, size) for at, side, size in zip(start, crop, shape, strict=True)]
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        total[inside] += values[tuple(slice(a - at, b - at) for a, b, at in zip(low, high, start, strict=True))]
    found: Values = total.numpy()
    return found


def on_image_grid(values: Values, properties: Mapping[str, Any], transpose_backward: Sequence[int]) -> Values:
    """Undo nnU-Net's resampling, cropping and transposition of a map; what was cropped away is 0.

    Args:
        values: map on the grid of the preprocessed images.
        properties: what nnU-Net's preprocessing tells of the case.
        transpose_backward: of the plans.
    """
    size = tuple(int(side) for side in properties["shape_after_cropping_and_before_resampling"])
    resampled = functional.interpolate(torch.from_numpy(values)[None, None], size, mode="trilinear")[0, 0].numpy()
    whole = np.zeros(tuple(properties["shape_before_cropping"]), dtype=np.float32)
    whole[tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])] = resampled
    return whole.transpose(tuple(transpose_backward))


def write_map(path: Path, values: Values, properties: Mapping[str, Any], *, like: Path, by_nibabel: bool) -> None:
    """Write a map as NIfTI on the grid of an image.

    Args:
        path: file to write, CASE.nii.gz.
        values: (z, y, x), in the order in which nnU-Net's reader gave the image.
        properties: what that reader tells of the image.
        like: the image.
        by_nibabel: whether the reader takes what SimpleITK refuses.

    Raises:
        InputError: the file cannot be written.
    """
    image = read_whole(like, by_nibabel=by_nibabel, again="predict it again")
    array = values.transpose(2, 1, 0)
    turned = properties.get("nibabel_stuff", {}).get("reoriented_affine")
    if turned is not None:  # the reader has turned the axes
        way = ornt_transform(io_orientation(turned), io_orientation(properties["nibabel_stuff"]["original_affine"]))
        array = np.asarray(nib.Nifti1Image(array, turned).as_reoriented(way).dataobj)
    content = packed_values(np.ascontiguousarray(array, dtype=np.float32), like=image.header)
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)
