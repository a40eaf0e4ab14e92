"""`memfs rekey`."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memfs.control.client import ControlUnavailableError, call
from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_size
from memfs_tools.mounts import find_mount_above

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memfs_tools.mounts import ServedMount

_FILES_A_CALL = 256
_CALL_S_MAX = 24 * 3600.0
"""One file may be terabytes; the daemon answers after some seconds otherwise."""

_FAILURES_SHOWN_MAX = 20


@click.command()
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path)
)
@click.option("--dry-run", is_flag=True, help="Only count what is under which key.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def rekey(paths: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
    """Encrypt stored files again with the first of the mount's keys.

    \b
    memfs key generate /etc/memfs/key-2027         and name it first in encryption.keys
    memfs umount /mnt/data; memfs mount /mnt/data  with both keys
    memfs rekey /mnt/data                          then the former key can go
    memfs rekey --dry-run /mnt/data                what is under which key

    Trees are taken whole. What is done stays done: stopped by Ctrl-C, running it again goes on
    from there. Exits with 1 if a file failed or was being written.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = _mount_of(paths)
    totals = _Totals()
    # Imported here: what draws bars takes 0.1 s.
    from memfs_tools.display import progress_bar

    with progress_bar(hidden=as_json) as show:
        for files in _chunks(_files(paths, totals)):
            _send(served, files, dry_run, totals)
            show(f"{format_size(totals.moved_bytes)} rekeyed", totals.file_count, 0)
    _report(totals, as_json=as_json, dry_run=dry_run)


class _Totals:
    """What all calls came to."""

    def __init__(self) -> None:
        self.file_count = 0
        self.outcomes: Counter[str] = Counter()
        self.moved_bytes = 0
        self.keys: dict[str, list[int]] = {}
        self.failures: list[str] = []

    @property
    def complete(self) -> bool:
        """True if every file is where it was asked to be."""
        undone = ("failed", "busy", "superseded")
        return not any(self.outcomes[outcome] for outcome in undone)

    def add(self, answer: dict[str, Any], files: dict[int, str]) -> None:
        """Add the answer to one call for some files."""
        self.file_count += answer["taken_count"]
        self.outcomes.update(answer["outcomes"])
        self.moved_bytes += answer["moved_bytes"]
        for key_id, (count, size) in answer["keys"].items():
            known = self.keys.setdefault(key_id, [0, 0])
            known[0] += count
            known[1] += size
        self.failures += [
            f"{files[int(ino)]}: {reason}" for ino, reason in answer["failures"].items()
        ]

    def note_unseen(self, error: OSError) -> None:
        """Count what could not be looked at."""
        self.outcomes["failed"] += 1
        self.failures.append(f"{error.filename}: {error.strerror}")


def _mount_of(paths: Iterable[Path]) -> ServedMount:
    """Return the mount that all paths lie in."""
    mounts = {path: find_mount_above(path) for path in paths}
    for path, served in mounts.items():
        if served is None:
            raise UsageError(f"{path} does not lie in a mount of memfs", ExitCode.NOT_MOUNTED)
    found = {served for served in mounts.values() if served is not None}
    if len(found) > 1:
        raise UsageError("the paths lie in several mounts; give one call for each")
    return found.pop()


def _files(paths: Iterable[Path], totals: _Totals) -> Iterator[tuple[int, str]]:
    """Yield inode numbers and paths of regular files; hard links once."""
    linked: set[int] = set()
    for path in paths:
        for name in _walk(path, totals):
            try:
                status = os.lstat(name)
            except OSError as error:
                totals.note_unseen(error)
                continue
            if not stat.S_ISREG(status.st_mode) or status.st_ino in linked:
                continue
            if status.st_nlink > 1:
                linked.add(status.st_ino)
            yield status.st_ino, name


def _walk(path: Path, totals: _Totals) -> Iterator[str]:
    if not path.is_dir() or path.is_symlink():
        yield os.fspath(path)
        return
    for directory, _, names in os.walk(path, onerror=totals.note_unseen):
        for name in names:
            yield os.path.join(directory, name)


def _chunks(files: Iterator[tuple[int, str]]) -> Iterator[dict[int, str]]:
    chunk: dict[int, str] = {}
    for ino, name in files:
        chunk[ino] = name
        if len(chunk) == _FILES_A_CALL:
            yield chunk
            chunk = {}
    if chunk:
        yield chunk


def _send(served: ServedMount, files: dict[int, str], dry_run: bool, totals: _Totals) -> None:
    inos = list(files)
    while inos:
        try:
            answer: Any = call(
                served.state_dir,
                "rekey",
                {"inos": [*inos], "dry_run": dry_run},
                timeout_s=_CALL_S_MAX,
            )
        except ControlUnavailableError as error:
            raise UsageError(f"{served.mountpoint}: {error}", ExitCode.NO_ANSWER) from None
        totals.add(answer, files)
        inos = inos[answer["taken_count"] :]


def _report(totals: _Totals, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        content = {
            "files": totals.file_count,
            "outcomes": dict(totals.outcomes),
            "moved_bytes": totals.moved_bytes,
            "keys": totals.keys,
            "failures": totals.failures,
        }
        click.echo(json.dumps(content, indent=2))
    else:
        for failure in totals.failures[:_FAILURES_SHOWN_MAX]:
            click.echo(f"memfs: {failure}", err=True)
        if len(totals.failures) > _FAILURES_SHOWN_MAX:
            click.echo(f"memfs: and {len(totals.failures) - _FAILURES_SHOWN_MAX} more", err=True)
        for key_id, (count, size) in sorted(totals.keys.items()):
            name = f"key {key_id}" if key_id else "in clear"
            click.echo(
                f"{name}: {count} forms, {format_size(size)}" + ("" if dry_run else " before")
            )
        done = totals.outcomes["due" if dry_run else "done"]
        what = "to be rekeyed" if dry_run else "rekeyed"
        click.echo(f"{totals.file_count} files: {done} {what}, {_rest(totals)}")
    if not totals.complete:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _rest(totals: _Totals) -> str:
    words = {
        "unneeded": "as they should be",
        "busy": "being written",
        "superseded": "changed meanwhile",
        "failed": "failed",
    }
    counts = [f"{totals.outcomes[name]} {word}" for name, word in words.items()]
    return ", ".join(count for count in counts if not count.startswith("0 ")) or "none left"
