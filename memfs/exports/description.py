"""The description of an export: which objects it is made of, and what they hold.

The objects of a state lie below `meta/` and its identity:

- `parts/SNAP-NUMBER-RANDOM`: rows of the tables, in the columns of `metadata.columns`. Exports
  share the parts that have not changed. All that an export says of objects names them by their
  addresses, so that those of named stores are among them; what was adopted is named by its source.
- `SNAP/contents-RANDOM`: the description, which names the parts with their digests.
- `SNAP/done.json`: names the description with its digest, and comes last. Without it there is no
  export.

All but the last are containers, as those of files: compressed, checked by their digests, encrypted
where the objects of files are. A container is bound to the state, and to the number of the snapshot
as to a blob: no blob has that number. `done.json` has numbers and no name, and is in clear.

An export with sources of adopted files has the format 2: a memfs that does not know them would
take their files for lost ones. All others have the format 1.

Invariant: what is read here is of the types that it must have, or `CorruptDataError` is raised.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.errors import CorruptDataError, NewerFormatError
from memfs.exports.places import (
    StoreAddress,
    decode_source,
    encode_source,
    number_of,
    text_of,
    without_times,
)
from memfs.metadata.records import Blob
from memfs.types import (
    STATE_ID_BYTES,
    BlobId,
    FormCoding,
    InodeNo,
    Layout,
    Place,
    SnapshotId,
    StateId,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.metadata.foreign import Source

PREFIX = "meta/"
"""That of the keys of all states' exports; no container of a file has such a key."""

FORMAT = 1
FORMAT_WITH_SOURCES = 2
"""That of a description with sources."""
FORMAT_MAX = FORMAT_WITH_SOURCES
DONE_BYTES_MAX = 4096
_DONE_NAME = "done.json"
_DONE_KEY = re.compile(rf"{PREFIX}([0-9a-f]{{32}})/([0-9a-f]{{16}})/{re.escape(_DONE_NAME)}")
_KEY = re.compile(rf"{PREFIX}[0-9a-f]{{32}}/[0-9a-z./-]{{1,100}}")


class Sealed(NamedTuple):
    """An object of an export, and the content that it must hold."""

    key: str
    snap: SnapshotId
    """That of the export that has written it."""
    size: int
    """Bytes before compression."""
    digest: bytes
    """BLAKE3-256 of what is in it."""
    stored_bytes: int
    codec: str
    key_id: str
    """That of the key that encrypts it; empty: it is in clear."""
    table_id: str

    @property
    def place(self) -> Place:
        """Where it lies, as of `stores.contents.StoredForm`."""
        return Place(self.key)

    @property
    def layout(self) -> Layout:
        """How its bytes lie, as of `stores.contents.StoredForm`."""
        return Layout.CONTAINER

    @property
    def blob(self) -> Blob:
        """What it must hold."""
        return Blob(BlobId(int(self.snap)), self.size, self.digest)

    @property
    def coding(self) -> FormCoding:
        """How it is encoded."""
        return FormCoding(self.codec, 1, self.key_id, self.table_id)


class Part(NamedTuple):
    """A part of an export."""

    kind: str
    """`inodes`, `contents`, `dentries`, `gone` or `published`."""
    row_count: int
    sealed: Sealed


class Description(NamedTuple):
    """An export."""

    state_id: StateId
    snap: SnapshotId
    created_ns: int
    """The instant that it shows, by the wall clock."""
    next_id: int
    """No number in it reaches this one."""
    file_count: int
    """Regular files."""
    content_bytes: int
    missing_count: int
    """Files of these whose bytes had no object."""
    missing_bytes: int
    parts: tuple[Part, ...]
    pools: str = "{}"
    """Pools of RAM of the mount, as `policy.pools.Pools.encode` has them."""
    stores: tuple[StoreAddress, ...] = ()
    """Named stores of the mount, and those that have objects of it."""
    sources: tuple[Source, ...] = ()
    """Those of adopted files."""
    indexes: tuple[str, ...] = ()
    """Fields and xattrs that have an index which somebody has added, as `Queries.add_index` has
    them; in order."""
    life: int = 0
    """Number of the state's life, as of `moves.publish_tokens`."""
    frozen: tuple[InodeNo, ...] = ()
    """Directories of frozen trees, in order."""

    def is_like(self, other: Description) -> bool:
        """Return whether another one says the same, wherever its parts lie."""
        return self._says() == other._says()

    def _says(self) -> tuple[object, ...]:
        parts = [(part.kind, part.sealed.digest) for part in self.parts]
        sources = [*map(without_times, self.sources)]
        return parts, self.pools, self.stores, sources, self.indexes, self.life, self.frozen

    def encode(self) -> bytes:
        """Return it as its object has it."""
        number = FORMAT_WITH_SOURCES if self.sources else FORMAT
        fields: dict[str, Any] = {"format": number, **self._asdict()}
        fields["state_id"] = self.state_id.hex()
        fields["stores"] = [store.encode() for store in self.stores]
        fields["sources"] = [encode_source(source) for source in self.sources]
        fields["parts"] = [
            {"kind": part.kind, "row_count": part.row_count, **_fields_of(part.sealed)}
            for part in self.parts
        ]
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes, name: str) -> Description:
        """Return what `encode` gave.

        Raises:
            CorruptDataError: It is not that.
            NewerFormatError: It is of a later version.
        """
        # Exports of versions that left some of it out.
        fields = {**_LEFT_OUT, **_load(data, name)}
        try:
            parts = tuple(
                Part(text_of(each, "kind"), number_of(each, "row_count"), _sealed(each))
                for each in fields["parts"]
            )
            snap, *numbers = (number_of(fields, field) for field in cls._fields[1:_PARTS])
            places = (
                tuple(StoreAddress.decode(each) for each in fields["stores"]),
                tuple(decode_source(each) for each in fields["sources"]),
            )
            head = _state_id(fields["state_id"]), SnapshotId(snap), *numbers
            indexes = tuple(map(_text, fields["indexes"]))
            rest = text_of(fields, "pools"), *places, indexes, number_of(fields, "life")
            found = cls._make((*head, parts, *rest, tuple(map(_number, fields["frozen"]))))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CorruptDataError(f"{name}: no description of an export: {error}") from None
        return found


_PARTS = Description._fields.index("parts")
_LEFT_OUT: dict[str, Any] = {
    "pools": "{}",
    "stores": [],
    "sources": [],
    "indexes": [],
    "life": 0,
    "frozen": [],
}


def _number(value: object) -> InodeNo:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of an inode")
    return InodeNo(value)


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    value.encode()
    return value


class Done(NamedTuple):
    """What says that an export is complete."""

    state_id: StateId
    snap: SnapshotId
    created_ns: int
    contents: Sealed
    """The object of the description."""

    @property
    def key(self) -> str:
        """That of its own object."""
        return done_key(self.state_id, self.snap)

    def encode(self) -> bytes:
        """Return it as its object has it."""
        fields = {
            "format": FORMAT,
            "state_id": self.state_id.hex(),
            "snap": self.snap,
            "created_ns": self.created_ns,
            "contents": _fields_of(self.contents),
        }
        return json.dumps(fields, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes, name: str) -> Done:
        """Return what `encode` gave; raises as `Description.decode`."""
        fields = _load(data, name)
        try:
            contents = _sealed(fields["contents"])
            return cls(
                _state_id(fields["state_id"]),
                SnapshotId(number_of(fields, "snap")),
                number_of(fields, "created_ns"),
                contents,
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CorruptDataError(f"{name}: no mark of an export: {error}") from None


class ExportId(NamedTuple):
    """A complete export in a store."""

    snap: SnapshotId
    state_id: StateId

    def __str__(self) -> str:
        """How users read and write it."""
        return f"{self.state_id.hex()[:8]}-{self.snap:x}"


def root_of(state_id: StateId) -> str:
    """Return the prefix of the keys of one state's exports."""
    return f"{PREFIX}{state_id.hex()}/"


def done_key(state_id: StateId, snap: SnapshotId) -> str:
    """Return the key of what says that an export is complete."""
    return f"{root_of(state_id)}{snap:016x}/{_DONE_NAME}"


def contents_key(state_id: StateId, snap: SnapshotId) -> str:
    """Return a key for the description of an export, never used before."""
    return f"{root_of(state_id)}{snap:016x}/contents-{secrets.token_hex(4)}"


def part_key(state_id: StateId, snap: SnapshotId, number: int) -> str:
    """Return a key for a part, never used before."""
    return f"{root_of(state_id)}parts/{snap:016x}-{number:x}-{secrets.token_hex(4)}"


def parse_done_key(key: str) -> tuple[StateId, SnapshotId] | None:
    """Return whose export a key says to be complete; None: it is another key."""
    found = _DONE_KEY.fullmatch(key)
    if found is None:
        return None
    return StateId(bytes.fromhex(found[1])), SnapshotId(int(found[2], 16))


def _fields_of(sealed: Sealed) -> dict[str, Any]:
    return {**sealed._asdict(), "digest": sealed.digest.hex()}


def _load(data: bytes, name: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
        number = fields["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptDataError(f"{name}: is damaged: {error}") from None
    if type(number) is not int or number < FORMAT:
        raise CorruptDataError(f"{name}: has the impossible format {number!r}")
    if number > FORMAT_MAX:
        raise NewerFormatError(
            f"{name}: is of format {number}, and this memfs knows {FORMAT} to {FORMAT_MAX}: use "
            "the version that has written it, or a newer one"
        )
    assert isinstance(fields, dict)
    return fields


def _sealed(fields: Mapping[str, Any]) -> Sealed:
    key, digest = text_of(fields, "key"), bytes.fromhex(text_of(fields, "digest"))
    if not _KEY.fullmatch(key) or ".." in key:
        raise ValueError(f"the key {key!r}")
    return Sealed(
        key,
        SnapshotId(number_of(fields, "snap")),
        number_of(fields, "size"),
        digest,
        number_of(fields, "stored_bytes"),
        *(text_of(fields, name) for name in Sealed._fields[5:]),
    )


def _state_id(text: object) -> StateId:
    state_id = bytes.fromhex(str(text))
    if len(state_id) != STATE_ID_BYTES:
        raise ValueError("an identity of another length")
    return StateId(state_id)
