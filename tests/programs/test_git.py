"""git keeps a repository on the mount."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.programs.running import run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.data_path

ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}


def _git(repository: Path, *arguments: str) -> str:
    return run("git", *arguments, cwd=repository, environment=ENVIRONMENT)


def _fill(repository: Path) -> str:
    """A repository with history; returns the name of its last commit."""
    rng = random.Random(5)
    repository.mkdir()
    _git(repository, "init", "--quiet", "--initial-branch=main")
    for commit in range(5):
        for number in range(30):
            path = repository / f"module{number % 5}" / f"file{number}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"{rng.random()}\n" for _ in range(rng.randrange(200))))
        _git(repository, "add", "--all")
        _git(repository, "commit", "--quiet", "--message", f"commit {commit}")
    return _git(repository, "rev-parse", "HEAD")


def test_history_made_on_the_mount_is_the_same_as_elsewhere(place: Path, reference: Path) -> None:
    assert _fill(place / "repository") == _fill(reference / "repository")
    _git(place / "repository", "fsck", "--full", "--strict")
    assert _git(place / "repository", "status", "--porcelain") == ""


def test_clones_to_and_from_the_mount_are_whole(place: Path, reference: Path) -> None:
    head = _fill(reference / "origin")
    _git(reference, "clone", "--quiet", "--no-local", str(reference / "origin"), f"{place}/clone")
    _git(place, "clone", "--quiet", "clone", "twin")
    _git(reference, "clone", "--quiet", f"{place}/twin", "back")
    for repository in (place / "clone", place / "twin", reference / "back"):
        _git(repository, "fsck", "--full")
        assert _git(repository, "rev-parse", "HEAD") == head
        assert _git(repository, "status", "--porcelain") == ""


def test_repacking_and_checking_out_lose_nothing(place: Path) -> None:
    repository = place / "repository"
    head = _fill(repository)
    _git(repository, "gc", "--quiet", "--prune=now")
    _git(repository, "checkout", "--quiet", "HEAD~3")
    _git(repository, "checkout", "--quiet", "main")
    _git(repository, "fsck", "--full", "--strict")
    assert _git(repository, "rev-parse", "HEAD") == head
    assert _git(repository, "status", "--porcelain") == ""
