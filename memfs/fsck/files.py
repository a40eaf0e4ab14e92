"""Forms against inodes: is every file's content where the engine says, whole and as long?

Invariant: reads only. It finds what a program would otherwise meet as EIO, and what takes up space
for nothing.
"""

from __future__ import annotations

import contextlib
import stat
from array import array
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

import trio

from memfs.addresses import address_of, key_within, store_of
from memfs.encryption.keys import NO_KEYS, KeyRing
from memfs.errors import (
    CodecMissingError,
    EncryptionKeyError,
    MemfsError,
    NotFoundError,
    ObjectArchivedError,
    ObjectMissingError,
    StoreError,
    StoreNotConfiguredError,
    StoreUnavailableError,
    UsageError,
)
from memfs.exports.description import PREFIX as EXPORTS_PREFIX
from memfs.fsck.report import ALONE, Problem, Progress, Remedies, Report
from memfs.linux.times import storable_ns
from memfs.metadata.records import InodeFlags, MoveKind
from memfs.moves.generation import PREFIX
from memfs.moves.rechecking import DRAINED, SETTING
from memfs.stores.contents import open_content
from memfs.stores.envelope import Unlock
from memfs.stores.reading import PackedFile
from memfs.stores.restoring import without_restores
from memfs.stores.store import ObjectStat
from memfs.types import FormKind, Generation, InodeNo, RawId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.content.sources import Sources
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Form, Inode, KeptContent
    from memfs.stores.packed import PackedStore
    from memfs.stores.raw import RawStore
    from memfs.stores.store import RemoteStore
    from memfs.types import SourceId, StateId

BATCH_COUNT = 1000
"""Inodes read from the engine at a time."""

_RESTORE = "restore it from a backup, or remove it"
_RESTORE_OBJECT = (
    "see that glacier.url and glacier.options are the mount's; else restore it from a backup, or "
    "remove it"
)
_OURS_OR_NOT = (
    "another state directory uses this store, or its record is lost: see `memfs gc --orphans`"
)


class FileCheck:
    """One pass over all files and over all that the stores hold.

    Args:
        engine: Open, and not in use by a daemon.
        remote: The object store; None: remote forms are not looked at.
        verify: Read all packed and remote forms whole and check them.
        progress: Told how far it is.
        keys: Those of encrypted forms, to verify them.
        stores: Names of the stores that `remote` stands for; that of the default one is empty.
        remedies: What to do about what is here.
        sealed_as: Identity under which forms are encrypted; None: that of the engine.
        lists: Look for objects that no form has.
        has_times: A raw file has the times of its file. That of a node that reads has those of
            when it was fetched.
    """

    def __init__(
        self,
        engine: Engine,
        raw_store: RawStore,
        packed_store: PackedStore,
        remote: RemoteStore | None,
        *,
        verify: bool,
        progress: Progress,
        keys: KeyRing = NO_KEYS,
        stores: Sequence[str] = ("",),
        sources: Sources | None = None,
        remedies: Remedies = ALONE,
        sealed_as: StateId | None = None,
        lists: bool = True,
        has_times: bool = True,
    ) -> None:
        self._sources = sources
        self._remedies = remedies
        self._sealed_as = engine.object_state_id if sealed_as is None else sealed_as
        self._lists = lists
        self._has_times = has_times
        self._unasked: dict[SourceId, tuple[str, int]] = {}
        """Sources that do not answer: what they said, and how many files were not looked at."""
        self._stores = stores
        self._engine = engine
        self._raw_store = raw_store
        self._packed_store = packed_store
        self._remote = remote
        self._verify = verify
        self._progress = progress
        self._keys = keys
        self._problems: list[Problem] = []
        self._raws = array("Q")
        self._packed: set[str] = set()
        self._remote_keys: set[str] = set()
        self._object = ObjectStat("", 0)
        self._locked_out: Counter[str] = Counter()
        """Forms that cannot be verified, by the id of the key that is missing."""
        self._undecodable: Counter[str] = Counter()
        """Forms that cannot be verified, by the codec that is missing."""
        self._unconfigured: Counter[str] = Counter()
        """Forms that were not looked at, by the name of the store that is missing."""
        self._unreachable: Counter[str] = Counter()
        """Likewise, of the named store that does not answer."""
        self._refusals: dict[str, str] = {}
        """What such a store said."""
        self._file_count = 0
        self._form_count = 0
        self._verified_bytes = 0
        self._left_over_count = 0
        self._clean = False
        """The last mount ended in order: what differs from the engine was changed since."""

    async def run(self) -> Report:
        """Check everything and report."""
        total = (await self._engine.usage()).inode_count
        self._clean = await self._engine.get_setting(SETTING) == DRAINED
        after = InodeNo(0)
        while inodes := await self._engine.list_files(after, BATCH_COUNT):
            for inode in inodes:
                await self._check_file(inode)
            after = inodes[-1].ino
            self._file_count += len(inodes)
            self._progress("files", self._file_count, total)
            await trio.lowlevel.checkpoint()
        await self._check_kept()
        self._complain_of_what_is_missing()
        await self._note_unfinished()
        self._check_raw_store()
        self._check_packed_store()
        await self._check_remote_store()
        return Report(
            self._problems,
            self._file_count,
            self._form_count,
            self._verified_bytes,
            self._left_over_count,
        )

    async def _check_file(self, inode: Inode) -> None:
        if inode.raw:
            self._form_count += 1
            self._raws.append(inode.raw)
            await self._check_raw(inode)
        if inode.blob:
            for form in await self._engine.list_forms(inode.blob):
                self._form_count += 1
                await self._check_form(inode, form)
        if self._verify and self._sources is not None:
            await self._check_source(inode, self._sources)

    async def _check_source(self, inode: Inode, sources: Sources) -> None:
        """See that the source of an adopted file has its object still."""
        known = await self._engine.get_object(inode.ino)
        if known is None or known.generation != inode.generation:
            return
        if known.source in self._unasked:
            reason, count = self._unasked[known.source]
            self._unasked[known.source] = reason, count + 1
            return
        try:
            differs = await sources.difference_of(known)
        except (StoreError, UsageError, NotFoundError) as error:
            self._unasked[known.source] = str(error), 1
            return
        if differs is not None:
            await self._complain(inode, differs, "mount, and run `memfs adopt --refresh`")

    async def _check_kept(self) -> None:
        """Look at the bytes that only snapshots show."""
        after = (InodeNo(0), Generation(0))
        while kept := await self._engine.list_kept(after, BATCH_COUNT):
            for each in kept:
                after = (each.ino, each.generation)
                what = f"generation {each.generation} of inode {each.ino}, as snapshots show it"
                for form in await self._engine.list_forms(each.blob) if each.blob else ():
                    self._form_count += 1
                    await self._check_form(what, form)
                if each.raw:
                    self._form_count += 1
                    self._raws.append(each.raw)
                    self._check_kept_raw(what, each)
            await trio.lowlevel.checkpoint()

    def _check_kept_raw(self, what: str, kept: KeptContent) -> None:
        try:
            status = self._raw_store.stat(kept.raw)
        except ObjectMissingError:
            fault = f"its raw file {kept.raw} is missing"
        else:
            if kept.open or status.st_size == kept.size:
                return
            fault = f"its raw file has {status.st_size} bytes, not {kept.size}"
        self._problems.append(Problem(what, fault, "delete the snapshots that show it"))

    async def _check_raw(self, inode: Inode) -> None:
        try:
            status = self._raw_store.stat(inode.raw)
        except ObjectMissingError:
            if not inode.flags & InodeFlags.UNSEALED or inode.size:
                await self._complain(
                    inode, f"its raw file {inode.raw} is missing", self._remedies.missing
                )
            return
        if not stat.S_ISREG(status.st_mode):
            await self._complain(inode, f"raw file {inode.raw} is not a plain file", _RESTORE)
        elif self._has_times and self._clean and inode.flags == InodeFlags.DURABLE:
            found = status.st_size, storable_ns(status.st_mtime_ns)
            if found != (inode.size, inode.mtime_ns):
                fault = (
                    f"its raw file {inode.raw} has {found[0]} bytes and mtime {found[1]} ns, not "
                    f"{inode.size} and {inode.mtime_ns}: changed after the last mount"
                )
                await self._complain(inode, fault, self._remedies.changed)
        elif not inode.flags & InodeFlags.UNSEALED and status.st_size != inode.size:
            await self._complain(
                inode,
                f"its raw file has {status.st_size} bytes, not {inode.size}",
                self._remedies.resized,
            )

    async def _check_form(self, inode: Inode | str, form: Form) -> None:
        try:
            if form.kind == FormKind.PACKED:
                self._packed.add(form.place.key)
                await self._check_packed(inode, form)
            elif self._remote is not None:
                self._remote_keys.add(form.place.key)
                if (store := store_of(form.place.key)) in self._unreachable:
                    self._unreachable[store] += 1
                else:
                    await self._check_remote(inode, form, self._remote)
        except StoreUnavailableError as error:
            if not (store := store_of(form.place.key)):
                raise
            self._note_unreachable(store, error)
            self._unreachable[store] += 1
        except StoreNotConfiguredError as error:
            # Nobody knows whether it is there; and there may be a million of it.
            self._unconfigured[error.name] += 1
        except EncryptionKeyError:
            # What cannot be decrypted here is not damaged; and there may be a million of it.
            self._locked_out[form.coding.key_id] += 1
        except CodecMissingError:
            self._undecodable[form.coding.codec] += 1
        except MemfsError as error:
            remedy = _RESTORE if form.kind == FormKind.PACKED else _RESTORE_OBJECT
            await self._complain(inode, f"its {form.kind} form is bad: {error}", remedy)

    def _complain_of_what_is_missing(self) -> None:
        for codec, count in sorted(self._undecodable.items()):
            self._problems.append(
                Problem(
                    f"codec {codec}",
                    f"not installed, so that {count} compressed forms were not verified",
                    "install the package that provides it",
                )
            )
        for name, count in sorted(self._unreachable.items()):
            self._problems.append(
                Problem(
                    f"store {name}",
                    f"it cannot be reached, so that {count} forms there were not looked at, nor "
                    f"anything else: {self._refusals[name]}",
                    "look at it again when it answers",
                )
            )
        for source, (reason, count) in sorted(self._unasked.items()):
            self._problems.append(
                Problem(
                    f"source {source}",
                    f"it cannot be asked, so that {count} adopted files were not compared with it: "
                    f"{reason}",
                    "look at it again when it answers",
                )
            )
        for name, count in sorted(self._unconfigured.items()):
            self._problems.append(
                Problem(
                    f"store {name}",
                    f"not configured, so that {count} forms there were not looked at",
                    f"name the mount's configuration with -c, or add [stores.{name}] to it",
                )
            )
        for key_id, count in sorted(self._locked_out.items()):
            self._problems.append(
                Problem(
                    f"key {key_id}",
                    f"not configured, so that {count} encrypted forms were not verified",
                    "name the mount's configuration with -c, or add the key to encryption.keys",
                )
            )

    def _note_unreachable(self, store: str, error: StoreUnavailableError) -> None:
        """Leave a named store alone from now on: the others are looked at whatever it does."""
        self._unreachable[store] = 0
        self._refusals[store] = str(error)

    async def _check_packed(self, inode: Inode | str, form: Form) -> None:
        size = self._packed_store.stat(form.place.key).st_size
        if size != form.stored_bytes:
            await self._complain(
                inode, f"{form.place} has {size} bytes, not {form.stored_bytes}", _RESTORE
            )
        elif self._verify:
            await trio.to_thread.run_sync(self._verify_packed, form, await self._unlock(form))
            self._verified_bytes += size

    async def _unlock(self, form: Form) -> Unlock:
        blob = await self._engine.get_blob(form.blob)
        return Unlock.of(self._keys, blob, form.coding, self._sealed_as)

    def _verify_packed(self, form: Form, unlock: Unlock) -> None:
        path = self._packed_store.path(form.place.key)
        with PackedFile.open(path, unlock=unlock) as packed:
            packed.verify()

    async def _check_remote(self, inode: Inode | str, form: Form, remote: RemoteStore) -> None:
        key = form.place.key
        if key != self._object.key:
            # Files of one batch lie next to each other more often than not.
            self._object = await remote.stat(key)
        if not form.fits(self._object.size):
            await self._complain(
                inode,
                f"object {key} has {self._object.size} bytes, not {form.end}",
                _RESTORE,
            )
        elif self._verify:
            # An archived object is there with its size; to read it would cost a restore.
            with contextlib.suppress(ObjectArchivedError), without_restores():
                await self._verify_object(remote, form)

    async def _verify_object(self, remote: RemoteStore, form: Form) -> None:
        reader = await open_content(remote, form, await self._unlock(form))
        await reader.verify()
        self._verified_bytes += form.stored_bytes

    async def _note_unfinished(self) -> None:
        """Garbage and intents name files that are about to go: they are not in the way."""
        for item in await self._engine.list_garbage(2**31):
            self._note_location(item.kind, item.location)
        for intent in await self._engine.list_intents():
            kind = {
                MoveKind.PACK: FormKind.PACKED,
                MoveKind.UPLOAD: FormKind.REMOTE,
                MoveKind.BATCH: FormKind.REMOTE,
                MoveKind.HYDRATE: FormKind.RAW,
            }[intent.kind]
            self._note_location(kind, intent.location)
        start, end = self._engine.unrecorded_raw_range()
        if start < end:
            self._raws.extend(self._raw_store.list_range(start, end))

    def _note_location(self, kind: FormKind, location: str) -> None:
        self._left_over_count += 1
        if kind == FormKind.RAW:
            self._raws.append(int(location))
        elif kind == FormKind.PACKED:
            self._packed.add(location)
        else:
            self._remote_keys.add(location)

    def _check_raw_store(self) -> None:
        known = array("Q", sorted(self._raws))
        for count, raw in enumerate(self._raw_store.iterate()):
            if not _contains(known, raw):
                self._problems.append(
                    Problem(
                        str(self._raw_store.path(raw)),
                        "no inode has this raw file",
                        self._remedies.unknown,
                    )
                )
            if count % BATCH_COUNT == 0:
                self._progress("raw files", count, len(known))
        for path in self._raw_store.strays():
            self._problems.append(Problem(str(path), "not a raw file of memfs", "move it away"))

    def _check_packed_store(self) -> None:
        for location in self._packed_store.iterate():
            if location not in self._packed:
                path = str(self._packed_store.path(location))
                self._problems.append(
                    Problem(path, "no blob has this packed file", self._remedies.unknown)
                )

    async def _check_remote_store(self) -> None:
        if self._remote is None or not self._lists:
            return
        for store in self._stores:
            if store in self._unreachable:
                continue
            try:
                await self._check_listing(self._remote.of(address_of(store, "")), store)
            except StoreUnavailableError as error:
                if not store:
                    raise
                self._note_unreachable(store, error)

    async def _check_listing(self, remote: RemoteStore, store: str) -> None:
        try:
            async for found in remote.list(address_of(store, "")):
                key = key_within(found.key)
                if key.startswith((PREFIX, EXPORTS_PREFIX)):
                    continue
                if found.key not in self._remote_keys:
                    url = f"{remote.url}/{key}"
                    self._problems.append(Problem(url, "no blob has this object", _OURS_OR_NOT))
        except StoreUnavailableError:
            raise
        except StoreError as error:
            # Rights to list are not needed otherwise: each form was looked at by its own key.
            fault = f"not listed, so that nobody looked for objects without a blob: {error}"
            remedy = "no file is touched by it; allow the listing to look for them"
            self._problems.append(Problem(remote.url, fault, remedy))

    async def _complain(self, inode: Inode | str, fault: str, remedy: str) -> None:
        if isinstance(inode, str):
            path = inode
        else:
            path = (await self._engine.get_path(inode.ino)).decode("utf-8", "backslashreplace")
        self._problems.append(Problem(path, fault, remedy))


def _contains(numbers: array[int], number: RawId) -> bool:
    index = bisect_left(numbers, number)
    return index < len(numbers) and numbers[index] == number
