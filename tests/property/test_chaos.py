"""Chaos: thousands of steps over a store and a disk that fail, with crashes among them.

A failing life is made shorter by leaving steps out, and printed; it can be pasted into a test.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.config import EncryptionConfig, NamedStoreConfig
from tests.property.harsh_life import HarshLife
from tests.property.life import CROWDED, TWO_STORES, draw_steps
from tests.property.world import CRAMPED, HASTY, ROOMY

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS = [int(seed) for seed in os.environ.get("MEMFS_CHAOS_SEEDS", "1").split(",")]
STEP_COUNT = int(os.environ.get("MEMFS_CHAOS_STEPS", "300"))
"""Steps of each life."""

SHRINK_S = float(os.environ.get("MEMFS_CHAOS_SHRINK_S", "60"))
"""For making a failing life shorter; a slow machine stops early and prints a longer life."""

CONFIGS = {
    "roomy": ROOMY,
    "cramped": CRAMPED,
    "hasty": replace(HASTY, encryption=EncryptionConfig(packed=True)),
}
_SECOND = NamedStoreConfig(url="file:///unused", codec="lz4", encrypt=False)
TWO = {"two stores": replace(HASTY, stores={"archive": _SECOND})}

IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextlib.contextmanager
def own_disk() -> Iterator[tuple[Path, bool]]:
    """Yield an empty directory, and whether it is a small disk of its own."""
    base = Path(tempfile.mkdtemp(prefix="memfs-chaos-", dir=IN_MEMORY))
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=160m", "memfs-test", base],
            check=False,
            capture_output=True,
        )
        try:
            yield base, not made.returncode
        finally:
            if not made.returncode:
                subprocess.run(["umount", "--lazy", base], check=True)
    finally:
        shutil.rmtree(base)


def live(steps: list[tuple[str, int]], name: str, *, passthrough: bool, encrypted: bool) -> None:
    """Live a whole life in a directory of its own."""
    with own_disk() as (root, small_disk):
        life = HarshLife(
            root,
            (CONFIGS | TWO)[name],
            passthrough=passthrough,
            encrypted=encrypted,
            small_disk=small_disk,
        )
        try:
            life.live(steps)
        except Exception as error:
            error.add_note(life.world.told())
            raise
        life.end()


def shorten(
    steps: list[tuple[str, int]], name: str, *, passthrough: bool, encrypted: bool
) -> list[tuple[str, int]]:
    """Leave out steps, many at a time at first, as long as the life still fails."""
    size, end = max(1, len(steps) // 2), time.monotonic() + SHRINK_S
    while time.monotonic() < end:
        start = 0
        while start < len(steps) and time.monotonic() < end:
            fewer = steps[:start] + steps[start + size :]
            try:
                live(fewer, name, passthrough=passthrough, encrypted=encrypted)
            except Exception:
                steps = fewer
            else:
                start += size
        if size == 1:
            break
        size //= 2
    return steps


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("passthrough", [False, True], ids=["served", "passthrough"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_chaos_loses_no_byte_and_leaves_nothing_over(
    name: str, passthrough: bool, encrypted: bool, seed: int
) -> None:
    """Whatever fails: what was answered is there, sums are right, and all that is dead goes."""
    _live_or_shorten(
        draw_steps(seed, STEP_COUNT), name, passthrough=passthrough, encrypted=encrypted
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_life_with_two_stores_loses_no_byte(encrypted: bool, seed: int) -> None:
    """Files go from one to the other and back; what is encrypted in one is plain in the other."""
    steps = draw_steps(seed, STEP_COUNT, TWO_STORES)
    _live_or_shorten(steps, "two stores", passthrough=True, encrypted=encrypted)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("passthrough", [False, True], ids=["served", "passthrough"])
def test_a_disk_that_fills_up_within_requests_loses_no_byte(passthrough: bool, seed: int) -> None:
    """A refused request changed nothing, and of a write what was answered is there.

    Found within one such life, and hardly by others: a cut before the commit that unseals the file,
    and a write that answers with more bytes than the disk took.
    """
    _live_or_shorten(
        draw_steps(seed, STEP_COUNT, CROWDED), "roomy", passthrough=passthrough, encrypted=False
    )


def _live_or_shorten(
    steps: list[tuple[str, int]], name: str, *, passthrough: bool, encrypted: bool
) -> None:
    try:
        live(steps, name, passthrough=passthrough, encrypted=encrypted)
    except Exception as error:
        short = shorten(steps, name, passthrough=passthrough, encrypted=encrypted)
        error.add_note(f"the shortest life that fails has {len(short)} steps: {short}")
        raise
