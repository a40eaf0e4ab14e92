"""State directories that another user could lead elsewhere, and configurations others may write."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config_file import load_config
from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.ownership import open_own, require_own_tree
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs_daemon.state_dir import prepare_state, require_state
from memfs_daemon.state_lock import LOCK_NAME, StateLock, find_holder
from memfs_tools.main import run
from tests.moving import State, compressible
from tests.processes import ALICE, run_as

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests import scratch

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def _give_away(path: Path) -> None:
    os.chown(path, ALICE.uid, 0)


def _share(path: Path) -> None:
    """Let a group write."""
    os.chown(path, 0, ALICE.gid)
    path.chmod(0o770)


SECRET = b"root:x:0:0:root:/root:/bin/sh\n" * 1000


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file outside of the state that must not change."""
    path = tmp_path / "passwd"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    yield path
    assert path.read_bytes() == SECRET
    assert os.lstat(path).st_mode & 0o7777 == 0o600


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A state with everything in it that a mount leaves."""

    async def fill() -> None:
        state = State(tmp_path / "state")
        for number in range(3):
            ino = await state.create(f"{number}", compressible(20_000, number))
            await pack(state.parts, ino)
            await upload(state.parts, ino)
        state.close()

    trio.run(fill)
    (tmp_path / "state/daemon.log").write_text("")
    StateLock(tmp_path / "state", None).release()
    return tmp_path / "state"


def _names(state_dir: Path) -> list[Path]:
    """All that could be exchanged: the first level, and all directories but the batches'."""
    below = [path for path in state_dir.rglob("*") if path.is_dir() or path.parent == state_dir]
    assert len(below) > 12
    return [path for path in below if len(path.relative_to(state_dir).parts) <= 3]


def _refused(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert run([str(argument) for argument in arguments]) == ExitCode.STATE_UNUSABLE
    return capfd.readouterr().err


def test_no_symbolic_link_in_a_state_is_followed(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, state_dir: Path, victim: Path
) -> None:
    """Each name of a state in turn: fsck and mount follow no link, and say which it is."""
    kept = state_dir.rename(tmp_path / "kept")
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    for number, original in enumerate(_names(kept)):
        trial = tmp_path / f"trial-{number}"
        shutil.copytree(kept, trial)
        name = trial / original.relative_to(kept)
        if name.is_dir():
            shutil.rmtree(name)
            name.symlink_to(tmp_path)
        else:
            name.unlink()
            name.symlink_to(victim)
        expected = f"{name} is a symbolic link"
        assert expected in _refused(capfd, "fsck", trial)
        with pytest.raises(UsageError, match=expected):
            prepare_state(trial)
        assert name.is_symlink()
        shutil.rmtree(trial)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["kept", "mnt", "passwd"]


@needs_root
def test_what_another_user_could_change_is_not_touched(
    capfd: pytest.CaptureFixture[str], state_dir: Path
) -> None:
    """A journal that another user owns would be unmarshalled, for example."""
    for name in [state_dir, *_names(state_dir)]:
        os.chown(name, ALICE.uid, ALICE.gid)
        error = _refused(capfd, "fsck", state_dir)
        assert f"{name} belongs to user {ALICE.uid}" in error
        with pytest.raises(UsageError, match="belongs to user"):
            prepare_state(state_dir)
        os.chown(name, 0, 0)
    require_state(state_dir)


@needs_root
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_give_away, "belongs to user"),
        (lambda above: above.chmod(0o777), "can be changed by others"),
        (_share, "by others"),
    ],
)
def test_root_trusts_no_path_that_another_user_can_exchange(
    tmp_path: Path, change: Callable[[Path], object], expected: str
) -> None:
    above = tmp_path / "above"
    state = above / "below/state"
    prepare_state(state)
    change(above)
    with pytest.raises(UsageError, match=expected):
        prepare_state(state)
    above.chmod(0o1777)
    os.chown(above, 0, 0)
    prepare_state(state)


@needs_root
def test_a_user_has_a_state_below_a_home_and_root_may_have_files_in_it(
    scratch_area: scratch.Scratch,
) -> None:
    home = scratch_area.directory("home")
    os.chown(home, ALICE.uid, ALICE.gid)
    run_as(ALICE, prepare_state, home / "state")
    (home / "state/reserve").write_text("")
    run_as(ALICE, prepare_state, home / "state")


@pytest.mark.parametrize("writable_by", [0o002, 0o022])
def test_a_state_that_all_may_write_to_is_refused(tmp_path: Path, writable_by: int) -> None:
    state = tmp_path / "state"
    prepare_state(state)
    state.chmod(0o700 | writable_by)
    with pytest.raises(UsageError, match="can be changed by others"):
        prepare_state(state)


@needs_root
def test_no_directory_of_a_state_can_be_exchanged_after_the_check(state_dir: Path) -> None:
    """Who may write to `raw/` could put a link in the place of `raw/0` while it is served."""
    for directory in _names(state_dir):
        if not directory.is_dir():
            continue
        for change in (lambda path: path.chmod(0o707), _share):
            mode = directory.stat().st_mode & 0o7777
            change(directory)
            with pytest.raises(UsageError, match=f"{directory} can be changed by others"):
                require_state(state_dir)
            directory.chmod(mode)
            os.chown(directory, 0, 0)
    require_state(state_dir)


@needs_root
def test_a_user_s_state_is_not_below_what_everybody_can_exchange(
    scratch_area: scratch.Scratch,
) -> None:
    shared = scratch_area.directory("shared")
    (shared / "home").mkdir()
    os.chown(shared / "home", ALICE.uid, ALICE.gid)
    shared.chmod(0o777)
    with pytest.raises(UsageError, match="can be changed by others"):
        run_as(ALICE, prepare_state, shared / "home/state")
    shared.chmod(0o1777)
    run_as(ALICE, prepare_state, shared / "home/state")


def test_a_pipe_in_the_place_of_a_file_hangs_nobody(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(0o700)
    os.mkfifo(state / LOCK_NAME)
    with pytest.raises(UsageError, match="no plain file"):
        find_holder(state)
    with pytest.raises(UsageError, match="no plain file"):
        StateLock(state, None)
    with pytest.raises(UsageError, match="neither a plain file nor a directory"):
        prepare_state(state)


def test_the_lock_is_never_emptied_through_a_link(tmp_path: Path, victim: Path) -> None:
    """Also for those who only ask who has a state, which may be another user's."""
    (tmp_path / LOCK_NAME).symlink_to(victim)
    for look in (find_holder, lambda directory: StateLock(directory, None)):
        with pytest.raises(UsageError, match="is a symbolic link"):
            look(tmp_path)


def test_sockets_are_a_part_of_a_state(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
    require_own_tree(tmp_path, 3)


@needs_root
def test_a_file_of_the_directory_s_owner_may_be_read(tmp_path: Path) -> None:
    """Root asks which daemon serves a user's mount."""
    (tmp_path / "lock").write_text("{}")
    directory_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chown(tmp_path / "lock", ALICE.uid, 0)
        with pytest.raises(UsageError, match="belongs to user"):
            open_own(directory_fd, "lock", os.O_RDONLY)
        os.chown(tmp_path, ALICE.uid, 0)
        os.close(open_own(directory_fd, "lock", os.O_RDONLY))
    finally:
        os.close(directory_fd)


@needs_root
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_give_away, f"belongs to user {ALICE.uid}"),
        (lambda file: file.chmod(0o602), "others may write"),
        (_share, "others may write"),
    ],
)
def test_root_takes_no_configuration_that_others_may_write(
    tmp_path: Path, change: Callable[[Path], object], expected: str
) -> None:
    """It names stores, keys and policies, which are code."""
    file = tmp_path / "config.toml"
    file.write_text('[warm]\nsize = "1GiB"\n')
    file.chmod(0o644)
    load_config(file, {})
    change(file)
    with pytest.raises(UsageError, match=expected):
        load_config(file, {})


@needs_root
def test_a_user_takes_the_configuration_that_is_there(scratch_area: scratch.Scratch) -> None:
    file = scratch_area.directory("home") / "config.toml"
    file.write_text('[warm]\nsize = "1GiB"\n')
    file.chmod(0o666)
    assert run_as(ALICE, lambda: load_config(file, {}).warm.size_bytes) == 1 << 30


def test_an_empty_configuration_may_be_the_null_device() -> None:
    assert load_config(Path(os.devnull), {}) == load_config(None, {})
