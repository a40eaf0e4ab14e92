"""Any damage of any metadata file ends in a refusal, or in all that was synced."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest

from memfs.config import KIB
from memfs.errors import MemfsError
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.limits import Limits
from memfs.types import ROOT_INODE
from tests.contract.engine.making import make_file, tree_at
from tests.contract.engine.site import CONFIG, SMALL, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.metadata.records import Inode
    from tests.contract.engine.making import Tree

QUIET = Limits(checkpoint_bytes=512 * KIB, journal_bytes=512 * KIB, reserve_bytes=64 * KIB)
"""No checkpoint begins: everything is in one journal."""

FILES = (
    "format",
    "ids",
    "metadata.db",
    "metadata.db-wal",
    "metadata.db-shm",
    "metadata.sums",
    "journal.0",
    "journal.1",
    "reserve",
)
FILE_COUNT = 60
DAMAGE_COUNT = 24
"""Damages of a kind, in each file and state."""


class Damaged:
    """A state directory as a kill left it, or a clean end, and older copies of its files."""

    def __init__(self, root: Path, limits: Limits, *, killed: bool) -> None:
        self.limits = limits
        self.sound = root / "sound"
        self.older: list[Path] = []
        self._root = root
        state = root / "state"
        engine = SqliteEngine.open(state, CONFIG, 1, limits)
        for index in range(FILE_COUNT):
            run(make_file(engine, b"%d" % index))
            if index % 7 == 3:
                run(engine.create_snapshot(f"{index}", index))
                run(engine.unlink(ROOT_INODE, b"%d" % (index - 2), index))
            engine.commit_nowait()
            engine.sync()
            if index % 3 == 0:
                engine.wait_for_checkpoint()
            if index in (5, FILE_COUNT // 2, FILE_COUNT - 2):
                engine.wait_for_checkpoint()
                self._keep(state)
            if index == FILE_COUNT // 3:
                engine.close()
                self._keep(state)
                engine = SqliteEngine.open(state, CONFIG, 1, limits)
                self._keep(state)
        engine.wait_for_checkpoint()
        log = state / "metadata.db-wal"
        for index in range(FILE_COUNT):
            if log.stat().st_size:
                break
            # It has just been cut: there is nothing to be damaged.
            run(make_file(engine, b"more %d" % index))
            engine.commit_nowait()
            engine.sync()
            engine.wait_for_checkpoint()
        if killed:
            shutil.copytree(state, self.sound)
        engine.close()
        if not killed:
            shutil.copytree(state, self.sound)
        self.expected = self.look(self.sound)

    def _keep(self, state: Path) -> None:
        copy = self._root / f"older-{len(self.older)}"
        shutil.copytree(state, copy)
        self.older.append(copy)

    def look(self, state: Path) -> dict[bytes, Inode | Tree]:
        """Open a copy and return all that is in it; a refusal changes nothing of it."""
        opened = self._root / "opened"
        shutil.rmtree(opened, ignore_errors=True)
        shutil.copytree(state, opened)
        try:
            engine = SqliteEngine.open(opened, CONFIG, 1, self.limits)
        except MemfsError:
            for path in state.iterdir():
                # SQLite's index of its log is made anew from the log.
                if path.name != "metadata.db-shm":
                    assert path.read_bytes() == (opened / path.name).read_bytes(), path.name
            raise
        try:
            assert engine.check() == []
            entries = run(engine.list_directory(ROOT_INODE, 0, 1000))
            taken = engine.reserve_ids()[0]
            assert all(taken > entry.inode.ino for entry in entries)
            found: dict[bytes, Inode | Tree] = {entry.name: entry.inode for entry in entries}
            for snapshot in run(engine.list_snapshots()):
                assert taken > snapshot.snap
                found[b"at " + snapshot.name.encode()] = run(tree_at(engine, snapshot.snap))
            return found
        finally:
            engine.close()

    def check(self, damage: Callable[[Path], None], what: str) -> bool:
        """Damage a copy and open it; returns whether it was refused."""
        copy = self._root / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.sound, copy)
        damage(copy)
        try:
            found = self.look(copy)
        except MemfsError:
            return True
        assert found == self.expected, what
        return False


@pytest.fixture(scope="module", params=["killed", "killed-early", "closed"])
def damaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    root = tmp_path_factory.mktemp(request.param)
    limits = QUIET if request.param == "killed-early" else SMALL
    return Damaged(root, limits, killed=request.param != "closed")


@pytest.mark.parametrize("name", FILES)
def test_flipped_zeroed_and_cut_files_lose_nothing(damaged: Damaged, name: str) -> None:
    path = damaged.sound / name
    if not path.exists():
        pytest.skip(f"there is no {name} in this state")
    rng = random.Random(f"{name}")
    content = path.read_bytes()
    used = max(1, len(content.rstrip(b"\0")))

    def flip(copy: Path, offset: int, bit: int) -> None:
        changed = bytearray(content)
        changed[offset] ^= 1 << bit
        (copy / name).write_bytes(changed)

    def zero(copy: Path, offset: int, size: int) -> None:
        changed = bytearray(content)
        changed[offset : offset + size] = bytes(len(changed[offset : offset + size]))
        (copy / name).write_bytes(changed)

    def cut(copy: Path, size: int) -> None:
        (copy / name).write_bytes(content[:size])

    for _ in range(DAMAGE_COUNT):
        offset, bit = rng.randrange(used), rng.randrange(8)
        damaged.check(lambda copy, o=offset, b=bit: flip(copy, o, b), f"{name}: bit at {offset}")  # type: ignore[misc]
    for size in (512, 4096):
        for _ in range(DAMAGE_COUNT // 3):
            offset = rng.randrange(used) // size * size
            damaged.check(
                lambda copy, o=offset, s=size: zero(copy, o, s),  # type: ignore[misc]
                f"{name}: {size} zeros at {offset}",
            )
    for size in (0, 1, used // 2, used - 1, *(rng.randrange(used) for _ in range(4))):
        damaged.check(lambda copy, s=size: cut(copy, s), f"{name}: cut to {size}")  # type: ignore[misc]


@pytest.mark.parametrize("name", FILES)
def test_missing_and_older_files_lose_nothing(damaged: Damaged, name: str) -> None:
    def drop(copy: Path) -> None:
        (copy / name).unlink(missing_ok=True)

    damaged.check(drop, f"{name} dropped")
    for number, older in enumerate(damaged.older):
        if (older / name).exists():
            damaged.check(
                lambda copy, o=older: shutil.copy(o / name, copy / name),  # type: ignore[misc]
                f"{name} of {number}",
            )


def test_exchanged_and_copied_journals_lose_nothing(damaged: Damaged) -> None:
    def swap(copy: Path) -> None:
        (copy / "journal.0").rename(copy / "aside")
        (copy / "journal.1").rename(copy / "journal.0")
        (copy / "aside").rename(copy / "journal.1")

    damaged.check(swap, "journals exchanged")
    for source, target in (("journal.0", "journal.1"), ("journal.1", "journal.0")):
        damaged.check(
            lambda copy, s=source, t=target: shutil.copy(copy / s, copy / t),  # type: ignore[misc]
            f"{source} copied over {target}",
        )


def test_older_database_with_its_log_loses_nothing(damaged: Damaged) -> None:
    """As a backup that has only the database puts it back."""
    for number, older in enumerate(damaged.older):

        def put_back(copy: Path, older: Path = older) -> None:
            for suffix in ("", "-wal", "-shm"):
                (copy / f"metadata.db{suffix}").unlink(missing_ok=True)
                if (older / f"metadata.db{suffix}").exists():
                    shutil.copy(older / f"metadata.db{suffix}", copy)

        damaged.check(put_back, f"database of {number}")


@pytest.mark.parametrize("others", [(), ("metadata.sums",)], ids=["alone", "with sums"])
def test_journals_of_an_older_copy_lose_nothing(damaged: Damaged, others: tuple[str, ...]) -> None:
    """Both at once: those of the present turn agree with each other and with the tables."""
    for number, older in enumerate(damaged.older):

        def put_back(copy: Path, older: Path = older) -> None:
            for name in ("journal.0", "journal.1", *others):
                shutil.copy(older / name, copy)

        damaged.check(put_back, f"journals of {number}")


def test_every_byte_of_the_last_entry_counts(damaged: Damaged) -> None:
    """There is nothing behind it: only the note of what was synced tells it from a torn end."""
    path = max(
        (damaged.sound / name for name in ("journal.0", "journal.1")),
        key=lambda each: int.from_bytes(each.read_bytes()[16:24], "little"),
    )
    content = path.read_bytes()
    end = len(content.rstrip(b"\0"))
    for offset in range(end - 40, end):

        def flip(copy: Path, offset: int = offset) -> None:
            changed = bytearray(content)
            changed[offset] ^= 0x10
            (copy / path.name).write_bytes(changed)

        damaged.check(flip, f"{path.name}: byte {offset}")
