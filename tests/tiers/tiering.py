"""Files and their tiers as a program sees them: by `user.memfs.*`, and in no other way.

Invariant: nothing here sleeps for a time that is hoped to be enough; whatever the mover does is
waited for by looking, with a deadline that only a defect reaches.
"""

from __future__ import annotations

import json
import os
import random
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.mounting import run_memfs
from tests.waiting import WAIT_S, wait_for

if TYPE_CHECKING:
    from tests.mounting import Mount

FRAME_BYTES = 64 << 10
HYDRATE_BYTES_MAX = 256 << 10

SMALL_FRAMES = """
[cold]
frame = "64KiB"
hydrate_max = "256KiB"

[policy]
interval = "100ms"
retry_min = "100ms"
retry_max = "400ms"
"""
"""A mount whose files need not be large to have many frames, and whose mover is soon back."""


class Residence(NamedTuple):
    """What `user.memfs.residency` tells."""

    forms: list[str]
    ram_bytes: int
    locked: bool
    devices: list[str]
    keys: dict[str, str]
    """Ids of the keys that forms are encrypted with, by form."""


def told(path: Path, name: str) -> str:
    """Return the value of `user.memfs.NAME`."""
    return os.getxattr(path, f"user.memfs.{name}").decode()


def tell(path: Path, name: str, value: str) -> None:
    """Set `user.memfs.NAME`."""
    os.setxattr(path, f"user.memfs.{name}", value.encode())


def pin(path: Path, tier: str) -> None:
    """Send a file, or all below a directory, to a tier."""
    tell(path, "tier", tier)


def residence(path: Path) -> Residence:
    """Return where a file's bytes are."""
    return Residence(**json.loads(told(path, "residency")))


def forms_of(path: Path) -> list[str]:
    """Return the forms that a file has: `raw`, `packed`, `remote`."""
    return residence(path).forms


def why(path: Path) -> dict[str, Any]:
    """Return what `user.memfs.why` tells."""
    answer: dict[str, Any] = json.loads(told(path, "why"))
    return answer


def status(mount: Mount) -> dict[str, Any]:
    """Return what `memfs status --json` prints."""
    answer: dict[str, Any] = json.loads(run_memfs("status", "--json", mount.root))
    return answer


def tier_status(mount: Mount, tier: str) -> dict[str, Any]:
    """Return one tier of `memfs status --json`."""
    [found] = [each for each in status(mount)["tiers"] if each["tier"] == tier]
    answer: dict[str, Any] = found
    return answer


def is_at(path: Path, tier: str) -> bool:
    """Return whether a file is where a pin to the tier brings it.

    A cold file is packed, or was found not to shrink, or is smaller than a block of the disk, or
    is not to be compressed.
    """
    if told(path, "tier") != tier:
        return False
    forms = residence(path).forms
    if tier == "glacier":
        return forms == ["remote"]
    if tier == "warm":
        return "raw" in forms
    if "raw" not in forms:
        return True
    if "packed" in forms:
        return False
    return (
        why(path)["rule"] == "incompressible"
        or path.stat().st_blocks * 512 <= 4096
        or told(path, "codec") == "none"
    )


def wait_until_at(tier: str, *paths: Path, limit_s: float = WAIT_S) -> None:
    """Wait until files are where a pin to the tier brings them."""
    for path in paths:
        wait_for(partial(is_at, path, tier), partial(_describe, path, tier), limit_s)


def _describe(path: Path, tier: str) -> str:
    return f"{path} at {tier}: {told(path, 'tier')}, {residence(path)}, {why(path)}"


def send(tier: str, *paths: Path) -> None:
    """Pin files and wait until they are there."""
    for path in paths:
        pin(path, tier)
    wait_until_at(tier, *paths)


def let_mover_look(witness: Path) -> None:
    """Return after the mover has carried another file through all its work.

    A file that it left alone meanwhile was left alone on purpose.

    Args:
        witness: A path that does not exist; removed again.
    """
    witness.write_bytes(compressible(20_000))
    send("glacier", witness)
    witness.unlink()


def compressible(size: int, seed: int = 1) -> bytes:
    """Return bytes that every codec makes smaller, by half at the most, different by seed."""
    half = random.Random(seed).randbytes((size + 1) // 2)
    # Pairs of random and constant halves of a kilobyte.
    pieces = (half[at : at + 512] + bytes([seed % 256]) * 512 for at in range(0, len(half), 512))
    return b"".join(pieces)[:size]


def incompressible(size: int, seed: int = 1) -> bytes:
    """Return bytes that no codec makes smaller."""
    return random.Random(seed).randbytes(size)


def daemon_read_bytes(mount: Mount) -> int:
    """Return what the daemon read by system calls so far, requests included (proc_pid_io(5))."""
    [pid] = mount.daemon_pids()
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "rchar":
            return int(value)
    raise AssertionError("/proc/PID/io has no rchar")
