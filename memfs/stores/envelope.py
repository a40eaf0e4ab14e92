"""The envelope: an encrypted container, and how a container's table is found in either kind.

Invariant: decrypting each part of an encrypted container gives a container, byte for byte; nothing
of that one shows but the stored sizes of its frames, whose key it is, and which blob it holds.

An encrypted container is `encrypted frames | encrypted table | envelope`: each frame and what
follows the frames (`container`) is one message of `encryption.cipher`. The table is encrypted
too, because its digest and checksums would tell which known content it is. The envelope is in
clear, in the table's associated data, and has a checksum, so that damage to it is not taken for a
missing key. All numbers are little-endian.
"""

from __future__ import annotations

import secrets
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

import xxhash

from memfs.errors import CorruptDataError, EncryptionKeyError
from memfs.stores.container import FRAME_COUNT_MAX, SeekTable, parse_tail, tail_bytes_needed
from memfs.types import FormCoding

if TYPE_CHECKING:
    from memfs.encryption.cipher import ContainerCipher
    from memfs.encryption.keys import Key, KeyRing
    from memfs.types import BlobId, Generation

ENVELOPE_VERSION = 1

_AES_256_GCM = 1
_MAGIC = b"memfsenc"
_FIELDS = struct.Struct("<HBxIIxxxxQQ8s32s")
_CHECKSUM = struct.Struct("<Q")
ENVELOPE_BYTES = _FIELDS.size + _CHECKSUM.size + len(_MAGIC)


class Encryption(NamedTuple):
    """How a container that is to be written is encrypted."""

    key: Key
    blob: BlobId
    """The content that it will hold a form of."""
    generation: Generation
    """Of the file that the content is read from."""


class Unlock(NamedTuple):
    """What reading an encrypted container takes."""

    keys: KeyRing
    blob: BlobId
    """The content that it must hold; an object of another one is refused."""
    key_id: str = ""
    """Of the key that it must be encrypted with, as hexadecimal digits; empty: any, or none.

    Where it is known, a container in clear is refused: anybody could have written that.
    """

    @classmethod
    def of(cls, keys: KeyRing, blob: BlobId, coding: str) -> Self:
        """Return what reading a form takes whose coding the engine keeps as this text."""
        return cls(keys, blob, FormCoding.parse(coding).key_id)


class Envelope(NamedTuple):
    """What an encrypted container says of itself in clear."""

    frame_count: int
    table_bytes: int
    """Length of the encrypted table."""
    blob: int
    generation: int
    key_id: bytes
    salt: bytes

    @classmethod
    def begin(cls, encryption: Encryption, frame_count: int) -> Self:
        """Return the envelope of a new container, whose table is not written yet."""
        from memfs.encryption.cipher import SALT_BYTES

        salt = secrets.token_bytes(SALT_BYTES)
        key, blob, generation = encryption
        return cls(frame_count, 0, blob, generation, key.id, salt)

    @property
    def bound(self) -> bytes:
        """The fields, as they go into the table's associated data."""
        return _FIELDS.pack(
            ENVELOPE_VERSION,
            _AES_256_GCM,
            self.frame_count,
            self.table_bytes,
            self.blob,
            self.generation,
            self.key_id,
            self.salt,
        )

    def cipher(self, key: Key) -> ContainerCipher:
        """Return the cipher of this container."""
        # Imported here: its library takes 20 ms, and is an extra.
        from memfs.encryption.cipher import ContainerCipher, Place

        place = Place(self.blob, self.generation, self.frame_count)
        return ContainerCipher(key.secret, self.salt, place)

    def serialise(self) -> bytes:
        """Return what follows the encrypted table."""
        bound = self.bound
        return bound + _CHECKSUM.pack(xxhash.xxh64_intdigest(bound)) + _MAGIC

    def close(self, cipher: ContainerCipher, table: bytes) -> bytes:
        """Return all that follows the encrypted frames.

        Args:
            cipher: Of this container.
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
    bound = tail[start : start + _FIELDS.size]
    (stored_checksum,) = _CHECKSUM.unpack_from(tail, start + _FIELDS.size)
    if xxhash.xxh64_intdigest(bound) != stored_checksum:
        raise CorruptDataError(f"{name}: its envelope fails its checksum")
    version, cipher_number, *fields = _FIELDS.unpack(bound)
    if (version, cipher_number) != (ENVELOPE_VERSION, _AES_256_GCM):
        raise CorruptDataError(
            f"{name}: format {version}.{cipher_number} of encrypted files is unknown; "
            "a newer memfs may read it"
        )
    envelope = Envelope(*fields)
    # Bytes that no field owns are zero; a checksum that was made for others does not help them.
    if envelope.bound != bound or envelope.frame_count > FRAME_COUNT_MAX:
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
    needed = ENVELOPE_BYTES + envelope.table_bytes
    if needed > stored_bytes:
        raise CorruptDataError(f"{name}: its envelope claims {needed} bytes of {stored_bytes}")
    return needed


def parse_table(tail: bytes, stored_bytes: int, name: str, unlock: Unlock | None) -> SeekTable:
    """Read the table of a container of either kind.

    Args:
        tail: Its last bytes, at least `table_bytes_needed`.
        stored_bytes: Length of the container.
        name: The file or object, for the message.
        unlock: What decrypts it; None: nothing does.

    Raises:
        CorruptDataError: The table is damaged, does not fit the container, or is of another blob.
        EncryptionKeyError: The key that decrypts it is not configured.
        CodecMissingError: The codec is not installed here.
    """
    envelope = find_envelope(tail, name)
    if unlock is not None and unlock.key_id:
        _check_key_id(envelope, unlock.key_id, name)
    if envelope is None:
        return parse_tail(tail, stored_bytes, name)
    if unlock is None:
        raise EncryptionKeyError(
            f"{name}: encrypted with key {envelope.key_id.hex()}; name it in encryption.keys"
        )
    cipher = envelope.cipher(unlock.keys.find(envelope.key_id, name))
    if envelope.blob != unlock.blob:
        raise CorruptDataError(f"{name}: holds blob {envelope.blob} instead of {unlock.blob}")
    end = len(tail) - ENVELOPE_BYTES
    encrypted = memoryview(tail)[end - envelope.table_bytes : end]
    try:
        plain = cipher.decrypt_table(encrypted, envelope.bound)
    except CorruptDataError as error:
        raise CorruptDataError(f"{name}: its table {error}") from None
    frames_end = stored_bytes - ENVELOPE_BYTES - envelope.table_bytes
    plain_bytes = frames_end - cipher.overhead_bytes * envelope.frame_count + len(plain)
    tail_bytes_needed(plain, plain_bytes, name)
    table = parse_tail(plain, plain_bytes, name)
    if table.frame_count != envelope.frame_count:
        raise CorruptDataError(
            f"{name}: has {table.frame_count} frames, its envelope another count"
        )
    return table.encrypted(cipher, envelope.key_id)


def _check_key_id(envelope: Envelope | None, key_id: str, name: str) -> None:
    if envelope is None:
        raise CorruptDataError(f"{name}: is in clear, and was encrypted with key {key_id}")
    if envelope.key_id.hex() != key_id:
        raise CorruptDataError(
            f"{name}: is encrypted with key {envelope.key_id.hex()}, and was with key {key_id}"
        )
