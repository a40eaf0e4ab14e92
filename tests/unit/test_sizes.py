"""Sizes and durations as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfs.errors import InvalidValueError
from memfs.sizes import format_count, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (4096, 4096),
        ("0", 0),
        ("4096", 4096),
        ("8GiB", 8 << 30),
        ("512 MiB", 512 << 20),
        ("1.5kib", 1536),
        ("2TB", 2 * 10**12),
        ("8191.999999999PiB", None),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes_are_read_to_the_byte(text: str | int, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(InvalidValueError, match="whole number of bytes"):
            parse_size(text)
    else:
        assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1", "8 gigs", "1e9", "0x10", -1, True])
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(InvalidValueError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (30, 30.0),
        (0.25, 0.25),
        ("90s", 90.0),
        ("500ms", 0.5),
        ("72h", 259200.0),
        ("30d", 2592000.0),
        ("4 d 4 h", 360000.0),
        ("1h30min", 5400.0),
        ("2 min 5 s", 125.0),
    ],
)
def test_durations_are_read_in_seconds(text: str | float, expected: float) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "-1s",
        "3 fortnights",
        "4h 4d",
        "4d 4d",
        "4d 4",
        "4 d and 4 h",
        float("inf"),
        float("nan"),
        True,
    ],
)
def test_what_is_no_duration_is_refused(text: str | float) -> None:
    with pytest.raises(InvalidValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (8 << 30, "8.0 GiB"),
        (3 << 50, "3.0 PiB"),
    ],
)
def test_sizes_are_printed_in_the_unit_that_fits(size: int, expected: str) -> None:
    assert format_size(size) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (0.5, "500 ms"),
        (0.0025, "2.5 ms"),
        (0.9996, "1 s"),
        (2.5, "2.5 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (90000, "1 d 1 h"),
        (86410, "1 d"),
        (86399.9, "1 d"),
        (360_000, "4 d 4 h"),
    ],
)
def test_durations_are_printed_by_two_units(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


@given(st.floats(0.0, 1e10))
def test_what_is_printed_can_be_read(seconds: float) -> None:
    """And means the same, within the rounding; printed again it is the same text."""
    text = format_duration(seconds)
    read_s = parse_duration(text)
    assert read_s == pytest.approx(seconds, rel=0.025, abs=5.1e-6)
    assert format_duration(read_s) == text


@given(st.integers(0, 1 << 60))
def test_sizes_that_are_printed_can_be_read(size: int) -> None:
    """A size of whole units to the byte."""
    text = format_size(size).replace(" B", "B")
    factor = parse_size("1" + text.split()[-1].lstrip("0123456789.")) if " " in text else 1
    number = float(text.split()[0].rstrip("B"))
    assert number * factor == pytest.approx(size, rel=0.06)


@given(st.integers(1, 1023), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_whole_sizes_are_printed_as_they_were_written(count: int, unit: str) -> None:
    assert parse_size(format_size(parse_size(f"{count}{unit}"))) == parse_size(f"{count}{unit}")


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [(0, "file", "0 files"), (1, "file", "1 file"), (2, "directory", "2 directories")],
)
def test_counts_agree_with_their_noun(count: int, noun: str, expected: str) -> None:
    assert format_count(count, noun) == expected
