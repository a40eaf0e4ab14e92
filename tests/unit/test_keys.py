"""Keys: read from where the configuration says, and never from where others can look."""

from __future__ import annotations

import base64
import os
import stat
from typing import TYPE_CHECKING

import pytest

from memfs.config import Config, EncryptionConfig
from memfs.encryption.keys import Key, KeyRing, generate_key_file, load_keys
from memfs.errors import EncryptionKeyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SECRET = bytes(range(32))


def ring_of(sources: Sequence[str], environment: Mapping[str, str]) -> KeyRing:
    return load_keys(Config(encryption=EncryptionConfig(keys=tuple(sources))), environment)


def key_file(directory: Path, text: str = SECRET.hex(), mode: int = 0o600) -> Path:
    path = directory / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "text",
    [SECRET.hex(), f"{SECRET.hex().upper()}\n", base64.b64encode(SECRET).decode() + "\n"],
)
def test_a_key_is_hexadecimal_or_base64_from_any_source(tmp_path: Path, text: str) -> None:
    path = key_file(tmp_path, text)
    environment = {"SECRET": text, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    sources = (f"file:{path}", "env:SECRET", "credential:key")
    for source in sources:
        ring = ring_of([source], environment)
        assert ring.first is not None
        assert ring.first.secret == SECRET
        assert ring.ids == [Key(SECRET, "").id.hex()]


def test_the_first_key_encrypts_and_all_are_found_by_their_ids() -> None:
    first, second = Key(SECRET, "a"), Key(SECRET[::-1], "b")
    ring = KeyRing([first, second])
    assert ring.first is first
    assert ring.ids == [first.id.hex(), second.id.hex()]
    assert ring.find(second.id, "object") is second
    assert KeyRing().first is None


def test_a_missing_key_is_told_with_what_needs_it_and_what_to_do() -> None:
    ring = KeyRing([Key(SECRET, "a")])
    with pytest.raises(EncryptionKeyError, match=r"object: .* key 0102.*encryption\.keys"):
        ring.find(bytes(range(1, 9)), "object")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610])
def test_a_key_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path, mode=mode)
    with pytest.raises(UsageError, match=f"chmod 600 {path}"):
        ring_of([f"file:{path}"], {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    os.chown(path, 12345, -1)
    with pytest.raises(UsageError, match="belongs to user 12345"):
        ring_of([f"file:{path}"], {})


@pytest.mark.parametrize(
    "text", ["", "secret", SECRET.hex()[:-2], SECRET.hex() + "00", "g" * 64, "=" * 44]
)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    path = key_file(tmp_path, text)
    with pytest.raises(UsageError, match="holds no key; 64 hexadecimal") as refused:
        ring_of([f"file:{path}"], {})
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SECRET.hex(), "names no source"),
        ("file:", "names no source"),
        ("file:key", "write file:/absolute/path"),
        ("file:/nowhere/key", "No such file"),
        ("file:/", "not a plain file"),
        ("env:MISSING", "not set"),
        ("credential:key", r"CREDENTIALS_DIRECTORY is not set; .*LoadCredential=key"),
    ],
)
def test_a_wrong_source_is_told_with_the_remedy_and_no_secret(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        ring_of([source], {})
    assert SECRET.hex() not in str(refused.value)


@pytest.mark.parametrize("name", ["../key", "a/b", ".."])
def test_a_credential_lies_in_its_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="without slashes"):
        ring_of([f"credential:{name}"], {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_credential_may_be_open_to_its_group(tmp_path: Path) -> None:
    """Systemd lets a unit's user read it by an ACL, whose mask shows as group bits."""
    key_file(tmp_path, mode=0o440)
    assert ring_of(["credential:key"], {"CREDENTIALS_DIRECTORY": str(tmp_path)}).first


def test_a_generated_key_is_random_private_and_never_overwritten(tmp_path: Path) -> None:
    key = generate_key_file(tmp_path / "one")
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
    ring = ring_of([f"file:{tmp_path}/one"], {})
    assert ring.ids == [key.id.hex()]
    assert generate_key_file(tmp_path / "two").id != key.id
    with pytest.raises(UsageError, match="never overwritten"):
        generate_key_file(tmp_path / "one")


def test_no_secret_shows_in_a_representation() -> None:
    key = Key(SECRET, "file:/key")
    for text in (repr(key), str(key), repr(KeyRing([key]).ids)):
        assert SECRET.hex() not in text
        assert repr(SECRET) not in text
