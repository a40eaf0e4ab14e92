"""Credentials in a file of TOML are read anew wherever they are used: no new mount is needed."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from memfs.config import GlacierConfig, NamedStoreConfig
from memfs.content.sources import open_store
from memfs.errors import StoreError, UsageError
from memfs.jobs.publishing import Places
from memfs.moves.outcome import MoveOutcome
from memfs.stores.kept_options import KeptOptions, joined
from memfs.stores.remote import open_remote_store, with_credentials
from tests.moving import SMALL_FRAMES, State
from tests.servers.azurite import KEY, AzureServer, find_azurite
from tests.servers.lying_s3 import LyingS3, running_lying_s3
from tests.servers.process import READY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUCKET = "kept"


@pytest.fixture
def bucket() -> Iterator[LyingS3]:
    with running_lying_s3(BUCKET) as server:
        server.access_keys = {"first": "", "second": "InvalidAccessKeyId"}
        yield server


class KeyFile:
    """The file, and the server that takes one key at a time."""

    def __init__(self, path: Path, bucket: LyingS3) -> None:
        self._path, self._bucket = path, bucket
        self.write("first")
        options: dict[str, object] = {"endpoint_url": bucket.server.endpoint_url}
        self.config = replace(
            SMALL_FRAMES,
            glacier=GlacierConfig(
                url=f"s3://{BUCKET}/p", options=options, credentials=f"file:{path}", timeout_s=60.0
            ),
        )

    def write(self, key: str) -> None:
        self._path.write_text(f'key = "{key}"\nsecret = "s"\n')
        self._path.chmod(0o600)

    def revoke_first(self) -> None:
        self._bucket.access_keys = {"first": "InvalidAccessKeyId", "second": ""}


@pytest.fixture
def keys(bucket: LyingS3, tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.toml", bucket)


async def test_a_store_takes_the_key_that_is_in_its_file_now(keys: KeyFile, tmp_path: Path) -> None:
    glacier = with_credentials(keys.config.glacier, "glacier", {})
    store = open_remote_store(glacier, tmp_path)
    (tmp_path / "a").write_bytes(b"0123456789")
    await store.put_file("a", tmp_path / "a")
    keys.revoke_first()
    keys.write("second")
    assert await store.get_range("a", 2, 5) == b"234"
    await store.put_file("b", tmp_path / "a")
    await store.aclose()


async def test_a_source_takes_the_key_that_is_in_its_file_now(
    keys: KeyFile, bucket: LyingS3
) -> None:
    bucket.objects["p/a"] = b"0123456789"
    options = '{"fsspec": {"region": "us-east-1"}}'
    store = open_store(keys.config, {}, f"s3://{BUCKET}/p", options)
    keys.revoke_first()
    keys.write("second")
    [found] = [each async for page in store.list_pages() for each in page]
    assert await store.read(found, 0, 10) == b"0123456789"
    await store.aclose()


async def test_a_place_of_publishing_takes_the_key_that_is_in_its_file_now(
    keys: KeyFile, bucket: LyingS3, tmp_path: Path
) -> None:
    state = State(tmp_path / "state", SMALL_FRAMES)
    state.parts.config = keys.config
    places = Places(state.parts, {})
    url = f"s3://{BUCKET}/out"
    async with places.at(url) as place:
        await place.publish(await state.create("a", b"content"), "a")
    keys.revoke_first()
    keys.write("second")
    async with places.at(url) as place:
        # A look meets the refusal, before bytes that come once do.
        known = await state.engine.get_published(f"{url}/a")
        assert known is not None
        await place.fetch(known, (fd := os.memfd_create("a")), lambda _done: None)
        assert os.pread(fd, 100, 0) == b"content"
        os.close(fd)
        result, _ = await place.publish(await state.create("b", b"content"), "b")
        assert result.outcome == MoveOutcome.DONE
    assert bucket.objects["out/a"] == bucket.objects["out/b"] == b"content"
    await places.aclose()
    state.close()


@pytest.mark.skipif(find_azurite() is None, reason="Azurite is not installed")
async def test_azure_takes_the_key_that_is_in_its_file_now(
    azure_server: AzureServer, tmp_path: Path
) -> None:
    path = tmp_path / "keys.toml"

    def write(key: str) -> None:
        path.write_text(f'connection_string = "{azure_server.connection_string(key)}"\n')
        path.chmod(0o600)

    write("A" * len(KEY.rstrip("=")) + "==")
    config = NamedStoreConfig(
        url=f"az://{READY}/{tmp_path.name}",
        credentials=f"file:{path}",
        timeout_s=60.0,
    )
    store = open_remote_store(with_credentials(config, "stores.x", {}), tmp_path)
    (tmp_path / "a").write_bytes(b"0123456789")
    write(KEY)
    await store.put_file("a", tmp_path / "a")
    assert (await store.stat("a")).size == 10
    await store.aclose()


async def test_a_file_that_makes_no_sense_for_a_while_changes_nothing(
    keys: KeyFile, tmp_path: Path
) -> None:
    glacier = with_credentials(keys.config.glacier, "glacier", {})
    store = open_remote_store(glacier, tmp_path)
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "keys.toml").write_text("half of a")
    await store.put_file("a", tmp_path / "a")
    keys.revoke_first()
    with pytest.raises(StoreError, match="check key"):
        await store.stat("a")
    await store.aclose()


def test_options_that_are_kept_remain_so_with_others() -> None:
    found: dict[str, object] = {"key": "1", "token": "t"}
    kept = KeptOptions({"endpoint_url": "http://h", "key": "0"}, lambda: found, found)
    more = joined(joined(kept, {"endpoint_url": "http://other"}), {"a": 1})
    assert more == {"endpoint_url": "http://other", "key": "1", "token": "t", "a": 1}
    found = {"key": "2"}
    assert isinstance(more, KeptOptions)
    more.renew()
    # What is in the file no longer is not shown any more.
    assert {name: more.get(name) for name in ("key", "token", "endpoint_url")} == {
        "key": "2",
        "token": None,
        "endpoint_url": "http://other",
    }
    assert joined({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}

    def missing() -> dict[str, object]:
        raise UsageError("it is away")

    kept = KeptOptions({}, missing, {"key": "1"})
    with pytest.raises(UsageError):
        kept.renew()
    assert kept == {"key": "1"}
