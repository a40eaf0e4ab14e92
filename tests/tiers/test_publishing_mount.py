"""Published at a mount, and read by programs that know nothing of memfs: s3fs, rclone, DuckDB."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3

from tests.mounting import MountError, run_memfs
from tests.servers.lying_s3 import running_lying_s3
from tests.servers.process import READY
from tests.waiting import WAIT_S, wait_for

if TYPE_CHECKING:
    from tests.conftest import MountFactory
    from tests.servers.seaweedfs import S3Server

CONFIG = """
[warm]
size = "0"
[stores.bucket]
url = "s3://{bucket}/own-objects/{prefix}"
[stores.bucket.options]
{options}
[publish]
targets = ["s3://{bucket}/{prefix}"]
delete = true
quiet = "100ms"
[policy]
interval = "100ms"
"""


def toml_of(options: dict[str, object]) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())


@pytest.fixture
def config(s3_server: S3Server, tmp_path: Path) -> str:
    return CONFIG.format(bucket=READY, prefix=tmp_path.name, options=toml_of(s3_server.options))


def s3_of(server: S3Server) -> Any:  # noqa: ANN401  fsspec has no types
    """Return s3fs as another program has it."""
    options = {name: server.options[name] for name in ("key", "secret", "endpoint_url")}
    return fsspec.filesystem("s3", **options, skip_instance_cache=True)


def rclone(server: S3Server, *arguments: str) -> str:
    program = Path(sys.executable).with_name("rclone")
    environment = {
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_S3_PROVIDER": "Other",
        "RCLONE_S3_ENDPOINT": server.endpoint_url,
        "RCLONE_S3_ACCESS_KEY_ID": str(server.options["key"]),
        "RCLONE_S3_SECRET_ACCESS_KEY": str(server.options["secret"]),
    }
    done = subprocess.run(
        [program, *arguments], env=os.environ | environment, capture_output=True, check=True
    )
    return done.stdout.decode()


def publish(*arguments: str | Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run_memfs("publish", "--json", *arguments))
    return answer


def test_other_programs_read_what_was_published(
    driver: str, mount_factory: MountFactory, config: str, s3_server: S3Server, tmp_path: Path
) -> None:
    mount = mount_factory(driver, config=config)
    directory, url = mount.root / "results", f"s3://{READY}/{tmp_path.name}"
    (directory / "deep").mkdir(parents=True)
    table = pa.table({"city": ["Ulm", "Bonn"], "count": [3, 4]})
    pq.write_table(table, directory / "deep" / "t.parquet")
    (directory / "a.txt").write_text("one")
    os.utime(directory / "a.txt", ns=(10**18, 10**18 + 500_000_000))
    (directory / "a.txt").chmod(0o640)
    os.setxattr(directory / "a.txt", "user.city", b"Ulm")
    answer = publish("--manifest", directory, url)
    assert answer["outcomes"]["done"] == 2
    assert answer["manifest"] is True

    fs = s3_of(s3_server)
    root = f"{READY}/{tmp_path.name}"
    assert sorted(fs.find(root)) == [
        f"{root}/{key}" for key in ("_SUCCESS", "_memfs/catalog.parquet", "a.txt", "deep/t.parquet")
    ]
    assert fs.cat(f"{root}/a.txt") == b"one"
    remote = f":s3:{root}"
    [told] = json.loads(rclone(s3_server, "lsjson", f"{remote}/a.txt"))
    assert told["ModTime"].startswith("2001-09-09T01:46:40.5")
    metadata = json.loads(rclone(s3_server, "lsjson", "-M", f"{remote}/a.txt"))[0]["Metadata"]
    assert metadata["mode"] == "100640"
    copied = tmp_path / "copied"
    rclone(s3_server, "copy", remote, str(copied))
    assert (copied / "a.txt").stat().st_mtime_ns == 10**18 + 500_000_000
    assert pq.read_table(copied / "deep" / "t.parquet").equals(table)
    with contextlib.closing(duckdb.connect()) as database:
        database.register_filesystem(fs)
        rows = database.sql(f"select sum(count) from 's3://{root}/deep/*.parquet'").fetchall()
        assert rows == [(7,)]
        keys = database.sql(
            f"select key, size from 's3://{root}/_memfs/catalog.parquet' order by key"
        ).fetchall()
    assert keys == [("a.txt", 3), ("deep/t.parquet", os.stat(directory / "deep/t.parquet").st_size)]
    with fs.open(f"{root}/_memfs/catalog.parquet") as opened:
        told, _ = pq.read_table(opened).sort_by("key").to_pylist()
    assert told["digest"] == blake3(b"one").hexdigest()
    assert (told["mode"], told["uid"], told["xattrs"]) == (0o640, os.geteuid(), [("city", "Ulm")])
    assert told["mtime"].isoformat().startswith("2001-09-09T01:46:40.5")

    # Changed there: it stays, and _SUCCESS is gone until all is as it should be.
    fs.pipe(f"{root}/a.txt", b"theirs")
    (directory / "a.txt").write_text("two")
    with pytest.raises(MountError, match="changed by someone else"):
        run_memfs("publish", "--manifest", directory, url)
    fs.invalidate_cache()
    assert fs.cat(f"{root}/a.txt") == b"theirs"
    assert not fs.exists(f"{root}/_SUCCESS")
    fs.rm(f"{root}/a.txt")
    publish("--manifest", directory, url)
    fs.invalidate_cache()
    assert fs.cat(f"{root}/a.txt") == b"two"
    assert fs.exists(f"{root}/_SUCCESS")


@pytest.mark.any_driver
def test_an_upload_in_parts_that_an_umount_or_a_kill_cuts_off_leaves_nothing(
    driver: str, mount_factory: MountFactory, tmp_path: Path
) -> None:
    """Neither a part nor a half object; the next mount sends it whole."""
    first, second = os.urandom(17 << 20), os.urandom(17 << 20)
    with running_lying_s3(READY) as bucket:
        options = toml_of(bucket.server.options)
        config = CONFIG.format(bucket=READY, prefix=tmp_path.name, options=options)
        mount = mount_factory(driver, config=config)
        key, url = f"{tmp_path.name}/large", f"s3://{READY}/{tmp_path.name}"
        bucket.paused_key = key

        def there() -> tuple[object, ...]:
            keys = [upload.key for upload in bucket.uploads.values()]
            return bucket.counts, keys, [*bucket.objects], bucket.paused_count

        def begin(content: bytes) -> None:
            """Have a file sent up to its first parts, which wait."""
            bucket.paused.clear()
            bucket.paused_count = 0
            (mount.root / "results/large").write_bytes(content)
            wait_for(lambda: bucket.paused_count > 0, there, limit_s=60.0)

        (mount.root / "results").mkdir()
        os.setxattr(mount.root / "results", "user.memfs.publish", url.encode())
        begin(first)
        with ThreadPoolExecutor(1) as threads:
            stopping = threads.submit(mount.stop)
            wait_for(lambda: not mount.is_mounted(), there, limit_s=60.0)
            bucket.paused.set()
            stopping.result(WAIT_S)
        assert bucket.uploads == {}
        # The last request may have been under way.
        assert bucket.objects.get(key) in (None, first)

        mount.start()
        begin(second)
        mount.kill()
        assert [upload.key for upload in bucket.uploads.values()] == [key]
        assert bucket.objects.get(key) in (None, first)
        bucket.paused.set()
        mount.start()
        wait_for(lambda: bucket.objects.get(key) == second, there, limit_s=60.0)
        wait_for(lambda: not bucket.uploads, there, limit_s=60.0)
        mount.stop()
        others = bucket.objects.keys() - {key}
        assert all(each.startswith("own-objects/") for each in others)


def test_what_is_written_to_a_published_directory_follows_by_itself(
    driver: str, mount_factory: MountFactory, config: str, s3_server: S3Server, tmp_path: Path
) -> None:
    mount = mount_factory(driver, config=config)
    directory, url = mount.root / "results", f"s3://{READY}/{tmp_path.name}/watched"
    directory.mkdir()
    with pytest.raises(OSError, match="Invalid argument"):
        os.setxattr(directory, "user.memfs.publish", b"s3://elsewhere/x")
    run_memfs("publish", "--watch", directory, url)
    assert os.getxattr(directory, "user.memfs.publish") == url.encode()
    (directory / "a").write_text("one")
    with contextlib.closing(s3_server.client()) as client:
        made: Any = client

        def stored() -> dict[str, int]:
            prefix = f"{tmp_path.name}/watched/"
            found = made.list_objects_v2(Bucket=READY, Prefix=prefix).get("Contents", ())
            return {item["Key"].removeprefix(prefix): item["Size"] for item in found}

        wait_for(lambda: stored() == {"a": 3}, stored, limit_s=60.0)
        (directory / "a").write_text("three")
        (directory / "b").write_text("more")
        wait_for(lambda: stored() == {"a": 5, "b": 4}, stored, limit_s=60.0)
        (directory / "a").unlink()
        wait_for(lambda: stored() == {"b": 4}, stored, limit_s=60.0)
