"""The place of a manager: a mount that is there, one of its own, or a plain directory for tests.

Invariant: a mount that is there is never changed for one of its users: what a manager wishes of it
is compared with what it has, and refused where it does not fit.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from memfs.client.mount import Mount, NotMountedError
from memfs.exit_codes import ExitCode
from memfs.linux.mounts import list_mounts
from memfs.manager.configuration import has_gpu
from memfs.manager.errors import MountUnavailableError
from memfs.manager.wishes import GB, Wishes, toml_of, unmet
from memfs.types import FILESYSTEM_TYPE

MOUNT_VARIABLE = "MEMFS_MOUNT"

_OTHER_START_S_MAX = 60.0
"""How long a mount is waited for that another process starts. `memfs mount` takes a second."""

_OTHER_START_POLL_S = 0.05


def attach(path: str | os.PathLike[str], wishes: Wishes) -> Mount:
    """Return the mount that a path is on, which has what is wished.

    Raises:
        MountUnavailableError: It is on another file system.
        ValueError: The mount is configured otherwise; names the key of its configuration.
    """
    try:
        mount = Mount.of(path)
    except NotMountedError as error:
        raise MountUnavailableError(
            f"{error}; mount memfs there first (`memfs mount {os.fspath(path)}`), or leave `mount` "
            "out: then a mount of its own is started"
        ) from None
    _check(mount, wishes)
    return mount


def start(state: Path, wishes: Wishes) -> Mount:
    """Return the mount of a state directory, which is started where it is not there.

    Raises:
        MountUnavailableError: It cannot be mounted, with the words of `memfs mount`.
        ValueError: It is mounted, and configured otherwise.
    """
    state = state.expanduser().absolute()
    if (found := _served(state)) is not None:
        _check(found, wishes)
        return found
    mountpoint = _own_mountpoint(state)
    mountpoint.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = _options(wishes)
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
    found = _served(state)
    deadline_s = time.monotonic() + _OTHER_START_S_MAX
    while (
        found is None and done.returncode == ExitCode.STATE_IN_USE and time.monotonic() < deadline_s
    ):
        # Another process is starting it.
        time.sleep(_OTHER_START_POLL_S)
        found = _served(state)
    if found is None:
        reason = done.stderr.strip() or f"`memfs mount` ended with status {done.returncode}"
        raise MountUnavailableError(f"no mount could be started: {reason.splitlines()[-1]}")
    if done.returncode != 0:
        # Another process was faster.
        _check(found, wishes)
    return found


def stop(mount: Mount) -> None:
    """Unmount what `start` has mounted; any other mount is left alone.

    Raises:
        MountUnavailableError: It is in use, with the words of `memfs umount`.
    """
    if mount.mountpoint != _own_mountpoint(mount.state_dir):
        return
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
    place = os.path.realpath(state)
    for mount in reversed(list_mounts()):
        if mount.type == FILESYSTEM_TYPE and os.path.realpath(mount.source) == place:
            return Mount(mount.mountpoint, Path(mount.source), mount.device)
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
        [sys.executable, "-m", "memfs_tools.main", *arguments],
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
    if wishes.policy is not None:
        options |= wishes.policy.options()
    return options


def _check(mount: Mount, wishes: Wishes) -> None:
    reason = unmet(mount, wishes)
    if reason is not None:
        raise ValueError(
            f"{reason}. It is mounted already, and all its users share its configuration; state= "
            "starts a mount of its own"
        )
