"""The status report: from the daemon's parts to what a user sees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from memfs.config import ColdConfig
from memfs.content.activity import Activity
from memfs.control.report import (
    COUNT_MAX,
    CodecReport,
    DriverReport,
    ElementsReport,
    FieldIndexReport,
    IndexReport,
    PendingReport,
    PolicyReport,
    PoolReport,
    PrefetchReport,
    QuotaReport,
    SnapshotsReport,
    SourceReport,
    StatusReport,
    StoreReport,
    TierReport,
    WorkReport,
)
from memfs.control.typed import decode, encode
from memfs.errors import InvalidValueError
from memfs.metadata.records import PendingMove
from memfs.placement.quotas import Quotas
from memfs.policy.access_stats import AccessStats
from memfs.policy.plugins import GuardedPlanner
from memfs.stores.health import StoreHealth
from memfs.types import InodeNo, PendingCode, Tier
from memfs_daemon.policy import PolicyMethods
from memfs_daemon.status import Status, StatusParts
from memfs_tools.display import print_status
from tests.moving import SMALL_FRAMES, State, incompressible

ALL_ELEMENTS = ElementsReport(True, 0, 7, 7)
NO_ELEMENTS = ElementsReport(False, 0, 0, 0)

REPORT = StatusReport(
    version="0.1.0",
    mountpoint="/mnt/[data]",
    state_dir="/var/lib/memfs/data",
    pid=17,
    uptime_s=3700.0,
    memory_bytes=50 << 20,
    inode_count=12345,
    logical_bytes=3 << 30,
    driver=DriverReport("kernel", False, ("Linux 6.8 is older than 6.9",), ("no X: Y instead",)),
    store_url="s3://bucket/prefix",
    store=StoreReport(False, 90.0, "bucket does not exist"),
    tiers=(
        TierReport("warm", 1 << 30, 256 << 20, 7, "locking is refused: raise RLIMIT_MEMLOCK"),
        TierReport("cold", 10 << 30, 1 << 30, 100, None),
        TierReport("glacier", None, 5 << 40, COUNT_MAX, None),
    ),
    work=WorkReport(
        unsealed_count=2,
        not_durable_count=0,
        intent_count=1,
        pending_count=COUNT_MAX,
        garbage_count=0,
        pending=(
            PendingReport(
                "/a\udcffb",
                "glacier",
                "the store refuses: 403",
                3,
                42.0,
                "2026-11-30T10:00:00Z",
                PendingCode.STORE,
                "2026-11-30T17:00:00Z",
            ),
        ),
    ),
    prefetch=PrefetchReport(
        sources=(
            SourceReport("sequence", 120, 110, 10, 0.93, False),
            SourceReport("successor", 40, 3, 30, 0.12, True),
            SourceReport("listing", 0, 0, 0, 0.75, False),
            SourceReport("hint", 9, 9, 0, 1.0, False),
        ),
        learned_count=500,
        fetched_count=100,
        fetched_bytes=1 << 20,
        held_count=90,
        waiting_count=1,
        stalled="the disk tier has no room",
    ),
    policy=PolicyReport(
        name="frugal",
        note="policy frugal failed",
        frozen=True,
        pools=(PoolReport("training", 1 << 30, 512 << 20, 3),),
    ),
    quotas=(
        QuotaReport("egress_per_day", 100 << 30, 50 << 30, 1 << 30, 3600.0),
        QuotaReport("requests_per_day", 1000, 0, 0, 0.0),
    ),
    codecs=(
        CodecReport("none", 0, 0, 0, 0.0, 2, 5 << 20),
        CodecReport("zstd:3 shuffle:2", 4, 40 << 20, 20 << 20, 2.0, 0, 0),
    ),
    keys=("0123456789abcdef", "fedcba9876543210"),
    xattr_index=IndexReport(True, False, 430, 1000, 7, False, ElementsReport(False, 25, 2, 7)),
    field_indexes=(
        FieldIndexReport("$mtime", "whole", 1000, 1000),
        FieldIndexReport("$name", "building", 120, 1000),
        FieldIndexReport("$size", "leaving", 1000, 1000),
        FieldIndexReport("user.note", "building", 7, 1000),
    ),
    snapshots=SnapshotsReport(3, 7200.0, 1, 12, 5 << 20),
)


def test_a_report_survives_the_socket() -> None:
    assert decode(StatusReport, json.loads(json.dumps(encode(REPORT)))) == REPORT


def test_a_report_of_another_version_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="is missing"):
        decode(StatusReport, {"version": "9"})


def test_the_table_shows_use_reasons_and_waiting_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_status(REPORT)
    text = capsys.readouterr().out
    for expected in [
        "/mnt/[data]  12345 inodes, 3.0 GiB, up 1 h 2 min",
        "s3://bucket/prefix, fails for 1 min 30 s: bucket does not exist",
        "kernel, served by the daemon (Linux 6.8 is older than 6.9)",
        "256.0 MiB",
        "█████░░░░░░░░░░░░░░░  25%",
        "egress_per_day: 50.0 GiB of 100.0 GiB used, 1.0 GiB kept",
        "for what is under way, more in 1 h",
        "requests_per_day: 0 of 1000 used",
        "snapshots: 3, the newest one 2 h old; 5.0 MiB on the disk in 12 files that only they "
        "show; 1 being removed",
        "warm: locking is refused: raise RLIMIT_MEMLOCK",
        "2 open for writing, 1 moving, 10000 or more waiting to move",
        "refuses: 403 (since 2026-11-30T10:00:00Z, tried 3 times, again in 42 s)",
        "prefetch waits: the disk tier has no room",
        "policy frugal failed",
        "queries wait: 43.0 % of the inodes are in the index of xattrs",
        "pool training: 512.0 MiB of 1.0 GiB, 3 files",
    ]:
        assert expected in text


def test_the_sources_of_guesses_are_shown_with_their_precision(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those that never guessed are left out; a hint is no guess, so it has no precision."""
    print_status(REPORT)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["sequence", "120", "110", "10", "93%"] in rows
    assert ["successor", "40", "3", "30", "12%", "stopped"] in rows
    assert ["hint", "9", "9", "0", "-"] in rows
    assert not [row for row in rows if row and row[0] == "listing"]


def test_the_work_of_codecs_and_the_keys_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(REPORT)
    text = capsys.readouterr().out
    assert "0123456789abcdef encrypts; fedcba9876543210 can be read" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "zstd:3 shuffle:2 4 40.0 MiB 20.0 MiB 2.00 20.0 MiB/s -" in lines
    assert "none 0 0 B 0 B - - 2 (5.0 MiB)" in lines


def test_a_tier_that_holds_more_than_its_quota_shows_how_much(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Twice the capacity is no full tier; the bar is as long as it can be."""
    full = TierReport("cold", 1 << 30, 2 << 30, 10, None)
    print_status(REPORT._replace(tiers=(full,)))
    [row] = [line.split() for line in capsys.readouterr().out.splitlines() if "cold" in line]
    assert row[-2:] == ["█" * 20, "200%"]


def test_moves_that_are_decided_are_work(capsys: pytest.CaptureFixture[str]) -> None:
    """A mount that drains is not idle between two moves."""
    print_status(REPORT._replace(work=WorkReport(0, 0, 0, 0, 0, (), queued_count=7)))
    assert "work    7 to be moved" in capsys.readouterr().out


def test_a_mount_without_work_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(REPORT._replace(work=WorkReport(0, 0, 0, 0, 0, ())))
    assert "work    none" in capsys.readouterr().out


def test_an_index_without_room_for_names_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for index, told in (
        (IndexReport(True, True, 9, 9, 7, False, ALL_ELEMENTS), False),
        (IndexReport(False, False, 0, 9, 0, False, NO_ELEMENTS), False),
        (IndexReport(True, True, 9, 9, 7, True, ALL_ELEMENTS), True),
    ):
        print_status(REPORT._replace(xattr_index=index))
        text = capsys.readouterr().out
        assert ("full with 7 names; raise query.name_count_max" in text) is told
        assert "queries wait" not in text
        assert "JSON arrays" not in text


def test_indexes_that_are_built_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(REPORT)
    text = capsys.readouterr().out
    for expected in (
        "queries wait: 43.0 % of the inodes are in the index of xattrs",
        "index of elements of JSON arrays: being built: 25 arrays since the mount began, all "
        "those of 2 of 7 names",
        "index of $name: being built: 120 of 1000 inodes are in it",
        "index of $size: being removed",
        "index of texts of user.note: being built: 7 of 1000 inodes are in it",
    ):
        assert expected in text
    assert "$mtime" not in text


class QuietPrefetcher:
    """Has guessed nothing."""

    def status(self) -> dict[str, object]:
        return dict(encode(REPORT.prefetch))


def status_parts(state: State) -> StatusParts:
    config = state.parts.config
    return StatusParts(
        Path("/mount"),
        state.state_dir,
        config,
        state.engine,
        state.residency,
        state.remote,
        QuietPrefetcher(),  # type: ignore[arg-type]  # it is asked for its status alone
        Quotas(config.quotas, state.engine),
        PolicyMethods(state.engine, AccessStats(), GuardedPlanner(), Activity(), 0),
        state.parts.tally,
        state.parts.keys,
        lambda: REPORT.driver,
        None,
        state.parts.lost_found,
        {"": StoreHealth()},
        lambda: 0,
    )


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_store_on_the_disk_of_the_state_is_told_of(tmp_path: Path, elsewhere: bool) -> None:
    state = State(tmp_path / "state")
    parts = status_parts(state)._replace(store_elsewhere=elsewhere)
    report = await Status(parts).status()
    state.close()
    [note] = [tier.note for tier in report.tiers if tier.tier == "glacier"]
    assert note is None if elsewhere else "frees only what compression saves" in str(note)


@pytest.mark.parametrize("stored", [False, True])
async def test_a_full_disk_tier_without_a_store_says_what_helps(
    tmp_path: Path, stored: bool
) -> None:
    """Its files do not shrink, and nothing in the list of waiting moves tells of that."""
    config = replace(SMALL_FRAMES, cold=ColdConfig(size_bytes=100_000))
    state = State(tmp_path / "state", config)
    parts = status_parts(state)._replace(remote=state.remote if stored else None)
    notes = []
    for size in (1000, 200_000):
        await state.create(f"of-{size}", incompressible(size))
        report = await Status(parts).status()
        notes.append(next(tier.note for tier in report.tiers if tier.tier == "cold"))
    state.close()
    assert notes[0] is None
    assert ("files leave it" if stored else "raise cold.size") in str(notes[1])


async def test_a_file_that_goes_while_the_status_is_told_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is listed before the disk is asked, and described after that."""
    state = State(tmp_path / "state")
    ino = await state.create("f", b"content")
    gone = PendingMove(InodeNo(ino + 1000), Tier.GLACIER, "gone", 1, 0, 0, PendingCode.USE)
    async with state.engine.change():
        await state.engine.set_pending(gone._replace(ino=ino, reason="waits"))
    [waiting] = await state.engine.list_pending(None, 10)

    async def list_pending(*_arguments: object) -> list[PendingMove]:
        return [gone, waiting]

    monkeypatch.setattr(state.engine, "list_pending", list_pending)
    told = (await Status(status_parts(state)).status()).work.pending
    assert [each.reason for each in told] == ["waits"]
    state.close()
