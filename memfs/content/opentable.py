"""Open files: how many handles of which mode an inode has, and the kernel's backing ids.

Invariants:
- The handles of one inode never mix modes that the kernel refuses together (fs/fuse/iomode.c):
  a passthrough open needs the absence of cached handles, a cached or direct open the absence of
  passthrough ones.
- All passthrough handles of an inode use one backing id. That of a file which memfs only refers to
  is used by handles for reading alone, and kept no longer than one of them is open.
- A backing id never keeps the disk space of a raw file that its inode has let go of.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

from memfs.content.opening import Handle, OpenMode
from memfs.fifo import Fifo
from memfs.keyed_lock import KeyedLock
from memfs.types import NO_RAW, RawId

if TYPE_CHECKING:
    from memfs.content.opening import Backing
    from memfs.stores.raw import RawStore
    from memfs.types import InodeNo

log = logging.getLogger(__name__)

IDLE_BACKINGS_MAX = 32_768
"""Backing ids kept for files that are not open: the next open then needs neither open(2) nor
ioctl(2), and the release before no ioctl(2) to make room: 38 us of a processor instead of 57, and
10 instead of 23 (4 KiB files on tmpfs). Each pins an open file and its inode in the kernel (1.5 kB)
and takes some 160 bytes here; more than the 20,000 files of a data set in shuffled epochs."""

SAME_ANSWERS_MIN = 8
"""Answers in a row that found a file with a writer the same, before it is taken to be one that is
asked about often and changed seldom. PostgreSQL asks for a table's size (`lseek(fd, 0, SEEK_END)`)
for each plan: 9 GETATTR a transaction of pgbench with four clients, counted by opcode; with 8 they
are 0.3, and a transaction takes half of the daemon's CPU time."""

_HANDLE_VALID = 8
_HANDLE_WRITABLE = 4
_HANDLE_MODE = 3
_NO_HANDLES = (0,) * len(OpenMode)

_BACKING_BITS = 32
"""A backing id is an int of C (fs/fuse/backing.c)."""


KEPT_DESCRIPTORS_MAX = 1024
"""Descriptors of the daemon's that stay open for further fsyncs; a database has some ten files that
it syncs. Guess."""


class SyncedFile:
    """A descriptor of a raw file whose name is durable, open until nobody refers to it any more.

    A thread may be in a sync of it when the last writer closes the file: the number must not become
    another file's meanwhile.

    Args:
        raw: The raw file.
        fd: Open at it.
    """

    __slots__ = ("fd", "raw")

    def __init__(self, raw: RawId, fd: int) -> None:
        self.raw = raw
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class OpenFile:
    """The handles of one inode."""

    __slots__ = (
        "answer",
        "counts",
        "direct_read_bytes",
        "former_fds",
        "kept",
        "opening_count",
        "read_fd",
        "read_raw",
        "same_answer_count",
        "sync_errno",
        "write_fd",
        "writer_count",
    )

    def __init__(self) -> None:
        self.counts = [0] * len(OpenMode)
        """Handles by `OpenMode`."""
        self.writer_count = 0
        """Handles that may write, and openings under way that will."""
        self.opening_count = 0
        """Opens under way that have no handle yet."""
        self.read_fd = -1
        """The daemon's own descriptor for reading the raw file; -1: there is no such descriptor."""
        self.read_raw = NO_RAW
        """What that is open at."""
        self.former_fds: list[int] = []
        """Others of it, open at raw files that the inode had before: a thread may read there."""
        self.write_fd = -1
        self.kept: SyncedFile | None = None
        """For further fsyncs, while there is a writer: till then the raw file is the same."""
        self.direct_read_bytes = 0
        """Bytes that programs read from other forms than the raw file."""
        self.sync_errno = 0
        """Why an fsync has failed since the file was opened; 0: no sync has failed."""
        self.answer: tuple[int, int, int, int] = (-1, 0, 0, 0)
        """Size, blocks, mtime and ctime that a program was told last while there was a writer."""
        self.same_answer_count = 0
        """Answers in a row before it that were the same."""

    @property
    def idle(self) -> bool:
        """True if no handle is left or on its way."""
        return not (self.opening_count or any(self.counts))


class OpenTable:
    """All open files of the mount.

    Args:
        raw_store: Opens raw files.
        backing: The kernel's registry for passthrough; None: the driver has no registry.
        idle_backings_max: As `IDLE_BACKINGS_MAX`.
        kept_max: As `KEPT_DESCRIPTORS_MAX`.
    """

    def __init__(
        self,
        raw_store: RawStore,
        backing: Backing | None,
        idle_backings_max: int = IDLE_BACKINGS_MAX,
        kept_max: int = KEPT_DESCRIPTORS_MAX,
    ) -> None:
        self._raw_store = raw_store
        self._backing = backing
        self._idle_backings_max = idle_backings_max
        self._kept_max = kept_max
        self.gates: KeyedLock[InodeNo] = KeyedLock()
        """For two steps that concern the same inode and must not be parted by a third one: what one
        looks at (who has it open, its raw file, a lease on that) and the change that rests on it.
        Between the two an engine may suspend.

        Within a gate nothing but the engine is awaited, and no further gate but of a greater
        number, so that nobody waits for ever. A change of the engine may begin within a gate, and
        no gate within a change.
        """
        self._files: dict[InodeNo, OpenFile] = {}
        self._backings: dict[InodeNo, int] = {}
        """Those of open files, with their raw files, each as `_packed` makes it."""
        self._references: dict[InodeNo, int] = {}
        """Backing ids of open files whose bytes are in a file that is not memfs's own."""
        self._idle_backings: Fifo[InodeNo, int] = Fifo()
        """Those of files that are not open, likewise; the one closed longest ago first."""
        self._kept_count = 0
        self.refusal: str | None = None
        """Why the kernel refused the last registration of a backing file, for `memfs status`."""

    @property
    def passthrough(self) -> bool:
        """True if files can be passed through."""
        return self._backing is not None and self._backing.available

    def is_open(self, ino: InodeNo) -> bool:
        """True while an inode has a handle or an open under way: its raw file must stay."""
        return ino in self._files

    def is_alone(self, ino: InodeNo) -> bool:
        """True if an inode has no handle, and one opening under way: its raw file may be replaced.

        Asked by this opening within the inode's gate, which any other one waits for.
        """
        file = self._files.get(ino)
        return file is not None and file.opening_count == 1 and not any(file.counts)

    def has_writer(self, ino: InodeNo) -> bool:
        """True while a handle of the inode may write, or an opening under way will."""
        file = self._files.get(ino)
        return file is not None and file.writer_count > 0

    def note_answer(self, ino: InodeNo, answer: tuple[int, int, int, int]) -> bool:
        """A program is told the attributes of a file with a writer; return whether they are steady.

        The kernel forgets size and times when it passes a write through, but not when a mapping
        writes: what was the same each time is likely not to be written by a mapping.

        Args:
            answer: Its size, blocks, mtime and ctime as of now.
        """
        file = self._files[ino]
        if answer != file.answer:
            file.answer, file.same_answer_count = answer, 0
            return False
        file.same_answer_count += 1
        return file.same_answer_count >= SAME_ANSWERS_MIN

    def is_steady(self, ino: InodeNo) -> bool:
        """True if the last `note_answer` since the file was opened was."""
        file = self._files.get(ino)
        return file is not None and file.same_answer_count >= SAME_ANSWERS_MIN

    def doubt(self, ino: InodeNo) -> None:
        """An inode was changed elsewhere: what it was like before no longer counts.

        What it has open stays: handles go on with the bytes that they were opened for.
        """
        file = self._files.get(ino)
        if file is not None:
            file.same_answer_count = 0
        elif ino in self._idle_backings:
            self.forget_raw(ino)

    def doubt_all(self) -> None:
        """Do as `doubt` for all inodes."""
        for ino in [*self._files, *self._idle_backings]:
            self.doubt(ino)

    def is_registered(self, ino: InodeNo, raw: RawId) -> bool:
        """True if the kernel has a backing id of an inode's raw file: this daemon has opened it."""
        known = self._backings.get(ino) or self._idle_backings.get(ino)
        return known is not None and _raw(known) == raw

    def has_mode(self, ino: InodeNo, mode: OpenMode) -> bool:
        """True while a handle of that mode lives."""
        file = self._files.get(ino)
        return file is not None and file.counts[mode] > 0

    def count_direct_read(self, ino: InodeNo, size: int) -> int:
        """Count bytes read from another form than the raw file; returns the sum since it opened."""
        file = self._files.get(ino)
        if file is None:
            return 0
        file.direct_read_bytes += size
        return file.direct_read_bytes

    def fail_syncs(self, ino: InodeNo, code: int) -> None:
        """An fsync has failed with an errno: so do all that follow while the file is open.

        The kernel reports a lost page once and calls it clean (fsync(2), NOTES), and an open file
        is fsynced by a descriptor of the daemon's that is new each time: no later one would
        hear of it. What the program writes again is durable only after an open of its own.
        """
        file = self._files.get(ino)
        if file is not None:
            file.sync_errno = code

    def sync_errno(self, ino: InodeNo) -> int:
        """Return why an fsync has failed since the file was opened; 0: no sync has failed."""
        file = self._files.get(ino)
        return file.sync_errno if file is not None else 0

    def keep(self, ino: InodeNo, synced: SyncedFile) -> None:
        """An fsync has made the name of an unsealed file durable: keep its descriptor for others.

        Not where it has no writer, who holds it to its raw file, nor where too many are kept.
        """
        file = self._files.get(ino)
        if file is None or not file.writer_count:
            return
        if file.kept is None:
            if self._kept_count >= self._kept_max:
                return
            self._kept_count += 1
        file.kept = synced

    def kept(self, ino: InodeNo) -> SyncedFile | None:
        """Return what `keep` has kept; None if an fsync has failed since the file was opened."""
        file = self._files.get(ino)
        return file.kept if file is not None and not file.sync_errno else None

    def begin(self, ino: InodeNo, *, writing: bool = False) -> None:
        """An open, or a truncation, is under way; `end` with the same arguments follows.

        Args:
            writing: It may change bytes: until it ends, it counts as a writer.
        """
        file = self._files.get(ino)
        if file is None:
            file = self._files[ino] = OpenFile()
        file.opening_count += 1
        file.writer_count += writing

    def end(self, ino: InodeNo, *, writing: bool = False) -> None:
        """An open is over, with or without a handle."""
        file = self._files[ino]
        file.opening_count -= 1
        if writing:
            self._drop_writer(file)
        self._drop_if_idle(ino, file)

    def is_referenced(self, ino: InodeNo) -> bool:
        """True while handles pass reads through to a file that is not memfs's own.

        The kernel then refuses all other modes, and another backing id: nobody may write here.
        """
        return ino in self._references

    def choose(self, ino: InodeNo, raw: RawId, reference_fd: int = -1) -> tuple[OpenMode, int]:
        """Choose the mode of one more handle.

        Args:
            raw: Its raw file; 0: it has no raw file, bytes come from another form.
            reference_fd: Open at a file that is not memfs's own and has the bytes; for reading.

        Returns:
            The mode, and the backing id for passthrough, else 0.
        """
        if (reference := self._references.get(ino)) is not None:
            return OpenMode.PASSTHROUGH, reference
        file = self._files.get(ino)
        counts = file.counts if file is not None else _NO_HANDLES
        if not self.passthrough or counts[OpenMode.CACHED]:
            return OpenMode.CACHED, 0
        # A mapping of a direct handle holds the inode in cached mode until it is unmapped, and its
        # RELEASE back as long: a passthrough open would fail with EIO, another direct one works.
        if counts[OpenMode.DIRECT]:
            return OpenMode.DIRECT, 0
        if not raw:
            return self._refer(ino, reference_fd)
        backing = self._backing_id(ino, raw)
        if not backing:
            return OpenMode.CACHED, 0
        return OpenMode.PASSTHROUGH, backing

    def _refer(self, ino: InodeNo, fd: int) -> tuple[OpenMode, int]:
        """Choose the mode of a handle of an inode without a raw file."""
        backing = 0 if fd < 0 or self.has_writer(ino) else self._register(fd)
        if not backing:
            return OpenMode.DIRECT, 0
        self._references[ino] = backing
        return OpenMode.PASSTHROUGH, backing

    def add(self, ino: InodeNo, mode: OpenMode, *, writable: bool) -> Handle:
        """Count one more handle and return its number."""
        assert not (writable and ino in self._references), ino
        file = self._files.get(ino)
        if file is None:
            file = self._files[ino] = OpenFile()
        file.counts[mode] += 1
        if writable:
            file.writer_count += 1
            return Handle(_HANDLE_VALID | _HANDLE_WRITABLE | mode)
        return Handle(_HANDLE_VALID | mode)

    def remove(self, ino: InodeNo, handle: Handle) -> bool:
        """Count one handle less; True if it was the inode's last writer."""
        file = self._files.get(ino)
        mode = handle & _HANDLE_MODE
        known = file is not None and handle & _HANDLE_VALID and mode < len(OpenMode)
        if file is None or not known or not file.counts[mode]:
            return False
        file.counts[mode] -= 1
        last_writer = False
        if handle & _HANDLE_WRITABLE:
            self._drop_writer(file)
            last_writer = file.writer_count == 0
        self._drop_if_idle(ino, file)
        return last_writer

    def _open_file(self, ino: InodeNo) -> OpenFile:
        file = self._files.get(ino)
        if file is None:
            raise OSError(errno.EBADF, f"inode {ino} is not open")
        return file

    def read_fd(self, ino: InodeNo, raw: RawId) -> int:
        """Return the daemon's descriptor for reading an open file's raw file."""
        file = self._open_file(ino)
        if file.read_raw != raw:
            fd = self._raw_store.open(raw, os.O_RDONLY)
            if file.read_fd >= 0:
                file.former_fds.append(file.read_fd)
            file.read_fd, file.read_raw = fd, raw
        return file.read_fd

    def opened_fd(self, ino: InodeNo) -> int:
        """Return what `read_fd` has returned last while the file was open; -1: nothing."""
        file = self._files.get(ino)
        return -1 if file is None else file.read_fd

    def is_passed_elsewhere(self, ino: InodeNo, raw: RawId) -> bool:
        """True while handles pass through to another raw file: the kernel takes no other handle."""
        known = self._backings.get(ino)
        return known is not None and _raw(known) != raw and self.has_mode(ino, OpenMode.PASSTHROUGH)

    def write_fd(self, ino: InodeNo, raw: RawId) -> int:
        """Return the daemon's descriptor for writing an open file's raw file."""
        file = self._open_file(ino)
        if file.write_fd < 0:
            file.write_fd = self._raw_store.open(raw, os.O_RDWR)
        return file.write_fd

    def forget_raw(self, ino: InodeNo) -> None:
        """The inode lets go of its raw file: give its backing id back. It must not be open."""
        known = self._backings.pop(ino, 0) or self._idle_backings.pop(ino, 0)
        if known:
            self._give_back(known)

    def close(self) -> None:
        """Close the daemon's descriptors and give all backing ids back; idempotent."""
        for file in self._files.values():
            for fd in (file.read_fd, file.write_fd, *file.former_fds):
                if fd >= 0:
                    os.close(fd)
        self._files.clear()
        self._kept_count = 0
        for ino in [*self._backings, *self._idle_backings]:
            self.forget_raw(ino)
        while self._references:
            self._release(self._references.popitem()[1])

    def adopt_backing(self, ino: InodeNo, raw: RawId, backing: int) -> None:
        """Take over the backing id of a raw file that is not open yet; 0: it has no such id."""
        if backing:
            self._note_idle(ino, _packed(raw, backing))

    def _backing_id(self, ino: InodeNo, raw: RawId) -> int:
        known = self._backings.get(ino, 0)
        if not known and (known := self._idle_backings.pop(ino, 0)):
            self._backings[ino] = known
        if known:
            if _raw(known) == raw:
                return _backing(known)
            self.forget_raw(ino)
        # Read-only: the kernel opens the file anew for each handle with the handle's own flags, and
        # a writable descriptor would make `F_SETLEASE` see a writer for ever.
        fd = self._raw_store.open(raw, os.O_RDONLY)
        try:
            backing = self._register(fd)
        finally:
            os.close(fd)
        if backing:
            self._backings[ino] = _packed(raw, backing)
        return backing

    def _register(self, fd: int) -> int:
        """Return a new backing id of an open raw file; 0 where the kernel refuses."""
        if self._backing is None or not self._backing.available:
            return 0
        try:
            return self._backing.register(fd)
        except OSError as error:
            self._note_refusal(error)
            return 0

    def _note_refusal(self, error: OSError) -> None:
        if self.refusal is None:
            log.info("passthrough refused by the kernel: %s; the daemon serves the bytes", error)
        self.refusal = f"the kernel refused a backing file: {os.strerror(error.errno or 0)}"

    def _drop_writer(self, file: OpenFile) -> None:
        file.writer_count -= 1
        if file.writer_count:
            return
        if file.write_fd >= 0:
            os.close(file.write_fd)
            file.write_fd = -1
        if file.kept is not None:
            file.kept = None
            self._kept_count -= 1

    def _drop_if_idle(self, ino: InodeNo, file: OpenFile) -> None:
        if not file.idle:
            return
        for fd in (file.read_fd, file.write_fd, *file.former_fds):
            if fd >= 0:
                os.close(fd)
        del self._files[ino]
        if known := self._backings.pop(ino, 0):
            self._note_idle(ino, known)
        if reference := self._references.pop(ino, 0):
            self._release(reference)

    def _note_idle(self, ino: InodeNo, known: int) -> None:
        self._idle_backings[ino] = known
        if len(self._idle_backings) > self._idle_backings_max:
            self._give_back(self._idle_backings.take_oldest()[1])

    def _give_back(self, known: int) -> None:
        self._release(_backing(known))

    def _release(self, backing: int) -> None:
        # When the mount is gone, the kernel has given all ids back by itself.
        if self._backing is not None and self._backing.available:
            self._backing.release(backing)


def _packed(raw: RawId, backing: int) -> int:
    """Return both in one number: a third of the memory of a tuple."""
    return raw << _BACKING_BITS | backing


def _raw(known: int) -> RawId:
    return RawId(known >> _BACKING_BITS)


def _backing(known: int) -> int:
    return known & ((1 << _BACKING_BITS) - 1)
