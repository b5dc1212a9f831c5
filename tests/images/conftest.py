"""Images of a made-up download."""

from tests.dataset_conversion.conftest import tree

__all__ = ["tree"]
