"""The pyfuse3 driver: one mount, from libfuse's mount to the end of its session.

Invariant: libfuse's session lives exactly from `mount` to the end of `serve`; pyfuse3 has one for
the whole process.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from typing import TYPE_CHECKING

import pyfuse3
import trio

from memfs.content.kernel_cache import KernelCache
from memfs.errors import UsageError
from memfs.linux import mounts
from memfs.waiting import fast_path
from memfs_daemon.capabilities import limits_of
from memfs_daemon.pyfuse3.options import libfuse_options
from memfs_daemon.pyfuse3.probe import may_allow_other
from memfs_daemon.pyfuse3.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memfs.config import MountConfig
    from memfs.filesystem.operations import Operations
    from memfs.metrics.latency import Latencies
    from memfs.types import InodeNo

log = logging.getLogger(__name__)

TASK_COUNT_IDLE = 2
"""Tasks that wait for the next request; more come and go with the load. Guess."""
TASK_COUNT_MAX = 200
"""Requests under way, such as reads that wait for the object store; the next ones queue in the
kernel. Each has a buffer of up to 1 MiB, of which a read touches one page. Guess."""


class Pyfuse3Driver:
    """Serves one mount through pyfuse3; see `memfs_daemon.driver.Driver`.

    Args:
        operations: What the requests mean; made without a `Backing`.
        mountpoint: An existing directory, absolute.
        source: Shown as the device in `/proc/mounts`: the state directory.
        options: Words of mount(8): `ro`, `nosuid`, `nodev`, `noexec`, `noatime`, ...
        kernel_cache: What `operations` wants the kernel to forget.
        latencies: Told how long each request took.

    Raises:
        UsageError: An option that this driver does not know.
    """

    name = "pyfuse3"

    def __init__(
        self,
        operations: Operations,
        mountpoint: Path,
        config: MountConfig,
        source: str,
        *,
        options: Sequence[str] = (),
        kernel_cache: KernelCache | None = None,
        latencies: Latencies | None = None,
    ) -> None:
        self._requests = Requests(operations, latencies)
        self._mountpoint = mountpoint
        self._config = config
        self._allow_other = config.allow_other and may_allow_other()
        self._options = libfuse_options(
            options,
            source,
            allow_other=self._allow_other,
            privileged=os.geteuid() == 0,
        )
        self._kernel_cache = kernel_cache or KernelCache()
        self._mount: mounts.Mount | None = None

    @property
    def limits(self) -> Sequence[str]:
        """What this driver lacks, and whether other users were refused."""
        if self._allow_other == self._config.allow_other:
            return limits_of(self.name)
        return (
            "users other than the mounting one stay out: put user_allow_other into /etc/fuse.conf",
            *limits_of(self.name),
        )

    def mount(self) -> None:
        """See `Driver.mount`.

        Raises:
            UsageError: libfuse or fusermount3 refused; the message carries what it said.
        """
        if self._allow_other != self._config.allow_other:
            log.info("%s: %s", self._mountpoint, self.limits[0])
        with tempfile.TemporaryFile() as complaints:
            stderr_fd = os.dup(2)
            os.dup2(complaints.fileno(), 2)
            try:
                # libfuse and fusermount3 tell the reason of a failure on standard error only.
                pyfuse3.init(self._requests, str(self._mountpoint), self._options)
            except RuntimeError as error:
                complaints.seek(0)
                said = " ".join(complaints.read().decode(errors="replace").split())
                raise UsageError(f"cannot mount at {self._mountpoint}: {said or error}") from error
            finally:
                os.dup2(stderr_fd, 2)
                os.close(stderr_fd)
        self._mount = mounts.find_mount(self._mountpoint)

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Driver.serve`.

        Checkpoint: always. Cancel: the mount is taken away, if it is still ours.
        """
        reply_filter = _UnmountNoise()
        library_log = logging.getLogger("pyfuse3")
        library_log.addFilter(reply_filter)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._announce, task_status)
                # Its tasks are started from here, and are known to serve requests.
                with self._kernel_cache.told_by(_Notices()), fast_path():
                    await pyfuse3.main(TASK_COUNT_IDLE, TASK_COUNT_MAX)
                nursery.cancel_scope.cancel()
        finally:
            # After a lazy unmount another mount may stand at the same place: it is not ours.
            now = mounts.find_mount(self._mountpoint)
            ours = now is not None and self._mount is not None and now.device == self._mount.device
            pyfuse3.close(unmount=ours)
            library_log.removeFilter(reply_filter)

    def unmount(self, *, lazy: bool = False) -> None:
        """Take the mount away, which ends `serve`."""
        mounts.unmount(self._mountpoint, lazy=lazy)

    async def _announce(self, task_status: trio.TaskStatus[None]) -> None:
        await self._requests.initialised.wait()
        if self._mount is not None and not mounts.set_readahead(
            self._mount, self._config.readahead_bytes
        ):
            log.debug("%s: read-ahead left as it is", self._mountpoint)
        log.info("%s: served by pyfuse3 %s", self._mountpoint, pyfuse3.__version__)
        task_status.started()


class _Notices:
    """Implements `memfs.content.kernel_cache.KernelNotices`."""

    can_forget_all = False
    """libfuse before 3.18 and pyfuse3 have no call for it."""

    def forget_attributes(self, ino: InodeNo) -> None:
        pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=True)

    def forget_pages(self, ino: InodeNo) -> None:
        pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=False)

    def forget_name(self, parent: InodeNo, name: bytes) -> None:
        pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name))

    def forget_removed(self, parent: InodeNo, name: bytes, ino: InodeNo) -> None:
        deleted = pyfuse3.InodeT(ino)
        pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name), deleted)

    def forget_all(self) -> None:
        raise OSError(errno.ENOSYS, "pyfuse3 cannot have the kernel forget all names")


class _UnmountNoise(logging.Filter):
    """Keeps quiet about replies that nobody waits for: the mount or the program is gone."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (
            "fuse_reply_* failed with" in message
            and message.endswith((os.strerror(errno.ENOENT), os.strerror(errno.ENODEV)))
        )
