"""Moves between all tiers: the bytes, the attributes and the digest are the same ever after."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import blake3
import pytest

from tests.posix.capabilities import Capability
from tests.tiers.tiering import (
    FRAME_BYTES,
    compressible,
    incompressible,
    pin,
    residence,
    send,
    tell,
    told,
    wait_until_at,
    why,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS), pytest.mark.data_path]

MIB = 1 << 20


class _Attributes(NamedTuple):
    """All that stat(2) and the xattrs tell, but the time of access."""

    status: tuple[int, ...]
    xattrs: dict[str, bytes]


def attributes(path: Path) -> _Attributes:
    status = path.stat()
    names = [name for name in os.listxattr(path) if not name.startswith("user.memfs.")]
    return _Attributes(
        (
            status.st_ino,
            status.st_mode,
            status.st_nlink,
            status.st_uid,
            status.st_gid,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        ),
        {name: os.getxattr(path, name) for name in names},
    )


def contents() -> dict[str, bytes]:
    """Return one content of each kind by name."""
    return {
        "empty": b"",
        "byte": b"x",
        "block": compressible(4096),
        "frame-1": compressible(FRAME_BYTES - 1),
        "frame": compressible(FRAME_BYTES),
        "frame+1": compressible(FRAME_BYTES + 1),
        "5MiB": compressible(5 * MIB),
        "zeros": compressible(5000) + bytes(MIB),
        "incompressible": incompressible(300_000),
    }


def write_sparse(path: Path) -> bytes:
    """Write data between holes, a hole at the end included; return the content."""
    with path.open("wb") as file:
        file.seek(MIB)
        file.write(compressible(100_000))
        file.seek(5 * MIB)
        file.write(b"island")
        file.truncate(8 * MIB)
    return path.read_bytes()


@pytest.mark.parametrize(
    "route",
    [("cold", "warm", "glacier", "cold"), ("glacier", "warm", "cold", "glacier", "warm")],
    ids="-".join,
)
def test_files_of_every_kind_come_through_every_tier(
    place: Path, route: tuple[str, ...], capabilities: frozenset[Capability]
) -> None:
    """Bytes, times, mode, owner, xattrs and ACL are not a move's to change."""
    expected = contents()
    for name, content in expected.items():
        (place / name).write_bytes(content)
    expected["sparse"] = write_sparse(place / "sparse")
    for number, name in enumerate(expected):
        path = place / name
        os.setxattr(path, "user.note", name.encode())
        os.chown(path, 54321, 54322)
        path.chmod(0o4750 if number % 2 else 0o604)
        if Capability.ACL in capabilities:
            subprocess.run(["setfacl", "-m", "u:54399:r", path], check=True)
        os.utime(path, ns=(10**18 + 1, 10**18 + number))
    before = {name: attributes(place / name) for name in expected}
    for tier in route:
        pin(place, tier)
        wait_until_at(tier, *(place / name for name in expected))
        for name in expected:
            assert attributes(place / name) == before[name], (tier, name)
    pin(place, "auto")
    for name, content in expected.items():
        assert told(place / name, "digest") == blake3.blake3(content).hexdigest()
        assert (place / name).read_bytes() == content
        assert attributes(place / name) == before[name], name


def test_holes_stay_holes(place: Path) -> None:
    """A sparse file takes as little of the disk after it was in the object store."""
    path = place / "sparse"
    content = write_sparse(path)
    blocks = path.stat().st_blocks
    send("glacier", path)
    send("warm", path)
    assert path.stat().st_blocks <= blocks + 2 * FRAME_BYTES // 512
    assert path.read_bytes() == content


def test_what_does_not_shrink_stays_raw_when_cold_and_says_so(place: Path) -> None:
    """Packing it would cost disk and time for nothing; the object store takes it all the same."""
    path = place / "noise"
    path.write_bytes(incompressible(300_000))
    send("cold", path)
    assert residence(path).forms == ["raw"]
    assert why(path)["rule"] == "incompressible"
    assert "does not shrink with zstd:3" in why(path)["detail"]
    send("glacier", path)
    assert path.read_bytes() == incompressible(300_000)


def objects(mount: Mount) -> set[Path]:
    return {path for path in (mount.state / "glacier").rglob("*") if path.is_file()}


MAGIC = {
    "zstd": bytes.fromhex("28b52ffd"),
    "lz4": bytes.fromhex("04224d18"),
    "snappy": bytes.fromhex("ff060000734e61507059"),
}
"""RFC 8878 section 3.1.1; lz4_Frame_format.md; snappy framing_format.txt section 4.1."""


@pytest.mark.parametrize("codec", ["zstd:1", "zstd:19", "zstd", "lz4", "snappy", "none"])
def test_the_codec_of_a_file_makes_its_object(place: Path, mount: Mount, codec: str) -> None:
    """What is written is in the codec's own format, and reads back."""
    content = compressible(3 * FRAME_BYTES + 100)
    path = place / "file"
    path.write_bytes(content)
    tell(path, "codec", codec)
    before = objects(mount)
    send("glacier", path)
    [made] = objects(mount) - before
    stored = made.read_bytes()
    name = codec.partition(":")[0]
    assert stored.startswith(MAGIC.get(name, content[:1000]))
    assert (len(stored) < len(content)) == (codec != "none")
    send("cold", path)
    assert ("packed" in residence(path).forms) == (codec != "none")
    with path.open("rb") as file:
        file.seek(FRAME_BYTES - 10)
        assert file.read(20) == content[FRAME_BYTES - 10 : FRAME_BYTES + 10]
    assert path.read_bytes() == content


def test_every_level_of_zstd_reads_back(place: Path) -> None:
    """1 to 19, as the documents promise."""
    content = compressible(2 * FRAME_BYTES + 1)
    files = []
    for level in range(1, 20):
        path = place / f"level-{level}"
        path.write_bytes(content)
        tell(path, "codec", f"zstd:{level}")
        files.append(path)
    pin(place, "cold")
    wait_until_at("cold", *files)
    assert all("raw" not in residence(path).forms for path in files)
    assert all(path.read_bytes() == content for path in files)


def test_a_changed_codec_is_used_from_the_next_move_on(place: Path, mount: Mount) -> None:
    """It says how to write; what is written stays as good as it was."""
    path = place / "file"
    path.write_bytes(compressible(FRAME_BYTES))
    send("glacier", path)
    tell(path, "codec", "lz4")
    with path.open("r+b") as file:
        file.write(b"changed")
    before = objects(mount)
    send("glacier", path)
    [made] = list(objects(mount) - before)
    assert made.read_bytes().startswith(MAGIC["lz4"])
    assert path.read_bytes() == b"changed" + compressible(FRAME_BYTES)[7:]
