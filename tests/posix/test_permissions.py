"""Who may do what: mode bits checked with the ids of another process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.processes import ALICE, ALICE_IN_TEAM, BOB, TEAM_GID, User, run_as

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("mode", "owner", "allowed"),
    [
        (0o400, ALICE, "r"),
        (0o200, ALICE, "w"),
        (0o700, ALICE, "rwx"),
        (0o077, ALICE, ""),
        (0o040, User(BOB.uid, ALICE.gid), "r"),
        (0o060, User(BOB.uid, TEAM_GID), "rw"),
        (0o007, User(BOB.uid, TEAM_GID), ""),
        (0o004, BOB, "r"),
        (0o770, BOB, ""),
    ],
    ids=[
        "owner reads",
        "owner writes",
        "owner all",
        "owner shut out",
        "group reads",
        "supplementary group",
        "group shut out",
        "other reads",
        "other shut out",
    ],
)
def test_the_first_matching_class_decides(
    place: Path, mode: int, owner: User, allowed: str
) -> None:
    (place / "f").write_bytes(b"x")
    os.chown(place / "f", owner.uid, owner.gid)
    (place / "f").chmod(mode)

    def allowed_to_alice() -> str:
        checks = {"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}
        by_access = {letter for letter, bit in checks.items() if os.access(place / "f", bit)}
        by_open = {
            letter
            for letter, flags in {"r": os.O_RDONLY, "w": os.O_WRONLY}.items()
            if error_of(os.open, place / "f", flags) is None
        }
        assert by_access - {"x"} == by_open
        return "".join(letter for letter in "rwx" if letter in by_access)

    assert run_as(ALICE_IN_TEAM, allowed_to_alice) == allowed


def test_root_reads_and_writes_all_but_runs_only_what_someone_may(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    os.chown(place / "f", ALICE.uid, ALICE.gid)
    (place / "f").chmod(0)
    assert (place / "f").read_bytes() == b"x"
    (place / "f").write_bytes(b"y")
    assert not os.access(place / "f", os.X_OK)
    (place / "f").chmod(0o001)
    assert os.access(place / "f", os.X_OK)


def test_a_directory_s_bits_list_search_and_change(place: Path) -> None:
    directory = place / "d"
    directory.mkdir()
    (directory / "f").write_bytes(b"x")
    (directory / "f").chmod(0o666)
    directory.chmod(0o004)
    assert run_as(ALICE, os.listdir, directory) == ["f"]
    assert run_as(ALICE, error_of, (directory / "f").read_bytes) == "EACCES"
    directory.chmod(0o001)
    assert run_as(ALICE, error_of, os.listdir, directory) == "EACCES"
    assert run_as(ALICE, (directory / "f").read_bytes) == b"x"
    assert run_as(ALICE, error_of, (directory / "new").touch) == "EACCES"
    directory.chmod(0o003)
    assert run_as(ALICE, error_of, (directory / "new").touch) is None


def test_search_permission_counts_on_every_level(place: Path) -> None:
    (place / "a" / "b" / "c").mkdir(parents=True)
    (place / "a" / "b" / "c" / "f").write_bytes(b"x")
    deep = place / "a" / "b" / "c" / "f"
    assert run_as(ALICE, deep.read_bytes) == b"x"
    (place / "a" / "b").chmod(0o700)
    assert run_as(ALICE, error_of, deep.read_bytes) == "EACCES"
    assert run_as(ALICE, error_of, os.stat, deep) == "EACCES"
    (place / "a" / "b").chmod(0o711)
    assert run_as(ALICE, deep.read_bytes) == b"x"


def test_a_withdrawn_permission_counts_at_once(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    for mode, expected in [(0o644, None), (0o600, "EACCES"), (0o604, None)]:
        (place / "f").chmod(mode)
        assert run_as(ALICE, error_of, (place / "f").read_bytes) == expected


def test_an_open_handle_keeps_what_it_was_allowed(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    os.chown(place / "f", ALICE.uid, ALICE.gid)

    def use() -> bytes:
        fd = os.open(place / "f", os.O_RDWR)
        os.fchmod(fd, 0)
        os.write(fd, b"still")
        return os.pread(fd, 10, 0)

    assert run_as(ALICE, use) == b"still"


def test_running_needs_the_execute_bit(place: Path) -> None:
    (place / "script").write_text("#!/bin/sh\nexit 0\n")
    (place / "script").chmod(0o644)
    assert error_of(os.execv, place / "script", ["script"]) == "EACCES"


def test_making_things_needs_write_permission_on_the_directory(place: Path) -> None:
    place.chmod(0o755)
    (place / "f").touch()
    makers: list[Callable[[], object]] = [
        (place / "d").mkdir,
        (place / "g").touch,
        (place / "f").unlink,
        lambda: os.mkfifo(place / "p"),
        lambda: os.symlink("x", place / "l"),
    ]
    for maker in makers:
        assert run_as(ALICE, error_of, maker) == "EACCES"
    assert os.listdir(place) == ["f"]
