"""What each driver can do: one table for `memfs status`, the documents and the tests.

Invariant: a cell is True, or it says in words what a program meets instead.
"""

from __future__ import annotations

from typing import NamedTuple

Ability = bool | str
"""True: yes. A text: not, or not quite, and what happens instead."""


class Capability(NamedTuple):
    """Something that a program can see, by driver."""

    name: str
    kernel: Ability
    pyfuse3: Ability


CAPABILITIES: tuple[Capability, ...] = (
    Capability(
        "reads, writes and maps go straight to the local file (passthrough)",
        "with CAP_SYS_ADMIN on Linux 6.9 or newer; else the daemon serves them",
        "the daemon serves them through the page cache",
    ),
    Capability(
        "mounting without privileges",
        "needs CAP_SYS_ADMIN",
        True,
    ),
    Capability(
        "fallocate(2) with its modes",
        True,
        "EOPNOTSUPP; posix_fallocate(3) writes zeros",
    ),
    Capability(
        "lseek(2) finds data and holes",
        True,
        "a file is one run of data",
    ),
    Capability(
        "copy_file_range(2) shares blocks",
        True,
        "the kernel copies by reading and writing",
    ),
    Capability(
        "open(2) with O_TMPFILE",
        True,
        "EOPNOTSUPP; programs fall back to a named temporary file",
    ),
    Capability(
        "statx(2) tells the time of birth",
        True,
        "left out of the answer; it is kept, and shown under the kernel driver",
    ),
    Capability(
        "POSIX access control lists (acl(5))",
        True,
        "existing ones are enforced and shown; changing them is EOPNOTSUPP",
    ),
    Capability(
        "setuid and setgid are cleared by the capabilities of who writes",
        True,
        "under direct reading and writing, by those of who opened the file",
    ),
    Capability(
        "touch(1) sets a time that is later than all times that were shown",
        True,
        "the kernel's own time, which can lie up to 4 ms before them",
    ),
    Capability(
        "MAP_SHARED of a file that is read from its compressed or remote form",
        "on Linux 6.6 or newer or without passthrough; else ENODEV until the file is local",
        True,
    ),
)
"""pyfuse3 3.5 fills no `fallocate`, `lseek`, `copy_file_range`, `tmpfile`, `ioctl` or `statx` slot
of libfuse's operations, and gives no way to change what INIT negotiates beyond three switches."""


def limits_of(driver: str) -> tuple[str, ...]:
    """Return what a driver cannot do, one sentence each.

    Args:
        driver: `kernel` or `pyfuse3`.
    """
    limits = []
    for capability in CAPABILITIES:
        ability: Ability = getattr(capability, driver)
        if ability is not True:
            limits.append(f"{capability.name}: {ability}")
    return tuple(limits)


def as_markdown() -> str:
    """Return the table as docs/reference/drivers.md shows it."""
    rows = ["| | kernel | pyfuse3 |", "|---|---|---|"]
    for name, *abilities in CAPABILITIES:
        cells = ["yes" if ability is True else str(ability) for ability in abilities]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
