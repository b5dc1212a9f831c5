"""Containers run without network and privileges, with limits; docker and apptainer are stand-ins."""

import os
import sys
from pathlib import Path

import pytest

from bdfm_nnunet.containers.sandboxes import IN, OUT, Sandbox, built_sandbox, engines, local_sandbox
from bdfm_nnunet.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers are for Linux")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A container whose entry point tells what it is allowed to do."""
    script(tmp_path / "c" / "entrypoint", 'grep -c : /proc/net/dev\ntouch "$1/new" || echo read only\n'
           'ulimit -v\necho "$2" > "$2/result"\ncat "$1/closed" || echo closed\nexit 7')  # fmt: skip
    (tmp_path / "c" / "predict.py").touch()
    (tmp_path / "in put").mkdir()
    (tmp_path / "in put" / "closed").write_text("secret")
    (tmp_path / "in put" / "closed").chmod(0)
    (tmp_path / "in put").chmod(0o555)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    for each in (tmp_path, *tmp_path.parents):
        if os.stat(each).st_uid == os.geteuid():
            each.chmod(os.stat(each).st_mode | 0o011)
    return tmp_path


def test_what_is_kept_from_a_container(folder: Path) -> None:
    sandbox = local_sandbox(folder / "c", 3)
    run = sandbox.run([IN, OUT], folder / "in put", folder / "out", timeout=60)
    assert run.code == 7 and (folder / "out" / "result").read_text() == f"{folder / 'out'}\n"
    assert run.peak_mib is not None and 0 < run.peak_mib < 500
    lines = run.log.splitlines()
    if "no network" in sandbox.told:
        assert lines[0] == "1"  # the loop alone
    if sandbox.powerless:
        assert "read only" in lines and "closed" in lines and "secret" not in run.log
    assert str(3 * 2**20) in lines or os.path.exists("/dev/nvidia0")
    assert len(sandbox.told) == 4


def test_a_container_that_does_not_end(tmp_path: Path) -> None:
    script(tmp_path / "entrypoint", "echo begun\nexec sleep 60")
    run = Sandbox("here", tmp_path).run([], tmp_path, tmp_path, timeout=0.5)
    assert run.code is None and run.log == "begun\n" and run.seconds < 20


@pytest.mark.parametrize("name", ["docker", "apptainer"])
def test_images_are_built_and_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "bin" / name, f'echo "$PWD: $*" >> {tmp_path}/words\n[ "$1" = run ] && exit 5\nexit 0')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert engines() == [name]
    container = tmp_path / "c"
    container.mkdir()
    sandbox = built_sandbox(name, container, 32)
    run = sandbox.run([IN, OUT], tmp_path / "i", tmp_path / "o", timeout=60)
    assert run.code == 5 and run.peak_mib is None and not sandbox.powerless
    words = (tmp_path / "words").read_text().splitlines()
    assert words[1].startswith(f"{container}: build ") and "--network none" in words[2]
    assert words[2].endswith("/input /output") and f"{tmp_path / 'i'}:/input:ro" in words[2]


def test_an_image_that_cannot_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "bin" / "docker", "echo no such base image >&2\nexit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert "docker" not in engines()
    with pytest.raises(InputError, match=r"docker build .* fails in .* \(no such base image\)"):
        built_sandbox("docker", tmp_path, None)
