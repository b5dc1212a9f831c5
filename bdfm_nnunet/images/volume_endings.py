"""Endings of the names of volume files, in any case."""

READ = (".nii.gz", ".nii", ".img", ".hdr")
"""Volumes that are read."""
NOT_READ = (
    ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".dicom", ".ima", ".mnc", ".mnc.gz", ".par", ".rec",
    ".head", ".brik", ".brik.gz", ".img.gz", ".hdr.gz", ".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".gipl",
    ".mif", ".vtk",
)  # fmt: skip
"""Volumes of other forms: never read, but counted and named."""


def without_ending(path: str) -> str | None:
    """Return the path of a volume without its ending; None for files that are not read as volumes.

    >>> without_ending("a/b_T1.NII.gz"), without_ending("a/b.mgz")
    ('a/b_T1', None)
    """
    lower = path[-8:].lower()
    return next((path[: -len(ending)] for ending in READ if lower.endswith(ending)), None)


def unread_ending(path: str) -> str | None:
    """Return the ending, in lower case, of a volume in a format that is not read; None for other files.

    >>> unread_ending("aseg.MGZ"), unread_ending("readme.txt")
    ('.mgz', None)
    """
    lower = path[-9:].lower()
    return max((ending for ending in NOT_READ if lower.endswith(ending)), key=len, default=None)
