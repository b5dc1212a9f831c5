"""Checkpoints of a run in one folder, without a trainer."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.training.saver import BEST, FINAL, LATEST, PREVIOUS, Saver
from tests.limits import largest_file


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def saver(tmp_path: Path, told: list[str]) -> Saver:
    return Saver(tmp_path, told.append)


def _content(number: int, **more: Any) -> dict[str, Any]:
    return {"network_weights": {"weight": torch.full((50_000,), float(number))}, **more}


def _write(saver: Saver, *numbers: int, name: str = LATEST) -> None:
    for number in numbers:
        assert saver.write(_content(number), saver.path(name)) is not None


def _number(saver: Saver, name: str = LATEST) -> int:
    return int(saver.read(saver.path(name)).weights["weight"][0])


def _cut(path: Path, size: int = 5000) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _half_written(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith("checkpoint_")]


def test_the_last_but_one_stays_beside_the_latest(saver: Saver) -> None:
    _write(saver, 1)
    assert not saver.path(PREVIOUS).exists()
    _write(saver, 2, 3)
    assert (_number(saver), _number(saver, PREVIOUS)) == (3, 2)
    saver.remove_previous()
    saver.remove_previous()
    assert not saver.path(PREVIOUS).exists() and _number(saver) == 3


def test_only_the_latest_has_one_before_it(saver: Saver) -> None:
    for name in (BEST, FINAL):
        _write(saver, 1, 2, name=name)
        assert _number(saver, name) == 2
    assert not saver.path(PREVIOUS).exists()


@pytest.mark.parametrize("size", [0, 1, 5000, 100_000, None])
def test_a_damaged_latest_gives_way_to_the_one_before(size: int | None, saver: Saver, told: list[str]) -> None:
    _write(saver, 1, 2)
    if size is None:
        saver.path(LATEST).unlink()
    else:
        _cut(saver.path(LATEST), size)
    assert _number(saver) == 1
    (warning,) = told
    assert warning.startswith("WARNING: ") and LATEST in warning and f"continuing from {PREVIOUS}" in warning


def test_a_flipped_bit_is_damage(saver: Saver, told: list[str]) -> None:
    """Somewhere in the weights, where only a check sum can tell."""
    _write(saver, 1, 2)
    content = bytearray(saver.path(LATEST).read_bytes())
    content[len(content) // 2] ^= 1
    saver.path(LATEST).write_bytes(content)
    assert _number(saver) == 1 and told


def test_where_none_can_be_used_the_error_names_the_file(saver: Saver, told: list[str]) -> None:
    with pytest.raises(InputError, match=LATEST):
        saver.read(saver.path(LATEST))
    _write(saver, 1, 2)
    _cut(saver.path(LATEST))
    _cut(saver.path(PREVIOUS))
    with pytest.raises(InputError, match=PREVIOUS):
        saver.read(saver.path(LATEST))
    assert len(told) == 1


@pytest.mark.parametrize("name", [BEST, FINAL])
def test_others_are_never_taken_for_the_one_before(name: str, saver: Saver, told: list[str]) -> None:
    _write(saver, 1, 2)
    _write(saver, 3, name=name)
    _cut(saver.path(name))
    with pytest.raises(InputError, match=name):
        saver.read(saver.path(name))
    assert not told


@pytest.mark.parametrize(
    "place", ["text", {}, {"iteration": "2", "processes": []}, {"iteration": 2, "processes": [{"random": {}}]}]
)
def test_a_place_in_the_epoch_that_is_none_is_refused(place: Any, saver: Saver) -> None:
    saver.write(_content(1, bdfm_progress=place), saver.path(FINAL))
    with pytest.raises(InputError, match=rf"{FINAL} is no checkpoint of this training"):
        saver.read(saver.path(FINAL))


def test_a_full_disk_is_a_sentence_and_what_was_there_stays(saver: Saver, tmp_path: Path) -> None:
    _write(saver, 1, 2)
    with largest_file(100_000), pytest.raises(InputError, match=rf"cannot write .*{LATEST}.*continue with --c"):
        saver.write(_content(3), saver.path(LATEST))
    assert (_number(saver), _number(saver, PREVIOUS)) == (2, 1)
    assert not _half_written(tmp_path)


def test_a_full_disk_is_a_warning_while_there_may_be_room_later(saver: Saver, told: list[str], tmp_path: Path) -> None:
    _write(saver, 1)
    with saver.spared():
        with largest_file(100_000):
            assert saver.write(_content(2), saver.path(LATEST)) is None
        assert len(told) == 1 and "training goes on and tries again later: cannot write" in told[0]
        assert _number(saver) == 1 and not _half_written(tmp_path)
        _write(saver, 3)  # there is room again
    assert (_number(saver), _number(saver, PREVIOUS)) == (3, 1)
    with largest_file(100_000), pytest.raises(InputError):
        saver.write(_content(4), saver.path(LATEST))


def test_what_goes_wrong_inside_ends_the_sparing(saver: Saver) -> None:
    with pytest.raises(KeyError), saver.spared():
        raise KeyError
    with largest_file(100_000), pytest.raises(InputError):
        saver.write(_content(1), saver.path(LATEST))


def test_a_disk_without_links_keeps_the_one_before_too(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    _write(saver, 1, 2)
    assert (_number(saver), _number(saver, PREVIOUS)) == (2, 1)
