"""Raw files that somebody changed while the state was not mounted, after it had ended in order."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from memfs.errors import CorruptDataError
from memfs.jobs.scrubbing import ScrubOutcome, scrub_file
from memfs.metadata.records import InodeFlags
from memfs.moves.batching import upload_batch
from memfs.moves.damage import replace_damaged
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import pack
from memfs.moves.rechecking import Recheck
from memfs.moves.uploading import upload
from memfs.policy import rules
from memfs.types import FormKind
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.types import InodeNo

CONTENT = compressible(55_000)
NO_FORM: tuple[FormKind, ...] = ()


class KilledError(Exception):
    """The process ends here."""


def die(*_: object) -> None:
    raise KilledError


def cut(path: Path) -> None:
    os.truncate(path, 100)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def replace(path: Path) -> None:
    path.unlink()
    path.write_bytes(compressible(55_000, 9))


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = [cut, grow, touch, replace, remove]


async def end_in_order(state: State) -> None:
    recheck = Recheck(state.parts)
    await recheck.begin()
    while not recheck.proven:
        await recheck.compare_slice()
    await recheck.note_drained()
    state.engine.commit_nowait()
    state.engine.sync()
    state.close()


async def unmounted(directory: Path, *kinds: FormKind) -> InodeNo:
    """Return a file, with a raw file and these forms, of a state that ended in order."""
    state = State(directory)
    ino = await state.create("f", CONTENT)
    inode = await state.engine.get_inode(ino)
    await state.engine.mark_durable([(ino, inode.generation)])
    if FormKind.PACKED in kinds:
        await pack(state.parts, ino)
    if FormKind.REMOTE in kinds:
        await upload(state.parts, ino)
    await end_in_order(state)
    return ino


async def mounted(directory: Path) -> State:
    state = State(directory)
    recheck = Recheck(state.parts)
    await recheck.begin()
    assert recheck.proven
    return state


async def damaged(
    directory: Path, how: Callable[[Path], None], *kinds: FormKind
) -> tuple[State, InodeNo]:
    ino = await unmounted(directory, *kinds)
    state = State(directory)
    path = state.raw_store.path((await state.engine.get_inode(ino)).raw)
    state.close()
    how(path)
    return await mounted(directory), ino


async def test_what_is_written_right_after_the_start_is_no_damage(tmp_path: Path) -> None:
    """Power may take the note that it was opened for writing: then it is adopted as it is."""
    for name in "abcdefgh":
        directory = tmp_path / name
        directory.mkdir()
        ino = await unmounted(directory)
        state = await mounted(directory)
        inode = await state.engine.get_inode(ino)
        cut(state.raw_store.path(inode.raw))
        assert state.sealer.damage_of(inode) is None
        state.close()


async def check(state: State) -> list[str]:
    report = await state.check_files(verify=False)
    return [str(problem) for problem in report.problems if problem.subject == "/f"]


@pytest.mark.parametrize("how", DAMAGES)
async def test_it_is_damage_and_no_truth(
    tmp_path: Path, how: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    state, ino = await damaged(tmp_path, how)
    before = await state.engine.get_inode(ino)
    for use in (hydrate, replace_damaged):
        with pytest.raises(CorruptDataError, match="raw file"):
            await use(state.parts, ino)
    for move in (pack, upload):
        with pytest.raises(CorruptDataError, match="raw file"):
            await move(state.parts, ino)
    results = await upload_batch(state.parts, [ino])
    assert results[ino].outcome == MoveOutcome.SUPERSEDED
    assert (await scrub_file(state.parts, ino)).outcome == (ScrubOutcome.QUARANTINED)
    decision = await state.engine.get_decision(ino)
    assert decision is not None
    assert decision.rule == rules.DAMAGED
    assert await state.engine.get_inode(ino) == before
    assert await state.forms(ino) == {FormKind.RAW}
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].getMessage().startswith("/f: its raw file")
    state.close()


@pytest.mark.parametrize("kind", [FormKind.PACKED, FormKind.REMOTE])
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("by", ["open", "scrub"])
async def test_another_form_takes_its_place(
    tmp_path: Path, how: Callable[[Path], None], kind: FormKind, by: str
) -> None:
    state, ino = await damaged(tmp_path, how, kind)
    former = (await state.engine.get_inode(ino)).raw
    if by == "scrub":
        scrubbed = await scrub_file(state.parts, ino)
        assert scrubbed.outcome == ScrubOutcome.REPAIRED, scrubbed
    assert await state.content(ino) == CONTENT
    assert (await state.engine.get_inode(ino)).raw != former
    kept = list((tmp_path / "quarantine").iterdir()) if how is not remove else []
    assert len(kept) == (how is not remove), "no byte of it is thrown away"
    state.close()


@pytest.mark.parametrize("how", DAMAGES)
async def test_fsck_names_it(tmp_path: Path, how: Callable[[Path], None]) -> None:
    ino = await unmounted(tmp_path)
    state = State(tmp_path)
    assert await check(state) == []
    how(state.raw_store.path((await state.engine.get_inode(ino)).raw))
    [problem] = await check(state)
    assert "raw file" in problem
    state.close()


async def test_what_changes_while_mounted_or_before_an_unclean_end_is_adopted(
    tmp_path: Path,
) -> None:
    """The engine may have forgotten with power that the file was written."""
    ino = await unmounted(tmp_path)
    state = await mounted(tmp_path)
    path = state.raw_store.path((await state.engine.get_inode(ino)).raw)
    # Younger than the start, whose time was given as a little in the future.
    state.sealer.note_clean(0)
    path.write_bytes(b"newer")
    assert await state.sealer.adopt_if_changed(await state.engine.get_inode(ino))
    await state.sealer.seal_all()
    assert (await state.engine.get_inode(ino)).size == 5
    state.close()


async def test_a_kill_while_it_is_set_aside_makes_no_truth_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The raw file is in quarantine, and the engine does not know."""
    state, ino = await damaged(tmp_path, cut, FormKind.PACKED)
    with monkeypatch.context() as patch:
        patch.setattr(state.parts.open_table, "forget_raw", die)
        with pytest.raises(KilledError):
            await replace_damaged(state.parts, ino)
    state.close()
    state = State(tmp_path)
    recheck = Recheck(state.parts)
    await recheck.begin()
    assert await state.content(ino) == CONTENT
    state.close()


async def test_an_unclean_end_later_on_makes_no_truth_of_old_damage(tmp_path: Path) -> None:
    state, ino = await damaged(tmp_path, cut)
    state.close()
    state = State(tmp_path)
    recheck = Recheck(state.parts, b"another boot")
    await recheck.begin()
    while not recheck.proven:
        await recheck.compare_slice()
    inode = await state.engine.get_inode(ino)
    assert inode.size == len(CONTENT)
    assert not inode.flags & InodeFlags.UNSEALED
    with pytest.raises(CorruptDataError):
        await upload(state.parts, ino)
    state.close()


async def test_an_end_is_not_clean_if_changes_were_undone(tmp_path: Path) -> None:
    """A raw file may have times that the engine has given up with the rest of a batch."""
    state = State(tmp_path)
    recheck = Recheck(state.parts, b"boot")
    await recheck.begin()
    while not recheck.proven:
        await recheck.compare_slice()
    recheck.doubt()
    await recheck.note_drained()
    again = Recheck(state.parts, b"boot")
    await again.begin()
    assert again.done
    assert not again.proven
    state.close()
