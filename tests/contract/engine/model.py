"""A file system as dicts: what an engine has to look like after each call."""

from __future__ import annotations

from dataclasses import dataclass, field

from memfs.errors import (
    AlreadyExistsError,
    DirectoryNotEmptyError,
    InvalidValueError,
    IsADirectoryInodeError,
    NotADirectoryInodeError,
    NotFoundError,
    NotPermittedError,
    NoXattrError,
)

ADOPTED = "adopted/"
"""What the locations of objects that memfs does not own begin with."""


@dataclass
class Node:
    """One inode."""

    directory: bool
    nlink: int
    raw: int = 0
    unsealed: bool = False
    size: int = 0
    generation: int = 1
    symlink: bool = False
    forms: dict[str, str] = field(default_factory=dict)
    """Location by kind."""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


@dataclass
class Model:
    """Inodes by number, dentries by directory, garbage by kind and location."""

    nodes: dict[int, Node] = field(default_factory=lambda: {1: Node(True, 2)})
    entries: dict[int, dict[bytes, int]] = field(default_factory=lambda: {1: {}})
    garbage: set[tuple[str, str]] = field(default_factory=set)
    settings: dict[str, bytes] = field(default_factory=dict)
    snapshots: dict[int, object] = field(default_factory=dict)
    """By number: the tree of that instant, as `making.tree_at` returns it."""

    # --- names -----------------------------------------------------------------------------------
    def create(self, parent: int, name: bytes, ino: int, *, directory: bool) -> None:
        """Add an inode and its dentry."""
        self._add_entry(parent, name, ino)
        self.nodes[ino] = Node(
            directory, 2 if directory else 1, 0 if directory else ino, not directory
        )
        if directory:
            self.entries[ino] = {}
            self.nodes[parent].nlink += 1

    def link(self, ino: int, parent: int, name: bytes) -> None:
        """Add a dentry."""
        self._living_directory(parent)
        if self.nodes[ino].directory:
            raise NotPermittedError
        self._add_entry(parent, name, ino)
        self.nodes[ino].nlink += 1

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a dentry of a file."""
        ino = self._entry(parent, name)
        if self.nodes[ino].directory:
            raise IsADirectoryInodeError
        del self.entries[parent][name]
        self.nodes[ino].nlink -= 1

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        ino = self._entry(parent, name)
        if not self.nodes[ino].directory:
            raise NotADirectoryInodeError
        if self.entries[ino]:
            raise DirectoryNotEmptyError
        del self.entries[parent][name]
        self.nodes[parent].nlink -= 1
        self.nodes[ino].nlink = 0

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        """Move, replace or exchange a dentry."""
        if not self.nodes[parent].directory:
            raise NotADirectoryInodeError
        self._living_directory(new_parent)
        moved = self._entry(parent, name)
        replaced = self.entries[new_parent].get(new_name)
        if replaced is None and flags == 2:
            raise NotFoundError
        if replaced is not None and flags == 1:
            raise AlreadyExistsError
        if replaced == moved:
            return
        if self._is_below(new_parent, moved):
            raise InvalidValueError
        if flags == 2:
            assert replaced is not None
            if self._is_below(parent, replaced):
                raise InvalidValueError
            self.entries[parent][name] = replaced
        else:
            if replaced is not None:
                self._replace(moved, replaced, new_parent)
            del self.entries[parent][name]
        self.entries[new_parent][new_name] = moved
        for directory in (parent, new_parent):
            self._count_links(directory)

    def _replace(self, moved: int, replaced: int, parent: int) -> None:
        if not self.nodes[replaced].directory:
            if self.nodes[moved].directory:
                raise NotADirectoryInodeError
            self.nodes[replaced].nlink -= 1
            return
        if not self.nodes[moved].directory:
            raise IsADirectoryInodeError
        if self.entries[replaced]:
            raise DirectoryNotEmptyError
        self.nodes[replaced].nlink = 0

    def _count_links(self, directory: int) -> None:
        children = self.entries[directory].values()
        self.nodes[directory].nlink = 2 + sum(self.nodes[ino].directory for ino in children)

    def _is_below(self, directory: int, ancestor: int) -> bool:
        if not self.nodes[ancestor].directory:
            return False
        return directory == ancestor or any(
            self._is_below(directory, child) for child in self.entries[ancestor].values()
        )

    def _living_directory(self, ino: int) -> None:
        if not self.nodes[ino].directory:
            raise NotADirectoryInodeError
        if self.nodes[ino].nlink == 0:
            raise NotFoundError

    def _add_entry(self, parent: int, name: bytes, ino: int) -> None:
        self._living_directory(parent)
        if name in self.entries[parent]:
            raise AlreadyExistsError
        self.entries[parent][name] = ino

    def _entry(self, parent: int, name: bytes) -> int:
        if not self.nodes[parent].directory:
            raise NotADirectoryInodeError
        if name not in self.entries[parent]:
            raise NotFoundError
        return self.entries[parent][name]

    def reap(self, ino: int) -> None:
        """Delete an orphan."""
        if self.nodes[ino].nlink:
            return
        node = self.nodes.pop(ino)
        self.entries.pop(ino, None)
        if node.raw:
            self.garbage.add(("raw", str(node.raw)))
        self._drop_forms(node)

    # --- xattrs ----------------------------------------------------------------------------------
    def set_xattr(self, ino: int, name: bytes, value: bytes, flags: int) -> None:
        """Set an xattr."""
        xattrs = self.nodes[ino].xattrs
        if flags == 1 and name in xattrs:
            raise AlreadyExistsError
        if flags == 2 and name not in xattrs:
            raise NoXattrError
        xattrs[name] = value

    def remove_xattr(self, ino: int, name: bytes) -> None:
        """Remove an xattr."""
        if self.nodes[ino].xattrs.pop(name, None) is None:
            raise NoXattrError

    # --- contents --------------------------------------------------------------------------------
    def unseal(self, ino: int, raw: int) -> None:
        """Begin a new generation."""
        node = self.nodes[ino]
        if node.directory or node.symlink:
            raise InvalidValueError
        if node.unsealed and node.raw == raw:
            return
        if node.raw not in (0, raw):
            self.garbage.add(("raw", str(node.raw)))
        self._drop_forms(node)
        node.generation += 1
        node.raw, node.unsealed = raw, True

    def seal(self, ino: int, size: int) -> None:
        """End the writing."""
        node = self.nodes[ino]
        if node.unsealed:
            node.unsealed, node.size = False, size

    def publish_form(self, ino: int, kind: str, location: str) -> bool:
        """Add a form at a location that was never used before."""
        node = self.nodes[ino]
        if node.unsealed or node.directory or node.symlink or kind in node.forms:
            self._discard(kind, location)
            return False
        node.forms[kind] = location
        return True

    def publish_raw(self, ino: int, raw: int) -> bool:
        """Add a raw file."""
        node = self.nodes[ino]
        if node.unsealed or node.directory or node.symlink or node.raw:
            self.garbage.add(("raw", str(raw)))
            return False
        node.raw = raw
        return True

    def drop_raw(self, ino: int) -> bool:
        """Detach the raw file."""
        node = self.nodes[ino]
        if node.unsealed or not node.raw or not node.forms:
            return False
        self.garbage.add(("raw", str(node.raw)))
        node.raw = 0
        return True

    def drop_form(self, ino: int, kind: str) -> bool:
        """Detach a form."""
        node = self.nodes[ino]
        if kind not in node.forms or (not node.raw and len(node.forms) == 1):
            return False
        self._discard(kind, node.forms.pop(kind))
        return True

    def _drop_forms(self, node: Node) -> None:
        for kind, location in node.forms.items():
            self._discard(kind, location)
        node.forms.clear()

    def _discard(self, kind: str, location: str) -> None:
        if not location.startswith(ADOPTED):
            self.garbage.add((kind, location))
