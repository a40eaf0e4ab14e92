"""Prefetching as programs see it: files are near before they are opened, on real mounts."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from memfs.control.client import ControlError, call
from tests.mounting import run_memfs
from tests.posix.capabilities import Capability
from tests.tiers.tiering import compressible, residence, status, tell, wait_until_at
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.control.protocol import JsonValue
    from tests.conftest import MountFactory
    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS)]

FILE_BYTES = 20_000
QUICK = '[policy]\ninterval = "100ms"\nretry_min = "100ms"\nretry_max = "400ms"\n'


def make_remote(directory: Path, count: int) -> list[Path]:
    """Create numbered files that lie in the object store alone, and are not pinned any more."""
    files = [directory / f"part_{at:04}.bin" for at in range(count)]
    for seed, file in enumerate(files):
        file.write_bytes(compressible(FILE_BYTES, seed))
    tell(directory, "tier", "glacier")
    wait_until_at("glacier", *files)
    os.removexattr(directory, "user.memfs.tier")
    return files


def raw(files: list[Path]) -> list[Path]:
    return [file for file in files if "raw" in residence(file).forms]


def prefetched(mount: Mount) -> dict[str, Any]:
    answer: dict[str, Any] = status(mount)["prefetch"]
    return answer


def source(mount: Mount, name: str) -> dict[str, Any]:
    [found] = [each for each in prefetched(mount)["sources"] if each["source"] == name]
    answer: dict[str, Any] = found
    return answer


def ask(mount: Mount, method: str, **parameters: JsonValue) -> dict[str, Any]:
    answer: Any = call(mount.state, method, parameters, timeout_s=60.0)
    return dict(answer)


def paths_of(mount: Mount, files: list[Path]) -> list[JsonValue]:
    return [str(file.relative_to(mount.root)) for file in files]


def is_learned(mount: Mount, count: int) -> bool:
    return bool(prefetched(mount)["learned_count"] >= count)


def test_the_next_files_of_a_sequence_become_raw_before_they_are_opened(
    mount: Mount, place: Path
) -> None:
    files = make_remote(place, 24)
    read = [file.read_bytes() for file in files[:3]]
    wait_for(lambda: raw(files[3:5]) == files[3:5], "the next two are raw")
    read += [file.read_bytes() for file in files[3:6]]
    wait_for(lambda: raw(files[6:12]) == files[6:12], "the guesses reach further")
    assert raw(files[16:]) == []
    before = source(mount, "sequence")["hit_count"]
    read += [file.read_bytes() for file in files[6:]]
    wait_for(lambda: source(mount, "sequence")["hit_count"] > before, "guesses proved right")
    assert read == [compressible(FILE_BYTES, seed) for seed in range(24)]


def test_a_shuffled_order_fetches_nothing_beside_what_is_read(mount: Mount, place: Path) -> None:
    files = make_remote(place, 40)
    learned_count = prefetched(mount)["learned_count"]
    # Without equal steps one after the other, which are a sequence by chance.
    steps = [17, 3, 29, 8, 35, 12, 1, 22, 38, 6, 27, 14, 33, 19, 0, 31, 10, 25, 4, 36]
    opened = [files[at] for at in steps]
    for file in opened:
        file.read_bytes()
    wait_for(partial(is_learned, mount, learned_count + len(opened)), "all opens are learned from")
    assert prefetched(mount)["waiting_count"] == 0
    assert sorted(raw(files)) == sorted(opened)


def test_a_sampler_gives_its_order_and_the_next_one_replaces_it(mount: Mount, place: Path) -> None:
    files = make_remote(place, 12)
    order = random.Random(2).sample(files, 5)
    answer = ask(mount, "prefetch", paths=paths_of(mount, order), tier="cold", wait=True)
    assert sorted(raw(files)) == sorted(order)
    assert answer["progress"]["ended"]
    assert answer["progress"]["fetched_bytes"] == 5 * FILE_BYTES
    rest = [file for file in files if file not in order]
    again = ask(
        mount,
        "prefetch",
        paths=[*paths_of(mount, rest), "no/such/file", str(place.relative_to(mount.root))],
        job=answer["job"],
        replace=True,
        wait=True,
    )
    assert (again["taken_count"], again["skipped_count"]) == (len(rest) + 2, 2)
    assert raw(files) == files


@pytest.mark.any_driver
def test_an_order_is_told_by_inode_numbers(mount: Mount, place: Path) -> None:
    """Numbers that are no files are passed over, and files that are near cost nothing."""
    files = make_remote(place, 12)
    numbers = [file.stat().st_ino for file in files]
    coming: list[JsonValue] = [*numbers[:5], place.stat().st_ino, 1 << 40]
    told = ask(mount, "hint", coming=coming, done=[], tier="cold")
    assert told["taken_count"] == 7
    wait_for(
        lambda: ask(mount, "prefetch_progress", job=told["job"])["ended"],
        lambda: ask(mount, "prefetch_progress", job=told["job"]),
    )
    assert raw(files) == files[:5]
    rest: list[JsonValue] = [*numbers[5:]]
    again = ask(mount, "hint", coming=rest, done=rest, job=told["job"], replace=True)
    assert again["job"] == told["job"]
    wait_for(lambda: raw(files) == files, lambda: raw(files))


def test_what_is_held_is_passed_over_at_once(mount: Mount, place: Path) -> None:
    """Its job ends with the call that began it."""
    files = [place / f"near_{number}" for number in range(20)]
    for file in files:
        file.write_bytes(b"near")
    wait_until_at("warm", *files)
    numbers: list[JsonValue] = [file.stat().st_ino for file in files]
    job = ask(mount, "hint", coming=numbers, done=[])["job"]
    progress = ask(mount, "prefetch_progress", job=job)
    assert (progress["ended"], progress["warm_count"], progress["total_count"]) == (True, 20, 20)


@pytest.mark.any_driver
@pytest.mark.parametrize("numbers", [[0], [-1], [1 << 63], [True], ["1"], [None], "1", {}, [1.5]])
def test_numbers_that_can_be_no_inodes_are_refused(
    mount: Mount, place: Path, numbers: JsonValue
) -> None:
    for parameters in ({"coming": numbers, "done": []}, {"coming": [], "done": numbers}):
        with pytest.raises(ControlError, match=r"coming|done") as refused:
            ask(mount, "hint", **parameters)
        assert refused.value.errno == errno.EINVAL
    with pytest.raises(ControlError, match="tier: 'hot'") as refused:
        ask(mount, "hint", coming=[], done=[], tier="hot")
    assert refused.value.errno == errno.EINVAL


@pytest.mark.any_driver
def test_a_job_that_is_not_known_is_told_by_its_code(mount: Mount) -> None:
    with pytest.raises(ControlError) as refused:
        ask(mount, "prefetch_progress", job=1 << 40)
    assert refused.value.errno == errno.ENOENT


@pytest.mark.any_driver
def test_the_command_takes_trees_and_goes_on_where_it_was(mount: Mount, place: Path) -> None:
    files = make_remote(place, 12)
    listed = "\n".join(map(str, files[:5]))
    command = [sys.executable, "-m", "memfs_tools", "prefetch", "--json", "--from-file", "-"]
    done = subprocess.run(command, input=listed, capture_output=True, text=True, check=True)
    first = json.loads(done.stdout)
    assert (first["done_count"], first["fetched_bytes"]) == (5, 5 * FILE_BYTES)
    assert raw(files) == files[:5]
    second = json.loads(run_memfs("prefetch", "--json", place))
    assert (second["done_count"], second["fetched_bytes"]) == (12, 7 * FILE_BYTES)
    assert all(residence(file).locked for file in files) or status(mount)["tiers"][0]["note"]
    assert "12 of 12 files are near" in run_memfs("prefetch", "--tier", "cold", place)


@pytest.mark.any_driver
def test_an_interrupted_command_leaves_what_was_fetched(
    mount_factory: MountFactory, driver: str
) -> None:
    mount = mount_factory(driver, config=QUICK + '[cold]\nsize = "150KiB"\n')
    directory = mount.root / "data"
    directory.mkdir()
    files = make_remote(directory, 12)
    command = [sys.executable, "-m", "memfs_tools", "prefetch", str(directory)]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # A run in the background of a shell ignores SIGINT, and its children would as well.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as running:
        wait_for(lambda: prefetched(mount)["stalled"] is not None, "the disk tier is full")
        near = raw(files)
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    # Another file may have been under way when the first one found no room.
    now_near = raw(files)
    told_count = re.search(r"stopped; (\d+) of ", told)
    assert told_count is not None, told
    assert len(near) <= int(told_count[1]) <= len(now_near)
    assert "run it again to go on" in told
    assert 3 <= len(near) <= len(now_near) <= 6
    assert prefetched(mount)["waiting_count"] == 0
    assert set(near) <= set(now_near)


@pytest.mark.any_driver
def test_what_was_learned_survives_a_remount(mount_factory: MountFactory, driver: str) -> None:
    mount = mount_factory(driver, config=QUICK)
    directory = mount.root / "data"
    directory.mkdir()
    for at in range(30):
        (directory / f"{at:03}").write_bytes(b"x")
    for at in range(30):
        (directory / f"{at:03}").read_bytes()
    wait_for(lambda: is_learned(mount, 30), "all opens are learned from")
    before = source(mount, "sequence")
    assert before["issued_count"] > 20
    mount.stop()
    mount.start()
    after = source(mount, "sequence")
    assert after["issued_count"] == before["issued_count"]
    assert after["precision"] == before["precision"]
