"""The code that ran, as git's own files and pip name it."""

from pathlib import Path

import pytest

from bdfm_nnunet.results.code_version import code_sha256, commit_of_checkout

COMMIT, OTHER = "a" * 40, "b" * 40


def _checkout(folder: Path) -> Path:
    git = folder / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (folder / "setup.py").touch()
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    return git


def test_the_commit_of_a_branch_wherever_git_keeps_it(tmp_path: Path) -> None:
    git = _checkout(tmp_path)
    assert commit_of_checkout(tmp_path) is None  # no commit yet
    (git / "packed-refs").write_text(
        f"# pack-refs with: peeled\n{OTHER} refs/heads/mainline\n{COMMIT} refs/heads/main\n"
    )
    assert commit_of_checkout(tmp_path) == COMMIT
    (git / "refs/heads/main").write_text(f"{OTHER}\n")
    assert commit_of_checkout(tmp_path) == OTHER
    (git / "HEAD").write_text(f"{COMMIT}\n")  # detached
    assert commit_of_checkout(tmp_path) == COMMIT


def test_the_commit_of_a_second_working_tree(tmp_path: Path) -> None:
    git = _checkout(tmp_path / "first")
    (git / "refs/heads/other").write_text(COMMIT)
    apart = git / "worktrees/second"
    apart.mkdir(parents=True)
    (apart / "HEAD").write_text("ref: refs/heads/other\n")
    (apart / "commondir").write_text("../..\n")
    second = tmp_path / "second"
    second.mkdir()
    (second / "setup.py").touch()
    (second / ".git").write_text(f"gitdir: {apart}\n")
    assert commit_of_checkout(second) == COMMIT


@pytest.mark.parametrize("head", ["ref: refs/heads/gone\n", "nonsense\n", "\x00\n"])
def test_files_that_name_no_commit(head: str, tmp_path: Path) -> None:
    (_checkout(tmp_path) / "HEAD").write_text(head)
    assert commit_of_checkout(tmp_path) is None


def test_a_repository_around_an_installed_package_is_another_one(tmp_path: Path) -> None:
    git = _checkout(tmp_path)
    (git / "HEAD").write_text(COMMIT)
    (tmp_path / "setup.py").unlink()
    assert commit_of_checkout(tmp_path) is None


def test_the_digest_of_the_code() -> None:
    assert len(code_sha256()) == 64 and code_sha256() == code_sha256()
