"""Files that operating systems leave in folders; commands count them and never take them for data."""

_FILES = {".ds_store", "thumbs.db", "desktop.ini", "ehthumbs.db", ".directory", ".localized", "icon\r"}
_FOLDERS = {"__macosx", "$recycle.bin", "system volume information", "lost+found"}


def is_leftover(name: str) -> bool:
    """Return whether a file of this name is a left-over: a Mac's `._*` copy, `.DS_Store`, `Thumbs.db` and the like.

    >>> is_leftover("._case_0000.nii.gz"), is_leftover("case_0000.nii.gz")
    (True, False)
    """
    return name.startswith("._") or name.casefold() in _FILES


def is_leftover_folder(name: str) -> bool:
    """Return whether a folder of this name holds only left-overs, such as `__MACOSX`."""
    return name.casefold() in _FOLDERS
