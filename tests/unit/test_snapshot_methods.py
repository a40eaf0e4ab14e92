"""Snapshots by the control socket: making, listing, showing, deleting."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.content.past import PastReader
from memfs.content.sealing import RELEASE_S
from memfs.errors import AlreadyExistsError, InvalidValueError, NameTooLongError, NotFoundError
from memfs.jobs.comparing import Comparing
from memfs.jobs.snapshot_removal import SnapshotRemoval
from memfs.jobs.snapshots import (
    DESCRIPTION_LENGTH_MAX,
    LABEL_COUNT_MAX,
    SnapshotMethods,
)
from memfs.moves.open_files import OpenFiles
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.property.world import World


@pytest.fixture
def methods(world: World) -> SnapshotMethods:
    return SnapshotMethods(
        world.move_parts,
        SnapshotRemoval(world.engine),
        OpenFiles(world.move_parts),
        clock=lambda: 5_000_000_000,
    )


def test_a_snapshot_is_told_as_it_was_made(world: World, methods: SnapshotMethods) -> None:
    made = world.run(
        methods.create("first", "why", {"release": "1.2", "arch": "arm"}, kept_until_ns=7)
    )
    assert made["open_count"] == 0
    report = made["snapshot"]
    assert report["labels"] == {"release": "1.2", "arch": "arm"}
    assert (report["name"], report["description"]) == ("first", "why")
    assert (report["created_ns"], report["kept_until_ns"]) == (5_000_000_000, 7)
    assert world.run(methods.show("first")) == report
    assert world.run(methods.list_all()) == [report]
    assert world.engine.synced
    world.remount()
    assert [each.name for each in world.run(world.engine.list_snapshots())] == ["first"]


def test_what_is_closed_is_sealed_first_and_what_is_open_is_counted(
    world: World, methods: SnapshotMethods
) -> None:
    closed = world.create(ROOT_INODE, b"closed", 0o644, os.O_RDWR)
    world.write(closed, 0, b"closed")
    world.release(closed)
    opened = world.create(ROOT_INODE, b"open", 0o644, os.O_RDWR)
    world.write(opened, 0, b"open")
    assert world.run(methods.create("first"))["open_count"] == 1
    assert world.run(world.engine.get_inode(closed.ino)).size == 6


def test_what_was_closed_just_before_is_not_taken_for_open(
    world: World, methods: SnapshotMethods
) -> None:
    """A program has closed it, and the daemon hears of that after it was asked for the snapshot."""
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 0, b"content")

    async def main() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(release)
            return (await methods.create("first"))["open_count"]

    async def release() -> None:
        await trio.sleep(RELEASE_S / 2)
        world.release(file)

    assert world.run(main()) == 0
    (snapshot,) = world.run(world.engine.list_snapshots())
    assert world.run(world.engine.get_inode(file.ino)).size == 7
    assert snapshot.name == "first"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("first", AlreadyExistsError, "choose another name"),
        ("a/b", InvalidValueError, "the name of a directory"),
        ("", InvalidValueError, "the name of a directory"),
        ("now", InvalidValueError, "a comparison means the present by it"),
        ("x" * 256, NameTooLongError, "255 bytes are allowed"),
    ],
)
def test_a_name_that_cannot_be_is_refused(
    world: World, methods: SnapshotMethods, name: str, error: type[Exception], words: str
) -> None:
    world.run(methods.create("first"))
    with pytest.raises(error, match=words):
        world.run(methods.create(name))
    assert len(world.run(methods.list_all())) == 1


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"memfs.rule": "1h"}, "choose another key"),
        ({"": "x"}, "must be text in one line"),
        ({"a": "two\nlines"}, "must be text in one line"),
        ({"a" * 256: "x"}, "255 letters are allowed"),
        ({f"k{number}": "" for number in range(LABEL_COUNT_MAX + 1)}, "64 are allowed"),
    ],
)
def test_a_label_that_cannot_be_is_refused(
    world: World, methods: SnapshotMethods, labels: Mapping[str, str], words: str
) -> None:
    with pytest.raises(InvalidValueError, match=words):
        world.run(methods.create("first", labels=labels))
    with pytest.raises(InvalidValueError, match="the description has"):
        world.run(methods.create("first", "x" * (DESCRIPTION_LENGTH_MAX + 1)))
    assert world.run(methods.list_all()) == []


def test_what_cannot_be_stored_is_refused_before_anything_is_made(
    world: World, methods: SnapshotMethods
) -> None:
    """It is the user's mistake, and neither a defect nor a damaged database."""
    with pytest.raises(InvalidValueError, match="bytes that are no text"):
        world.run(methods.create("first", "caf\udce9"))
    for kept_until_ns in (1 << 63, -1):
        with pytest.raises(InvalidValueError, match="until 2262"):
            world.run(methods.create("first", kept_until_ns=kept_until_ns))
    assert world.run(methods.list_all()) == []


def test_a_name_of_bytes_that_are_no_text_is_no_snapshots(
    world: World, methods: SnapshotMethods
) -> None:
    for ask in (methods.show("caf\udce9"), methods.delete(["caf\udce9"])):
        with pytest.raises(NotFoundError, match="there is no snapshot"):
            world.run(ask)


def test_deletion_is_of_all_that_were_named_or_of_nothing(
    world: World, methods: SnapshotMethods
) -> None:
    for name in ("a", "b", "c"):
        world.run(methods.create(name))
    with pytest.raises(NotFoundError, match="'missing': `memfs snapshot list` shows"):
        world.run(methods.delete(["a", "missing"]))
    assert [each["name"] for each in world.run(methods.list_all())] == ["a", "b", "c"]
    world.run(methods.delete(["a", "c", "a"]))
    assert [each["name"] for each in world.run(methods.list_all())] == ["b"]
    with pytest.raises(NotFoundError, match="there is no snapshot 'a'"):
        world.run(methods.show("a"))


def test_the_present_version_of_a_file_that_was_closed_is_exact(world: World) -> None:
    """Whether the mover has come to it or not, and if its RELEASE is on its way."""
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 0, b"content")
    parts = world.move_parts
    past = PastReader(world.engine, parts.raw_store, parts.sealer, world.parts.form_reader)
    comparing = Comparing(parts, past)

    async def main() -> list[str]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(release)
            told = await comparing.versions("file")
        return [each["state"] for each in told["versions"]]

    async def release() -> None:
        await trio.sleep(RELEASE_S / 2)
        world.release(file)

    assert world.run(main()) == ["exact"]
    again = world.open(file.ino, os.O_RDWR)
    world.write(again, 0, b"another")
    [version] = world.run(comparing.versions("file"))["versions"]
    assert version["state"] == "open"
