"""Values in every tier: what comes back is what was stored, and a part costs what it has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memfs import MemoryManager
from tests.posix.capabilities import Capability
from tests.tiers.tiering import FRAME_BYTES, daemon_read_bytes, residence, wait_until_at
from tests.unit.test_manager_values import JSON, NUMBERS

if TYPE_CHECKING:
    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS), pytest.mark.any_driver]

TIERS = {"warm": "raw", "cold": "packed", "glacier": "remote"}
"""A form of each tier."""

KIB = 1 << 10
MIB = 1 << 20
ROWS = 8192
"""Rows of 1 KiB: 8 MiB, more than is made raw when it is opened."""

HEADER_BYTES_MAX = 70 * KIB
"""What is read of a value to know its type and shape."""


class Part(NamedTuple):
    """A value, and a part of it of 16 KiB."""

    value: Any
    wanted: dict[str, Any]
    expected: Any
    bytes_max: int
    """What the program may read for it."""


def parts() -> dict[str, Part]:
    """Values that compress, so that a packed form is kept."""
    array = np.zeros((ROWS, 256), "f4") + np.arange(ROWS, dtype="f4")[:, None]
    at = slice(4000, 4016)
    tensor = torch.from_numpy(array)
    text = "".join(f"{number:1024}" for number in range(ROWS))
    asked = {"start": at.start, "end": at.stop}
    in_bytes = {"start": at.start * KIB, "end": at.stop * KIB}
    table = pa.table(
        {"n": np.arange(1 << 20), "x": np.random.default_rng(1).integers(0, 9, 1 << 20)}
    )
    plain = 16 * KIB + HEADER_BYTES_MAX
    return {
        "bytes": Part(text.encode(), in_bytes, text[4000 * KIB : 4016 * KIB].encode(), plain),
        "str": Part(text, in_bytes, text[4000 * KIB : 4016 * KIB], plain),
        "array": Part(array, asked, array[at], plain),
        "tensor": Part(tensor, asked, tensor[at], plain),
        "named": Part({"a": array, "b": array + 1}, asked | {"name": "b"}, array[at] + 1, plain),
        # A group of 65,536 rows, one column, and the description at the end.
        "table": Part(table, asked | {"name": "n"}, table.select(["n"])[at], MIB),
    }


def program_read_bytes() -> int:
    """Return what this process has read by system calls so far (proc_pid_io(5))."""
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "rchar":
            return int(value)
    raise AssertionError("/proc/self/io has no rchar")


def is_equal(found: Any, expected: Any) -> bool:  # noqa: ANN401
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected)
    if isinstance(expected, np.ndarray):
        return bool(found.dtype == expected.dtype and found.tobytes() == expected.tobytes())
    if isinstance(expected, dict) and any(isinstance(v, np.ndarray) for v in expected.values()):
        # safetensors has little-endian numbers alone.
        return all(
            is_equal(found[name], value.astype(value.dtype.newbyteorder("<")))
            for name, value in expected.items()
        )
    if isinstance(expected, pa.Table):
        return bool(found.equals(expected))
    return bool(found == expected and repr(found) == repr(expected))


@pytest.fixture
def manager(place: Path, mount: Mount) -> MemoryManager:
    return MemoryManager(mount=place, root=str(place.relative_to(mount.root)))


@pytest.mark.parametrize("tier", TIERS)
def test_a_part_costs_what_it_has_in_each_form(
    manager: MemoryManager, mount: Mount, tier: str
) -> None:
    """The program reads the part and the header; the daemon reads the frames that hold them."""
    for key, part in parts().items():
        manager.store(key, part.value, tier=tier, durable=True)
    wait_until_at(tier, *(manager.path(key) for key in parts()))
    for key, part in parts().items():
        assert TIERS[tier] in residence(manager.path(key)).forms
        # What the daemon is found by takes reads that grow with the processes of the machine.
        in_daemon = daemon_read_bytes(mount)
        in_program = program_read_bytes()
        found = manager.retrieve(key, **part.wanted)
        in_program = program_read_bytes() - in_program
        in_daemon = daemon_read_bytes(mount) - in_daemon
        assert is_equal(found, part.expected), key
        # /proc itself is read twice, and the table of mounts by the daemon.
        assert in_program < part.bytes_max + 64 * KIB, (key, in_program)
        size = manager.path(key).stat().st_size
        if tier != "warm" and size > 4 * MIB:
            assert in_daemon < 8 * FRAME_BYTES + 2 * part.bytes_max, (key, in_daemon)
            assert "raw" not in residence(manager.path(key)).forms


VALUES = (
    st.binary(max_size=5000)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=2000)
    | JSON
    | NUMBERS
    | st.builds(lambda a, b: {"a": a, "b": b}, NUMBERS.filter(np.size), NUMBERS.filter(np.size))
    | st.builds(lambda n: pa.table({"n": n}), st.lists(st.integers(0, 9), min_size=1))
)


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(VALUES, min_size=10, max_size=15), st.data())
def test_values_of_all_kinds_go_through_all_tiers(
    manager: MemoryManager, values: list[Any], data: st.DataObject
) -> None:
    for key in list(manager):
        manager.delete(key)
    named = {f"k{number}": value for number, value in enumerate(values)}
    manager.batch_store(named.items())
    snapshot = manager.create_snapshot()
    for tier in data.draw(st.permutations(list(TIERS))):
        for key in named:
            manager.move(key, tier)
        wait_until_at(tier, *(manager.path(key) for key in named))
        for key, value in named.items():
            found = manager.retrieve(key)
            assert is_equal(found, value)
            assert type(found) is type(value) or isinstance(value, np.generic)
            if isinstance(value, bytes | str | list) or getattr(value, "ndim", 0) > 0:
                start = data.draw(st.integers(0, 10))
                part = manager.retrieve(key, start=start)
                if not isinstance(value, str):
                    assert is_equal(part, value[start:])
    for key, value in named.items():
        manager.store(key, b"other")
        assert is_equal(manager.retrieve(key, snapshot=snapshot), value)
    manager.delete_snapshot(snapshot)
