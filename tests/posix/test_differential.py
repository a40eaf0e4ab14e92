"""The same random calls on `place` and on a local directory: equal outcomes, equal trees."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.posix import calls
from tests.posix.actor import Actor, Step
from tests.posix.capabilities import Capability
from tests.trees import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.data_path

STEP_COUNT = 2000
COMPARE_EVERY = 200
NAMES = ("a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "f", "f/x", "l", "l/y")
KEYS = ("user.a", "user.b", "trusted.a", "user." + "n" * 200)
OFFSETS = (0, 1, 100, 4095, 4096, 10_000, 65_536, 131_071, 300_000)
MODES = (0o644, 0o600, 0o4755, 0o2775, 0o1777, 0o7777, 0)
FLAGS = (
    os.O_RDONLY,
    os.O_RDWR,
    os.O_WRONLY,
    os.O_RDWR | os.O_CREAT,
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_RDWR | os.O_TRUNC,
    os.O_WRONLY | os.O_APPEND | os.O_CREAT,
    os.O_RDONLY | os.O_NOFOLLOW,
)
ALLOCATIONS = (
    0,
    calls.FALLOC_FL_KEEP_SIZE,
    calls.FALLOC_FL_KEEP_SIZE | calls.FALLOC_FL_PUNCH_HOLE,
    calls.FALLOC_FL_ZERO_RANGE,
    calls.FALLOC_FL_ZERO_RANGE | calls.FALLOC_FL_KEEP_SIZE,
)
RENAMES = (0, 0, 0, calls.RENAME_NOREPLACE, calls.RENAME_EXCHANGE)


class Script:
    """An endless random sequence of steps, the same for the same seed."""

    def __init__(self, seed: int, capabilities: frozenset[Capability]) -> None:
        self._rng = random.Random(seed)
        pick = self._rng.choice
        self._makers: dict[str, Callable[[], tuple[object, ...]]] = {
            "open": lambda: (pick(NAMES), pick(FLAGS), pick(MODES)),
            "close": lambda: (self._index(),),
            "pwrite": lambda: (self._index(), pick(OFFSETS), self._data()),
            "write": lambda: (self._index(), self._data()),
            "pread": lambda: (self._index(), pick(OFFSETS), pick(OFFSETS)),
            "read": lambda: (self._index(), pick(OFFSETS)),
            "seek_end": lambda: (self._index(),),
            "ftruncate": lambda: (self._index(), pick(OFFSETS)),
            "fstat": lambda: (self._index(),),
            "fsync": lambda: (self._index(),),
            "copy": lambda: (self._index(), self._index(), pick(OFFSETS), pick(OFFSETS)),
            "save": lambda: (pick(NAMES), self._data()),
            "load": lambda: (pick(NAMES),),
            "truncate": lambda: (pick(NAMES), pick(OFFSETS)),
            "mkdir": lambda: (pick(NAMES), pick(MODES)),
            "rmdir": lambda: (pick(NAMES),),
            "unlink": lambda: (pick(NAMES),),
            "rename": lambda: (pick(NAMES), pick(NAMES), pick(RENAMES)),
            "link": lambda: (pick(NAMES), pick(NAMES)),
            "symlink": lambda: (pick(NAMES), pick(NAMES)),
            "mkfifo": lambda: (pick(NAMES),),
            "chmod": lambda: (pick(NAMES), pick(MODES)),
            "chown": lambda: (pick(NAMES), pick((-1, 0, 54321)), pick((-1, 0, 54321))),
            "utime": lambda: (pick(NAMES), self._rng.randrange(-(10**18), 4 * 10**18)),
            "setxattr": lambda: (pick(NAMES), pick(KEYS), self._data()[:200], pick((0, 0, 1, 2))),
            "getxattr": lambda: (pick(NAMES), pick(KEYS)),
            "removexattr": lambda: (pick(NAMES), pick(KEYS)),
            "stat": lambda: (pick(NAMES),),
            "lstat": lambda: (pick(NAMES),),
            "listdir": lambda: (pick((*NAMES, ".")),),
            "readlink": lambda: (pick(NAMES),),
        }
        if Capability.FALLOCATE in capabilities:
            self._makers["fallocate"] = lambda: (
                self._index(),
                pick(ALLOCATIONS),
                pick(OFFSETS),
                pick(OFFSETS),
            )

    def next(self) -> Step:
        """One more step."""
        name = self._rng.choice(list(self._makers))
        return Step(name, self._makers[name]())

    def _index(self) -> int:
        return self._rng.randrange(8)

    def _data(self) -> bytes:
        return self._rng.randbytes(self._rng.choice((0, 1, 100, 4096, 70_000)))


@pytest.mark.parametrize("seed", range(3))
def test_random_calls_have_the_same_outcomes_as_on_a_local_directory(
    place: Path, reference: Path, capabilities: frozenset[Capability], seed: int
) -> None:
    actor, model = Actor(place), Actor(reference)
    script = Script(seed, capabilities)
    history: list[str] = []
    try:
        for number in range(STEP_COUNT):
            step = script.next()
            expected, actual = model.act(step), actor.act(step)
            history.append(f"{_shortened(step)} -> {expected.error or 'ok'}")
            assert actual == expected, _story(history, step)
            if number % COMPARE_EVERY == 0:
                assert describe(place) == describe(reference), _story(history, step)
    finally:
        actor.close_all()
        model.close_all()
    assert describe(place, times=False) == describe(reference, times=False)


def _shortened(step: Step) -> str:
    return f"{step.name}{tuple(a[:10] if isinstance(a, bytes) else a for a in step.arguments)}"


def _story(history: list[str], step: Step) -> str:
    paths = {argument for argument in step.arguments if isinstance(argument, str)}
    related = [line for line in history if not paths or any(repr(path) in line for path in paths)]
    return "\n".join(
        ["the last calls:", *history[-12:], "those on the same names:", *related[-12:]]
    )
