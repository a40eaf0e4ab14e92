"""INIT: what is agreed on with which kernel."""

from __future__ import annotations

import struct

import pytest

from memfs.config import MountConfig
from memfs.errors import UsageError
from memfs_daemon.kernel import protocol
from memfs_daemon.kernel.negotiation import (
    KernelOffer,
    Negotiated,
    negotiate,
    pack_reply,
    parse_offer,
)
from memfs_daemon.kernel.protocol import InitFlag

EVERYTHING = InitFlag((1 << 43) - 1)


def offer_bytes(minor: int, flags: int, major: int = 7) -> memoryview:
    body = struct.pack("<IIIII44x", major, minor, 131072, flags & 0xFFFFFFFF, flags >> 32)
    return memoryview(body if minor >= 36 else body[:16])


def agree(
    flags: int = EVERYTHING,
    minor: int = 45,
    *,
    config: MountConfig | None = None,
    pages_limit: int = 256,
    stack_depth: int = 1,
    may_pass_through: bool = True,
) -> Negotiated:
    return negotiate(
        parse_offer(offer_bytes(minor, flags)),
        config or MountConfig(),
        pages_limit=pages_limit,
        stack_depth=stack_depth,
        may_pass_through=may_pass_through,
    )


def test_an_offer_is_read_with_its_upper_flags() -> None:
    flags = InitFlag.INIT_EXT | InitFlag.PASSTHROUGH
    assert parse_offer(offer_bytes(45, flags)) == KernelOffer(7, 45, 131072, flags)


def test_an_old_offer_has_no_upper_flags() -> None:
    """Before 7.36 the structure ends after flags; what follows would be garbage."""
    assert parse_offer(offer_bytes(31, InitFlag.ASYNC_READ)).flags == InitFlag.ASYNC_READ


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (6, 99), (8, 0)])
def test_a_foreign_protocol_is_refused_with_its_remedy(major: int, minor: int) -> None:
    with pytest.raises(UsageError, match=r"pyfuse3 or a newer kernel"):
        parse_offer(offer_bytes(minor, 0, major))


def test_only_offered_flags_are_agreed_on() -> None:
    assert agree(InitFlag.ASYNC_READ | InitFlag.PARALLEL_DIROPS, 31).flags == (
        InitFlag.ASYNC_READ | InitFlag.PARALLEL_DIROPS
    )


def test_what_excludes_passthrough_or_brings_locks_here_is_never_agreed_on() -> None:
    unwanted = InitFlag.WRITEBACK_CACHE | InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS
    assert not agree().flags & unwanted


def test_passthrough_is_agreed_on_with_the_depth_of_the_state_directory() -> None:
    assert (agree(stack_depth=2).passthrough, agree(stack_depth=2).stack_depth) == (True, 2)


@pytest.mark.parametrize(
    ("negotiated", "reason"),
    [
        (agree(config=MountConfig(passthrough=False)), "mount.passthrough"),
        (agree(EVERYTHING & ~InitFlag.PASSTHROUGH), "Linux 6.9"),
        (agree(may_pass_through=False), "CAP_SYS_ADMIN"),
    ],
)
def test_a_refusal_of_passthrough_has_its_reason(negotiated: Negotiated, reason: str) -> None:
    assert reason in (negotiated.passthrough_refusal or "")
    assert InitFlag.PASSTHROUGH not in negotiated.flags
    assert negotiated.stack_depth == 0


@pytest.mark.parametrize(
    ("request_bytes", "pages_limit", "expected"),
    [(1 << 20, 256, 256), (1 << 22, 256, 256), (1 << 22, 1024, 1024), (100, 256, 1)],
)
def test_requests_are_clipped_to_the_limit_of_the_kernel(
    request_bytes: int, pages_limit: int, expected: int
) -> None:
    negotiated = agree(config=MountConfig(request_bytes_max=request_bytes), pages_limit=pages_limit)
    assert (negotiated.pages_max, negotiated.write_bytes_max) == (expected, expected * 4096)


def test_the_reply_carries_what_was_agreed_on() -> None:
    negotiated = agree()
    fields = protocol.INIT_OUT.unpack(pack_reply(negotiated))
    major, minor, readahead, flags, _, _, write_bytes, granularity, pages, _, flags2, depth, _ = (
        fields
    )
    assert (major, minor, readahead) == (7, 45, 1 << 20)
    assert flags | flags2 << 32 == negotiated.flags
    assert (write_bytes, pages, granularity, depth) == (1 << 20, 256, 1, 1)
