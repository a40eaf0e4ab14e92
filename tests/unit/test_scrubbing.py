"""Scrub on a real engine and real stores: damage is found, repaired where it can be, and told."""

from __future__ import annotations

import errno as codes
import itertools
import os
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.content.opening import OpenMode
from memfs.errors import CodecMissingError, InvalidValueError
from memfs.jobs import scrubber as scrubber_module
from memfs.jobs.scrubber import Scrubber
from memfs.jobs.scrubbing import Scrubbed, ScrubOutcome, ScrubPace, scrub_file
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.policy import rules
from memfs.stores.disk import disk_errors
from memfs.types import ROOT_INODE, FormKind, Generation, InodeNo
from tests.faulty_store import Fault, FaultKind
from tests.moving import State, compressible
from tests.past import clone, past

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.control.methods.upkeep import ScrubReport
    from memfs.metadata.records import Inode, KeptContent
    from memfs.moves.attempt import MoveParts
    from memfs.types import SnapshotId

CONTENT = compressible(50_000)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    yield state
    state.close()


async def make(state: State, *kinds: FormKind) -> InodeNo:
    """Return a file with exactly these forms."""
    ino = await state.create("f", CONTENT)
    await pack(state.parts, ino)
    await upload(state.parts, ino)
    if FormKind.RAW not in kinds:
        await drop_raw(state.parts, ino)
    for kind in (FormKind.PACKED, FormKind.REMOTE):
        if kind not in kinds:
            await drop_form(state.parts, ino, kind)
    return ino


async def scrub(state: State, ino: InodeNo) -> Scrubbed:
    return await scrub_file(state.parts, ino)


async def damage(state: State, ino: InodeNo, kind: FormKind) -> None:
    """Flip one bit of a stored form, and keep its times as a bad disk does."""
    if kind == FormKind.RAW:
        path = state.raw_store.path((await state.engine.get_inode(ino)).raw)
    else:
        location = (await state.form(ino, kind)).place.key
        packed = kind == FormKind.PACKED
        path = state.packed_store.path(location) if packed else state.objects_dir / location
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(100)
        byte = file.read(1)[0]
        file.seek(100)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


RAW, PACKED, REMOTE = FormKind.RAW, FormKind.PACKED, FormKind.REMOTE


@pytest.mark.parametrize("kinds", [(RAW,), (PACKED,), (REMOTE,), (RAW, PACKED, REMOTE)])
async def test_sound_forms_are_left_alone(state: State, kinds: tuple[FormKind, ...]) -> None:
    ino = await make(state, *kinds)
    before = await state.forms(ino)
    scrubbed = await scrub(state, ino)
    assert scrubbed.outcome == ScrubOutcome.SOUND
    assert {check.kind for check in scrubbed.checks} == set(kinds)
    assert scrubbed.read_bytes > 0
    assert await state.forms(ino) == before


@pytest.mark.parametrize(("bad", "good"), list(itertools.permutations((RAW, PACKED, REMOTE), 2)))
async def test_a_damaged_form_is_replaced_by_a_sound_one(
    state: State, bad: FormKind, good: FormKind
) -> None:
    ino = await make(state, bad, good)
    await damage(state, ino, bad)
    scrubbed = await scrub(state, ino)
    assert scrubbed.outcome == ScrubOutcome.REPAIRED, scrubbed
    assert (await scrub(state, ino)).outcome == ScrubOutcome.SOUND
    assert await state.content(ino) == CONTENT
    while await state.garbage.collect(100):
        pass
    assert await state.leaks() == []


@pytest.mark.parametrize("kind", [PACKED, REMOTE])
async def test_the_last_form_is_kept_however_damaged(state: State, kind: FormKind) -> None:
    ino = await make(state, kind)
    await damage(state, ino, kind)
    scrubbed = await scrub(state, ino)
    assert scrubbed.outcome == ScrubOutcome.QUARANTINED
    assert await state.forms(ino) == {kind}
    decision = await state.engine.get_decision(ino)
    assert decision is not None
    assert decision.rule == rules.DAMAGED


async def test_no_wrong_byte_of_a_raw_file_is_served_when_all_is_damaged(state: State) -> None:
    """The raw file has no checksums; the frames of the packed one have."""
    ino = await make(state, RAW, PACKED)
    await damage(state, ino, RAW)
    await damage(state, ino, PACKED)
    bad = state.raw_store.path((await state.engine.get_inode(ino)).raw).read_bytes()
    scrubbed = await scrub(state, ino)
    assert scrubbed.outcome == ScrubOutcome.QUARANTINED
    assert await state.forms(ino) == {PACKED}
    while await state.garbage.collect(100):
        pass
    [kept] = (state.state_dir / "quarantine").iterdir()
    assert kept.read_bytes() == bad
    assert str(kept) in scrubbed.detail


async def test_a_sound_form_that_goes_during_the_repair_saves_the_others(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mover trusts the damaged object and drops the packed form: the raw file must stay."""
    ino = await make(state, RAW, PACKED, REMOTE)
    await damage(state, ino, RAW)
    await damage(state, ino, REMOTE)
    unlock = state.residency.unlock

    async def unlock_slowly(ino: InodeNo, drop_pages: bool) -> int:
        await drop_form(state.parts, ino, PACKED)
        return await unlock(ino, drop_pages)

    monkeypatch.setattr(state.residency, "unlock", unlock_slowly)
    assert (await scrub(state, ino)).outcome == ScrubOutcome.SKIPPED
    assert await state.forms(ino) == {RAW, REMOTE}


async def test_an_open_file_is_repaired_when_it_is_closed(state: State) -> None:
    ino = await make(state, RAW, PACKED)
    await damage(state, ino, RAW)
    handle = state.open_table.add(ino, OpenMode.PASSTHROUGH, writable=False)
    assert (await scrub(state, ino)).outcome == ScrubOutcome.WAITING
    state.open_table.remove(ino, handle)
    assert (await scrub(state, ino)).outcome == ScrubOutcome.REPAIRED
    assert await state.content(ino) == CONTENT


async def test_a_store_that_is_down_is_no_damage(state: State) -> None:
    ino = await make(state, REMOTE)
    state.faults.add(Fault(FaultKind.UNAVAILABLE, "get_range", count=100))
    scrubbed = await scrub(state, ino)
    assert scrubbed.outcome == ScrubOutcome.SOUND
    assert scrubbed.checks[0].unchecked is not None
    assert await state.forms(ino) == {REMOTE}


@pytest.mark.parametrize(
    ("number", "outcome"), [(codes.EMFILE, ScrubOutcome.SOUND), (codes.EIO, ScrubOutcome.REPAIRED)]
)
async def test_a_lack_of_descriptors_is_no_damage(
    state: State, monkeypatch: pytest.MonkeyPatch, number: int, outcome: ScrubOutcome
) -> None:
    ino = await make(state, RAW, REMOTE)
    raw = (await state.engine.get_inode(ino)).raw

    def fail(path: Path, *_: object) -> bytes:
        with disk_errors(str(path)):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("memfs.jobs.scrubbing.digest_file", fail)
    assert (await scrub(state, ino)).outcome == outcome
    assert ((await state.engine.get_inode(ino)).raw == raw) is (outcome == ScrubOutcome.SOUND)


@pytest.mark.parametrize("kinds", [(PACKED,), (RAW, PACKED, REMOTE)])
async def test_a_codec_that_is_not_installed_is_no_damage(
    state: State, monkeypatch: pytest.MonkeyPatch, kinds: tuple[FormKind, ...]
) -> None:
    ino = await make(state, *kinds)

    def refuse(_spec: object) -> None:
        raise CodecMissingError("no codec of that name is installed")

    monkeypatch.setattr("memfs.stores.reading.get_codec", refuse)
    scrubbed = await scrub(state, ino)
    assert scrubbed.outcome == ScrubOutcome.SOUND
    assert {check.kind for check in scrubbed.checks if check.unchecked} == {*kinds} - {RAW}
    assert await state.forms(ino) == {*kinds}


async def test_a_raw_file_that_was_never_packed_is_believed(state: State) -> None:
    ino = await state.create("f", CONTENT)
    await damage(state, ino, RAW)
    assert (await scrub(state, ino)).outcome == ScrubOutcome.SOUND


async def test_a_lost_raw_file_comes_back_from_another_form(state: State) -> None:
    ino = await make(state, RAW, REMOTE)
    state.raw_store.path((await state.engine.get_inode(ino)).raw).unlink()
    assert (await scrub(state, ino)).outcome == ScrubOutcome.REPAIRED
    assert await state.content(ino) == CONTENT


async def test_a_file_that_changes_meanwhile_is_skipped(state: State) -> None:
    ino = await make(state, RAW, PACKED)
    await state.engine.unseal(ino, (await state.engine.get_inode(ino)).raw)
    assert (await scrub(state, ino)).outcome == ScrubOutcome.SKIPPED
    await state.unlink("f")
    assert (await scrub(state, ino)).outcome == ScrubOutcome.SKIPPED


async def make_sparse(state: State, *, size: int, data_bytes: int) -> InodeNo:
    """Return a file with data at its begin, in its middle and nowhere else."""
    ino = await state.create("sparse", CONTENT[:data_bytes])
    inode = await state.engine.get_inode(ino)
    with state.raw_store.path(inode.raw).open("r+b") as file:
        file.seek(size // 2)
        file.write(CONTENT[:data_bytes])
        file.truncate(size)
    await state.engine.unseal(ino, inode.raw)
    await state.seal(ino)
    return ino


async def test_holes_are_not_read(state: State) -> None:
    """15 TiB would take days at any rate."""
    ino = await make_sparse(state, size=15 << 40, data_bytes=4096)
    pace = ScrubPace(1 << 20)
    scrubbed = await scrub_file(state.parts, ino, pace)
    assert scrubbed.outcome == ScrubOutcome.SOUND
    assert scrubbed.read_bytes == pace.read_bytes == 2 * 4096


async def test_holes_of_a_packed_file_count_to_its_digest(state: State) -> None:
    """All forms have the same one; a packed file takes the bytes that it has."""
    ino = await make_sparse(state, size=1 << 20, data_bytes=40960)
    await pack(state.parts, ino)
    stored_bytes = (await state.form(ino, PACKED)).stored_bytes
    scrubbed = await scrub(state, ino)
    assert scrubbed.outcome == ScrubOutcome.SOUND
    assert scrubbed.read_bytes == 2 * 40960 + stored_bytes


async def test_a_file_that_is_removed_while_it_is_read_ends_its_scrub(state: State) -> None:
    """Its space is held as long as it is read."""
    ino = await state.create("f", CONTENT)
    pace = ScrubPace(1)
    found = []

    async def scrub_slowly() -> None:
        found.append(await scrub_file(state.parts, ino, pace))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrub_slowly)
            while not pace.read_bytes:  # noqa: ASYNC110 - nothing else tells
                await trio.sleep(0.01)
            await state.unlink("f")
            await state.garbage.collect(100)
    assert [scrubbed.outcome for scrubbed in found] == [ScrubOutcome.SKIPPED]


# --- the walk ------------------------------------------------------------------------------------
async def finish(scrubber: Scrubber) -> ScrubReport:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubber.run)
        await scrubber.wait()
        nursery.cancel_scope.cancel()
    return await scrubber.progress()


async def test_a_scrub_looks_at_every_file_and_tells_what_it_found(state: State) -> None:
    inos = [await state.create(f"{number}", CONTENT) for number in range(100)]
    for ino in inos[:3]:
        await pack(state.parts, ino)
    await damage(state, inos[1], PACKED)
    scrubber = Scrubber(state.parts)
    await scrubber.start(rate=1 << 40)
    status = await finish(scrubber)
    assert status["file_count"] == 100
    assert status["error"] is None
    findings = status["findings"]
    assert [(each["path"], each["outcome"]) for each in findings] == [("/1", "repaired")]


async def test_a_stopped_scrub_goes_on_where_it_was(state: State) -> None:
    for number in range(50):
        await state.create(f"{number}", CONTENT)
    first = Scrubber(state.parts)
    # A second a file: it cannot get through before it is stopped.
    await first.start(rate=len(CONTENT))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run)
        while (await first.progress())["file_count"] == 0:  # noqa: ASYNC110 - nothing else tells
            await trio.sleep(0.01)
        await first.stop()
        nursery.cancel_scope.cancel()
    done = (await first.progress())["file_count"]
    assert 0 < done < 50
    second = Scrubber(state.parts)
    await second.start(rate=1 << 40)
    status = await finish(second)
    assert status["file_count"] == 50 - done
    await second.start(rate=1 << 40, restart=True)
    assert (await finish(second))["file_count"] == 50


async def test_a_file_that_is_deleted_during_its_repair_does_not_end_the_scrub(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = await make(state, RAW, REMOTE)
    await state.create("other", CONTENT)
    await damage(state, ino, RAW)

    async def hydrate_late(parts: MoveParts, ino: InodeNo) -> Inode:
        await state.unlink("f")
        return await hydrate(parts, ino)

    monkeypatch.setattr("memfs.jobs.scrubbing.hydrate", hydrate_late)
    scrubber = Scrubber(state.parts)
    await scrubber.start(rate=1 << 40)
    status = await finish(scrubber)
    assert status["error"] is None
    assert status["file_count"] == 2


async def test_a_scrub_tells_why_forms_could_not_be_read(state: State) -> None:
    """The first reason; that objects are archived, which nobody can mend, is no reason."""
    await make(state, RAW, REMOTE)
    state.faults.add(Fault(FaultKind.UNAVAILABLE, "get_range"))
    scrubber = Scrubber(state.parts)
    await scrubber.start(rate=1 << 40)
    status = await finish(scrubber)
    assert status["unchecked_count"] == 1
    assert "get_range" in str(status["unchecked_reason"])
    await scrubber.start(rate=1 << 40)
    status = await finish(scrubber)
    assert (status["unchecked_count"], status["unchecked_reason"]) == (0, None)


async def test_a_scrub_tells_how_far_it_is_within_a_file(state: State) -> None:
    """A file may take hours."""
    await state.create("f", CONTENT)
    scrubber = Scrubber(state.parts)
    await scrubber.start(rate=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubber.run)
        with trio.fail_after(30):
            while not (await scrubber.progress())["read_bytes"]:  # noqa: ASYNC110 - nothing else tells
                await trio.sleep(0.01)
        assert (await scrubber.progress())["file_count"] == 0
        await scrubber.stop()
        nursery.cancel_scope.cancel()


async def test_a_file_whose_scrub_is_a_defect_keeps_no_other_from_its(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scrub began anew at the same file, again and again."""
    inos = [await state.create(f"{number}", CONTENT) for number in range(3)]

    async def fail(parts: MoveParts, ino: InodeNo, pace: ScrubPace) -> Scrubbed:
        if ino == inos[1]:
            raise KeyError("a defect")
        return await scrub_file(parts, ino, pace)

    monkeypatch.setattr(scrubber_module, "scrub_file", fail)
    status = await scrub_all(state)
    assert (status["running"], status["error"], status["file_count"]) == (False, None, 3)
    assert status["unchecked_count"] == 1
    assert "is a defect of memfs" in (status["unchecked_reason"] or "")


async def test_a_rate_of_nothing_is_refused(state: State) -> None:
    with pytest.raises(InvalidValueError):
        await Scrubber(state.parts).start(rate=0)


# --- what only snapshots show --------------------------------------------------------------------
async def snapshot_and_remove(state: State) -> KeptContent:
    """Make a snapshot, remove the file, and return what is kept of it."""
    async with state.engine.change():
        await state.engine.create_snapshot("before", 1)
    await state.unlink("f")
    (kept,) = await state.engine.list_kept((InodeNo(0), Generation(0)), 10)
    return kept


async def scrub_all(state: State) -> ScrubReport:
    scrubber = Scrubber(state.parts)
    await scrubber.start(rate=1 << 40, restart=True)
    return await finish(scrubber)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


async def test_a_scrub_walks_over_what_only_snapshots_show(state: State) -> None:
    """A bad form goes where another one is sound; the sound one is still read."""
    await make(state, PACKED, REMOTE)
    kept = await snapshot_and_remove(state)
    (packed, _) = sorted(await state.engine.list_forms(kept.blob), key=lambda form: form.kind)
    assert packed.kind == PACKED
    flip(state.packed_store.path(packed.place.key))
    report = await scrub_all(state)
    assert report["outcomes"]["repaired"] == 1
    assert [finding["path"] for finding in report["findings"]] == ["/f@before"]
    (left,) = await state.engine.list_forms(kept.blob)
    assert left.kind == REMOTE
    again = await scrub_all(state)
    assert again["outcomes"]["sound"] == 1
    assert again["findings"] == []
    assert state.engine.check() == []


@pytest.mark.parametrize("kind", [RAW, PACKED, REMOTE])
async def test_what_nobody_can_mend_is_named_by_its_snapshot(state: State, kind: FormKind) -> None:
    await make(state, kind)
    if kind == RAW:
        kept = await snapshot_and_remove(state)
        os.truncate(state.raw_store.path(kept.raw), 100)
    else:
        kept = await snapshot_and_remove(state)
        (form,) = await state.engine.list_forms(kept.blob)
        root = state.objects_dir if kind == REMOTE else state.state_dir
        flip(root / form.place.key)
    report = await scrub_all(state)
    assert report["outcomes"]["quarantined"] == 1
    (finding,) = report["findings"]
    assert finding["path"] == "/f@before"
    assert "delete the snapshots that show it" in finding["detail"]
    assert [kept] == await state.engine.list_kept((InodeNo(0), Generation(0)), 10)
    assert state.engine.check() == []


# --- what clones share ---------------------------------------------------------------------------
async def make_shared(state: State, *kinds: FormKind) -> tuple[InodeNo, InodeNo, SnapshotId]:
    """Return two files and a snapshot that share forms; a third file only the snapshot shows."""
    ino = await make(state, *kinds)
    other = await clone(state, ino, "clone")
    await clone(state, ino, "gone")
    async with state.engine.change():
        snap = (await state.engine.create_snapshot("before", 1)).snap
    await state.unlink("gone")
    return ino, other, snap


@pytest.mark.parametrize("kind", [PACKED, REMOTE])
async def test_damage_that_is_shared_is_found_once_and_named_for_all(
    state: State, kind: FormKind
) -> None:
    ino, other, _ = await make_shared(state, kind)
    await damage(state, ino, kind)
    report = await scrub_all(state)
    told = {name: count for name, count in report["outcomes"].items() if count}
    assert told == {"quarantined": 1, "shared": 2}
    [finding] = report["findings"]
    assert finding["path"] == "/f"
    assert finding["detail"].endswith("; shared with /clone, /gone@before")
    for each in (ino, other):
        decision = await state.engine.get_decision(each)
        assert decision is not None
        assert (decision.rule, "no form of it is sound" in decision.detail) == (rules.DAMAGED, True)
    assert await state.forms(other) == {kind}


@pytest.mark.parametrize("kind", [PACKED, REMOTE])
@pytest.mark.parametrize("has_raw", ["first", "second"])
async def test_a_shared_form_is_made_anew_from_whichever_raw_file_is_sound(
    state: State, kind: FormKind, has_raw: str
) -> None:
    """It was passed over where a clone or a snapshot had no other form."""
    ino, other, snap = await make_shared(state, kind)
    gone = (await state.engine.lookup_at(snap, ROOT_INODE, b"gone")).ino
    await hydrate(state.parts, ino if has_raw == "first" else other)
    await damage(state, ino, kind)
    report = await scrub_all(state)
    assert (report["outcomes"]["repaired"], report["outcomes"]["quarantined"]) == (1, 0)
    [finding] = report["findings"]
    assert finding["detail"].endswith("; shared with /clone, /gone@before")
    while await state.garbage.collect(10):
        pass
    assert await past(state, snap, gone) == CONTENT
    assert await state.content(ino) == await state.content(other) == CONTENT
    assert (await scrub_all(state))["findings"] == []
    assert await state.leaks() == []
    assert state.engine.check() == []


async def test_a_damaged_raw_file_of_a_clone_is_made_anew_from_the_shared_form(
    state: State,
) -> None:
    """The forms are read for it although another file had them checked."""
    ino, other, _ = await make_shared(state, PACKED)
    await hydrate(state.parts, other)
    await damage(state, other, RAW)
    report = await scrub_all(state)
    assert [finding["path"] for finding in report["findings"]] == ["/clone"]
    assert report["outcomes"]["repaired"] == 1
    assert await state.content(other) == await state.content(ino) == CONTENT
