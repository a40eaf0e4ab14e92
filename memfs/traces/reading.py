"""Reading traces, recorded ones and plain ones, into numbered columns.

Invariant: a trace is read as a stream: what grows with its length are the columns of `Trace` alone;
and a row that makes no sense is refused with its number.

A recorded trace is a directory of parts, or one of them. A plain one is CSV (UTF-8, with a header)
or Parquet with the columns `key` (text, bytes or integer) and `size` (whole bytes of the file or
object, 0 or more), named in any case. Its rows are in the order in which things happened, so that
`time` and further columns are passed over.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from memfs.errors import InvalidValueError, NotSupportedError
from memfs.traces.trace import Event, KeyNumbers, Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

_RECORDED_COLUMNS = ("inode", "path", "operation", "bytes")
_EVENTS = {
    "open": Event.ACCESS,
    # A file may be opened long before it is sealed: it must not look like one from the store.
    "create": Event.WRITE,
    "write": Event.WRITE,
    "unlink": Event.REMOVE,
}
"""What counts of a recorded trace: hydrations are consequences, and a read of a form says nothing
of its file's size."""

_PROGRESS_ROW_COUNT = 1 << 15
_PARQUET_MAGIC = b"PAR1"
"""First bytes of the format (https://parquet.apache.org/docs/file-format/)."""


def _silent(_done: int, _total: int) -> None:
    return


def read_trace(path: Path, progress: Callable[[int, int], None] = _silent) -> Trace:
    """Return a trace.

    Args:
        path: Directory of a recorded trace, or a file, Parquet or CSV.
        progress: Called now and then with work done and work in all.

    Raises:
        InvalidValueError: It is no trace, a row makes no sense, or nothing is accessed in it.
        NotSupportedError: It is Parquet and pyarrow is not installed.
        OSError: It cannot be read.
    """
    trace = Trace()
    numbers = KeyNumbers(trace)
    if path.is_dir():
        parts = _parts(path)
        for done, part in enumerate(parts, 1):
            _read_parquet(part, trace, numbers)
            progress(done, len(parts))
    elif _starts_like_parquet(path):
        _read_parquet(path, trace, numbers)
    else:
        _read_csv(path, trace, numbers, progress)
    if Event.ACCESS not in trace.events:
        raise InvalidValueError(f"{path} holds no access to a file: there is nothing to replay")
    return trace


def _parts(directory: Path) -> list[Path]:
    parts: list[Path] = _parquet(directory).list_parts(directory)
    if not parts:
        raise InvalidValueError(f"{directory} is no trace: it holds no part-000001.parquet")
    return parts


def _starts_like_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC


def _parquet(path: Path) -> ModuleType:
    try:
        # Imported here: it takes 0.2 s, and pyarrow is an extra.
        from memfs.traces import parquet
    except ImportError as error:
        raise NotSupportedError(
            f"{path}: reading Parquet needs pyarrow ({error}); pip install 'memfs-tiers[traces]'"
        ) from None
    return parquet


def _read_parquet(path: Path, trace: Trace, numbers: KeyNumbers) -> None:
    parquet = _parquet(path)
    names = parquet.read_columns(path)
    add: Callable[..., None]
    if {"inode", "operation", "bytes"} <= set(names):
        wanted = [name for name in _RECORDED_COLUMNS if name in names]
        add = _add_recorded if "path" in names else _add_recorded_without_paths
    else:
        wanted = [names[index] for index in _find_columns(path, names)]
        add = _add_plain
    first = 1
    for batch in parquet.read_rows(path, wanted):
        row = first
        try:
            for values in zip(*batch, strict=True):
                add(trace, numbers, *values)
                row += 1
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidValueError(f"{path}, row {row}: {error}") from None
        first = row


def _add_recorded(
    trace: Trace,
    numbers: KeyNumbers,
    inode: int,
    path: str | None,
    operation: str,
    size: int,
) -> None:
    event = _EVENTS.get(operation)
    if event is not None:
        trace.add(event, numbers.number(inode, path), _checked_size(size))


def _add_recorded_without_paths(
    trace: Trace, numbers: KeyNumbers, inode: int, operation: str, size: int
) -> None:
    _add_recorded(trace, numbers, inode, None, operation, size)


def _add_plain(trace: Trace, numbers: KeyNumbers, key: object, size: int) -> None:
    if key is None:
        raise ValueError("the key is null")
    name = key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else None
    trace.add(Event.ACCESS, numbers.number(key, name), _checked_size(size))


def _read_csv(
    path: Path, trace: Trace, numbers: KeyNumbers, progress: Callable[[int, int], None]
) -> None:
    total = path.stat().st_size
    with path.open("rb") as binary, io.TextIOWrapper(binary, "utf-8", newline="") as file:
        rows = csv.reader(file)
        try:
            columns = _find_columns(path, next(rows, []))
            for number, row in enumerate(_full_rows(rows), 1):
                _add_csv_row(trace, numbers, row, columns)
                if number % _PROGRESS_ROW_COUNT == 0:
                    progress(binary.tell(), total)
        except UnicodeDecodeError:
            raise InvalidValueError(f"{path} is neither Parquet nor CSV in UTF-8") from None
        except (ValueError, csv.Error) as error:
            raise InvalidValueError(f"{path}, line {rows.line_num}: {error}") from None


def _full_rows(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Pass over empty lines, as at the end of a file."""
    return (row for row in rows if row)


def _add_csv_row(
    trace: Trace, numbers: KeyNumbers, row: list[str], columns: tuple[int, int]
) -> None:
    if len(row) <= max(columns):
        raise ValueError(f"{len(row)} columns, fewer than the header has")
    key, text = (row[column] for column in columns)
    try:
        size = int(text)
    except ValueError:
        raise ValueError(f"size {text!r} is no whole number of bytes") from None
    trace.add(Event.ACCESS, numbers.number(key), _checked_size(size))


def _find_columns(path: Path, header: list[str]) -> tuple[int, int]:
    """Return the indices of `key` and `size`."""
    places = {name.strip().lower().removeprefix("\ufeff"): i for i, name in enumerate(header)}
    for name in ("key", "size"):
        if name not in places:
            shown = ", ".join(repr(name) for name in header[:8]) or "none"
            raise InvalidValueError(
                f"{path} has no column {name!r} (its columns: {shown}); a trace has the columns "
                "key and size, or those that `memfs trace` records"
            )
    return places["key"], places["size"]


def _checked_size(size: object) -> int:
    if not isinstance(size, int) or not 0 <= size < 1 << 63:
        raise ValueError(f"size {size!r} is no whole number of bytes, 0 or more")
    return size
