"""A mount in a real database with engines of several nodes, outside of an event loop."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from memfs.metadata.shared import node_table
from memfs.metadata.shared.engine import NodeSettings, SharedEngine
from memfs.metadata.shared.reader_engine import ReaderEngine, ReaderSettings
from memfs.types import FormKind
from tests.contract.engine.making import NOW_NS, make_directory, make_file, make_sealed, publish
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, run
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.types import InodeNo
    from tests.contract.engine.postgres_site import MountDatabase


class Nodes:
    """A mount and the state directories of its nodes.

    Args:
        root: For state directories.
        mount: Its database.
    """

    def __init__(self, root: Path, mount: MountDatabase) -> None:
        self.root = root
        self.mount = mount

    def write(self, name: str, reach: Callable[[str], None] = lambda _point: None) -> SharedEngine:
        """Start a node that writes."""
        return SharedEngine.join(
            self.root / name,
            CONFIG,
            self.mount.connector,
            NodeSettings(name, WAIT_S),
            now_ns=BIRTH_NS,
            limits=SMALL,
            rng=random.Random(name),
            reach=reach,
        )

    def read(self, name: str) -> ReaderEngine:
        """Start a node that reads."""
        return ReaderEngine.join(
            self.root / name,
            CONFIG,
            self.mount.connector,
            ReaderSettings(name, WAIT_S),
            limits=SMALL,
            rng=random.Random(name),
        )


class Scene(Nodes):
    """A mount with a node that writes, and what others do with it; arguments as of `Nodes`."""

    def __init__(self, root: Path, mount: MountDatabase) -> None:
        super().__init__(root, mount)
        self.writer = self.write("w")

    def promote(self, name: str, *, accept_loss: bool = False) -> node_table.Loss:
        """Offer the writer's place to a node."""
        return node_table.promote(
            self.mount.client, "db", name, accept_loss=accept_loss, rng=random.Random(1)
        )

    def fill(self) -> InodeNo:
        """Have the writer make all kinds of files; returns one that has an object."""
        writer = self.writer
        directory = run(make_directory(writer, b"d"))
        inode = run(make_sealed(writer, b"f", directory.ino, 700))
        assert run(publish(writer, inode, FormKind.REMOTE))
        gone = run(make_sealed(writer, b"gone", directory.ino, 70))
        assert run(publish(writer, gone, FormKind.REMOTE))
        run(writer.unlink(directory.ino, b"gone", NOW_NS))
        run(writer.reap([gone.ino]))
        run(writer.set_xattr(inode.ino, b"user.a", b"[1]", 0, NOW_NS))
        run(writer.create_snapshot("s", NOW_NS, "", [], None))
        run(make_sealed(writer, b"only here", directory.ino, 50))
        run(make_file(writer, b"open"))
        run(writer.put_setting("generation", b"some mark"))
        send(writer)
        return inode.ino


def send(writer: SharedEngine) -> None:
    """Have the database get what the writer has changed."""
    writer.commit_nowait()
    writer._send_left()
    assert writer._outbox.count == 0
