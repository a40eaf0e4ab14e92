"""The kernel driver: one mount, from mount(2) to the end of its connection.

Invariant: who has the descriptor and the `Negotiated` can serve the mount; nothing else is kept.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

import trio

from memfs.content.kernel_cache import KernelCache
from memfs.errors import UsageError
from memfs.linux import mounts
from memfs.linux.privileges import has_cap_sys_admin
from memfs.metrics.latency import Latencies
from memfs_daemon.capabilities import limits_of
from memfs_daemon.kernel import mounting
from memfs_daemon.kernel.channel import Channel, ConnectionClosedError
from memfs_daemon.kernel.handlers.table import build_table
from memfs_daemon.kernel.negotiation import PAGE_BYTES, negotiate, pack_reply, parse_offer
from memfs_daemon.kernel.notices import ChannelNotices
from memfs_daemon.kernel.probe import DEVICE, read_pages_limit
from memfs_daemon.kernel.protocol import HEADER_BYTES, Opcode
from memfs_daemon.kernel.request import Request
from memfs_daemon.kernel.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memfs.config import MountConfig
    from memfs.filesystem.operations import Operations
    from memfs_daemon.kernel.backing import BackingRegistry
    from memfs_daemon.kernel.negotiation import Negotiated

log = logging.getLogger(__name__)


class KernelDriver:
    """Serves one mount.

    Args:
        operations: What the requests mean.
        backing: The registry that `operations` holds; enabled, or refused, by INIT.
        mountpoint: An existing directory, absolute.
        source: Shown as the device in `/proc/mounts`: the state directory.
        options: Words of mount(8): `ro`, `nosuid`, `nodev`, `noexec`, `noatime`, ...
        passthrough_stack_depth: `mounting.stack_depth_for` the state directory.
        kernel_cache: What `operations` wants the kernel to forget.
        latencies: Told how long each request took.

    Attributes:
        negotiated: What INIT agreed on; None before.
    """

    name = "kernel"

    def __init__(
        self,
        operations: Operations,
        backing: BackingRegistry,
        mountpoint: Path,
        config: MountConfig,
        source: str,
        *,
        options: Sequence[str] = (),
        passthrough_stack_depth: int = 1,
        kernel_cache: KernelCache | None = None,
        latencies: Latencies | None = None,
    ) -> None:
        self._operations = operations
        self._backing = backing
        self._mountpoint = mountpoint
        self._config = config
        self._source = source
        self._options = options
        self._flags = mounting.parse_options(options)
        self._stack_depth = passthrough_stack_depth
        self._kernel_cache = kernel_cache or KernelCache()
        self._latencies = latencies or Latencies()
        self._channel: Channel | None = None
        self.negotiated: Negotiated | None = None

    @property
    def limits(self) -> Sequence[str]:
        """What this driver lacks, from `memfs_daemon.capabilities`."""
        return limits_of(self.name)

    def mount(self) -> None:
        """Mount; until `serve` runs, a program that touches the mountpoint waits.

        Raises:
            OSError: As of open(2) of `/dev/fuse` and mount(2).
        """
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            mounting.mount(
                fd,
                self._mountpoint,
                self._source,
                flags=self._flags,
                allow_other=self._config.allow_other,
                read_bytes_max=self._config.request_bytes_max,
                options=self._options,
            )
        except OSError:
            os.close(fd)
            raise
        self._channel = Channel(fd)

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the mount is gone, then close the descriptor; started once INIT is answered.

        Checkpoint: always. Cancel: the mount then answers ENOTCONN, so unmount first.

        Raises:
            UsageError: The kernel's protocol is too old.
        """
        channel = self._channel
        assert channel is not None, "mount() comes first"
        try:
            negotiated = self.negotiated or await self._initialise(channel)
            self._apply(channel, negotiated)
            task_status.started()
            table = build_table(self._operations, negotiated)
            with channel.duplicate() as second:
                notices = ChannelNotices(second, can_forget_all=negotiated.has_epochs)
                with self._kernel_cache.told_by(notices):
                    await Runner(channel, self._operations, table, latencies=self._latencies).run()
        except ConnectionClosedError:
            log.info("%s: unmounted before it was served", self._mountpoint)
        finally:
            self._backing.refuse("the mount is gone")
            self._channel = None
            os.close(channel.fd)

    def unmount(self, *, lazy: bool = False) -> None:
        """Take the mount away, which ends `serve`."""
        mounts.unmount(self._mountpoint, lazy=lazy)

    async def _initialise(self, channel: Channel) -> Negotiated:
        """Answer the kernel's first request."""
        while (data := channel.read_nowait()) is None:
            await trio.lowlevel.wait_readable(channel.fd)
        request = Request(data)
        assert request.opcode == Opcode.INIT, f"opcode {request.opcode} before INIT"
        try:
            offer = parse_offer(memoryview(data)[HEADER_BYTES:])
        except UsageError:
            channel.write(request.unique, errno.EPROTO, b"")
            raise
        negotiated = negotiate(
            offer,
            self._config,
            pages_limit=read_pages_limit(),
            stack_depth=self._stack_depth,
            may_pass_through=has_cap_sys_admin(),
        )
        channel.write(request.unique, 0, pack_reply(negotiated))
        self.negotiated = negotiated
        log.info(
            "%s: FUSE 7.%d, requests of %d KiB, passthrough %s",
            self._mountpoint,
            negotiated.kernel_minor,
            negotiated.pages_max * PAGE_BYTES >> 10,
            negotiated.passthrough_refusal or "on",
        )
        return negotiated

    def _apply(self, channel: Channel, negotiated: Negotiated) -> None:
        """Set up what INIT agreed on, on this side."""
        channel.expect_writes(negotiated.write_bytes_max)
        if negotiated.passthrough_refusal is None:
            self._backing.enable(channel.fd)
        else:
            self._backing.refuse(negotiated.passthrough_refusal)
        mount = mounts.find_mount(self._mountpoint)
        if mount is None or not mounts.set_readahead(mount, self._config.readahead_bytes):
            log.debug("%s: read-ahead left as it is", self._mountpoint)
