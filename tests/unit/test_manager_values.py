"""Values of each kind: what comes back is what was stored, whole or in part, and nothing else."""

from __future__ import annotations

import json
import os
import pickle
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memfs.manager.errors import UnsafeFormatError, ValueFormatError
from memfs.manager.manager import MemoryManager
from tests.disk_calls import intercept

if TYPE_CHECKING:
    from pathlib import Path

IN_ONE_DIRECTORY = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=5)
    ),
    max_leaves=20,
)
NUMBERS = hnp.arrays(
    hnp.integer_dtypes()
    | hnp.floating_dtypes()
    | hnp.complex_number_dtypes()
    | hnp.boolean_dtypes(),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@pytest.fixture
def manager(tmp_path: Path) -> MemoryManager:
    return MemoryManager(mount=tmp_path, plain=True)


# --- bytes and texts -----------------------------------------------------------------------------
@IN_ONE_DIRECTORY
@given(st.binary(max_size=300), st.integers(-310, 310), st.integers(-310, 310))
def test_bytes_and_parts_of_them(manager: MemoryManager, data: bytes, start: int, end: int) -> None:
    manager.store("b", data)
    assert manager.retrieve("b") == data
    assert manager.retrieve("b", start=start, end=end) == data[start:end]
    assert bytes(manager.retrieve("b", copy=False)) == data


@pytest.mark.parametrize(
    "value", [bytearray(b"abc"), memoryview(b"abc"), memoryview(b"aXbXcX")[::2]]
)
def test_all_buffers_are_bytes(manager: MemoryManager, value: object) -> None:
    manager.store("b", value)
    assert manager.retrieve("b") == b"abc"


@IN_ONE_DIRECTORY
@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 20), st.integers(0, 20))
def test_texts_and_the_characters_that_lie_whole_within_bytes(
    manager: MemoryManager, text: str, start: int, end: int
) -> None:
    manager.store("t", text)
    assert manager.retrieve("t") == text
    found, place = "", 0
    for character in text:
        if start <= place and place + len(character.encode()) <= end:
            found += character
        place += len(character.encode())
    assert manager.retrieve("t", start=start, end=end) == found


def test_half_of_a_surrogate_pair_is_refused(manager: MemoryManager) -> None:
    with pytest.raises(ValueFormatError, match="surrogate"):
        manager.store("t", "\ud800")
    assert not manager.exists("t")


# --- JSON and MessagePack ------------------------------------------------------------------------
@IN_ONE_DIRECTORY
@given(JSON)
@example([1.0, 1, True, "1"])
@example({"a": {"b": [None]}})
def test_json_comes_back_with_its_types(manager: MemoryManager, value: object) -> None:
    manager.store("j", value)
    found = manager.retrieve("j")
    assert found == value
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([(1, 2)], r"the value\[0\] is tuple"),
        ({"a": {1: 2}}, r"the value\['a'\] has the name 1"),
        ([b"x"], r"the value\[0\] is bytes"),
        ([{1, 2}], "set"),
        ([np.float32(1)], "float32"),
    ],
)
def test_what_json_would_change_is_refused_with_its_place(
    manager: MemoryManager, value: object, reason: str
) -> None:
    with pytest.raises(ValueFormatError, match=reason):
        manager.store("j", value)
    assert not manager.exists("j")


def test_json_nested_without_end_is_refused(manager: MemoryManager) -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueFormatError, match="200 deep"):
        manager.store("j", value)


def test_elements_and_fields(manager: MemoryManager) -> None:
    manager.store("list", list(range(10)))
    assert manager.retrieve("list", start=-2) == [8, 9]
    manager.store("fields", {"a": [1, 2, 3]})
    assert manager.retrieve("fields", name="a", start=1) == [2, 3]
    with pytest.raises(ValueFormatError, match="no field 'b'"):
        manager.retrieve("fields", name="b")
    with pytest.raises(ValueFormatError, match="has no parts"):
        manager.retrieve("fields", start=1)


def test_message_pack_has_bytes_and_numbers_as_names(manager: MemoryManager) -> None:
    value = {1: b"x", "y": [1.5, None]}
    path = manager.store("m", value, format="msgpack").path
    assert msgpack.unpackb(path.read_bytes(), strict_map_key=False) == value
    assert manager.retrieve("m") == value


# --- arrays --------------------------------------------------------------------------------------
@IN_ONE_DIRECTORY
@given(NUMBERS, st.booleans(), st.integers(-5, 5), st.integers(-5, 5))
def test_arrays_of_any_shape_type_and_order(
    manager: MemoryManager, array: np.ndarray[Any, Any], fortran: bool, start: int, end: int
) -> None:
    array = np.asfortranarray(array) if fortran else array
    path = manager.store("a", array).path
    for found in (manager.retrieve("a"), manager.retrieve("a", copy=False), np.load(path)):
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()
    if array.ndim:
        for copy in (True, False):
            part = manager.retrieve("a", start=start, end=end, copy=copy)
            assert part.tobytes() == array[start:end].tobytes()
            assert part.shape == array[start:end].shape


def test_a_part_of_an_array_reads_only_its_rows(
    manager: MemoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.store("a", np.zeros((1000, 1000)))
    asked: list[int] = []

    def count(_call: str, _fd: int, buffers: list[memoryview], _offset: int) -> None:
        asked.extend(buffer.nbytes for buffer in buffers)

    intercept(monkeypatch, "preadv", before=count)
    assert manager.retrieve("a", start=500, end=502).shape == (2, 1000)
    assert 16_000 <= sum(asked) < 16_000 + 70_000


def test_views_are_read_only_and_copies_are_not(manager: MemoryManager) -> None:
    manager.store("a", np.arange(4))
    assert not manager.retrieve("a", copy=False).flags.writeable
    manager.retrieve("a")[0] = 9


def test_arrays_with_strides_scalars_and_records(manager: MemoryManager) -> None:
    records = np.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", "<f8")])
    for value in (np.arange(20)[::3], np.float32(2.5), records, np.arange(3, dtype=">i4")):
        manager.store("a", value)
        found = manager.retrieve("a")
        assert found.dtype == value.dtype
        assert np.array_equal(found, value)


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.ma.masked_array([1, 2], mask=[True, False])]
)
def test_arrays_that_npy_would_change_are_refused(manager: MemoryManager, value: object) -> None:
    with pytest.raises(ValueFormatError):
        manager.store("a", value)
    assert not manager.exists("a")


def test_an_array_of_objects_from_elsewhere_is_not_run(manager: MemoryManager) -> None:
    manager.store("a", b"")
    with manager.path("a").open("wb") as file:
        np.save(file, np.array([print]), allow_pickle=True)
    os.setxattr(manager.path("a"), "user.mime_type", b"application/x-npy")
    with pytest.raises(ValueFormatError, match="Python objects"):
        manager.retrieve("a")


def test_a_short_file_is_told(manager: MemoryManager) -> None:
    path = manager.store("a", np.zeros(1000)).path
    os.truncate(path, 500)
    with pytest.raises(ValueFormatError, match="shorter"):
        manager.retrieve("a")


SCALARS = (
    *(np.float32(1.5), np.float64(0.1), np.int8(-3), np.uint64(1 << 63), np.bool_(True)),
    *(np.complex64(1 + 2j), np.datetime64("2025-02-15"), np.timedelta64(3, "s"), np.void(b"ab")),
    np.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", "<f8")])[0],
)


@pytest.mark.parametrize("value", SCALARS, ids=lambda each: type(each).__name__)
def test_scalars_of_numpy_come_back_as_such(manager: MemoryManager, value: Any) -> None:  # noqa: ANN401
    manager.batch_store({"s": value, "array": np.array(value)})
    batch = manager.batch_retrieve(["s", "array"])
    for found in (manager.retrieve("s"), manager.retrieve("s", copy=False), batch["s"]):
        assert type(found) is type(value)
        assert found == value
        assert found.dtype == value.dtype
    for found in (manager.retrieve("array"), batch["array"]):
        assert isinstance(found, np.ndarray)
        assert found.shape == ()
    assert np.load(manager.path("s")) == value


# --- devices -------------------------------------------------------------------------------------
VALUES_ON_THE_CPU: tuple[object, ...] = (
    *(b"x", "x", [1], np.arange(3), {"a": np.arange(3)}, pa.table({"a": [1]})),
)


@pytest.mark.parametrize("value", VALUES_ON_THE_CPU, ids=lambda each: type(each).__name__)
def test_only_tensors_go_to_a_device(manager: MemoryManager, value: object) -> None:
    """It was ignored: a program computed elsewhere than it had asked for."""
    manager.store("v", value)
    with pytest.raises(ValueFormatError, match=r"only tensors of torch .* device='meta'"):
        manager.retrieve("v", device="meta")
    assert type(manager.retrieve("v", device="cpu")) is type(value)


@pytest.mark.parametrize("name", ["msgpack", "pickle"])
def test_formats_by_name_go_to_no_device(tmp_path: Path, name: str) -> None:
    manager = MemoryManager(mount=tmp_path, plain=True, allow_pickle=True)
    manager.store("v", [1], format=name)
    with pytest.raises(ValueFormatError, match="only tensors of torch"):
        manager.retrieve("v", device="cuda:0")


def test_tensors_go_to_a_device(manager: MemoryManager) -> None:
    manager.store("t", torch.ones(3))
    manager.store("named", {"a": torch.ones(3)})
    assert manager.retrieve("t", device="meta").device.type == "meta"
    assert manager.retrieve("named", device="meta")["a"].device.type == "meta"


# --- tensors -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)
def test_a_tensor_of_torch(manager: MemoryManager, dtype: torch.dtype) -> None:
    tensor = torch.arange(24).reshape(4, 3, 2).to(dtype)
    manager.store("t", tensor)
    for found in (manager.retrieve("t"), manager.retrieve("t", copy=False)):
        assert found.dtype == dtype
        assert torch.equal(found, tensor)
    assert torch.equal(manager.retrieve("t", start=1, end=3), tensor[1:3])
    assert torch.equal(manager.retrieve("t", start=9), tensor[9:])


def test_tensors_by_name_are_an_ordinary_file(manager: MemoryManager) -> None:
    from safetensors.torch import load_file

    value = {"w": torch.randn(8, 4).T, "b": torch.tensor(7), "empty": torch.empty(0, 3)}
    path = manager.store("model.safetensors", value).path
    for found in (manager.retrieve("model.safetensors"), load_file(path)):
        assert found.keys() == value.keys()
        assert all(torch.equal(found[name], value[name]) for name in value)
    assert torch.equal(manager.retrieve("model.safetensors", name="w", start=1), value["w"][1:])
    with pytest.raises(ValueFormatError, match="no tensor 'x'"):
        manager.retrieve("model.safetensors", name="x")
    with pytest.raises(ValueFormatError, match="name="):
        manager.retrieve("model.safetensors", start=1)
    with pytest.raises(ValueFormatError, match="no first axis"):
        manager.retrieve("model.safetensors", name="b", start=0)


def test_arrays_by_name_come_back_as_arrays(manager: MemoryManager) -> None:
    value = {"x": np.arange(6.0).reshape(2, 3), "y": np.arange(3, dtype=">i4")}
    manager.store("s", value)
    found = manager.retrieve("s")
    assert all(isinstance(found[name], np.ndarray) for name in value)
    assert all(np.array_equal(found[name], value[name]) for name in value)


def test_a_file_of_the_library_is_retrieved(manager: MemoryManager) -> None:
    from safetensors.numpy import save_file

    path = manager.store("m.safetensors", b"").path
    path.unlink()
    save_file({"value": np.arange(3)}, path)
    assert manager.retrieve("m.safetensors")["value"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(3).to_sparse(),
        {"a": torch.ones(1, device="meta")},
        {"a": np.array(["text"])},
        {"__metadata__": torch.ones(1)},
    ],
)
def test_tensors_without_a_form_are_refused(manager: MemoryManager, value: object) -> None:
    with pytest.raises(ValueFormatError):
        manager.store("t", value)
    assert not manager.exists("t")


# --- tables --------------------------------------------------------------------------------------
@pytest.mark.parametrize("library", ["pyarrow", "pandas", "polars"])
def test_tables_come_back_to_their_library(manager: MemoryManager, library: str) -> None:
    columns: dict[str, list[Any]] = {
        "n": list(range(200_000)),
        "t": [f"row {n}" for n in range(200_000)],
    }
    makers: dict[str, Any] = {
        "pyarrow": lambda: pa.table(columns),
        "pandas": lambda: pd.DataFrame(columns),
        "polars": lambda: pl.DataFrame(columns),
    }
    table = makers[library]()
    path = manager.store("table", table).path
    assert pq.read_metadata(path).num_row_groups == 4
    found = manager.retrieve("table")
    assert type(found) is type(table)
    assert found.equals(table)
    part = manager.retrieve("table", start=70_000, end=70_010, name="n")
    values = part["n"].to_pylist() if library == "pyarrow" else part["n"].to_list()
    assert values == columns["n"][70_000:70_010]


def test_parts_of_tables_at_the_ends(manager: MemoryManager) -> None:
    manager.store("table", pa.table({"n": [1, 2, 3]}))
    assert manager.retrieve("table", start=-1)["n"].to_pylist() == [3]
    assert manager.retrieve("table", start=5)["n"].to_pylist() == []
    with pytest.raises(ValueFormatError, match="no column 'x'"):
        manager.retrieve("table", name="x")


def test_a_pandas_index_survives(manager: MemoryManager) -> None:
    frame = pd.DataFrame({"a": [1.5, 2.5]}, index=pd.Index(["x", "y"], name="label"))
    manager.store("frame", frame)
    assert manager.retrieve("frame").equals(frame)
    assert manager.retrieve("frame").index.name == "label"
    assert manager.retrieve("frame", name="a", start=1).equals(frame.iloc[1:])


@pytest.mark.parametrize("index", [None, pd.RangeIndex(10, 410, 2, name="even")])
def test_rows_of_a_table_of_pandas_keep_their_numbers(
    manager: MemoryManager, index: pd.RangeIndex | None
) -> None:
    frame = pd.DataFrame({"a": range(200), "b": range(200)}, index=index)
    manager.store("frame", frame)
    for start, end in ((0, 3), (150, 153), (-2, None), (7, 7), (500, 600)):
        part = manager.retrieve("frame", start=start, end=end)
        pd.testing.assert_frame_equal(part, frame.iloc[start:end])
    pd.testing.assert_frame_equal(manager.retrieve("frame", name="b"), frame[["b"]])


# --- files of other programs, and pickles --------------------------------------------------------
def test_files_of_other_programs_are_known_by_their_bytes_or_names(manager: MemoryManager) -> None:
    directory = manager.store("x", b"").path.parent
    np.save(directory / "array.bin", np.arange(3))
    os.rename(directory / "array.bin.npy", directory / "array.bin")
    pq.write_table(pa.table({"a": [1]}), directory / "table")
    (directory / "note.txt").write_text("h\u00e9")
    (directory / "settings.json").write_text(json.dumps({"a": 1}))
    (directory / "rest").write_bytes(b"\x00\x01")
    assert manager.retrieve("array.bin").tolist() == [0, 1, 2]
    assert manager.retrieve("table")["a"].to_pylist() == [1]
    assert manager.retrieve("note.txt") == "h\u00e9"
    assert manager.retrieve("settings.json") == {"a": 1}
    assert manager.retrieve("rest") == b"\x00\x01"


class Plain:
    def __init__(self, number: int) -> None:
        self.number = number


def test_an_object_needs_a_pickle_and_the_message_says_so(manager: MemoryManager) -> None:
    with pytest.raises(ValueFormatError, match=r"Plain has no file format .* format='pickle'"):
        manager.store("p", Plain(1))
    with pytest.raises(UnsafeFormatError, match="allow_pickle=True"):
        manager.store("p", Plain(1), format="pickle")


def test_a_pickle_is_read_only_where_that_is_allowed(tmp_path: Path) -> None:
    trusting = MemoryManager(mount=tmp_path, plain=True, allow_pickle=True)
    path = trusting.store("p", Plain(7), format="pickle").path
    assert trusting.retrieve("p").number == 7
    with pytest.raises(UnsafeFormatError):
        MemoryManager(mount=tmp_path, plain=True).retrieve("p")
    path.chmod(0o666)
    with pytest.raises(UnsafeFormatError, match="others may write it"):
        trusting.retrieve("p")
    path.chmod(0o644)
    os.chown(path, 12345, -1)
    with pytest.raises(UnsafeFormatError, match="belongs to another user"):
        trusting.retrieve("p")


def test_a_pickle_of_another_program_is_never_run(tmp_path: Path) -> None:
    """Only the attribute says that a file is one: neither its bytes nor its name do."""
    manager = MemoryManager(mount=tmp_path, plain=True, allow_pickle=True)
    data = pickle.dumps(print)
    manager.store("a.pkl", data)
    assert manager.retrieve("a.pkl") == data


def test_a_misspelt_format_is_told_with_the_nearest_one(manager: MemoryManager) -> None:
    with pytest.raises(ValueFormatError, match="no format 'parquett'; did you mean 'parquet'"):
        manager.store("x", b"", format="parquett")
    with pytest.raises(ValueFormatError, match="bytes, str, npy"):
        manager.store("x", b"", format="qq")
