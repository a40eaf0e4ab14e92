"""Re-encryption: a container copied under another key, or in clear, without decompressing it.

Invariant: the frames of the copy are the source's encoded frames, each decrypted and checked before
it is encrypted again; the copy has a data key of its own.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from memfs.errors import CorruptDataError
from memfs.stores.disk import disk_errors, write_all
from memfs.stores.envelope import Encryption, Envelope

if TYPE_CHECKING:
    from memfs.stores.container import SeekTable


class Reencryption:
    """Takes the stored frames of a container in order, and writes the copy.

    Args:
        table: That of the source.
        target_fd: Where the copy is appended; not fsynced.
        encryption: That of the copy; None: it is not encrypted.
        name: The source, for messages.
    """

    def __init__(
        self, table: SeekTable, target_fd: int, encryption: Encryption | None, name: str
    ) -> None:
        self._table = table
        self._target_fd = target_fd
        self._name = name
        self._envelope = self._cipher = None
        if encryption is not None:
            self._envelope = Envelope.begin(encryption, table.frame_count)
            self._cipher = self._envelope.cipher(encryption.key)
        self._sizes = array("I")
        self._written_bytes = 0

    @property
    def done_bytes(self) -> int:
        """Uncompressed bytes that the frames taken so far stand for."""
        return min(len(self._sizes) * self._table.frame_bytes, self._table.size)

    def take(self, index: int, stored: memoryview) -> int:
        """Take the next frame as it is stored in the source; returns the content's bytes done.

        Raises:
            CorruptDataError: Names file and frame.
            NoSpaceError: The target's disk is full.
        """
        assert index == len(self._sizes), "frames come in order"
        try:
            plain = self._table.decrypt_frame(index, stored)
        except CorruptDataError as error:
            raise CorruptDataError(f"{self._name}: frame {index}: {error}") from error
        self._sizes.append(len(plain))
        written = plain if self._cipher is None else self._cipher.encrypt_frame(index, plain)
        self._append(written)
        self._written_bytes += len(written)
        return self.done_bytes

    def finish(self) -> tuple[int, SeekTable]:
        """Write what follows the frames; returns the copy's length and its table."""
        source = self._table
        assert len(self._sizes) == source.frame_count
        plain = type(source).build(
            source.codec,
            source.frame_bytes,
            source.size,
            source.digest,
            (self._sizes, source.stored_checksums, source.content_checksums),
            source.shuffle_bytes,
        )
        trailer, table = plain.serialise(), plain
        if self._envelope is not None and self._cipher is not None:
            trailer = self._envelope.close(self._cipher, trailer)
            table = plain.encrypted(self._cipher, self._envelope.key_id)
        self._append(trailer)
        return self._written_bytes + len(trailer), table

    def _append(self, data: bytes | memoryview) -> None:
        with disk_errors(f"a copy of {self._name}"):
            write_all(self._target_fd, data)
