"""A memfs mount for tests: made, watched and checked through the command line alone.

Invariant: a stopped mount has left no mount entry and no process behind, and `memfs fsck` has found
its state directory whole.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests import scratch
from tests.warm import COMMAND_TIMEOUT_S, run_warm

if TYPE_CHECKING:
    from pathlib import Path

_ALARMING = re.compile(r"\b(WARNING|ERROR|CRITICAL|Traceback)\b")


class MountError(AssertionError):
    """A `memfs` command failed, or left something behind; carries its output."""


def run_memfs(
    *arguments: str | Path, timeout_s: float = COMMAND_TIMEOUT_S, fork_daemon: bool = False
) -> str:
    """Run `memfs ARGUMENTS` and return what it printed; see `run_warm`.

    Raises:
        MountError: It exited with another status than 0, or hung.
    """
    try:
        done = run_warm(*arguments, timeout_s=timeout_s, fork_daemon=fork_daemon)
    except subprocess.TimeoutExpired as error:
        raise MountError(f"memfs {' '.join(map(str, arguments))}: hung") from error
    if done.returncode != 0:
        raise MountError(
            f"memfs {' '.join(map(str, arguments))}: exit {done.returncode}\n"
            f"{done.stdout}{done.stderr}"
        )
    return done.stdout


UNDISTURBED = ("-o", "policy.give_way=false")
"""Options of mounts whose files are to move in spite of what other tests do with the disk and the
processors."""


@dataclass
class Mount:
    """One state directory and the mountpoint that it is served at."""

    base: Path
    """Holds `state/`, `mount/` and the configuration file."""
    driver: str
    """`kernel`, `pyfuse3` or `auto`."""
    config: str | None = None
    """Text of the TOML configuration; None: the defaults."""
    options: tuple[str, ...] = ()
    """Further arguments of `memfs mount`."""
    forked: bool = False
    """Whether daemons are forked from a warm interpreter: a fifth of the time of a start."""
    _log_checked_bytes: int = field(default=0, init=False)

    @property
    def root(self) -> Path:
        """The mountpoint."""
        return self.base / "mount"

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.base / "state"

    @property
    def log(self) -> Path:
        """The daemon's log."""
        return self.state / "daemon.log"

    def start(self) -> None:
        """Mount, and return when the mount serves.

        Raises:
            MountError: The command failed, or nothing is mounted after it.
        """
        # A dead mount may be there, of which not even the type can be asked.
        with contextlib.suppress(FileExistsError):
            self.root.mkdir()
        arguments: list[str | Path] = ["mount", "--state", self.state, "--driver", self.driver]
        if self.config is not None:
            file = self.base / "config.toml"
            file.write_text(self.config)
            arguments += ["-c", file]
        if "[snapshots]" not in (self.config or "") and "snapshots.rule" not in (self.config or ""):
            # Tests that run over a full hour would have one more.
            arguments += ["-o", "snapshots.automatic=false"]
        try:
            run_memfs(*arguments, *self.options, self.root, fork_daemon=self.forked)
        except MountError as error:
            raise MountError(f"{error}{self._log_tail()}") from error
        if not self.is_mounted():
            raise MountError(f"{self.root} is not mounted although `memfs mount` succeeded")

    def stop(self) -> None:
        """Unmount by the command, and by force where that fails.

        Raises:
            MountError: The command failed, or a mount or a process was left.
        """
        try:
            if self.is_mounted():
                run_memfs("umount", self.root)
            if self.is_mounted():
                raise MountError(f"{self.root} is still mounted after `memfs umount`")
            if pids := self.daemon_pids():
                raise MountError(f"processes {pids} outlived `memfs umount {self.root}`")
        finally:
            scratch.detach(self.base)

    def kill(self) -> None:
        """End the daemon as a crash would, and free the mountpoint."""
        self.kill_daemon()
        scratch.detach(self.root)

    def kill_daemon(self) -> None:
        """End the daemon as a crash would; the dead mount stays and answers ENOTCONN.

        Returns when its descriptors are closed, locks included. Its arguments, by which it is
        found, vanish from /proc before that.
        """
        for pid in self.daemon_pids():
            with contextlib.suppress(ProcessLookupError):
                scratch.kill_and_wait(pid)

    def fsck(self) -> None:
        """Check the state directory of a stopped mount.

        An object store that is a server may be gone by now: its objects are left out.

        Raises:
            MountError: It is not whole.
        """
        file = self.base / "config.toml"
        arguments: list[str | Path] = []
        if self.config is not None and file.exists():
            arguments += ["-c", file]
            if re.search(r'url = "(?!file:|postgresql:)', self.config):
                arguments += ["-o", "glacier.enabled=false"]
        run_memfs("fsck", *arguments, self.state)

    def is_mounted(self) -> bool:
        """Whether the kernel has a mount at `root`."""
        return any(entry.mountpoint == self.root for entry in scratch.mounts_below(self.root))

    def daemon_pids(self) -> list[int]:
        """Ids of the processes that serve this mount."""
        return scratch.processes_naming(self.state)

    def check_log(self, expected: tuple[str, ...] = ()) -> None:
        """Look at the log lines that are new since the last call.

        Args:
            expected: Regular expressions of alarming lines that the test caused on purpose.

        Raises:
            MountError: A line at WARNING or above that nothing in `expected` matches.
        """
        if not self.log.exists():
            return
        with self.log.open("rb") as file:
            file.seek(self._log_checked_bytes)
            new = file.read()
        self._log_checked_bytes += len(new)
        alarming = [
            line
            for line in new.decode(errors="replace").splitlines()
            if _ALARMING.search(line) and not any(re.search(each, line) for each in expected)
        ]
        if alarming:
            raise MountError("the daemon logged:\n" + "\n".join(alarming[:20]))

    def _log_tail(self) -> str:
        if not self.log.exists():
            return ""
        return "\nthe daemon's log ends:\n" + self.log.read_text(errors="replace")[-2000:]
