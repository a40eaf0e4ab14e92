"""The judge of histories: it finds what close-to-open forbids, and nothing else."""

from __future__ import annotations

import dataclasses
import errno
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.histories.judge import Judge, judge
from tests.histories.records import ABSENT, Kind, Operation, Recorder, load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LAG_NS = 30_000_000_000


def wrote(begin: int, end: int, value: str, path: str = "f", **fields: object) -> Operation:
    kind = fields.pop("kind", Kind.WRITE)
    assert isinstance(kind, Kind)
    size = len(value)
    return Operation(kind, "writer", "w", path, begin, end, value, size=size)._replace(**fields)  # type: ignore[arg-type]


def uploaded(end: int, path: str = "f") -> Operation:
    return Operation(Kind.UPLOADED, "writer", "w", path, end, end)


def removed(begin: int, end: int, path: str = "f") -> Operation:
    return Operation(Kind.UNLINK, "writer", "w", path, begin, end)


def made(begin: int, end: int, path: str) -> Operation:
    return Operation(Kind.MKDIR, "writer", "w", path, begin, end)


def moved(begin: int, end: int, path: str, target: str, error: str = "") -> Operation:
    return Operation(Kind.MOVE, "writer", "w", path, begin, end, error=error, target=target)


def switched(begin: int, end: int, path: str, target: str) -> Operation:
    return Operation(Kind.SWITCH, "writer", "w", path, begin, end, target=target)


RELEASES = [
    *(made(1, 2, "v0"), made(1, 2, "v1")),
    *(wrote(3, 4, "a", path="v0/t"), wrote(3, 4, "b", path="v1/t")),
    *(wrote(3, 4, "x", path="v0/x"), wrote(3, 4, "y", path="v1/y")),
    switched(5, 6, "now", "v0"),
]
"""Two directories, and a symlink to the first one."""


def read(begin: int, end: int, value: str, path: str = "f", node: str = "reader") -> Operation:
    return Operation(Kind.READ, node, f"r-{node}", path, begin, end, value)


def failed(begin: int, end: int, error: str, path: str = "f") -> Operation:
    return Operation(Kind.READ, "reader", "r", path, begin, end, error=error)


def missed(begin: int, end: int, path: str = "f") -> Operation:
    return failed(begin, end, ABSENT, path)


def listed(begin: int, end: int, *names: str, path: str = "") -> Operation:
    return Operation(Kind.LIST, "reader", "r", path, begin, end, names=names)


def asked(begin: int, end: int, size: int) -> Operation:
    return Operation(Kind.STAT, "reader", "r", "f", begin, end, str(size))


def fault(begin: int, end: int, kind: Kind) -> Operation:
    return Operation(kind, "", "faults", "what happened", begin, end)


ALLOWED: dict[str, Sequence[Operation]] = {
    "what was closed before is read": [wrote(1, 2, "a"), read(3, 4, "a")],
    "what is being written is read already": [wrote(1, 9, "a"), read(3, 4, "a")],
    "or not yet": [wrote(1, 2, "a"), wrote(5, 9, "bb"), read(6, 7, "a")],
    "who began before may see what was": [wrote(1, 2, "a"), wrote(5, 6, "bb"), read(4, 9, "a")],
    "who ended after may see what is": [wrote(1, 2, "a"), wrote(5, 6, "bb"), read(4, 9, "bb")],
    "an absent file": [missed(1, 2), wrote(3, 4, "a"), removed(5, 6), missed(7, 8)],
    "one that is being removed": [wrote(1, 2, "a"), removed(5, 8), read(6, 7, "a")],
    "a new file that is not closed yet is refused": [wrote(1, 9, "a"), failed(3, 4, "EBUSY")],
    "a closed file that is not uploaded is refused": [
        wrote(1, 2, "a"), failed(3, 4, "EIO"), uploaded(5), read(6, 7, "a"),
    ],
    "any error while something is broken": [
        wrote(1, 2, "a"), uploaded(3), Operation(Kind.FAULT, "reader", "t", "kill", 5, 9),
        failed(4, 6, "ENOTCONN"), failed(8, 12, "EIO"),
    ],
    "a write cut off: old, new, in part, or not at all": [
        wrote(1, 2, "a"), wrote(3, 4, "bb", error="EIO"), read(5, 6, "a"), read(7, 8, "bb"),
        read(9, 10, "torn"), missed(11, 12), failed(13, 14, "EIO"),
    ],
    "a replacement cut off: both": [
        wrote(1, 2, "a"), wrote(3, 4, "bb", kind=Kind.REPLACE, error="EIO"), read(5, 6, "a"),
        read(7, 8, "bb"),
    ],
    "a listing may see a name that is being made, or not": [
        wrote(1, 2, "a"), wrote(5, 9, "b", path="g"), listed(6, 7, "f"), listed(6, 8, "f", "g"),
    ],
    "a listing of what is being moved": [
        made(1, 2, "d"), wrote(3, 4, "a", path="d/f"), moved(5, 9, "d", "e"),
        listed(6, 7, "d", "e"), listed(6, 8), listed(10, 11, "e"), listed(12, 13, "f", path="e"),
        read(14, 15, "a", path="e/f"), missed(16, 17, "d/f"),
        Operation(Kind.LIST, "reader", "r", "d", 18, 19, error=ABSENT),
    ],
    "a path through a symlink that is switched": [
        *RELEASES, read(7, 8, "a", path="now/t"), switched(9, 12, "now", "v1"),
        read(10, 11, "a", path="now/t"), missed(10, 11, "now/y"), read(10, 14, "b", path="now/t"),
        read(15, 16, "y", path="now/y"), missed(15, 16, "now/x"),
        listed(15, 16, "t", "y", path="now"), listed(15, 16, "v0", "v1", "now"),
    ],
    "names of files that are not in place yet": [listed(1, 2, ".new-f")],
    "a size that lags": [
        wrote(1, 2, "a", kind=Kind.REPLACE), wrote(5, 6, "bb", kind=Kind.REPLACE),
        asked(7, LAG_NS, 1), asked(LAG_NS, LAG_NS + 9, 2),
    ],
    "on the node that writes, a file while it is written": [
        wrote(1, 9, "a"), read(3, 4, "torn", node="writer"), missed(5, 6),
    ],
    "on the node that writes, what other nodes do not know yet": [
        wrote(1, 9, "a", kind=Kind.REPLACE), read(3, 4, "a", node="writer"), missed(5, 6),
    ],
    "a size of a file that was closed just now": [
        wrote(5, 6, "bb", kind=Kind.REPLACE), asked(7, 8, 0),
    ],
    "a size of a file that is being written": [
        wrote(1, 2, "a"), wrote(5, 6, "bb"), asked(7, 8, 0),
    ],
    "where a node is cut off, what was promised": [
        wrote(1, 2, "a"), uploaded(3), fault(4, 9, Kind.CUT), failed(5, 6, "EIO"),
        wrote(7, 8, "bb", error="EIO"), read(10, 11, "a"),
    ],
    "what is lost where another node took over": [
        wrote(1, 2, "a"), uploaded(3), wrote(4, 5, "bb"), fault(6, 7, Kind.TAKE_OVER),
        failed(8, 9, "EIO"), asked(LAG_NS + 8, LAG_NS + 9, 0),
    ],
    "what was being written there, if it came to be": [
        wrote(1, 2, "a"), uploaded(3), wrote(4, 6, "bb", error="ENOTCONN"),
        fault(5, 7, Kind.TAKE_OVER), failed(8, 9, "EIO"), read(10, 11, "bb"),
    ],
}  # fmt: skip

FORBIDDEN: dict[str, tuple[Sequence[Operation], str]] = {
    "a stale read": (
        [wrote(1, 2, "a"), wrote(3, 4, "bb"), read(5, 6, "a")],
        "version 2, was made or told before",
    ),
    "a stale read of a replaced file": (
        [wrote(1, 2, "a"), wrote(3, 4, "bb", kind=Kind.REPLACE), read(5, 6, "a")],
        "made or told before",
    ),
    "a read from the future": (
        [wrote(1, 2, "a"), read(3, 4, "bb"), wrote(5, 6, "bb")],
        "only after it was told",
    ),
    "a read that goes back, on the same node": (
        [wrote(1, 2, "a"), wrote(3, 20, "bb"), read(5, 6, "bb"), read(7, 8, "a")],
        "made or told before",
    ),
    "a read that goes back, on another node": (
        [wrote(1, 2, "a"), wrote(3, 20, "bb"), read(5, 6, "bb"), read(7, 8, "a", node="other")],
        "made or told before",
    ),
    "a missing file": ([wrote(1, 2, "a"), missed(3, 4)], "'a', version 1"),
    "a removed file": ([wrote(1, 2, "a"), removed(3, 4), read(5, 6, "a")], "nothing, version 2"),
    "parts of a file": ([wrote(1, 2, "a"), read(3, 4, "torn")], "no such version was ever made"),
    "an empty file": ([wrote(1, 9, "a"), read(3, 4, "torn")], "no such version was ever made"),
    "parts of a file that was closed, on the node that writes": (
        [wrote(1, 2, "a"), read(3, 4, "torn", node="writer")],
        "no such version was ever made",
    ),
    "an error without a reason": (
        [wrote(1, 2, "a"), uploaded(3), failed(4, 5, "EIO")],
        "nothing was broken",
    ),
    "an error long after a fault": (
        [
            wrote(1, 2, "a"), uploaded(3), Operation(Kind.FAULT, "reader", "t", "kill", 4, 5),
            failed(6, 7, "EIO"),
        ],
        "nothing was broken",
    ),
    "an error of a file whose former version was never uploaded": (
        [wrote(1, 2, "a"), wrote(3, 4, "bb"), uploaded(5), failed(6, 7, "EIO")],
        "nothing was broken",
    ),
    "a listing without a name": ([wrote(1, 2, "a"), listed(3, 4)], "'a', version 1"),
    "a listing with a removed name": (
        [wrote(1, 2, "a"), removed(3, 4), listed(5, 6, "f")],
        "nothing, version 2",
    ),
    "a listing with a name that nobody made": ([listed(1, 2, "f")], "ever made such a name"),
    "a moved directory at its old place": (
        [made(1, 2, "d"), moved(3, 4, "d", "e"), listed(5, 6, "d", "e")],
        "nothing, version 2",
    ),
    "a moved directory at neither place": (
        [made(1, 2, "d"), moved(3, 4, "d", "e"), listed(5, 6)],
        "'directory', version 1",
    ),
    "a file found by the old path": (
        [made(1, 2, "d"), wrote(3, 4, "a", path="d/f"), moved(5, 6, "d", "e"),
         read(7, 8, "a", path="d/f")],
        "nothing, version 2",
    ),
    "a file missing by the new path": (
        [made(1, 2, "d"), wrote(3, 4, "a", path="d/f"), moved(5, 6, "d", "e"),
         missed(7, 8, path="e/f")],
        "'a', version 1",
    ),
    "an error for a file that was uploaded before it moved": (
        [made(1, 2, "d"), wrote(3, 4, "a", path="d/f"), uploaded(5, "d/f"), moved(6, 7, "d", "e"),
         failed(8, 9, "EIO", path="e/f")],
        "nothing was broken",
    ),
    "a move undone after somebody saw it": (
        [made(1, 2, "d"), moved(3, 4, "d", "e", error="EIO"), listed(5, 6, "e"),
         listed(7, 8, "d")],
        "made or told before",
    ),
    "a size that lags too long": (
        [wrote(1, 2, "a", kind=Kind.REPLACE), wrote(5, 6, "bb", kind=Kind.REPLACE),
         asked(LAG_NS + 7, LAG_NS + 9, 1)],
        "made or told before",
    ),
    "an error of which nobody was told, where a node is cut off": (
        [wrote(1, 2, "a"), fault(3, 9, Kind.CUT), failed(4, 5, "ETIMEDOUT")],
        "no such error is promised",
    ),
    "one of a change": (
        [wrote(1, 2, "a"), fault(3, 9, Kind.CUT), wrote(4, 5, "bb", error="EROFS")],
        "no such error is promised",
    ),
    "what a symlink led to before": (
        [*RELEASES, switched(9, 12, "now", "v1"), read(13, 14, "a", path="now/t")],
        "0.000 ms after it was replaced",
    ),
    "a name that only the directory lacks that it led to before": (
        [*RELEASES, switched(9, 12, "now", "v1"), missed(13, 14, "now/y")],
        "version 1, was made or told before",
    ),
    "an operation without an end": (
        [wrote(1, 2, "a"), fault(3, 99, Kind.CUT), failed(4, 55, "EIO")],
        "it took",
    ),
    "what was there before, where another node took over": (
        [wrote(1, 2, "a"), uploaded(3), wrote(4, 5, "bb"), fault(6, 7, Kind.TAKE_OVER),
         read(8, 9, "a")],
        "made or told before",
    ),
    "an empty file, where it was being written": (
        [wrote(1, 2, "a"), uploaded(3), wrote(4, 6, "bb", error="ENOTCONN"),
         fault(5, 7, Kind.TAKE_OVER), read(8, 9, "torn")],
        "no such version was ever made",
    ),
    "an error of what was uploaded before": (
        [wrote(1, 2, "a"), uploaded(3), fault(4, 5, Kind.TAKE_OVER), failed(6, 7, "EIO")],
        "nothing was broken",
    ),
    "another size of what was uploaded before": (
        [wrote(1, 2, "a"), uploaded(3), fault(4, 5, Kind.TAKE_OVER),
         asked(LAG_NS + 8, LAG_NS + 9, 0)],
        "no such version was ever made",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed(name: str) -> None:
    assert judge(ALLOWED[name]) == []


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_is_forbidden(name: str) -> None:
    history, reason = FORBIDDEN[name]
    violations = Judge(history, limit_ns=50).run()
    assert violations
    assert reason in str(violations[0])


def test_one_path_is_changed_by_one_program() -> None:
    """The order of the changes of two is not known."""
    with pytest.raises(AssertionError, match="is changed by w and v"):
        judge([wrote(1, 2, "a"), wrote(3, 4, "bb", program="v")])


# --- histories of a directory that does all at once ---------------------------------------------
@dataclasses.dataclass
class Instants:
    """A true directory: each operation takes place at one instant between its begin and its end."""

    changes: list[tuple[int, Operation]] = dataclasses.field(default_factory=list)

    def value(self, path: str, instant: int) -> str | None:
        """Return what is under a path at an instant."""
        found = None
        for at, change in self.changes:
            if at <= instant and change.path == path:
                found = None if change.kind == Kind.UNLINK else change.value
        return found


PATHS = ("f", "g")
_STEP = st.tuples(
    st.sampled_from(PATHS),
    st.sampled_from([Kind.WRITE, Kind.REPLACE, Kind.UNLINK]),
    *(st.integers(0, 3) for _ in range(3)),
)
_LOOK = st.tuples(
    st.sampled_from(PATHS),
    st.sampled_from([Kind.READ, Kind.STAT, Kind.LIST]),
    st.integers(0, 60),
    *(st.integers(0, 5) for _ in range(2)),
)


def true_history(steps: Sequence[tuple[str, Kind, int, int, int]],
                 looks: Sequence[tuple[str, Kind, int, int, int]]) -> list[Operation]:  # fmt: skip
    """Return a history whose operations took place at instants, 2 apart, between all others."""
    truth, history, now = Instants(), [], 0
    for number, (path, kind, wait, before, after) in enumerate(steps):
        begin = now + 2 * wait + 1
        instant, end = begin + 2 * before + 1, begin + 2 * before + 2 * after + 2
        now = end
        written = "" if kind == Kind.UNLINK else "x" * (number + 1)
        change = Operation(kind, "writer", "w", path, begin, end, written, size=len(written))
        truth.changes.append((instant, change))
        history.append(change)
    for path, kind, at, before, after in looks:
        instant = 2 * at
        begin, end = instant - before, instant + after
        looked = Operation(kind, f"reader-{at % 2}", "r", path, begin, end)
        value = truth.value(path, instant)
        if kind == Kind.LIST:
            names = tuple(each for each in PATHS if truth.value(each, instant) is not None)
            history.append(looked._replace(path="", names=names))
        elif value is None:
            history.append(looked._replace(error=ABSENT))
        else:
            told = value if kind == Kind.READ else str(len(value))
            history.append(looked._replace(value=told))
    return history


@given(st.lists(_STEP, max_size=12), st.lists(_LOOK, max_size=12))
def test_a_directory_that_does_all_at_once_is_never_blamed(
    steps: list[tuple[str, Kind, int, int, int]], looks: list[tuple[str, Kind, int, int, int]]
) -> None:
    assert list(map(str, judge(true_history(steps, looks)))) == []


@given(
    st.lists(_STEP, min_size=2, max_size=12),
    st.lists(_LOOK, max_size=12),
    st.data(),
)
def test_a_planted_stale_read_is_found(
    steps: list[tuple[str, Kind, int, int, int]],
    looks: list[tuple[str, Kind, int, int, int]],
    data: st.DataObject,
) -> None:
    """Another version had taken the place of what it told before it began."""
    history = true_history(steps, looks)
    pairs = [
        (former, later)
        for number, former in enumerate(history)
        for later in history[number + 1 :]
        if former.kind in (Kind.WRITE, Kind.REPLACE)
        and later.kind in (Kind.WRITE, Kind.REPLACE, Kind.UNLINK)
        and former.path == later.path
    ]
    if not pairs:
        return
    former, later = data.draw(st.sampled_from(pairs))
    begin = later.end_ns + 1 + data.draw(st.integers(0, 9))
    stale = read(begin, begin + 3, former.value, former.path)
    assert [each.operation for each in judge([*history, stale])] == [stale]


def test_a_history_is_written_and_read_back(tmp_path: Path) -> None:
    """But for a line that a kill has cut."""
    times = iter(range(100))
    recorder = Recorder(tmp_path / "history", "writer", "w", lambda: next(times))

    def refuse() -> None:
        raise OSError(errno.EBUSY, "busy")

    operations = [
        recorder.do(Kind.WRITE, "f", lambda: None, value="a", size=1),
        recorder.do(Kind.READ, "f", lambda: "a"),
        recorder.do(Kind.LIST, "", lambda: ["g", "f"]),
        recorder.do(Kind.READ, "f", refuse),
    ]
    recorder.close()
    with (tmp_path / "history").open("a") as file:
        file.write('["read", "writer"')
    assert load([tmp_path / "history"]) == operations
    assert [each.error for each in operations] == ["", "", "", "EBUSY"]
    assert operations[2].names == ("f", "g")
    assert [(each.begin_ns, each.end_ns) for each in operations] == [(0, 1), (2, 3), (4, 5), (6, 7)]
