"""Programs: what changes and reads a directory on several mounts, and writes down what came of it.

Run: python -m tests.histories.programs ROLE --root MOUNTPOINT --node NAME --name NAME --file FILE
         --seed N --end FILE

A program ends once the file `--end` is there. All it does goes by a descriptor of the root of its
mount: a path could lead below the mountpoint, while the daemon is started anew.

Invariant: a path is changed by one program, one change after the other; after a change of which it
does not know the outcome it goes on in a new directory.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.histories.records import Kind, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILES = 5
SLOTS = 3
"""Names that a directory is moved to and fro between."""
RELEASES = 2
"""Directories that a symlink is switched between."""
FROZEN = "user.memfs.frozen"
FROZEN_SPAN_S = 6.0
"""At most. Readers rely on what is frozen once that was long enough ago, so that they do for a part
of it."""
BYTES_MAX = 30_000
LOOK_S = 0.05
"""Between two questions whether a file is in the store."""
UPLOAD_LOOKS = 200
READ_PAUSE_S = 0.02
WRITE_PAUSE_S = 0.05
"""At most, between two things that a program does."""
AGAIN_S = 0.1
"""Between two attempts to reach a mount that is not there."""


def content_of(value: str, size: int) -> bytes:
    """Return the bytes of a version: they tell which one it is, and whether they are whole."""
    filling = random.Random(value).randbytes(size)
    digest = hashlib.sha256(filling).hexdigest()
    head = json.dumps({"value": value, "size": size, "digest": digest})
    return head.encode() + b"\n" + filling


def value_in(data: bytes) -> str:
    """Return which version some bytes are; what is not whole is no version."""
    head, _, filling = data.partition(b"\n")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        told = json.loads(head)
        digest = hashlib.sha256(filling).hexdigest()
        if (told["size"], told["digest"]) == (len(filling), digest):
            return str(told["value"])
    return f"torn: {len(data)} bytes, {data[:40]!r}"


class Place:
    """The root of a mount, by a descriptor.

    Args:
        root: The mountpoint.
        is_over: Tells when nobody waits for the mount any longer.
    """

    def __init__(self, root: Path, is_over: Callable[[], bool]) -> None:
        self._root = root
        self.is_over = is_over
        self._fd = -1

    def reach(self) -> bool:
        """Return once the mount is there; False if it is over."""
        self.leave()
        while not self.is_over():
            with contextlib.suppress(OSError):
                fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
                if os.fstat(fd).st_dev != os.stat(self._root.parent).st_dev:
                    self._fd = fd
                    os.listdir(fd)
                    return True
                os.close(fd)
            time.sleep(AGAIN_S)
        return False

    def leave(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    @contextlib.contextmanager
    def opened(self, path: str, flags: int) -> Iterator[int]:
        """Give a descriptor of a file."""
        fd = os.open(path, flags | os.O_CLOEXEC, 0o644, dir_fd=self._fd)
        try:
            yield fd
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
        os.close(fd)

    def write(self, path: str, data: bytes) -> None:
        """Write a file from its beginning."""
        with self.opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]

    def replace(self, path: str, data: bytes) -> None:
        """Write another file, and rename it into the place of this one."""
        directory, _, name = path.rpartition("/")
        beside = f"{directory}/.new-{name}"
        self.write(beside, data)
        os.rename(beside, path, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path, dir_fd=self._fd)

    def mkdir(self, path: str) -> None:
        """Make a directory."""
        os.mkdir(path, dir_fd=self._fd)

    def move(self, path: str, target: str) -> None:
        """Rename a directory to a name that is free."""
        os.rename(path, target, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def switch(self, path: str, target: str) -> None:
        """Have a symlink lead to another directory beside it."""
        directory, _, name = path.rpartition("/")
        beside = f"{directory}/.new-{name}"
        os.symlink(target.rpartition("/")[2], beside, dir_fd=self._fd)
        os.rename(beside, path, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def freeze(self, path: str) -> None:
        """Have nothing change in a directory."""
        with self.opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            os.setxattr(fd, FROZEN, b"1")

    def thaw(self, path: str) -> None:
        """End that."""
        with self.opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            os.removexattr(fd, FROZEN)

    def read(self, path: str) -> str:
        """Return which version a file has."""
        with self.opened(path, os.O_RDONLY) as fd:
            data = bytearray()
            while piece := os.read(fd, 1 << 20):
                data += piece
        return value_in(bytes(data))

    def size(self, path: str) -> str:
        """Return the size of a file by its name."""
        return str(os.stat(path, dir_fd=self._fd).st_size)

    def names(self, path: str) -> list[str]:
        """Return what is in a directory."""
        with self.opened(path or ".", os.O_RDONLY | os.O_DIRECTORY) as fd:
            return os.listdir(fd)

    def is_stored(self, path: str) -> bool:
        """Return whether a file is in the object store as it is now."""
        with self.opened(path, os.O_RDONLY) as fd:
            return os.getxattr(fd, "user.memfs.state") == b"remote"


class Writer:
    """Changes files in a directory of its own.

    Args:
        place: The mount of the node that writes.
        recorder: Told of all of it.
        name: Begins the names of its directories.
        rng: Decides what it does.
    """

    def __init__(self, place: Place, recorder: Recorder, name: str, rng: random.Random) -> None:
        self._place = place
        self._recorder = recorder
        self._name = name
        self._rng = rng
        self._generation = 0
        self._version = 0
        self._there: set[str] = set()
        self._slot = self._release = 0

    def begin(self) -> bool:
        """Make a new directory, with one below it that is moved; False if that failed."""
        self._generation += 1
        self._there.clear()
        self._slot = self._release = 0
        return (
            self._do(Kind.MKDIR, self._home, lambda: self._place.mkdir(self._home))
            and self._do(Kind.MKDIR, self._moved, lambda: self._place.mkdir(self._moved))
            and self._put(f"{self._moved}/token", Kind.WRITE)
            and all(map(self._make_release, range(RELEASES)))
            and self._switch()
        )

    def _make_release(self, number: int) -> bool:
        """Make a directory that a symlink may lead to: what is in there stays as it is."""
        path = f"{self._home}/release-{number}"
        return (
            self._do(Kind.MKDIR, path, lambda: self._place.mkdir(path))
            and self._put(f"{path}/token", Kind.WRITE)
            and self._put(f"{path}/only-{number}", Kind.WRITE)
        )

    @property
    def _home(self) -> str:
        return f"{self._name}-{self._generation}"

    @property
    def _moved(self) -> str:
        return f"{self._home}/slot-{self._slot}"

    def step(self) -> bool:
        """Do one thing; False if its outcome is not known."""
        path = f"{self._home}/file-{self._rng.randrange(FILES)}"
        chance = self._rng.random()
        if chance < 0.35:
            return self._put(path, Kind.WRITE)
        if chance < 0.65:
            return self._put(path, Kind.REPLACE)
        if chance < 0.75 and path in self._there:
            self._there.discard(path)
            return self._do(Kind.UNLINK, path, lambda: self._place.unlink(path))
        if chance < 0.82:
            return self._move()
        if chance < 0.88:
            return self._switch()
        if chance < 0.9:
            return self._freeze()
        return self._await_upload(self._rng.choice([*sorted(self._there), f"{self._moved}/token"]))

    def _put(self, path: str, kind: Kind) -> bool:
        self._version += 1
        value = f"{self._name}:{self._version}"
        data = content_of(value, self._rng.randrange(1, BYTES_MAX))
        put = self._place.write if kind == Kind.WRITE else self._place.replace
        self._there.add(path)
        return self._do(kind, path, lambda: put(path, data), value=value, size=len(data))

    def _move(self) -> bool:
        path = self._moved
        self._slot = (self._slot + self._rng.randrange(1, SLOTS)) % SLOTS
        target = self._moved
        return self._do(Kind.MOVE, path, lambda: self._place.move(path, target), target=target)

    def _switch(self) -> bool:
        path = f"{self._home}/current"
        self._release = (self._release + 1) % RELEASES
        target = f"{self._home}/release-{self._release}"
        return self._do(Kind.SWITCH, path, lambda: self._place.switch(path, target), target=target)

    def _freeze(self) -> bool:
        """Have readers rely on a tree for a while, and change it as soon as it is thawed."""
        token = f"{self._moved}/token"
        try:
            self._place.freeze(self._moved)
            time.sleep(self._rng.uniform(0, FROZEN_SPAN_S))
            self._place.thaw(self._moved)
        except OSError:
            # Cut off, or killed: it may stay frozen.
            return False
        return self._put(token, Kind.REPLACE) and self._move()

    def _await_upload(self, path: str) -> bool:
        for _ in range(UPLOAD_LOOKS):
            try:
                if self._place.is_stored(path):
                    return self._do(Kind.UPLOADED, path, lambda: None)
            except OSError:
                return False
            time.sleep(LOOK_S)
        return True

    def _do(
        self,
        kind: Kind,
        path: str,
        work: Callable[[], None],
        *,
        value: str = "",
        target: str = "",
        size: int = 0,
    ) -> bool:
        return not self._recorder.do(kind, path, work, value=value, target=target, size=size).error


class Reader:
    """Reads, lists and asks for sizes, what and when by chance.

    Args:
        place: Its mount.
        recorder: Told of all of it.
        rng: Decides what it does.
    """

    def __init__(self, place: Place, recorder: Recorder, rng: random.Random) -> None:
        self._place = place
        self._recorder = recorder
        self._rng = rng
        self._homes: list[str] = []

    def step(self) -> bool:
        """Do one thing; False if the mount may be gone."""
        if not self._homes or self._rng.random() < 0.1:
            return self._list("")
        # The directories that writers have left rarely change.
        home = self._rng.choice(self._homes[-4:] if self._rng.random() < 0.9 else self._homes)
        slot = f"{home}/slot-{self._rng.randrange(SLOTS)}"
        directory = self._rng.choice((slot, f"{home}/current"))
        chance = self._rng.random()
        if chance < 0.6:
            path = f"{home}/file-{self._rng.randrange(FILES)}"
        elif chance < 0.85:
            path = f"{directory}/token"
        else:
            path = f"{home}/current/only-{self._rng.randrange(RELEASES)}"
        chance = self._rng.random()
        if chance < 0.6:
            done = self._recorder.do(Kind.READ, path, lambda: self._place.read(path))
        elif chance < 0.75:
            done = self._recorder.do(Kind.STAT, path, lambda: self._place.size(path))
        else:
            return self._list(home if chance < 0.9 else directory)
        return done.error in ("", "ENOENT", "EBUSY", "EIO", "ESTALE")

    def _list(self, path: str) -> bool:
        done = self._recorder.do(Kind.LIST, path, lambda: self._place.names(path))
        if not path and not done.error:
            self._homes = sorted(done.names, key=lambda name: (int(name.rpartition("-")[2]), name))
        return done.error in ("", "ENOENT", "EIO", "ESTALE")


def run_writer(place: Place, recorder: Recorder, name: str, rng: random.Random) -> None:
    """Change files until it is over."""
    writer = Writer(place, recorder, name, rng)
    while place.reach():
        if not writer.begin():
            # The root of a dead mount can be opened by what the kernel has cached.
            time.sleep(AGAIN_S)
            continue
        while writer.step():
            if place.is_over():
                return
            time.sleep(rng.uniform(0, WRITE_PAUSE_S))


def run_reader(place: Place, recorder: Recorder, name: str, rng: random.Random) -> None:
    """Read until it is over."""
    del name
    reader = Reader(place, recorder, rng)
    while place.reach():
        while reader.step():
            if place.is_over():
                return
            # Others have the processors as well.
            time.sleep(rng.uniform(0, READ_PAUSE_S))


ROLES = {"writer": run_writer, "reader": run_reader}


def main() -> None:
    """Be one program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--end", type=Path, required=True)
    arguments = parser.parse_args()
    place = Place(arguments.root, arguments.end.exists)
    recorder = Recorder(arguments.file, arguments.node, arguments.name)
    rng = random.Random(f"{arguments.seed}/{arguments.name}")
    try:
        ROLES[arguments.role](place, recorder, arguments.name, rng)
    finally:
        recorder.close()
        place.leave()


if __name__ == "__main__":
    main()
