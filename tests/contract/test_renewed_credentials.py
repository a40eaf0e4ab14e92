"""Credentials of S3 that are renewed where they are kept: no new mount is needed."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from memfs.errors import StoreError
from memfs.stores.s3 import S3Store
from tests.servers.seaweedfs import find_weed, make_bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.servers.seaweedfs import S3Server

pytestmark = pytest.mark.skipif(find_weed() is None, reason="SeaweedFS is not installed")

BUCKET = "renewed"
TIMEOUT_S = 60.0


class Keys:
    """Where a store finds its credentials, as AWS's tools do."""

    def __init__(self, directory: Path, server: S3Server, how: str) -> None:
        self._server = server
        self._how = how
        self._path = directory / "credentials"
        self._program = directory / "program"
        self.config = directory / "config"
        self.write(right=True)

    @property
    def variables(self) -> dict[str, str]:
        return {
            "AWS_SHARED_CREDENTIALS_FILE": str(self._path),
            "AWS_CONFIG_FILE": str(self.config),
        }

    def write(self, *, right: bool) -> None:
        key = self._server.access_key if right else "expired"
        secret = self._server.secret_key
        if self._how == "file":
            self._path.write_text(
                f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
            )
            return
        self._program.write_text(
            f'#!/bin/sh\necho \'{{"Version": 1, "AccessKeyId": "{key}", '
            f'"SecretAccessKey": "{secret}"}}\'\n'
        )
        self._program.chmod(stat.S_IRWXU)
        self.config.write_text(f"[default]\ncredential_process = {self._program}\n")

    def forget(self) -> None:
        for path in (self._path, self.config):
            path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def server(s3_server: S3Server) -> S3Server:
    make_bucket(s3_server, BUCKET)
    return s3_server


@pytest.fixture(params=["file", "process"])
def keys(
    request: pytest.FixtureRequest,
    server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Keys:
    keys = Keys(tmp_path, server, request.param)
    for name, value in keys.variables.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return keys


def open_store(server: S3Server, prefix: str, renew_pause_s: float) -> S3Store:
    options = {
        name: value for name, value in server.options.items() if name not in ("key", "secret")
    }
    url = f"s3://{BUCKET}/{prefix}"
    return S3Store(url, options, TIMEOUT_S, 8, renew_pause_s=renew_pause_s)


@pytest.fixture
async def store(keys: Keys, server: S3Server, tmp_path: Path) -> AsyncIterator[S3Store]:
    store = open_store(server, tmp_path.name, renew_pause_s=0.0)
    yield store
    await store.aclose()


@pytest.mark.parametrize("first", ["stat", "get", "put"])
async def test_renewed_keys_are_taken_without_a_new_mount(
    keys: Keys, store: S3Store, server: S3Server, tmp_path: Path, first: str
) -> None:
    """Whatever call meets the refusal first: the answer to HEAD does not say what is wrong."""
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    keys.write(right=False)
    with pytest.raises(StoreError, match="check key, secret"):
        await store.put_file("k", source)
    keys.write(right=True)
    if first == "put":
        await store.put_file("k", source)
    else:
        client = server.client()
        client.put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/k", Body=b"0123456789")
        client.close()
    if first == "stat":
        assert (await store.stat("k")).size == 10
    assert await store.get_range("k", 0, 4) == b"0123"


async def test_a_mount_without_credentials_takes_them_when_they_come(
    keys: Keys, store: S3Store, tmp_path: Path
) -> None:
    """A machine whose credentials are written after the mount."""
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    keys.forget()
    with pytest.raises(StoreError):
        await store.put_file("k", source)
    keys.write(right=True)
    await store.put_file("k", source)
    assert await store.get_range("k", 0, 4) == b"0123"


async def test_a_wrong_key_is_not_read_again_at_each_call(
    keys: Keys, server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file or the program would be asked for each of thousands of files."""
    caplog.set_level("INFO")
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    keys.write(right=False)
    store = open_store(server, tmp_path.name, renew_pause_s=100.0)
    for _ in range(5):
        with pytest.raises(StoreError, match="check key, secret"):
            await store.put_file("k", source)
    assert caplog.text.count("they are read again") == 1
    await store.aclose()
