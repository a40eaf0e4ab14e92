"""What the kernel has cached, and how it is told to forget that.

Invariants:
- Nothing is written to the kernel by the event loop. A notice about a name waits for the lock of
  its directory, and one about pages for the pages. A request that waits for the loop may hold both.
- What may wait has a thread of its own: it holds up no notice that cannot wait.

A reply that is under way while its inode or name is forgotten cannot bring the old answer back. The
kernel passes over attributes that it asked for before, a LOOKUP holds the lock that a notice about
a name waits for, and a name has the epoch of the time when it was asked for.

Source: fs/fuse/inode.c (fuse_reverse_inval_inode), fs/fuse/dir.c (fuse_reverse_inval_entry,
fuse_dentry_revalidate) of Linux 6.18.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import queue
import threading
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from memfs.types import InodeNo

log = logging.getLogger(__name__)

WAITING_COUNT_MAX = 100_000
"""Notices that wait for one thread, some 30 MB. Instead of one more about a name, all names are
forgotten, by a kernel that can. Others wait, each once, however often it was to be given."""

END_S_MAX = 2.0
"""How long the end waits for a notice under way. Guess."""


class KernelNotices(Protocol):
    """A driver's way to the kernel of one mount.

    Each method may block on locks of the kernel. It raises `OSError`: ENOENT where the kernel does
    not know what it is to forget, ENODEV where the mount is gone.
    """

    @property
    def can_forget_all(self) -> bool:
        """True if `forget_all` works."""
        ...

    def forget_attributes(self, ino: InodeNo) -> None:
        """Attributes and ACLs of an inode; its pages stay. Waits for nothing."""
        ...

    def forget_pages(self, ino: InodeNo) -> None:
        """Attributes and pages of an inode. Waits for reads of those pages."""
        ...

    def forget_name(self, parent: InodeNo, name: bytes) -> None:
        """What a name leads to, and all below it. Waits for requests in the directory."""
        ...

    def forget_removed(self, parent: InodeNo, name: bytes, ino: InodeNo) -> None:
        """A name that was the last one of an inode: watchers are told. Waits as `forget_name`."""
        ...

    def forget_all(self) -> None:
        """What each name leads to; it is asked for at its next use. Waits for nothing."""
        ...


class KernelCache:
    """Has the kernel ask again for what has changed behind its back; never waits itself.

    Before a mount is served and after its end nothing happens: then the kernel knows nothing.

    Args:
        waiting_count_max: Notices that wait for a thread; of more, the kernel forgets all.
    """

    def __init__(self, waiting_count_max: int = WAITING_COUNT_MAX) -> None:
        self._waiting_count_max = waiting_count_max
        self._notices: KernelNotices | None = None
        self._is_forgetting_all = False
        """The kernel is about to be told to forget all."""
        self._prompt = _Teller("kernel-attributes")
        self._patient = _Teller("kernel-names")

    def forget_attributes(self, ino: InodeNo) -> None:
        """Soon, the kernel believes nothing of an inode's attributes any more."""
        if (notices := self._notices) is not None:
            self._prompt.tell(partial(notices.forget_attributes, ino), ino)

    def forget_content(self, ino: InodeNo) -> None:
        """Soon, the kernel believes neither attributes nor cached pages of an inode any more."""
        if (notices := self._notices) is not None:
            self._patient.tell(partial(notices.forget_pages, ino), ino)

    def forget_name(self, parent: InodeNo, name: bytes) -> None:
        """Soon, the kernel asks again what a name leads to, and whether there is one."""
        if (notices := self._notices) is not None:
            self._tell_name(partial(_forget_name, notices, parent, name), (parent, name))

    def forget_names(self, names: Mapping[InodeNo, Sequence[bytes]]) -> None:
        """As `forget_name`, of many names by their directories.

        A directory without names is one whose listing has changed, and of which the kernel has no
        name that did.
        """
        if names and (notices := self._notices) is not None:
            self._tell_name(partial(_forget_names, notices, names))

    def forget_removed(self, parent: InodeNo, name: bytes, ino: InodeNo) -> None:
        """Soon, the kernel knows that the last name of an inode is gone, and tells watchers.

        To be called for no other name: the kernel takes the inode for one without links.
        """
        if (notices := self._notices) is not None:
            self._tell_name(partial(_forget_removed, notices, parent, name, ino))

    def forget_unknown(self, ino: InodeNo, unknown: Callable[[], None]) -> None:
        """Soon, the kernel believes nothing of an inode's attributes, or never heard of it.

        Args:
            ino: Without a name, told after all names that were forgotten before.
            unknown: Called by the event loop if the kernel does not know the inode: it will not
                say that it forgets it either.
        """
        if (notices := self._notices) is None:
            unknown()
        else:
            token = trio.lowlevel.current_trio_token()
            tell_loop = partial(token.run_sync_soon, unknown)
            self._patient.tell(partial(_ask, notices, ino, tell_loop))

    async def wait_told(self) -> bool:
        """Return when the kernel has been told all that it was to be told before this call.

        Checkpoint: always. Cancel: safe.

        Returns:
            False if a notice has waited for longer than `END_S_MAX`, and may do so still.
        """
        return await self._wait_told(self._prompt, self._patient)

    async def wait_attributes_told(self) -> bool:
        """Do as `wait_told` for what waits for nothing: attributes."""
        return await self._wait_told(self._prompt)

    async def _wait_told(self, *tellers: _Teller) -> bool:
        is_told = True
        if self._notices is not None:
            token = trio.lowlevel.current_trio_token()
            for teller in tellers:
                told = trio.Event()
                teller.tell(partial(token.run_sync_soon, told.set))
                with trio.move_on_after(END_S_MAX):
                    await told.wait()
                is_told = is_told and told.is_set()
        await trio.lowlevel.checkpoint()
        return is_told

    @property
    def can_forget_all(self) -> bool:
        """True if the kernel of the mount can forget all names at once."""
        return self._notices is not None and self._notices.can_forget_all

    def forget_all(self) -> None:
        """Soon, the kernel asks again for each name, and so for the attributes, at its next use.

        What programs have open keeps its attributes for as long as the kernel was told.
        """
        notices = self._notices
        if notices is None:
            return
        if notices.can_forget_all:
            if not self._is_forgetting_all:
                self._is_forgetting_all = True
                self._prompt.tell(partial(self._forget_all, notices))
        else:
            log.error(
                "the kernel may believe old names until their time is over: it cannot forget all "
                "at once; that needs Linux 6.16 and the kernel driver"
            )

    def _forget_all(self, notices: KernelNotices) -> None:
        """Tell the kernel; by the thread. What comes from here on is told by itself."""
        self._is_forgetting_all = False
        notices.forget_all()

    @contextlib.contextmanager
    def told_by(self, notices: KernelNotices) -> Iterator[None]:
        """Tell the kernel for the block; before and after it knows nothing that could be old."""
        tellers = (self._prompt, self._patient)
        for teller in tellers:
            teller.start()
        self._notices = notices
        try:
            yield
        finally:
            self._notices = None
            for teller in tellers:
                teller.end()

    def _tell_name(self, notice: Callable[[], None], key: Hashable = None) -> None:
        """Give a notice about names, or have all of them forgotten where too many wait."""
        # Without names an inode keeps its pages, and an open one its attributes: no other notice
        # has such a substitute.
        if self._patient.waiting_count >= self._waiting_count_max and self.can_forget_all:
            self.forget_all()
        else:
            self._patient.tell(notice, key)


def _forget_name(notices: KernelNotices, parent: InodeNo, name: bytes) -> None:
    with _listing_forgotten(notices, parent):
        notices.forget_name(parent, name)


def _forget_names(notices: KernelNotices, names: Mapping[InodeNo, Sequence[bytes]]) -> None:
    for parent, changed in names.items():
        is_known = bool(changed)
        for name in changed:
            try:
                notices.forget_name(parent, name)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                is_known = False
        if not is_known:
            # As in `_listing_forgotten`, once for all of them.
            with contextlib.suppress(FileNotFoundError):
                notices.forget_pages(parent)


def _forget_removed(notices: KernelNotices, parent: InodeNo, name: bytes, ino: InodeNo) -> None:
    with _listing_forgotten(notices, parent):
        notices.forget_removed(parent, name, ino)


@contextlib.contextmanager
def _listing_forgotten(notices: KernelNotices, parent: InodeNo) -> Iterator[None]:
    """See that a directory is listed anew once the kernel has been told of a name in it."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        # A name that it does not know changes nothing for the kernel. It shows the listing that it
        # has until the time of the directory differs; a restore brings the same time back.
        notices.forget_pages(parent)


def _ask(notices: KernelNotices, ino: InodeNo, unknown: Callable[[], None]) -> None:
    try:
        notices.forget_attributes(ino)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        unknown()


class _Teller:
    """A thread that gives notices, one after the other.

    Args:
        name: That of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._notices: queue.SimpleQueue[tuple[Callable[[], None], Hashable] | None]
        self._notices = queue.SimpleQueue()
        self._waiting: set[Hashable] = set()
        """Keys of the notices that wait."""
        self._thread: threading.Thread | None = None

    @property
    def waiting_count(self) -> int:
        """Notices that wait."""
        return self._notices.qsize()

    def tell(self, notice: Callable[[], None], key: Hashable = None) -> None:
        """Have a notice given.

        Args:
            key: That of all notices that do the same: while one of them waits, no other is added.
                Without a key it is given by itself.
        """
        if key is not None:
            if key in self._waiting:
                return
            self._waiting.add(key)
        self._notices.put((notice, key))

    def start(self) -> None:
        """Begin to give notices."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Give what waits, and end; a notice that is stuck in the kernel is left behind."""
        assert self._thread is not None
        self._notices.put(None)
        self._thread.join(END_S_MAX)

    def _run(self) -> None:
        while (told := self._notices.get()) is not None:
            notice, key = told
            # Before it is given: what changes from here on is told anew.
            self._waiting.discard(key)
            try:
                notice()
            except OSError as error:
                log.debug("the kernel was not told: %s", error)
            except Exception:
                log.exception("the kernel could not be told")
