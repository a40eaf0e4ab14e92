"""A mount of the pyfuse3 driver in a thread of the test's own process.

The test uses the mount by system calls that let go of the interpreter lock; what does not (page
faults of a mapping, execve) needs a process of its own.
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
from memfs_daemon.pyfuse3.driver import Pyfuse3Driver
from tests.unit.fakes.file_system import FakeFilesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

_STOP_S = 30.0
"""Far above what unmounting takes; a hang then ends in a failure, not in a stuck run."""


class Pyfuse3Mount:
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
        self.filesystem = FakeFilesystem(self.raw)
        self.kernel_cache = KernelCache()
        self.driver = Pyfuse3Driver(
            self.filesystem,
            self.root,
            config or MountConfig(),
            os.fspath(self.raw),
            options=options,
            kernel_cache=self.kernel_cache,
        )
        self._thread = threading.Thread(target=self._run, name="pyfuse3 driver")
        self._serving = threading.Event()
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self.failure: BaseException | None = None

    def __enter__(self) -> Pyfuse3Mount:
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
        with contextlib.suppress(trio.RunFinishedError):  # It was unmounted by the test.
            self.open_gate()
        if mounts.find_mount(self.root) is not None:
            try:
                self.driver.unmount(lazy=error is not None)
            except OSError:
                self.driver.unmount(lazy=True)
                raise
        self.await_end()

    def call(self, function: Callable[[], object]) -> None:
        """Run a function in the thread of the driver, and wait for it."""
        trio.from_thread.run_sync(function, trio_token=self._token)

    def open_gate(self) -> None:
        """Let the requests go on that wait in the fake."""
        trio.from_thread.run_sync(self.filesystem.gate.set, trio_token=self._token)

    def wait_until_waiting(self) -> None:
        """Return when a request waits in the fake."""
        trio.from_thread.run(self.filesystem.wait_for_waiting, trio_token=self._token)

    def cancel(self) -> None:
        """Cancel the driver and wait for its end."""
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self.await_end()

    def await_end(self) -> None:
        """Wait for the driver's end, and raise what ended it."""
        self._thread.join(_STOP_S)
        assert not self._thread.is_alive(), "the driver goes on after unmounting"
        if self.failure is not None:
            raise self.failure

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
