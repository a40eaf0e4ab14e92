"""What a move waits for, in one word: of the sentences that tell why it waits.

Invariant: every sentence has a word; one that is not known here has `other`.
"""

from __future__ import annotations

import re

_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (word, re.compile(pattern))
    for word, pattern in (
        ("quota", r"\bquotas\."),
        ("open", r"has the file open or mapped"),
        ("use", r"^it was used; its local copy goes"),
        ("shared", r"^a clone of the file shares"),
        # A store, or a bucket, may have that name.
        ("archived", r"(?<!\bstore )(?<![/'])\barchived?\b(?![/'])|\brestored?\b"),
        ("ram", r"\bRAM tier\b|^pool .* is full"),
        ("disk", r"\bdisk\b.*\bfull\b|\bno room\b|\bNo space left\b"),
        ("key", r"\bencrypt|\bkeys? \b"),
        ("damage", r"\bdamaged?\b|\bdigest\b|\bmemfs fsck\b|\bcorrupt"),
        ("store", r"\bstore\b|\bbucket\b|\bobject|\bglacier\b|\bs3:|\btimed out\b|\brefuses?\b"),
    )
)
"""The first that fits is it."""

OTHER = "other"
WORDS = (*(word for word, _ in _WORDS), OTHER)


def word_of(reason: str) -> str:
    """Return the word for a sentence."""
    return next((word for word, pattern in _WORDS if pattern.search(reason)), OTHER)
