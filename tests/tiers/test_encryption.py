"""Encrypted objects as a user has them: keys by the configuration, and their rotation."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from memfs.config import Config, EncryptionConfig
from memfs.encryption.keys import generate_key_file, load_keys
from tests.mounting import MountError, run_memfs
from tests.posix.capabilities import Capability
from tests.tiers.tiering import SMALL_FRAMES, compressible, residence, send

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Site

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS)]

MIB = 1 << 20


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "first"
    generate_key_file(path)
    return path


@pytest.fixture(scope="module")
def tier_config(key_file: Path) -> str:
    return f'{SMALL_FRAMES}\n[encryption]\nkeys = ["file:{key_file}"]\n'


def id_of(path: Path) -> str:
    config = Config(encryption=EncryptionConfig(keys=(f"file:{path}",)))
    return load_keys(config, {}).ids[0]


def objects(site: Site) -> list[bytes]:
    assert site.mount is not None
    store = site.mount.state / "glacier"
    return [path.read_bytes() for path in store.rglob("*") if path.is_file()]


def rekey(*arguments: str | Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run_memfs("rekey", "--json", *arguments))
    return answer


def test_what_goes_to_the_store_is_encrypted_and_comes_back(
    place: Path, site: Site, key_file: Path
) -> None:
    """Ranges are read alone, and the file's name shows nowhere in the store."""
    path = place / "telling-name"
    content = compressible(MIB)
    path.write_bytes(content)
    send("glacier", path)
    assert residence(path).keys == {"remote": id_of(key_file)}
    fd = os.open(path, os.O_RDONLY)
    try:
        assert os.pread(fd, 1000, MIB // 2 - 500) == content[MIB // 2 - 500 :][:1000]
    finally:
        os.close(fd)
    assert path.read_bytes() == content
    assert site.mount is not None
    store = site.mount.state / "glacier"
    assert not [name for name in store.rglob("*") if "telling" in name.name]
    for data in objects(site):
        assert b"telling" not in data
        assert bytes.fromhex("28b52ffd") not in data


@pytest.mark.any_driver
def test_keys_are_rotated_without_a_file_unreadable_meanwhile(
    place: Path, site: Site, key_file: Path
) -> None:
    """A new key first, all objects rekeyed, the former key gone; and a wrong key says so."""
    mount = site.mount
    assert mount is not None
    assert mount.config is not None
    files = [place / f"file-{number}" for number in range(8)]
    for number, path in enumerate(files):
        path.write_bytes(compressible(300_000, seed=number))
    send("glacier", *files)
    former = mount.config
    new = key_file.with_name(f"second-{site.name}")
    run_memfs("key", "generate", new)
    old_id, new_id = id_of(key_file), id_of(new)
    both = former.replace(f'"file:{key_file}"', f'"file:{new}", "file:{key_file}"')
    alone = former.replace(f'"file:{key_file}"', f'"file:{new}"')
    try:
        restart(site, both)
        assert rekey("--dry-run", place)["outcomes"] == {"due": 8}
        answer = rekey(place)
        assert answer["outcomes"] == {"done": 8}
        assert answer["keys"][old_id][0] == 8
        assert answer["moved_bytes"] > 0
        assert rekey(place)["outcomes"] == {"unneeded": 8}
        assert {residence(path).keys["remote"] for path in files} == {new_id}
        restart(site, alone)
        for number, path in enumerate(files[1:], start=1):
            assert path.read_bytes() == compressible(300_000, seed=number)
        # With the former key alone nothing opens, and nothing is lost.
        restart(site, former)
        with pytest.raises(OSError, match="Required key not available"):
            files[0].read_bytes()
        with pytest.raises(MountError, match=f"encrypted with key {new_id}"):
            run_memfs("rekey", place)
        # Ended first: work in the background may meet the key and log it once more until then.
        mount.stop()
        mount.check_log(expected=(f"encrypted with key {new_id}",))
    finally:
        restart(site, both)
        run_memfs("rekey", mount.root)
    for number, path in enumerate(files):
        assert path.read_bytes() == compressible(300_000, seed=number)


def test_a_snapshot_is_read_without_the_former_key(place: Path, site: Site, key_file: Path) -> None:
    """Rekeying the root takes what only the snapshot shows; a tree alone says that it does not."""
    mount = site.mount
    assert mount is not None
    assert mount.config is not None
    path = place / "removed"
    path.write_bytes(compressible(300_000))
    send("glacier", path)
    run_memfs("snapshot", "create", "rekeyed", "--mount", mount.root)
    path.unlink()
    former = mount.config
    new = key_file.with_name(f"third-{site.name}")
    run_memfs("key", "generate", new)
    both = former.replace('keys = ["', f'keys = ["file:{new}", "')
    alone = f'{SMALL_FRAMES}\n[encryption]\nkeys = ["file:{new}"]\n'
    past = mount.root / ".memfs" / "snapshots" / "rekeyed" / path.relative_to(mount.root)
    try:
        restart(site, both)
        assert f"`memfs rekey {mount.root}` looks at it too" in run_memfs("rekey", place)
        assert "contents that only snapshots show, 1: 1 to be rekeyed" in run_memfs(
            "rekey", "--dry-run", mount.root
        )
        assert rekey(mount.root)["snapshots"]["outcomes"] == {"done": 1}
        restart(site, alone)
        assert past.read_bytes() == compressible(300_000)
    finally:
        restart(site, both)
        run_memfs("snapshot", "delete", "rekeyed", "--mount", mount.root)


def restart(site: Site, config: str) -> None:
    assert site.mount is not None
    site.mount.stop()
    site.mount.config = config
    site.mount.start()
