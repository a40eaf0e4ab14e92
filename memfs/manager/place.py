"""The place of a manager: a mount that is there, one of its own, or a plain directory for tests.

Invariant: a mount that is there is never changed for one of its users: what a manager wishes of it
is compared with what it has, and refused where it does not fit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from memfs.client.mount import Mount, NotMountedError
from memfs.control.client import ControlUnavailableError
from memfs.exit_codes import ExitCode
from memfs.linux.held_file import make_holders
from memfs.linux.mounts import list_mounts
from memfs.manager import holding
from memfs.manager.configuration import has_gpu
from memfs.manager.errors import MountUnavailableError
from memfs.manager.wishes import GB, Wishes, options_of, toml_of, unmet
from memfs.types import FILESYSTEM_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

MOUNT_VARIABLE = "MEMFS_MOUNT"

LINGER_S = 60.0
"""A mount of managers goes when no process has held it for so long."""

_DEFAULTS: dict[str, object] = {
    "mount.linger": LINGER_S,
    # The directory of its mountpoint lets nobody else in.
    "mount.allow_other": False,
}
"""What an own mount has that is not as in any other mount."""

_ATTEMPTS_MAX = 5
"""A mount that ends just when it was found is started again. Guess."""

_OTHER_USERS = (
    "It is mounted already, and all its users share its configuration; state= starts a mount of "
    "its own"
)

_REMEDY = (
    "; name a mount that is there by mount= or MEMFS_MOUNT, or work without tiers by "
    "mount=DIRECTORY, plain=True"
)

_OTHER_START_S_MAX = 60.0
"""How long a mount is waited for that another process starts. `memfs mount` takes a second."""

_OTHER_START_POLL_S = 0.05


class Origin(NamedTuple):
    """Where a manager works, so that another process can find or start the same."""

    path: Path
    """In a mount that is there, in the state directory of an own one, or a plain directory."""
    kind: Literal["mount", "state", "plain"]
    wishes: Wishes

    @classmethod
    def chosen(
        cls,
        mount: str | os.PathLike[str] | None,
        state: str | os.PathLike[str] | None,
        own: str,
        wishes: Wishes,
        *,
        plain: bool,
    ) -> Self:
        """Return the place that arguments name, or, where nothing is named, `MOUNT_VARIABLE`.

        Args:
            mount: A path in a mount that is there, or a plain directory.
            state: The state directory of a mount of its own.
            own: Name of the state directory where nothing is named.
            wishes: What the mount is to have.
            plain: `mount` is a plain directory.
        """
        top = mount if mount is not None or state is not None else os.environ.get(MOUNT_VARIABLE)
        if plain:
            if top is None:
                raise ValueError("plain=True needs mount=, the directory to work in")
            return cls(Path(top).absolute(), "plain", wishes)
        if top is not None:
            return cls(Path(top).absolute(), "mount", wishes)
        chosen = Path(state) if state else own_state(own)
        return cls(chosen.expanduser().absolute(), "state", wishes)

    def take(self) -> tuple[Path, Mount | None]:
        """Return the directory to work in, and its mount, which this process holds from now on.

        Raises:
            MountUnavailableError: There is no mount, and no mount can be started.
            ValueError: The mount is configured otherwise.
        """
        if self.kind == "plain":
            return self.path, None
        take = attach if self.kind == "mount" else start
        mount = take(self.path, self.wishes)
        return mount.mountpoint, mount


def attach(path: str | os.PathLike[str], wishes: Wishes) -> Mount:
    """Return the mount that a path is on, which has what is wished.

    Raises:
        MountUnavailableError: It is on another file system.
        ValueError: The mount is configured otherwise; names the key of its configuration.
    """
    mount = _mount_at(path)
    _check(mount, wishes)
    holding.hold(mount.state_dir)
    try:
        # It may have ended before it was held.
        return _mount_at(path)
    except MountUnavailableError:
        holding.let_go(mount.state_dir)
        raise


def _mount_at(path: str | os.PathLike[str]) -> Mount:
    try:
        return Mount.of(path)
    except NotMountedError as error:
        raise MountUnavailableError(
            f"{error}; mount memfs there first (`memfs mount {os.fspath(path)}`), or leave `mount` "
            "out: then a mount of its own is started"
        ) from None


def start(state: Path, wishes: Wishes) -> Mount:
    """Return the mount of a state directory, held by this process; started where it is not there.

    One that has not what is wished is started anew, if no other process holds it.

    Raises:
        MountUnavailableError: It cannot be mounted, with the words of `memfs mount`.
        ValueError: It is mounted, configured otherwise, and in use.
    """
    state = Path(os.path.realpath(state.expanduser()))
    # Before it is looked for: a mount that is held does not end.
    _make_holders(state)
    holding.hold(state)
    try:
        for _ in range(_ATTEMPTS_MAX):
            found = _served(state)
            if found is not None:
                _renew_unless_met(found, state, wishes)
                return found
            _mount(state, _DEFAULTS | _options(wishes))
    except BaseException:
        holding.let_go(state)
        raise
    holding.let_go(state)
    raise MountUnavailableError(f"the mount of {state} ends whenever it was started; see its log")


def _make_holders(state: Path) -> None:
    """Make the file that processes hold, in a directory that is a state or may become one."""
    with contextlib.suppress(OSError):
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (state / "format").exists() or not any(state.iterdir()):
            os.close(make_holders(state))


def _mount(state: Path, options: Mapping[str, object]) -> None:
    """Mount a state directory, or wait until another process has."""
    mountpoint = _own_mountpoint(state)
    mountpoint.mkdir(mode=0o700, parents=True, exist_ok=True)
    url = str(options.get("glacier.url", ""))
    if url.startswith("file://"):
        # Asked for by a path, as the state directory is, which is made as well.
        Path(url.removeprefix("file://")).mkdir(mode=0o700, parents=True, exist_ok=True)
    # A file, since every user of the machine can read a command line, and there may be keys.
    with tempfile.NamedTemporaryFile("w", prefix="memfs-", suffix=".toml") as config:
        config.write(toml_of(options))
        config.flush()
        command = ["mount", "--state", str(state), "-c", config.name, str(mountpoint)]
        done = _memfs(*command)
    deadline_s = time.monotonic() + _OTHER_START_S_MAX
    while _served(state) is None:
        if done.returncode != ExitCode.STATE_IN_USE or time.monotonic() > deadline_s:
            told = done.stderr.strip() or f"`memfs mount` ended with status {done.returncode}"
            reason = told.splitlines()[-1].removeprefix("memfs: ")
            raise MountUnavailableError(f"no mount could be started: {reason}{_REMEDY}")
        time.sleep(_OTHER_START_POLL_S)


def _renew_unless_met(mount: Mount, state: Path, wishes: Wishes) -> None:
    """Mount an own mount anew that has not what is wished, with that beside what it had."""
    reason = unmet(mount, wishes)
    if reason is None:
        return
    had = options_of(mount, wishes.options)
    if mount.mountpoint != _own_mountpoint(state) or had is None:
        raise ValueError(f"{reason}. {_OTHER_USERS}")
    with holding.alone(mount.state_dir) as is_alone:
        if not is_alone:
            raise ValueError(f"{reason}. Other programs use it. {_OTHER_USERS}")
        done = _memfs("umount", str(mount.mountpoint))
        if done.returncode != 0:
            raise ValueError(f"{reason}. It cannot be mounted anew: {done.stderr.strip()}")
        _mount(state, had | _options(wishes))


def stop(mount: Mount) -> None:
    """Unmount what `start` has mounted; any other mount is left alone.

    Raises:
        MountUnavailableError: It is in use, with the words of `memfs umount`.
    """
    if mount.mountpoint != _own_mountpoint(mount.state_dir):
        return
    with holding.alone(mount.state_dir) as is_alone:
        if not is_alone:
            raise MountUnavailableError(f"{mount.mountpoint} stays mounted: other programs use it")
        done = _memfs("umount", str(mount.mountpoint))
        if done.returncode != 0:
            raise MountUnavailableError(done.stderr.strip() or f"{mount.mountpoint} stays mounted")
    with contextlib.suppress(OSError):
        # Another process may have mounted it again.
        mount.mountpoint.rmdir()


def own_state(name: str = "default") -> Path:
    """Return a state directory of mounts that managers start by themselves."""
    data_home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data_home).expanduser() / "memfs" / name


def _served(state: Path) -> Mount | None:
    """Return the mount of a state directory; None if it is not there, or its daemon is dead."""
    place = os.path.realpath(state)
    for mount in reversed(list_mounts()):
        if mount.type == FILESYSTEM_TYPE and os.path.realpath(mount.source) == place:
            found = Mount(mount.mountpoint, Path(mount.source), mount.device)
            try:
                found.status()
            except ControlUnavailableError as error:
                if error.errno == errno.ENOTCONN:
                    return None
                raise
            return found
    return None


def _runtime_directory() -> Path:
    stated = os.environ.get("XDG_RUNTIME_DIR")
    if stated and os.access(stated, os.W_OK):
        return Path(stated)
    if os.geteuid() == 0:
        return Path("/run")
    return Path("~/.cache").expanduser()


def _own_mountpoint(state: Path) -> Path:
    """Return where a state directory is mounted by managers."""
    import blake3

    place = os.path.realpath(state)
    digest = blake3.blake3(os.fsencode(place)).hexdigest(length=4)
    return _runtime_directory() / f"memfs-{os.path.basename(place)}-{digest}"


def _memfs(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memfs_tools", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _options(wishes: Wishes) -> dict[str, object]:
    options = dict(wishes.options)
    if wishes.hot_gb and "hot.devices" not in options and has_gpu():
        options["hot.devices"] = ["auto"]
    for key, gigabytes in (
        ("hot.size", wishes.hot_gb if "hot.devices" in options else None),
        ("warm.size", wishes.warm_gb),
        ("cold.size", wishes.cold_gb),
    ):
        if gigabytes is not None:
            options[key] = int(gigabytes * GB)
    if not wishes.glacier:
        options["glacier.enabled"] = False
    return options


def _check(mount: Mount, wishes: Wishes) -> None:
    reason = unmet(mount, wishes)
    if reason is not None:
        raise ValueError(f"{reason}. {_OTHER_USERS}")
