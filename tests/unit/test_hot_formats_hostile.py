"""Headers that are made to harm who reads them: by code, by memory, or by wrong numbers."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings

from memfs.hot.formats import pickles, pt
from memfs.hot.formats import safetensors as headers
from memfs.hot.formats.detecting import read_index
from memfs.hot.formats.pickles import Maker, RefusedError, load_pickle
from memfs.hot.formats.safetensors import NewTensor, build_header
from memfs.hot.formats.source import FileSource
from memfs.hot.formats.zips import read_members
from memfs.hot.tensors import DType, FormatError

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.hot.tensors import TensorIndex

MEMORY_BYTES_MAX = 4 << 20
"""What reading a small hostile file may take; each would take gigabytes."""


class BytesSource:
    """Bytes as a file, with the errors of pread(2)."""

    name = "some/file"

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size_bytes = len(content)

    def read(self, offset: int, size: int) -> bytes:
        if offset < 0:
            raise OSError("EINVAL")
        found = self.content[offset : offset + size]
        if len(found) != size:
            raise FormatError(f"{self.name} ends within its header")
        return found


def index_of(content: bytes) -> TensorIndex:
    return read_index(BytesSource(content))


def refusal(content: bytes) -> str:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as caught:
            index_of(content)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES_MAX + 2 * len(content)
    finally:
        tracemalloc.stop()
    assert "some/file" in str(caught.value)
    assert len(str(caught.value)) < 2000
    return str(caught.value)


# --- pickles -------------------------------------------------------------------------------------
def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def view(shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """What torch writes for a tensor of a FloatStorage at offset 0 of the storage `k`."""
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("k") + text("cpu") + b"K\x04tQ"
    )
    extents, steps = (b"(" + b"".join(map(number, each)) + b"t" for each in (shape, stride))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00"
        + extents
        + steps
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def pt_of(pickled: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("a/data/k", bytes(16))
    return file.getvalue()


def widening(rounds: int) -> bytes:
    """Lists of ten times the list before: 10**rounds entries in some 30 bytes each."""
    lists = b"".join(
        b"](" + (b"h" + bytes([at])) * 10 + b"eq" + bytes([at + 1]) for at in range(rounds)
    )
    return b"](" + b"N" * 10 + b"eq\x00" + lists


@pytest.mark.parametrize(
    ("pickled", "flaw"),
    [
        # A memo is a list in Python's unpickler: as long as the largest number in it.
        (b"}r\xff\xff\xff\x0f", "holds no tensors"),
        (b"}N" + b"\x85" * 1000 + b"Ns", "keys that are no names"),
        (b"}(Nu", "cannot be read"),
        # Writes into what the pickle was given.
        (b"ctorch\nFloatStorage\n}" + text("item_bytes") + b"K\x00sb", "a state of what has none"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}b", "a state of what has none"),
        (b"ctorch\nFloatStorage\nNa", "a list that is none"),
        (b"ctorch\nFloatStorage\nNNs", "a mapping that is none"),
        # Copies of what is long already, for each few bytes.
        (
            b"](" + b"N" * 1000 + b"eq\x00](" + b"ctorch\nSize\nh\x00\x85R" * 1000 + b"e",
            "torch.Size",
        ),
        (b"}q\x00ccollections\nOrderedDict\nh\x00\x85R", "cannot be read"),
        # Names that are long already, for each tensor.
        (
            b"}"
            + text("x" * 100_000)
            + b"]("
            + view((1,), (1,))
            + b"q\x01"
            + b"h\x01" * 2000
            + b"es",
            "names of its tensors are too long",
        ),
        # What would be long as a message.
        (widening(9) + b"h\x09Q", "an object that is no storage"),
        # A number of which not even a message can be made.
        (b"}\x8b" + struct.pack("<i", 3000) + b"\x7f" * 3000 + b"K\x01s", "the operation b'\\x8b'"),
        # Instances, by the older ways.
        (b"(iposix\nsystem\n", "the operation b'i'"),
        (b"\x82\x01", "the operation b'\\x82'"),
        (b"(cposix\nsystem\n", "asks for posix.system"),
        (text("posix") + text("system") + b"\x93", "asks for posix.system"),
        (b"NN\x93", "a global without a name"),
        (b"c" + b"posix", "cannot be read"),
        # No code is behind a text, a type or a tuple.
        (b"NNR", "a call of what cannot be called"),
        (b"ctorch\nFloatStorage\n)R", "a call of what cannot be called"),
        (b"ccollections\nOrderedDict\nNR", "a call of what cannot be called"),
        (b"\x80\x09", "a protocol that is not known"),
        (b"X\xff\xff\xff\xff", "cannot be read"),
        (b"X\x01\x00\x00\x00\xff", "cannot be read"),
        (b"e", "cannot be read"),
        (b"h\x07", "cannot be read"),
        (b"}" + text("t") + view((1 << 61,), (0,)) + b"s", "more than 63 bits"),
        (b"}" + text("t") + view((0, 1 << 62), (1, 1)) + b"s", "more than 63 bits"),
        (b"}" + text("t") + view((5,), (1,)) + b"s", "reaches beyond its storage"),
        (b"}" + text("t") + view((1,) * 65, (1,) * 65) + b"s", "at most 64 numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "pickle",
)
def test_a_pickle_cannot_harm_who_reads_it(
    pickled: bytes, flaw: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by code, nor by memory, nor by what it leaves changed."""
    monkeypatch.setattr(pt, "NAMES_CHARACTERS_MAX", 1 << 20)
    before = {dtype: dict(vars(dtype)) for dtype in DType}
    assert flaw in refusal(pt_of(pickled))
    assert {dtype: dict(vars(dtype)) for dtype in DType} == before


def test_what_a_pickle_makes_is_limited() -> None:
    """One byte each, and 64 bytes in memory."""
    pickled = b"](" + b"]" * 1000 + b"e."
    assert (
        load_pickle(pickled, lambda *_: None, lambda _: None, operation_count_max=1004)
        == [[]] * 1000
    )
    with pytest.raises(RefusedError, match="more than 1003 operations"):
        load_pickle(pickled, lambda *_: None, lambda _: None, operation_count_max=1003)


def test_a_state_is_left_out_and_cannot_hide_the_mapping() -> None:
    """`_metadata` of a state_dict is one; an attribute `items` would be what is called."""
    content = b"ccollections\nOrderedDict\n)R" + text("t") + view((4,), (1,)) + b"s"
    [tensor] = index_of(pt_of(content + b"}" + text("items") + b"K\x05sb")).tensors
    assert (tensor.name, tensor.shape) == ("t", (4,))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_protocols_of_torch_are_read(protocol: int) -> None:
    """With values of every kind beside the tensors."""
    beside = {"f": 1.5, "i": -3, "l": 1 << 70, "b": True, "n": None, "s": "ü" * 300, "z": ((), 1)}
    content: dict[object, object] = {"a": torch.ones(2), "d": torch.float16, "x": beside}
    content |= {"p": torch.nn.Parameter(torch.ones(2, 3)), 7: [torch.ones(1)]}
    file = io.BytesIO()
    torch.save(content, file, pickle_protocol=protocol)
    index = index_of(file.getvalue())
    assert [(tensor.name, tensor.shape) for tensor in index.tensors] == [
        ("a", (2,)),
        ("p", (2, 3)),
        ("7.0", (1,)),
    ]


@pytest.mark.parametrize(
    "tensor", [torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j]).conj().imag]
)
def test_a_view_that_is_not_its_bytes_is_refused(tensor: torch.Tensor) -> None:
    """In torch, a conjugation is a bit; the bytes alone are other numbers."""
    file = io.BytesIO()
    torch.save({"t": tensor}, file)
    assert "resolve_conj" in refusal(file.getvalue())
    file = io.BytesIO()
    torch.save({"t": tensor.resolve_conj().resolve_neg()}, file)
    assert len(index_of(file.getvalue()).tensors) == 1


class Unhashable:
    """What must not even be asked for its hash."""

    def __hash__(self) -> int:
        raise AssertionError("hashed")


@pytest.mark.parametrize("wrapping", [b"", b"\x85", b"\x85\x85"])
def test_a_key_is_hashed_only_if_it_is_a_name(wrapping: bytes) -> None:
    """A tuple in 100,000 others is hashed by recursion in C, without a check: SIGSEGV."""
    with pytest.raises(RefusedError, match="keys that are no names"):
        load_pickle(b"}NQ" + wrapping + b"Ns.", lambda *_: None, lambda _: Unhashable())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from(
            [bytes([code]) for code in sorted(pickles._OPERATIONS)]
            + [b"K\x01", b"q\x00", b"h\x00", text("a"), b"cm\nf\n", b"](", b"})", b"NtR"]
        ),
        max_size=30,
    )
)
def test_any_operations_are_a_value_or_a_refusal(operations: list[bytes]) -> None:
    """In any order: never another error."""
    try:
        load_pickle(
            b"".join(operations) + b".", lambda *_: Maker(lambda *_: None), lambda _: "storage"
        )
    except (RefusedError, ValueError):
        return


# --- zip files -----------------------------------------------------------------------------------
def npz(**arrays: np.ndarray) -> bytearray:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub knows one option
    return bytearray(file.getvalue())


def test_a_directory_that_lies_of_its_own_place_is_refused() -> None:
    """Python takes the difference for bytes before the zip: offsets become negative."""
    content = npz(a=np.arange(3))
    end = content.rindex(b"PK\x05\x06")
    (directory,) = struct.unpack_from("<I", content, end + 16)
    struct.pack_into("<I", content, end + 16, directory + 10)
    assert "lies outside of the file" in refusal(bytes(content))


def test_a_member_has_the_name_that_the_directory_says() -> None:
    """Readers that go by the one or the other would see different files."""
    content = npz(aa=np.arange(3))
    at = content.index(b"aa.npy")
    content[at : at + 2] = b"bb"
    assert "another name where it lies" in refusal(bytes(content))


def test_a_member_cannot_reach_into_another_s_header_or_the_directory() -> None:
    """What is a header to one reader must not be content to another."""
    content = npz(aa=np.arange(3), bb=np.arange(3))
    first = content.index(b"PK\x01\x02")
    second = content.rindex(b"PK\x01\x02")
    for entry, size, flaw in [(first, 180, "overlap"), (second, 200, "lies outside of the file")]:
        changed = bytearray(content)
        struct.pack_into("<II", changed, entry + 20, size, size)
        assert flaw in refusal(bytes(changed))


def test_a_directory_without_end_is_refused_unparsed() -> None:
    """47 bytes an entry, and 20 us: a minute for 140 MB."""
    arrays = {f"x{at}": np.arange(2) for at in range(4)}
    with pytest.raises(FormatError, match="some/file has more than 3 members"):
        read_members(BytesSource(bytes(npz(**arrays))), member_count_max=3)
    del arrays["x0"]
    assert len(read_members(BytesSource(bytes(npz(**arrays))), member_count_max=3)) == 3


# --- safetensors, npy, plain numbers -------------------------------------------------------------
@pytest.mark.parametrize("mark", ["[", "{", ":", ","])
def test_a_header_without_end_is_refused_unparsed(
    mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 MB of `[],` would take 3 GB."""
    monkeypatch.setitem(headers._STRUCTURE_COUNTS_MAX, mark.encode(), 3)
    header = b'{"a":{"a":{"a":{"a":[[],[],[],[],[]]}}}}'
    assert "more parts than" in refusal(struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize("shape", [(0, 1 << 62, 1 << 62), (0, 1 << 63), (1 << 62, 0, 2)])
def test_an_empty_tensor_has_strides_that_a_machine_knows(shape: tuple[int, ...]) -> None:
    """No library makes one of 64 bits, even with nothing in it."""
    header = b'{"a":{"dtype":"F32","shape":%s,"data_offsets":[0,0]}}' % str(list(shape)).encode()
    assert refusal(struct.pack("<Q", len(header)) + header)
    described = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    assert refusal(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(described)) + described)


@pytest.mark.parametrize("shape", [(-2, -3), (True, 6), (6.0,), (6,) + (1,) * 64, ("6",)])
def test_a_shape_that_a_program_gives_is_checked_too(shape: tuple[int, ...]) -> None:
    """Two negative extents have the right product."""
    with pytest.raises(FormatError, match="some/file"):
        read_index(BytesSource(bytes(24)), dtype="float32", shape=shape)


@pytest.mark.parametrize("factor", ["-", "not ", "1+", "a.", "(", "[", "1,", "{1:", "'a' "])
def test_a_header_of_an_array_can_be_as_deep_as_it_likes(factor: str) -> None:
    """The parser's own limits hold, and nothing is warned of."""
    header = (factor * (30_000 // len(factor)))[:30_000].encode()
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header
    with pytest.raises(FormatError, match=r"cannot be parsed|is not descr"):
        index_of(content)


def test_metadata_of_a_new_file_is_texts() -> None:
    """The library refuses a file that has others, and so does this reader."""
    new = [NewTensor("a", DType.U8, (1,))]
    with pytest.raises(FormatError, match="not texts"):
        build_header(new, {"step": 3})  # type: ignore[dict-item]  # as the test says
    header, _ = build_header(new, {"step": "3"})
    assert safetensors.torch.load(header + b"x")["a"].tolist() == [ord("x")]
    assert index_of(header + b"x").metadata == {"step": "3"}


def test_a_source_gives_all_bytes_or_none(tmp_path: Path) -> None:
    """A file may become shorter while it is read."""
    path = tmp_path / "numbers"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDONLY)
    try:
        source = FileSource(fd, "some/file")
        assert (source.size_bytes, source.read(2, 3), source.read(10, 0)) == (10, b"234", b"")
        os.truncate(path, 4)
        with pytest.raises(FormatError, match="some/file ends at 4"):
            source.read(2, 5)
    finally:
        os.close(fd)
