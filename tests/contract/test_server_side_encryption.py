"""What S3 is asked to encrypt, as a server that keeps the request's words shows it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from memfs.errors import UsageError
from memfs.stores.s3 import S3Store
from memfs.stores.store import PART_BYTES
from tests.servers.seaweedfs import make_bucket

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.seaweedfs import S3Server

BUCKET = "memfs-sse"
KEY_ID = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def moto(moto_server: S3Server) -> S3Server:
    make_bucket(moto_server, BUCKET)
    return moto_server


def open_s3(server: S3Server, wanted: str) -> S3Store:
    return S3Store(f"s3://{BUCKET}/a", server.options, 60.0, 8, None, server_side_encryption=wanted)


@pytest.mark.parametrize(
    ("wanted", "algorithm", "key_id"),
    [
        ("AES256", "AES256", None),
        ("aws:kms", "aws:kms", None),
        (f"aws:kms:{KEY_ID}", "aws:kms", KEY_ID),
    ],
)
@pytest.mark.parametrize("size", [5, PART_BYTES + 1])
async def test_uploads_ask_for_the_encryption_and_its_key(
    moto: S3Server, tmp_path: Path, wanted: str, algorithm: str, key_id: str | None, size: int
) -> None:
    """In one piece and in parts alike."""
    store = open_s3(moto, wanted)
    (tmp_path / "file").write_bytes(bytes(size))
    await store.put_file("k", tmp_path / "file")
    with contextlib.closing(moto.client()) as client:
        head = client.head_object(Bucket=BUCKET, Key="a/k")
    assert head["ServerSideEncryption"] == algorithm
    if key_id is not None:
        assert head["SSEKMSKeyId"] == key_id
    assert await store.get_range("k", 0, size) == bytes(size)
    await store.aclose()


@pytest.mark.parametrize("wanted", ["AES-256", "kms", "aws:kms2", "aws:kms:"])
def test_an_unknown_encryption_is_refused_at_once(moto: S3Server, wanted: str) -> None:
    with pytest.raises(UsageError, match="write AES256, aws:kms"):
        open_s3(moto, wanted)
