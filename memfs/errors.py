"""Every error that memfs raises on purpose, each with its errno.

Invariant: an error that reaches a program has an errno that fits the system call, and one that
reaches a user's eyes says what happened, to what, and what to do about it.
"""

from __future__ import annotations

import errno as codes
from typing import ClassVar

from memfs.exit_codes import ExitCode
from memfs.types import PendingCode


class MemfsError(Exception):
    """Root of all deliberate errors.

    Attributes:
        errno: What the program behind the mount sees (errno(3)).
        transient: True if the same attempt may succeed later; only `stores.retry` acts on it.
        pending_code: What a move waits for that has met it.
    """

    errno: int = codes.EIO
    transient: ClassVar[bool] = False
    pending_code: ClassVar[PendingCode] = PendingCode.OTHER


class NotFoundError(MemfsError):
    """No dentry, or no inode, of that name or number."""

    errno = codes.ENOENT


class StaleInodeError(MemfsError):
    """The kernel names an inode that no longer exists."""

    errno = codes.ESTALE


class AlreadyExistsError(MemfsError):
    """The name, or the xattr with XATTR_CREATE, is taken."""

    errno = codes.EEXIST


class NotADirectoryInodeError(MemfsError):
    """A directory was needed."""

    errno = codes.ENOTDIR


class IsADirectoryInodeError(MemfsError):
    """Anything but a directory was needed."""

    errno = codes.EISDIR


class DirectoryNotEmptyError(MemfsError):
    """The directory still has dentries."""

    errno = codes.ENOTEMPTY


class InvalidValueError(MemfsError):
    """An argument or an xattr value that means nothing here."""

    errno = codes.EINVAL


class NameTooLongError(MemfsError):
    """A name of more than 255 bytes."""

    errno = codes.ENAMETOOLONG


class TooBigError(MemfsError):
    """An xattr value beyond 64 KiB, or a list of them that cannot be carried."""

    errno = codes.E2BIG


class XattrsFullError(MemfsError):
    """An inode would have more xattrs of its user than it can (ENOSPC, setxattr(2))."""

    errno = codes.ENOSPC


class BufferTooSmallError(MemfsError):
    """The caller's buffer cannot hold the xattr (ERANGE, getxattr(2))."""

    errno = codes.ERANGE


class NoXattrError(MemfsError):
    """No extended attribute of that name."""

    errno = codes.ENODATA


class NotKeptError(MemfsError):
    """Nothing has the bytes that a file had when a snapshot, or a clone, of it was made."""

    errno = codes.ENODATA


class FilesOpenError(MemfsError):
    """Files are open for writing that must not be."""

    errno = codes.EBUSY
    pending_code = PendingCode.OPEN


class NotSupportedError(MemfsError):
    """The operation exists but not here: no such tier configured, driver too small."""

    errno = codes.ENOTSUP


class NotPermittedError(MemfsError):
    """Refused no matter who asks, such as a write to a read-only xattr."""

    errno = codes.EPERM


class StoreGoneError(NotSupportedError):
    """What is asked for is in an object store that the configuration does not have any more."""

    pending_code = PendingCode.STORE


class NoSpaceError(MemfsError):
    """The disk under the state directory is full."""

    errno = codes.ENOSPC
    pending_code = PendingCode.DISK


class RamFullError(MemfsError):
    """Pinned files fill a share of the RAM tier; a move meets it, no program does."""

    errno = codes.ENOMEM
    pending_code = PendingCode.RAM


class FileTooLargeError(MemfsError):
    """Beyond the largest file that the backing file system carries."""

    errno = codes.EFBIG


class NoDataAtOffsetError(MemfsError):
    """lseek(2) SEEK_DATA or SEEK_HOLE at or beyond the end."""

    errno = codes.ENXIO


class CorruptDataError(MemfsError):
    """Bytes that fail their checksum or their format; the message names file and frame."""

    errno = codes.EIO
    pending_code = PendingCode.DAMAGE


class OtherContentError(CorruptDataError):
    """A form holds another content than it must, though each of its frames is sound by itself."""


class NewerFormatError(MemfsError):
    """Something was written by a later version of memfs, and is not damaged."""

    errno = codes.EPROTONOSUPPORT


class CodecMissingError(MemfsError):
    """The codec of a form is not installed here; nothing is damaged, its package brings it back."""

    errno = codes.EIO


class EncryptionKeyError(MemfsError):
    """The key of an encrypted form is not configured; nothing is damaged, and a key brings it back.

    Programs see ENOKEY, as of files of fscrypt whose key is not there (open(2)).
    """

    errno = codes.ENOKEY
    pending_code = PendingCode.KEY


class StoreError(MemfsError):
    """A store refused for good: missing object, wrong credentials, bad request."""

    errno = codes.EIO
    pending_code = PendingCode.STORE


class StoreNotConfiguredError(StoreError):
    """A named store is asked for that the configuration does not have (any more)."""

    def __init__(self, name: str, subject: str) -> None:
        super().__init__(
            f"{subject}: store {name!r} is not configured: write [stores.{name}] with its url into "
            "the configuration, and mount again"
        )
        self.name = name


class PeerError(StoreError):
    """Another node of the mount does not answer, refuses, or sends what makes no sense."""


class ObjectTakenError(StoreError):
    """An object was to be written or removed on a condition, and is another one than that says."""


class StaleStateError(StoreError):
    """This state directory is an older copy: what is in the store belongs to another one."""


class StoreUnavailableError(StoreError):
    """A store cannot be reached or asks to slow down; a later attempt may succeed."""

    transient = True


class StoreUnreachableError(StoreUnavailableError):
    """Nobody listens where a store should be: connection refused, no such host, no directory.

    That is known at once; only of a store that was well a moment ago it is to be waited for.
    """


class QuotaSpentError(StoreError):
    """The mover does not begin something, since a quota of the day has no room for it.

    Args:
        message: Which quota, what is spent of it, and when there is more.
        wait_s: Seconds until there is room; 0: once what is under way has ended; infinite:
            a day allows less than it takes.
    """

    pending_code = PendingCode.QUOTA

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class ObjectMissingError(StoreError):
    """The object or file that a form names is not there."""

    pending_code = PendingCode.DAMAGE


class ObjectChangedError(StoreError):
    """Another object has the key by now: the file was made of one with another etag.

    ESTALE, because what the program has open is no longer what has the name; the next open is of
    the object that is there.
    """

    errno = codes.ESTALE


class ListingOrderError(StoreError):
    """A source turned out not to list its objects in order: the next listing sorts them."""


class ObjectArchivedError(StoreError):
    """The object must be restored from its storage class first, and that is under way.

    EBUSY, because programs report it and stop. With EAGAIN they would spin, or take what they have
    read so far for all of it, as Python's `FileIO.readall` does; with EIO nobody could tell waiting
    from loss; ENODATA means a missing xattr to many, and ESTALE has the kernel look names up again.

    Args:
        message: What is archived, since when it is being restored, and until when.
        ready_estimate_s: When it can be read at the latest, as the provider says, from now on;
            None: nobody knows yet.
    """

    errno = codes.EBUSY
    pending_code = PendingCode.ARCHIVED

    def __init__(self, message: str, ready_estimate_s: float | None) -> None:
        super().__init__(message, ready_estimate_s)
        self.ready_estimate_s = ready_estimate_s

    def __str__(self) -> str:
        return str(self.args[0])


class SourceArchivedError(StoreError):
    """The object of a source is archived; memfs restores what it has stored itself alone."""

    pending_code = PendingCode.ARCHIVED


class QueryTimeoutError(MemfsError):
    """A question to all files took longer than it may."""

    errno = codes.ETIMEDOUT


class MetadataError(MemfsError):
    """The metadata engine cannot go on: broken file, failed statement."""

    errno = codes.EIO


class DatabaseError(MetadataError):
    """The database of the names refused a statement, and so undid its whole transaction.

    Args:
        sqlstate: Five characters, as PostgreSQL's appendix of error codes lists them.
        text: What the database says.
        statement: The statement, without the values of its parameters.
        index: Which one of its transaction it was; -1: the commit.
    """

    def __init__(self, sqlstate: str, text: str, statement: str = "", index: int = 0) -> None:
        super().__init__(f"PostgreSQL refused a change: {text} (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate
        self.statement = statement
        self.index = index


class DisconnectedError(MetadataError):
    """The connection to the database of the names is lost, or was never made.

    Whether a transaction that was under way is committed is unknown.
    """


class UnconfirmedError(MetadataError):
    """A change is in this node's journal; the mount's database has not confirmed it in time.

    It was done, and follows when the database answers: nothing that belongs to it may be undone.
    """


class ReadOnlyNodeError(MetadataError):
    """A change of a mount that another node writes."""

    errno = codes.EROFS


class FrozenError(MetadataError):
    """A change in a frozen tree, or of the path to one."""

    errno = codes.EROFS


class BehindError(MetadataError):
    """A node that reads cannot learn what the one that writes has changed."""


class WrittenElsewhereError(MemfsError):
    """Another node writes a file, or has written it while a program here has it open."""

    errno = codes.EBUSY
    pending_code = PendingCode.OPEN


class NotUploadedError(MemfsError):
    """The bytes of a file are on another node alone."""

    errno = codes.EIO
    pending_code = PendingCode.STORE


class UsageError(MemfsError):
    """A user asked for what cannot be; printed as one line, without a traceback.

    Args:
        message: What happened, to what, and what to do.
        exit_code: Process exit status; the table is `memfs.exit_codes`.
    """

    errno = codes.EINVAL

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StateDamagedError(UsageError):
    """The files of a state directory are damaged, missing, or do not belong together.

    Args:
        what: Which file, and what is wrong with it.
        state_dir: The state directory, for the remedy.
    """

    errno = codes.EIO

    def __init__(self, what: str, state_dir: str) -> None:
        super().__init__(
            f"{what}; nothing was changed: put the metadata back from a backup, or run "
            f"`memfs fsck --repair {state_dir}`, which rebuilds what can be rebuilt and names what "
            "is lost",
            ExitCode.STATE_UNUSABLE,
        )


FORM_ERRORS = (
    StoreError,
    CorruptDataError,
    EncryptionKeyError,
    NotSupportedError,
    InvalidValueError,
)
"""What makes a reader turn to a file's next form; a full disk or a bug is not among it."""

_CODES_OF_SYSTEM = {
    codes.ENOSPC: PendingCode.DISK,
    codes.EDQUOT: PendingCode.DISK,
    codes.EIO: PendingCode.DAMAGE,
    codes.EUCLEAN: PendingCode.DAMAGE,
}


def pending_code(error: MemfsError | OSError) -> PendingCode:
    """Return what a move waits for that has failed so."""
    if isinstance(error, MemfsError):
        return error.pending_code
    return _CODES_OF_SYSTEM.get(error.errno or 0, PendingCode.OTHER)
