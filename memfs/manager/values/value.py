"""The protocol of a kind of value, and what its reader is given.

Invariant: reading depends on nothing but the bytes of the file and its MIME type.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

from memfs.manager.errors import ValueFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

READ_BYTES_MAX = 1 << 30
"""Limit of one read(2); the kernel takes 2 GiB less one page."""


class Content:
    """The open file of a value; closed by the manager.

    Args:
        fd: For reading.
        name: For messages.
        mime: Its MIME type with parameters; empty: it is not known.
    """

    def __init__(self, fd: int, name: str, mime: Mime) -> None:
        self._fd = fd
        self.name = name
        self.mime = mime
        self.size_bytes = self._size()

    @property
    def fd(self) -> int:
        """The descriptor, for reading."""
        return self._fd

    def _size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from an offset on; fewer only at the end."""
        size = max(0, min(size, self.size_bytes - offset))
        buffer = bytearray(size)
        return bytes(buffer[: self.read_into(offset, memoryview(buffer))])

    def read_into(self, offset: int, target: memoryview) -> int:
        """Fill a buffer of bytes from an offset on; returns how many came before the end."""
        done = 0
        while done < len(target):
            count = os.preadv(self.fd, [target[done : done + READ_BYTES_MAX]], offset + done)
            if not count:
                break
            done += count
        return done

    def map(self) -> mmap.mmap:
        """Return the whole file as memory, read-only and shared by all processes; not empty."""
        return mmap.mmap(self.fd, 0, prot=mmap.PROT_READ)


class HeldContent(Content):
    """A content that was read already; a file only for those who need one. To be closed.

    Args:
        data: All of it.
        name: For messages.
        mime: As of `Content`.
    """

    def __init__(self, data: bytes, name: str, mime: Mime) -> None:
        self._data = data
        super().__init__(-1, name, mime)

    def _size(self) -> int:
        return len(self._data)

    @property
    def fd(self) -> int:
        """A descriptor of the same bytes (memfd_create(2))."""
        if self._fd < 0:
            self._fd = os.memfd_create("memfs-value")
            os.write(self._fd, self._data)
        return self._fd

    def read(self, offset: int, size: int) -> bytes:
        """As of `Content`."""
        return self._data[offset : offset + max(0, size)]

    def read_into(self, offset: int, target: memoryview) -> int:
        """As of `Content`."""
        piece = self._data[offset : offset + len(target)]
        target[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Close the descriptor, if there is one."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Mime(NamedTuple):
    """A MIME type with its parameters (RFC 2045, section 5.1)."""

    type: str
    parameters: Mapping[str, str] = {}

    @classmethod
    def parse(cls, text: str) -> Mime:
        """Return the parts of a text; what is no parameter is left out."""
        kind, *rest = text.split(";")
        pairs = (part.partition("=") for part in rest)
        return cls(
            kind.strip().lower(),
            {name.strip().lower(): value.strip() for name, equals, value in pairs if equals},
        )

    def __str__(self) -> str:
        """Return the text for the attribute."""
        return "; ".join(
            (self.type, *(f"{name}={value}" for name, value in self.parameters.items()))
        )


class Wanted(NamedTuple):
    """What of a value is asked for."""

    start: int | None = None
    """First byte, row or element; None: the beginning."""
    end: int | None = None
    """Behind the last one; None: the end."""
    name: str | None = None
    """One tensor or column."""
    partial: bool = False
    copy: bool = True
    """False: views of shared, read-only memory where the format allows it."""
    device: str | None = None
    """Where tensors of torch are to be; None: the CPU. All else is on the CPU."""
    precision: str | None = None
    """Type of floating-point tensors: `float32`, `float16`, `bfloat16`; None: as stored."""


class ValueFormat(Protocol):
    """A kind of value; also what an entry point of the group `memfs.formats` names."""

    name: str
    """As users choose it: `format=`."""
    types: tuple[str, ...]
    """MIME types that it reads; it writes the first one."""

    def accepts(self, value: Any) -> bool:  # noqa: ANN401 - any value
        """Return whether it stores a value without being asked by name."""
        ...

    def write(self, value: Any, file: BinaryIO) -> Mime:  # noqa: ANN401
        """Write a value.

        Args:
            value: One that it accepts, or that it was named for.
            file: Empty, unbuffered.

        Returns:
            What the attribute is to say.

        Raises:
            ValueFormatError: It cannot be written so.
        """
        ...

    def read(self, content: Content, wanted: Wanted) -> Any:  # noqa: ANN401
        """Return a value, or a part of it.

        Raises:
            ValueFormatError: The file does not hold one.
        """
        ...

    def recognises(self, begin: bytes, name: str) -> bool:
        """Return whether a file without a MIME type is of this kind.

        Args:
            begin: Its first 64 bytes.
            name: That of the file.
        """
        ...


def refuse_name(content: Content, wanted: Wanted, what: str) -> None:
    """See that no part by name is asked for, where a value has no such parts.

    Args:
        content: For its name.
        wanted: What is asked for.
        what: It holds.

    Raises:
        ValueFormatError: One is.
    """
    if wanted.name is not None:
        raise ValueFormatError(
            f"{content.name} holds {what}, which has no parts by name; leave out "
            f"name={wanted.name!r}"
        )


def refuse_device(content: Content, wanted: Wanted, what: str) -> None:
    """See that no device but the CPU is asked for, where a value is never elsewhere.

    Args:
        content: For its name.
        wanted: What is asked for.
        what: It holds.

    Raises:
        ValueFormatError: One is.
    """
    if wanted.device not in (None, "cpu"):
        raise ValueFormatError(
            f"{content.name} holds {what}, and only tensors of torch go to a device; leave out "
            f"device={wanted.device!r}"
        )


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write bytes to an unbuffered file, in as many calls as it takes."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        done += file.write(view[done : done + READ_BYTES_MAX])


def bounds(wanted: Wanted, length: int) -> tuple[int, int]:
    """Return the range that is asked for, as slices have it: 0 <= start <= end <= length."""
    start, end, _ = slice(wanted.start, wanted.end).indices(length)
    return start, max(start, end)
