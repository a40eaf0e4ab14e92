"""Plain objects, whose bytes are the file's, read as containers are.

A container carries checksums of its frames; a plain object has only the digest that the engine
knows. So a whole read is checked against that, and takes the checksums of its frames on the way;
from then on ranges are read, and each is checked.

Invariant: no byte of a range is handed out before the whole object was read once with its digest.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Self

from memfs.errors import OtherContentError
from memfs.stores.container import SeekTable, checksum, choose_frame_bytes
from memfs.stores.reading import FrameReader
from memfs.types import CodecSpec

if TYPE_CHECKING:
    from memfs.codecs.codec import Codec
    from memfs.stores.disk import ByteProgress
    from memfs.stores.envelope import Content, Unlock
    from memfs.stores.parts import PartSlots
    from memfs.stores.reading import RangeReader
    from memfs.stores.zeros import ZeroRuns

FRAME_BYTES = 1 << 20
"""Bytes with one checksum, as of a container by default."""


class PlainTable(SeekTable):
    """The table of a plain object whose checksums are not known yet; takes them as it is read."""

    @classmethod
    def of(cls, content: Content) -> Self:
        """Return the table of a content that lies plain."""
        frame_bytes = choose_frame_bytes(content.size, FRAME_BYTES)
        count = -(-content.size // frame_bytes)
        sizes = array("I", [frame_bytes]) * count
        if count:
            sizes[-1] = content.size - (count - 1) * frame_bytes
        unknown = array("I", bytes(4 * count)), array("I", bytes(4 * count))
        return cls.build(
            CodecSpec("none", None), frame_bytes, content.size, content.digest, (sizes, *unknown)
        )

    def decode_frame(self, codec: Codec, index: int, stored: memoryview, name: str) -> bytes:
        """Return a frame's bytes, and take their checksum."""
        content = codec.decode(stored, self.frame_size(index))
        known = checksum(content)
        self.stored_checksums[index] = self.content_checksums[index] = known
        return content

    def learned(self) -> SeekTable:
        """Return the table once all frames were read and the content has its digest."""
        return SeekTable(
            self.codec,
            self.frame_bytes,
            self.size,
            self.digest,
            self.stored_offsets,
            self.stored_checksums,
            self.content_checksums,
        )


class PlainReader(FrameReader):
    """A plain object behind a range read.

    Args:
        read_range: Fetches bytes.
        stored_bytes: Length of the object.
        name: The object, for messages.
        unlock: Tells what content it must be.
        slots: Those of the store.

    Raises:
        OtherContentError: It is not as long as its content.
    """

    def __init__(
        self,
        read_range: RangeReader,
        stored_bytes: int,
        name: str,
        unlock: Unlock,
        slots: PartSlots | None = None,
    ) -> None:
        content = unlock.content
        assert content is not None, "nothing in a plain object tells what it holds"
        if stored_bytes != content.size:
            raise OtherContentError(
                f"{name}: holds another content, of {stored_bytes} bytes instead of {content.size}"
            )
        super().__init__(read_range, stored_bytes, name, PlainTable.of(content), slots=slots)

    async def learn(self) -> SeekTable:
        """Return a table with checksums; reads the whole object unless that was done before."""
        if isinstance(self.table, PlainTable):
            await self.verify()
        return self.table

    async def read(self, offset: int, size: int) -> bytes:
        """See `FrameReader`; the first call reads the whole object."""
        await self.learn()
        return await super().read(offset, size)

    async def _drain(
        self, target_fd: int | None, on_progress: ByteProgress | None, zeros: ZeroRuns | None
    ) -> None:
        await super()._drain(target_fd, on_progress, zeros)
        if isinstance(self.table, PlainTable):
            self.table = self.table.learned()
