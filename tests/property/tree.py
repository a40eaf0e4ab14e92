"""The model: what a tree of files has to look like, as dicts.

Invariant: names and links are those of the engine's model, which the engine's own machine proves
too; what a file holds is added here, by inode number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.contract.engine.model import Model


@dataclass
class FileContent:
    """What a file holds beyond its names."""

    data: bytearray = field(default_factory=bytearray)
    mode: int = 0o644
    target: bytes | None = None
    """That of a symlink."""
    mtime_ns: int | None = None
    """As it was set last; None: written since, so by the clock."""

    def write(self, offset: int, data: bytes) -> None:
        """Write, with zeros between the end and the offset."""
        self.extend(offset)
        self.data[offset : offset + len(data)] = data
        self.mtime_ns = None

    def extend(self, size: int) -> None:
        """Append zeros up to a size."""
        self.data.extend(bytes(max(0, size - len(self.data))))

    def truncate(self, size: int) -> None:
        """Cut, or extend."""
        del self.data[size:]
        self.extend(size)
        self.mtime_ns = None


@dataclass
class Tree(Model):
    """Names, links, xattrs, and contents."""

    contents: dict[int, FileContent] = field(default_factory=lambda: {1: FileContent(mode=0o755)})
    pins: dict[int, str] = field(default_factory=dict)
    codecs: dict[int, str] = field(default_factory=dict)

    def plant(self, parent: int, name: bytes, ino: int, content: FileContent | None) -> None:
        """Add an inode: a directory if there is no content."""
        self.create(parent, name, ino, directory=content is None)
        self.contents[ino] = content if content is not None else FileContent(mode=0o755)

    def forget(self, ino: int) -> None:
        """A nameless inode that nobody uses is gone."""
        self.reap(ino)
        for table in (self.contents, self.pins, self.codecs):
            table.pop(ino, None)

    @property
    def files(self) -> list[int]:
        """All regular files, nameless ones included."""
        return sorted(
            ino
            for ino, node in self.nodes.items()
            if not node.directory and self.contents[ino].target is None
        )

    @property
    def directories(self) -> list[int]:
        """All directories with a name, and the root."""
        return sorted(ino for ino, node in self.nodes.items() if node.directory and node.nlink)

    @property
    def nameless(self) -> list[int]:
        """All inodes without a name."""
        return sorted(ino for ino, node in self.nodes.items() if not node.nlink)
