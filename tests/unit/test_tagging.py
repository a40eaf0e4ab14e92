"""Tables of tags: what is no tag is told with its place, and nothing is written."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memfs.client.placement import PlacementError
from memfs.client.tagging import read_csv, set_tags
from memfs.errors import UsageError
from memfs_tools.tag_table import read_parquet

if TYPE_CHECKING:
    from pathlib import Path


def test_a_cell_longer_than_any_xattr_is_refused_with_its_line(tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text(f"path,city\none,Ulm\ntwo,{'x' * 200_000}\n")
    with pytest.raises(UsageError, match=r"tags\.csv, line 3: field larger than"):
        list(read_csv(table, tmp_path))


def test_a_name_with_a_nul_is_refused_as_a_file_is(tmp_path: Path) -> None:
    """The other rows of a table are still tagged."""
    with pytest.raises(PlacementError, match="a name has no NUL") as caught:
        set_tags(tmp_path / "a\0b", {b"user.city": b"Ulm"})
    assert caught.value.errno == errno.EINVAL


def test_a_list_of_what_is_no_tag_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "tags.parquet"
    pq.write_table(pa.table({"path": ["one"], "days": [[b"\xff"]]}), table)
    with pytest.raises(UsageError, match="the column days has list, which is no tag"):
        list(read_parquet(table, tmp_path))
