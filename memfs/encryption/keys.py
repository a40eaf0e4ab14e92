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
from typing import TYPE_CHECKING

from memfs.encryption.secret_files import read_secret
from memfs.errors import EncryptionKeyError, UsageError
from memfs.linux.files import sync_directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from memfs.config import Config

KEY_BYTES = 32
"""Length of a key: AES-256 below, and as much as HKDF-SHA256 can use."""

KEY_ID_BYTES = 8
"""Length of a key id; 64 bits keep some thousand keys apart."""

_ID_LABEL = b"memfs key id"
_FORMAT = "64 hexadecimal digits, or 32 bytes in base64; `memfs key generate FILE` makes one"


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
        of_stores: Those of named stores that have their own, by the name of the store.
    """

    def __init__(
        self, keys: Sequence[Key] = (), of_stores: Mapping[str, Sequence[Key]] | None = None
    ) -> None:
        of_stores = of_stores or {}
        known = [*keys, *(key for owned in of_stores.values() for key in owned)]
        self._by_id = {key.id: key for key in reversed(known)}
        self._first_of = {name: owned[0] for name, owned in of_stores.items() if owned}
        self.first = keys[0] if keys else None
        """Encrypts what is written; None: there are no keys."""

    def first_of(self, store: str) -> Key | None:
        """Return the key that encrypts what goes to a store, by its name; None: nothing does."""
        return self._first_of.get(store, self.first)

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


def load_keys(config: Config, environment: Mapping[str, str]) -> KeyRing:
    """Read the keys of a configuration, those of its stores among them.

    Args:
        config: `encryption.keys` and `stores.NAME.keys`: each `file:/path`, `env:NAME` or
            `credential:NAME` (systemd.exec(5), LoadCredential=); the first one of each encrypts.
        environment: That of this process.

    Raises:
        UsageError: A key is not there or not valid, or others may read its file; or a store is to
            be encrypted, and there is no key.
    """
    of_stores: dict[str, list[Key]] = {}
    for name, store in config.stores.items():
        if store.encrypt and not store.keys and not config.encryption.keys:
            raise UsageError(f"stores.{name}.encrypt: there is no key; set stores.{name}.keys")
        of_stores[name] = _load(store.keys, environment, f"stores.{name}.keys")
    return KeyRing(_load(config.encryption.keys, environment, "encryption.keys"), of_stores)


def _load(sources: Sequence[str], environment: Mapping[str, str], setting: str) -> list[Key]:
    if sources:
        _require_library(setting)
    return [_load_key(source, environment, setting) for source in sources]


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
    sync_directory(path.parent)
    return Key(secret, f"file:{path}")


def _load_key(source: str, environment: Mapping[str, str], setting: str) -> Key:
    text = read_secret(source, setting, environment)
    return Key(_parse_key(text, source, setting), source)


def _parse_key(text: str, source: str, setting: str) -> bytes:
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
        raise UsageError(f"{setting}: {source}: holds no key; {_FORMAT}")
    return secret


def _require_library(setting: str) -> None:
    try:
        import memfs.encryption.cipher  # noqa: F401  for its library
    except ImportError as error:
        raise UsageError(f"{setting}: {error}; pip install 'memfs-tiers[encryption]'") from error
