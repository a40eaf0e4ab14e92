"""Work on many files that a manager asks a mount for: some of them a call of the control socket.

Invariant: no call names more files than `FILES_A_CALL`; what a call has not taken is asked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from memfs.client.mount import Mount

FILES_A_CALL = 256
"""A call is soon over, and others have their turn. Guess."""


class CompressReport(NamedTuple):
    """What compressing came to."""

    files: int
    """That have a compressed form now."""
    bytes_before: int
    bytes_after: int
    failures: dict[str, str]
    """Why files could not be compressed, by key."""


def compress(mount: Mount, files: Mapping[int, str], codec: str) -> CompressReport:
    """Compress files now.

    Args:
        mount: Has them.
        files: Their keys by inode number.
        codec: With its level behind a colon, if it is to have one.

    Raises:
        ControlError: EINVAL: there is no such codec, or it has no such level.
    """
    inos, failures = list(files), dict[str, str]()
    count = before = after = 0
    while inos:
        report = mount.compress(inos[:FILES_A_CALL], codec)
        taken_count = report["taken_count"]
        for ino, (outcome, reason) in report["left"].items():
            failures[files[int(ino)]] = f"{outcome}: {reason}"
        count += taken_count - len(report["left"])
        before += report["before_bytes"]
        after += report["after_bytes"]
        inos = inos[max(1, taken_count) :]
    return CompressReport(count, before, after, failures)


def prefetch(mount: Mount, paths: list[str], tier: Literal["hot", "warm", "cold"]) -> int:
    """Have files brought to a tier; returns how many the mount has taken.

    Args:
        mount: Has them.
        paths: From the top of the mount.
        tier: Where they are wanted.
    """
    taken_count, job = 0, None
    while paths:
        answer = mount.prefetch(paths[:FILES_A_CALL], tier, job)
        job = answer["job"]
        taken_count += answer["taken_count"] - answer["skipped_count"]
        if not answer["taken_count"]:
            break
        paths = paths[answer["taken_count"] :]
    return taken_count
