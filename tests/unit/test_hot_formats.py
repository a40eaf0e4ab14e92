"""Headers of tensor files: as the libraries write them, and as nobody honest does."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings

from memfs.hot.formats.detecting import read_index
from memfs.hot.formats.safetensors import NewTensor, build_header
from memfs.hot.indexes import decode_index, encode_index
from memfs.hot.tensors import DType, FormatError, TensorIndex, load_index
from memfs.torch.dtypes import TORCH_TYPES
from memfs.torch.views import views_of

if TYPE_CHECKING:
    from collections.abc import Callable


class BytesSource:
    """Bytes as a file."""

    name = "some/file"

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size_bytes = len(content)

    def read(self, offset: int, size: int) -> bytes:
        assert size >= 0
        assert offset >= 0
        found = self.content[offset : offset + size]
        if len(found) != size:
            raise FormatError(f"{self.name} ends within its header")
        return found


def index_of(content: bytes, **options: object) -> TensorIndex:
    index = read_index(BytesSource(content), **options)  # type: ignore[arg-type]  # as the test says
    for tensor in index.tensors:
        assert 0 <= tensor.offset <= tensor.end <= len(content)
    encoded = encode_index(index)
    assert load_index(json.loads(encoded)) == decode_index(encoded) == index
    return index


def tensors_in(content: bytes) -> dict[str, torch.Tensor]:
    base = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return views_of(base, index_of(content).tensors)


def refusal(content: bytes, **options: object) -> str:
    with pytest.raises(FormatError) as caught:
        index_of(content, **options)
    assert "some/file" in str(caught.value)
    assert len(str(caught.value)) < 2000
    return str(caught.value)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    wide = torch.complex128 if one.is_complex() else torch.float64
    return torch.equal(one.to(wide), other.to(wide))


# --- safetensors ---------------------------------------------------------------------------------
def st_file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, dtype: object = "U8", shape: object = None) -> dict[str, object]:
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


@pytest.mark.parametrize("dtype", TORCH_TYPES.values())
def test_all_types_of_the_library_are_read(dtype: torch.dtype) -> None:
    """Scalars, empty tensors and metadata included."""
    if dtype in (torch.complex128,):
        pytest.skip("the library does not write it")
    whole = torch.arange(24).to(dtype)
    tensors = {"a": whole.reshape(2, 3, 4), "s": whole[1].clone(), "e": torch.empty(0, 3).to(dtype)}
    content = safetensors.torch.save(tensors, {"format": "pt"})
    found = tensors_in(content)
    assert found.keys() == tensors.keys()
    assert all(same(found[name], tensor) for name, tensor in tensors.items())
    assert index_of(content).metadata == {"format": "pt"}


def test_headers_that_are_written_here_are_read_by_the_library() -> None:
    """Largest elements first, and the data aligned to 8 bytes."""
    new = [
        NewTensor("b", DType.BF16, (3, 2)),
        NewTensor("a", DType.F64, (2,)),
        NewTensor("ü", DType.U8, (5,)),
        NewTensor("e", DType.F32, (0,)),
    ]
    header, ordered = build_header(new, {"k": "v"})
    assert len(header) % 8 == 0
    assert [each.name for each in ordered] == ["a", "e", "b", "ü"]
    data = bytes(range(sum(each.size_bytes for each in ordered)))
    found = safetensors.torch.load(header + data)
    assert all(same(found[name], t) for name, t in tensors_in(header + data).items())
    assert found["ü"].tolist() == list(data[-5:])
    for bad in ([new[0], new[0]], [NewTensor("__metadata__", DType.U8, (1,))]):
        with pytest.raises(FormatError):
            build_header(bad)


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        (struct.pack("<Q", 1 << 60) + b"{}", "holds no tensors"),
        (struct.pack("<Q", 500) + b'{"a"', "says that its header has 500 bytes"),
        (st_file(b'{"a":'), "not JSON"),
        (st_file(b'{"a": [\xff]}'), "not JSON"),
        (st_file(b'{"a": ' + b"[" * 100_000), "not JSON"),
        (st_file({"a": entry(0, 4)}, b"123"), "end at"),
        (st_file({"a": entry(0, 4)}, b"12345"), "end at"),
        (st_file({"a": entry(0, 2), "b": entry(3, 4)}, b"1234"), "a hole before tensor 'b'"),
        (st_file({"a": entry(0, 3), "b": entry(2, 4)}, b"1234"), "an overlap before tensor 'b'"),
        (st_file({"a": entry(1, 4)}, b"1234"), "a hole"),
        (st_file({"a": entry(4, 0, shape=[4])}, b"1234"), "ends before it begins"),
        (st_file({"a": entry(0, 4, shape=[1 << 62, 1 << 62])}, b"1234"), "takes"),
        (st_file({"a": entry(0, 4, shape=[-4])}, b"1234"), "not whole numbers"),
        (st_file({"a": entry(0, 4, shape=[True, 4])}, b"1234"), "not whole numbers"),
        (st_file({"a": entry(0, 4, shape=[4.0])}, b"1234"), "not whole numbers"),
        (st_file({"a": entry(0, 4, shape=[1] * 100)}, b"1234"), "not a list of at most"),
        (st_file({"a": entry(0, 4, "F99")}, b"1234"), "'F99' is not known"),
        (st_file({"a": entry(0, 4, None)}, b"1234"), "no element type"),
        (st_file({"a": entry(0, 4) | {"more": 1}}, b"1234"), "not described by"),
        (st_file({"a": 5}, b""), "not described by"),
        (st_file(b'{"a":' + b"1," * 3 + b"}"), "not JSON"),
        (st_file(b'{"a": {}, "a": {}}'), "is twice in the header"),
        (st_file({"__metadata__": {"a": 1}}), "not texts by name"),
        (st_file({"__metadata__": []}), "not texts by name"),
    ],
)
def test_a_header_that_lies_is_refused(content: bytes, flaw: str) -> None:
    """By name of the tensor and the flaw; no byte may hide in a file."""
    assert flaw in refusal(content)


# --- numpy ---------------------------------------------------------------------------------------
def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "u4", "i8", "f2", "f4", "f8", "c8", "c16"])
def test_arrays_are_read_in_either_order(dtype: str, version: tuple[int, int]) -> None:
    """Fortran's is a matter of strides."""
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    for each in (array, np.asfortranarray(array), array[:0], np.array(3).astype(dtype)):
        found = tensors_in(npy(each, version))["array"]
        assert same(found, torch.from_numpy(each.copy()))


@pytest.mark.parametrize(
    ("array", "flaw"),
    [
        (np.arange(3, dtype=">f4"), "big-endian; save it as array.astype('<f4')"),
        (np.zeros(2, dtype=[("a", "f4")]), "has fields"),
        (np.array(["text"]), "which no tensor has"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "which no tensor has"),
    ],
)
def test_arrays_that_no_tensor_can_be_are_refused(array: np.ndarray, flaw: str) -> None:
    """With the remedy where there is one."""
    assert flaw in refusal(npy(array))


def npy_with(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        (b"\x93NUMPY\x01", "does not begin"),
        (b"\x93NUMPY\x09\x00" + bytes(20), "version 9"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + bytes(20), "says that its header"),
        (npy_with(b"__import__('os').abort()"), "cannot be parsed"),
        (npy_with(b"(" * 5000), "cannot be parsed"),
        (npy_with(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), "never unpickled"),
        (npy_with(b"{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}"), "neither true"),
        (npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "no tuple"),
        (npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"), "no tuple"),
        (npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}", b"x"), "takes 36"),
        (npy_with(b"{'descr': '<f4', 'shape': (1,)}"), "is not descr"),
    ],
)
def test_an_array_header_that_lies_is_refused(content: bytes, flaw: str) -> None:
    """Nothing of it is evaluated."""
    assert flaw in refusal(content)


def test_archives_of_arrays_are_used_in_place() -> None:
    """Stored members only: a compressed one has no place in the file."""
    arrays: dict[str, Any] = {"x": np.arange(5), "deep/y": np.ones((2, 2), dtype=np.float16)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    found = tensors_in(file.getvalue())
    assert found.keys() == arrays.keys()
    assert all(same(found[name], torch.from_numpy(array)) for name, array in arrays.items())
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    assert "numpy.savez" in refusal(file.getvalue())


# --- torch ---------------------------------------------------------------------------------------
def pt(content: object, **options: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)  # type: ignore[arg-type]  # ditto
    return file.getvalue()


def test_what_torch_saves_is_read_without_torch() -> None:
    """Views, shared storages, parameters, nested mappings; numbers and texts are left out."""
    base = torch.arange(100.0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    tensors = {
        "view": base[10:50:3],
        "turned": base.view(10, 10).t(),
        "shared": base[20:30],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "channels": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(7),
    }
    content = pt(
        {"model": model.state_dict(), "list": [base, {"n": base[:2]}], "step": 3} | tensors
    )
    found = tensors_in(content)
    expected = {name: tensor.detach() for name, tensor in tensors.items()}
    expected |= {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    expected |= {"list.0": base, "list.1.n": base[:2]}
    assert found.keys() == expected.keys()
    assert all(same(found[name], tensor) for name, tensor in expected.items())
    assert all(found[name].stride() == t.stride() for name, t in expected.items() if t.numel())


@pytest.mark.parametrize("dtype", TORCH_TYPES.values())
def test_all_types_of_torch_are_read(dtype: torch.dtype) -> None:
    """Those without a storage class of their own too."""
    tensor = torch.arange(12).to(dtype).reshape(3, 4)
    assert same(tensors_in(pt({"t": tensor}))["t"], tensor)


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/memfs-test-evil",)


def pt_of(pickled: bytes, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, data in members.items():
            archive.writestr(f"a/data/{name}", data)
    return file.getvalue()


def view_pickle(
    offset: int, shape: tuple[Any, ...], stride: tuple[Any, ...], key: str = "k"
) -> bytes:
    """A pickle of one float32 tensor, whatever it says of its shape."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            if value is marker:
                return ("storage", torch.FloatStorage, key, "cpu", 4)
            return None

    marker = object()

    class View:
        def __reduce__(self) -> tuple[Any, ...]:
            arguments: tuple[Any, ...] = (marker, offset, shape, stride, False, {})
            return torch._utils._rebuild_tensor_v2, arguments

    file = io.BytesIO()
    Pickler(file, 2).dump({"t": View()})
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        (pt({"a": Evil()}), "asks for posix.system, which is not taken"),
        (pt(torch.nn.Linear(2, 2)), "asks for torch.nn.modules.linear.Linear"),
        (pt({"a": 1}), "holds no tensors"),
        (pt_of(b""), "cannot be read"),
        (pt_of(b"\x80\x02]q\x00h\x00a."), "too deep"),
        (pt_of(pickle.dumps({("a", 1): []})), "keys that are no names"),
        (pt_of(view_pickle(0, (4,), (1,))), "has no storage"),
        (pt_of(view_pickle(1, (4,), (1,)), k=bytes(16)), "reaches beyond its storage"),
        (pt_of(view_pickle(0, (1 << 40,), (1 << 40,)), k=bytes(16)), "reaches beyond"),
        (pt_of(view_pickle(0, (2, 2), (8, 1)), k=bytes(16)), "reaches beyond"),
        (pt_of(view_pickle(-1, (1,), (1,)), k=bytes(16)), "negative"),
        (pt_of(view_pickle(0, (-1,), (1,)), k=bytes(16)), "negative"),
        (pt_of(view_pickle(0, (1,), ()), k=bytes(16)), "more strides"),
        (pt_of(view_pickle(0, (True,), (1,)), k=bytes(16)), "negative"),
    ],
    # A zip holds the time: as names of tests, two collections would differ.
    ids=lambda value: value if isinstance(value, str) else "zip",
)
def test_a_pickle_that_asks_for_more_than_tensors_is_refused(content: bytes, flaw: str) -> None:
    """Nothing of it is run."""
    assert flaw in refusal(content)
    assert not os.path.exists("/tmp/memfs-test-evil")


def test_a_pickle_that_grows_without_end_is_refused() -> None:
    """Lists of lists of lists: a few bytes each, and a billion in the end."""
    content: list[Any] = ["x"] * 10
    for _ in range(9):
        content = [content] * 10
    assert "too many entries" in refusal(pt_of(pickle.dumps(content)))


def test_torch_s_old_format_is_named() -> None:
    """It has no places for its tensors."""
    content = pt({"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    assert "torch 1.6 or newer" in refusal(content)


def test_zips_with_members_at_the_same_place_are_refused() -> None:
    """A directory can say what it likes."""
    file = io.BytesIO()
    np.savez(file, aa=np.arange(5), bb=np.arange(5))
    content = bytearray(file.getvalue())
    second = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, second + 42, 0)
    assert "overlap" in refusal(bytes(content))


# --- all -----------------------------------------------------------------------------------------
def test_plain_numbers_are_what_they_are_said_to_be() -> None:
    """By torch's names or those of safetensors; the size has to fit."""
    content = np.arange(6, dtype=np.float32).tobytes()
    for name in ("float32", "F32"):
        [tensor] = index_of(content, dtype=name, shape=(2, 3)).tensors
        assert (tensor.shape, tensor.dtype) == ((2, 3), DType.F32)
    assert index_of(content, dtype="float16").tensors[0].shape == (12,)
    assert "takes 16" in refusal(content, dtype="float32", shape=(4,))
    with pytest.raises(FormatError, match="float99"):
        index_of(content, dtype="float99")


@pytest.mark.parametrize("content", [b"", b"x", b"plain text" * 100, bytes(1000), b"PK\x03\x04"])
def test_other_files_are_told_what_would_be_tensors(content: bytes) -> None:
    """The message lists the formats."""
    message = refusal(content)
    assert "holds no tensors" in message or "no sound zip" in message


VALID = (
    safetensors.torch.save({"a": torch.ones(3), "b": torch.zeros(2, 2).half()}, {"k": "v"}),
    npy(np.arange(6).reshape(2, 3)),
    pt({"a": torch.ones(3), "m": {"b": torch.zeros(2, 2)}}),
    pt_of(view_pickle(0, (2, 2), (2, 1)), k=bytes(16)),
)


def _check(content: bytes) -> None:
    try:
        index_of(content)
    except FormatError:
        return


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    base=st.sampled_from(VALID),
    edits=st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=3)), max_size=4),
    cut=st.integers(0, 100),
)
def test_whatever_is_in_a_file_the_answer_is_an_index_within_it_or_a_refusal(
    base: bytes, edits: list[tuple[int, bytes]], cut: int
) -> None:
    """Valid files with bytes changed, put in or cut off: never another error."""
    content = bytearray(base)
    for at, data in edits:
        place = at % len(content)
        content[place : place + len(data)] = data
    _check(bytes(content[: len(content) - cut]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(begin=st.sampled_from([b"", b"\x93NUMPY", b"PK\x03\x04", b"\x80\x02"]), rest=st.binary())
def test_random_bytes_are_refused_in_good_order(begin: bytes, rest: bytes) -> None:
    """Likewise."""
    _check(begin + rest)


def test_hypothesis_has_something_to_change(tmp_path: object) -> None:
    """The files it starts from are valid."""
    found: list[Callable[[], TensorIndex]] = [lambda c=c: index_of(c) for c in VALID]  # type: ignore[misc]  # bound at once
    assert [len(each().tensors) for each in found] == [2, 1, 2, 1]
