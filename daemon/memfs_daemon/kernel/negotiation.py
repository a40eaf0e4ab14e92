"""INIT: what this mount's kernel and the daemon agree on.

Invariant: a `Negotiated` says all that was agreed; a daemon that takes over the mount's descriptor
later needs it and nothing else, because the kernel does not ask again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import UsageError
from memfs_daemon.kernel import protocol
from memfs_daemon.kernel.protocol import InitFlag

if TYPE_CHECKING:
    from memfs.config import MountConfig

PAGE_BYTES = 4096
_BACKGROUND_COUNT_MAX = 64
"""Read-ahead and other requests that nobody waits for, under way at a time; guess."""
_CONGESTION_COUNT = 48
"""Three quarters of it, as the kernel's own default."""

_WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.EXPORT_SUPPORT
    | InitFlag.BIG_WRITES
    | InitFlag.DONT_MASK
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.POSIX_ACL
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.NO_OPENDIR_SUPPORT
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.SETXATTR_EXT
    | InitFlag.INIT_EXT
    | InitFlag.DIRECT_IO_ALLOW_MMAP
    | InitFlag.HAS_RESEND
)
"""All that is taken where it is offered; PASSTHROUGH is decided apart. Left out on purpose:
WRITEBACK_CACHE excludes passthrough; POSIX_LOCKS and FLOCK_LOCKS would bring each lock here."""


class KernelOffer(NamedTuple):
    """The kernel's INIT."""

    major: int
    minor: int
    readahead_bytes_max: int
    flags: InitFlag


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What holds for the life of the mount."""

    kernel_minor: int
    """The protocol that the kernel speaks: 7.`kernel_minor`."""
    flags: InitFlag
    write_bytes_max: int
    """Largest WRITE."""
    pages_max: int
    """Largest request in pages of 4 KiB."""
    readahead_bytes_max: int
    stack_depth: int
    """`max_stack_depth` of passthrough: 1, or 2 over an overlayfs; 0 without passthrough."""
    passthrough_refusal: str | None
    """Why passthrough is off, in one sentence; None if it is on."""

    @property
    def has_epochs(self) -> bool:
        """True if the kernel can be told to forget all names at once."""
        return self.kernel_minor >= protocol.MINOR_INC_EPOCH

    @property
    def passthrough(self) -> bool:
        """True if opens may be answered with a backing id."""
        return self.passthrough_refusal is None


def parse_offer(body: memoryview) -> KernelOffer:
    """Read the kernel's INIT (`struct fuse_init_in`).

    Args:
        body: The request without its header; 16 bytes, or 64 from protocol 7.36 on.

    Raises:
        UsageError: The kernel is too old.
    """
    major, minor, readahead, flags = protocol.INIT_IN.unpack_from(body)
    if (major, minor) < (protocol.MAJOR, protocol.MINOR_MIN) or major > protocol.MAJOR:
        raise UsageError(
            f"the kernel speaks FUSE {major}.{minor}, the kernel driver needs "
            f"{protocol.MAJOR}.{protocol.MINOR_MIN} (Linux 5.4) or newer; "
            "use --driver pyfuse3 or a newer kernel"
        )
    if flags & InitFlag.INIT_EXT and len(body) >= protocol.INIT_IN.size + 4:
        (flags2,) = protocol.INIT_IN_FLAGS2.unpack_from(body, protocol.INIT_IN.size)
        flags |= flags2 << 32
    return KernelOffer(major, minor, readahead, InitFlag(flags))


def negotiate(
    offer: KernelOffer,
    config: MountConfig,
    *,
    pages_limit: int,
    stack_depth: int,
    may_pass_through: bool,
) -> Negotiated:
    """Decide what to agree on.

    Args:
        offer: The kernel's INIT.
        pages_limit: `fs.fuse.max_pages_limit`, in pages.
        stack_depth: What the state directory needs: 1, or 2 on an overlayfs.
        may_pass_through: True if the process has CAP_SYS_ADMIN.
    """
    refusal = _passthrough_refusal(offer, config, may_pass_through)
    wanted = _WANTED if refusal is not None else _WANTED | InitFlag.PASSTHROUGH
    flags = offer.flags & wanted
    pages = max(1, min(config.request_bytes_max // PAGE_BYTES, pages_limit))
    if InitFlag.MAX_PAGES not in flags:
        pages = min(pages, 32)
    return Negotiated(
        kernel_minor=offer.minor,
        flags=flags,
        write_bytes_max=pages * PAGE_BYTES,
        pages_max=pages,
        readahead_bytes_max=max(config.readahead_bytes, offer.readahead_bytes_max),
        stack_depth=stack_depth if refusal is None else 0,
        passthrough_refusal=refusal,
    )


def _passthrough_refusal(
    offer: KernelOffer, config: MountConfig, may_pass_through: bool
) -> str | None:
    if not config.passthrough:
        return "switched off by mount.passthrough"
    if InitFlag.PASSTHROUGH not in offer.flags:
        return (
            f"the kernel (FUSE {offer.major}.{offer.minor}) does not offer it; "
            "it needs Linux 6.9 built with CONFIG_FUSE_PASSTHROUGH"
        )
    if not may_pass_through:
        return "the daemon lacks CAP_SYS_ADMIN; run it as root"
    return None


def pack_reply(negotiated: Negotiated) -> bytes:
    """Return `struct fuse_init_out`."""
    flags = int(negotiated.flags)
    return protocol.INIT_OUT.pack(
        protocol.MAJOR,
        protocol.MINOR,
        negotiated.readahead_bytes_max,
        flags & 0xFFFFFFFF,
        _BACKGROUND_COUNT_MAX,
        _CONGESTION_COUNT,
        negotiated.write_bytes_max,
        1,
        negotiated.pages_max,
        0,
        flags >> 32,
        negotiated.stack_depth,
        0,
    )
