"""Quantities as users write and read them: `8GiB`, `72h`.

Invariant: what `format_size` and `format_duration` print, `parse_size` and `parse_duration` read.
"""

from __future__ import annotations

import math
import re

from memfs.errors import InvalidValueError

_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "kb": 10**3,
    "kib": 1 << 10,
    "m": 10**6,
    "mb": 10**6,
    "mib": 1 << 20,
    "g": 10**9,
    "gb": 10**9,
    "gib": 1 << 30,
    "t": 10**12,
    "tb": 10**12,
    "tib": 1 << 40,
    "p": 10**15,
    "pb": 10**15,
    "pib": 1 << 50,
}
"""Factors by lower-case unit: decimal for SI prefixes, binary for IEC ones (IEC 80000-13)."""

_DURATION_UNITS_S = {
    "ms": 0.001,
    "": 1.0,
    "s": 1.0,
    "min": 60.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 7 * 86400.0,
}

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")

_STEPS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))
"""A unit, and the one below it, with their seconds."""


def parse_size(text: str | int) -> int:
    """Return bytes.

    Args:
        text: A number of bytes, or a number with a unit: `8GiB`, `1.5 TB`, `4096`. Not negative.

    Raises:
        InvalidValueError: Neither of these, or not a whole number of bytes.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    number, unit = _split(
        text, f"{text!r} is no size: write bytes, or a number like 512MiB or 8GiB"
    )
    factor = _SIZE_UNITS.get(unit.lower())
    if factor is None:
        raise InvalidValueError(
            f"{text!r}: no unit {unit!r}; use KiB, MiB, GiB, TiB or KB, MB, GB, TB"
        )
    whole, _, fraction = number.partition(".")
    # Integers all the way: a float would lose bytes beyond 2**53.
    scale: int = 10 ** len(fraction)
    size, remainder = divmod(int(whole + fraction) * factor, scale)
    if remainder:
        raise InvalidValueError(f"{text!r} is not a whole number of bytes")
    return size


def parse_duration(text: str | float) -> float:
    """Return seconds.

    Args:
        text: A number of seconds, or a number with a unit: `500ms`, `90s`, `72h`, `30d`, or several
            of these, the largest unit first: `1h 30min`. Not negative, not infinite.

    Raises:
        InvalidValueError: Neither of these.
    """
    if isinstance(text, int | float) and not isinstance(text, bool) and 0 <= text < float("inf"):
        return float(text)
    complaint = f"{text!r} is no duration: write seconds, or a number like 90s or 72h"
    parts = _PART.findall(text) if isinstance(text, str) else []
    if len(parts) < 2 or _PART.sub("", str(text)).strip():
        parts = [_split(text, complaint)]
    total_s, last_s = 0.0, math.inf
    for number, unit in parts:
        factor_s = _DURATION_UNITS_S.get(unit.lower())
        if factor_s is None:
            raise InvalidValueError(f"{text!r}: no unit {unit!r}; use ms, s, min, h, d or w")
        if factor_s >= last_s:
            raise InvalidValueError(complaint)
        total_s, last_s = total_s + float(number) * factor_s, factor_s
    return total_s


def _split(text: object, complaint: str) -> tuple[str, str]:
    matched = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if matched is None:
        raise InvalidValueError(complaint)
    return matched[1], matched[2]


def format_size(size: int) -> str:
    """Return bytes in the largest binary unit that leaves at least 1: `1.5 GiB`; for people."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        # 1023.95 would be printed as 1024.0: the next unit is due.
        if abs(value) < 1023.95:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} PiB"


def format_duration(seconds: float) -> str:
    """Return a duration by its two largest units: `3 d 4 h`, `2 min 5 s`, `2.5 s`, `500 ms`.

    For people: rounded to the lower unit, or below a minute to three digits. `parse_duration` reads
    it.
    """
    for unit, length, lower_unit, lower_length in _STEPS:
        count, rest = divmod(round(seconds / lower_length), length // lower_length)
        if count:
            return f"{count} {unit} {rest} {lower_unit}" if rest else f"{count} {unit}"
    if seconds >= 0.9995:
        return f"{seconds:.3g} s"
    milliseconds = round(seconds * 1000, 2 if seconds < 0.01 else 0)
    return f"{milliseconds:g} ms" if milliseconds else "0 s"


def format_count(count: int, noun: str) -> str:
    """Return a count with its noun: `1 file`, `2 files`, `0 directories`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"
