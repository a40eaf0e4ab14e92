"""`python -m memfs_daemon.hot STATE`: the process that owns the devices of one mount.

Invariant: it ends when its standard input, the connection to the daemon, is closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError
from memfs.hot.devices.opening import open_devices
from memfs.hot.headers import HeaderReader
from memfs.hot.loading import Loader
from memfs.hot.pool import DeviceCapacity, Pool
from memfs.hot.protocol import HotGoneError, error_reply, receive_async, send_async
from memfs.hot.server import HotServer, listen
from memfs.hot.tokens import TokenVerifier
from memfs.linux.processes import name_process
from memfs_daemon.limits import give_up_protection_from_oom, raise_limits
from memfs_daemon.logs import LOG_FORMAT, LogFormatter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.hot.devices.device import Device

log = logging.getLogger("memfs.hot")

DAEMON_FD = 0


def main() -> None:
    """Serve until the daemon is gone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(LOG_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # The daemon decides when it ends: a Ctrl-C at the terminal is meant for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name_process("memfs-hot")
    raise_limits()
    give_up_protection_from_oom()
    trio.run(_serve)


async def _serve() -> None:
    daemon = trio.socket.from_stdlib_socket(socket.socket(fileno=DAEMON_FD))
    try:
        packet = await receive_async(daemon)
    except (HotGoneError, OSError):
        return
    message = packet.message
    devices: list[Device] = []
    try:
        devices = open_devices([str(name) for name in _list(message, "devices")])
        listener = await listen(str(message["address"]))
    except (MemfsError, OSError) as error:
        failure = error if isinstance(error, MemfsError) else MemfsError(str(error))
        await _tell(daemon, error_reply(failure))
        return
    capacities = [_capacity(message, device) for device in devices]
    # The daemon has left nothing in it that its children may not know.
    headers = HeaderReader(os.environ)
    loader = Loader(Pool(capacities), devices, int(str(message["reserve_bytes"])), headers)
    verifier = TokenVerifier(bytes.fromhex(str(message["secret"])))
    described = [
        {
            "uuid": device.uuid,
            "name": device.name,
            "kind": device.kind,
            "capacity_bytes": capacity.size_bytes,
        }
        for device, capacity in zip(devices, capacities, strict=True)
    ]
    await _tell(daemon, {"devices": described})
    log.info("serving %s", ", ".join(device.name for device in devices))
    try:
        await HotServer(loader, verifier, daemon).run(listener)
    finally:
        for device in devices:
            device.close()


async def _tell(daemon: trio.socket.SocketType, message: Mapping[str, object]) -> None:
    """Send the daemon a message; one that has gone meanwhile is noticed when it is listened to."""
    with contextlib.suppress(OSError):
        await send_async(daemon, message)


def _capacity(message: Mapping[str, object], device: Device) -> DeviceCapacity:
    """Return what the tier may take of a device: as configured, and not more than it has."""
    reserve_bytes = int(str(message["reserve_bytes"]))
    size_bytes = min(int(str(message["size_bytes"])), device.memory().total_bytes - reserve_bytes)
    return DeviceCapacity(
        device.uuid,
        max(0, size_bytes),
        float(str(message["high_watermark"])),
        float(str(message["low_watermark"])),
        float(str(message["admission_share"])),
        float(str(message["snapshot_share"])),
    )


def _list(message: Mapping[str, object], name: str) -> list[object]:
    value = message[name]
    assert isinstance(value, list), f"{name}: not a list"
    return value


if __name__ == "__main__":
    main()
