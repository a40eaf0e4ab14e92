"""The reader: a process that answers what takes too long for the event loop.

It is started by the first question, serves one at a time, and ends when it has been idle for long,
with the mount, or with the daemon.

Invariant: while it reads, the engine knows that the log of the tables cannot start over; and a
question gets its answer or an error within the deadline.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import trio

from memfs.errors import MetadataError, NotFoundError, QueryTimeoutError
from memfs.metadata.records import EVERYTHING, FileOrder, FilePage, FilePosition, Scope
from memfs.metadata.sqlite.reader import GRACE_S
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from memfs.metadata.records import ExportPosition
    from memfs.metadata.sqlite.engine import SqliteEngine
    from memfs.metadata.sqlite.tree_totals import Order
    from memfs.types import InodeNo, SnapshotId

BUDGET_S = 10.0
"""That of one page. The log of the tables grows meanwhile, with the changes of programs."""

START_S_MAX = 10.0
"""Beyond the budget: to start the process on a loaded machine. Guess."""

IDLE_S_MAX = 60.0
"""A process that had no question for so long is ended; starting takes some 0.2 s. Guess."""

_PUBLISH_PAUSE_S = 0.01
_RECEIVE_BYTES = 64 << 10


class ReaderProcess:
    """Finds files by a process of its own.

    Args:
        state_dir: Where the tables are.
        environment: That of the process.
        budget_s: How long a page may take.
    """

    def __init__(
        self,
        engine: SqliteEngine,
        state_dir: Path,
        environment: Mapping[str, str],
        budget_s: float = BUDGET_S,
    ) -> None:
        self._engine = engine
        self._state_dir = state_dir
        self._environment = dict(environment)
        self._budget_s = budget_s
        self._process: trio.Process | None = None
        self._lock = trio.Lock()
        self._used_s = 0.0
        self._is_ended = False
        self._starts = Signal()

    async def run(self) -> None:
        """End a process that is idle, and any at the end; a task of the mount."""
        # A defect may have ended this task, which is begun anew then.
        self._is_ended = False
        try:
            while True:
                seen = self._starts.count
                if self._process is None:
                    # A mount that is never asked is never woken for this.
                    await self._starts.wait(seen)
                await trio.sleep(IDLE_S_MAX / 4)
                if trio.current_time() - self._used_s >= IDLE_S_MAX and not self._lock.locked():
                    await self._end()
        finally:
            self._is_ended = True
            await self._end()

    async def find_files(
        self,
        text: str,
        order: FileOrder | None,
        after: FilePosition | None,
        limit: int,
        scope: Scope = EVERYTHING,
    ) -> FilePage:
        """Return a page, as `Queries.find_files`, of the state of now.

        Args:
            text: The filter in JSON.
            order: As there.
            after: As there.
            limit: As there.
            scope: As there.

        Raises:
            NotFoundError: The snapshot is gone.
            QueryTimeoutError: It takes too long.
            MetadataError: The process cannot be used.
        """
        caller = scope.caller
        async with self._lock:
            await self.publish()
            request: dict[str, object] = {
                "filter": text,
                "order": order,
                "after": after,
                "limit": limit,
                "scope": [scope.snap, None if caller is None else [*caller[:2], [*caller.groups]]],
                "budget_s": self._budget_s,
            }
            self._engine.note_reader(is_there=True)
            try:
                answer = await self._ask(request)
            finally:
                self._engine.note_reader(is_there=False)
                self._used_s = trio.current_time()
        if answer.get("late"):
            raise self._too_late()
        if "gone" in answer:
            raise NotFoundError(answer["gone"])
        if "error" in answer:
            raise MetadataError(f"the query failed: {answer['error']}")
        position = answer["after"]
        return FilePage(
            answer["inos"],
            None if position is None else FilePosition(*position),
            answer["is_exact"],
            answer["driver"],
        )

    async def read_totals(self, directory: InodeNo, order: Order, limit: int) -> dict[str, Any]:
        """Return what a directory holds, with the sums of all below it; see `tree_totals`.

        Args:
            directory: Its inode.
            order: As of `tree_totals.read_totals`.
            limit: At most so many names.

        Raises:
            QueryTimeoutError: It takes too long.
            MetadataError: The process cannot be used.
        """
        request: dict[str, object] = {
            "tree": directory,
            "order": order,
            "limit": limit,
            "budget_s": self._budget_s,
        }
        async with self._lock:
            await self.publish()
            self._engine.note_reader(is_there=True)
            try:
                answer = await self._ask(request)
            finally:
                self._engine.note_reader(is_there=False)
                self._used_s = trio.current_time()
        if answer.get("late"):
            raise QueryTimeoutError(
                f"the directory has more names than are read in {self._budget_s:g} s"
            )
        if "error" in answer:
            raise MetadataError(f"the directory cannot be summed up: {answer['error']}")
        return answer

    async def read_parts(
        self, table: str, snap: SnapshotId, after: ExportPosition, paths: Sequence[Path]
    ) -> dict[str, Any]:
        """Have the next parts of an export written into files.

        Args:
            table: As of `exporting.read_page`.
            snap: The snapshot, which `publish` has brought into the tables.
            after: As there.
            paths: Those of two new files below the state directory.

        Returns:
            The fields of `exporting.Page`, each part with its size instead of its bytes.

        Raises:
            MetadataError: It cannot be done.
        """
        request: dict[str, object] = {
            "export": table,
            "snap": snap,
            "after": after,
            "paths": [str(path) for path in paths],
            "budget_s": self._budget_s,
        }
        async with self._lock:
            self._engine.note_reader(is_there=True)
            try:
                answer = await self._ask(request)
            except QueryTimeoutError:
                raise MetadataError(
                    f"a part of the export takes longer than {self._budget_s:g} s, or has ended "
                    "the reader process"
                ) from None
            finally:
                self._engine.note_reader(is_there=False)
                self._used_s = trio.current_time()
        if "error" in answer:
            raise MetadataError(f"the tables cannot be exported: {answer['error']}")
        return answer

    async def publish(self) -> None:
        """Bring all changes so far into the tables, for whatever reads them.

        Raises:
            NoSpaceError, MetadataError: That cannot be.
        """
        # The checkpointer is a thread, which tells nobody when it is done.
        while not self._engine.publish():  # noqa: ASYNC110
            await trio.sleep(_PUBLISH_PAUSE_S)

    async def _ask(self, request: dict[str, object]) -> dict[str, Any]:
        """Send a request and return its answer; a process that fails is ended."""
        is_answered = False
        try:
            with trio.fail_after(self._budget_s + GRACE_S + START_S_MAX):
                process = await self._started()
                assert process.stdin is not None
                assert process.stdout is not None
                await process.stdin.send_all(json.dumps(request).encode() + b"\n")
                answer = bytearray()
                while not answer.endswith(b"\n"):
                    received = await process.stdout.receive_some(_RECEIVE_BYTES)
                    if not received:
                        # By the alarm, or for want of memory.
                        raise self._too_late()
                    answer += received
            is_answered = True
            return json.loads(answer)  # type: ignore[no-any-return]  # it is the reader's
        except (trio.TooSlowError, trio.BrokenResourceError):
            raise self._too_late() from None
        except OSError as error:
            raise MetadataError(f"the reader of the tables cannot be started: {error}") from error
        finally:
            if not is_answered:
                await self._end()

    def _too_late(self) -> QueryTimeoutError:
        return QueryTimeoutError(
            f"the query takes longer than {self._budget_s:g} s: add a condition on an xattr that "
            "few files meet, or a simpler pattern"
        )

    async def _started(self) -> trio.Process:
        if self._is_ended:
            raise MetadataError("the mount ends")
        if self._process is None or self._process.returncode is not None:
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "memfs.metadata.sqlite.reader", str(self._state_dir)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # What goes wrong there is told by its end.
                stderr=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,
            )
            self._starts.set()
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with trio.CancelScope(shield=True):
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()
            await process.wait()
