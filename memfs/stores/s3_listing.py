"""Listings of S3: the objects of a bucket page by page, with versions where the bucket keeps them.

The answer of ListObjectsV2 is taken apart without the client's own parser. That one builds a
dictionary of each object by the description of the service, and takes 53 us for it; this one 13 us
(botocore 1.43, measured 2026-11 in processor time). All else of a request, its signature, its
retries and its errors, is the client's.

Invariant: only calls within `_listing` are answered so; an answer that is no listing is left to the
client, which tells what is wrong with it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as XmlTree

import botocore.exceptions

from memfs.errors import StoreError
from memfs.stores.source import SourceObject
from memfs.stores.told import iso_ns, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from memfs.stores.s3_bucket import Bucket
    from memfs.stores.source import ObjectPage

log = logging.getLogger(__name__)

_PAGE = "MemfsPage"
"""The key of a `ListedPage` in an answer of the client."""

_EVENT = "before-parse.s3.ListObjectsV2"
_EMPTY = b"<ListBucketResult/>"
_OK = 200

_LISTING: ContextVar[bool] = ContextVar("listing", default=False)


class ListedObject(NamedTuple):
    """An object of a page."""

    key: str
    size: int
    """Bytes."""
    etag: str
    """With quotes, as it was sent."""
    mtime_ns: int


class ListedPage(NamedTuple):
    """A page of a listing."""

    objects: list[ListedObject]
    prefixes: list[str]
    """Beginnings of further keys, up to the delimiter."""
    following: str | None
    """Where the next page begins; None: this was the last."""


class Listing:
    """The objects of a bucket in the order of their keys, as a source has them.

    Args:
        bucket: Has the objects.
        url: That of the store, for messages.
    """

    def __init__(self, bucket: Bucket, url: str) -> None:
        self._bucket = bucket
        self._url = url
        self._versioned: bool | None = None
        """None: the bucket was not asked yet whether it keeps versions."""

    def page(self, token: str, prefix: str, *, shallow: bool) -> ObjectPage:
        """Return a page of objects, and where the next one begins; blocks.

        Args:
            token: Where it begins; empty: at the first object.
            prefix: That of the keys.
            shallow: One object stands for all whose keys go on behind a further slash.

        Raises:
            StoreError: The answer is no listing.
            OSError, botocore.exceptions.BotoCoreError: As `Bucket.call`.
        """
        if self._versioned is None:
            self._versioned = self._keeps_versions()
        which = self._bucket.below(prefix)
        if shallow:
            which["Delimiter"] = "/"
        if self._versioned:
            return self._page_of_versions(token, which)
        if token:
            which["ContinuationToken"] = token
        listed = self._bucket.wait(functools.partial(self._ask, which))
        found = [
            SourceObject(self._bucket.own(key), size, etag, mtime_ns)
            for key, size, etag, mtime_ns in listed.objects
        ]
        if shallow:
            found = self._with_prefixes(found, listed.prefixes)
        return found, listed.following

    async def _ask(self, which: dict[str, str]) -> ListedPage:
        client = await self._bucket.client()
        with _listing(client):
            answer = await self._bucket.call_async("list_objects_v2", **which)
        page = answer.get(_PAGE)
        if not isinstance(page, ListedPage):
            raise StoreError(
                f"store {self._url}: list: the answer is no listing of objects: is endpoint_url "
                "that of an S3 server?"
            )
        return page

    def _with_prefixes(
        self, found: list[SourceObject], prefixes: Iterable[str]
    ) -> list[SourceObject]:
        """Return objects with what stands for those behind a further slash, in order."""
        found += [SourceObject(self._bucket.own(prefix), 0, "", 0) for prefix in prefixes]
        return sorted(found, key=lambda each: each.order)

    def _page_of_versions(self, token: str, which: dict[str, str]) -> ObjectPage:
        """Return a page with the version of each object: former ones cost requests too."""
        if token:
            which |= zip(("KeyMarker", "VersionIdMarker"), json.loads(token), strict=True)
        answer = self._bucket.call("list_object_versions", **which)
        found = [
            source_object(self._bucket, item, item.get("VersionId"))
            for item in answer.get("Versions", ())
            if item.get("IsLatest")
        ]
        if "Delimiter" in which:
            prefixes = (item["Prefix"] for item in answer.get("CommonPrefixes", ()))
            found = self._with_prefixes(found, prefixes)
        if not answer.get("IsTruncated"):
            return found, None
        # Behind a prefix there is no version to go on from.
        marker = answer.get("NextVersionIdMarker", "")
        return found, json.dumps([answer["NextKeyMarker"], marker])

    def _keeps_versions(self) -> bool:
        try:
            answer = self._bucket.call("get_bucket_versioning", Bucket=self._bucket.name)
        except (OSError, botocore.exceptions.BotoCoreError) as error:
            # Its own right, which many who may read have not; or a store without versions.
            log.debug("store %s: does not tell whether it keeps versions: %s", self._url, error)
            return False
        return bool(answer.get("Status") == "Enabled")


def source_object(
    bucket: Bucket, item: Mapping[str, Any], version: str | None = None
) -> SourceObject:
    """Return an object of a bucket as S3 describes it.

    Args:
        bucket: Has it.
        item: With `Key`, `Size`, `ETag` and `LastModified`.
        version: The id of its version, where the bucket keeps versions.
    """
    return SourceObject(
        bucket.own(item["Key"]),
        int(item["Size"]),
        item["ETag"],
        int(item["LastModified"].timestamp() * 1_000_000_000),
        "" if version in (None, "null") else str(version),
    )


@contextlib.contextmanager
def _listing(client: Any) -> Iterator[None]:  # noqa: ANN401  botocore makes its class
    """Have answers to ListObjectsV2 carry a `ListedPage`, for calls of this task in the block."""
    client.meta.events.register(_EVENT, _take_apart, unique_id="memfs-listing")
    token = _LISTING.set(True)
    try:
        yield
    finally:
        _LISTING.reset(token)


def _take_apart(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_more: object
) -> None:
    if not _LISTING.get() or response_dict["status_code"] != _OK:
        return
    with contextlib.suppress(XmlTree.ParseError, ValueError, TypeError):
        customized_response_dict[_PAGE] = parse_page(response_dict["body"])
        # Nothing is left for the client's parser.
        response_dict["body"] = _EMPTY


def parse_page(body: bytes) -> ListedPage:
    """Return what an answer to ListObjectsV2 has.

    Raises:
        xml.etree.ElementTree.ParseError: It is no XML.
        ValueError, TypeError: It is no listing, or something is missing in it.
    """
    root = XmlTree.fromstring(body)
    space = root.tag[: root.tag.rfind("}") + 1]
    if root.tag != f"{space}ListBucketResult":
        raise ValueError(f"{root.tag} is no listing")
    is_encoded = root.findtext(f"{space}EncodingType") == "url"
    key_tag, size_tag = f"{space}Key", f"{space}Size"
    etag_tag, time_tag = f"{space}ETag", f"{space}LastModified"
    objects: list[ListedObject] = []
    last_text, last_ns = "", 0
    for each in root.findall(f"{space}Contents"):
        key, size, etag = each.findtext(key_tag), each.findtext(size_tag), each.findtext(etag_tag)
        text = each.findtext(time_tag)
        if key is None or size is None or etag is None or text is None:
            raise ValueError("an object without a key, a size, an ETag or a time")
        if text != last_text:
            last_text, last_ns = text, iso_ns(text)
        if is_encoded:
            key = unquote_plus(key)
        objects.append(ListedObject(key, size_of(size), etag, last_ns))
    prefixes = [each.text or "" for each in root.iterfind(f"{space}CommonPrefixes/{space}Prefix")]
    if is_encoded:
        prefixes = [unquote_plus(each) for each in prefixes]
    following = None
    if root.findtext(f"{space}IsTruncated") == "true":
        following = root.findtext(f"{space}NextContinuationToken")
        if not following:
            raise ValueError("a page that is not the last one, without a token")
    return ListedPage(objects, prefixes, following)
