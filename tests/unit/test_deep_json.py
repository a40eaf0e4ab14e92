"""JSON that others give may be nested as deep as it likes: Python's parser gives up on it.

RecursionError is no ValueError. Each place that takes JSON from a program, a file or a store says
of it what it says of any other text that is no JSON.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from memfs.control.protocol import RequestError, parse_request
from memfs.errors import CorruptDataError, InvalidValueError, UsageError
from memfs.exports.description import Description, Done
from memfs.filesystem.xattrs import parse_xattrs
from memfs.manager.metadata import TYPES_XATTR, metadata_of
from memfs.metadata.columns import MAGIC, decode
from memfs.metadata.sqlite.format import FILE_NAME, read_format
from memfs.policy.ages import parse_ages
from memfs.query.parsing import parse_text
from memfs.query.values import elements_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEEP = "[" * 60_000
OBJECT = '{"format":' * 10_000


@pytest.mark.parametrize(
    ("take", "error"),
    [
        (lambda: parse_ages(DEEP), InvalidValueError),
        (lambda: parse_ages(OBJECT), InvalidValueError),
        (lambda: parse_xattrs(DEEP.encode()), InvalidValueError),
        (lambda: parse_request(DEEP.encode()), RequestError),
        (lambda: parse_text(DEEP), InvalidValueError),
        (lambda: Done.decode(DEEP.encode(), "done.json"), CorruptDataError),
        (lambda: Description.decode(OBJECT.encode(), "contents"), CorruptDataError),
        (
            lambda: decode(MAGIC + struct.pack("<I", len(DEEP)) + DEEP.encode(), "part"),
            CorruptDataError,
        ),
    ],
)
def test_deep_json_is_refused(take: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        take()


def test_deep_json_is_no_value(tmp_path: Path) -> None:
    assert elements_of(DEEP) is None
    assert metadata_of({TYPES_XATTR: DEEP.encode(), "user.a": b"1"}) == {"a": 1}
    (tmp_path / FILE_NAME).write_text(DEEP)
    with pytest.raises(UsageError, match="cannot be read"):
        read_format(tmp_path)
