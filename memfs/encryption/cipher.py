"""The cipher of one container: AES-256-GCM, frame by frame.

Invariant: under one data key no nonce is used twice, and what decrypts is what was encrypted at
this place of this container of this content, or it does not decrypt.

**Data key.** Every container has its own: HKDF-SHA256 (RFC 5869) of the configured key and a salt
of 32 random bytes that is kept beside it. Attempts of one file, too, are containers of their own.
Two salts meet after some 2**128 containers, so two containers never share a data key. Deriving
and not wrapping: nothing is ever encrypted under the configured key itself, so that its use is
bounded by no count of invocations, and no wrapped key need be stored.

**Nonce.** 96 bits: the number of the message in its container, 0 to `frame_count` - 1 for frames
and `frame_count` for the table, big-endian. This is the deterministic construction of NIST SP
800-38D section 8.2.1, whose fixed field is empty, because the key serves one container on one
machine. Each is encrypted once: a container is written in one pass, and one that fails is begun
anew with a new salt. Limits there: 2**32 messages a key (here at most 2**20 + 1), and 2**36 - 32
bytes a message (here at most some 2**30).

**Associated data.** Format, blob, generation, count of frames, place of the message, and the id of
the state directory, so that a frame decrypts only where it was put: not at another place, nor in
another file, nor for another generation, nor in a container that was cut short, nor in another
state directory with the same key. The table's also has the whole of the envelope. The id of the
state directory goes into the derivation of the data key as well; older containers have no such id.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from memfs.errors import CorruptDataError

SALT_BYTES = 32
TAG_BYTES = 16
"""What encryption adds to a message; the full tag (NIST SP 800-38D section 5.2.1.2)."""

_DATA_KEY_LABEL = b"memfs container data key 1"
_DATA_KEY_LABEL_OF_STATES = b"memfs container data key 2"
_FRAME_DATA = struct.Struct("<8sQQII")
_FRAME_LABEL = b"memfsfrm"
_TABLE_LABEL = b"memfstab"


class ContainerIdentity(NamedTuple):
    """What a container holds; goes into the associated data of each of its messages."""

    blob: int
    generation: int
    frame_count: int
    state_id: bytes = b""
    """That of the state directory; empty: the container is older than such ids."""


class ContainerCipher:
    """Encrypts or decrypts the messages of one container; safe for all threads.

    Args:
        secret: The configured key; 32 bytes.
        salt: That of the container; `SALT_BYTES`.
        identity: That of the container.
    """

    def __init__(self, secret: bytes, salt: bytes, identity: ContainerIdentity) -> None:
        label = _DATA_KEY_LABEL_OF_STATES if identity.state_id else _DATA_KEY_LABEL
        purpose = label + identity.state_id
        derivation = HKDF(algorithm=SHA256(), length=32, salt=salt, info=purpose)
        self._aead = AESGCM(derivation.derive(secret))
        self._identity = identity

    @property
    def overhead_bytes(self) -> int:
        """What encryption adds to each message."""
        return TAG_BYTES

    def encrypt_frame(self, index: int, frame: bytes | memoryview) -> bytes:
        """Return a frame encrypted, `TAG_BYTES` longer; each index once in a container's life."""
        return self._aead.encrypt(_nonce(index), frame, self._data(_FRAME_LABEL, index))

    def decrypt_frame(self, index: int, encrypted: memoryview) -> bytes:
        """Return the frame; `CorruptDataError` if it is not the one that was encrypted here."""
        return self._decrypt(encrypted, index, self._data(_FRAME_LABEL, index))

    def encrypt_table(self, table: bytes, envelope: bytes) -> bytes:
        """Return the encrypted table, bound to the bytes of its envelope."""
        index = self._identity.frame_count
        return self._aead.encrypt(_nonce(index), table, self._data(_TABLE_LABEL, index) + envelope)

    def decrypt_table(self, encrypted: memoryview, envelope: bytes) -> bytes:
        """Return the table; `CorruptDataError` if it, or its envelope, was changed."""
        index = self._identity.frame_count
        return self._decrypt(encrypted, index, self._data(_TABLE_LABEL, index) + envelope)

    def _decrypt(self, encrypted: memoryview, index: int, data: bytes) -> bytes:
        try:
            return self._aead.decrypt(_nonce(index), encrypted, data)
        except InvalidTag:
            raise CorruptDataError(
                "does not decrypt: damaged, tampered with, or of another place"
            ) from None

    def _data(self, label: bytes, index: int) -> bytes:
        identity = self._identity
        numbers = (identity.blob, identity.generation, identity.frame_count, index)
        return _FRAME_DATA.pack(label, *numbers) + identity.state_id


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")
