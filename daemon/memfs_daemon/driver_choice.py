"""The choice of the driver that serves a mount, and the one that was chosen.

Invariant: a driver that is asked for by name is never replaced by another one; one that is not the
fastest says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.control.report import DriverReport
from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs_daemon.kernel.probe import probe as probe_kernel
from memfs_daemon.pyfuse3.probe import probe as probe_pyfuse3

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.config import MountConfig
    from memfs.content.kernel_cache import KernelCache
    from memfs.filesystem.operations import Operations
    from memfs.metrics.latency import Latencies
    from memfs_daemon.driver import Driver
    from memfs_daemon.kernel.backing import BackingRegistry
    from memfs_daemon.options import MountOptions


class DriverChoice(NamedTuple):
    """Which driver serves the mount."""

    name: str
    """`kernel` or `pyfuse3`."""
    refusal: str | None
    """Why it is not the faster one; None if it is, or if it was asked for."""


def choose_driver(config: MountConfig) -> DriverChoice:
    """Return the driver that is asked for, or the fastest one that can run here.

    Raises:
        UsageError: It cannot run, or no driver can.
    """
    if config.driver != "pyfuse3":
        refusal = probe_kernel()
        if refusal is None:
            return DriverChoice("kernel", None)
        if config.driver == "kernel":
            raise UsageError(f"the kernel driver cannot run: {refusal}", ExitCode.CANNOT_MOUNT)
        if (second := probe_pyfuse3()) is not None:
            also = f"; nor can the pyfuse3 driver: {second}" if second != refusal else ""
            raise UsageError(f"cannot mount: {refusal}{also}", ExitCode.CANNOT_MOUNT)
        return DriverChoice("pyfuse3", f"the kernel driver cannot run: {refusal}")
    if (refusal := probe_pyfuse3()) is not None:
        raise UsageError(f"the pyfuse3 driver cannot run: {refusal}", ExitCode.CANNOT_MOUNT)
    return DriverChoice("pyfuse3", None)


def build_driver(
    operations: Operations,
    registry: BackingRegistry | None,
    mountpoint: Path,
    config: MountConfig,
    state_dir: Path,
    options: MountOptions,
    choice: DriverChoice,
    kernel_cache: KernelCache,
    latencies: Latencies,
) -> tuple[Driver, Callable[[], DriverReport]]:
    """Return the driver, and what tells of it in the status."""
    source = str(state_dir)
    # Imported here: each mount has one of the two, and the library of one is an extra.
    if registry is not None:
        from memfs_daemon.kernel import mounting
        from memfs_daemon.kernel.driver import KernelDriver

        depth = mounting.stack_depth_for(state_dir)
        kernel = KernelDriver(
            operations,
            registry,
            mountpoint,
            config,
            source,
            options=options.words,
            passthrough_stack_depth=depth,
            kernel_cache=kernel_cache,
            latencies=latencies,
        )

        def describe_kernel() -> DriverReport:
            refusals = (registry.reason,) if registry.reason else ()
            return DriverReport(kernel.name, registry.available, refusals, tuple(kernel.limits))

        return kernel, describe_kernel
    from memfs_daemon.pyfuse3.driver import Pyfuse3Driver

    portable = Pyfuse3Driver(
        operations,
        mountpoint,
        config,
        source,
        options=options.words,
        kernel_cache=kernel_cache,
        latencies=latencies,
    )
    refusal = choice.refusal or "the pyfuse3 driver was asked for"

    def describe_portable() -> DriverReport:
        return DriverReport(portable.name, False, (refusal,), tuple(portable.limits))

    return portable, describe_portable
