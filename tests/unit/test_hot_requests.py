"""Requests of programs: whatever passes the door is bounded, and the rest is refused."""

from __future__ import annotations

import contextlib
import json
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfs.hot.protocol import PACKET_BYTES_MAX, ProtocolError, encode, error_reply, shorten
from memfs.hot.requests import (
    NAME_BYTES_MAX,
    WAIT_S_MAX,
    read_attach,
    read_attach_snapshot,
    read_call,
    read_id,
    read_lease,
    read_snapshot,
    read_snapshot_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ATTACH = {"op": "attach", "token": "t", "timeout_s": 1}

values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from([[], {}, [[]], {"a": "t"}, {"a": 1}, {"\ud800": "t"}])
)
FIELDS = [
    *("id", "op", "token", "dtype", "layout", "demand"),
    *("device", "timeout_s", "name", "label", "tokens", "lease"),
]
readers: list[Callable[[dict[str, object]], object]] = [
    read_attach,
    read_attach_snapshot,
    read_call,
    read_id,
    read_lease,
    read_snapshot,
    read_snapshot_name,
]


@given(st.sampled_from(FIELDS), values, st.sampled_from(readers))
def test_a_request_is_read_or_refused(
    field: str, value: object, read: Callable[[dict[str, object]], object]
) -> None:
    """By `ProtocolError`, and by nothing else."""
    with contextlib.suppress(ProtocolError):
        read({"token": "t", "timeout_s": 0, "name": "n", "label": "l", field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("token", "t" * 600),
        ("token", None),
        ("device", "\\" * 40_000),
        ("device", "\ud800"),
        ("device", 3),
        ("dtype", "float99"),
        ("dtype", ["float16"]),
        ("layout", "x" * 100_000),
        ("demand", 1),
        ("timeout_s", "1"),
        ("timeout_s", math.nan),
        ("timeout_s", -1),
        ("timeout_s", True),
    ],
)
def test_a_field_that_is_wrong_is_named(field: str, value: object) -> None:
    """And its value is not repeated at length."""
    with pytest.raises(ProtocolError, match=f"^{field}"):
        read_attach({**ATTACH, field: value})


def test_a_wait_is_bounded() -> None:
    """Infinity is a number of JSON to Python."""
    assert read_attach({**ATTACH, "timeout_s": math.inf}).timeout_s == WAIT_S_MAX
    assert read_attach({**ATTACH, "timeout_s": 0}).timeout_s == 0


@pytest.mark.parametrize("name", ["a", "\udcff", "ü" * 127, "/", "a" * NAME_BYTES_MAX])
def test_names_are_what_files_may_be_called(name: str) -> None:
    """Bytes that are no text included."""
    assert read_snapshot_name({"name": name}) == name


@pytest.mark.parametrize(
    "name",
    ["", "a" * (NAME_BYTES_MAX + 1), "ü" * 128, "\ud800", "\x1b[2J", "a\nb", "\x9b", 1, None],
)
def test_other_names_are_refused(name: object) -> None:
    """Those that are too long, cannot be encoded, or steer a terminal."""
    with pytest.raises(ProtocolError):
        read_snapshot_name({"name": name})


@pytest.mark.parametrize("character", ["a", "\\", "\x00", "\U0001f600", "\ud800"])
def test_a_text_of_an_error_fits_a_packet_whatever_it_is(character: str) -> None:
    """Its end, with the remedy, is kept."""
    reply = error_reply(ProtocolError(character * 200_000 + "; do this"))
    assert len(encode({"id": 1, **reply})) < PACKET_BYTES_MAX // 4
    assert str(reply["message"]).endswith("; do this")
    assert shorten("short") == "short"
    assert json.loads(encode(reply)) == reply
