"""Answers to ListObjectsV2 are taken apart as the client's own parser does it."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as XmlTree

import botocore.parsers
import botocore.session
import pytest

from memfs.stores.s3_listing import ListedObject, parse_page
from memfs.stores.told import SIZE_UNKNOWN

HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
SPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def contents(key: str, size: int = 5, time: str = "2026-01-02T03:04:05.678Z") -> str:
    return (
        f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>&quot;e&amp;1&quot;</ETag>"
        f"<LastModified>{time}</LastModified><StorageClass>STANDARD</StorageClass>"
        "<Owner><ID>1</ID></Owner></Contents>"
    )


def page(*parts: str, space: str = SPACE) -> bytes:
    return f"{HEAD}<ListBucketResult{space}>{''.join(parts)}</ListBucketResult>".encode()


def as_the_client(body: bytes) -> dict[str, Any]:
    model = botocore.session.get_session().get_service_model("s3")
    shape = model.operation_model("ListObjectsV2").output_shape
    answer = {"status_code": 200, "headers": {}, "body": body, "context": {}}
    parsed: dict[str, Any] = botocore.parsers.create_parser("rest-xml").parse(answer, shape)
    return parsed


@pytest.mark.parametrize("space", [SPACE, ""])
def test_a_page_is_what_the_client_makes_of_it(space: str) -> None:
    body = page(
        contents("a&lt;b&amp;c", 0),
        contents("ü/ \U0001f600", 1 << 40, "2001-02-03T04:05:06Z"),
        contents("z", 7, "2026-01-02T03:04:05.000+02:00"),
        "<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>",
        "<CommonPrefixes><Prefix>e//</Prefix></CommonPrefixes>",
        "<IsTruncated>true</IsTruncated><NextContinuationToken>t&amp;1</NextContinuationToken>",
        space=space,
    )
    expected, found = as_the_client(body), parse_page(body)
    assert found.objects == [
        ListedObject(
            *(each["Key"], each["Size"], each["ETag"]),
            int(each["LastModified"].timestamp() * 1_000_000_000),
        )
        for each in expected["Contents"]
    ]
    assert found.prefixes == [each["Prefix"] for each in expected["CommonPrefixes"]]
    assert found.following == expected["NextContinuationToken"] == "t&1"


def test_numbers_that_make_no_sense_are_those_of_one_object() -> None:
    odd = contents("b", time="yesterday").replace("<Size>5<", "<Size>five<")
    found = parse_page(page(contents("a"), odd, contents("c")))
    assert [each.key for each in found.objects] == ["a", "b", "c"]
    assert (found.objects[1].size, found.objects[1].mtime_ns) == (SIZE_UNKNOWN, 0)
    assert found.objects[0][1:] == found.objects[2][1:]


def test_keys_that_the_server_has_escaped_are_unescaped() -> None:
    body = page(
        "<EncodingType>url</EncodingType>",
        contents("a+b%2Fc%01%2B"),
        "<CommonPrefixes><Prefix>d+e/</Prefix></CommonPrefixes>",
    )
    found = parse_page(body)
    assert [each.key for each in found.objects] == ["a b/c\x01+"]
    assert (found.prefixes, found.following) == (["d e/"], None)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>please log in</html>",
        b"",
        page(contents("a"))[:-30],
        page("<Contents><Key>a</Key></Contents>"),
        page("<IsTruncated>true</IsTruncated>"),
    ],
)
def test_what_is_no_listing_is_no_empty_one(body: bytes) -> None:
    with pytest.raises((ValueError, TypeError, XmlTree.ParseError)):
        parse_page(body)
