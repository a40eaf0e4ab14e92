"""Writing of exports: the rows of a snapshot as parts, the description, and what completes both.

Invariant: a part that an export before has with the same digest, and that the store still has, is
not stored again; all else is read back as it is stored (`objects.seal_file`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio

from memfs.errors import MemfsError
from memfs.exports.description import Description, Done, Part, contents_key, part_key
from memfs.exports.objects import seal_file
from memfs.exports.places import StoreAddress
from memfs.metadata.records import IndexState
from memfs.metadata.store_record import recall_store
from memfs.moves.coding import key_of
from memfs.moves.publish_tokens import sender_of
from memfs.placement.resident import POOLS_SETTING
from memfs.stores.digesting import digest_file
from memfs.types import FormKind
from memfs.urls import url_without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from memfs.exports.notes import ExportNote
    from memfs.exports.stored import Former
    from memfs.metadata.foreign import Source
    from memfs.metadata.records import ExportPosition
    from memfs.moves.attempt import MoveParts
    from memfs.placement.quotas import Quotas
    from memfs.stores.store import RemoteStore
    from memfs.types import SnapshotId

COUNTS = ("file_count", "content_bytes", "missing_count", "missing_bytes")
"""As of `metadata.sqlite.exporting.Page`."""

TABLES = ("inodes", "dentries", "published")
"""As of `metadata.sqlite.exporting.read_page`."""

TABLES_OF_SOURCES = ("gone",)
"""Those that have rows only where there are sources."""

UPLOADS_MAX = 3
"""Objects of an export under way at a time. Guess."""


class Reader(Protocol):
    """Reads the tables in another process (`metadata.sqlite.reader_process`)."""

    async def publish(self) -> None:
        """Bring all changes so far into the tables."""

    async def read_parts(
        self, table: str, snap: SnapshotId, after: ExportPosition, paths: Sequence[Path]
    ) -> dict[str, Any]:
        """Have the next parts written into files."""


class Advance(Protocol):
    """Takes note of how far an export is; all are counts since the last call."""

    def __call__(self, *, row_count: int = 0, stored_count: int = 0, stored_bytes: int = 0) -> None:
        """Add them."""
        ...


class ExportWriter:
    """Puts exports into the store.

    Args:
        parts: What moves work with.
        reader: Reads the tables.
        quotas: Those of the day.
        advance: Told how far it is.
    """

    def __init__(self, parts: MoveParts, reader: Reader, quotas: Quotas, advance: Advance) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._reader = reader
        self._quotas = quotas
        self._advance = advance

    async def write(
        self,
        remote: RemoteStore,
        note: ExportNote,
        sources: Sequence[Source],
        former: Former | None,
    ) -> Description:
        """Store the parts that have changed.

        Args:
            remote: Takes them.
            note: That of the export.
            sources: Those of the instant of its snapshot.
            former: The export before; None: all is stored.

        Returns:
            The description, which is not stored yet.

        Raises:
            MemfsError: A part could not be stored; those that were stay, and nothing names them.
        """
        await self._reader.publish()
        self._parts.faults.reach("export.published")
        known = {
            key: part
            for key, part in (former.sound_parts.items() if former is not None else ())
            if part.sealed.key_id == self._key_id()
        }
        found: dict[int, Part] = {}
        counts = dict.fromkeys(COUNTS, 0)
        slots = trio.CapacityLimiter(UPLOADS_MAX)
        number = 0
        failures: list[MemfsError] = []

        async def take(number: int, kind: str, row_count: int, path: Path) -> None:
            try:
                async with slots:
                    found[number] = await self._take_part(
                        remote, note.snap, number, kind, row_count, path, known
                    )
            except MemfsError as error:
                failures.append(error)
            finally:
                await trio.to_thread.run_sync(partial(path.unlink, missing_ok=True))

        async with trio.open_nursery() as nursery:
            for table in (*TABLES, *(TABLES_OF_SOURCES if sources else ())):
                after: ExportPosition | None = (0, 0)
                while after is not None and not failures:
                    # Files wait on the disk: not more than a few.
                    async with slots:
                        pass
                    temporary = self._parts.packed_store.temporary_path
                    paths = [temporary("export"), temporary("export")]
                    page = await self._reader.read_parts(table, note.snap, after, paths)
                    for told, path in zip(page["parts"], paths, strict=False):
                        number += 1
                        nursery.start_soon(take, number, told["kind"], told["row_count"], path)
                    rows = sum(part["row_count"] for part in page["parts"][:1])
                    self._advance(row_count=rows)
                    for name in counts:
                        counts[name] += page[name]
                    after = None if page["after"] is None else (*page["after"],)
        if failures:
            raise failures[0]
        self._parts.faults.reach("export.parts")
        # Blobs may have come since the snapshot; nothing in the parts is younger than this.
        next_id = int(self._engine.reserve_blob())
        parts = tuple(found[at] for at in sorted(found))
        pools = (await self._engine.get_setting(POOLS_SETTING) or b"{}").decode()
        return Description(
            self._engine.state_id,
            note.snap,
            note.created_ns,
            next_id,
            **counts,
            parts=parts,
            pools=pools,
            stores=await self._stores(),
            sources=tuple(sources),
            indexes=self._indexes(),
            life=(await sender_of(self._engine)).number,
            frozen=tuple(sorted(tree.ino for tree in await self._engine.list_frozen())),
        )

    def _indexes(self) -> tuple[str, ...]:
        """Return what has an index that is to stay."""
        indexes = self._engine.field_indexes()
        return tuple(each.field for each in indexes if each.state is not IndexState.LEAVING)

    async def _stores(self) -> tuple[StoreAddress, ...]:
        """Return where the named stores are: those in use, and those that have objects yet."""
        parts, configured = self._parts, self._parts.config.stores
        found = []
        for name in sorted({*configured, *await parts.engine.list_stores()}):
            if (named := configured.get(name)) is not None:
                found.append(StoreAddress.of(name, named, self._key_id(name)))
            elif known := await recall_store(parts.engine, name):
                found.append(StoreAddress(name, url_without_secrets(known)))
        return tuple(found)

    async def _take_part(
        self,
        remote: RemoteStore,
        snap: SnapshotId,
        number: int,
        kind: str,
        row_count: int,
        path: Path,
        known: Mapping[tuple[str, bytes], Part],
    ) -> Part:
        digest = await trio.to_thread.run_sync(digest_file, path)
        if (part := known.get((kind, digest))) is not None:
            return part
        key = part_key(self._engine.state_id, snap, number)
        sealed = await seal_file(self._parts, remote, self._quotas, path, key, snap, number)
        self._advance(stored_count=1, stored_bytes=sealed.stored_bytes)
        return Part(kind, row_count, sealed)

    def _key_id(self, store: str = "") -> str:
        key = key_of(self._parts, FormKind.REMOTE, store)
        return "" if key is None else key.id.hex()

    async def describe(self, remote: RemoteStore, description: Description) -> Done:
        """Store a description; returns what says that the export is complete."""
        key = contents_key(description.state_id, description.snap)
        path = self._parts.packed_store.temporary_path("export")
        try:
            await trio.to_thread.run_sync(path.write_bytes, description.encode())
            sealed = await seal_file(
                self._parts, remote, self._quotas, path, key, description.snap, 0
            )
        finally:
            path.unlink(missing_ok=True)
        return Done(description.state_id, description.snap, description.created_ns, sealed)

    async def finish(self, remote: RemoteStore, done: Done) -> None:
        """Store what says that an export is complete; from then on it is."""
        path = self._parts.packed_store.temporary_path("export")
        try:
            await trio.to_thread.run_sync(path.write_bytes, done.encode())
            await remote.put_file(done.key, path)
        finally:
            path.unlink(missing_ok=True)
