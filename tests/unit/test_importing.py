"""Rows of exports in the tables of a new state: what is alike in a whole part, and shared blobs."""

from __future__ import annotations

import sqlite3
import stat
from typing import TYPE_CHECKING

import pytest

from memfs.errors import CorruptDataError
from memfs.metadata.columns import decode, encode
from memfs.metadata.sqlite.exporting import (
    BLOB_SHAPE,
    CONTENT_SHAPE,
    DENTRY_SHAPE,
    FORM_SHAPE,
    INODE_SHAPE,
)
from memfs.metadata.sqlite.importing import StateBuilder
from memfs.types import ROOT_INODE, StateId

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memfs.metadata.columns import Row
    from memfs.metadata.foreign import Source

TEXTS = ["", "zstd:3", "o'); drop table inode; --", "\0", "\udcff", "ä" * 100]


def inode(ino: int, kind: int, codec: str | None = None) -> Row:
    return (ino, kind | 0o644, 7, 8, 1, 0, 5, 1, 2**62, -(2**63), 4, 5, 1, 0, codec)


def inodes(codec: str | None = None, numbers: Sequence[int] = (2, 5, 8)) -> bytes:
    rows = [inode(number, stat.S_IFREG, codec) for number in numbers]
    return encode([(INODE_SHAPE, rows)])


def contents(places: Sequence[tuple[int, int]]) -> bytes:
    blobs = sorted({blob for _ino, blob in places})
    forms = [
        (blob, "remote", "", f"blobs/{blob}", None, "", "", 5, "container", "raw", 0, "", "t", 1)
        for blob in blobs
    ]
    rows: list[Row] = [(blob, 5, bytes(32)) for blob in blobs]
    return encode([(CONTENT_SHAPE, [*places]), (BLOB_SHAPE, rows), (FORM_SHAPE, forms)])


def names(numbers: Sequence[int]) -> bytes:
    rows = [(ROOT_INODE, number + 1, b"%d" % number, number) for number in numbers]
    root = [inode(ROOT_INODE, stat.S_IFDIR)]
    return encode([(INODE_SHAPE, root), (DENTRY_SHAPE, rows)])


def build(
    state_dir: Path, parts: Sequence[bytes], sources: Sequence[Source] = ()
) -> sqlite3.Connection:
    builder = StateBuilder(state_dir)
    builder.begin()
    for number, data in enumerate(parts):
        builder.add(data, f"part {number}", 9)
    builder.finish(StateId(bytes(16)), 1000, {}, sources)
    return sqlite3.connect(state_dir / "metadata.db")


@pytest.mark.parametrize("codec", [None, *TEXTS[:4], TEXTS[5]], ids=ascii)
def test_values_that_are_alike_in_a_part_come_as_they_are(
    tmp_path: Path, codec: str | None
) -> None:
    """Some of them are written into the statement; whatever they are, nothing of them is run."""
    connection = build(tmp_path / "state", [inodes(codec), names((2, 5, 8))])
    found = connection.execute(
        "select codec, btime_ns, ctime_ns, mtime_ns, atime_ns, accessed_ns, blob from inode"
        " where ino <> 1 order by ino"
    ).fetchall()
    assert found == [(codec, 5, 4, -(2**63), 2**62, 9, 0)] * 3
    connection.close()


def test_a_text_that_is_not_unicode_is_damage(tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match="part 0: has a text that is not Unicode"):
        build(tmp_path / "state", [inodes("\udcff"), names((2, 5, 8))])


def test_columns_know_which_values_are_alike() -> None:
    for text in TEXTS:
        columns = decode(inodes(text), "")["inode"]
        assert list(columns["codec"]) == [text] * 3


def test_blobs_find_their_inodes_in_whatever_part_these_were(tmp_path: Path) -> None:
    parts = [
        inodes(),
        contents([(2, 20), (8, 20)]),
        inodes(numbers=[11, 12]),
        # Without contents of its own before the next inodes come.
        inodes(numbers=[14]),
        contents([(14, 21), (12, 22)]),
        names((2, 5, 8, 11, 12, 14)),
    ]
    connection = build(tmp_path / "state", parts)
    found = connection.execute("select ino, blob from inode where ino > 1 order by ino").fetchall()
    assert found == [(2, 20), (5, 0), (8, 20), (11, 0), (12, 22), (14, 21)]
    connection.close()


def test_one_part_may_have_inodes_and_their_contents(tmp_path: Path) -> None:
    rows = [inode(2, stat.S_IFREG), inode(5, stat.S_IFREG)]
    form = (20, "remote", "", "k", None, "", "", 5, "container", "raw", 0, "", "t", 1)
    whole = encode(
        [
            (CONTENT_SHAPE, [(2, 20)]),
            (INODE_SHAPE, rows),
            (BLOB_SHAPE, [(20, 5, bytes(32))]),
            (FORM_SHAPE, [form]),
        ]
    )
    connection = build(tmp_path / "state", [whole, names((2, 5))])
    found = connection.execute("select ino, blob from inode where ino > 1 order by ino").fetchall()
    assert found == [(2, 20), (5, 0)]
    connection.close()


def test_inodes_that_come_twice_are_refused_with_the_name_of_their_part(tmp_path: Path) -> None:
    builder = StateBuilder(tmp_path / "state")
    builder.begin()
    builder.add(inodes(), "first", 9)
    builder.add(inodes(), "second", 9)
    with pytest.raises(CorruptDataError, match="second: contradicts other parts"):
        builder.add(contents([(2, 20)]), "third", 9)
    builder.discard()
