"""The manager on a plain directory: atomic stores, metadata, batches, links, processes, threads."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from memfs.manager.batches import BatchError
from memfs.manager.entries import mtime_of
from memfs.manager.errors import (
    ArchivedError,
    DiskFullError,
    KeyConflictError,
    MissingKeyError,
    MountUnavailableError,
    TierUnavailableError,
    ValueFormatError,
)
from memfs.manager.manager import MemoryManager
from memfs.manager.metrics import hit_ratios
from memfs.manager.policy import MigrationPolicy
from tests.disk_calls import intercept
from tests.waiting import join, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.manager.metadata import Scalar

SCALARS: st.SearchStrategy[Any] = (
    st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False)
    | st.text(max_size=50)
    | st.sampled_from(["7", "1.5", "true", "2025-01-01", "1e5", "007", "-0", "NaN", ""])
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(UTC))
)
NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda name: not name.startswith(("memfs.", "memory.", "mime_type")))


@pytest.fixture
def manager(tmp_path: Path) -> MemoryManager:
    return MemoryManager(mount=tmp_path, plain=True)


# --- keys ----------------------------------------------------------------------------------------
def test_store_retrieve_exists_delete(manager: MemoryManager) -> None:
    assert not manager.exists("a/b")
    entry = manager.store("a/b", b"x", metadata={"n": 1})
    assert entry == manager.entry("a/b")
    assert (entry.key, entry.size_bytes, entry.metadata) == ("a/b", 1, {"n": 1})
    assert entry.path.read_bytes() == b"x"
    assert manager.exists("a/b")
    assert not manager.exists("a")
    manager.delete("a/b")
    assert not manager.exists("a/b")
    assert os.listdir(manager.directory) == []
    manager.delete("a/b", missing_ok=True)


def test_what_is_not_stored_is_told_by_its_key(manager: MemoryManager) -> None:
    for call in (manager.retrieve, manager.delete, manager.entry, manager.get_metadata):
        with pytest.raises(MissingKeyError, match="stored under the key 'x/y'") as caught:
            call("x/y")
        assert isinstance(caught.value, KeyError)
    with pytest.raises(MissingKeyError):
        manager.set_metadata("x/y", {"a": 1})
    assert manager.retrieve("x/y", default=None) is None
    assert list(manager.keys()) == []


def test_whether_anything_is_stored_is_told_by_one_key(
    manager: MemoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not manager
    manager.batch_store({f"d/{number}": number for number in range(3)})
    listed = iter(list(manager))
    monkeypatch.setattr(MemoryManager, "keys", lambda *_: listed)
    assert manager
    assert len(list(listed)) == 2


def test_it_is_a_dictionary(manager: MemoryManager) -> None:
    manager["b"] = [1]
    manager["a"] = "text"
    assert manager["b"] == [1]
    assert "b" in manager
    assert 7 not in manager
    assert list(manager) == ["a", "b"]
    assert len(manager) == 2
    del manager["a"]
    assert len(manager) == 1
    with pytest.raises(KeyError):
        manager["a"]


def test_keys_by_prefix_with_long_and_strange_ones(manager: MemoryManager) -> None:
    keys = ["a", "ab/c", "ab/.hidden", "ab//d", "b%2E", "x" * 300, "ab/" + "y" * 300]
    for key in keys:
        manager.store(key, b"")
    assert sorted(manager.keys()) == sorted(keys)
    for prefix in ("", "a", "ab", "ab/", "ab/.h", "ab/" + "y" * 250, "zz"):
        assert sorted(manager.keys(prefix)) == sorted(k for k in keys if k.startswith(prefix))


def test_a_key_beside_one_below_it_is_a_conflict(manager: MemoryManager) -> None:
    manager.store("a", b"1")
    with pytest.raises(KeyConflictError, match="is below a key that is a file"):
        manager.store("a/b", b"2")
    manager.store("d/e", b"3")
    with pytest.raises(KeyConflictError, match="has other keys below it"):
        manager.store("d", b"4")
    with pytest.raises(KeyConflictError, match="is stored already"):
        manager.store("a", b"5", overwrite=False)
    assert manager["a"] == b"1"
    assert manager["d/e"] == b"3"
    assert no_temporary_files(manager)


def no_temporary_files(manager: MemoryManager) -> bool:
    names = [name for _, _, files in os.walk(manager.directory) for name in files]
    return not any(name.startswith(".") for name in names)


# --- metadata ------------------------------------------------------------------------------------
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.dictionaries(NAMES, SCALARS, max_size=6))
@example({"a": "7", "b": 7, "c": 7.0, "d": "7.0", "e": True, "f": "true", "g": ""})
@example({"t": datetime(2025, 1, 1, tzinfo=UTC), "d": date(2025, 1, 1), "s": "2025-01-01"})
def test_metadata_comes_back_with_its_types(
    manager: MemoryManager, metadata: dict[str, Scalar]
) -> None:
    manager.store("k", b"", metadata=metadata)
    found = manager.get_metadata("k")
    assert found == metadata
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in metadata.items()
    }


def test_metadata_is_set_and_replaced(manager: MemoryManager) -> None:
    path = manager.store("k", b"", metadata={"a": "1", "b": 2}).path
    manager.set_metadata("k", {"b": "3", "c": 4.5})
    assert manager.get_metadata("k") == {"a": "1", "b": "3", "c": 4.5}
    assert os.getxattr(path, "user.c") == b"4.5"
    manager.set_metadata("k", {"d": 1}, replace=True)
    assert manager.get_metadata("k") == {"d": 1}
    os.setxattr(path, "user.e", b"from elsewhere")
    assert manager.get_metadata("k") == {"d": 1, "e": "from elsewhere"}
    assert path.metadata == manager.get_metadata("k")


def test_numbers_of_numpy_are_metadata(manager: MemoryManager) -> None:
    manager.store("k", b"", metadata={"n": np.int64(7), "f": np.float32(0.5)})  # type: ignore[dict-item]
    assert manager.get_metadata("k") == {"n": 7, "f": 0.5}


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"a": [1]}, "'a' is list"),
        ({"a": None}, "'a' is NoneType"),
        ({"": 1}, "a name is a text"),
        ({"memfs.tier": "hot"}, "memfs's own"),
        ({"memory.key": "x"}, "memfs's own"),
        ({"mime_type": "x"}, "memfs's own"),
        ({"x" * 300: 1}, "up to 245 bytes"),
        ({"a": "x" * 70_000}, "65536 are taken"),
        ({f"name-{number}": "x" * 100 for number in range(1000)}, "65791 are taken of one key"),
        ({"\ud800": 1}, "surrogate"),
        ({"a": "\ud800"}, "surrogate"),
    ],
)
def test_what_is_no_metadata_is_refused_and_nothing_is_stored(
    manager: MemoryManager, metadata: dict[str, Scalar], reason: str
) -> None:
    with pytest.raises(ValueFormatError, match=reason):
        manager.store("k", b"", metadata=metadata)
    assert not manager.exists("k")
    manager.store("k", b"", metadata={"kept": 1})
    with pytest.raises(ValueFormatError, match=reason):
        manager.set_metadata("k", {"b": 2, **metadata})
    assert manager.get_metadata("k") == {"kept": 1}


# --- whole or not at all -------------------------------------------------------------------------
def test_a_store_that_fails_leaves_the_former_value(
    manager: MemoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.store("k", "before", metadata={"n": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    intercept(monkeypatch, "setxattr", before=full)
    with pytest.raises(DiskFullError, match=r"No space left.*; what was stored before is still"):
        manager.store("k", "after", metadata={"n": 2})
    monkeypatch.undo()
    assert manager["k"] == "before"
    assert manager.get_metadata("k") == {"n": 1}
    assert no_temporary_files(manager)


WRITER = """
import sys
from memfs.manager.manager import MemoryManager

manager = MemoryManager(mount=sys.argv[1], plain=True)
number = 0
print("ready", flush=True)
while True:
    number += 1
    manager.store("k", str(number) * 50_000, metadata={"number": number})
"""


def test_a_writer_that_is_killed_leaves_a_whole_value(manager: MemoryManager) -> None:
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, str(manager.directory.parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            deadline_s = time.monotonic() + 60
            while time.monotonic() < deadline_s:
                number = manager.entry("k").metadata["number"] if "k" in manager else None
                value = manager.retrieve("k", default=None)
                assert value is None or value == value[: len(value) // 50_000] * 50_000
                if isinstance(number, int) and number > 20:
                    break
            writer.send_signal(signal.SIGKILL)
        value = manager["k"]
        assert value == str(manager.get_metadata("k")["number"]) * 50_000
        assert list(manager) == ["k"]


def test_leftovers_of_killed_writers_are_removed_once_they_are_old(manager: MemoryManager) -> None:
    path = manager.store("d/k", b"1").path
    old, young = path.parent / ".k.0123.tmp", path.parent / ".k.4567.tmp"
    other = path.parent / ".hidden"
    for leftover in (old, young, other):
        leftover.write_bytes(b"x")
    os.utime(old, (1, 1))
    os.utime(other, (1, 1))
    assert manager.remove_leftovers() == 1
    assert sorted(os.listdir(path.parent)) == [".hidden", ".k.4567.tmp", "k"]


def test_two_writers_never_make_a_mixture(manager: MemoryManager) -> None:
    """A reader sees a value of one of them, for 100 reads and until it has seen two writers'."""
    enough = threading.Event()

    def write(letter: str) -> None:
        while not enough.is_set():
            manager.store("k", letter * 10_000, metadata={"letter": letter})

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    seen: list[str] = []

    def read() -> bool:
        for _ in range(10):
            value = str(manager.retrieve("k", default=""))
            assert len(set(value)) <= 1
            seen.append(value[:1])
        return len(seen) >= 100 and len(set(seen) - {""}) > 1

    try:
        wait_for(read, lambda: f"values of two writers, seen: {set(seen)}")
    finally:
        enough.set()
        join(*threads)
    assert manager["k"] == str(manager.get_metadata("k")["letter"]) * 10_000


# --- what others plant ---------------------------------------------------------------------------
def test_links_that_lead_out_lead_nowhere(manager: MemoryManager, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    manager.store("a", b"1")
    os.symlink(outside, manager.directory / "out")
    os.symlink(outside / "secret", manager.directory / "direct")
    os.symlink("loop", manager.directory / "loop")
    for key in ("out/secret", "direct", "loop"):
        assert not manager.exists(key)
        with pytest.raises(MissingKeyError):
            manager.retrieve(key)
    with pytest.raises(OSError, match="out"):
        manager.store("out/new", b"")
    manager.store("direct", b"mine")
    assert (outside / "secret").read_bytes() == b"secret"
    assert os.listdir(outside) == ["secret"]
    assert manager["direct"] == b"mine"


def test_links_within_the_directory_are_followed(manager: MemoryManager) -> None:
    manager.store("d/a", b"1")
    os.symlink("d", manager.directory / "link")
    assert manager["link/a"] == b"1"


def test_what_is_no_plain_file_is_no_value(manager: MemoryManager) -> None:
    manager.store("a", b"1")
    os.mkfifo(manager.directory / "pipe")
    with pytest.raises(MissingKeyError):
        manager.retrieve("pipe")
    assert list(manager) == ["a"]


# --- many at a time ------------------------------------------------------------------------------
def test_a_batch_has_a_result_or_an_error_for_each(manager: MemoryManager) -> None:
    told: list[int] = []
    items = ({"key": f"k{number}", "value": number} for number in range(200))
    result = manager.batch_store(items, progress=told.append, metadata={"batch": 1})
    assert len(result) == 200
    assert told == list(range(1, 201))
    assert manager.get_metadata("k7") == {"batch": 1}
    values = manager.batch_retrieve(f"k{number}" for number in range(200))
    assert values == {f"k{number}": number for number in range(200)}

    mixed = [("a", b"1"), ("b", object()), ("c", b"3")]
    with pytest.raises(BatchError, match="1 of 3 items failed") as caught:
        manager.batch_store(mixed)
    assert len(caught.value.exceptions) == 1
    assert "a" in manager
    assert "c" in manager
    partial = manager.batch_store(mixed, errors="return")
    assert sorted(partial) == ["a", "c"]
    assert isinstance(partial.errors["b"], ValueFormatError)

    gone = manager.batch_delete(["a", "missing"], errors="return")
    assert list(gone) == ["a"]
    assert isinstance(gone.errors["missing"], MissingKeyError)


def test_a_batch_of_values_by_key(manager: MemoryManager) -> None:
    """What `batch_retrieve` returns can be stored again."""
    assert sorted(manager.batch_store({"a": 1, "b": [2]}, metadata={"n": 1})) == ["a", "b"]
    assert manager.batch_retrieve(["a", "b"]) == {"a": 1, "b": [2]}
    assert manager.get_metadata("b") == {"n": 1}


MISTAKES: dict[str, tuple[Callable[[MemoryManager], object], type[Exception], str]] = {
    "one key for many": (lambda m: m.batch_retrieve("ab"), TypeError, r"keys is one .*\['ab'\]"),
    "one key to delete": (lambda m: m.batch_delete("ab"), TypeError, "keys is one"),
    "no keys at all": (lambda m: m.batch_retrieve(7), TypeError, "keys is int"),  # type: ignore[arg-type]
    "an item": (lambda m: m.batch_store([("a", 1), 5]), TypeError, "item of a batch is int"),  # type: ignore[list-item]
    "a triple": (lambda m: m.batch_store([("a", 1, 2)]), TypeError, "item of a batch is tuple"),  # type: ignore[list-item]
    "a word": (lambda m: m.batch_delete(["a"], errors="ignore"), ValueError, "'raise' or"),  # type: ignore[arg-type]
    "metadata": (lambda m: m.store("a", 1, metadata=[1]), ValueFormatError, "metadata is list"),  # type: ignore[arg-type]
    "name of bytes": (
        lambda m: m.retrieve("bytes", name="x"),
        ValueFormatError,
        "no parts by name",
    ),
    "name of text": (lambda m: m.retrieve("text", name="x"), ValueFormatError, "no parts by name"),
    "name of array": (
        lambda m: m.retrieve("array", name="x"),
        ValueFormatError,
        "no parts by name",
    ),
    "list": (lambda m: m.store("a", [1], format="safetensors"), ValueFormatError, "list cannot be"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_as_what_it_is(manager: MemoryManager, mistake: str) -> None:
    kept: dict[str, Any] = {"bytes": b"1", "text": "one", "array": np.arange(3)}
    for key, value in kept.items():
        manager.store(key, value)
    make, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=message):
        make(manager)
    assert set(manager) == set(kept)


@pytest.mark.parametrize("size", [-1, float("nan"), float("inf"), "8", True, 1e12])
def test_a_size_that_is_none_is_told_by_its_name(tmp_path: Path, size: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=r"^warm_memory_size = .* is no size in GB"):
        MemoryManager(warm_memory_size=size, mount=tmp_path, plain=True)
    with pytest.raises(ValueError, match=r"^cold_config\['size_gb'\] = .* is no size in GB"):
        MemoryManager(cold_config={"size_gb": size}, mount=tmp_path, plain=True)


def test_a_policy_is_no_dictionary(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"is dict; it can be a memfs\.policies\.MigrationPolicy"):
        MemoryManager(migration_policy={"hot": 1}, mount=tmp_path, plain=True)  # type: ignore[arg-type]


def test_a_batch_takes_few_values_in_advance(manager: MemoryManager) -> None:
    made: list[int] = []

    def items() -> Iterator[tuple[str, bytes]]:
        for number in range(500):
            made.append(number)
            assert len(made) - len(done) <= 100
            yield f"k{number}", b"x" * 100

    done: list[int] = []
    manager.batch_store(items(), progress=done.append)
    assert len(manager) == 500


# --- processes -----------------------------------------------------------------------------------
def _store_in_child(manager: MemoryManager, key: str) -> None:
    manager.store(key, np.arange(10))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_goes_through_processes(manager: MemoryManager, method: str) -> None:
    manager.store("before", b"1")
    context = multiprocessing.get_context(method)
    child = context.Process(target=_store_in_child, args=(manager, method))  # type: ignore[attr-defined]
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert manager[method].tolist() == list(range(10))


def test_it_is_pickled(manager: MemoryManager) -> None:
    manager.store("a", b"1")
    assert pickle.loads(pickle.dumps(manager))["a"] == b"1"


def test_it_holds_no_descriptor_between_calls(manager: MemoryManager) -> None:
    before = len(os.listdir("/proc/self/fd"))
    manager.store("d/a", np.arange(10))
    manager.retrieve("d/a", start=2)
    list(manager.keys())
    manager.set_metadata("d/a", {"n": 1})
    manager.delete("d/a")
    with pytest.raises(MissingKeyError):
        manager.retrieve("d/a")
    assert len(os.listdir("/proc/self/fd")) == before


# --- places --------------------------------------------------------------------------------------
def test_a_directory_that_is_no_mount_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MountUnavailableError, match="in a mount of memfs; mount memfs"):
        MemoryManager(mount=tmp_path)


def test_without_a_mount_there_are_no_tiers(manager: MemoryManager) -> None:
    with pytest.raises(TierUnavailableError, match="plain directory"):
        manager.store("a", b"", tier="warm")
    with pytest.raises(TierUnavailableError, match="plain directory"):
        manager.get_metrics()
    with pytest.raises(ValueError, match="plain=True needs mount="):
        MemoryManager(plain=True)


def test_a_policy_has_times(tmp_path: Path) -> None:
    assert json.loads(MigrationPolicy(24, 72, 30).mark()) == {
        "hot_to_warm": 86400.0,
        "warm_to_cold": 259200.0,
        "cold_to_glacier": 2592000.0,
    }
    with pytest.raises(ValueError, match="warm_to_cold_threshold=-1"):
        MigrationPolicy(warm_to_cold_threshold=-1)


def test_hit_ratios_are_of_the_opens_that_reach_a_tier() -> None:
    told = "\n".join(
        f'memfs_opens_total{{mount="/m",level="{level}"}} {count}'
        for level, count in (("warm", 60), ("cold", 15), ("packed", 15), ("glacier", 10))
    )
    expected = {"hot": 0.0, "warm": 0.6, "cold": 0.75, "glacier": 1.0, "total": 0.9}
    assert hit_ratios(told) == expected
    assert set(hit_ratios("").values()) == {None}


def test_a_key_is_opened_as_a_file(manager: MemoryManager) -> None:
    with manager.open("d/log", "w") as file:
        file.write("first\n")
    with manager.open("d/log", "a") as file:
        file.write("second\n")
    assert manager.retrieve("d/log") == b"first\nsecond\n"
    with manager.open("d/log", "r+b") as file:
        file.seek(-7, os.SEEK_END)
        file.write(b"third!")
    with manager.open("d/log") as file:
        assert file.read() == b"first\nthird!\n"
    with pytest.raises(MissingKeyError):
        manager.open("missing")
    with pytest.raises(KeyConflictError, match="is stored already"):
        manager.open("d/log", "x")
    with pytest.raises(KeyConflictError, match="has other keys below it"):
        manager.open("d", "w")
    with pytest.raises(KeyConflictError, match="is below a key"):
        manager.open("d/log/e", "w")
    os.symlink("/etc/passwd", manager.directory / "link")
    for mode in ("r", "a", "w"):
        with pytest.raises(MissingKeyError):
            manager.open("link", mode)


def test_a_batch_shows_a_bar_on_request(
    manager: MemoryManager, capsys: pytest.CaptureFixture[str]
) -> None:
    manager.batch_store([(f"k{number}", number) for number in range(20)], progress=True)
    shown = capsys.readouterr()
    assert "20/20" in shown.err
    assert shown.out == ""
    assert len(manager.batch_retrieve(manager.keys(), progress=True)) == 20
    assert "20/?" in capsys.readouterr().err


def test_an_archived_value_says_until_when_it_is_restored() -> None:
    until = datetime(2026, 3, 1, 5, 6, tzinfo=UTC)
    pending = {
        "code": "archived",
        "reason": "es dauert",
        "until_ns": int(until.timestamp()) * 10**9,
    }
    error = ArchivedError.of("k", pending)
    assert error.until == until
    assert str(error) == "the value of 'k' cannot be read yet: es dauert"
    assert (error.errno, isinstance(error, OSError)) == (errno.EBUSY, True)
    # A quota's end is not that of the restore.
    assert ArchivedError.of("k", pending | {"code": "quota"}).until is None
    assert ArchivedError.of("k", pending | {"until_ns": 0}).until is None
    early = ArchivedError.of("k", {})
    assert early.until is None
    assert "a restore was requested" in str(early)


def test_a_time_is_told_as_stat_tells_it(tmp_path: Path) -> None:
    """Times of one file are compared: a division rounds one in four another way."""
    path = tmp_path / "file"
    path.touch()
    for number in range(200):
        mtime_ns = 1_796_073_781 * 10**9 + number * 4_999_999
        os.utime(path, ns=(mtime_ns, mtime_ns))
        assert mtime_of(mtime_ns) == path.stat().st_mtime
