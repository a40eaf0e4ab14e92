"""The lying server of the tests tells the truth unless it is asked to lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tests.servers.lying_s3 import Lie, LyingS3, running_lying_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "bucket"


@pytest.fixture
def lying() -> Iterator[LyingS3]:
    with running_lying_s3(BUCKET) as state:
        yield state


def get(client: Any, wanted: str) -> bytes:  # noqa: ANN401  botocore makes its classes at run time
    data: bytes = client.get_object(Bucket=BUCKET, Key="a/b", Range=wanted)["Body"].read()
    return data


def test_objects_ranges_and_lists(lying: LyingS3) -> None:
    client = lying.server.client()
    client.put_object(Bucket=BUCKET, Key="a/b", Body=b"0123456789")
    assert get(client, "bytes=2-4") == b"234"
    assert client.head_object(Bucket=BUCKET, Key="a/b")["ContentLength"] == 10
    [found] = client.list_objects_v2(Bucket=BUCKET, Prefix="a/")["Contents"]
    assert (found["Key"], found["Size"]) == ("a/b", 10)
    client.delete_object(Bucket=BUCKET, Key="a/b")
    assert not lying.objects


def test_multipart_uploads_are_listed_until_they_end(lying: LyingS3) -> None:
    client = lying.server.client()
    target = {"Bucket": BUCKET, "Key": "large"}
    for end in ("complete", "abort"):
        number = client.create_multipart_upload(**target)["UploadId"]
        parts = []
        for part, data in ((1, b"one"), (2, b"two")):
            answer = client.upload_part(**target, UploadId=number, PartNumber=part, Body=data)
            parts.append({"PartNumber": part, "ETag": answer["ETag"]})
        [listed] = client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
        assert (listed["Key"], listed["UploadId"]) == ("large", number)
        if end == "abort":
            client.abort_multipart_upload(**target, UploadId=number)
        else:
            whole = {"Parts": parts}
            client.complete_multipart_upload(**target, UploadId=number, MultipartUpload=whole)
        assert not lying.uploads
    assert lying.objects["large"] == b"onetwo"


def test_it_lies_as_often_as_asked(lying: LyingS3) -> None:
    client = lying.server.client()
    client.put_object(Bucket=BUCKET, Key="a/b", Body=b"0123456789")
    wrong = {
        Lie.SHORT: b"23",
        Lie.WHOLE: b"0123456789",
        Lie.HTML: b"<html",
        Lie.FLIP: b"23\x3556",
    }
    for lie, data in wrong.items():
        lying.lie("GET", lie)
        assert get(client, "bytes=2-6") == data
        assert get(client, "bytes=2-6") == b"23456"
    lying.lie("GET", Lie.MISSING)
    with pytest.raises(ClientError, match="NoSuchKey"):
        get(client, "bytes=2-6")
    assert lying.lies_left == 0


@pytest.mark.parametrize("verdict", ["ExpiredToken", "InvalidAccessKeyId"])
def test_access_keys_end(lying: LyingS3, verdict: str) -> None:
    lying.access_keys[lying.server.access_key] = verdict
    with pytest.raises(ClientError, match=verdict):
        lying.server.client().put_object(Bucket=BUCKET, Key="a", Body=b"")


def test_newer_checksums_are_refused_by_name(lying: LyingS3) -> None:
    lying.refuses_checksums = True
    with pytest.raises(ClientError, match="x-amz-sdk-checksum-algorithm"):
        lying.server.client().put_object(Bucket=BUCKET, Key="a", Body=b"1")
