"""Small files, many at a time: made with content, attributes and names, or read, in one step each.

A program that stores ten thousand small values makes seven requests for each. Here one call makes
some hundred files: the bytes are written by a thread, and one change of the engine has all inodes
and names. What is not as simple as that (a symbolic link on the way, a directory that is missing, a
file that is not on the local disk, a permission that ids alone do not give) is left to the program,
which makes its usual requests for it and hears from the kernel what is wrong.

Invariant: each file has its name with all of its content and attributes, or it was left and nothing
of it has changed. Nothing is done that the ids of the client do not permit (`permissions`), and the
kernel is told of every name before the answer.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.content.invalidations import Aspect
from memfs.errors import (
    ObjectMissingError,
    StaleInodeError,
)
from memfs.filesystem.shared import UNTOLD_COUNT_MAX
from memfs.filesystem.tree_changes import TreeChanges
from memfs.filesystem.xattrs import require_users_name
from memfs.linux.times import storable_ns
from memfs.metadata.records import WrittenRaw
from memfs.metrics.traffic import Level
from memfs.namespace import acl
from memfs.namespace.permissions import READ, SEARCH, WRITE, Credentials, permits
from memfs.namespace.xattrs import XATTRS_BYTES_MAX, users_bytes
from memfs.stores.disk import translate_error
from memfs.traces.access_log import Operation
from memfs.types import NAME_BYTES_MAX, NO_INODE, Tier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memfs.filesystem.shared import Parts
    from memfs.metadata.records import Inode, NewInode
    from memfs.types import InodeNo, RawId

FILE_MODE = 0o666
"""That of a new file, less the umask; as open(2) is called by nearly all programs."""

FILES_A_CHANGE = 64
"""Files of one change of the engine, and of one turn of the event loop: some 3 ms."""

FILES_A_READ = 256
"""Files of one turn of the thread that reads, and of the event loop, which each take 2 to 3 ms."""

CONTENT_BYTES_MAX = 64 << 10
"""Longer files are left: the way through the daemon costs more than the requests that it spares."""

DEPTH_MAX = 64
"""Directories of a path; files in deeper ones are left. Guess."""

READ_BYTES_MAX = 8 << 20
"""Bytes of one answer, attributes included; more than any one file has. The rest is asked again."""

XATTR_BYTE_COST = 6
"""What a byte of an attribute counts there: one that is no text is `\\udcff` in the answer."""


@dataclass(slots=True)
class Client:
    """Who has called: a `Caller` of requests that the kernel has not brought."""

    uid: int
    gid: int
    groups: frozenset[int]
    """Supplementary groups."""
    pid: int
    umask: int
    credentials: Credentials = field(init=False)
    """Its ids."""

    def __post_init__(self) -> None:
        """Make the credentials once: they are asked for at each file."""
        self.credentials = Credentials(self.uid, self.gid, self.groups)

    def is_alone(self) -> bool:
        """Others have their turn."""
        return False


class SmallFile(NamedTuple):
    """A file that is to be made."""

    names: tuple[bytes, ...]
    """Those of its path below the directory of the call, at least one."""
    content: memoryview
    xattrs: tuple[tuple[bytes, bytes], ...]
    """The user's own."""


class SmallContent(NamedTuple):
    """A file that was read."""

    content: bytes
    xattr: bytes
    """That which was asked for; empty: the file has no such xattr."""


class _Ready(NamedTuple):
    """A file whose raw file is about to be written."""

    number: int
    parent: Inode
    name: bytes
    new: NewInode


class _Made(NamedTuple):
    """A file that has got its name."""

    ready: _Ready
    former: Inode | None
    """What has lost the name to it, as it is without."""


@dataclass(slots=True)
class _Done:
    """What one call has done so far."""

    made: list[_Made] = field(default_factory=list)
    mtimes_ns: dict[int, int] = field(default_factory=dict)
    """By the numbers of the files."""


class _Directory(NamedTuple):
    """A directory on the way to a file, and what the client may do there."""

    inode: Inode
    may_change: bool


_NOWHERE = (NO_INODE, b"")
"""What stands for a name that is not looked up: no file has it."""

Known = dict[tuple[bytes, ...], _Directory | None]
"""Directories by their path; None: this client has no way there."""


class SmallFiles(TreeChanges):
    """Small files on behalf of clients that have shown a token of their directory."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        # One at a time: threads that make files in one directory of ext4 spin for its lock, which
        # took a third of all processor time; and a thread that writes beside the loop has it wait
        # for the interpreter at each statement.
        self._turn = trio.Lock()
        # Likewise: two threads that read take the interpreter from each other and from the loop.
        self._reading = trio.Lock()

    # --- making ----------------------------------------------------------------------------------
    async def put_small(
        self,
        client: Client,
        directory: InodeNo,
        files: Sequence[SmallFile],
        *,
        replace: bool = True,
        pin: Tier | None = None,
        durable: bool = False,
    ) -> list[int]:
        """Make files; a file of the same name gives way, as in rename(2).

        Checkpoint: always. Cancel: safe.

        Args:
            client: Who makes them, and will own them.
            directory: What their paths begin at.
            files: In order: of two with one path, the later one stays.
            replace: Files may give way; else those whose name is taken are left.
            pin: That of each file; not `HOT`.
            durable: They are on stable storage when this returns, names and attributes included.

        Returns:
            The mtime of each in ns; 0: it was left, or is there and cannot be made durable.

        Raises:
            NoSpaceError: The disk is full; the first ones may have been made.
            MemfsError: Likewise.
        """
        assert pin is not Tier.HOT
        done = _Done()
        try:
            for begin in range(0, len(files), FILES_A_CHANGE):
                if self._room is not None and self._room.is_tight:
                    # A program waits there until files have left the disk.
                    break
                async with self._turn:
                    end, known = min(begin + FILES_A_CHANGE, len(files)), Known()
                    paths = [file.names for file in files[begin:end]]
                    await self._learn_directories(client, directory, paths, known)
                    ready = [
                        each
                        for number in range(begin, end)
                        if (each := await self._prepared(client, number, files, known))
                    ]
                    if ready:
                        await self._put_ready(client, ready, files, done, replace=replace, pin=pin)
                await trio.lowlevel.checkpoint()
        finally:
            if done.made:
                with trio.CancelScope(shield=True):
                    await self._tell_all(client, done, files)
        if durable and done.made:
            await self._make_durable(done)
        await trio.lowlevel.checkpoint()
        return [done.mtimes_ns.get(number, 0) for number in range(len(files))]

    async def _make_durable(self, done: _Done) -> None:
        """Bring all files to stable storage at once; one that cannot be is done no longer.

        Many files by one syncfs(2), and all that the engine knows of them by one sync of the
        journal, where each would wait for both by itself.
        """
        inodes = []
        for each, _ in done.made:
            # One that was replaced or removed meanwhile was there.
            with contextlib.suppress(StaleInodeError):
                inodes.append(await self._engine.get_inode(each.new.ino))
        refused = await self._file_syncs.make_durable(inodes)
        self._move_parts.faults.reach("put.synced")
        for each, _ in done.made:
            if each.new.ino in refused:
                done.mtimes_ns[each.number] = 0

    async def _prepared(
        self,
        client: Client,
        number: int,
        files: Sequence[SmallFile],
        known: Known,
    ) -> _Ready | None:
        """Return a file with its numbers; None: it is left."""
        *_, name = names = files[number].names
        if len(files[number].content) > CONTENT_BYTES_MAX or not _is_plain(name):
            return None
        if users_bytes(files[number].xattrs) > XATTRS_BYTES_MAX:
            return None
        found = known.get(names[:-1])
        if found is None or not found.may_change:
            return None
        ino, raw = self._engine.reserve_ids()
        mode = stat.S_IFREG | FILE_MODE
        new = await self._new_inode(client, found.inode.ino, mode, ino, raw=raw)
        return _Ready(number, found.inode, name, new)

    async def _put_ready(
        self,
        client: Client,
        ready: Sequence[_Ready],
        files: Sequence[SmallFile],
        done: _Done,
        *,
        replace: bool,
        pin: Tier | None,
    ) -> None:
        """Write the raw files, and have names lead to them."""
        contents = [(each.new.raw, files[each.number].content) for each in ready]
        written = await trio.to_thread.run_sync(self._write_all, contents, limiter=self._threads)
        faults = self._move_parts.faults
        faults.reach("put.written")
        made: list[_Made] = []
        left: list[RawId] = []
        engine = self._engine
        try:
            async with engine.change():
                for each, content in zip(ready, written, strict=True):
                    former = None
                    found = await engine.find(each.parent.ino, each.name)
                    if found is not None:
                        if not replace or not self._may_replace(client, each.parent, found):
                            left.append(each.new.raw)
                            continue
                        now_ns = self._now_ns()
                        former = await engine.unlink(each.parent.ino, each.name, now_ns)
                        # As with rename(2): its bytes must not be later on the disk than its name.
                        self._syncer.add(each.new.raw)
                    xattrs = each.new.xattrs + files[each.number].xattrs
                    new = each.new._replace(xattrs=xattrs, written=content)
                    await engine.create(each.parent.ino, each.name, new)
                    self._traffic.user_write_count += len(files[each.number].xattrs)
                    if pin is not None:
                        await engine.set_pin(new.ino, pin)
                    made.append(_Made(each, former))
                    done.mtimes_ns[each.number] = content.mtime_ns
        except BaseException:
            for each in ready:
                done.mtimes_ns.pop(each.number, None)
                self._doubt_raw(each.new.ino, each.new.raw)
            raise
        done.made += made
        faults.reach("put.recorded")
        self._note_made(made, pin)
        for raw in left:
            self._raw_store.unlink(raw)

    def _write_all(self, contents: Sequence[tuple[RawId, memoryview]]) -> list[WrittenRaw]:
        """Write raw files, in a thread; removes all of them if one cannot be written."""
        store, written = self._raw_store, list[WrittenRaw]()
        try:
            for raw, content in contents:
                fd = store.create(raw, os.O_WRONLY, provisional=True)
                try:
                    done = 0
                    while done < len(content):
                        done += os.write(fd, content[done:])
                    status = os.fstat(fd)
                except OSError as error:
                    raise translate_error(error, f"raw file {raw} at {store.path(raw)}") from error
                finally:
                    os.close(fd)
                mtime_ns = storable_ns(status.st_mtime_ns)
                written.append(WrittenRaw(status.st_size, status.st_blocks, mtime_ns))
        except BaseException:
            for raw, _ in contents[: len(written) + 1]:
                store.unlink(raw)
            raise
        return written

    def _may_replace(self, client: Client, parent: Inode, found: Inode) -> bool:
        """Tell whether a file may give way (rename(2), EISDIR and EACCES by the sticky bit)."""
        if stat.S_ISDIR(found.mode):
            return False
        return not parent.mode & stat.S_ISVTX or client.uid in (parent.uid, found.uid)

    def _note_made(self, made: Sequence[_Made], pin: Tier | None) -> None:
        """Note files that have got names, for all but the kernel."""
        activity = self._activity
        # The mover gives way as to a program, which would have made requests for them.
        activity.request_count += len(made)
        for each in made:
            ino = each.ready.new.ino
            if len(self._untold) < UNTOLD_COUNT_MAX:
                self._untold[ino] = False
            self._note_without_capability(ino)
            activity.note_sealed(ino)
            if pin is not None:
                activity.note_pin(ino)

    async def _tell_all(self, client: Client, done: _Done, files: Sequence[SmallFile]) -> None:
        """Tell the kernel of names, and let go of the files that gave way; once for all changes.

        Each notice is a system call of a thread, which takes the interpreter from the loop.
        """
        activity, time_ns, untold = self._activity, self._now_ns(), self._untold
        names: dict[InodeNo, list[bytes]] = {}
        for each, former in done.made:
            ino = each.new.ino
            changed = names.setdefault(each.parent.ino, [])
            if former is None or not untold.get(former.ino):
                changed.append(each.name)
            size = len(files[each.number].content)
            activity.programs.note_open(client.pid, client.uid, size, time_ns, writing=True)
            if activity.access_log.active:
                activity.access_log.note(Operation.CREATE, ino, 0, Tier.COLD)
                activity.access_log.note(Operation.WRITE, ino, size, Tier.COLD)
        self._kernel_cache.forget_names(names)
        for parent in names:
            self.invalidations.note_inode(parent, Aspect.ATTRIBUTES)
        for _, former in done.made:
            if former is not None:
                self._let_former_go(former)
        raws = [each.new.raw for each, _ in done.made]
        await trio.to_thread.run_sync(self._raw_store.settle, raws, limiter=self._threads)
        await self._kernel_cache.wait_told()
        for each, _ in done.made:
            if each.new.ino in untold:
                untold[each.new.ino] = True

    def _let_former_go(self, former: Inode) -> None:
        if former.nlink or former.ino not in self._untold:
            self._leave(former)
            return
        # Nobody can have it open, and the kernel has no names or attributes of it.
        self._activity.changes.note(former.ino)
        self._note_orphan(former, promptly=False)
        self.forget([former.ino])

    # --- reading ---------------------------------------------------------------------------------
    async def get_small(
        self,
        client: Client,
        directory: InodeNo,
        paths: Sequence[tuple[bytes, ...]],
        xattr: bytes,
    ) -> list[SmallContent | None]:
        """Read files whole, the first one and as many more as an answer has room for.

        Checkpoint: always. Cancel: safe.

        Args:
            client: Who reads.
            directory: What the paths begin at.
            paths: Each at least one name.
            xattr: The name of one that is wanted of each.

        Returns:
            The first files, in order; None: it is left.

        Raises:
            InvalidValueError: It is no name of a user's xattr: the kernel, which shows others to
                root alone, is not asked here.
        """
        require_users_name(xattr)
        found: list[SmallContent | None] = []
        left_bytes = READ_BYTES_MAX
        # As for a program that has opened its directories, and reads what is in them then.
        known: Known = {}
        for begin in range(0, len(paths), FILES_A_READ):
            async with self._reading:
                some = paths[begin : begin + FILES_A_READ]
                inodes = await self._readable(client, directory, some, known)
                contents = await trio.to_thread.run_sync(
                    self._read_all, inodes, left_bytes, limiter=self._threads
                )
            values = await self._engine.get_xattrs(
                [inode.ino for inode in inodes if inode is not None], xattr
            )
            read, read_bytes = [], 0
            for inode, content in zip(inodes, contents, strict=False):
                small = None
                if inode is not None and content is not None:
                    value = values.get(inode.ino, b"")
                    left_bytes -= len(content) + XATTR_BYTE_COST * len(value)
                    if left_bytes < 0:
                        break
                    read_bytes += len(content)
                    read.append(inode)
                    small = SmallContent(content, value)
                found.append(small)
            await self._note_reads(client, read, read_bytes)
            if len(found) < begin + len(inodes):
                break
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return found

    async def _readable(
        self, client: Client, top: InodeNo, paths: Sequence[tuple[bytes, ...]], known: Known
    ) -> list[Inode | None]:
        """Return the regular files on the local disk that a client may read; None: another one."""
        await self._learn_directories(client, top, paths, known)
        asked: list[tuple[InodeNo, bytes]] = []
        for names in paths:
            above = known.get(names[:-1])
            is_named = above is not None and _is_plain(names[-1])
            asked.append((above.inode.ino, names[-1]) if above and is_named else _NOWHERE)
        found = [
            inode if inode is not None and stat.S_ISREG(inode.mode) and inode.raw else None
            for inode in await self._engine.find_all(asked)
        ]
        acls = await self._access_acls(client, [inode for inode in found if inode is not None])
        return [
            inode if inode is not None and _permits(client, inode, acls, READ) else None
            for inode in found
        ]

    def _read_all(self, inodes: Sequence[Inode | None], bytes_max: int) -> list[bytes | None]:
        """Read raw files, in a thread, as many as have up to `bytes_max` together.

        None: it is too long, gone, or was changed on the disk.
        """
        found: list[bytes | None] = []
        for inode in inodes:
            content = None if inode is None else self._read_one(inode)
            bytes_max -= 0 if content is None else len(content)
            if bytes_max < 0:
                break
            found.append(content)
        return found

    def _read_one(self, inode: Inode) -> bytes | None:
        try:
            fd, status = self._raw_store.open_known(inode.raw, os.O_RDONLY)
        except ObjectMissingError:
            return None
        try:
            if status.st_size > CONTENT_BYTES_MAX:
                return None
            if self._sealer.damage_of(inode, status) is not None:
                return None
            # Room for the bytes that are there: for 64 KiB each read took 2 us longer.
            return os.pread(fd, status.st_size, 0)
        except OSError:
            return None
        finally:
            os.close(fd)

    async def _note_reads(self, client: Client, inodes: Sequence[Inode], size: int) -> None:
        """Note what opens for reading would have noted; `size` bytes of them all were read."""
        if not inodes:
            return
        activity, time_ns = self._activity, self._now_ns()
        activity.request_count += len(inodes)
        if activity.access_log.active:
            for inode in inodes:
                await self._log(Operation.OPEN, inode, self._live(inode).size)
        activity.note_uses([inode.ino for inode in inodes], time_ns)
        activity.programs.note_open(
            client.pid, client.uid, size, time_ns, writing=False, count=len(inodes)
        )
        is_resident = self._residency.is_resident
        warm = [inode.size for inode in inodes if is_resident(inode.ino)]
        cold_bytes = sum(inode.size for inode in inodes) - sum(warm)
        self._traffic.note_open(Level.WARM, sum(warm), len(warm))
        self._traffic.note_open(Level.COLD, cold_bytes, len(inodes) - len(warm))
        for inode in inodes:
            self._touch_atime(inode, time_ns)

    # --- both ------------------------------------------------------------------------------------
    async def _learn_directories(
        self, client: Client, top: InodeNo, paths: Sequence[tuple[bytes, ...]], known: Known
    ) -> None:
        """Learn the directories of some paths, with all that are on the way, level by level.

        Args:
            client: Who goes there: directories that it may not search are `None`, and so are those
                beyond, and what is no directory.
            top: What the paths begin at.
            paths: The last name of each is not looked at.
            known: Gets them; those deeper than `DEPTH_MAX` are left out.
        """
        if () not in known:
            inode = None
            with contextlib.suppress(StaleInodeError):
                inode = await self._engine.get_inode(top)
            await self._know(client, [()], [inode], known)
        for depth in range(1, min(max(map(len, paths)), DEPTH_MAX + 1)):
            new = {names[:depth]: None for names in paths if len(names) > depth}.keys() - known
            asked = []
            for names in new:
                above = known[names[:-1]]
                is_named = above is not None and _is_plain(names[-1])
                asked.append((above.inode.ino, names[-1]) if above and is_named else _NOWHERE)
            await self._know(client, [*new], await self._engine.find_all(asked), known)

    async def _know(
        self,
        client: Client,
        names: Sequence[tuple[bytes, ...]],
        found: Sequence[Inode | None],
        known: Known,
    ) -> None:
        directories = [each for each in found if each is not None and stat.S_ISDIR(each.mode)]
        acls = await self._access_acls(client, directories)
        for path, inode in zip(names, found, strict=True):
            is_way = (
                inode is not None
                and stat.S_ISDIR(inode.mode)
                and _permits(client, inode, acls, SEARCH)
            )
            known[path] = (
                _Directory(inode, _permits(client, inode, acls, WRITE))
                if inode is not None and is_way
                else None
            )

    async def _access_acls(self, client: Client, inodes: Sequence[Inode]) -> dict[InodeNo, bytes]:
        """Return the ACLs that decide what a client may do with some inodes."""
        if not self._features.acl:
            return {}
        asked = [inode.ino for inode in inodes if inode.mode & 0o070 and inode.uid != client.uid]
        return await self._engine.get_xattrs(asked, acl.ACCESS_XATTR) if asked else {}


def _permits(client: Client, inode: Inode, acls: Mapping[InodeNo, bytes], wanted: int) -> bool:
    access_acl = acls.get(inode.ino)
    return permits(client.credentials, inode.mode, inode.uid, inode.gid, access_acl, wanted)


def _is_plain(name: bytes) -> bool:
    """Tell whether a name is not hidden, as `.memfs` is, and leads to no other directory."""
    return bool(name) and not name.startswith(b".") and len(name) <= NAME_BYTES_MAX
