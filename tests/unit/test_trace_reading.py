"""Reading traces: plain CSV and Parquet, recorded directories, and what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memfs.errors import InvalidValueError
from memfs.traces.access_log import AccessLog, Operation
from memfs.traces.parquet import PartWriter
from memfs.traces.reading import read_trace
from memfs.traces.trace import Event
from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.traces.trace import Trace

ROWS = [("Access", "a", 10), ("Access", "b", 20), ("Access", "a", 10)]


def _rows(trace: Trace) -> list[tuple[str, str, int]]:
    """A trace as people would write it."""
    columns = zip(trace.events, trace.keys, trace.sizes_bytes, strict=True)
    return [
        (Event(event).name.capitalize(), trace.names[key], size) for event, key, size in columns
    ]


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "time,key,size\n1,a,10\n2,b,20\n3,a,10\n",
        "Size,Other,KEY\r\n10,x,a\r\n20,x,b\r\n10,x,a\r\n\r\n",
        '\ufefftime,key,size\n1,"a",10\n2,b, 20 \n3,a,10',
    ],
    ids=["plain", "other order and case", "byte order mark and quotes"],
)
def test_csv_is_read_by_its_header(tmp_path: Path, text: str) -> None:
    assert _rows(read_trace(_write(tmp_path / "trace.csv", text))) == ROWS


@pytest.mark.parametrize("keys", [["a", "b", "a"], [b"a", b"b", b"a"]], ids=["text", "bytes"])
def test_parquet_is_read_by_its_columns(tmp_path: Path, keys: list[object]) -> None:
    path = tmp_path / "trace"
    pq.write_table(
        pa.table({"Key": pa.array(keys).dictionary_encode(), "SIZE": [10, 20, 10]}), path
    )
    assert _rows(read_trace(path)) == ROWS


def test_keys_may_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table({"key": pa.array([7, 2**63], pa.uint64()), "size": [1, 2]}), path)
    assert read_trace(path).names == ["7", str(2**63)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no column 'key' (its columns: none)"),
        ("time,name,size\n1,a,1\n", "no column 'key' (its columns: 'time', 'name', 'size')"),
        ("key,size\na,1\nb,many\n", "line 3: size 'many' is no whole number of bytes"),
        ("key,size\na,-1\n", "line 2: size -1 is no whole number of bytes, 0 or more"),
        (f"key,size\na,{1 << 63}\n", "line 2: size 9223372036854775808 is no whole number"),
        ("key,size\na,1\n\nb\n", "line 4: 1 columns, fewer than the header has"),
        ("key,size\n", "holds no access"),
        ("key,size\n\ud800,1\n", "neither Parquet nor CSV in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_csv_is_told_with_its_line(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InvalidValueError) as caught:
        read_trace(path)
    assert complaint in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "sizes", "complaint"),
    [
        (["a", None], [1, 1], "row 2: the key is null"),
        (["a", "b"], [1, None], "row 2: size None is no whole number"),
        (["a", "b"], [1.0, 2.0], "row 1: size 1.0 is no whole number"),
    ],
)
def test_what_is_wrong_with_a_parquet_is_told_with_its_row(
    tmp_path: Path, keys: list[object], sizes: list[object], complaint: str
) -> None:
    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table({"key": keys, "size": sizes}), path)
    with pytest.raises(InvalidValueError, match=complaint):
        read_trace(path)


def test_the_row_of_an_error_counts_from_the_start_of_the_file(tmp_path: Path) -> None:
    """Files are read in batches; the number must not begin anew with each."""
    count = 100_000
    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table({"key": ["a"] * count + [None], "size": [1] * (count + 1)}), path)
    with pytest.raises(InvalidValueError, match=f"row {count + 1}:"):
        read_trace(path)


def test_a_damaged_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    path.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(InvalidValueError, match="is no intact Parquet file"):
        read_trace(path)


def test_a_directory_without_parts_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="is no trace"):
        read_trace(tmp_path)


def test_a_recorded_trace_tells_accesses_writes_and_removals(tmp_path: Path) -> None:
    """Over two parts; a file has the name that any of its rows has."""
    log = AccessLog()
    writer = PartWriter(tmp_path, 1 << 30)
    log.note(Operation.CREATE, InodeNo(5), 0, Tier.COLD)
    log.note(Operation.WRITE, InodeNo(5), 10, Tier.COLD)
    log.note(Operation.OPEN, InodeNo(6), 20, Tier.GLACIER)
    log.note(Operation.HYDRATE, InodeNo(6), 20, Tier.GLACIER)
    log.note(Operation.READ, InodeNo(6), 4, Tier.GLACIER)
    writer.append(log.take(), {})
    writer = PartWriter(tmp_path, 1 << 30)
    log.note(Operation.OPEN, InodeNo(5), 10, Tier.WARM)
    log.note(Operation.UNLINK, InodeNo(5), 10, Tier.COLD)
    writer.append(log.take(), {5: "/five"})
    assert writer.part_count == 2
    assert _rows(read_trace(tmp_path)) == [
        ("Write", "/five", 0),
        ("Write", "/five", 10),
        ("Access", "6", 20),
        ("Access", "/five", 10),
        ("Remove", "/five", 10),
    ]


def test_the_footprint_counts_each_file_once_at_its_largest(tmp_path: Path) -> None:
    trace = read_trace(_write(tmp_path / "trace.csv", "key,size\na,10\nb,20\na,30\na,5\n"))
    assert trace.footprint_bytes() == 50
