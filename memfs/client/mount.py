"""The client of a mount: what may be asked of its daemon and of its files.

Invariant: whatever state the daemon is in, a call ends within its time limit, and returns a report
or raises an error that has a code.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import sys
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

from memfs.client import placement
from memfs.control.client import ControlError, ControlUnavailableError, call, call_door
from memfs.control.methods import copies, mount, prefetching, queries, trees, upkeep
from memfs.control.protocol import ErrorCode
from memfs.control.typed import decode
from memfs.errors import InvalidValueError, UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.mounts import topmost_mount
from memfs.metrics.numbers import decode as decode_row
from memfs.metrics.rings import RINGS, begin_of
from memfs.metrics.rolling import Period, roll_up
from memfs.types import FILESYSTEM_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from memfs.client.adoption import Adoption
    from memfs.client.placement import Placement
    from memfs.client.snapshots import Snapshots
    from memfs.control.methods.method import Method
    from memfs.control.methods.mount import FrozenReport
    from memfs.control.report import PendingReport, PoolReport, StatusReport

P = TypeVar("P")
R = TypeVar("R")

ANSWER_S_MAX = 10.0
"""For a question that the daemon answers from what it knows."""

FILES_S_MAX = 60.0
"""Where it looks names up, or writes something before it answers."""

WORK_S_MAX = 24 * 3600.0
"""One file may be terabytes, and a listing of a store may be long."""


class NotMountedError(UsageError):
    """A path does not lie in a mount of memfs.

    Args:
        mountpoint: That of the mount that was named; None: it lies in no mount at all.
    """

    errno = errno.EXDEV

    def __init__(
        self, path: str | os.PathLike[str], mountpoint: os.PathLike[str] | None = None
    ) -> None:
        where = "a mount of memfs" if mountpoint is None else os.fspath(mountpoint)
        message = f"{os.fspath(path)} does not lie in {where}"
        super().__init__(message, ExitCode.NOT_MOUNTED)


class Mount(NamedTuple):
    """A mount of memfs; made by `Mount.of`.

    Every method that asks the daemon raises `ControlError`, whose `code` and `errno` say why the
    daemon refuses, or `ControlUnavailableError`: there is no daemon (ENOTCONN), it may not be asked
    by this user (EACCES), or it did not answer in time (ETIMEDOUT). Methods that take a path raise
    `PlacementError`, with the errno of the system call.
    """

    mountpoint: Path
    state_dir: Path
    device: str = ""
    """`major:minor`: of it and all its copies."""
    is_here: bool = True
    """In this process's mount namespace; elsewhere it may be at another place."""

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Self:
        """Return the mount that a path is on, symbolic links followed; the path need not exist.

        Raises:
            NotMountedError: That is another file system.
        """
        found = cls.find(path)
        if found is None:
            raise NotMountedError(path)
        return found

    @classmethod
    def find(cls, path: str | os.PathLike[str]) -> Self | None:
        """As `of`; None if that is another file system."""
        found = topmost_mount(Path(os.path.realpath(path)))
        if found.type != FILESYSTEM_TYPE:
            return None
        return cls(found.mountpoint, Path(found.source), found.device)

    def inner(self, path: str | os.PathLike[str]) -> str:
        """Return a path as the daemon knows it: from the root of the mount on.

        Raises:
            NotMountedError: It is not on this mount.
        """
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(self.mountpoint):
            raise NotMountedError(path, self.mountpoint)
        return "/".join(real.relative_to(self.mountpoint).parts)

    # --- files -----------------------------------------------------------------------------------
    def placement(self, path: str | os.PathLike[str]) -> Placement:
        """Return where a file is, its pin, and why."""
        return placement.read(Path(path))

    def tier(self, path: str | os.PathLike[str]) -> str:
        """Return the tier that a file is in."""
        return self.placement(path).tier

    def why(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Return the decision that brought a file where it is, and the move that waits."""
        return self.placement(path).why

    def pin(self, path: str | os.PathLike[str], tier: str, priority: int | None = None) -> None:
        """Send a file, or all below a directory, to a tier and keep it there."""
        placement.pin(Path(path), tier, priority)

    def unpin(self, path: str | os.PathLike[str]) -> None:
        """Let memfs choose the tier again; nothing happens if there is no own pin."""
        placement.unpin(Path(path))

    # --- the mount -------------------------------------------------------------------------------
    def status(self) -> StatusReport:
        """Return tiers, driver and work."""
        return self.asking(mount.STATUS)({})

    def metrics(self) -> str:
        """Return all metrics in the text format of Prometheus."""
        return self.asking(mount.METRICS)({})["text"]

    def history(self, resolution_s: int, after_s: int = -1) -> list[Period]:
        """Return what was measured, in rows of one ring, in order of time.

        What the ring does not have yet is made of the finer ones. Where a row is missing, all was
        as before and nothing happened: see `metrics.rolling.fill`.

        Args:
            resolution_s: One of `metrics.rings.RINGS`.
            after_s: Only rows that begin later, seconds since the epoch.
        """
        periods: list[Period] = []
        for ring in RINGS:
            finer, begin_s = periods, begin_of(ring.resolution_s, max(after_s, 0)) - 1
            report = self.asking(mount.HISTORY)(
                {"resolution_s": ring.resolution_s, "after_s": begin_s}
            )
            periods = [Period(at_s, decode_row(b64decode(row))) for at_s, row in report["rows"]]
            last_s = periods[-1].at_s if periods else -1
            periods += roll_up(finer, ring.resolution_s, after_s=last_s, before_s=sys.maxsize)
            if ring.resolution_s == resolution_s:
                break
        return [period for period in periods if period.at_s > after_s]

    def heat(self, limit: int = 100) -> mount.HeatReport:
        """Return the files and directories that are used most, and files that are used least."""
        return self.asking(mount.HEAT)({"limit": limit})

    def events(self, limit: int = 100, before: int | None = None) -> list[mount.EventReport]:
        """Return what people decided and what went wrong, the latest first.

        Args:
            limit: At most so many.
            before: Only those with a lower number; None: the latest.
        """
        return self.asking(mount.EVENTS)({"limit": limit, "before": before})

    def pending(self, limit: int = 10_000) -> list[PendingReport]:
        """Return the moves that wait, those due first."""
        return self.asking(mount.PENDING)({"limit": limit})

    def activity(self, limit: int = 64) -> mount.ActivityReport:
        """Return moves under way, and programs by the bytes of the files that they opened."""
        return self.asking(mount.ACTIVITY)({"limit": limit})

    def stats(self) -> dict[str, Any]:
        """Return devices, slabs and counters of the hot tier."""
        return self.asking(mount.HOT)({})

    def remount(self, *, atime: bool, strict_atime: bool | None) -> None:
        """Have access times kept from now on, or not; None: as often as before."""
        self.asking(mount.REMOUNT)({"atime": atime, "strict_atime": strict_atime})

    # --- files that will be used -----------------------------------------------------------------
    def prefetch(
        self,
        paths: Sequence[str],
        tier: Literal["hot", "warm", "cold"] = "warm",
        job: int | None = None,
    ) -> prefetching.PrefetchTaken:
        """Have files brought near, in order.

        Args:
            paths: As of `inner`; some thousand a call.
            tier: How near.
            job: Append to this one; None: begin a new one. ENOENT: there is no such job.
        """
        params: prefetching.PrefetchParameters = {"paths": [*paths], "tier": tier, "job": job}
        return self.asking(prefetching.PREFETCH, FILES_S_MAX)(params)

    def prefetch_progress(self, job: int) -> prefetching.PrefetchProgress:
        """Return how far a job is. ENOENT: there is no such job."""
        return self.asking(prefetching.PREFETCH_PROGRESS, FILES_S_MAX)({"job": job})

    def prefetch_cancel(self, job: int) -> prefetching.PrefetchProgress:
        """Forget what waits in a job; what was fetched stays. ENOENT: there is no such job."""
        return self.asking(prefetching.PREFETCH_CANCEL, FILES_S_MAX)({"job": job})

    def hint(
        self,
        coming: list[int],
        done: list[int],
        tier: Literal["warm", "cold"] = "warm",
        job: int | None = None,
        *,
        replace: bool = False,
    ) -> prefetching.HintTaken:
        """Tell in which order files will be used, and which ones were.

        Args:
            coming: Inode numbers, in order.
            done: Those of files that are not used again for now.
            tier: How near files are brought; of a new job.
            job: Append to this one; None: begin a new one. ENOENT: there is no such job.
            replace: First forget what waits in the job.
        """
        params: prefetching.HintParameters = {
            "coming": coming,
            "done": done,
            "tier": tier,
            "job": job,
            "replace": replace,
        }
        return self.asking(prefetching.HINT, FILES_S_MAX)(params)

    # --- work on trees: a call does what it can in some seconds ----------------------------------
    def barrier(
        self,
        inos: list[int],
        level: Literal["local", "remote"],
        *,
        timeout_s: float = WORK_S_MAX,
    ) -> trees.WorkReport:
        """Bring files to a level of safety."""
        return self.asking(trees.BARRIER, timeout_s)({"inos": inos, "level": level})

    def compress(
        self,
        inos: list[int],
        codec: str | None = None,
        *,
        drop_raw: bool = True,
        dry_run: bool = False,
        timeout_s: float = WORK_S_MAX,
    ) -> trees.WorkReport:
        """Pack files now; `codec` as users write it, None: the one in force on each."""
        params: trees.CompressParameters = {
            "inos": inos,
            "codec": codec,
            "drop_raw": drop_raw,
            "dry_run": dry_run,
        }
        return self.asking(trees.COMPRESS, timeout_s)(params)

    def rekey(
        self, inos: list[int], *, dry_run: bool = False, timeout_s: float = WORK_S_MAX
    ) -> trees.WorkReport:
        """Bring files under the newest key."""
        return self.asking(trees.REKEY, timeout_s)({"inos": inos, "dry_run": dry_run})

    def relocate(
        self, inos: list[int], *, dry_run: bool = False, timeout_s: float = WORK_S_MAX
    ) -> trees.WorkReport:
        """Bring the objects of files into the stores that the files belong in."""
        return self.asking(trees.RELOCATE, timeout_s)({"inos": inos, "dry_run": dry_run})

    def publish_files(
        self,
        inos: list[int],
        root: int,
        url: str,
        *,
        unconditional: bool = False,
        replaces: bool = False,
        timeout_s: float = WORK_S_MAX,
    ) -> trees.WorkReport:
        """Publish files below a directory as plain objects."""
        params: trees.PublishParameters = {
            "inos": inos,
            "root": root,
            "url": url,
            "unconditional": unconditional,
            "replaces": replaces,
        }
        return self.asking(trees.PUBLISH_OBJECTS, timeout_s)(params)

    def publish_part(self, url: str, key: str, path: str, *, unconditional: bool = False) -> str:
        """Publish a part of a manifest, or remove it; returns why that was not done."""
        params: trees.PublishPartParameters = {
            "url": url,
            "key": key,
            "path": path,
            "unconditional": unconditional,
        }
        return self.asking(trees.PUBLISH_PART, WORK_S_MAX)(params)

    def publish_removed(self, root: int, url: str, deleted: str = "") -> trees.RemovedReport:
        """Remove objects whose files are gone, or keep them; empty: as the configuration says."""
        params: trees.PublishRemovedParameters = {"root": root, "url": url, "deleted": deleted}
        return self.asking(trees.PUBLISH_REMOVED, WORK_S_MAX)(params)

    def published(self, url: str, after: str = "") -> list[dict[str, Any]]:
        """Return some of what was published below a URL, behind a key."""
        answer = self.asking(trees.PUBLISHED, WORK_S_MAX)({"url": url, "after": after})
        return answer["objects"]

    def stores(self) -> list[mount.StoreUseReport]:
        """Return the object stores, how they answer, and what is in each."""
        return self.asking(mount.STORES, WORK_S_MAX)({})

    def rekey_kept(
        self, blobs: list[int], *, dry_run: bool = False, timeout_s: float = WORK_S_MAX
    ) -> trees.WorkReport:
        """Bring contents that only snapshots show under the newest key."""
        return self.asking(trees.REKEY_KEPT, timeout_s)({"blobs": blobs, "dry_run": dry_run})

    def kept_blobs(self, after: int = 0, limit: int = 256) -> list[int]:
        """Return contents with forms that only snapshots show, by number; in pages."""
        return self.asking(trees.KEPT_BLOBS, FILES_S_MAX)({"after": after, "limit": limit})

    def moves(self) -> trees.MovesReport:
        """Return how far the moves under way are."""
        return self.asking(trees.MOVES, ANSWER_S_MAX / 2)({})

    # --- copies ----------------------------------------------------------------------------------
    def clone(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        replace: bool = False,
        on_progress: Callable[[copies.CopyReport], None] = lambda _: None,
    ) -> copies.CopyReport:
        """Make a second file, or tree, equal to another one, without copying bytes where it can.

        Attributes, xattrs, times and hard links among the files of a tree are carried; pins are
        not. A tree gets its name when it is whole. Stopped, the same call goes on from there.

        Args:
            source: On this mount; a symbolic link is not followed.
            target: On this mount; it must not exist.
            replace: It may exist, and is replaced.
            on_progress: Told about once a second what was done so far.

        Returns:
            What was done; `failures` names what could not be.

        Raises:
            ControlError: EEXIST: the target exists. ENOSPC: the disk is full.
            UsageError: The mount is read-only.
        """
        params: copies.CloneParameters = {
            "source": self.named(source),
            "target": self.named(target),
            "work": secrets.token_hex(8),
            "replace": replace,
        }
        self.refuse_read_only()
        ask, cancel = self.asking(copies.CLONE, WORK_S_MAX), self.asking(copies.CLONE_CANCEL)
        try:
            while not (report := ask(params))["ended"]:
                on_progress(report)
        except BaseException:
            with contextlib.suppress(ControlError, ControlUnavailableError):
                cancel({"work": params["work"]})
            raise
        return report

    def named(self, path: str | os.PathLike[str]) -> str:
        """Return a name, which may not exist yet, as the daemon knows it; links above count.

        Raises:
            NotMountedError: It is not on this mount.
        """
        if os.path.realpath(path) == os.fspath(self.mountpoint):
            return ""
        above, name = os.path.split(os.path.abspath(path))
        return os.path.join(self.inner(above), name)

    def refuse_read_only(self) -> None:
        """See that programs may change the mount.

        Raises:
            UsageError: It is read-only.
        """
        if os.statvfs(self.mountpoint).f_flag & os.ST_RDONLY:
            raise UsageError(f"{self.mountpoint} is mounted read-only")

    # --- queries ---------------------------------------------------------------------------------
    def query(
        self,
        filter_: Mapping[str, Any] | str,
        *,
        sort: str | None = None,
        token: str | None = None,
        limit: int = 1000,
        names: bool = True,
        attributes: bool = False,
        at: str | None = None,
    ) -> queries.QueryReport:
        """Return a page of the files that a filter finds.

        A user who has no right to the control socket finds what `find` and `getfattr` would have.

        Args:
            filter_: As an object, or in JSON.
            sort: An xattr, `$size` or `$mtime`; with `-` before it, descending.
            token: That of the page before.
            limit: Files a page, up to 10,000; fewer where they have 16 MiB of names and attributes.
            names: False: files are only counted.
            attributes: Return the user xattrs of each file; those of one that has more than 1 MiB
                of them are not told.
            at: Name of a snapshot, which is asked instead of the state of now.

        Raises:
            ControlError: EINVAL: the filter means nothing, and the message says where. ENOTSUP: the
                index is off, or not complete yet. ENOENT: there is no such snapshot. ETIMEDOUT: it
                takes too long.
        """
        params: queries.QueryParameters = {
            "filter": filter_ if isinstance(filter_, str) else json.dumps(filter_),
            "sort": sort,
            "token": token,
            "limit": limit,
            "names": names,
            "attributes": attributes,
            "at": at,
        }
        try:
            return self.asking(queries.QUERY, FILES_S_MAX)(params)
        except ControlUnavailableError as refused:
            ticket = None if refused.errno == errno.ETIMEDOUT else self._ticket()
            if ticket is None:
                raise
        address, ticket_text = ticket
        user_params: queries.UserQueryParameters = {**params, "ticket": ticket_text}
        return self.asking(queries.QUERY_AS_USER, FILES_S_MAX, address)(user_params)

    def _ticket(self) -> tuple[str, str] | None:
        """Return where a user may ask, and a ticket; None: nowhere."""
        try:
            told = json.loads(os.getxattr(self.mountpoint, "user.memfs.ask"))
            return told["socket"], told["token"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def tree(
        self, path: str = "", *, order: queries.TreeOrder = "bytes", limit: int = 200
    ) -> queries.TreeReport:
        """Return what a directory holds, with the sums of all below each name.

        Args:
            path: As of `inner`.
            order: By bytes, by last use (`heat`), or by name.
            limit: Names, up to 1000; the sums are those of all names.

        Raises:
            ControlError: ENOENT or ENOTDIR: there is no such directory. ETIMEDOUT: it has too many
                names.
        """
        params: queries.TreeParameters = {"path": path, "order": order, "limit": limit}
        return self.asking(queries.TREE, FILES_S_MAX)(params)

    def query_index(self) -> queries.NamesReport:
        """Return how complete the indexes are, and the names in that of xattrs."""
        return self.asking(queries.QUERY_INDEX)({})

    def index_add(self, field: str) -> None:
        """Begin an index; `query_index` tells how far it is.

        Args:
            field: `$size`, `$mtime` or `$name`; or `user.NAME`: of the texts in that xattr.

        Raises:
            ControlError: EINVAL: no other field can have one. EEXIST: the one before is still
                being removed. ENOTSUP: xattrs are not indexed, too many of them have an index of
                their texts, or SQLite cannot search texts. ENOSPC: the disk is full.
        """
        self.asking(queries.INDEX_ADD)({"field": field})

    def index_drop(self, field: str) -> None:
        """Give an index up; ENOENT: there is no such index."""
        self.asking(queries.INDEX_DROP)({"field": field})

    def publish(self) -> None:
        """Bring all changes so far into the tables of the state, for programs that read them."""
        self.asking(queries.PUBLISH, FILES_S_MAX)({})

    # --- adoption --------------------------------------------------------------------------------
    @property
    def adoption(self) -> Adoption:
        """Buckets and directories that are adopted; see `memfs.client.adoption`."""
        # Imported here: most commands need nothing of it.
        from memfs.client.adoption import Adoption

        return Adoption(self)

    # --- snapshots -------------------------------------------------------------------------------
    @property
    def snapshots(self) -> Snapshots:
        """The instants of this mount that are kept."""
        # Imported here: most programs ask for no snapshot.
        from memfs.client.snapshots import Snapshots

        return Snapshots(self)

    # --- scrubbing -------------------------------------------------------------------------------
    def scrub(self, rate: int, *, restart: bool = False) -> upkeep.ScrubReport:
        """Begin to scrub, `rate` bytes a second, or go on where the last scrub was stopped."""
        return self.asking(upkeep.SCRUB)({"rate": rate, "restart": restart})

    def scrub_progress(self) -> upkeep.ScrubReport:
        """Return how far the scrub is, and what it found."""
        return self.asking(upkeep.SCRUB_PROGRESS)({})

    def scrub_stop(self) -> upkeep.ScrubReport:
        """Stop the scrub; the next one goes on from there."""
        return self.asking(upkeep.SCRUB_STOP)({})

    # --- pools -----------------------------------------------------------------------------------
    def pool_create(self, name: str, size: str | int) -> PoolReport:
        """Reserve a part of RAM, or give a pool another size."""
        return self.asking(mount.POOL_CREATE)({"name": name, "size": size})

    def frozen(self) -> list[FrozenReport]:
        """Return the frozen directories, by path."""
        return self.asking(mount.FROZEN)({})

    def pool_list(self) -> list[PoolReport]:
        """Return all pools, by name."""
        return self.asking(mount.POOL_LIST)({})

    def pool_remove(self, name: str) -> None:
        """Give a pool back."""
        self.asking(mount.POOL_REMOVE)({"name": name})

    # --- the policy ------------------------------------------------------------------------------
    def policy_values(self) -> list[mount.PolicyValueReport]:
        """Return the values of `[policy]` that can be set while the mount serves."""
        return self.asking(mount.POLICY_VALUES)({})

    def policy_set(self, values: Mapping[str, object]) -> list[mount.PolicyValueReport]:
        """Set values of `[policy]`, for the whole mount, until they are reset.

        Args:
            values: As in the configuration: `{"warm_to_cold": "12h", "promote_count": 2}`.

        Returns:
            As `policy_values`.

        Raises:
            ControlError: EINVAL: one is no such value, and not one of them is set.
        """
        texts = {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in values.items()
        }
        return self.asking(mount.POLICY_SET)({"values": texts})

    def policy_reset(self, names: Sequence[str] = ()) -> list[mount.PolicyValueReport]:
        """Have values of `[policy]` be as configured; all, if not one is named."""
        return self.asking(mount.POLICY_RESET)({"names": [*names]})

    # --- traces ----------------------------------------------------------------------------------
    def trace_start(self, path: str, *, paths: bool = True) -> mount.TraceReport:
        """Begin a trace in an absolute directory, or continue the one there."""
        return self.asking(mount.TRACE_START, FILES_S_MAX)({"path": path, "paths": paths})

    def trace_stop(self) -> mount.TraceReport:
        """End the trace."""
        return self.asking(mount.TRACE_STOP, FILES_S_MAX)({})

    def trace_status(self) -> mount.TraceReport:
        """Return the report of the trace that is, or was last, recorded."""
        return self.asking(mount.TRACE_STATUS, FILES_S_MAX)({})

    # --- collecting garbage ----------------------------------------------------------------------
    def gc_garbage(self, *, dry_run: bool) -> upkeep.GarbageReport:
        """Remove garbage for a second."""
        return self.asking(upkeep.GC_GARBAGE, WORK_S_MAX)({"dry_run": dry_run})

    def gc_batches(self, *, dry_run: bool) -> upkeep.BatchesReport:
        """Compact the sparsest batch."""
        return self.asking(upkeep.GC_BATCHES, WORK_S_MAX)({"dry_run": dry_run})

    def gc_accounts(self) -> upkeep.AccountsReport:
        """Count again what accounts are kept of."""
        return self.asking(upkeep.GC_ACCOUNTS, WORK_S_MAX)({})

    def gc_orphans(
        self, place: upkeep.SearchPlace, prefix: str = "", *, take: bool
    ) -> upkeep.OrphansReport:
        """Find what nothing refers to; `take` puts it into lost+found."""
        params: upkeep.OrphansParameters = {"place": place, "prefix": prefix, "take": take}
        return self.asking(upkeep.GC_ORPHANS, WORK_S_MAX)(params)

    def gc_lost_found(self, *, clear: bool) -> upkeep.LostFoundReport:
        """Tell what lies in lost+found; `clear` removes it for good."""
        return self.asking(upkeep.GC_LOST_FOUND, WORK_S_MAX)({"clear": clear})

    # --- snapshots of tensors --------------------------------------------------------------------
    def hot_snapshots(self) -> list[dict[str, Any]]:
        """Return the snapshots of all users, the largest first."""
        return self.asking(mount.HOT_SNAPSHOTS)({})

    def hot_drop_snapshot(self, name: str) -> None:
        """Let a snapshot go. ENOENT or ENODATA: there is no such snapshot."""
        self.asking(mount.HOT_DROP_SNAPSHOT)({"name": name})

    def asking(
        self,
        method: Method[P, R],
        timeout_s: float = ANSWER_S_MAX,
        door: str | None = None,
    ) -> Callable[[P], R]:
        """Return what calls a method of the daemon; in two steps, so that types are checked.

        Args:
            timeout_s: How long the daemon may take to answer.
            door: Address of the socket for users; None: the control socket.
        """

        def ask(params: Any) -> R:  # noqa: ANN401 - P, which mypy takes for no dict
            try:
                if door is None:
                    answer = call(self.state_dir, method.name, params, timeout_s=timeout_s)
                else:
                    answer = call_door(
                        door, self.state_dir, method.name, params, timeout_s=timeout_s
                    )
            except ControlUnavailableError as error:
                raise ControlUnavailableError(f"{self.mountpoint}: {error}", error.errno) from None
            try:
                report: R = decode(method.report, answer)
            except InvalidValueError as error:
                message = f"{self.mountpoint}: its daemon is of another version of memfs: {error}"
                raise ControlError(message, ErrorCode.INTERNAL, errno.EPROTO) from None
            return report

        return ask
