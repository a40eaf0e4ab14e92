"""The envelope: an encrypted container, and how a container's table is found in either kind.

Invariant: decrypting each part of an encrypted container gives a container, byte for byte; nothing
of that one shows but the stored sizes of its frames, whose key it is, and which blob it holds. No
table comes out that is not of the content that was asked for: `parse_table` compares them.

An encrypted container is `encrypted frames | encrypted table | envelope`: each frame and what
follows the frames (`container`) is one message of `encryption.cipher`. The table is encrypted
too, because its digest and checksums would tell which known content it is. The envelope is in
clear, in the table's associated data, and has a checksum, so that damage to it is not taken for a
missing key. It begins with the id of the state directory (`ENVELOPE_VERSION`), which is in clear so
that the containers can still be read where the directory is lost. All numbers are little-endian.
"""

from __future__ import annotations

import secrets
import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import xxhash

from memfs.errors import CorruptDataError, EncryptionKeyError, OtherContentError
from memfs.stores.container import FRAME_COUNT_MAX, SeekTable, parse_tail, tail_bytes_needed
from memfs.types import STATE_ID_BYTES

if TYPE_CHECKING:
    from memfs.encryption.cipher import ContainerCipher
    from memfs.encryption.keys import Key, KeyRing
    from memfs.types import BlobId, FormCoding, Generation

ENVELOPE_VERSION = 2
ENVELOPE_VERSION_STATELESS = 1
"""That of containers that name no state directory; their digest alone binds them to their
content."""

_AES_256_GCM = 1
_MAGIC = b"memfsenc"
_FIELDS = struct.Struct("<HBxIIIQQ8s32s")
_CHECKSUM = struct.Struct("<Q")
ENVELOPE_BYTES = _FIELDS.size + _CHECKSUM.size + len(_MAGIC)
"""Length of an envelope without the id of the state directory before it."""


class Encryption(NamedTuple):
    """How a container that is to be written is encrypted."""

    key: Key
    blob: BlobId
    """The content that it will hold a form of."""
    generation: Generation
    """That of the file that the content is read from."""
    state_id: bytes = b""
    """That of the state directory; empty: the container can be read in any."""


class Content(Protocol):
    """What a container must hold, as the engine knows it (`metadata.records.Blob`)."""

    @property
    def blob(self) -> BlobId:
        """Its number."""

    @property
    def size(self) -> int:
        """Uncompressed bytes."""

    @property
    def digest(self) -> bytes:
        """BLAKE3-256 of the uncompressed bytes; 32 bytes."""


class Unlock(NamedTuple):
    """What reading a container takes, and what it must be."""

    keys: KeyRing
    blob: BlobId
    """The content that it must hold; an encrypted container of another one is refused."""
    key_id: str = ""
    """Id of the key that must encrypt it, in hexadecimal digits; empty: any key, or clear.

    Where it is known, a container in clear is refused: anybody could have written that.
    """
    content: Content | None = None
    """What it must hold by size and digest; None: whatever it says that it holds."""
    state_id: bytes = b""
    """That of the state directory that wrote it; empty: any."""
    table_id: str = ""
    """`SeekTable.fingerprint` of the container in clear; empty: any."""

    @classmethod
    def of(cls, keys: KeyRing, blob: Content, coding: FormCoding, state_id: bytes) -> Self:
        """Return what reading a form of a blob takes.

        Args:
            keys: Those of encrypted forms.
            blob: Whose form it is.
            coding: That of the form.
            state_id: That of the state directory (`Engine.state_id`).
        """
        return cls(keys, blob.blob, coding.key_id, blob, state_id, coding.table_id)


class Envelope(NamedTuple):
    """What an encrypted container says of itself in clear."""

    frame_count: int
    table_bytes: int
    """Length of the encrypted table."""
    blob: int
    generation: int
    key_id: bytes
    salt: bytes
    state_id: bytes = b""
    """That of the state directory that wrote it; empty: it does not say."""

    @classmethod
    def begin(cls, encryption: Encryption, frame_count: int) -> Self:
        """Return the envelope of a new container, whose table is not written yet."""
        from memfs.encryption.cipher import SALT_BYTES

        salt = secrets.token_bytes(SALT_BYTES)
        key, blob, generation, state_id = encryption
        return cls(frame_count, 0, blob, generation, key.id, salt, state_id)

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return len(self.state_id) + ENVELOPE_BYTES

    @property
    def bound(self) -> bytes:
        """All but checksum and end, as it goes into the table's associated data."""
        return self.state_id + self.numbers

    @property
    def numbers(self) -> bytes:
        """All fields but the state's id, which the checksum covers."""
        return _FIELDS.pack(
            ENVELOPE_VERSION if self.state_id else ENVELOPE_VERSION_STATELESS,
            _AES_256_GCM,
            self.frame_count,
            self.table_bytes,
            _mark(self.state_id),
            self.blob,
            self.generation,
            self.key_id,
            self.salt,
        )

    def cipher(self, key: Key) -> ContainerCipher:
        """Return the cipher of this container."""
        # Imported here: its library takes 20 ms, and is an extra.
        from memfs.encryption.cipher import ContainerCipher, ContainerIdentity

        identity = ContainerIdentity(self.blob, self.generation, self.frame_count, self.state_id)
        return ContainerCipher(key.secret, self.salt, identity)

    def serialise(self) -> bytes:
        """Return what follows the encrypted table."""
        # The fields alone: a memfs that knows no state ids then says that this format is newer.
        fields_checksum = _CHECKSUM.pack(xxhash.xxh64_intdigest(self.numbers))
        return self.bound + fields_checksum + _MAGIC

    def close(self, cipher: ContainerCipher, table: bytes) -> bytes:
        """Return all that follows the encrypted frames.

        Args:
            cipher: That of this container.
            table: What `SeekTable.serialise` gave for the frames before encryption.
        """
        from memfs.encryption.cipher import TAG_BYTES

        envelope = self._replace(table_bytes=len(table) + TAG_BYTES)
        return cipher.encrypt_table(table, envelope.bound) + envelope.serialise()


def find_envelope(tail: bytes, name: str) -> Envelope | None:
    """Return the envelope at the end of a container; None if it is not encrypted.

    Raises:
        CorruptDataError: There is one, and it is damaged or of an unknown format.
    """
    if not tail.endswith(_MAGIC):
        return None
    if len(tail) < ENVELOPE_BYTES:
        raise CorruptDataError(f"{name}: {len(tail)} bytes are too few for an encrypted file")
    start = len(tail) - ENVELOPE_BYTES
    fields = tail[start : start + _FIELDS.size]
    (stored_checksum,) = _CHECKSUM.unpack_from(tail, start + _FIELDS.size)
    if xxhash.xxh64_intdigest(fields) != stored_checksum:
        raise CorruptDataError(f"{name}: its envelope fails its checksum")
    version, cipher_number, frames, table, _, blob, generation, key_id, salt = _FIELDS.unpack(
        fields
    )
    state_id_bytes = {ENVELOPE_VERSION_STATELESS: 0, ENVELOPE_VERSION: STATE_ID_BYTES}
    if version not in state_id_bytes or cipher_number != _AES_256_GCM:
        raise CorruptDataError(
            f"{name}: format {version}.{cipher_number} of encrypted files is unknown; "
            "a newer memfs may read it"
        )
    state_id = tail[max(0, start - state_id_bytes[version]) : start]
    envelope = Envelope(frames, table, blob, generation, key_id, salt, state_id)
    # Bytes that no field owns are zero; a checksum that was made for others does not help them.
    # The state's id is compared by its mark, so that damage to it is not taken for another state.
    if envelope.numbers != fields or envelope.frame_count > FRAME_COUNT_MAX:
        raise CorruptDataError(f"{name}: its envelope contradicts itself")
    return envelope


def table_bytes_needed(tail: bytes, stored_bytes: int, name: str) -> int:
    """Return how many bytes from the end of a container of either kind hold all of its table.

    Args:
        tail: Its last bytes; some hundred, or all that there are.
        stored_bytes: Length of the container.
        name: The file or object, for the message.

    Raises:
        CorruptDataError: It does not end as a container does.
    """
    envelope = find_envelope(tail, name)
    if envelope is None:
        return tail_bytes_needed(tail, stored_bytes, name)
    needed = envelope.size_bytes + envelope.table_bytes
    if needed > stored_bytes:
        raise CorruptDataError(f"{name}: its envelope claims {needed} bytes of {stored_bytes}")
    return needed


def parse_table(tail: bytes, stored_bytes: int, name: str, unlock: Unlock | None) -> SeekTable:
    """Read the table of a container of either kind, which is the one place where that is done.

    Args:
        tail: Its last bytes, at least `table_bytes_needed`.
        stored_bytes: Length of the container.
        name: The file or object, for the message.
        unlock: What decrypts it, and what it must be; None: nothing does, and any content is right.

    Raises:
        CorruptDataError: The table is damaged, does not fit the container, or is of another blob,
            of another content or of another state directory.
        EncryptionKeyError: The key that decrypts it is not configured.
        CodecMissingError: The codec is not installed here.
    """
    envelope = find_envelope(tail, name)
    if unlock is not None and unlock.key_id:
        _check_key_id(envelope, unlock.key_id, name)
    if envelope is None:
        table = parse_tail(tail, stored_bytes, name)
    else:
        table = _decrypt_table(envelope, tail, stored_bytes, name, unlock)
    if unlock is not None and unlock.content is not None:
        _check_content(table, unlock.content, name)
    if unlock is not None and unlock.table_id and table.fingerprint != unlock.table_id:
        raise OtherContentError(f"{name}: its frames are not those that were written here")
    return table


def _decrypt_table(
    envelope: Envelope, tail: bytes, stored_bytes: int, name: str, unlock: Unlock | None
) -> SeekTable:
    if unlock is None:
        raise EncryptionKeyError(
            f"{name}: encrypted with key {envelope.key_id.hex()}; name it in encryption.keys"
        )
    cipher = envelope.cipher(unlock.keys.find(envelope.key_id, name))
    if envelope.state_id and unlock.state_id and envelope.state_id != unlock.state_id:
        raise CorruptDataError(
            f"{name}: was written by state directory {envelope.state_id.hex()}, and this is "
            f"{unlock.state_id.hex()}"
        )
    if envelope.blob != unlock.blob:
        raise CorruptDataError(f"{name}: holds blob {envelope.blob} instead of {unlock.blob}")
    end = len(tail) - envelope.size_bytes
    encrypted = memoryview(tail)[end - envelope.table_bytes : end]
    try:
        plain = cipher.decrypt_table(encrypted, envelope.bound)
    except CorruptDataError as error:
        raise CorruptDataError(f"{name}: its table {error}") from None
    frames_end = stored_bytes - envelope.size_bytes - envelope.table_bytes
    plain_bytes = frames_end - cipher.overhead_bytes * envelope.frame_count + len(plain)
    tail_bytes_needed(plain, plain_bytes, name)
    table = parse_tail(plain, plain_bytes, name)
    if table.frame_count != envelope.frame_count:
        raise CorruptDataError(
            f"{name}: has {table.frame_count} frames, its envelope another count"
        )
    return table.encrypted(cipher, envelope.key_id)


def _check_content(table: SeekTable, content: Content, name: str) -> None:
    if table.size != content.size:
        raise OtherContentError(
            f"{name}: holds another content, of {table.size} bytes instead of {content.size}"
        )
    if table.digest != content.digest:
        raise OtherContentError(
            f"{name}: holds another content: it has another digest than its content"
        )


def _mark(state_id: bytes) -> int:
    """Return a checksum of a state's id; 0: no id."""
    return xxhash.xxh64_intdigest(state_id) & 0xFFFFFFFF if state_id else 0


def _check_key_id(envelope: Envelope | None, key_id: str, name: str) -> None:
    if envelope is None:
        raise CorruptDataError(f"{name}: is in clear, and was encrypted with key {key_id}")
    if envelope.key_id.hex() != key_id:
        raise CorruptDataError(
            f"{name}: is encrypted with key {envelope.key_id.hex()}, and was with key {key_id}"
        )
