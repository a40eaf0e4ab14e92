"""Objects of a bucket are files: read without a copy, followed when they change, never written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.mounting import MountError, run_memfs
from tests.posix.capabilities import Capability
from tests.servers.lying_s3 import LyingS3, running_lying_s3
from tests.tiers.tiering import SMALL_FRAMES, incompressible, pin, send, told, wait_until_at, why

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS)]

BUCKET = "adopted"
MIB = 1 << 20
LARGE = 9 * MIB + 17


@pytest.fixture(scope="module")
def bucket() -> Iterator[LyingS3]:
    """A bucket that refuses whatever would change it."""
    with running_lying_s3(BUCKET) as state:
        state.is_read_only = True
        yield state
        assert state.methods.keys() <= {"GET", "HEAD"}


@pytest.fixture(scope="module")
def tier_config(bucket: LyingS3) -> str:
    options = "\n".join(f'{name} = "{value}"' for name, value in bucket.server.options.items())
    return f"{SMALL_FRAMES}\n[glacier.options]\n{options}\n"


@pytest.fixture
def prefix(place: Path, mount: Mount) -> str:
    """A prefix of a test's own, whose objects stay: the mover may fetch one still when it ends."""
    return f"{mount.driver}-{place.name}"


def adopt(*words: str | Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run_memfs("adopt", "--json", *words))
    return report


def error_of(fd: int, offsets: Iterable[int]) -> int:
    """Return the errno of the first read that fails; 0: all went well."""
    try:
        for offset in offsets:
            os.pread(fd, 4096, offset)
    except OSError as error:
        return error.errno or 0
    return 0


def put(bucket: LyingS3, prefix: str, **objects: bytes) -> None:
    for name, data in objects.items():
        bucket.objects[f"{prefix}/{name}"] = data


@pytest.mark.data_path
def test_objects_are_files_that_are_read_where_they_are(
    place: Path, bucket: LyingS3, prefix: str
) -> None:
    small, large = b"hello", incompressible(LARGE)
    put(bucket, prefix, **{"small": small, "dir/large": large, "dir/deep/empty": b""})
    gets = bucket.counts["GET"]
    report = adopt("--mode", "0640", f"s3://{BUCKET}/{prefix}", place / "set")
    assert (report["made_count"], report["directory_count"], report["problem"]) == (3, 2, "")
    assert bucket.counts["GET"] == gets
    path = place / "set/dir/large"
    status = path.stat()
    assert (status.st_size, status.st_mode & 0o7777) == (LARGE, 0o640)
    assert sorted(os.listdir(place / "set/dir")) == ["deep", "large"]
    assert (told(path, "tier"), told(path, "state")) == ("glacier", "foreign")
    with path.open("rb") as file:
        file.seek(5 * MIB)
        assert file.read(1000) == large[5 * MIB : 5 * MIB + 1000]
        file.seek(LARGE - 10)
        assert file.read() == large[-10:]
        file.seek(0)
        assert file.read() == large
    assert (place / "set/small").read_bytes() == small
    assert (place / "set/dir/deep/empty").read_bytes() == b""


@pytest.mark.data_path
def test_an_object_that_changes_makes_open_files_stale_and_is_there_at_the_next_open(
    place: Path, bucket: LyingS3, prefix: str
) -> None:
    before, after = incompressible(LARGE, 1), incompressible(LARGE + 5, 2)
    put(bucket, prefix, large=before, small=b"1")
    adopt(f"s3://{BUCKET}/{prefix}", place / "set")
    path = place / "set/large"
    os.setxattr(path, "user.label", b"mine")
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 100, 0) == before[:100]
        put(bucket, prefix, large=after, small=b"22")
        assert error_of(file.fileno(), range(MIB, LARGE, MIB)) == errno.ESTALE
        assert path.read_bytes() == after
        assert os.getxattr(path, "user.label") == b"mine"
        assert error_of(file.fileno(), [LARGE - 4096]) == errno.ESTALE
    # A small one is fetched at its open, which finds out.
    assert (place / "set/small").read_bytes() == b"22"
    report = adopt("--refresh", place / "set")
    assert (report["made_count"], report["replaced_count"]) == (0, 0)


def read_anew(path: Path) -> bytes:
    """Read a file whose object has changed: the first reader finds out."""
    with pytest.raises(OSError, match="Stale file handle"):
        path.read_bytes()
    return path.read_bytes()


@pytest.mark.any_driver
def test_a_snapshot_says_that_an_object_was_replaced(
    place: Path, bucket: LyingS3, prefix: str, mount: Mount
) -> None:
    """The bucket keeps no versions. ESTALE would have programs look up the same file again."""
    before, after = incompressible(LARGE, 3), incompressible(LARGE, 4)
    put(bucket, prefix, large=before, other=before)
    adopt(f"s3://{BUCKET}/{prefix}", place / "set")
    name = f"replaced-{place.name}"
    run_memfs("snapshot", "create", name, "--mount", mount.root)
    try:
        root = mount.root / ".memfs/snapshots" / name
        past = root / place.relative_to(mount.root) / "set/large"
        assert why(past)["state"] == "exact"
        put(bucket, prefix, large=after, other=after)
        # Twice: nothing that is remembered answers in another way.
        for _ in range(2):
            with past.open("rb", buffering=0) as file:
                assert error_of(file.fileno(), range(0, LARGE, MIB)) == errno.ENODATA
            told_why = why(past)
            assert told_why["state"] == "absent"
            assert f"{BUCKET}/{prefix}: large is not" in told_why["detail"]
            assert "has been replaced, and its source keeps no versions" in told_why["detail"]
        run_memfs("clone", place / "set", place / "twin")
        # That the name leads to the new object changes nothing of it.
        assert read_anew(place / "set/large") == after
        assert "has been replaced" in why(past)["detail"]
        # A restore tells what it cannot bring back, and leaves what is there.
        was = f"{place / 'set'}@{name}"
        with pytest.raises(MountError, match=r"set/large: .* gone from their source"):
            run_memfs("snapshot", "restore", was)
        assert (place / "set/large").read_bytes() == after
        with pytest.raises(MountError, match=r"back/large: .* gone from their source"):
            run_memfs("snapshot", "restore", was, "--to", place / "back")
        assert not (place / "back/large").exists()
        # A clone has no key at the source; ESTALE would lead to the same file again.
        with (place / "twin/large").open("rb", buffering=0) as file:
            assert error_of(file.fileno(), range(0, LARGE, MIB)) == errno.ENODATA
        # Nobody has read this one in the snapshot.
        other = past.with_name("other")
        assert why(other)["state"] == "exact"
        assert read_anew(place / "set/other") == after
        assert why(other)["detail"].endswith("keeps no versions: other")
    finally:
        # What has no bytes any longer is found by the check of the mount at its end.
        for copy in ("twin", "back"):
            shutil.rmtree(place / copy, ignore_errors=True)
        run_memfs("snapshot", "delete", name, "--mount", mount.root)


def test_tiers_take_an_adopted_file_and_give_it_back(
    place: Path, bucket: LyingS3, prefix: str
) -> None:
    data = incompressible(2 * MIB)
    put(bucket, prefix, file=data)
    adopt(f"s3://{BUCKET}/{prefix}", place / "set")
    path = place / "set/file"
    send("cold", path)
    assert told(path, "state") == "foreign"
    gets = bucket.counts["GET"]
    assert path.read_bytes() == data
    assert bucket.counts["GET"] == gets
    assert len(told(path, "digest")) == 64
    send("glacier", path)
    assert path.read_bytes() == data
    # While another object has the key the local copy is the last one.
    pin(path, "cold")
    wait_until_at("cold", path)
    put(bucket, prefix, file=data[::-1])
    pin(path, "glacier")
    subprocess.run(["sleep", "1"], check=True)
    assert path.read_bytes() == data
    assert adopt("--refresh", place / "set")["replaced_count"] == 1
    assert path.read_bytes() == data[::-1]


def test_a_file_that_is_written_is_memfss_own(place: Path, bucket: LyingS3, prefix: str) -> None:
    put(bucket, prefix, a=b"a" * 100, b=b"b" * 100, c=b"c" * 100, d=b"d" * 100)
    adopt("--deleted", "remove", f"s3://{BUCKET}/{prefix}", place / "set")
    with (place / "set/a").open("r+b") as file:
        file.write(b"XY")
    (place / "set/b").write_bytes(b"new")
    (place / "set/c").rename(place / "set/moved")
    (place / "set/d").unlink()
    put(bucket, prefix, a=b"A" * 50, b=b"b" * 100, c=b"C" * 100, d=b"D")
    report = adopt("--refresh", place / "set")
    assert (report["made_count"], report["replaced_count"], report["conflict_count"]) == (0, 1, 1)
    assert (place / "set/a").read_bytes() == b"XY" + b"a" * 98
    assert (place / "set/b").read_bytes() == b"new"
    assert (place / "set/moved").read_bytes() == b"C" * 100
    assert sorted(os.listdir(place / "set")) == ["a", "b", "moved"]
    assert why(place / "set/a")["source"]["conflict"] == "changed"
    assert told(place / "set/a", "state") in ("local", "dirty")
    assert bucket.objects[f"{prefix}/a"] == b"A" * 50


def test_a_refresh_follows_the_bucket(place: Path, bucket: LyingS3, prefix: str) -> None:
    put(bucket, prefix, **{f"d/{number:03}": b"x" * number for number in range(40)})
    put(bucket, prefix, **{"gone/one": b"1", "moved": b"2"})
    adopt("--deleted", "remove", f"s3://{BUCKET}/{prefix}", place / "set")
    (place / "mine/deep").mkdir(parents=True)
    (place / "set/moved").rename(place / "mine/deep/moved")
    del bucket.objects[f"{prefix}/gone/one"]
    del bucket.objects[f"{prefix}/moved"]
    del bucket.objects[f"{prefix}/d/007"]
    put(bucket, prefix, **{"d/new": b"new", "e/new": b"new"})
    report = adopt("--refresh", place / "set")
    assert (report["made_count"], report["removed_count"], report["problem"]) == (2, 3, "")
    assert sorted(os.listdir(place / "set")) == ["d", "e"]
    # Users made the directories that a file was moved to.
    assert os.listdir(place / "mine/deep") == []
    for number in range(20, 40):
        del bucket.objects[f"{prefix}/d/{number:03}"]
    with pytest.raises(MountError, match="tenth"):
        adopt("--refresh", place / "set")
    assert len(os.listdir(place / "set/d")) == 40
    [source] = [each for each in adopt_list(place) if each["path"].endswith(f"{place.name}/set")]
    assert "tenth" in source["problem"]
    report = adopt("--refresh", "--confirm", place / "set")
    assert (report["removed_count"], report["problem"]) == (20, "")
    assert len(os.listdir(place / "set/d")) == 20


def adopt_list(place: Path) -> list[dict[str, Any]]:
    sources: list[dict[str, Any]] = json.loads(run_memfs("adopt", "--list", "--json", place))
    return sources


def test_a_listing_that_fails_removes_nothing(
    place: Path, mount: Mount, bucket: LyingS3, prefix: str
) -> None:
    put(bucket, prefix, **{f"{number:03}": b"x" for number in range(30)})
    adopt("--deleted", "remove", f"s3://{BUCKET}/{prefix}", place / "set")
    former = bucket.page_count
    bucket.page_count = 10
    kept, bucket.bucket = bucket.bucket, "elsewhere"
    try:
        with pytest.raises(MountError):
            adopt("--refresh", place / "set")
    finally:
        bucket.bucket, bucket.page_count = kept, former
    assert len(os.listdir(place / "set")) == 30
    adopt("--refresh", place / "set")


def test_keys_that_are_no_names(place: Path, bucket: LyingS3, prefix: str) -> None:
    long = "x" * 300
    put(
        bucket,
        prefix,
        **{
            "a": b"file",
            "a-b": b"between",
            "a/b": b"below",
            "c//d": b"empty part",
            "./e": b"dot",
            "../f": b"dots",
            long: b"long",
            "marker/": b"",
            ".memfs/x": b"reserved",
        },
    )
    report = adopt(f"s3://{BUCKET}/{prefix}", place / "set")
    root = place / "set"
    assert (root / "a.~object").read_bytes() == b"file"
    assert (root / "a/b").read_bytes() == b"below"
    assert (root / "c/%/d").read_bytes() == b"empty part"
    assert (root / "%2E/e").read_bytes() == b"dot"
    assert (root / "%2E%2E/f").read_bytes() == b"dots"
    assert (root / "marker").is_dir()
    [name] = [each for each in os.listdir(root) if each.startswith("xxx")]
    assert "%~" in name
    assert (root / name).read_bytes() == b"long"
    assert report["odd_count"] == len(report["odd"]) >= 4
    again = adopt("--refresh", root)
    assert (again["made_count"], again["replaced_count"], again["refused_count"]) == (0, 0, 0)


def test_owned_files_need_no_source(place: Path, bucket: LyingS3, prefix: str) -> None:
    put(bucket, prefix, a=b"a" * 5000, b=b"b" * 5000)
    adopt(f"s3://{BUCKET}/{prefix}", place / "set")
    with pytest.raises(MountError, match="own"):
        run_memfs("adopt", "--forget", place / "set")
    run_memfs("adopt", "--own", place / "set")
    run_memfs("adopt", "--forget", place / "set")
    del bucket.objects[f"{prefix}/a"]
    assert (place / "set/a").read_bytes() == b"a" * 5000
    assert told(place / "set/a", "state") != "foreign"


def test_what_cannot_be_is_refused_and_nothing_made(
    place: Path, bucket: LyingS3, prefix: str
) -> None:
    (place / "full").mkdir()
    (place / "full/file").touch()
    url = f"s3://{BUCKET}/{prefix}"
    for words, message in (
        ((url, place / "full"), "not empty"),
        (("s3://nowhere/x", place / "set"), "nowhere"),
        (("--store", "other", url, place / "set"), "no store"),
        (("--option", "secret=x", url, place / "set"), "glacier.options"),
        (("--watch", "1s", url, place / "set"), "at least"),
        (("--refresh", place / "full"), "root of a source"),
        ((url, place / "full/file/x"), "directory"),
    ):
        with pytest.raises(MountError, match=message):
            adopt(*words)
        assert not (place / "set").exists()


def test_a_directory_is_listed_when_a_program_looks_into_it(
    place: Path, mount: Mount, bucket: LyingS3, prefix: str
) -> None:
    put(bucket, prefix, **{"a": b"a", "d/x": b"x" * 10, "d/deep/y": b"y", "e/z": b"z"})
    url, root = f"s3://{BUCKET}/{prefix}", place / "set"
    lists = bucket.counts["LIST"]
    report = adopt("--lazy", "--deleted", "remove", url, root)
    assert (report["listed_count"], report["made_count"]) == (0, 0)
    assert bucket.counts["LIST"] == lists + 1
    assert sorted(os.listdir(root)) == ["a", "d", "e"]
    assert bucket.counts["LIST"] == lists + 2
    below = json.dumps({"$path": f"{place.name}/set/"})
    found = run_memfs("query", mount.root, below).split()
    assert [os.path.basename(path) for path in found] == ["a", "d", "e"]
    note = f"2 directories of {url} were not listed yet"
    assert note in run_memfs("query", "--explain", mount.root, below)
    name = f"of-{place.name}"
    made = json.loads(run_memfs("snapshot", "create", "--mount", mount.root, "--json", name))
    assert any(each.startswith(note) for each in made["notes"])
    run_memfs("snapshot", "delete", "--mount", mount.root, name)
    assert (root / "d/deep/y").read_bytes() == b"y"
    assert not (root / "d/missing").exists()
    [source] = [each for each in adopt_list(place) if each["url"] == url]
    assert (source["unlisted_count"], source["object_count"]) == (1, 3)
    assert "1 directory that nobody" in run_memfs("adopt", "--list", place)
    # A store that refuses is an error, told by name.
    kept, bucket.bucket = bucket.bucket, "elsewhere"
    try:
        with pytest.raises(OSError, match="Input/output error") as caught:
            os.listdir(root / "e")
        assert caught.value.errno == errno.EIO
    finally:
        bucket.bucket = kept
    mount.check_log(("it cannot be listed: .* does not exist",))
    report = adopt("--refresh", root)
    assert (report["listed_count"], report["made_count"], report["removed_count"]) == (4, 1, 0)
    assert (root / "e/z").read_bytes() == b"z"
    for words, message in (
        (("--lazy", url, root), "listed already"),
        (("--lazy", "--move", mount.base / "x", place / "other"), "no directory"),
    ):
        with pytest.raises(MountError, match=message):
            adopt(*words)


@pytest.mark.parametrize("lazy", [False, True])
def test_content_types_and_metadata_become_xattrs(
    place: Path, bucket: LyingS3, prefix: str, lazy: bool
) -> None:
    put(bucket, prefix, **{"a.png": b"a", "d/b": b"b"})
    bucket.told_of[f"{prefix}/a.png"] = {
        "Content-Type": "image/png",
        "x-amz-meta-city": "Ulm",
        "x-amz-meta-memfs.pin": "warm",
        "x-amz-meta-long": "x" * 2000,
        "x-amz-meta-memfs-token": "of a published object",
    }
    bucket.objects[f"{prefix}-read/c.png"] = b"c"
    bucket.told_of[f"{prefix}-read/c.png"] = bucket.told_of[f"{prefix}/a.png"]
    heads = bucket.counts["HEAD"]
    words = ["--lazy"] if lazy else []
    adopt(*words, f"s3://{BUCKET}/{prefix}-read", place / "read")
    read = place / "read/c.png"
    assert os.listxattr(read) == []
    assert read.read_bytes() == b"c"
    assert os.getxattr(read, "user.mime_type") == b"image/png"
    assert os.getxattr(read, "user.city") == b"Ulm"
    assert "user.memfs-token" not in os.listxattr(read)
    assert (told(read, "pin"), bucket.counts["HEAD"]) == ("auto", heads)
    adopt(*words, "--head", f"s3://{BUCKET}/{prefix}", place / "set")
    found = place / "set/a.png"
    assert os.getxattr(found, "user.mime_type") == b"image/png"
    assert os.getxattr(found, "user.city") == b"Ulm"
    assert os.getxattr(found, "user.long") == b"x" * 2000
    assert told(found, "pin") == "auto"
    assert os.listxattr(place / "set/d/b") in ([], ["user.mime_type"])
    assert bucket.counts["HEAD"] == heads + 2
    adopt("--refresh", place / "set")
    assert bucket.counts["HEAD"] == heads + 2
