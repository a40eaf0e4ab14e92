"""Damages: what can become of the metadata files of a state directory that nobody has mounted.

Invariant: a damage changes nothing but metadata files, and tells in a phrase what it did.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

ZERO_BYTES = [1, 512, 4096]

JOURNALS = ("journal.0", "journal.1")
DATABASE = ("metadata.db", "metadata.db-wal", "metadata.db-shm")

Files = dict[str, bytes]
"""Contents of metadata files by name."""


def read_metadata(state_dir: Path) -> Files:
    """Return what the metadata files hold: whatever lies in the state directory itself."""
    return {path.name: path.read_bytes() for path in state_dir.iterdir() if path.is_file()}


def put_back(state_dir: Path, files: Files) -> None:
    """Make the metadata files be exactly these again."""
    for path in state_dir.iterdir():
        if path.is_file() and path.name not in files:
            path.unlink()
    for name, content in files.items():
        (state_dir / name).write_bytes(content)


def damage(state_dir: Path, older: Files | None, rng: random.Random) -> str:
    """Damage one metadata file, or exchange or age some; returns what was done, a phrase.

    Args:
        state_dir: Nobody has it open.
        older: What the files held at some time before; None: that is not known.
        rng: Chooses.
    """
    files = read_metadata(state_dir)
    # The reserve holds nothing.
    names = sorted(name for name, content in files.items() if content and name != "reserve")
    kinds: list[Callable[[], str]] = [
        lambda: _flip(state_dir / rng.choice(names), rng),
        lambda: _zero(state_dir / rng.choice(names), rng),
        lambda: _cut(state_dir / rng.choice(names), rng),
        lambda: _drop(state_dir / rng.choice(names)),
        lambda: _exchange(state_dir, *rng.sample(names, 2)),
        lambda: _exchange(state_dir, *JOURNALS),
    ]
    if older is not None:
        aged = older
        kinds += [
            lambda: _age(state_dir, aged, (rng.choice(names),)),
            lambda: _age(state_dir, aged, JOURNALS),
            lambda: _age(state_dir, aged, DATABASE),
        ]
    return rng.choice(kinds)()


def _used_bytes(content: bytes | bytearray) -> int:
    return max(1, len(content.rstrip(b"\0")))


def _flip(path: Path, rng: random.Random) -> str:
    content = bytearray(path.read_bytes())
    offset, bit = rng.randrange(_used_bytes(content)), rng.randrange(8)
    content[offset] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name}: bit {bit} of byte {offset}"


def _zero(path: Path, rng: random.Random) -> str:
    content = bytearray(path.read_bytes())
    size = rng.choice(ZERO_BYTES)
    offset = rng.randrange(_used_bytes(content)) // size * size
    content[offset : offset + size] = bytes(len(content[offset : offset + size]))
    path.write_bytes(content)
    return f"{path.name}: {size} zeros at {offset}"


def _cut(path: Path, rng: random.Random) -> str:
    content = path.read_bytes()
    size = rng.randrange(_used_bytes(content))
    path.write_bytes(content[:size])
    return f"{path.name}: cut to {size}"


def _drop(path: Path) -> str:
    path.unlink()
    return f"{path.name}: dropped"


def _exchange(state_dir: Path, one: str, other: str) -> str:
    paths = state_dir / one, state_dir / other
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    return f"{one} and {other}: exchanged"


def _age(state_dir: Path, older: Files, names: tuple[str, ...]) -> str:
    for name in names:
        if name in older:
            (state_dir / name).write_bytes(older[name])
        else:
            (state_dir / name).unlink(missing_ok=True)
    return f"{', '.join(names)}: older"


def digests_of_files(state_dir: Path) -> set[bytes]:
    """Return the digests of all files with bytes below a state directory, but for metadata."""
    return {
        hashlib.sha256(content).digest()
        for path in state_dir.rglob("*")
        if path.is_file() and path.parent != state_dir and (content := path.read_bytes())
    }
