"""Batches at a mount: by the daemon where it can, else by requests, and the same either way."""

from __future__ import annotations

import json
import os
import random
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from memfs import ColdMemory, GlacierMemory, MemoryManager, WarmMemory
from memfs.client import small_files
from memfs.client.mount import Mount as Client
from memfs.client.small_files import FILE_BYTES_MAX, FILES_A_CALL, NewFile, put_small
from memfs.control.client import ControlError, call_door
from memfs.filesystem.small_files import READ_BYTES_MAX
from memfs.manager.batches import BatchError
from memfs.manager.errors import (
    KeyConflictError,
    MissingKeyError,
    UnsafeFormatError,
    ValueFormatError,
)
from memfs.manager.root import LARGE_BYTES
from tests.namespaces import in_namespace
from tests.posix.capabilities import Capability
from tests.tiers.tiering import wait_until_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.control.protocol import JsonValue
    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS), pytest.mark.any_driver]


@pytest.fixture
def manager(place: Path, mount: Mount) -> MemoryManager:
    return MemoryManager(mount=place, root=str(place.relative_to(mount.root)))


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are stored and retrieved by calls for many, and not one by one."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a value was stored or retrieved by itself")

    monkeypatch.setattr(MemoryManager, "store", refuse)
    monkeypatch.setattr(MemoryManager, "retrieve", refuse)


def values() -> dict[str, Any]:
    kinds: dict[str, Any] = {
        "bytes": b"\0\xff" * 100,
        "empty": b"",
        "text": "Größe",
        "json": {"a": [1, 2.5, None, "ä"]},
        "array": np.arange(12.0).reshape(3, 4),
        "named": {"a": np.arange(3)},
    }
    return kinds | {f"n/{number % 7}/{number}": number for number in range(2 * FILES_A_CALL)}


def is_same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    def plain(value: Any) -> Any:  # noqa: ANN401 - any value
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        return value.tolist() if isinstance(value, np.ndarray) else value

    return bool(plain(found) == plain(wanted))


@pytest.mark.usefixtures("together")
def test_small_values_of_all_kinds_are_stored_and_retrieved_together(
    manager: MemoryManager,
) -> None:
    wanted = values()
    for key in wanted:
        # The kernel knows that there is no such file.
        assert not manager.exists(key)
    entries = manager.batch_store(wanted.items(), metadata={"kind": "small", "n": 7})
    assert entries.keys() == wanted.keys()
    assert is_same(manager.batch_retrieve(wanted), wanted)
    for key in ("bytes", "array", "n/3/3"):
        entry, status = entries[key], manager.path(key).stat()
        assert entry == manager.entry(key)
        assert (entry.size_bytes, entry.mtime) == (status.st_size, status.st_mtime)
        assert manager.get_metadata(key) == {"kind": "small", "n": 7}
        with manager.open(key) as file:
            assert file.read() == manager.path(key).read_bytes()
    assert sorted(manager.keys()) == sorted(wanted)
    assert len(manager.query({"kind": "small"}, prefix="n/")) == 2 * FILES_A_CALL


def test_what_is_replaced_is_seen_at_once(manager: MemoryManager) -> None:
    keys = [f"d/{number}" for number in range(20)]
    manager.batch_store((key, "old") for key in keys)
    paths = [manager.path(key) for key in keys]
    before = [path.stat().st_mtime_ns for path in paths]
    with manager.open(keys[0]) as reader:
        manager.batch_store((key, "newer") for key in keys)
        assert [path.read_text() for path in paths] == ["newer"] * 20
        assert reader.read() == b"old"
    assert all(path.stat().st_mtime_ns > time for path, time in zip(paths, before, strict=True))
    manager.batch_delete(keys)
    assert not any(path.exists() for path in paths)
    assert manager.batch_retrieve(keys, default=None) == dict.fromkeys(keys)


def test_what_the_daemon_leaves_is_done_by_requests(manager: MemoryManager) -> None:
    manager.store("file", b"1")
    manager.store("dir/below", b"2")
    (manager.directory / "link").symlink_to("dir")
    items = {
        "large": b"x" * (FILE_BYTES_MAX + 1),
        "long json": ["x" * 100] * FILE_BYTES_MAX,
        "link/through": b"3",
        "k" * 300: b"4",
    }
    bad: dict[str, object] = {"file/below": b"", "dir": b"", "object": object(), "\0": b""}
    result = manager.batch_store([*items.items(), *bad.items()], errors="return")
    assert result.keys() == items.keys()
    kinds = {key: type(error) for key, error in result.errors.items()}
    assert kinds == {
        "file/below": KeyConflictError,
        "dir": KeyConflictError,
        "object": ValueFormatError,
        "\0": ValueFormatError,
    }
    assert manager["dir/through"] == b"3"
    found = manager.batch_retrieve([*items, "missing", "dir"], errors="return")
    assert found == items
    assert {type(error) for error in found.errors.values()} == {MissingKeyError}
    with pytest.raises(BatchError, match="2 of 2 items failed"):
        manager.batch_retrieve(["missing", "dir"])
    taken = manager.batch_store([("file", b"5")], overwrite=False, errors="return")
    assert isinstance(taken.errors["file"], KeyConflictError)


def test_a_batch_returns_what_each_key_alone_does(manager: MemoryManager, place: Path) -> None:
    """Missing, removed, replaced, damaged, shut and long ones among the small; for any user."""
    chance = random.Random(7)
    place.chmod(0o755)
    keys = [f"r/{number % 9}/{number}" for number in range(700)]
    manager.batch_store((key, [key, number]) for number, key in enumerate(keys))
    for number, key in enumerate(keys):
        fate = chance.randrange(12)
        if fate == 0:
            manager.delete(key)
        elif fate == 1:
            manager.path(key).write_bytes(b"{broken")
        elif fate == 2:
            manager.store(key, b"x" * chance.choice([FILE_BYTES_MAX, 200_000]))
        elif fate == 3:
            manager.path(key).chmod(0o600)
        elif fate == 4:
            manager.store(key, number)
    manager.path("r/0").chmod(0o700)
    asked = [*keys, *(f"r/{number}/missing" for number in range(9)), "r/1", "none/at/all"]
    chance.shuffle(asked)

    def alone(key: str) -> object:
        try:
            return manager.retrieve(key)
        except Exception as error:
            return repr(error)

    def is_same() -> bool:
        result = manager.batch_retrieve(asked, errors="return")
        told = {key: repr(error) for key, error in result.errors.items()}
        expected = {key: alone(key) for key in asked}
        return len(result) > 200 and len(told) > 100 and {**result, **told} == expected

    assert is_same()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            found = is_same()
        except BaseException:
            found = False
        os._exit(0 if found else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_values_that_one_answer_has_no_room_for_are_asked_for_again(
    manager: MemoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {f"a/{number}": b"%4d" % number * (FILE_BYTES_MAX // 4) for number in range(600)}
    assert sum(map(len, values.values())) > 2 * READ_BYTES_MAX
    manager.batch_store(values.items())
    with monkeypatch.context() as patch:
        patch.setattr(MemoryManager, "retrieve", None)
        assert manager.batch_retrieve(values) == values
    manager.batch_delete(values)


def test_a_large_value_has_the_pages_of_the_one_that_it_replaces(
    manager: MemoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of one that somebody reads, and whatever becomes of the request, the value is stored."""
    asked: list[str] = []
    set_xattr = os.setxattr

    def note(path: Any, name: str, *rest: Any, **options: Any) -> None:  # noqa: ANN401 - as of os
        if name == "user.memfs.cache":
            asked.append(os.path.basename(path))
        set_xattr(path, name, *rest, **options)

    monkeypatch.setattr(os, "setxattr", note)
    array = np.zeros(LARGE_BYTES, np.uint8)
    for number in (1, 2):
        array[-1] = number
        manager.store("large", array)
        assert manager.retrieve("large", start=LARGE_BYTES - 1)[0] == number
    manager.store("large", b"small")
    manager.store("large", array)
    assert asked == ["large", "large"]
    manager.delete("large")


def test_items_that_come_before_a_failing_source_are_stored(manager: MemoryManager) -> None:
    def items() -> Iterator[tuple[str, int]]:
        yield "a", 1
        yield "b", 2
        raise RuntimeError("it ends")

    with pytest.raises(RuntimeError, match="it ends"):
        manager.batch_store(items())
    assert manager.batch_retrieve(["a", "b"]) == {"a": 1, "b": 2}


@pytest.mark.usefixtures("together")
def test_durable_values_are_stored_together_and_are_on_the_disk(manager: MemoryManager) -> None:
    keys = [f"durable/{number % 3}/{number}" for number in range(FILES_A_CALL + 3)]
    items = [{"key": key, "value": key, "durable": key != keys[5]} for key in keys]
    entries = manager.batch_store(items)
    assert entries.keys() == {*keys}
    assert {entries[key].state for key in keys if key != keys[5]} == {"local"}
    assert manager.batch_retrieve(keys) == {key: key for key in keys}
    manager.batch_delete(keys)


@pytest.mark.usefixtures("together")
def test_a_pin_is_there_from_the_first_instant(place: Path) -> None:
    cold = ColdMemory(directory=place)
    cold.batch_store((f"pinned/{number}", number) for number in range(5))
    cold.batch_store([{"key": "pinned/near", "value": 1, "tier": "warm"}])
    assert os.getxattr(cold.path("pinned/3"), "user.memfs.pin") == b"cold"
    assert os.getxattr(cold.path("pinned/near"), "user.memfs.pin") == b"warm"
    wait_until_at("cold", cold.path("pinned/3"))
    cold.batch_delete(list(cold.keys("pinned/")))


@pytest.mark.parametrize("tier", [WarmMemory, ColdMemory, GlacierMemory])
def test_a_manager_of_one_tier_reads_pickles_where_that_is_allowed(
    place: Path, tier: type[WarmMemory | ColdMemory | GlacierMemory]
) -> None:
    memory = tier(directory=place, allow_pickle=True)
    memory.batch_store([("pickled", {1, 2})], format="pickle")
    assert memory.batch_retrieve(["pickled"]) == {"pickled": {1, 2}}
    with pytest.raises(UnsafeFormatError, match="allow_pickle=True"):
        tier(directory=place).retrieve("pickled")
    memory.delete("pickled")


def test_a_daemon_that_does_not_answer_is_done_without(
    manager: MemoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ControlError("it is of another version")

    monkeypatch.setattr(small_files, "call_door", refuse)
    wanted = {f"k{number}": number for number in range(5)}
    manager.batch_store(wanted.items())
    assert manager.batch_retrieve(wanted) == wanted


def test_a_token_is_for_changes_only_where_the_kernel_lets_its_user_write(
    mount: Mount, place: Path
) -> None:
    """A container may have the mount read-only, and the socket is the same."""
    client = Client.of(place)
    params: dict[str, JsonValue] = {
        "paths": ["a"],
        "sizes": [1],
        "contents": "YQ==",
        "xattrs": ["{}"],
        "umask": 0,
        "replace": True,
        "tier": None,
    }

    def call(told: dict[str, str]) -> Any:  # noqa: ANN401 - from JSON
        ticket: dict[str, JsonValue] = {"ticket": told["token"]}
        return call_door(told["socket"], client.state_dir, "put_small_as_user", params | ticket)

    def ask(directory: Path) -> dict[str, str]:
        found: dict[str, str] = json.loads(os.getxattr(directory, "user.memfs.ask"))
        return found

    with pytest.raises(ControlError, match="was not written back"):
        call(ask(place))
    (place / "other").mkdir()
    told = ask(place)
    os.setxattr(place / "other", "user.memfs.ask", told["token"].encode())
    with pytest.raises(ControlError, match="was not written back"):
        call(told)
    told = ask(place)
    os.setxattr(place, "user.memfs.ask", told["token"].encode())
    query: dict[str, JsonValue] = {"filter": "{}", "ticket": ask(place)["token"]}
    with pytest.raises(ControlError, match="only a token of the root"):
        call_door(told["socket"], client.state_dir, "query_as_user", query)
    assert call(told)["mtimes_ns"][0] > 0
    assert (place / "a").read_bytes() == b"a"
    with pytest.raises(ControlError, match="was used before"):
        call(told)
    shown = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && setfattr -n user.memfs.ask'
    done = subprocess.run(
        in_namespace(f'{shown} -v x "$1"', place, keep=mount.root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Read-only file system" in done.stderr
    params["sizes"] = [2]
    told = ask(place)
    os.setxattr(place, "user.memfs.ask", told["token"].encode())
    with pytest.raises(ControlError, match="not those of the sizes"):
        call(told)


def test_a_user_who_may_not_write_there_makes_nothing(mount: Mount, place: Path) -> None:
    place.chmod(0o755)
    state = Client.of(place).state_dir
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            made = put_small(str(place), state, [NewFile("a", b"", {})])
        finally:
            os._exit(sum(made))
    assert os.waitpid(child, 0)[1] == 0
    assert not (place / "a").exists()
