"""The directories that are compared: one on the disk itself, the others mounted over it.

Invariant: every place keeps its bytes below its own base directory, all of them on one file system,
and after `close` has neither a mount nor a process.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests import scratch
from tests.mounting import Mount

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READY_S_MAX = 20.0
"""A peer that is not mounted by then is left out; guess, the slowest (JuiceFS) takes 1 s."""


class PlaceError(Exception):
    """A place cannot be set up; says why."""


class Place(ABC):
    """One column of the table."""

    name: ClassVar[str]
    """As `--places` takes it."""
    title: ClassVar[str]
    """As the table heads it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        """Empty directory of this place alone."""

    @property
    def mountpoint(self) -> Path:
        """Where the mount is, or would be."""
        return self.base / "mount"

    @property
    def directory(self) -> Path:
        """Where the workloads run."""
        return self.mountpoint

    @abstractmethod
    def lacks(self) -> str | None:
        """What has to be installed first; None if nothing."""

    @abstractmethod
    def open(self) -> None:
        """Mount.

        Raises:
            PlaceError: It did not work, with the program's own words.
            MountError: The same, of memfs.
        """

    @abstractmethod
    def close(self) -> None:
        """Unmount, and wait for the processes that served the mount."""

    def version(self) -> str:
        """What the program calls its version; empty where it has no version."""
        return ""


class NativePlace(Place):
    """A plain directory on the same disk."""

    name, title = "native", "native"

    @property
    def directory(self) -> Path:
        """The base itself."""
        return self.base

    def lacks(self) -> str | None:
        """Nothing."""
        return None

    def open(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class MemfsPlace(Place):
    """memfs; the subclasses say by which driver."""

    driver: ClassVar[str]
    config: ClassVar[str | None] = None

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.mount = Mount(base, self.driver, self.config)

    def lacks(self) -> str | None:
        """The package itself, or the driver's binding."""
        return _missing_modules("memfs_tools.main")

    def open(self) -> None:
        """Mount with an empty state directory."""
        self.mount.start()

    def close(self) -> None:
        """Unmount by the command, by force where that fails."""
        self.mount.stop()


class KernelPlace(MemfsPlace):
    """memfs by the kernel driver, with passthrough where the kernel allows it."""

    name, title = "kernel", "memfs kernel"
    driver = "kernel"


class PlainKernelPlace(MemfsPlace):
    """memfs by the kernel driver, every byte through the daemon."""

    name, title = "kernel-plain", "memfs kernel, no passthrough"
    driver = "kernel"
    config = "[mount]\npassthrough = false\n"


class Pyfuse3Place(MemfsPlace):
    """memfs by the pyfuse3 driver."""

    name, title = "pyfuse3", "memfs pyfuse3"
    driver = "pyfuse3"

    def lacks(self) -> str | None:
        """The package itself, or pyfuse3."""
        return _missing_modules("memfs_tools.main", "pyfuse3")


class PeerPlace(Place):
    """Another file system, in front of a directory on the same disk."""

    program: ClassVar[str]

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def source(self) -> Path:
        """The directory that is mirrored."""
        return self.base / "source"

    def lacks(self) -> str | None:
        """The program, where it is not found."""
        return None if _program(self.program) else f"{self.program} is not installed"

    def close(self) -> None:
        """Unmount by umount(8), by force where that fails, and see the server end."""
        subprocess.run(["umount", self.mountpoint], check=False, capture_output=True)
        deadline_s = time.monotonic() + READY_S_MAX
        while self._serving() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        scratch.detach(self.base)
        if self._server is not None:
            self._server.wait()

    def _serving(self) -> bool:
        # A daemon that has ended but is not reaped yet has no arguments left in /proc.
        return bool(scratch.processes_naming(self.base))

    def _start(self, *command: str | Path) -> None:
        """Start the server where Ctrl-C does not reach it, and wait until it serves."""
        self.mountpoint.mkdir()
        log = self.base / "log"
        with log.open("wb") as output:
            self._server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + READY_S_MAX
        while not any(
            entry.mountpoint == self.mountpoint for entry in scratch.mounts_below(self.base)
        ):
            # 0 is the exit of a program that goes on in the background.
            if self._server.poll() or time.monotonic() > deadline_s:
                raise PlaceError(f"{self.title} did not mount: {_last_line(log)}")
            time.sleep(0.02)


class PassthroughfsPlace(PeerPlace):
    """pyfuse3's own example: what a plain pyfuse3 file system reaches."""

    name, title = "passthroughfs", "pyfuse3 passthroughfs.py"
    script: ClassVar[Path | None] = None
    """`examples/passthroughfs.py` of pyfuse3's source distribution; set from the command line."""

    def lacks(self) -> str | None:
        """The script, or pyfuse3."""
        if self.script is None or not self.script.exists():
            return "pyfuse3's examples/passthroughfs.py is missing; tools/bench.sh downloads it"
        return _missing_modules("pyfuse3")

    def open(self) -> None:
        """Mirror `source`."""
        assert self.script is not None
        self.source.mkdir()
        self._start(sys.executable, self.script, self.source, self.mountpoint)

    def version(self) -> str:
        """The binding's version."""
        return importlib.metadata.version("pyfuse3")


class MergerfsPlace(PeerPlace):
    """mergerfs over one branch, with its default options."""

    name, title = "mergerfs", "mergerfs"
    program = "mergerfs"

    def open(self) -> None:
        """Mirror `source`; `minfreespace=0` lets it create files on a small disk too."""
        self.source.mkdir()
        self._start("mergerfs", "-o", "minfreespace=0", self.source, self.mountpoint)

    def version(self) -> str:
        """First line of `mergerfs --version`."""
        return _first_line("mergerfs", "--version").removeprefix("mergerfs version: ")


class JuicefsPlace(PeerPlace):
    """JuiceFS with its metadata in SQLite and its blocks in local files."""

    name, title = "juicefs", "JuiceFS"
    program = "juicefs"

    @property
    def metadata_url(self) -> str:
        """Where the metadata are, as JuiceFS takes it."""
        return f"sqlite3://{self.base}/metadata.db"

    def open(self) -> None:
        """Format a volume and mount it, every file of it below the base directory."""
        juicefs = _program("juicefs")
        assert juicefs is not None
        _format(
            *(juicefs, "format", "--storage", "file", "--bucket", f"{self.source}/"),
            *("--trash-days", "0", "--no-update", self.metadata_url, "bench"),
        )
        self.attach()

    def attach(self) -> None:
        """Mount a volume that is formatted."""
        juicefs = _program("juicefs")
        assert juicefs is not None
        self._start(
            *(juicefs, "mount", "--no-usage-report", "--no-syslog"),
            *("--cache-dir", self.base / "cache", self.metadata_url, self.mountpoint),
        )

    def version(self) -> str:
        """The first words of `juicefs --version`."""
        words = _first_line(_program("juicefs") or "juicefs", "--version").split()
        return words[2].partition("+")[0] if len(words) > 2 else ""


class S3qlPlace(PeerPlace):
    """S3QL over a directory, without encryption; the rest by its defaults."""

    name, title = "s3ql", "S3QL"
    program = "mount.s3ql"

    def lacks(self) -> str | None:
        """The programs; they are on no package index."""
        if _program(self.program):
            return None
        return "mount.s3ql is not installed; pip install git+https://github.com/s3ql/s3ql"

    def open(self) -> None:
        """Make a file system and mount it, every file of it below the base directory."""
        make, mount = _program("mkfs.s3ql"), _program(self.program)
        assert make is not None
        assert mount is not None
        self.source.mkdir()
        accounts = self.base / "authinfo2"
        accounts.touch(mode=0o600)
        places = ("--authfile", accounts, "--cachedir", self.base / "cache")
        url = f"local://{self.source}"
        _format(make, "--plain", *places, url)
        self._start(mount, *places, "--log", self.base / "s3ql.log", url, self.mountpoint)

    def version(self) -> str:
        """That of the package beside the program, which does not tell its version."""
        program = Path(_program(self.program) or self.program).resolve()
        packages = program.parent.parent.glob("lib/python3*/site-packages/s3ql-*.dist-info")
        return next((path.stem.removeprefix("s3ql-") for path in packages), "")


class RclonePlace(PeerPlace):
    """rclone mount over a directory, with the cache that lets programs write at random."""

    name, title = "rclone", "rclone mount"
    program = "rclone"

    def open(self) -> None:
        """Mirror `source`; the cache and the configuration are below the base directory."""
        rclone = _program("rclone")
        assert rclone is not None
        self.source.mkdir()
        self._start(
            *(rclone, "mount", self.source, self.mountpoint, "--vfs-cache-mode", "full"),
            *("--cache-dir", self.base / "cache", "--config", self.base / "rclone.conf"),
        )

    def version(self) -> str:
        """The second word of `rclone version`."""
        return _first_line(_program("rclone") or "rclone", "version").removeprefix("rclone v")


PLACES: tuple[type[Place], ...] = (
    NativePlace,
    KernelPlace,
    PlainKernelPlace,
    Pyfuse3Place,
    PassthroughfsPlace,
    MergerfsPlace,
    JuicefsPlace,
    S3qlPlace,
    RclonePlace,
)
"""In the order of the table."""


@contextlib.contextmanager
def opened_places(disk: Path, kinds: Sequence[type[Place]]) -> Iterator[list[Place]]:
    """The places that can be had, each with a directory of its own; the others are told of.

    Args:
        disk: Below it, each place gets a directory by its name.
        kinds: Which.
    """
    with contextlib.ExitStack() as stack:
        places: list[Place] = []
        for kind in kinds:
            base = disk / kind.name
            base.mkdir(mode=0o755)
            place = kind(base)
            if (reason := place.lacks()) is not None:
                print(f"bench: {place.name} left out: {reason}", file=sys.stderr)
                continue
            place.open()
            stack.callback(place.close)
            places.append(place)
        yield places


def _format(*command: str | Path) -> None:
    """Make a file system.

    Raises:
        PlaceError: It did not work, with the program's own words.
    """
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        program = Path(command[0]).name
        raise PlaceError(f"{program} made no file system: {done.stderr.strip()[-300:]}")


def _program(name: str) -> str | None:
    """Path of a program on PATH or beside the interpreter (a virtual environment's `bin`)."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def _missing_modules(*names: str) -> str | None:
    for name in names:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return f"the Python module {name} is not installed"
    return None


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
