"""Coding: how the next form of a file is compressed, filtered and encrypted.

Invariant: a form that is to be encrypted is never written in clear, not even into a temporary file
that is uploaded from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.codecs.registry import get_codec, parse_codec
from memfs.stores.envelope import Encryption, Unlock
from memfs.stores.sampling import judge
from memfs.types import BLOCK_BYTES, CodecSpec, FormCoding, FormKind

if TYPE_CHECKING:
    from memfs.codecs.codec import Codec
    from memfs.encryption.keys import Key
    from memfs.metadata.records import Blob, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.types import BlobId, InodeNo

NO_CODEC = CodecSpec("none", None)

SPARSE_SHARE_MIN = 0.1
"""Share of holes from which on a file is compressed whatever its data are. Guess."""


class Coding(NamedTuple):
    """How a form is to be encoded."""

    codec: Codec
    shuffle_bytes: int
    """Item size of the byte-shuffle filter; 1: no filter."""
    worthwhile: bool
    """False: compressing it saves too little, as a sample says, and `codec` is `none`."""
    reason: str
    """What that rests on, for users."""


async def choose_coding(
    parts: MoveParts, inode: Inode, default: str, codec: Codec | None = None
) -> Coding:
    """Choose codec and filter for a raw file: the codec in force on it, if that pays.

    Args:
        inode: Has a raw file.
        default: The tier's codec, as users write it.
        codec: Instead of the one in force.
    """
    codec = codec or await codec_of(parts, inode.ino, default)
    if codec.spec == NO_CODEC:
        return Coding(codec, 1, False, "its codec is none")
    source = parts.raw_store.path(inode.raw)
    verdict = await trio.to_thread.run_sync(judge, source, codec, limiter=parts.threads)
    if not verdict.worthwhile and _is_sparse(inode):
        # The sample met data alone; in a container without a codec holes cost all their bytes.
        return Coding(codec, verdict.shuffle_bytes, True, "it has holes")
    if not verdict.worthwhile:
        parts.tally.note_spared(str(codec.spec), inode.size)
        return Coding(get_codec(NO_CODEC), 1, False, verdict.reason)
    return Coding(codec, verdict.shuffle_bytes, True, verdict.reason)


def _is_sparse(inode: Inode) -> bool:
    return inode.blocks * BLOCK_BYTES < inode.size * (1 - SPARSE_SHARE_MIN)


async def codec_of(parts: MoveParts, ino: InodeNo, default: str) -> Codec:
    """Return the codec in force on a file: its own, a directory's, else the tier's."""
    text = await parts.engine.effective_codec(ino) or default
    return get_codec(parse_codec(text))


def key_of(parts: MoveParts, kind: FormKind, store: str = "") -> Key | None:
    """Return the key that new forms of a kind are encrypted with; None: they are not.

    Args:
        store: Name of the store that a remote form lies in; empty: the default one.
    """
    config = parts.config.encryption
    if kind == FormKind.PACKED:
        return parts.keys.first if config.packed else None
    if kind != FormKind.REMOTE:
        return None
    wanted = config.remote
    if (named := parts.config.stores.get(store)) is not None:
        wanted = (bool(named.keys) or wanted) if named.encrypt is None else named.encrypt
    return parts.keys.first_of(store) if wanted else None


def encryption_of(
    parts: MoveParts, kind: FormKind, inode: Inode, blob: BlobId, store: str = ""
) -> Encryption | None:
    """Return how a new form of a file is encrypted; None: it is not.

    Args:
        parts: Configuration and keys among them.
        kind: That of the form.
        blob: Whose form it becomes.
        store: As of `key_of`.
    """
    key = key_of(parts, kind, store)
    if key is None:
        return None
    return Encryption(key, blob, inode.generation, parts.engine.state_id)


def is_under(coding: FormCoding, key: Key | None) -> bool:
    """Return whether a container is encrypted with just this key; None: not at all."""
    return coding.key_id == ("" if key is None else key.id.hex())


def unlock(parts: MoveParts, blob: Blob, coding: FormCoding) -> Unlock:
    """Return what reading a form of a blob takes.

    Args:
        parts: The keys among them.
        blob: Whose form it is; a container of another content is refused.
        coding: That of the form; a container that is encrypted otherwise is refused.
    """
    return Unlock.of(parts.keys, blob, coding, parts.engine.object_state_id)
