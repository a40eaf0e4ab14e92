"""The feed: one look at the mount a second, for all pages that are open.

Invariant: a mount is asked by one call at a time, and by no call while nobody looks; a daemon that
does not answer is an entry of the feed like any other.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import anyio.to_thread

from memfs.errors import MemfsError
from memfs.exit_codes import ExitCode
from memfs_tools.live.sampling import Sample, as_json, rates, take_sample
from memfs_tools.mounts import require_mount
from memfs_tools.web.names import id_of, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

INTERVAL_S = 1.0
VIEWERS_MAX = 32
"""Pages that are open at the same time; guess."""

_MOVED = re.compile(r"^memfs_moved_bytes_total\{(.+)\} ([0-9.e+]+)$", re.MULTILINE)
_LABEL = re.compile(r'(?:^|,)(source|target)="(\w+)"')
"""Quotation marks in the values of other labels have a backslash before them."""


class _Look(NamedTuple):
    """One look."""

    sample: Sample
    moved: dict[tuple[str, str], float]
    """Bytes so far, by edge."""


class TooManyViewersError(MemfsError):
    """There are as many open pages as there may be."""


class Feed:
    """What is sent to each open page.

    Args:
        mountpoint: What is mounted there is asked, whatever was before.
    """

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._viewer_count = 0
        self._came = anyio.Event()
        self._next = anyio.Event()
        self._latest: str | None = None
        self._is_stopped = False

    async def run(self) -> None:
        """Look while there is somebody to look for, until cancelled."""
        before: _Look | None = None
        while True:
            if not self._viewer_count:
                before = self._latest = None
                await self._came.wait()
            before, self._latest = await anyio.to_thread.run_sync(
                self._look, before, abandon_on_cancel=True
            )
            self._wake()
            await anyio.sleep(INTERVAL_S)

    def stop(self) -> None:
        """Let all viewers go."""
        self._is_stopped = True
        self._wake()

    async def entries(self) -> AsyncGenerator[str, None]:
        """Yield an entry in JSON, and each new one.

        Raises:
            TooManyViewersError: Others are to go first.
        """
        if self._viewer_count >= VIEWERS_MAX:
            raise TooManyViewersError(f"{VIEWERS_MAX} pages are open; close one of them")
        self._viewer_count += 1
        self._came.set()
        try:
            if self._latest is not None:
                yield self._latest
            while not self._is_stopped:
                await self._next.wait()
                if self._latest is not None:
                    yield self._latest
        finally:
            self._viewer_count -= 1
            if not self._viewer_count:
                self._came = anyio.Event()

    def _wake(self) -> None:
        self._next.set()
        self._next = anyio.Event()

    def _look(self, before: _Look | None) -> tuple[_Look | None, str]:
        try:
            mount = require_mount(self._mountpoint)
            look = _Look(take_sample(mount), read_moved(mount.metrics()))
        except (MemfsError, OSError) as error:
            gone = getattr(error, "exit_code", None) == ExitCode.NOT_MOUNTED
            problem = "nothing is mounted there" if gone else str(error)
            return None, json.dumps(shown({"at_s": time.time(), "problem": problem}))
        return look, json.dumps(describe(before, look))


def read_moved(metrics: str) -> dict[tuple[str, str], float]:
    """Return what was moved so far by edge, out of the metrics of a mount."""
    found = {}
    for labels, number in _MOVED.findall(metrics):
        edge = dict(_LABEL.findall(labels))
        found[edge["source"], edge["target"]] = float(number)
    return found


def describe(before: _Look | None, now: _Look) -> dict[str, Any]:
    """Return an entry of the feed: a look with its rates, escaped."""
    sample_before = None if before is None else before.sample
    changes = rates(sample_before, now.sample)
    told = as_json(now.sample, changes)
    for each in (*told["moves"], *told["pending"]):
        if each["path"] is not None:
            each["id"] = id_of(each["path"])
    passed_s = 0.0 if before is None else now.sample.taken_s - before.sample.taken_s
    told["flows"] = [
        {
            "source": source,
            "target": target,
            "bytes": total,
            "bytes_per_s": max(0.0, total - before.moved.get((source, target), total)) / passed_s
            if before is not None and passed_s > 0
            else 0.0,
        }
        for (source, target), total in sorted(now.moved.items(), key=lambda each: -each[1])
    ]
    return shown({"at_s": time.time(), "problem": None, **told})  # type: ignore[no-any-return]  # as it was given
