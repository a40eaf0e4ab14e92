"""Learning: what programs opened, told to the predictor, and its guesses as files.

Invariant: a step is bounded, and nothing is looked at while programs open nothing. What was learned
is in the engine's settings, from one run of the daemon to the next.
"""

from __future__ import annotations

import logging
import stat
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.bounded import BoundedDict
from memfs.errors import MemfsError
from memfs.linux.processes import thread_group
from memfs.prediction.accesses import Access
from memfs.prediction.listings import LISTED_COUNT_MAX
from memfs.prediction.storing import SETTING_NAMES, dump, restore

if TYPE_CHECKING:
    from memfs.content.activity import Opening
    from memfs.placement.context import Context
    from memfs.prediction.accesses import Guess
    from memfs.prediction.predictor import Predictor
    from memfs.types import InodeNo

log = logging.getLogger(__name__)

OPENS_A_STEP = 256
"""Opens looked at in one step, the latest: some 10 ms. In an overload only these teach."""

ENTRIES_A_SLICE = 256
"""Directory entries or guesses between two checkpoints: about 2 ms."""

PROCESS_COUNT_MAX = 1024
"""Threads whose process is remembered."""

SAVE_S = 300.0
"""What was learned is stored so often, if there is news, and at the end."""


class Issued(NamedTuple):
    """A guess at a file that exists."""

    ino: InodeNo
    sources: int
    """Bits of `Source`."""
    time_ns: int
    """Wall clock of the access that it follows from."""


class Learner:
    """Feeds the predictor of one mount.

    Args:
        predictor: Learns and guesses.
    """

    def __init__(self, context: Context, predictor: Predictor) -> None:
        self._engine = context.engine
        self._activity = context.activity
        self._predictor = predictor
        self._processes: BoundedDict[int, int] = BoundedDict(PROCESS_COUNT_MAX)
        self.learned_count = 0
        """Accesses that the predictor was told of."""
        self._saved_count = 0
        self._saved_s = 0.0

    async def learn(self) -> list[Issued]:
        """Take what was opened since the last step; returns the new guesses, in order."""
        issued: list[Issued] = []
        directories: dict[InodeNo, int] = {}
        for opening in self._activity.take_opens(OPENS_A_STEP):
            access = await self._resolve(opening)
            if access is None:
                continue
            directories[access.directory] = access.time_ns
            self.learned_count += 1
            issued += await self._issue(self._predictor.observe(access), access.time_ns)
        for directory, time_ns in directories.items():
            await self._check_listing(directory, time_ns)
        for directory in self._predictor.take_listing_wanted():
            await self._list(directory, directories.get(directory, 0))
        return issued

    async def _resolve(self, opening: Opening) -> Access | None:
        """Return what was opened, by name; None if it has gone."""
        try:
            dentry = await self._engine.get_dentry(opening.ino)
        except MemfsError:
            return None
        if dentry is None:
            return None
        directory, name = dentry
        process = self._process_of(opening.pid)
        return Access(directory, name, opening.ino, opening.uid, process, opening.time_ns)

    def _process_of(self, thread: int) -> int:
        """Return the process of a thread, as it was when it was first seen."""
        if not thread:
            return 0
        process = self._processes.touch(thread)
        if process is None:
            process = self._processes[thread] = thread_group(thread)
        return process

    async def _issue(self, guesses: list[Guess], time_ns: int) -> list[Issued]:
        """Return the guesses that name a file and are new."""
        found = []
        for count, guess in enumerate(guesses, start=1):
            if count % ENTRIES_A_SLICE == 0:
                await trio.lowlevel.checkpoint()
            ino = await self._find(guess)
            if ino is not None and self._predictor.scores.issue(guess.sources, ino, time_ns):
                found.append(Issued(ino, guess.sources, time_ns))
        return found

    async def _find(self, guess: Guess) -> InodeNo | None:
        """Return the regular file that a guess names, if there is one."""
        try:
            if guess.name:
                inode = await self._engine.lookup(guess.directory, guess.name)
            else:
                inode = await self._engine.get_inode(guess.ino)
        except MemfsError:
            return None
        return inode.ino if stat.S_ISREG(inode.mode) else None

    # --- the order of directories ----------------------------------------------------------------
    async def _check_listing(self, directory: InodeNo, time_ns: int) -> None:
        try:
            inode = await self._engine.get_inode(directory)
        except MemfsError:
            return
        self._predictor.check_listing(directory, inode.mtime_ns, time_ns)

    async def _list(self, directory: InodeNo, time_ns: int) -> None:
        """Tell the predictor the order of a directory, unless it is a huge one."""
        names: list[bytes] = []
        cookie = 0
        try:
            version = (await self._engine.get_inode(directory)).mtime_ns
            while entries := await self._engine.list_directory(directory, cookie, ENTRIES_A_SLICE):
                names += [entry.name for entry in entries if stat.S_ISREG(entry.inode.mode)]
                if len(names) > LISTED_COUNT_MAX:
                    break
                cookie = entries[-1].cookie
                await trio.lowlevel.checkpoint()
        except MemfsError:
            # It was removed meanwhile.
            return
        self._predictor.learn_listing(directory, names, version, time_ns)

    # --- what was learned ------------------------------------------------------------------------
    @property
    def save_due_s(self) -> float:
        """When `save` is due, by the clock of trio; infinite while there is no news."""
        is_new = self.learned_count != self._saved_count
        return self._saved_s + SAVE_S if is_new else float("inf")

    async def load(self) -> None:
        """Restore what an earlier daemon learned; what is damaged is left out."""
        self._saved_s = trio.current_time()
        for name in SETTING_NAMES:
            value = await self._engine.get_setting(name)
            if value is None:
                continue
            try:
                restore(self._predictor, name, value)
            except MemfsError as error:
                log.info("prediction begins anew in part: %s", error)

    async def save(self) -> None:
        """Store what was learned since the last time."""
        self._saved_s = trio.current_time()
        if self.learned_count == self._saved_count:
            return
        self._saved_count = self.learned_count
        try:
            for name, value in dump(self._predictor):
                async with self._engine.change():
                    await self._engine.put_setting(name, value)
                await trio.lowlevel.checkpoint()
        except MemfsError as error:
            log.info("what prediction has learned could not be stored: %s", error)
