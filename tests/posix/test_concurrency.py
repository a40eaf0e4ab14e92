"""Processes that change one directory at the same time: each call happens once or not at all."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import stat
from typing import TYPE_CHECKING

from tests.outcomes import outcome
from tests.posix.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from tests.processes import together
from tests.trees import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROCESS_COUNT = 4


def test_exclusive_creation_has_one_winner(place: Path) -> None:
    def compete(_index: int) -> list[int]:
        won = []
        for number in range(100):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(place / f"{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                won.append(number)
        return won

    wins = together(PROCESS_COUNT, compete)
    assert sorted(number for each in wins for number in each) == list(range(100))


def test_mkdir_and_rmdir_have_one_winner(place: Path) -> None:
    def make(_index: int) -> int:
        return sum(outcome(os.mkdir, place / f"{n}").error is None for n in range(100))

    def remove(_index: int) -> int:
        return sum(outcome(os.rmdir, place / f"{n}").error is None for n in range(100))

    assert sum(together(PROCESS_COUNT, make)) == 100
    assert sum(together(PROCESS_COUNT, remove)) == 100
    assert os.listdir(place) == []


def test_rename_without_replacing_has_one_winner(place: Path) -> None:
    for index in range(PROCESS_COUNT):
        for number in range(50):
            (place / f"from-{index}-{number}").write_text(f"{index}")

    def compete(index: int) -> list[int]:
        return [
            number
            for number in range(50)
            if outcome(
                renameat2,
                place / f"from-{index}-{number}",
                place / f"to-{number}",
                RENAME_NOREPLACE,
            ).error
            is None
        ]

    for index, won in enumerate(together(PROCESS_COUNT, compete)):
        for number in won:
            assert (place / f"to-{number}").read_text() == f"{index}"
    assert len(list(place.glob("to-*"))) == 50
    assert len(list(place.glob("from-*"))) == (PROCESS_COUNT - 1) * 50


def test_a_replaced_file_is_always_there_and_always_whole(place: Path) -> None:
    """What makes "write a new file and rename it over" a safe way to save."""
    (place / "f").write_bytes(b"0" * 10_000)

    def save_or_read(index: int) -> int:
        if index == 0:
            for number in range(100):
                (place / "new").write_bytes(b"%d" % (number % 10) * 10_000)
                (place / "new").rename(place / "f")
            return 0
        torn = 0
        for _ in range(100):
            content = (place / "f").read_bytes()
            torn += len(content) != 10_000 or len(set(content)) != 1
        return torn

    assert together(3, save_or_read) == [0, 0, 0]


def test_exchanging_forever_never_loses_a_name(place: Path) -> None:
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")

    def exchange(index: int) -> int:
        if index < 2:
            for _ in range(150):
                renameat2(place / "a", place / "b", RENAME_EXCHANGE)
            return 0
        return sum(sorted(os.listdir(place)) != ["a", "b"] for _ in range(100))

    assert together(3, exchange)[:2] == [0, 0]
    assert {(place / "a").read_bytes(), (place / "b").read_bytes()} == {b"a", b"b"}


def test_random_changes_by_many_leave_a_consistent_tree(place: Path) -> None:
    allowed = {None, "ENOENT", "EEXIST", "ENOTEMPTY", "EISDIR", "ENOTDIR", "EINVAL"}
    allowed |= {"ELOOP", "EPERM"}

    def hammer(index: int) -> set[str | None]:
        rng = random.Random(index)
        names = [place / f"{kind}{number}" for kind in "ab" for number in range(4)]
        names += [name / "inner" for name in names]
        failures = set()
        for _ in range(400):
            source, target = rng.choice(names), rng.choice(names)
            choices: list[tuple[Callable[..., object], tuple[object, ...]]] = [
                (source.write_bytes, (b"x" * 100,)),
                (os.unlink, (source,)),
                (os.mkdir, (source,)),
                (os.rmdir, (source,)),
                (os.rename, (source, target)),
                (os.link, (source, target)),
                (os.symlink, (target.name, source)),
                (os.listdir, (source,)),
                (renameat2, (source, target, RENAME_EXCHANGE)),
            ]
            action, arguments = rng.choice(choices)
            failures.add(outcome(action, *arguments).error)
        return failures

    for failures in together(PROCESS_COUNT, hammer):
        assert failures <= allowed
    _check_consistency(place)


def _check_consistency(place: Path) -> None:
    """Every name leads to something, and a link count is the number of names."""
    entries = describe(place)
    top = os.fsencode(place)
    inodes = {path: os.lstat(os.path.join(top, path)).st_ino for path in entries}
    name_counts = collections.Counter(inodes.values())
    for path, entry in entries.items():
        if not stat.S_ISDIR(entry.mode):
            assert entry.link_count == name_counts[inodes[path]], path
