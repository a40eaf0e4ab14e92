"""Names on the page: any bytes lead there and back, and no id leads out of the mount."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfs.errors import InvalidValueError
from memfs_tools.web.names import id_of, opened, path_of, shown
from tests.hostile import HOSTILE, assert_harmless

if TYPE_CHECKING:
    from pathlib import Path

_NAME = st.binary(min_size=1, max_size=20).filter(
    lambda name: not {0, ord("/")} & {*name} and name not in (b".", b"..")
)


@given(st.lists(_NAME, max_size=4))
def test_an_id_leads_back_to_the_bytes_of_its_path(names: list[bytes]) -> None:
    path = os.fsdecode(b"/".join(names))
    name = id_of(path)
    assert name.isascii()
    assert name.isprintable()
    assert path_of(name) == path
    assert id_of(f"/{path}") == name


@pytest.mark.parametrize(
    "name",
    ["..", "a/../b", "%2e%2e/etc", "a%2F..%2Fb", "a/./b", "a%00b", "x" * 20_000, "ü"],
    ids=range(8),
)
def test_what_is_no_id_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError):
        path_of(name)


def test_no_link_leads_out_of_the_mount(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "secret").write_bytes(b"")
    (tmp_path / "mount/out").symlink_to("../secret")
    (tmp_path / "mount/away").symlink_to("/etc")
    (tmp_path / "mount/file").write_bytes(b"here")
    (tmp_path / "mount/in").symlink_to("file")
    with opened(tmp_path / "mount", "in") as place:
        assert place.read_bytes() == b"here"
    with opened(tmp_path / "mount", "") as place:
        assert place.is_dir()
    for path in ("out", "away/passwd"):
        with (
            pytest.raises(OSError, match="Invalid cross-device link"),
            opened(tmp_path / "mount", path),
        ):
            pass


def test_every_text_of_an_answer_is_escaped() -> None:
    answer = shown({"a": [HOSTILE, {HOSTILE: 1}], "b": None, "c": 1.5, "d": (True,)})
    assert_harmless(str(answer))
    assert answer["b"] is None
    assert answer["d"] == [True]
    assert "\udcff" not in str(answer)
