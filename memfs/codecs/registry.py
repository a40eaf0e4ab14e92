"""The registry of codecs: from what users write to a codec that works.

Invariant: a name means one codec; the built-in ones cannot be replaced by an entry point.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import cast

from memfs.codecs.codec import Codec
from memfs.codecs.lz4 import Lz4Codec
from memfs.codecs.none import NoneCodec
from memfs.codecs.snappy import SnappyCodec
from memfs.codecs.zstd import ZstdCodec
from memfs.errors import InvalidValueError, MemfsError
from memfs.types import CodecSpec

CodecFactory = Callable[[int | None], Codec]
"""What an entry point names: takes the level, or None for the codec's default."""

ENTRY_POINT_GROUP = "memfs.codecs"

SPEC_BYTES_MAX = 255
"""Longest codec spec as text; the container keeps its length in one byte."""

_CODEC_CACHE_COUNT = 64
"""More specs than any mount uses at a time; a codec keeps compression contexts by thread."""

_BUILT_IN: dict[str, CodecFactory] = {
    "none": NoneCodec,
    "lz4": Lz4Codec,
    "snappy": SnappyCodec,
    "zstd": ZstdCodec,
}


def codec_names() -> list[str]:
    """Return the names of all codecs, built-in ones first; entry points are named, not loaded."""
    from importlib.metadata import entry_points

    added = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    return [*_BUILT_IN, *sorted(added.difference(_BUILT_IN))]


def parse_codec(text: str) -> CodecSpec:
    """Read a codec as users write it: `zstd:9`, `lz4`, `none`.

    Raises:
        InvalidValueError: No such codec, no such level, or a codec that cannot be loaded.
    """
    name, colon, level_text = text.strip().partition(":")
    level: int | None = None
    if colon:
        # int() alone would also take "+3", " 3" and "1_0", which would not read back the same.
        if not (level_text.isascii() and level_text.isdigit() and len(level_text) <= 4):
            raise InvalidValueError(
                f"codec {text!r}: the level must be a whole number, as in `zstd:3`"
            )
        level = int(level_text)
    return get_codec(CodecSpec(name, level)).spec


@functools.lru_cache(maxsize=_CODEC_CACHE_COUNT)
def get_codec(spec: CodecSpec) -> Codec:
    """Return the codec of a spec; the same object for the same spec, safe for all threads.

    Raises:
        InvalidValueError: As for `parse_codec`.
    """
    factory = _BUILT_IN.get(spec.name) or _load_entry_point(spec.name)
    try:
        codec = factory(spec.level)
    except MemfsError:
        raise
    except Exception as error:
        raise InvalidValueError(
            f"codec {spec.name!r} of the entry-point group {ENTRY_POINT_GROUP} failed to start "
            f"with level {spec.level}: {type(error).__name__}: {error}"
        ) from error
    if len(str(codec.spec).encode()) > SPEC_BYTES_MAX:
        raise InvalidValueError(f"codec {spec.name[:40]!r}...: more than {SPEC_BYTES_MAX} bytes")
    return codec


def _load_entry_point(name: str) -> CodecFactory:
    # Imported here, as above: 20 ms, for which only those who use such codecs should wait.
    from importlib.metadata import entry_points

    points = entry_points(group=ENTRY_POINT_GROUP, name=name)
    if not points:
        raise InvalidValueError(
            f"no codec is named {name!r}; there are {', '.join(codec_names())}, "
            "with a level after a colon where the codec has levels (`zstd:3`)"
        )
    point = next(iter(points))
    try:
        return cast("CodecFactory", point.load())
    except Exception as error:
        raise InvalidValueError(
            f"codec {name!r} cannot be loaded from its entry point {point.value!r}: "
            f"{type(error).__name__}: {error}; repair or remove the package that provides it"
        ) from error
