"""Judge: tells which results of a history close-to-open does not allow.

One node writes, others read. Each path is a register: what was under it, version by version, in the
order of the program that changed it (a path belongs to one program). A version is a value, or that
nothing is there. Who reads may be told a version that

1. had begun when the reading ended;
2. is not older than the last one whose change had ended when the reading began; and
3. is not older than what somebody had been told, on a node that reads, before that.

A change of which the program does not know whether it has come to be is a version that may be told,
and need not. An error is allowed while there is a reason for it: a version of that path that is
being made or is not in the object store yet, or a fault. Where a node was cut off, it is one of
those that users were promised. What a take-over has lost is an error from then on, and never what
was there before. No operation takes longer than all its waits.

Invariant: what a mount that keeps its promise can do is never called a violation, whatever the
order of events of which the history does not tell.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from tests.histories.records import ABSENT, CHANGES, FAULTS, Kind, Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

STAT_LAG_NS = 30_000_000_000
"""`stat` of a name that the kernel has cached may tell what was so long ago. The promise is 0.25 s
while the database answers; on a busy machine no clock can tell that from a slow program. What this
finds is a cache that nobody told."""

CUT_ERRORS = frozenset({"EIO", "EBUSY", "ESTALE"})
"""What who reads a file may be told where something is cut off."""
CHANGE_ERRORS = frozenset({"EIO"})
"""And who changes something."""

ANY = "any"
"""The value of a file that was being written when the daemon was killed."""
DIRECTORY = "directory"
_MISSING = None


class Version(NamedTuple):
    """What was under a path for a while."""

    value: str | None
    """None: nothing."""
    size: int
    begin_ns: float
    end_ns: float
    """When its change had ended; infinite: nobody knows whether it was made."""
    program: str
    node: str = ""
    """On which it was made."""
    in_place: bool = False
    """The file itself was written: on its node, programs see that part by part."""


class Violation(NamedTuple):
    """A result that is not allowed."""

    operation: Operation
    path: str
    reason: str

    def __str__(self) -> str:
        """Return a sentence for people."""
        done = self.operation
        told = done.error or done.value or ", ".join(done.names)
        return (
            f"{done.program} on {done.node}: {done.kind} of {self.path} from {done.begin_ns} to "
            f"{done.end_ns} told {told!r}: {self.reason}"
        )


class _Register:
    """The versions of one path, and what was told of it."""

    def __init__(self) -> None:
        self.versions = [Version(_MISSING, 0, -math.inf, -math.inf, "")]
        self.uploaded_ns: dict[int, float] = {}
        """When it was known that a version is in the store."""
        self._told_ends: list[float] = []
        """Ends of what was told, in order, with the newest version that was told by then."""
        self._told: list[int] = []

    def add(self, version: Version) -> None:
        """Add a version."""
        self.versions.append(version)

    def least(self, begin_ns: float) -> int:
        """Return the oldest version that may be told to who begins to read then, by rule 2."""
        for number in range(len(self.versions) - 1, -1, -1):
            if self.versions[number].end_ns < begin_ns:
                return number
        raise AssertionError("the first version has no beginning")

    def seen(self, begin_ns: float) -> int:
        """Return the newest version that somebody was told before."""
        at = bisect.bisect_left(self._told_ends, begin_ns)
        return self._told[at - 1] if at else 0

    def tell(self, end_ns: float, number: int) -> None:
        """Somebody was told a version."""
        at = bisect.bisect_right(self._told_ends, end_ns)
        number = max(number, self._told[at - 1]) if at else number
        self._told_ends.insert(at, end_ns)
        self._told.insert(at, number)
        for later in range(at + 1, len(self._told)):
            if self._told[later] >= number:
                break
            self._told[later] = number

    def is_unsettled(self, begin_ns: float, end_ns: float) -> bool:
        """Return whether a version was being made or uploaded between two times."""
        for number, version in enumerate(self.versions[1:], start=1):
            settled_ns = version.end_ns
            if version.value not in (_MISSING, DIRECTORY) and version.size:
                settled_ns = max(settled_ns, self.uploaded_ns.get(number, math.inf))
            later = self.versions[number + 1 :]
            # What has taken its place was made by then, and is not waited for any longer.
            settled_ns = min([settled_ns, *(each.end_ns for each in later)])
            if version.begin_ns <= end_ns and settled_ns >= begin_ns:
                return True
        return False


class Judge:
    """Judges one history.

    Args:
        operations: What all programs did.
        stat_lag_ns: As `STAT_LAG_NS`.
        limit_ns: Longer than all that an operation may wait for.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        *,
        stat_lag_ns: int = STAT_LAG_NS,
        limit_ns: float = math.inf,
    ) -> None:
        self._operations = sorted(operations, key=lambda each: each.begin_ns)
        self._stat_lag_ns = stat_lag_ns
        self._limit_ns = limit_ns
        self._registers: defaultdict[str, _Register] = defaultdict(_Register)
        self._children: defaultdict[str, dict[str, None]] = defaultdict(dict)
        """Names that a directory has had, by its path."""
        self._faults = [each for each in self._operations if each.kind in FAULTS]
        self.observed_count = 0
        """Results that were compared."""
        self.error_count = 0
        """Errors, all of them with a reason."""

    def run(self) -> list[Violation]:
        """Return what is not allowed."""
        for operation in self._operations:
            if operation.kind in CHANGES or operation.kind == Kind.UPLOADED:
                self._change(operation)
        violations: list[Violation] = []
        for operation in self._operations:
            violations += self._observe_failure(operation)
            if operation.kind in (Kind.READ, Kind.STAT, Kind.LIST):
                violations += self._observe(operation)
        return violations

    # --- what was changed ------------------------------------------------------------------------
    def _change(self, done: Operation) -> None:
        end_ns = math.inf if done.error else done.end_ns
        match done.kind:
            case Kind.UPLOADED if not done.error:
                register = self._registers[done.path]
                register.uploaded_ns[len(register.versions) - 1] = done.end_ns
            case Kind.WRITE:
                # Cut off, the file has what the program had written by then; who takes over tells
                # of a file that is not whole by an error.
                is_lost = any(each.kind == Kind.TAKE_OVER for each in self._faults_during(done))
                value = ANY if done.error and not is_lost else done.value
                self._add(done, done.path, value, done.size, end_ns, in_place=True)
            case Kind.REPLACE:
                self._add(done, done.path, done.value, done.size, end_ns)
            case Kind.UNLINK:
                self._add(done, done.path, _MISSING, 0, end_ns)
            case Kind.MKDIR:
                self._add(done, done.path, DIRECTORY, 0, end_ns)
            case Kind.MOVE:
                self._move(done, end_ns)
            case Kind.SWITCH:
                self._switch(done, end_ns)

    def _add(
        self,
        done: Operation,
        path: str,
        value: str | None,
        size: int,
        end_ns: float,
        *,
        in_place: bool = False,
    ) -> None:
        register = self._registers[path]
        owner = register.versions[-1].program
        assert owner in ("", done.program), f"{path} is changed by {owner} and {done.program}"
        register.add(Version(value, size, done.begin_ns, end_ns, done.program, done.node, in_place))
        directory, _, name = path.rpartition("/")
        self._children[directory].setdefault(name)

    def _move(self, done: Operation, end_ns: float) -> None:
        below = [path for path in self._registers if path.startswith(f"{done.path}/")]
        for path in [done.path, *below]:
            version = self._registers[path].versions[-1]
            if version.value is _MISSING:
                continue
            target = done.target + path.removeprefix(done.path)
            number = len(self._registers[path].versions) - 1
            uploaded_ns = self._registers[path].uploaded_ns.get(number)
            self._add(done, path, _MISSING, 0, end_ns)
            self._add(done, target, version.value, version.size, end_ns)
            if uploaded_ns is not None:
                moved = self._registers[target]
                moved.uploaded_ns[len(moved.versions) - 1] = uploaded_ns

    def _switch(self, done: Operation, end_ns: float) -> None:
        self._add(done, done.path, DIRECTORY, 0, end_ns)
        for name in {**self._children[done.path], **self._children[done.target]}:
            register = self._registers[f"{done.target}/{name}"]
            version = register.versions[-1]
            path = f"{done.path}/{name}"
            self._add(done, path, version.value, version.size, end_ns)
            uploaded_ns = register.uploaded_ns.get(len(register.versions) - 1)
            if uploaded_ns is not None:
                led = self._registers[path]
                led.uploaded_ns[len(led.versions) - 1] = uploaded_ns

    # --- what was told ---------------------------------------------------------------------------
    def _faults_during(self, done: Operation) -> list[Operation]:
        return [
            fault
            for fault in self._faults
            if fault.begin_ns <= done.end_ns and fault.end_ns >= done.begin_ns
        ]

    def _observe_failure(self, done: Operation) -> Iterator[Violation]:
        """Find an operation that took too long, or an error that nobody was promised."""
        if done.kind in FAULTS or done.kind == Kind.UPLOADED:
            return
        lasted_s = (done.end_ns - done.begin_ns) / 1e9
        if done.end_ns - done.begin_ns > self._limit_ns:
            limit_s = self._limit_ns / 1e9
            yield Violation(done, done.path, f"it took {lasted_s:.1f} s of at most {limit_s:g} s")
        faults = self._faults_during(done)
        if not done.error or not faults or any(each.kind != Kind.CUT for each in faults):
            return
        allowed = CHANGE_ERRORS if done.kind in CHANGES else CUT_ERRORS | {ABSENT}
        if done.error not in allowed:
            yield Violation(done, done.path, "no such error is promised where a node is cut off")

    def _observe(self, done: Operation) -> Iterator[Violation]:
        if done.kind == Kind.LIST:
            yield from self._observe_listing(done)
            return
        register = self._registers[done.path]
        if done.error and done.error != ABSENT:
            yield from self._excuse(done, done.path, register)
            return

        def matches(version: Version) -> bool:
            if done.error:
                return version.value in (_MISSING, ANY)
            if done.kind == Kind.STAT:
                if version.value is _MISSING:
                    return False
                # The size comes with the seal, a while after the file was closed; or never, where
                # only the seal told it.
                is_new = version.end_ns + self._stat_lag_ns >= done.begin_ns
                return is_new or str(version.size) == done.value or self._is_lost(register, version)
            return version.value in (done.value, ANY)

        yield from self._compare(done, done.path, register, matches)

    def _observe_listing(self, done: Operation) -> Iterator[Violation]:
        directory = self._registers[done.path] if done.path else None
        if done.error:
            if done.error == ABSENT and directory is not None:
                yield from self._compare(
                    done, done.path, directory, lambda version: version.value is _MISSING
                )
            else:
                yield from self._excuse(done, done.path, directory or _Register())
            return
        prefix = f"{done.path}/" if done.path else ""
        names = {name for name in done.names if not name.startswith(".")}
        known = self._children[done.path]
        for name in known:
            path = f"{prefix}{name}"
            fits = _is_named if name in names else _is_not_named
            yield from self._compare(done, path, self._registers[path], fits)
        for name in sorted(names - known.keys()):
            yield Violation(done, f"{prefix}{name}", "nobody has ever made such a name")

    def _is_lost(self, register: _Register, version: Version) -> bool:
        """Return whether a take-over may have lost the bytes of a version."""
        number = register.versions.index(version)
        stored_ns = register.uploaded_ns.get(number, math.inf)
        return any(
            fault.kind == Kind.TAKE_OVER and version.begin_ns <= fault.end_ns <= stored_ns
            for fault in self._faults
        )

    def _compare(
        self,
        done: Operation,
        path: str,
        register: _Register,
        matches: Callable[[Version], bool],
    ) -> Iterator[Violation]:
        """Find a version that may be told and was; the oldest, which forbids least afterwards."""
        self.observed_count += 1
        versions = register.versions
        is_stat = done.kind == Kind.STAT
        begin_ns = done.begin_ns - (self._stat_lag_ns if is_stat else 0)
        least = max(register.least(begin_ns), register.seen(begin_ns))
        for number in range(least, len(versions)):
            if versions[number].begin_ns > done.end_ns:
                break
            version = versions[number]
            if _is_watched(version, done) or matches(version):
                # On its own node a change is seen before it has ended.
                if not is_stat and done.node != version.node:
                    register.tell(done.end_ns, number)
                return
        yield Violation(done, path, _reason(versions, least, done, matches))

    def _excuse(self, done: Operation, path: str, register: _Register) -> Iterator[Violation]:
        self.error_count += 1
        if self._faults_during(done) or register.is_unsettled(done.begin_ns, done.end_ns):
            return
        yield Violation(
            done, path, "the file was closed and uploaded, and nothing was broken meanwhile"
        )


def _is_watched(version: Version, done: Operation) -> bool:
    """Return whether a file was written in place, on the same node, while it was looked at."""
    return version.in_place and version.node == done.node and version.end_ns >= done.begin_ns


def _is_named(version: Version) -> bool:
    return version.value is not _MISSING


def _is_not_named(version: Version) -> bool:
    return version.value in (_MISSING, ANY)


def _reason(
    versions: Sequence[Version],
    least: int,
    done: Operation,
    matches: Callable[[Version], bool],
) -> str:
    """Say why no version fits."""
    fitting = [number for number, version in enumerate(versions) if matches(version)]
    expected = versions[least]
    what = "nothing" if expected.value is _MISSING else repr(expected.value)
    if not fitting:
        return f"no such version was ever made; {what} is the oldest that may be told"
    older = [number for number in fitting if number < least]
    if not older:
        return f"that is version {fitting[0]}, which was made only after it was told"
    late_ms = (done.begin_ns - versions[older[-1] + 1].end_ns) / 1e6
    late = f", {late_ms:.3f} ms after it was replaced" if math.isfinite(late_ms) else ""
    return f"that is version {older[-1]}{late}; {what}, version {least}, was made or told before"


def judge(operations: Iterable[Operation]) -> list[Violation]:
    """Return what a history must not have."""
    return Judge(operations).run()
