"""Keys of a manager: any text is a path of its own below the directory, and comes back."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memfs.manager.errors import ValueFormatError
from memfs.manager.keys import NAME_BYTES_MAX, is_cut, key_of, path_of

KEYS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300
) | st.text("./%~ab\u00e9", min_size=1, max_size=40)


@given(KEYS)
@example("..")
@example("../../etc/passwd")
@example("/etc/passwd")
@example(".memfs")
@example("%")
@example("%2E")
@example("a//b")
@example("a/")
@example("x" * 201)
@example("\u00e9" * 150)
def test_a_key_is_a_path_below_the_directory_and_comes_back(key: str) -> None:
    path = path_of(key)
    assert os.path.normpath(path) == path
    names = path.split("/")
    assert not any(name.startswith(".") or not name for name in names)
    assert all(len(name.encode()) <= NAME_BYTES_MAX for name in names)
    assert key_of(path) == (None if is_cut(path) else key)


@given(KEYS, KEYS)
@example("x" * 200 + "a", "x" * 200 + "b")
@example(".a", "%2Ea")
@example("", "%")
def test_two_keys_never_have_one_path(one: str, other: str) -> None:
    if one and one != other:
        assert path_of(one) != path_of(other)


def test_a_key_that_looks_like_a_cut_one_is_told_from_it() -> None:
    """`%` is escaped, so no key can end like a digest."""
    cut = path_of("y" * 300)
    assert is_cut(cut)
    assert path_of(cut) != cut
    assert not is_cut(path_of("a%~" + "0" * 32))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "1 to 65536 characters"),
        ("a\0b", "NUL"),
        ("a\ud800", "surrogate"),
        ("a" * 65_537, "characters"),
        ("a/" * 2000 + "b", "2000 directories"),
        ("日/" * 1000 + "b", "1000 directories"),
    ],
)
def test_what_is_no_key_is_refused(key: str, reason: str) -> None:
    with pytest.raises(ValueFormatError, match=reason):
        path_of(key)


def test_numbers_are_no_keys() -> None:
    with pytest.raises(ValueFormatError, match="a key is a text, and not int"):
        path_of(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["%2", "%2e", "a/.b", "", "a%00", "%41", "a//b", "%%"])
def test_a_file_of_another_program_may_be_no_key(path: str) -> None:
    assert key_of(path) is None
