"""Entries of a journal that somebody else is to have too: told in order, kept until confirmed."""

from __future__ import annotations

import marshal
import shutil
from typing import TYPE_CHECKING

import pytest

from memfs.errors import MetadataError
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.following import KeptEntry
from memfs.metadata.sqlite.limits import Limits
from memfs.metadata.sqlite.statements import FINGERPRINT
from memfs.types import ROOT_INODE
from tests.contract.engine.making import NOW_NS, make_file, names_in
from tests.contract.engine.site import CONFIG, SMALL, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from memfs.metadata.sqlite.statements import Parameters

QUIET = Limits(checkpoint_bytes=1 << 20, journal_bytes=1 << 20, reserve_bytes=1 << 16)
"""No checkpoint begins by itself."""


class Follower:
    """Keeps all that it is told; tests say what is confirmed."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.confirmed = number
        self.entries: list[KeptEntry] = []
        self.sequences: list[int] = []

    def note(
        self, sequence: int, records: Sequence[tuple[int, Parameters]], payload: bytes
    ) -> None:
        assert marshal.loads(payload)[0] == list(records)
        self.number += 1
        self.sequences.append(sequence)
        self.entries.append(KeptEntry(self.number, FINGERPRINT, payload))

    def unconfirmed(self, after: int) -> Iterable[KeptEntry]:
        return [each for each in self.entries if each.number > max(after, self.confirmed)]


def open_node(state_dir: Path, limits: Limits = QUIET) -> tuple[SqliteEngine, Follower]:
    engine = SqliteEngine.open(state_dir, CONFIG, 1, limits)
    engine._database.begin_following()
    number, kept = engine._database.read_followed()
    assert number is not None
    follower = Follower(number)
    follower.entries = kept
    engine._database.follow(follower)
    return engine, follower


def make_and_commit(engine: SqliteEngine, *names: bytes) -> None:
    for name in names:
        run(make_file(engine, name))
        engine.commit_nowait()


def kill(engine: SqliteEngine, state_dir: Path) -> Path:
    """Return a copy of the files as SIGKILL would have left them."""
    engine.wait_for_checkpoint()
    copy = state_dir.with_name(state_dir.name + "-killed")
    shutil.copytree(state_dir, copy)
    engine.close()
    return copy


def numbers(entries: Iterable[KeptEntry]) -> list[int]:
    return [each.number for each in entries]


def test_each_committed_entry_is_told_once_and_in_order(tmp_path: Path) -> None:
    engine, follower = open_node(tmp_path / "state")
    make_and_commit(engine, b"a", b"b")
    run(make_file(engine, b"c"))
    assert numbers(follower.entries) == [1, 2]
    engine.commit_nowait()
    assert numbers(follower.entries) == [1, 2, 3]
    assert follower.sequences == sorted(set(follower.sequences))
    engine.close()


def test_entry_that_was_taken_back_is_not_told(tmp_path: Path) -> None:
    engine, follower = open_node(tmp_path / "state")

    async def give_up() -> None:
        async with engine.change():
            await make_file(engine, b"a")
            raise KeyError

    with pytest.raises(KeyError):
        run(give_up())
    engine.commit_nowait()
    assert follower.entries == []
    engine.close()


def test_entries_of_a_killed_process_are_kept_and_counted(tmp_path: Path) -> None:
    """The journals are begun anew by each opening, before anybody can be asked what he has."""
    engine, follower = open_node(tmp_path / "state")
    make_and_commit(engine, b"a", b"b", b"c")
    payloads = [each.payload for each in follower.entries]
    engine, follower = open_node(kill(engine, tmp_path / "state"))
    assert (follower.number, numbers(follower.entries)) == (3, [1, 2, 3])
    assert [each.payload for each in follower.entries] == payloads
    engine.close()


@pytest.mark.parametrize("confirmed", [0, 5, 19, 20])
def test_checkpoint_keeps_what_is_not_confirmed(tmp_path: Path, confirmed: int) -> None:
    engine, follower = open_node(tmp_path / "state", SMALL)
    follower.confirmed = confirmed
    # Each has its place in several journals.
    make_and_commit(engine, *(b"%d" % number for number in range(20)))
    while not engine.publish():
        engine.wait_for_checkpoint()
    number, kept = engine._database.read_followed()
    assert number == 20
    assert numbers(kept) == list(range(confirmed + 1, 21))
    engine, follower = open_node(kill(engine, tmp_path / "state"), SMALL)
    assert follower.number == 20
    assert numbers(follower.entries) == list(range(confirmed + 1, 21))
    engine.close()


def test_close_keeps_what_is_not_confirmed_and_the_next_opening_has_it_once(
    tmp_path: Path,
) -> None:
    engine, follower = open_node(tmp_path / "state")
    make_and_commit(engine, b"a", b"b", b"c")
    follower.confirmed = 1
    engine.close()
    for _ in range(2):
        engine, follower = open_node(tmp_path / "state")
        assert (follower.number, numbers(follower.entries)) == (3, [2, 3])
        follower.confirmed = 1
        engine.close()


def test_lost_end_of_the_journal_is_redone_from_its_entries(tmp_path: Path) -> None:
    """As after power loss, where somebody else has what this disk has not."""
    engine, follower = open_node(tmp_path / "state")
    make_and_commit(engine, b"a")
    early = tmp_path / "early"
    engine.wait_for_checkpoint()
    shutil.copytree(tmp_path / "state", early)
    make_and_commit(engine, b"b", b"c")
    lost = follower.entries[1:]
    engine.close()
    engine, follower = open_node(early)
    assert run(names_in(engine)) == [b"a"]
    follower.confirmed = 3
    for entry in lost:
        engine._database.redo(*marshal.loads(entry.payload))
    assert run(names_in(engine)) == [b"a", b"b", b"c"]
    assert run(engine.usage()) == run(engine.recount())
    assert follower.number == 3
    engine, follower = open_node(kill(engine, early))
    assert run(names_in(engine)) == [b"a", b"b", b"c"]
    assert follower.number == 3
    assert engine.check() == []
    engine.close()


def test_entry_that_contradicts_the_tables_is_refused_whole(tmp_path: Path) -> None:
    engine, follower = open_node(tmp_path / "state")
    make_and_commit(engine, b"a")
    with pytest.raises(MetadataError, match="UNIQUE"):
        engine._database.redo(*marshal.loads(follower.entries[0].payload))
    assert run(names_in(engine)) == [b"a"]
    assert follower.number == 1
    engine.close()


def test_single_node_state_keeps_nothing(tmp_path: Path) -> None:
    engine = SqliteEngine.open(tmp_path / "state", CONFIG, 1, SMALL)
    make_and_commit(engine, *(b"%d" % number for number in range(20)))
    engine = SqliteEngine.open(kill(engine, tmp_path / "state"), CONFIG, 1, SMALL)
    assert engine._database.read_followed() == (None, [])
    engine.close()


def test_refused_change_touches_nothing_and_reads_go_on(tmp_path: Path) -> None:
    engine, follower = open_node(tmp_path / "state")
    make_and_commit(engine, b"a")
    engine._database.refusal = MetadataError("cut off")
    for _ in range(2):
        with pytest.raises(MetadataError, match="cut off"):
            run(engine.unlink(ROOT_INODE, b"a", NOW_NS))
    assert run(names_in(engine)) == [b"a"]
    assert not engine.uncommitted
    engine._database.refusal = None
    run(engine.unlink(ROOT_INODE, b"a", NOW_NS))
    engine.commit_nowait()
    assert len(follower.entries) == 2
    engine.close()


def test_what_is_durable_is_told_by_sequence(tmp_path: Path) -> None:
    engine, follower = open_node(tmp_path / "state")
    make_and_commit(engine, b"a")
    assert engine._database.durable_sequence < follower.sequences[-1]
    engine.sync()
    assert engine._database.durable_sequence == follower.sequences[-1]
    make_and_commit(engine, b"b")
    assert engine.publish()
    engine.wait_for_checkpoint()
    assert engine._database.durable_sequence >= follower.sequences[-1]
    engine.close()
