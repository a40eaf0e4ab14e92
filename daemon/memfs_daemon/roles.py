"""Roles: which work of the background a node does, and which methods it answers, by its role.

A node that reads changes nothing that nodes share, and nothing in the object store. So it does only
what reading needs: files are fetched, kept in RAM and on devices, and dropped where their objects
are; what is done to the mount as a whole is left to the node that writes.

Invariant: all work and all methods are decided here; a new one that is not is refused by a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import ReadOnlyNodeError
from memfs.stores.asking import AskingStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from memfs.control.server import Handler
    from memfs.filesystem.recency import Recency
    from memfs.metadata.shared.log import Log
    from memfs.stores.store import RemoteStore

ON_READERS: Mapping[str, bool] = {
    # Reading needs it.
    "mover": True,
    "prefetch": True,
    "hot tier": True,
    "questions": True,
    "index of xattrs": True,
    "indexes of fields": True,
    "users": True,
    # It tells of this node.
    "history": True,
    "stalls": True,
    "traces": True,
    "store health": True,
    # The process itself.
    "heap": True,
    "precedence": True,
    # Others ask the node that writes.
    "peers": False,
    # It changes what nodes share, or the store.
    "scrub": False,
    "removal of snapshots": False,
    "automatic snapshots": False,
    "open files of snapshots": False,
    "publishing": False,
    "adoption": False,
    "generations": False,
    "exports": False,
    "lost objects": False,
    # Raw files for what is made here.
    "raw pool": False,
}
"""Whether a node that reads does it, by the names of `Work`."""

METHODS_ON_READERS: Mapping[str, bool] = {
    "ping": True,
    "status": True,
    "pending": True,
    "frozen": True,
    "metrics": True,
    "history": True,
    "heat": True,
    "events": True,
    "activity": True,
    "moves": True,
    "stores": True,
    "remount": True,
    "hot": True,
    "hot_snapshots": True,
    "hot_drop_snapshot": True,
    "trace_start": True,
    "trace_stop": True,
    "trace_status": True,
    # How this node uses its own disk, RAM and devices.
    "policy_values": True,
    "policy_set": True,
    "policy_reset": True,
    "prefetch": True,
    "prefetch_progress": True,
    "prefetch_cancel": True,
    "done": True,
    "hint": True,
    "pool_list": True,
    # Questions.
    "tree": True,
    "query": True,
    "query_as_user": True,
    "query_index": True,
    "index_add": True,
    "index_drop": True,
    "publish_tables": True,
    "get_small_as_user": True,
    "snapshot.diff": True,
    "snapshot.versions": True,
    "snapshot.list": True,
    "snapshot.sizes": True,
    "snapshot.show": True,
    "snapshot.exports": True,
    "published": True,
    "adopt_sources": True,
    # Bytes that this node had alone when it wrote.
    "gc_lost_found": True,
    # It changes what nodes share, or the store.
    "pool_create": False,
    "pool_remove": False,
    "put_small_as_user": False,
    "clone": False,
    "clone_cancel": False,
    "snapshot.restore": False,
    "snapshot.restore_cancel": False,
    "snapshot.create": False,
    "snapshot.delete": False,
    "snapshot.export": False,
    "rekey": False,
    "kept_blobs": False,
    "rekey_kept": False,
    "relocate": False,
    "compress": False,
    "barrier": False,
    "publish": False,
    "publish_part": False,
    "publish_removed": False,
    "scrub": False,
    "scrub_progress": False,
    "scrub_stop": False,
    "gc_garbage": False,
    "gc_batches": False,
    "gc_accounts": False,
    "gc_orphans": False,
    "adopt": False,
    "adopt_refresh": False,
    "adopt_cancel": False,
    "adopt_own": False,
    "adopt_release": False,
    "adopt_forget": False,
}
"""Whether a node that reads answers it, by the names of `control.methods`."""

FRESH = frozenset(
    {
        "tree",
        "query",
        "query_as_user",
        "snapshot.diff",
        "snapshot.versions",
        "snapshot.list",
        "snapshot.show",
        "prefetch",
    }
)
"""Methods that a reader answers with all that was committed before they were called."""


def readable(store: RemoteStore, log: Log) -> RemoteStore:
    """Return a store that is read here, and changed by the node which writes.

    Local copies may go for what it has.
    """

    async def refuse() -> None:
        raise ReadOnlyNodeError(
            f"{store.url}: this node reads; node {log.report().writer} changes objects"
        )

    async def permit() -> None:
        """Copies may go."""

    return AskingStore(store, refuse, permit)


class Work(NamedTuple):
    """Something that is done in the background until it is cancelled."""

    name: str
    run: Callable[[], Awaitable[None]]


class Role:
    """That of a node which writes, or is alone: it does everything."""

    def methods(self, found: Iterable[tuple[str, Handler]]) -> dict[str, Handler]:
        """Return what answers methods, by name."""
        return dict(found)

    def background(self, work: Iterable[Work]) -> tuple[Callable[[], Awaitable[None]], ...]:
        """Return what runs beside the requests."""
        return tuple(each.run for each in work)


class ReaderRole(Role):
    """That of a node which reads.

    Args:
        log: Brings what the other node has changed.
        recency: Waits for it.
    """

    def __init__(self, log: Log, recency: Recency) -> None:
        self._log = log
        self._recency = recency

    def methods(self, found: Iterable[tuple[str, Handler]]) -> dict[str, Handler]:
        """See `Role`; what a reader does not do is answered with the reason."""
        chosen: dict[str, Handler] = {}
        for name, method in found:
            if not METHODS_ON_READERS[name]:
                chosen[name] = self._refusing(name)
            else:
                chosen[name] = self._fresh(method) if name in FRESH else method
        return chosen

    def background(self, work: Iterable[Work]) -> tuple[Callable[[], Awaitable[None]], ...]:
        """See `Role`; first of all the other node is followed."""
        own = (each.run for each in work if ON_READERS[each.name])
        return (self._log.run, self._recency.run, *own)

    def _refusing(self, name: str) -> Handler:
        async def refuse(*_arguments: object, **_options: object) -> object:
            raise ReadOnlyNodeError(f"{name}: {self._recency.refusal()}")

        return refuse

    def _fresh(self, method: Handler) -> Handler:
        async def answer(*arguments: object, **options: object) -> object:
            await self._recency.see()
            return await method(*arguments, **options)

        return answer
