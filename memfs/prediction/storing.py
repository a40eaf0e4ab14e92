"""Storing: what prediction has learned, as settings that outlive the daemon.

Invariant: each setting tells its own format and is checked by itself; one that is damaged or of
another format changes nothing.
"""

from __future__ import annotations

import json
import sys
import zlib
from typing import TYPE_CHECKING

from memfs.errors import InvalidValueError
from memfs.prediction.accesses import GUESSED
from memfs.prediction.successors import PAGE_BYTES, PAGE_COUNT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.prediction.predictor import Predictor

_PREFIX = "prediction."
_SCORES = _PREFIX + "scores"
_PAGES = {f"{_PREFIX}successors.{page}": page for page in range(PAGE_COUNT)}

SETTING_NAMES = (_SCORES, *_PAGES)
"""All settings that `dump` may yield."""

_MAGIC = f"memfs prediction 1 {sys.byteorder}\n".encode()
"""Format 1. Inode numbers are stored in the byte order of the machine: another one starts anew."""

_SCORES_BYTES_MAX = 64 << 10


def dump(predictor: Predictor) -> Iterator[tuple[str, bytes]]:
    """Yield the settings that changed since the last call: name and value, at most 42 KB."""
    scores = {
        source.label: [score.issued_count, score.hit_count, score.wasted_count, score.precision]
        for source, score in predictor.scores.by_source.items()
    }
    yield _SCORES, _MAGIC + zlib.compress(json.dumps(scores).encode())
    for page, content in predictor.successors.take_changed():
        yield f"{_PREFIX}successors.{page}", _MAGIC + zlib.compress(content, 1)


def restore(predictor: Predictor, name: str, value: bytes) -> None:
    """Put back one setting that `dump` yielded.

    Raises:
        InvalidValueError: It is not one, or damaged, or of another format; nothing has changed.
    """
    if not value.startswith(_MAGIC):
        raise InvalidValueError(f"setting {name}: not of the format that this version writes")
    content = _expand(name, value[len(_MAGIC) :])
    if name == _SCORES:
        _restore_scores(predictor, content)
    elif name in _PAGES and len(content) == PAGE_BYTES:
        predictor.successors.load_page(_PAGES[name], content)
    else:
        raise InvalidValueError(f"setting {name}: {len(content)} bytes are no page of it")


def _expand(name: str, compressed: bytes) -> bytes:
    limit = max(PAGE_BYTES, _SCORES_BYTES_MAX)
    expander = zlib.decompressobj()
    try:
        # One byte more than is right, so that what is too long is noticed and not kept.
        content = expander.decompress(compressed, limit + 1)
    except zlib.error as error:
        raise InvalidValueError(f"setting {name}: {error}") from None
    if not expander.eof:
        raise InvalidValueError(f"setting {name}: cut off, or too long")
    return content


def _restore_scores(predictor: Predictor, content: bytes) -> None:
    try:
        stored = json.loads(content)
        rows = {source: stored[source.label] for source in GUESSED}
        for issued, hit, wasted, precision in rows.values():
            if min(int(issued), int(hit), int(wasted)) < 0 or not 0.0 <= float(precision) <= 1.0:
                raise ValueError
    except (ValueError, KeyError, TypeError):
        raise InvalidValueError(f"setting {_SCORES}: its content makes no sense") from None
    for source, (issued, hit, wasted, precision) in rows.items():
        score = predictor.scores.by_source[source]
        score.issued_count, score.hit_count = int(issued), int(hit)
        score.wasted_count, score.precision = int(wasted), float(precision)
