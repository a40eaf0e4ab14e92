"""The cipher of a container: what decrypts is what was encrypted at this very place."""

from __future__ import annotations

import os

import pytest

from memfs.encryption.cipher import SALT_BYTES, ContainerCipher, ContainerIdentity
from memfs.errors import CorruptDataError

SECRET, SALT = os.urandom(32), os.urandom(SALT_BYTES)
IDENTITY = ContainerIdentity(blob=7, generation=3, frame_count=5)
FRAME, ENVELOPE = b"a frame of a container", b"the fields of the envelope"


def cipher(identity: ContainerIdentity = IDENTITY, salt: bytes = SALT) -> ContainerCipher:
    return ContainerCipher(SECRET, salt, identity)


def data_of(cipher: ContainerCipher, label: bytes, index: int) -> bytes:
    """Return the associated data alone, whose parts a changed nonce would hide."""
    return cipher._data(label, index)


def test_a_frame_comes_back_at_its_place() -> None:
    encrypted = memoryview(cipher().encrypt_frame(2, FRAME))
    assert cipher().decrypt_frame(2, encrypted) == FRAME


@pytest.mark.parametrize(
    ("index", "identity"),
    [
        (1, IDENTITY),
        (2, IDENTITY._replace(blob=8)),
        (2, IDENTITY._replace(generation=4)),
        (2, IDENTITY._replace(frame_count=4)),
    ],
)
def test_a_frame_of_another_place_does_not_decrypt(index: int, identity: ContainerIdentity) -> None:
    """Swapped frames, another file's, an older content's, and those of a container cut short."""
    encrypted = memoryview(cipher().encrypt_frame(2, FRAME))
    with pytest.raises(CorruptDataError):
        cipher(identity).decrypt_frame(index, encrypted)


def test_the_place_of_a_frame_is_authenticated_besides_its_nonce() -> None:
    found = {data_of(cipher(), label, index) for label in (b"a" * 8, b"b" * 8) for index in (1, 2)}
    assert len(found) == 4


def test_a_frame_of_another_container_of_the_same_content_does_not_decrypt() -> None:
    """Each attempt has a salt of its own, and so a data key of its own."""
    encrypted = memoryview(cipher().encrypt_frame(2, FRAME))
    with pytest.raises(CorruptDataError):
        cipher(salt=os.urandom(SALT_BYTES)).decrypt_frame(2, encrypted)


def test_a_changed_or_cut_frame_does_not_decrypt() -> None:
    encrypted = cipher().encrypt_frame(2, FRAME)
    for position in range(len(encrypted)):
        changed = bytearray(encrypted)
        changed[position] ^= 1
        with pytest.raises(CorruptDataError):
            cipher().decrypt_frame(2, memoryview(changed))
    with pytest.raises(CorruptDataError):
        cipher().decrypt_frame(2, memoryview(encrypted[:-1]))


def test_a_table_is_bound_to_its_envelope_and_is_no_frame() -> None:
    encrypted = memoryview(cipher().encrypt_table(FRAME, ENVELOPE))
    assert cipher().decrypt_table(encrypted, ENVELOPE) == FRAME
    with pytest.raises(CorruptDataError):
        cipher().decrypt_table(encrypted, ENVELOPE + b"!")
    with pytest.raises(CorruptDataError):
        cipher().decrypt_frame(IDENTITY.frame_count, encrypted)


def test_messages_of_one_container_never_share_a_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    nonces: list[bytes] = []

    class Recorder:
        def encrypt(self, nonce: bytes, _data: bytes, _associated: bytes) -> bytes:
            nonces.append(nonce)
            return b""

    recording = cipher()
    monkeypatch.setattr(recording, "_aead", Recorder())
    for index in range(IDENTITY.frame_count):
        recording.encrypt_frame(index, FRAME)
    recording.encrypt_table(FRAME, ENVELOPE)
    assert len(set(nonces)) == IDENTITY.frame_count + 1
