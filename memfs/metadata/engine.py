"""The metadata engine's contract: one namespace operation = one call = one atomic change.

Invariant: a call either happens whole or raises and changes nothing. Callers validate nothing that
the engine can check itself (existence, type, emptiness, cycles of rename); the engine checks no
permissions (the kernel does, `default_permissions`) and touches no content.

Atomicity: one call is atomic by itself, and what it presumes of a file (generation, raw file) is an
argument that the engine checks. Calls that belong together stand in `async with engine.change()`: a
mutation and the read that it rests on among them (a mode that is computed, a flag that wants a new
name).

Durability: a mutation survives the death of the process as soon as the block of `change` ended, or
`commit` returned for mutations outside of one; and power loss as soon as `sync` returned.

Suspension: methods are `async` because a later engine talks to a server. The SQLite engine never
suspends, so that a caller may run a coroutine of it to its end with one `send(None)`; one that does
awaits `waiting.leave` itself. No caller may take "does not suspend" for a lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from memfs.metadata.foreign import Foreign
from memfs.metadata.published import Published
from memfs.metadata.records import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from memfs.metadata.records import (
        AttributeChanges,
        Batch,
        BatchMember,
        Blob,
        Decision,
        DifferencePage,
        DirectoryEntry,
        EffectivePin,
        ElementProgress,
        Event,
        FieldIndex,
        FileOrder,
        FilePage,
        FilePosition,
        Form,
        FormReplacement,
        FoundInode,
        GarbageItem,
        HeldContent,
        IndexProgress,
        Inode,
        Intent,
        KeptContent,
        MetricRow,
        MoveKind,
        NewInode,
        OpenContent,
        PendingMove,
        RenameResult,
        Scope,
        Seal,
        Snapshot,
        SnapshotUsage,
        StoredCount,
        StoredUntil,
        Usage,
        WorkCounts,
    )
    from memfs.query.filters import Node
    from memfs.types import (
        BlobId,
        FormKind,
        Generation,
        InodeNo,
        IntentId,
        RawId,
        SnapshotId,
        StateId,
        Tier,
    )


class Changes(Protocol):
    """Mutations that belong together; every part of an engine has it."""

    def change(self, *, deferred: bool = False) -> AbstractAsyncContextManager[None]:
        """Collect the mutations of one step: all or nothing happens at the end of the block.

        What is read within the block has its mutations, and stays as it is until its end. The block
        awaits nothing but the engine. If it raises, nothing of it happens. A block within another
        one is a part of it.

        Args:
            deferred: Its commit may wait for the replies of the batch (`commit`), as that of a
                single mutation does.

        Raises:
            NoSpaceError, MetadataError: At the end; as `commit`.
        """
        ...

    @property
    def uncommitted(self) -> bool:
        """True if a mutation that was answered awaits its commit: replies to programs wait too."""
        ...

    async def commit(self) -> None:
        """Make all mutations that were answered so far survive the death of this process.

        Several may wait for one commit. Not within a block of `change`.

        Raises:
            NoSpaceError: The disk is full. All mutations since the last commit are undone, and
                each who waits for the commit of one is told.
            MetadataError: Any other failure; undone likewise.
        """
        ...


class Namespace(Changes, Protocol):
    """Names, attributes, xattrs and pins: what every node of a mount sees alike.

    Every method that names an inode raises `StaleInodeError` if it does not exist. Names are bytes,
    any but `/` and NUL; longer than 255: `NameTooLongError`. `now_ns` is wall-clock time for the
    mtime/ctime that POSIX wants updated on the inodes and parents involved.
    """

    # --- reading names ----------------------------------------------------------------------------
    async def get_inode(self, ino: InodeNo) -> Inode:
        """Return an inode, orphans included."""
        ...

    async def lookup(self, parent: InodeNo, name: bytes) -> Inode:
        """Return the inode of a dentry.

        Raises:
            NotFoundError: No such name.
            NotADirectoryInodeError: `parent` is not a directory.
        """
        ...

    async def find(self, parent: InodeNo, name: bytes) -> Inode | None:
        """Return what `lookup` does, or None where it would raise `NotFoundError`.

        Most names that programs look up are missing, and an exception takes longer than the search.
        """
        ...

    async def list_directory(
        self, parent: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        """Return up to `limit` dentries after a cookie (0: from the start), by cookie; no dots."""
        ...

    async def get_parent(self, ino: InodeNo) -> InodeNo:
        """Return the parent of any one dentry of an inode; the root for the root and orphans."""
        ...

    async def get_dentry(self, ino: InodeNo) -> tuple[InodeNo, bytes] | None:
        """Return parent and name of any one dentry of an inode; None for the root and orphans."""
        ...

    async def get_path(self, ino: InodeNo) -> bytes:
        """Return one path from the root, `/a/b`; `/` for the root; `<inode 17>` for an orphan."""
        ...

    async def read_link(self, ino: InodeNo) -> bytes:
        """Return a symlink's target; `InvalidValueError` if it is not a symlink."""
        ...

    # --- changing names ---------------------------------------------------------------------------
    async def create(self, parent: InodeNo, name: bytes, new: NewInode) -> Inode:
        """Create an inode (any type; type from `new.mode`) and its dentry.

        A directory starts with nlink 2 and adds 1 to its parent's.

        Raises:
            AlreadyExistsError: The name is taken.
            NotFoundError: `parent` was removed (nlink 0).
            NotADirectoryInodeError: `parent` is not a directory.
        """
        ...

    async def create_orphan(self, new: NewInode) -> Inode:
        """Create an inode without a name, nlink 0, of any type but a directory (O_TMPFILE).

        A regular file without a raw file is sealed, and empty.
        """
        ...

    async def link(self, ino: InodeNo, parent: InodeNo, name: bytes, now_ns: int) -> Inode:
        """Add a dentry to an existing inode (also to an orphan); returns the inode after it.

        Raises:
            AlreadyExistsError: The name is taken.
            NotPermittedError: `ino` is a directory.
            NotFoundError: `parent` was removed.
        """
        ...

    async def unlink(
        self, parent: InodeNo, name: bytes, now_ns: int, expected: InodeNo | None = None
    ) -> Inode:
        """Remove a dentry of anything but a directory; returns the inode after it.

        With nlink 0 the inode stays, as an orphan, until `reap`.

        Args:
            parent: A directory.
            name: In it.
            now_ns: See above.
            expected: What the name led to when the caller looked; None: whatever it leads to.

        Raises:
            NotFoundError: No such name, or it leads elsewhere by now.
            IsADirectoryInodeError: It is a directory.
        """
        ...

    async def rmdir(
        self, parent: InodeNo, name: bytes, now_ns: int, expected: InodeNo | None = None
    ) -> Inode:
        """Remove an empty directory; returns it as an orphan (nlink 0).

        Args:
            expected: As of `unlink`.

        Raises:
            NotFoundError, NotADirectoryInodeError, DirectoryNotEmptyError.
        """
        ...

    async def rename(
        self,
        parent: InodeNo,
        name: bytes,
        new_parent: InodeNo,
        new_name: bytes,
        flags: int,
        now_ns: int,
        whiteout: NewInode | None = None,
        expected: InodeNo | None = None,
        expected_target: InodeNo | None = None,
    ) -> RenameResult:
        """Move a dentry, flags `RENAME_NOREPLACE` (1) or `RENAME_EXCHANGE` (2), as Linux does.

        With `whiteout`, and `RENAME_WHITEOUT` (4) in the flags, that inode takes the former name.

        Renaming onto another hard link of the same inode does nothing (POSIX).

        Args:
            expected: What the name led to when the caller looked; None: whatever it leads to.
            expected_target: The same of the new name; `NO_INODE`: it was free.

        Raises:
            NotFoundError: Source missing; with EXCHANGE, also target missing; removed new parent; a
                name leads elsewhere by now.
            AlreadyExistsError: NOREPLACE and the target exists.
            DirectoryNotEmptyError: The replaced directory has dentries.
            IsADirectoryInodeError: A non-directory onto a directory.
            NotADirectoryInodeError: A directory onto a non-directory.
            InvalidValueError: A directory into its own subtree.
        """
        ...

    async def set_attributes(self, ino: InodeNo, changes: AttributeChanges) -> Inode:
        """Change attributes; returns the inode after it."""
        ...

    async def reap(self, inos: Sequence[InodeNo]) -> None:
        """Delete those of the inodes that are orphans; their contents become garbage."""
        ...

    # --- xattrs -----------------------------------------------------------------------------------
    async def get_xattr(self, ino: InodeNo, name: bytes) -> bytes:
        """Return an xattr's value; `NoXattrError` if it is not set."""
        ...

    async def list_xattrs(self, ino: InodeNo) -> list[bytes]:
        """Return the names of all xattrs of an inode, in order of name."""
        ...

    async def set_xattr(
        self, ino: InodeNo, name: bytes, value: bytes, flags: int, now_ns: int
    ) -> None:
        """Set an xattr; flags `XATTR_CREATE` (1), `XATTR_REPLACE` (2) as in setxattr(2).

        Raises:
            AlreadyExistsError, NoXattrError: By the flags.
            TooBigError: More than 64 KiB.
        """
        ...

    async def remove_xattr(self, ino: InodeNo, name: bytes, now_ns: int) -> None:
        """Remove an xattr; `NoXattrError` if it is not set."""
        ...

    async def set_mode_and_xattrs(
        self,
        ino: InodeNo,
        mode: int | None,
        xattrs: Sequence[tuple[bytes, bytes | None]],
        now_ns: int,
    ) -> Inode:
        """Change permission bits and xattrs in one step (ACLs); a None value removes, if there."""
        ...

    async def effective_xattr(self, ino: InodeNo, name: bytes) -> bytes | None:
        """Return the inode's own xattr of a name, else that of the nearest directory with one."""
        ...

    # --- pins and codecs --------------------------------------------------------------------------
    async def set_pin(self, ino: InodeNo, tier: Tier | None) -> None:
        """Set or remove the inode's own pin."""
        ...

    async def effective_pin(self, ino: InodeNo) -> EffectivePin:
        """Return the inode's own pin, else that of the nearest pinned directory above.

        Those directories above count that root owns, or the inode's own user; so it is
        with codecs and xattrs.
        """
        ...

    async def set_codec(self, ino: InodeNo, codec: str | None) -> None:
        """Set or remove the inode's own codec."""
        ...

    async def effective_codec(self, ino: InodeNo) -> str | None:
        """Return the inode's own codec, else that of the nearest directory above with one."""
        ...


class Queries(Changes, Protocol):
    """Questions to all files at once."""

    async def find_files(
        self,
        node: Node,
        order: FileOrder | None,
        after: FilePosition | None,
        limit: int,
        budget_s: float | None,
        scope: Scope = EVERYTHING,
    ) -> FilePage | None:
        """Return inodes that a filter finds, in pages; those without a name may be among them.

        User xattrs, `$path`, `$name`, `$size`, `$mtime` and `$digest` are decided as
        `query.matching` does, size and time being those of the last seal. Conditions on other
        fields are taken to hold, or not to hold, whichever finds more files. What holds on to its
        values and names while page after page is read is found exactly once.

        For a caller neither the files nor how long it takes depends on what it may not see: no
        index leads, and conditions are looked at after permissions. A file that it may not read is
        found by nothing that is an xattr, and by no negation of that. In a scope that is not
        `EVERYTHING` each inode has a name, and a page may be short of files although it goes on.

        Args:
            order: How they are sorted; None: as is easiest.
            after: That of the page before, with the same filter and order; None: the first page.
            limit: At most so many.
            budget_s: How long it may take; None: as long as it takes.
            scope: Which instant, and for whom.

        Returns:
            None if the budget is too small, or would have to be exceeded by one step.

        Raises:
            NotSupportedError: The index is off or not complete, or a name is not in it.
            NotFoundError: The snapshot is gone.
        """
        ...

    async def describe_files(
        self, inos: Sequence[InodeNo], scope: Scope, *, with_xattrs: bool = False
    ) -> list[FoundInode]:
        """Return what a scope shows of inodes, in their order; those that it hides are left out.

        Raises:
            NotFoundError: The snapshot is gone.
        """
        ...

    def indexed_names(self) -> list[bytes]:
        """Return the names of user xattrs that the index has, or had once."""
        ...

    async def count_named(self, inos: Sequence[InodeNo]) -> int:
        """Return how many of the inodes have a name; the root has one."""
        ...

    async def index_attributes(self, limit: int) -> IndexProgress:
        """Put xattrs into the index that were set without it, in order of inode.

        Args:
            limit: Xattrs that are looked at, and entries that are written; the last one of these
                may be a JSON array, with an entry for each element.
        """
        ...

    def index_progress(self) -> IndexProgress:
        """Return how complete the index of attributes is."""
        ...

    # --- indexes of what memfs knows --------------------------------------------------------------
    async def add_index(self, field: str) -> None:
        """Begin an index of `$size`, `$mtime` or `$name`, which `build_indexes` fills; idempotent.

        Changes of files keep it up to date from now on. Once it is whole, filters and orders are
        led by it.

        Raises:
            InvalidValueError: No other field can have one.
            NotSupportedError: The database cannot search texts.
            AlreadyExistsError: The one before is still being removed.
        """
        ...

    async def drop_index(self, field: str) -> None:
        """Give an index up; `build_indexes` removes its entries.

        Raises:
            NotFoundError: There is no such index.
        """
        ...

    async def build_indexes(self, limit: int) -> bool:
        """Do a part of what is to be done for the indexes of fields, and for that of elements.

        Args:
            limit: Entries that are made or removed. The last file may have several names, and the
                last array several elements.

        Returns:
            False if there is nothing to do.
        """
        ...

    def field_indexes(self) -> list[FieldIndex]:
        """Return the indexes of fields that there are, by field."""
        ...

    def element_progress(self) -> ElementProgress:
        """Return how complete the index of elements is."""
        ...


class Contents(Changes, Protocol):
    """Generations of files, blobs, their forms in the object store, and batches.

    Every method that names an inode raises `StaleInodeError` if it does not exist, but for those
    that tell by their answer that the generation has moved on.
    """

    # --- generations ------------------------------------------------------------------------------
    async def unseal(
        self,
        ino: InodeNo,
        raw: RawId,
        generation: Generation | None = None,
        *,
        overwritten: bool = False,
    ) -> Inode:
        """Begin a new generation for writing, its bytes in `raw` (present, or the one it has).

        Sets UNSEALED, clears DURABLE, adds 1 to the generation, detaches the blob (its forms become
        garbage where nothing else refers to them), and makes the former raw file garbage if another
        one was given. On an unsealed inode with the same raw: nothing happens.

        What a snapshot shows is kept for it: the blob, or the former raw file. Bytes that are to
        change in place cannot be: where `needs_copy`, nothing happens before `keep_copy`.

        Args:
            ino: A regular file.
            raw: Its raw file from now on.
            generation: What the caller looked at; if the inode has moved on, nothing happens. None:
                whichever it has.
            overwritten: The bytes have changed in place already: snapshots lose them.

        Returns:
            The inode after it, or as it is if it has moved on or needs a copy.
        """
        ...

    async def needs_copy(self, ino: InodeNo) -> bool:
        """Tell whether a snapshot shows bytes that only a sealed raw file has: see `keep_copy`."""
        ...

    async def keep_copy(
        self, ino: InodeNo, generation: Generation, raw: RawId, intent: IntentId
    ) -> bool:
        """Give a durable copy of a raw file to the snapshots that show it, and end the intent.

        Args:
            ino: A sealed file.
            generation: What was copied.
            raw: The copy.
            intent: That of the move that made it, which is a hydration.

        Returns:
            False, and the copy becomes garbage, if no snapshot needs it any more.
        """
        ...

    async def list_kept(self, after: tuple[InodeNo, Generation], limit: int) -> list[KeptContent]:
        """Return what snapshots keep of earlier generations, by inode and generation."""
        ...

    async def list_keepers(self, blob: BlobId, limit: int) -> list[KeptContent]:
        """Return what snapshots keep by a blob, by inode and generation."""
        ...

    async def list_kept_blobs(self, after: BlobId, limit: int) -> list[KeptContent]:
        """Return what snapshots keep by blobs that no file with a name has, one row a blob.

        Args:
            after: The blob of the last one seen; `NO_BLOB` to start.
            limit: At most so many, in order of blob.
        """
        ...

    async def seal(self, seals: Sequence[Seal]) -> None:
        """End the writing of files: store size and times, clear UNSEALED."""
        ...

    async def list_files(self, after: InodeNo, limit: int) -> list[Inode]:
        """Return regular files in order of number."""
        ...

    # --- blobs and their forms --------------------------------------------------------------------
    def reserve_blob(self) -> BlobId:
        """Take the next blob id; never handed out again, even after a crash."""
        ...

    async def get_blob(self, blob: BlobId) -> Blob:
        """Return a blob; `NotFoundError` if it is gone."""
        ...

    async def list_forms(self, blob: BlobId) -> list[Form]:
        """Return the packed and remote forms of a blob, packed first."""
        ...

    async def list_sharers(self, blob: BlobId, limit: int) -> list[Inode]:
        """Return the files that have a blob, in order of number."""
        ...

    async def share_blob(self, ino: InodeNo, generation: Generation, blob: BlobId) -> bool:
        """Give a sealed file that has neither a raw file nor a blob the blob of another one.

        Size and times are the caller's to set.

        Returns:
            False, and nothing changes, if the blob is gone, or the file is not so.
        """
        ...

    async def publish_form(
        self,
        ino: InodeNo,
        generation: Generation,
        blob: Blob,
        form: Form,
        intent: IntentId | None,
    ) -> bool:
        """Add a verified form to a sealed generation and end the intent, in one step.

        Creates the blob and attaches it to the inode if the inode has no blob yet. A form that
        memfs does not own is never made garbage, here or later.

        Args:
            generation: What the form was made of.
            blob: Its content.
            form: Verified.
            intent: That of the move that wrote it; None exactly if memfs does not own it.

        Returns:
            False if the inode is gone, unsealed, of another generation, or carries another blob:
            then only the intent ends and the form's place becomes garbage.

        Raises:
            InvalidValueError: It cannot be owned so, or is to be adopted while memfs removes it.
        """
        ...

    async def drop_form(self, ino: InodeNo, generation: Generation, kind: FormKind) -> bool:
        """Detach the packed or remote form as `drop_raw`, if another or the raw file stays."""
        ...

    async def replace_form(self, intent: IntentId, replacement: FormReplacement) -> bool:
        """Put another form in the place of one of its kind, and end the intent, in one step.

        All that have the blob have the new form then: files that share it, and snapshots.

        Args:
            intent: That of the move that wrote the new file or object, which is no batch.
            replacement: The new form is verified and of the same blob.

        Returns:
            False if the former form is not in force any more: then only the intent ends and the
            new file or object becomes garbage. Otherwise the former one does.

        Raises:
            InvalidValueError: One of both is not owned: what memfs does not own is never moved.
        """
        ...

    async def find_unreferenced(self, kind: FormKind, locations: Sequence[str]) -> list[str]:
        """Return those of the locations that no form, batch, garbage or intent names.

        Args:
            kind: Packed or remote; of a batch the key of its object.
            locations: Which exist already: what an intent precedes is named from then on.
        """
        ...

    # --- batches ----------------------------------------------------------------------------------
    async def begin_batch(self, key: str, now_ns: int) -> IntentId:
        """Record that the object `key` begins to be written, for many files (`MoveKind.BATCH`)."""
        ...

    async def publish_batch(
        self, intent: IntentId, key: str, size_bytes: int, members: Sequence[BatchMember]
    ) -> list[bool]:
        """Add verified remote forms that lie in one object, and end the intent, in one step.

        Args:
            intent: That of `begin_batch`.
            key: That of the object; never used before.
            size_bytes: Bytes of the object.
            members: Files and their forms, each at an offset in it.

        Returns:
            For each member whether it was published; refused as by `publish_form`. If not one was,
            the object becomes garbage.
        """
        ...

    async def replace_batched(
        self, intent: IntentId, key: str, size_bytes: int, replacements: Sequence[FormReplacement]
    ) -> list[bool]:
        """Move remote forms into another object (compaction), and end the intent, in one step.

        Returns:
            For each whether its former form was still in force; else its part of the object is
            dead from the start. Objects and batches without a form left become garbage.
        """
        ...

    async def list_sparse_batches(
        self, live_percent: int, limit: int, stores: Collection[str] | None = None
    ) -> list[Batch]:
        """Return batches of which less than `live_percent` of the bytes is alive, worst first.

        Args:
            stores: Only those in stores of these names (`memfs.addresses`); None: all of them.
        """
        ...

    async def list_batched(self, key: str) -> list[Form]:
        """Return the forms that lie in a batch."""
        ...

    async def list_stores(self) -> list[str]:
        """Return the names of the stores that objects of memfs lie in, without the default one.

        A few look-ups, however many forms there are. Garbage and intents do not count.
        """
        ...

    async def count_stored(self, store: str, after: StoredUntil | None, limit: int) -> StoredCount:
        """Count a slice of the forms that memfs has in a named store.

        Args:
            store: Its name, not empty.
            after: Where the slice before has ended; None: this is the first one.
            limit: At most so many forms.
        """
        ...


class Local(Changes, Protocol):
    """What belongs to one node: its raw and packed forms, its moves, settings and journal.

    A start recovers what this part lists: what this node began, in this epoch or an earlier one. It
    leaves alone what another node has under way.
    """

    # --- ids --------------------------------------------------------------------------------------
    @property
    def state_id(self) -> StateId:
        """Identity of the state directory that this engine has open."""
        ...

    def reserve_ids(self) -> tuple[InodeNo, RawId]:
        """Take the next inode number and raw id; never handed out again, even after a crash."""
        ...

    def hold_raw_ids(self, oldest: RawId) -> None:
        """Note that raw files from `oldest` on are kept ready: they stay unrecorded for long.

        After a crash they are in `unrecorded_raw_range`. Replaces what was noted before.
        """
        ...

    def unrecorded_raw_range(self) -> tuple[RawId, RawId]:
        """Raw ids `[start, end)` that an earlier, killed process may have created unrecorded."""
        ...

    def clear_unrecorded_raw_range(self) -> None:
        """Note that nothing unrecorded is left in `unrecorded_raw_range`.

        Until then the range outlives a clean close too: fsck, or a mount that ends early, looks at
        nothing in it.
        """
        ...

    # --- raw and packed forms ---------------------------------------------------------------------
    async def publish_raw(
        self,
        ino: InodeNo,
        generation: Generation,
        raw: RawId,
        blocks: int,
        intent: IntentId,
        *,
        durable: bool = False,
    ) -> Inode | None:
        """Add a hydrated raw file to a sealed generation without a raw file, and end the intent.

        Args:
            ino: A regular file.
            generation: What the raw file was made of.
            raw: The raw file.
            blocks: Its `st_blocks`.
            intent: That of the move that wrote it.
            durable: It is on stable storage, with the times that the inode has.

        Returns:
            The inode after it; None, and the raw file becomes garbage, where `publish_form` says
            False.
        """
        ...

    async def drop_raw(
        self, ino: InodeNo, generation: Generation, raw: RawId | None = None
    ) -> bool:
        """Detach the raw file (it becomes garbage) of a sealed generation that has another form.

        Args:
            generation: What the caller looked at.
            raw: The raw file that the caller looked at; None: whichever it has.

        Returns:
            False, and nothing changes, if the generation moved on, is unsealed, has another raw
            file, or lacks a form.
        """
        ...

    async def mark_durable(self, files: Sequence[tuple[InodeNo, Generation]]) -> None:
        """Record that the raw files of these sealed generations are on stable storage."""
        ...

    async def list_not_durable(self, limit: int) -> list[Inode]:
        """Return sealed regular files with a raw file that is not known to be on stable storage."""
        ...

    async def list_raw_by_access(
        self, before_ns: int, after: tuple[int, int], limit: int
    ) -> list[Inode]:
        """Return sealed regular files with a raw file and `accessed_ns` < before, coldest first.

        Args:
            before_ns: Exclusive bound.
            after: `(accessed_ns, ino)` of the last one seen; `(0, 0)` to start.
            limit: At most so many.
        """
        ...

    async def list_packed_by_access(
        self, before_ns: int, after: tuple[int, int], limit: int
    ) -> list[Inode]:
        """Return sealed regular files with a packed form, as `list_raw_by_access`."""
        ...

    async def record_access(self, accesses: Sequence[tuple[InodeNo, int]]) -> None:
        """Store the last access times (ns) of inodes that still exist; others are passed over."""
        ...

    # --- what this node has begun -----------------------------------------------------------------
    async def list_unsealed(self, after: InodeNo, limit: int) -> list[Inode]:
        """Return the inodes that this node has unsealed, in order of number."""
        ...

    async def list_orphans(self, limit: int) -> list[InodeNo]:
        """Return up to `limit` inodes with nlink 0 whose last name went by this node."""
        ...

    # --- intents and garbage ----------------------------------------------------------------------
    async def begin_intent(
        self, kind: MoveKind, ino: InodeNo, generation: Generation, location: str, now_ns: int
    ) -> IntentId:
        """Record that a move begins to write at `location`.

        Args:
            kind: What the move does.
            ino: The file; `NO_INODE`: it is made with what is written.
            generation: As the move found the file.
            location: Where it writes.
            now_ns: The present.
        """
        ...

    async def cancel_intent(self, intent: IntentId) -> None:
        """End a move that is given up: its location becomes garbage of the right kind."""
        ...

    async def list_intents(self) -> list[Intent]:
        """Return this node's moves under way, oldest first; at start: what a crash cut off."""
        ...

    async def list_garbage(
        self,
        limit: int,
        *,
        remote: bool = True,
        held_from: int | None = None,
        stores: Collection[str] | None = None,
    ) -> list[GarbageItem]:
        """Return what is to be removed, oldest first.

        Args:
            limit: At most so many.
            remote: Without it only local files.
            held_from: Leave out objects with this number or a higher one; None: no object.
            stores: Objects in stores of these names alone; None: in all of them.
        """
        ...

    async def count_held(self, held_from: int) -> int:
        """Return how many objects are garbage with this number or a higher one."""
        ...

    async def clear_garbage(self, items: Sequence[int]) -> None:
        """Forget garbage that has been removed."""
        ...

    # --- why a file is where it is ----------------------------------------------------------------
    async def set_pending(self, pending: PendingMove) -> None:
        """Record why a move waits; replaces the inode's earlier record.

        But for `since_ns`, as long as the same tier is wanted.
        """
        ...

    async def get_pending(self, ino: InodeNo) -> PendingMove | None:
        """Return why an inode's move waits, if one does."""
        ...

    async def clear_pending(self, ino: InodeNo) -> None:
        """Forget that a move waits."""
        ...

    async def list_pending(self, due_ns: int | None, limit: int) -> list[PendingMove]:
        """Return waiting moves, by `retry_ns`; with `due_ns` only those due by then."""
        ...

    async def record_decision(self, ino: InodeNo, decision: Decision) -> None:
        """Store the last decision on an inode."""
        ...

    async def get_decision(self, ino: InodeNo) -> Decision | None:
        """Return the last decision on an inode, if any."""
        ...

    # --- settings ---------------------------------------------------------------------------------
    async def get_setting(self, name: str) -> bytes | None:
        """Return a value that `put_setting` stored, or None."""
        ...

    async def put_setting(self, name: str, value: bytes | None) -> None:
        """Store a small value under a name, which its owner keeps unique; None removes it.

        Raises:
            TooBigError: More than 64 KiB.
        """
        ...

    # --- what was measured ------------------------------------------------------------------------
    async def put_metrics(self, rows: Sequence[MetricRow]) -> None:
        """Store rows in their rings; each takes the place of the one that has its slot.

        Raises:
            InvalidValueError: There is no ring for a row; nothing was stored.
            TooBigError: A row has more than `METRIC_BYTES_MAX` bytes; nothing was stored.
        """
        ...

    async def list_metrics(self, resolution_s: int, after_s: int, limit: int) -> list[MetricRow]:
        """Return rows of a ring that begin after a time, in order of time; O(ring).

        After long pauses, rows from before the span of the ring may be among them.
        """
        ...

    async def add_events(self, events: Sequence[Event]) -> None:
        """Add events to their ring, in order, each with the next number; long texts are cut."""
        ...

    async def list_events(self, before: int | None, limit: int) -> list[Event]:
        """Return events with lower numbers than `before`, the latest first; None: the latest."""
        ...

    # --- totals -----------------------------------------------------------------------------------
    async def usage(self) -> Usage:
        """Return the totals; O(1)."""
        ...

    async def count_work(self, limit: int) -> WorkCounts:
        """Return how much is not done yet; O(limit), without reading a row of it."""
        ...

    async def recount(self) -> Usage:
        """Re-derive the totals from the rows (fsck); does not store them."""
        ...

    # --- durability -------------------------------------------------------------------------------
    def commit_nowait(self) -> None:
        """Do as `commit` for this node's own part, where no event loop runs; raises likewise."""
        ...

    @property
    def synced(self) -> bool:
        """True if all mutations survive power loss already: `sync` has nothing to do."""
        ...

    def sync(self) -> None:
        """Make all committed mutations survive power loss (fsync). Blocks; called from a thread."""
        ...

    @property
    def is_settling(self) -> bool:
        """True while changes are being moved out of the journal beside all other work.

        Changes that are in no hurry had better wait: what comes meanwhile makes the next move long.
        """
        ...

    def maintain(self) -> None:
        """Move the journal into the database where that is due; milliseconds. Idempotent."""
        ...

    def check(self) -> list[str]:
        """Return what is wrong inside the engine's own files and tables, a sentence each (fsck)."""
        ...

    def close(self) -> None:
        """Commit, make durable and close; idempotent."""
        ...


class Snapshots(Changes, Protocol):
    """Instants of the namespace that are kept: names, attributes, xattrs, targets of symlinks.

    A snapshot is read-only and never changes until it is deleted. `snap` may be `NOW` where one is
    read. Methods that take one raise `NotFoundError` if no snapshot has that number any longer.
    """

    # --- making and removing ----------------------------------------------------------------------
    async def create_snapshot(
        self,
        name: str,
        now_ns: int,
        description: str = "",
        labels: Sequence[tuple[str, str]] = (),
        kept_until_ns: int | None = None,
    ) -> Snapshot:
        """Keep the present instant under a name; O(1).

        Raises:
            AlreadyExistsError: The name is taken.
            InvalidValueError, NameTooLongError: It cannot be the name of a file.
        """
        ...

    async def part_open(self, files: Sequence[OpenContent]) -> list[Inode]:
        """Begin a new generation of files that may have a writer, for the newest snapshot's sake.

        It shows the former generation, with the size and time given here and without bytes, until
        `keep_open` gives it some. Belongs into the change that has made the snapshot.

        Args:
            files: Those that are not unsealed, or have no name, are passed over.

        Returns:
            The others as they were.
        """
        ...

    async def keep_open(self, content: KeptContent, intent: IntentId) -> bool:
        """Give a durable copy of a file that was open for writing to the snapshots that show it.

        Args:
            content: A generation that `part_open` has returned; size and time are the copy's.
            intent: That of the move that made it, which is a hydration; it ends.

        Returns:
            False, and the copy becomes garbage, if no snapshot shows it any more.
        """
        ...

    async def list_snapshots(self) -> list[Snapshot]:
        """Return all snapshots, oldest first."""
        ...

    async def get_snapshot(self, name: str) -> Snapshot:
        """Return the snapshot of a name; `NotFoundError` if it is missing."""
        ...

    async def delete_snapshot(self, snap: SnapshotId) -> None:
        """Remove a snapshot from sight, for good; `delete_snapshot_step` removes what it kept."""
        ...

    async def delete_snapshot_step(self, limit: int) -> bool:
        """Remove a part of what deleted snapshots kept, of up to `limit` inodes.

        Returns:
            True if there may be more to do.
        """
        ...

    async def snapshot_usage(self) -> SnapshotUsage:
        """Return what there is of snapshots.

        O(snapshots), but for the first call and those after a change that was undone, which count
        the raw files that are kept.
        """
        ...

    async def recount_snapshots(self) -> SnapshotUsage:
        """Re-derive what `snapshot_usage` tells from the rows (fsck); does not store it."""
        ...

    async def list_held(self, after: tuple[InodeNo, Generation], limit: int) -> list[HeldContent]:
        """Return what snapshots keep and who shows it, by inode and generation.

        What deletion of a snapshot frees is the sum of those that it alone shows.

        Args:
            after: Inode and generation of the last one seen; `(0, 0)` to start.
            limit: At most so many; takes as long as that.
        """
        ...

    # --- reading ----------------------------------------------------------------------------------
    async def inode_at(self, snap: SnapshotId, ino: InodeNo) -> Inode:
        """Return an inode as of a snapshot.

        Pin, codec and times of access are not kept. Raw file and blob are those that have the
        content of this generation now; both are 0 where nothing has it. UNSEALED among the flags
        says that a writer had it: then its bytes may be later ones, and so may be their size; size
        and mtime are those of the copy that was made while it was open (`keep_open`).

        Raises:
            StaleInodeError: It did not exist.
        """
        ...

    async def lookup_at(self, snap: SnapshotId, parent: InodeNo, name: bytes) -> Inode:
        """Return the inode of a dentry as of a snapshot; raises as `Namespace.lookup`."""
        ...

    async def list_directory_at(
        self, snap: SnapshotId, parent: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        """Return dentries as of a snapshot, as `Namespace.list_directory` does."""
        ...

    async def get_parent_at(self, snap: SnapshotId, ino: InodeNo) -> InodeNo:
        """Return the directory of an inode as of a snapshot, as `Namespace.get_parent` does."""
        ...

    async def read_link_at(self, snap: SnapshotId, ino: InodeNo) -> bytes:
        """Return a symlink's target as of a snapshot, as `Namespace.read_link` does."""
        ...

    async def list_xattrs_at(self, snap: SnapshotId, ino: InodeNo) -> list[tuple[bytes, bytes]]:
        """Return names and values of all xattrs of an inode as of a snapshot, by name."""
        ...

    async def list_paths_at(self, snap: SnapshotId, ino: InodeNo) -> list[bytes]:
        """Return all paths of an inode as of a snapshot; empty for what was not in the tree."""
        ...

    async def diff(
        self,
        before: SnapshotId,
        after: SnapshotId,
        under: InodeNo,
        position: InodeNo,
        limit: int,
    ) -> DifferencePage:
        """Return what differs between two instants; takes as long as what changed between them.

        A directory in which only names changed does not differ itself; nor does what has only
        another time of access or number of links, or lies below a directory that was moved.

        Args:
            before: The earlier instant.
            after: The later instant, or `NOW`.
            under: Only what was below this directory, or is it, at one of the instants.
            position: Where to go on; 0 to start.
            limit: At most so many inodes are looked at.

        Raises:
            InvalidValueError: `after` is the earlier one.
        """
        ...


class Engine(Namespace, Queries, Contents, Local, Snapshots, Foreign, Published, Protocol):
    """All parts, as one state directory has them."""
