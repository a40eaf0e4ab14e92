"""Prefixes of patterns: whatever a pattern is found in begins with its prefix."""

from __future__ import annotations

import re

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from memfs.query.prefixes import end_of_prefix, literal_parts, literal_prefix

PATTERNS = st.lists(
    st.sampled_from([*"ab.^$*+?|()[]{1}\\-,", "\\A", "\\.", "\\b", "{0,1}", "(?i:a)", "ab"]),
    max_size=7,
)


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        ("^San Fran", "San Fran"),
        ("\\Aab", "ab"),
        ("^ab$", "ab"),
        ("^ab+", "ab"),
        ("^ab*", "a"),
        ("^ab?c", "a"),
        ("^ab{0,2}", "a"),
        ("^a\\.b\\-c", "a.b-c"),
        ("^a\\d", "a"),
        ("^a\\\\b", "a\\b"),
        ("^äö[x]", "äö"),
        # Another beginning is possible.
        ("^a|b", ""),
        ("ab", ""),
        (" ^ab", ""),
        ("(?i)^ab", ""),
        ("^(?i:ab)", ""),
        ("(^ab)", ""),
        ("^", ""),
        ("", ""),
    ],
)
def test_the_prefix_of_a_pattern(pattern: str, prefix: str) -> None:
    assert literal_prefix(pattern) == prefix


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@given(PATTERNS, st.text("abAB.\\\n-^", max_size=5))
@settings(max_examples=500, deadline=None)
def test_what_a_pattern_is_found_in_begins_with_its_prefix(pieces: list[str], text: str) -> None:
    pattern = "^" + "".join(pieces)
    try:
        found = re.search(pattern, text)
    except re.error:
        return
    prefix = literal_prefix(pattern)
    if found is not None:
        assert text.startswith(prefix)


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("San Fran", ["San Fran"]),
        ("^word19[0-9]+ of$", ["word19", " of"]),
        ("ab*cd?ef+gh{2}ij{k", ["a", "c", "ef", "g", "i", "k"]),
        ("a(?:bc|d)e(f(g)h)?i", ["a", "e", "i"]),
        (r"a\.b\\c\d\x41e\012f\u0041g\N{DIGIT ONE}h\-", ["a.b\\c", "e", "f", "g", "h-"]),
        (r"a[^]|(b]c[x\]|]d(?#|[()(|)e", ["a", "c", "d", "e"]),
        ("a(?=b)c(?P<n>d)e", ["a", "c", "e"]),
        ("äö.ß", ["äö", "ß"]),
        ("ab(?#)*c(?#d)e", ["a", "ce"]),
        ("ab|c", []),
        ("(?i)ab", []),
        ("ab(?x: # )cd\n)", []),
        ("", []),
    ],
)
def test_the_parts_of_a_pattern(pattern: str, parts: list[str]) -> None:
    re.compile(pattern)
    assert literal_parts(pattern) == parts


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@given(
    st.lists(
        st.sampled_from(
            [
                *"ab.^$*+?|()[]{1}\\-,#\n",
                *(
                    "\\.",
                    "\\b",
                    "\\1",
                    "\\x61",
                    "\\u0062",
                    "{0,1}",
                    "(?i:",
                    "ab",
                    "(?:",
                    "(?x:",
                    "(?#",
                ),
                *("(?=", "(?<!", "(?P<n>", "(?P=n)", "[^]", "[]", "(a)", "abab"),
            ]
        ),
        max_size=9,
    ),
    st.text("abAB.\\\n-^#x1", max_size=8),
)
@settings(max_examples=500, deadline=None)
def test_what_a_pattern_is_found_in_has_its_parts(pieces: list[str], text: str) -> None:
    pattern = "".join(pieces)
    try:
        found = re.search(pattern, text)
    except re.error:
        return
    if found is not None:
        assert all(part in text for part in literal_parts(pattern))


@given(st.text(max_size=3), st.text(max_size=3))
def test_all_texts_with_a_prefix_are_before_its_end(prefix: str, rest: str) -> None:
    end = end_of_prefix(prefix)
    assert end is None or prefix + rest < end


@pytest.mark.parametrize(
    ("prefix", "end"),
    [("ab", "ac"), ("a\U0010ffff", "b"), ("\U0010ffff", None), ("", None), ("\ud7ff", "\ue000")],
)
def test_the_end_is_the_least_text_beyond(prefix: str, end: str | None) -> None:
    assert end_of_prefix(prefix) == end
