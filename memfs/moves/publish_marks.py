"""Marks of what is published by itself: where to, who may, and which inodes have one.

Invariant: an inode with `user.memfs.publish` is among the roots; a root need not have it any more.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from memfs.errors import InvalidValueError
from memfs.types import InodeNo
from memfs.urls import url_without_secrets

if TYPE_CHECKING:
    from memfs.config import Config
    from memfs.metadata.engine import Engine

ROOTS_SETTING = "publish.roots"
"""Inode numbers that have, or had, `user.memfs.publish`, as JSON."""

ROOT_COUNT_MAX = 1000


def target_of(url: str) -> str:
    """Return a URL without secrets, template and slash at its end; the target of objects below it.

    Raises:
        InvalidValueError: It is no URL of a bucket or of a directory.
    """
    plain = url_without_secrets(url).removesuffix("{path}").rstrip("/")
    parts = urlsplit(plain)
    is_place = parts.path.strip("/") if parts.scheme == "file" else parts.netloc
    if not parts.scheme or "://" not in plain or not is_place or "{" in plain:
        raise InvalidValueError(
            f"{plain!r} is no place to publish to: write s3://BUCKET/PREFIX, gs://BUCKET, "
            "abfs://CONTAINER or file:///DIRECTORY, or with /{path}"
        )
    return plain


def is_allowed(target: str, config: Config) -> bool:
    """Return whether users may publish to a target by an xattr."""
    below = [allowed.rstrip("/") for allowed in config.publish.targets]
    return any(target == each or target.startswith(f"{each}/") for each in below)


async def list_roots(engine: Engine) -> list[InodeNo]:
    """Return the inodes that may have `user.memfs.publish`."""
    stored = await engine.get_setting(ROOTS_SETTING)
    return [InodeNo(ino) for ino in json.loads(stored or b"[]")]


async def note_root(engine: Engine, ino: InodeNo) -> None:
    """Remember that an inode has `user.memfs.publish`; within the caller's change.

    Raises:
        InvalidValueError: There are too many.
    """
    known = await list_roots(engine)
    if ino in known:
        return
    if len(known) >= ROOT_COUNT_MAX:
        raise InvalidValueError(
            f"{ROOT_COUNT_MAX} directories are published by themselves already: publish one above"
        )
    await engine.put_setting(ROOTS_SETTING, json.dumps([*known, ino]).encode())


async def forget_root(engine: Engine, ino: InodeNo) -> None:
    """Forget that an inode had it."""
    known = [each for each in await list_roots(engine) if each != ino]
    async with engine.change():
        await engine.put_setting(ROOTS_SETTING, json.dumps(known).encode() if known else None)
