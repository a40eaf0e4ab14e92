"""The index of attributes: which names of user xattrs have keys in it, and how complete it is.

Each queryable xattr has the key of its name and its typed value beside it, written by the same
statement. What was set while the index was off has key 0, and `Queries.index_attributes` gives it
its key later.

Invariant: a row with a key has the value that its text stands for, whatever is noted. Only what the
note says decides whether rows without a key may be missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import NotSupportedError
from memfs.metadata.sqlite.element_index import ElementIndex
from memfs.metadata.sqlite.statements import INSERT_ATTRIBUTE_NAME
from memfs.metadata.sqlite.text_index import TextIndexes
from memfs.query.fields import is_queryable
from memfs.types import InodeNo

if TYPE_CHECKING:
    from memfs.config import QueryConfig
    from memfs.metadata.sqlite.database import Database

NO_KEY = 0
"""That of an xattr that no filter finds by the index."""

NOTE_NAME = "query.index"
"""The setting that tells how complete the index is."""

_WHOLE = b"whole"
_NAME = b"name:"
"""Before a name in hexadecimal; a version that does not know it begins with the inode anew."""


class IndexNote(NamedTuple):
    """How much of the index is there."""

    through: InodeNo | None
    """All xattrs of inodes up to here are in it; None: all xattrs are."""
    is_short_of_names: bool = False
    """Some names have no key, since there are too many."""
    name: bytes = b""
    """Those of the inode behind it are in it up to this name."""

    @property
    def is_whole(self) -> bool:
        """True if what the index does not find has no key for lack of room alone."""
        return self.through is None

    def encode(self) -> bytes:
        """Return it as the setting has it."""
        text = _WHOLE if self.through is None else b"%d" % self.through
        if self.name:
            text += b" " + _NAME + self.name.hex().encode()
        return text + (b" short" if self.is_short_of_names else b"")

    @classmethod
    def decode(cls, content: bytes | None) -> IndexNote:
        """Return what `encode` gave; what is not understood is an index that is to be begun."""
        words = (content or b"0").split()
        through = (
            None if words[0] == _WHOLE else InodeNo(int(words[0]) if words[0].isdigit() else 0)
        )
        name = next((word for word in words if word.startswith(_NAME)), _NAME)
        return cls(through, b"short" in words, bytes.fromhex(name[len(_NAME) :].decode()))


NOT_BEGUN = IndexNote(InodeNo(0))


class AttributeIndex:
    """Keys by name, kept in memory; bound to the database after it was opened."""

    def __init__(self, config: QueryConfig) -> None:
        self.enabled = config.enabled
        self._name_count_max = config.name_count_max
        self._database: Database | None = None
        self._keys: dict[bytes, int] | None = None
        self._note: IndexNote | None = None
        self.elements = ElementIndex()
        self.texts = TextIndexes()

    def require_enabled(self) -> None:
        """See that this mount has such an index.

        Raises:
            NotSupportedError: It has not.
        """
        if not self.enabled:
            raise NotSupportedError(
                "xattrs are not indexed on this mount: set query.enabled, and mount again"
            )

    def bind(self, database: Database) -> None:
        """Take the database that has the names."""
        self._database = database
        self.elements.bind(database)
        self.texts.bind(database)

    def forget(self) -> None:
        """Read names and note again when they are needed: changes were undone."""
        self._keys = None
        self._note = None
        self.elements.forget()
        self.texts.forget()

    @property
    def keys(self) -> dict[bytes, int]:
        """Keys by name."""
        if self._keys is None:
            assert self._database is not None, "bound when the engine was opened"
            rows = self._database.rows("select name, key from attribute_name")
            self._keys = dict(rows)
        return self._keys

    @property
    def note(self) -> IndexNote:
        """How complete it is."""
        if self._note is None:
            assert self._database is not None, "bound when the engine was opened"
            row = self._database.row("select value from setting where name = ?", (NOTE_NAME,))
            self._note = IndexNote.decode(None if row is None else row[0])
        return self._note

    def take_note(self, note: IndexNote) -> bytes | None:
        """Remember a note, and return what its setting is to hold from now on."""
        self._note = note
        return None if note == NOT_BEGUN else note.encode()

    @property
    def is_full(self) -> bool:
        """True if a further name gets no key."""
        return len(self.keys) >= self._name_count_max

    def take_key(self, name: bytes) -> int:
        """Return the key of a name, which gets one if it is queryable and there is room.

        A change of the engine is under way, or begins with this.
        """
        keys = self.keys
        key = keys.get(name)
        if key is not None:
            return key
        if not is_queryable(name) or self.is_full:
            return NO_KEY
        key = max(keys.values(), default=NO_KEY) + 1
        assert self._database is not None, "bound when the engine was opened"
        self._database.write(INSERT_ATTRIBUTE_NAME, (key, name))
        keys[name] = key
        return key
