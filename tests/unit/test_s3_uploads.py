"""Unfinished uploads of S3, where there are more than fit into one answer."""

from __future__ import annotations

from memfs.stores.s3 import S3Store
from tests.servers.lying_s3 import running_lying_s3
from tests.waiting import WAIT_S

BUCKET = "bucket"
COUNT = 5


async def test_all_pages_of_unfinished_uploads_are_listed_and_aborted() -> None:
    with running_lying_s3(BUCKET) as server:
        client = server.server.client()
        for _ in range(COUNT):
            client.create_multipart_upload(Bucket=BUCKET, Key="a/b")
        server.page_count = 2
        store = S3Store(f"s3://{BUCKET}/a", server.server.options, WAIT_S, 4)
        assert [each.key for each in await store.list_uploads("")] == ["b"] * COUNT
        assert await store.abort_uploads("b") == COUNT
        assert not server.uploads
        await store.aclose()
