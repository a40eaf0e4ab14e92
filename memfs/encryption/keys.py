"""Keys: read from where the configuration says, and found again by their ids.

Invariant: no key material is ever in a message, a log line or a repr; a key's id tells nothing of
the key, and two keys have two ids.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.encryption.secret_files import SECRET_BYTES_MAX, read_secret_file
from memfs.errors import EncryptionKeyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEY_BYTES = 32
"""Length of a key: AES-256 below, and as much as HKDF-SHA256 can use."""

KEY_ID_BYTES = 8
"""Length of a key id; 64 bits keep some thousand keys apart."""

_ID_LABEL = b"memfs key id"
_FORMAT = "64 hexadecimal digits, or 32 bytes in base64; `memfs key generate FILE` makes one"
_SOURCES = "write file:/path, env:NAME or credential:NAME"


class Key:
    """One secret key.

    Args:
        secret: 32 random bytes.
        source: Where it came from, for messages.
    """

    __slots__ = ("_secret", "id", "source")

    def __init__(self, secret: bytes, source: str) -> None:
        assert len(secret) == KEY_BYTES
        self._secret = secret
        self.source = source
        self.id = hmac.digest(secret, _ID_LABEL, hashlib.sha256)[:KEY_ID_BYTES]

    def __repr__(self) -> str:
        return f"<Key {self.id.hex()} of {self.source}>"

    @property
    def secret(self) -> bytes:
        """The 32 bytes; only for deriving other keys from."""
        return self._secret


class KeyRing:
    """The keys of a mount: the first one encrypts, all of them decrypt.

    Args:
        keys: May be empty: then nothing is encrypted, nor can be decrypted.
    """

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self._by_id = {key.id: key for key in reversed(keys)}
        self.first = keys[0] if keys else None
        """Encrypts what is written; None: there are no keys."""

    @property
    def ids(self) -> list[str]:
        """Ids of all keys as hexadecimal digits, in order."""
        return [key.id.hex() for key in reversed(self._by_id.values())]

    def find(self, key_id: bytes, name: str) -> Key:
        """Return the key of an id.

        Args:
            key_id: As recorded in a container.
            name: The file or object that needs it, for the message.

        Raises:
            EncryptionKeyError: It is not configured.
        """
        key = self._by_id.get(key_id)
        if key is None:
            known = f"; configured: {', '.join(self.ids)}" if self._by_id else ""
            raise EncryptionKeyError(
                f"{name}: encrypted with key {key_id.hex()}, which is not configured{known}; "
                "add it to encryption.keys and mount again"
            )
        return key


NO_KEYS = KeyRing()
"""That of those who encrypt nothing."""


def load_key_ring(sources: Sequence[str], environment: Mapping[str, str]) -> KeyRing:
    """Read keys.

    Args:
        sources: `file:/path`, `env:NAME` or `credential:NAME` (systemd.exec(5), LoadCredential=);
            the first one encrypts.
        environment: That of this process.

    Raises:
        UsageError: A key is not there or not valid, or others may read its file.
    """
    if sources:
        _require_library()
    return KeyRing([_load_key(source, environment) for source in sources])


def generate_key_file(path: Path) -> Key:
    """Write a new random key into a new file of mode 0600, durable, and return it.

    Raises:
        UsageError: The file exists; a key is never replaced, because what it encrypted needs it.
    """
    secret = secrets.token_bytes(KEY_BYTES)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(
            f"{path} exists; a key is never overwritten: choose another name"
        ) from None
    with open(fd, "w", encoding="ascii") as file:
        file.write(secret.hex() + "\n")
        file.flush()
        os.fsync(fd)
    directory_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
    return Key(secret, f"file:{path}")


def _load_key(source: str, environment: Mapping[str, str]) -> Key:
    kind, colon, place = source.partition(":")
    match kind if colon and place else "":
        case "file":
            text = read_secret_file(Path(place), "encryption.keys")
        case "env":
            if place not in environment:
                raise UsageError(f"encryption.keys: {source}: the variable is not set")
            text = environment[place]
        case "credential":
            text = _read_credential(place, source, environment)
        case _:
            # Not shown: it may be the key itself.
            raise UsageError(f"encryption.keys: an entry names no source of a key; {_SOURCES}")
    return Key(_parse_key(text, source), source)


def _read_credential(name: str, source: str, environment: Mapping[str, str]) -> str:
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise UsageError(
            f"encryption.keys: {source}: $CREDENTIALS_DIRECTORY is not set; add "
            f"`LoadCredential={name}:/path` to the systemd unit"
        )
    if "/" in name or name in (".", ".."):
        raise UsageError(f"encryption.keys: {source}: a credential is named without slashes")
    # No look at the mode: systemd lets a unit's user in by an ACL, which shows as group bits.
    try:
        return Path(directory, name).read_bytes()[:SECRET_BYTES_MAX].decode("ascii", "replace")
    except OSError as error:
        raise UsageError(f"encryption.keys: {source}: {error.strerror}") from None


def _parse_key(text: str, source: str) -> bytes:
    compact = text.strip()
    try:
        secret = (
            bytes.fromhex(compact)
            if len(compact) == 2 * KEY_BYTES
            else base64.b64decode(compact, validate=True)
        )
    except (ValueError, binascii.Error):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise UsageError(f"encryption.keys: {source}: holds no key; {_FORMAT}")
    return secret


def _require_library() -> None:
    try:
        import memfs.encryption.cipher  # noqa: F401  for its library
    except ImportError as error:
        raise UsageError(
            f"encryption.keys: {error}; pip install 'memfs-tiers[encryption]'"
        ) from error
