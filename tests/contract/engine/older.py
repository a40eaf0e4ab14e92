"""States as other versions of memfs, and damage, leave them."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from typing import TYPE_CHECKING

from memfs.metadata.sqlite.format import FORMAT_NUMBER
from memfs.metadata.sqlite.journal import Journal
from memfs.metadata.sqlite.journals import JOURNAL_NAMES
from memfs.metadata.sqlite.statements import KEEPS_ELEMENTS, UNDERSTOOD
from memfs.query.values import stored_value

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.types import InodeNo


def change_tables(state_dir: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    """Change the tables of an engine that was closed."""
    with sqlite3.connect(state_dir / "metadata.db", isolation_level=None) as connection:
        change(connection)
    connection.close()
    (state_dir / "metadata.sums").unlink(missing_ok=True)


def change_as_older(
    state_dir: Path,
    ino: InodeNo,
    name: bytes,
    value: bytes,
    kept: frozenset[int] = KEEPS_ELEMENTS,
) -> None:
    """Replace an xattr as a version did that knew nothing of an index.

    Args:
        state_dir: The engine there was closed.
        ino: Has the xattr, or not: then nothing changes.
        name: That of the xattr.
        value: It has no entry in an index that the version knows.
        kept: Fingerprints of versions that know the index.
    """
    typed = stored_value(value)
    change_tables(
        state_dir,
        lambda connection: connection.execute(
            "update xattr set value = ?, typed = iif(key, ?, null) where ino = ? and name = ?",
            (value, typed, ino, name),
        ),
    )
    older = max(
        (known.texts, fingerprint)
        for fingerprint, known in UNDERSTOOD.items()
        if known.format == FORMAT_NUMBER and not known.has_triggers and fingerprint not in kept
    )[1]
    for journal_name in JOURNAL_NAMES:
        path = state_dir / journal_name
        content = bytearray(path.read_bytes())
        struct.pack_into("<I", content, 12, older)
        struct.pack_into("<I", content, 28, zlib.crc32(content[:28]))
        path.write_bytes(content)
        journal = Journal(path, create=False)
        assert journal.fingerprint == older
        journal.close()
