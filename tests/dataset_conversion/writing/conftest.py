"""A download of the made-up release."""

from pathlib import Path

import pytest

from tests.dataset_conversion.made_up_release import Download


@pytest.fixture
def download(tmp_path: Path, raw: Path) -> Download:
    return Download(tmp_path / "made up")
