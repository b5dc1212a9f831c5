"""Errors of files that cannot be read as images, for callers that word the message themselves."""

from collections.abc import Sequence

from bdfm_nnunet.errors import Refusal


class Damaged(Refusal):
    """Error of a damaged or incomplete file.

    Attributes:
        what: the fault, in words that follow the file's name.
    """

    def __init__(self, name: str, what: str, remedy: str = "download it again") -> None:
        super().__init__(f"{name} {what}: {remedy}")
        self.what = what
        self._made_of = (name, what, remedy)

    def __reduce__(self) -> tuple[type["Damaged"], tuple[str, str, str]]:
        return Damaged, self._made_of  # so that it comes back from worker processes


class WrongAxes(Refusal):
    """Error of a file that is not a single 3-D volume.

    Attributes:
        shape: shape of the file's array.
    """

    def __init__(self, name: str, shape: Sequence[int], kind: str, wanted: str) -> None:
        found = " x ".join(map(str, shape))
        super().__init__(f"{name} is {found} of type {kind} where {wanted} expected: split it or leave the case out")
        self.shape = tuple(shape)
        self._made_of = (name, self.shape, kind, wanted)

    def __reduce__(self) -> tuple[type["WrongAxes"], tuple[str, tuple[int, ...], str, str]]:
        return WrongAxes, self._made_of
