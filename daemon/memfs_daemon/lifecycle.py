"""The life of a mount: recover, serve, drain.

Invariant: whatever ends the serving (umount(8), a signal, a defect), the state is drained and
closed before the process ends, within a bounded time.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
from functools import partial
from typing import TYPE_CHECKING

import trio

from memfs.backoff import Backoff
from memfs.control.server import ControlServer
from memfs.defects import as_failure
from memfs.errors import MemfsError, UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.mounts import find_mount
from memfs.metadata.store_record import describe_store, recall_store, record_store
from memfs.placement.resident import load_pools
from memfs_daemon.assembly import GLACIER_NAME
from memfs_daemon.lingering import Lingering
from memfs_daemon.mount_users import (
    describe_copies,
    describe_users,
    list_copies,
    unmount_unused,
)
from memfs_daemon.state_lock import Phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from memfs.metadata.shared.writer import Writer
    from memfs.moves.generation import StateGeneration
    from memfs_daemon.assembly import Assembly
    from memfs_daemon.notify import ServiceManager, Starter
    from memfs_daemon.state_lock import StateLock

log = logging.getLogger(__name__)

DETACHED_S_MAX = 5.0
"""Programs that were in the mount when it was detached may go on so long."""

DRAIN_S_MAX = 40.0
"""Sealing and fsync at the end. What is not done then is done after the next mount; what one system
call is at, a piece of a file or a disk that does not answer, is waited for."""

CLOSE_STORE_S_MAX = 8.0
"""What a store that does not answer then keeps is removed after the next mount."""

RESTART_S_MIN, RESTART_S_MAX = 1.0, 60.0
"""Pause before a part of the background that a defect has stopped begins anew. Guess."""

_SEAL_ROUNDS_MAX = 1000
_MARK_COUNT_MAX = 100_000
"""Files marked as durable at the end; a later mount finds that out for the others."""


async def run(parts: Assembly, lock: StateLock, starter: Starter, manager: ServiceManager) -> None:
    """Serve until the mount is gone, then drain.

    Args:
        lock: That of its state directory; told what those who wait for it are to know.
        starter: Told when the mount serves.
        manager: Told that as well, and of the end.

    Raises:
        UsageError: The system does not allow the mount.
        MemfsError: The state directory cannot be recovered.
        UsageError: It has proved to be an older copy while it was mounted; what programs wrote is
            on stable storage in it.
    """
    async with _sending(parts.writer, parts.engine.sync):
        await _run(parts, lock, starter, manager)
    for generation in parts.generations.values():
        if generation.refusal is not None:
            raise UsageError(generation.refusal, ExitCode.STATE_UNUSABLE)


@contextlib.asynccontextmanager
async def _sending(writer: Writer | None, sync: Callable[[], None]) -> AsyncIterator[None]:
    """For the block, changes are sent to the database of the mount; the last ones at its end.

    Args:
        writer: Sends them; None: there is no such database.
        sync: Makes them durable here, so that the database need not keep them for this node.
    """
    if writer is None:
        yield
        return
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_running, writer.run)
        try:
            yield
        except BaseException as error:
            # A nursery would wrap it.
            failure = error
        with trio.CancelScope(shield=True):
            with contextlib.suppress(MemfsError):
                # The engine tells of it when it is closed.
                await trio.to_thread.run_sync(sync)
            await writer.finish()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _run(parts: Assembly, lock: StateLock, starter: Starter, manager: ServiceManager) -> None:
    await load_pools(parts.engine, parts.access_stats, parts.warm_bytes)
    await parts.live_policy.load()
    if parts.move_parts.writes:
        await _note_store(parts)
        await _begin_generations(parts)
    if parts.exporter is not None:
        await parts.exporter.stored.begin()
    await parts.quotas.load()
    await parts.recovery.begin()
    await parts.filesystem.recover()
    await parts.tracing.begin()
    try:
        _mount(parts)
        mount = find_mount(parts.mountpoint)
        lock.note(Phase.SERVING, None if mount is None else mount.device)
        await _serve_all(parts, starter, manager)
    except BaseExceptionGroup as group:
        # A nursery wraps even a lone exception; those who started us want that one.
        raise _lone(group) from None
    finally:
        lock.note(Phase.CLOSING)
        manager.notify("STOPPING=1", "STATUS=closing")
        with trio.CancelScope(shield=True):
            await _leave(parts)
            await _drain(parts)
            await _close_store(parts)


async def _serve_all(parts: Assembly, starter: Starter, manager: ServiceManager) -> None:
    """Run everything that lives as long as the mount."""
    async with trio.open_nursery() as nursery:
        server = ControlServer(parts.state_dir, parts.methods)
        await nursery.start(server.serve)
        await nursery.start(_end_on_signal, parts, nursery.cancel_scope)
        await nursery.start(_serve, parts, nursery.cancel_scope)
        if parts.linger_s is not None:
            lingering = Lingering(parts.state_dir, parts.linger_s, partial(_unmount_unused, parts))
            await nursery.start(lingering.run)
        for run_on in parts.background:
            nursery.start_soon(keep_running, run_on)
        nursery.start_soon(manager.beat)
        log.info("%s: ready", parts.mountpoint)
        starter.ready()
        manager.notify("READY=1", f"STATUS=serving {parts.mountpoint}")
        # The objects made so far live as long as the process: no collection need look at them.
        gc.collect()
        gc.freeze()


async def keep_running(run_on: Callable[[], Awaitable[None]]) -> None:
    """Run a part of the background until cancelled: a defect in it ends neither it nor the mount.

    What it was at is lost; it begins anew after a pause, which doubles while it does not live long.
    """
    backoff = Backoff(RESTART_S_MIN, RESTART_S_MAX)
    while True:
        begun_s = trio.current_time()
        try:
            await run_on()
        except Exception as error:
            if trio.current_time() - begun_s > RESTART_S_MAX:
                backoff.reset()
            pause_s = backoff.fail()
            what = getattr(run_on, "__qualname__", "the background")
            reason = as_failure(error, what)
            log.error("%s has stopped, and begins anew in %.0f s: %s", what, pause_s, reason)
        else:
            return
        await trio.sleep(pause_s)


async def _begin_generations(parts: Assembly) -> None:
    """Make the marks of this mount, at all stores at once: one that is down delays it once.

    Raises:
        UsageError: A store has seen a later mount of this state directory.
    """
    failures: list[MemfsError] = []

    async def begin(generation: StateGeneration) -> None:
        try:
            await generation.begin(take_stale=parts.take_stale_state)
        except MemfsError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for generation in parts.generations.values():
            nursery.start_soon(begin, generation)
    if failures:
        raise failures[0]
    sources = (generation.source for generation in parts.generations.values())
    parts.move_parts.source = next((source for source in sources if source is not None), None)


async def _note_named_stores(parts: Assembly) -> None:
    """Say which stores have objects of this state and are not configured, or are other ones."""
    for name in await parts.engine.list_stores():
        if name not in parts.stores:
            known = await recall_store(parts.engine, name)
            log.warning(
                "%s: files have objects in store %r (%s), which is not configured: to read one "
                "that is there alone is EIO, until [stores.%s] names it again; nothing there is "
                "removed meanwhile",
                parts.mountpoint,
                name,
                known or "its url is not known",
                name,
            )
    for name, store in parts.stores.items():
        former = await record_store(parts.engine, store.url, name)
        if former is not None:
            log.warning(
                "%s: store %r was %s at the last mount that had it; what is there alone cannot be "
                "read until stores.%s.url names it again or its objects were copied",
                parts.mountpoint,
                name,
                describe_store(former),
                name,
            )


async def _note_store(parts: Assembly) -> None:
    """Keep which stores the objects are in, so that fsck does not take another one for it.

    Raises:
        UsageError: The configuration names no store, and they are in one that it has to name.
    """
    if not parts.glacier.enabled:
        return
    known = await recall_store(parts.engine)
    if known and parts.glacier.url is None:
        raise UsageError(
            f"the objects of {parts.state_dir} are in {known}: name it, as by "
            f"`-o glacier.url={known}`; or name file://{parts.state_dir / GLACIER_NAME} to go on "
            "without them"
        )
    try:
        await _note_named_stores(parts)
        former = await record_store(parts.engine, parts.glacier.url)
    except MemfsError as error:
        log.info("which object store this is could not be recorded: %s", error)
        return
    if former is not None:
        log.warning(
            "%s: the last mount had another object store, %s; what is there alone cannot be read "
            "until glacier.url names it again or its objects were copied",
            parts.mountpoint,
            describe_store(former),
        )


def _mount(parts: Assembly) -> None:
    try:
        parts.driver.mount()
    except OSError as error:
        raise UsageError(
            f"{parts.mountpoint} cannot be mounted: {error.strerror or error}; "
            "it takes root, or the pyfuse3 driver with fusermount3",
            ExitCode.CANNOT_MOUNT,
        ) from error


async def _serve(
    parts: Assembly, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    """Serve the kernel; the end of the mount ends everything else."""
    await parts.driver.serve(task_status=task_status)
    log.info("%s: unmounted", parts.mountpoint)
    scope.cancel()


async def _end_on_signal(
    parts: Assembly, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    """Unmount on SIGTERM or SIGINT; detach what programs keep busy."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("%s: unmounting on %s", parts.mountpoint, signal.Signals(number).name)
            await _unmount_or_detach(parts)
            if copies := await trio.to_thread.run_sync(list_copies, parts.state_dir):
                log.warning("%s: %s; they end now", parts.mountpoint, describe_copies(copies))
            # The end of the mount, if it comes, ends this task.
            await trio.sleep(DETACHED_S_MAX)
            scope.cancel()


async def _unmount_or_detach(parts: Assembly) -> None:
    if not _is_in_tree(parts):
        return
    try:
        await _unmount_unused(parts)
    except OSError as error:
        users = await trio.to_thread.run_sync(describe_users, parts.mountpoint)
        log.warning("%s: %s; used by %s; detached", parts.mountpoint, error.strerror, users)
        await _leave(parts)


async def _unmount_unused(parts: Assembly) -> None:
    await trio.to_thread.run_sync(unmount_unused, parts.driver.unmount, parts.mountpoint)


def _is_in_tree(parts: Assembly) -> bool:
    mount = find_mount(parts.mountpoint)
    return mount is not None and mount.source == str(parts.state_dir)


async def _leave(parts: Assembly) -> None:
    """Take the mount out of the tree if it still is there."""
    if not _is_in_tree(parts):
        return
    try:
        await trio.to_thread.run_sync(partial(parts.driver.unmount, lazy=True))
    except OSError as error:
        log.warning("%s: still in the tree: %s", parts.mountpoint, error.strerror)


async def _drain(parts: Assembly) -> None:
    """Seal what was written, and bring all of it to stable storage."""
    with trio.move_on_after(DRAIN_S_MAX) as scope:
        try:
            await seal_written(parts)
            await parts.tracing.end()
            # Only what was sealed before the sync is on stable storage after it.
            inodes = await parts.engine.list_not_durable(_MARK_COUNT_MAX)
            await parts.filesystem.write_out(inodes)
            await parts.file_syncs.make_durable(inodes)
            await parts.filesystem.sync()
            async with parts.engine.change():
                await parts.recovery.recheck.note_drained()
        except Exception as error:
            reason = as_failure(error, f"the end of {parts.state_dir}")
            log.error("%s: not drained, the next mount goes on: %s", parts.state_dir, reason)
    if scope.cancelled_caught:
        log.info("%s: not drained in time, the next mount goes on", parts.state_dir)


async def _close_store(parts: Assembly) -> None:
    """Let uploads that were given up remove what they left in the store."""
    if (sources := parts.move_parts.sources) is not None:
        with trio.move_on_after(CLOSE_STORE_S_MAX):
            try:
                await sources.aclose()
            except Exception as error:
                log.info("a source was not closed: %s", as_failure(error, "closing a source"))
    if parts.remote is None:
        return
    with trio.move_on_after(CLOSE_STORE_S_MAX):
        try:
            await parts.remote.aclose()
        except Exception as error:
            log.info("the store was not closed: %s", as_failure(error, "closing the store"))


async def seal_written(parts: Assembly) -> None:
    """Reap and seal until nothing is left to do, or nothing changes any more.

    Checkpoint: in each round, so that the time for the end bounds it with a million files, too.
    """
    await parts.filesystem.reap_left_over()
    waiting = -1
    for _ in range(_SEAL_ROUNDS_MAX):
        await trio.lowlevel.checkpoint()
        await parts.filesystem.finish_requests()
        if parts.sealer.candidate_count in (0, waiting):
            return
        waiting = parts.sealer.candidate_count


def _lone(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the only exception in nested groups, or the group itself if there are more."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found
