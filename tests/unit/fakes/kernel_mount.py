"""A mount of the kernel driver in a thread of the test's own process.

The test uses the mount by system calls that let go of the interpreter lock; what does not (page
faults of a mapping that the daemon serves, execve) needs a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import trio

from memfs.config import MountConfig
from memfs.content.kernel_cache import KernelCache
from memfs.linux import mounts
from memfs_daemon.kernel import mounting
from memfs_daemon.kernel.backing import BackingRegistry
from memfs_daemon.kernel.driver import KernelDriver
from tests.unit.fakes.file_system import FakeFilesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

_STOP_S = 30.0
"""Far above what unmounting takes; a hang then ends in a failure, not in a stuck run."""


class KernelMount:
    """A fake file system, mounted; a context manager that always unmounts.

    Args:
        base: An empty directory for raw files and mountpoint.
        config: `[mount]`.
        options: Words of mount(8).
    """

    def __init__(
        self, base: Path, config: MountConfig | None = None, options: Sequence[str] = ()
    ) -> None:
        self.raw = base / "raw"
        self.root = base / "mnt"
        self.raw.mkdir()
        self.root.mkdir()
        self.config = config or MountConfig()
        self.backing = BackingRegistry()
        self.filesystem = FakeFilesystem(
            self.raw, self.backing if self.config.passthrough else None
        )
        self.kernel_cache = KernelCache()
        self.driver = KernelDriver(
            self.filesystem,
            self.backing,
            self.root,
            self.config,
            os.fspath(self.raw),
            options=options,
            kernel_cache=self.kernel_cache,
            passthrough_stack_depth=mounting.stack_depth_for(self.raw),
        )
        self._thread = threading.Thread(target=self._run, name="kernel driver")
        self._serving = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self.failure: BaseException | None = None

    def __enter__(self) -> KernelMount:
        self.driver.mount()
        self._thread.start()
        assert self._serving.wait(_STOP_S)
        if self.failure is not None:
            raise self.failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.call(self.filesystem.gate.set)
        if mounts.find_mount(self.root) is not None:
            try:
                mounts.unmount(self.root)
            except OSError:
                # A descriptor was left open. Detach, and end the connection by closing its end:
                # else this process would wait, when it exits, for an answer of its own.
                mounts.unmount(self.root, lazy=True)
                self.call(self._scope.cancel)
                if error is None:
                    raise
        self._thread.join(_STOP_S)
        assert not self._thread.is_alive(), "the driver goes on after unmounting"
        if self.failure is not None:
            raise self.failure

    def call(self, function: Callable[[], object]) -> None:
        """Run a function in the thread of the driver, between two batches, and wait for it."""
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):  # It was unmounted by the test.
            trio.from_thread.run_sync(function, trio_token=self._token)

    def open_gate(self) -> None:
        """Let the requests go on that wait in the fake."""
        self.call(self.filesystem.gate.set)

    def wait_until_waiting(self) -> None:
        """Return when a request has detached and waits at the gate."""
        trio.from_thread.run(self.filesystem.wait_for_waiting, trio_token=self._token)

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as failure:
            self.failure = failure
        finally:
            self._serving.set()

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.driver.serve)
                self._serving.set()
