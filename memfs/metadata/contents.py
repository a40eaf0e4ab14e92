"""The part of an engine that holds what files contain: generations, blobs, forms, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from memfs.metadata.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from memfs.metadata.records import (
        Batch,
        BatchMember,
        Blob,
        Form,
        FormReplacement,
        Inode,
        KeptContent,
        PlacedObject,
        Seal,
        StoredCount,
        StoredUntil,
    )
    from memfs.types import BlobId, FormKind, Generation, InodeNo, IntentId, RawId


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

    async def list_placed(self, after: str, limit: int) -> list[PlacedObject]:
        """Return objects that memfs has written for forms, in order of address, behind `after`."""
        ...

    async def list_blobs_at(self, key: str) -> list[BlobId]:
        """Return the blobs whose forms lie in an object that memfs has written, in their order."""
        ...

    async def count_stored(self, store: str, after: StoredUntil | None, limit: int) -> StoredCount:
        """Count a slice of the forms that memfs has in a named store.

        Args:
            store: Its name, not empty.
            after: Where the slice before has ended; None: this is the first one.
            limit: At most so many forms.
        """
        ...
