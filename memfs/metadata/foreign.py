"""Foreign objects: what files refer to that memfs has not written, and never changes or removes.

A file that was adopted has the bytes of one object of a source, as long as it is of the generation
that the object was adopted for. A write gives it another one; the row stays, so that a
later listing knows what the file was made of. An object that has changed becomes another inode.

Invariant: the row of an inode names one etag for good. Bytes of two etags never belong to one inode
and generation.
"""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from memfs.metadata.changes import Changes
from memfs.metadata.records import Form
from memfs.types import FormCoding, FormKind, Layout, Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import Inode, NewInode
    from memfs.types import BlobId, Generation, InodeNo, SourceId


class WhenGone(enum.StrEnum):
    """What becomes of a file whose object is not listed any more, as users write it."""

    KEEP = "keep"
    REMOVE = "remove"


class Conflict(enum.StrEnum):
    """In what a file and its object differ."""

    NONE = ""
    CHANGED = "changed"
    """There is another object under the key, and the file was written here."""
    GONE = "gone"
    """There is no object under the key any more."""
    TAKEN = "taken"
    """The name was taken by a file of memfs's own, which has no byte of the object's bytes."""


class Source(NamedTuple):
    """A bucket with a prefix, or a directory, whose objects are files below one directory."""

    source: SourceId
    url: str
    """Without secrets; no slash at its end."""
    root: InodeNo
    """The directory."""
    watch_s: int
    """Seconds between two listings; 0: only when somebody asks."""
    deleted: WhenGone
    listed_ns: int
    """When it was listed last to its end; 0: never."""
    problem: str
    """Why the last listing has removed nothing, or has failed; empty: it did well."""
    options: str
    """A JSON object of the caller's; names of credentials, and no secrets."""


class SourceCounts(NamedTuple):
    """How much of a source is known."""

    object_count: int
    """Objects that listings compare with a file."""
    listed_count: int
    """Directories of a source that is adopted lazily into which somebody has looked."""
    unlisted_count: int
    """Those that nobody has looked into."""


class ForeignObject(NamedTuple):
    """An object that a file was made of."""

    ino: InodeNo
    generation: Generation
    """That of the file with these bytes; 0: of no file."""
    source: SourceId
    key: bytes
    """Behind the URL of the source and a slash."""
    etag: str
    """As the source told it, without quotes where it has some."""
    version: str
    """Where the bucket keeps versions; empty: it does not."""
    size: int
    mtime_ns: int
    digest: bytes | None
    """BLAKE3-256 of its bytes; None: nobody has read all of them."""
    checked_ns: int
    """When the source was known last to have it."""
    ours: bool
    """memfs has published it."""
    current: bool
    """Listings of the source compare the key with this file."""
    conflict: Conflict

    @property
    def name(self) -> str:
        """The key as messages and stores take it."""
        return os.fsdecode(self.key)

    def as_form(self, blob: BlobId) -> Form:
        """Return it as a remote form of a file, whose blob may be `NO_BLOB`."""
        place = Place(self.name, None, str(self.source), self.etag, self.version)
        coding = FormCoding("none")
        return Form(blob, FormKind.REMOTE, place, coding, self.size, Layout.PLAIN, owned=False)


class ForeignDirectory(NamedTuple):
    """A directory of a source that is listed piece by piece, as somebody looks into it."""

    ino: InodeNo
    source: SourceId
    prefix: bytes
    """That of all keys below it: empty, or with a slash at its end."""
    listed_ns: int
    """When it was listed last to its end; 0: never, so that nobody knows what is in it."""


class AdoptedFile(NamedTuple):
    """A file that is made of an object."""

    parent: InodeNo
    name: bytes
    new: NewInode
    """Regular, without a raw file."""
    foreign: ForeignObject
    """`ino` is that of `new`."""


class Foreign(Changes, Protocol):
    """Sources, and the objects of them that files refer to.

    Invariant: a file with bytes has a raw file, a form or an object that stands: one of its present
    generation. `Contents` counts that as a form: `drop_raw` and `drop_form` let go what is beside
    it, and no copy is made of it for a snapshot. An object is never made garbage.
    """

    # --- sources ----------------------------------------------------------------------------------
    async def add_source(
        self, url: str, root: InodeNo, watch_s: int, deleted: WhenGone, options: str
    ) -> Source:
        """Record a source that was not listed yet; from now on an older memfs refuses the state."""
        ...

    async def list_sources(self) -> list[Source]:
        """Return all sources by number."""
        ...

    async def put_source(self, source: Source) -> None:
        """Store what has become of a source; `NotFoundError` if it was removed."""
        ...

    async def remove_source(self, source: SourceId) -> None:
        """Forget a source, and which of its keys are gone; who has a nameless file open loses it.

        Raises:
            InvalidValueError: A file with a name, or a snapshot, refers to an object of it.
        """
        ...

    # --- objects ----------------------------------------------------------------------------------
    async def adopt_files(self, files: Sequence[AdoptedFile]) -> list[bool]:
        """Make files of objects, sealed and without local bytes; a name that is taken stays.

        Returns:
            For each whether it was made; False also where a file is current for the key.

        Raises:
            NotFoundError, NotADirectoryInodeError: A parent is not there; then nothing happens.
        """
        ...

    async def attach_object(self, foreign: ForeignObject) -> bool:
        """Give a sealed file an object, in the place of the one that it may have.

        Size and times are the caller's to set where the file has no bytes yet.

        Returns:
            False if the file is gone or unsealed, or of another generation than the object, unless
            that stands for no file.

        Raises:
            AlreadyExistsError: Another file is current for the key, and this one is to be.
        """
        ...

    async def get_object(self, ino: InodeNo) -> ForeignObject | None:
        """Return the object that an inode was made of, whether it stands or not."""
        ...

    async def find_object(self, source: SourceId, key: bytes) -> ForeignObject | None:
        """Return the object of the file that is current for a key."""
        ...

    async def list_objects(
        self, source: SourceId, after: bytes, limit: int, until: bytes | None = None
    ) -> list[ForeignObject]:
        """Return current objects with a key behind `after`, in order of key.

        Args:
            source: Theirs.
            after: Keys up to here are left out.
            limit: So many at most.
            until: The last key that counts; None: there is no such.
        """
        ...

    async def put_object(self, foreign: ForeignObject) -> bool:
        """Store what is known of an object; False if the inode has no object of the same etag.

        Raises:
            AlreadyExistsError: As `attach_object`.
        """
        ...

    async def note_object_digest(self, foreign: ForeignObject, digest: bytes) -> None:
        """Note the digest of an object that was read whole; a node that reads notes nothing."""
        ...

    async def detach_object(self, ino: InodeNo) -> bool:
        """Forget what an inode was made of.

        Returns:
            False, and nothing happens, if the object stands for it, or for it in a snapshot.
        """
        ...

    async def can_detach(self, ino: InodeNo) -> bool:
        """Return whether `detach_object` would forget what an inode was made of."""
        ...

    async def list_all_forms(self, inode: Inode) -> list[Form]:
        """Return the forms of an inode's blob, packed first, and then the object that stands.

        Args:
            inode: As it is now, or as of a snapshot.
        """
        ...

    # --- directories that are listed when somebody looks into them --------------------------------
    async def add_directory(self, directory: ForeignDirectory) -> bool:
        """Record that a directory with a name stands for a prefix.

        Once it loses its name the record goes, and the prefix is among the keys that are gone.

        Returns:
            False, and nothing happens, if it stands for one already, or another one does for this.

        Raises:
            StaleInodeError, NotADirectoryInodeError, NotFoundError: There is no such directory.
        """
        ...

    async def get_directory(self, ino: InodeNo) -> ForeignDirectory | None:
        """Return what a directory stands for; None: for nothing, or all below it was listed."""
        ...

    async def find_directory(self, source: SourceId, prefix: bytes) -> ForeignDirectory | None:
        """Return the directory that stands for a prefix."""
        ...

    async def list_directories(
        self, source: SourceId, after: bytes, limit: int
    ) -> list[ForeignDirectory]:
        """Return directories with a prefix behind `after`, in order; that of `b""` is left out."""
        ...

    async def set_listed(self, ino: InodeNo, listed_ns: int) -> None:
        """Store when a directory was listed to its end; nothing, if it stands for no prefix."""
        ...

    async def forget_directories(self, source: SourceId) -> None:
        """All of a source was listed: no directory of it waits for that any more."""
        ...

    # --- how many there are -----------------------------------------------------------------------
    async def count_source(self, source: SourceId, limit: int) -> SourceCounts | None:
        """Return how many rows a source has; after the first time that takes no longer than one.

        Args:
            source: One that is there.
            limit: Rows to be looked at by this call, above 0.

        Returns:
            None while there are more to look at: call it again. Changes in between are counted.
        """
        ...

    # --- what was removed here --------------------------------------------------------------------
    async def list_gone(self, source: SourceId, after: bytes, limit: int) -> list[bytes]:
        """Return keys behind `after` whose file lost its last name here, in order."""
        ...

    async def clear_gone(self, source: SourceId, keys: Sequence[bytes]) -> None:
        """Forget that the files of keys were removed here."""
        ...
