"""What a snapshot costs at a mount, call by call: `python -m tests.bench.mounted_snapshots`.

Two mounts take turns, one without a snapshot and one with one. Files that the snapshot has are
touched for the first time after it, then again; and there are files that it does not have.

Invariant: both mounts get the same calls on as many files, in each round with a snapshot that is
younger than the files; a ratio divides medians of one run.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.client.mount import Mount as Client
from tests import scratch
from tests.bench import comparison, exports, quiet, snapshots
from tests.bench.comparison import Row, Sample
from tests.bench.disk import mount_image
from tests.bench.machine import Machine
from tests.bench.places import KernelPlace, opened_places
from tests.bench.workloads import BLOCK_BYTES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from tests.bench.places import Place

FILE_COUNT = 1000
"""In each row: 0.1 s or more."""
ENGINE_FILE_COUNT = 100_000
RATIO_MAX = 1.15
"""The gate: how much longer a call may take where there is a snapshot."""


class SnapshotPlace(KernelPlace):
    """memfs by the kernel driver, with a snapshot."""

    name, title = "snapshot", "memfs kernel, a snapshot"


def create(path: str) -> None:
    """Create a file of one page."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, bytes(BLOCK_BYTES))
    os.close(fd)


_values = itertools.count()


def setxattr(path: str) -> None:
    """Give an xattr a value that it did not have."""
    os.setxattr(path, "user.note", b"%d" % next(_values))


def chmod(path: str) -> None:
    """Take bits of the mode away, or give them back."""
    os.chmod(path, 0o600 | next(_values) % 0o100)


def rename(path: str) -> None:
    """Move a file to the directory beside."""
    beside = ("/here/", "/there/") if "/here/" in path else ("/there/", "/here/")
    os.rename(path, path.replace(*beside))


def open_for_writing(path: str) -> None:
    """Open a file for writing in place, and close it."""
    os.close(os.open(path, os.O_WRONLY))


class Work(NamedTuple):
    """One row."""

    call: Callable[[str], None]
    group: str
    """Whose files: those of one group are touched by the rows of that group alone."""
    title: str


NEW = "a new file"
FIRST = "first touch"
AGAIN = "again"
_CHANGES = {
    "setxattr": setxattr,
    "chmod": chmod,
    "rename": rename,
    "open for writing": open_for_writing,
}
WORKS = (
    *(Work(call, name, f"{name}, {FIRST}") for name, call in _CHANGES.items()),
    Work(os.unlink, "unlink", f"unlink, {FIRST}"),
    *(Work(call, name, f"{name}, {AGAIN}") for name, call in _CHANGES.items()),
    Work(create, NEW, f"create + write 4 KiB + close, {NEW}"),
    *(Work(call, NEW, f"{name}, {NEW}") for name, call in _CHANGES.items()),
    Work(os.unlink, NEW, f"unlink, {NEW}"),
)
"""In the order in which they are done."""


class Files:
    """The files of one place, made anew in each round."""

    def __init__(self, place: Place, count: int) -> None:
        self._place = place
        self._count = count
        self._servers = scratch.processes_naming(place.base)
        self._root = place.directory / "files"

    def prepare(self) -> None:
        """Make the files, and the snapshot that has them, once all else has settled."""
        client = Client.of(self._place.directory) if self._has_snapshot else None
        if client is not None:
            client.snapshots.delete([each["name"] for each in client.snapshots.list()])
        if self._root.exists():
            shutil.rmtree(self._root)
        for group in {work.group for work in WORKS}:
            for beside in ("here", "there"):
                (self._root / group / beside).mkdir(parents=True)
            if group != NEW:
                for path in self._new_paths(group):
                    create(path)
        os.sync()
        quiet.await_rest(self._servers)
        if client is not None:
            client.snapshots.create("bench")

    def take(self, work: Work) -> Sample:
        """Call it for each of its files."""
        if work.call is create:
            paths = self._new_paths(work.group)
        else:
            paths = sorted(map(str, (self._root / work.group).glob("*/*")))
        before_ns, begin_s = quiet.processor_ns(self._servers), time.perf_counter()
        for path in paths:
            work.call(path)
        elapsed_s = time.perf_counter() - begin_s
        used_ns = quiet.processor_ns(self._servers) - before_ns
        return Sample(len(paths) / elapsed_s, used_ns / 1e3 / len(paths))

    def restore_ms(self) -> float:
        """Return what it takes to bring one removed file back."""
        path = self._new_paths("unlink")[0]
        begin_s = time.perf_counter()
        Client.of(self._place.directory).snapshots.restore(path, snapshot="bench")
        return (time.perf_counter() - begin_s) * 1e3

    @property
    def _has_snapshot(self) -> bool:
        return self._place.name == SnapshotPlace.name

    def _new_paths(self, group: str) -> list[str]:
        here = self._root / group / "here"
        return [f"{here}/{number:06}" for number in range(self._count)]


def measure(
    places: Sequence[Place], round_count: int, file_count: int
) -> tuple[dict[str, Row], list[float]]:
    """Return the samples of each row, and the milliseconds of restores of one file."""
    files = {place.name: Files(place, file_count) for place in places}
    rows: dict[str, Row] = {work.title: {} for work in WORKS}
    restores = []
    for number, at, place in comparison.in_turns(places, round_count, 1 + len(WORKS)):
        if at == 0:
            files[place.name].prepare()
            continue
        work = WORKS[at - 1]
        sample = files[place.name].take(work)
        if number:
            rows[work.title].setdefault(place.name, []).append(sample)
        if number and at == len(WORKS) and place.name == SnapshotPlace.name:
            restores.append(files[place.name].restore_ms())
    return rows, restores


def longer(row: Row, of: Callable[[Sample], float]) -> float:
    """Return how many times as much a call takes with a snapshot, by medians."""
    without, with_one = (
        statistics.median(of(each) for each in row[kind.name])
        for kind in (KernelPlace, SnapshotPlace)
    )
    return with_one / without


def time_us(sample: Sample) -> float:
    """Return how long a call took."""
    return 1e6 / sample.value


def server_us(sample: Sample) -> float:
    """Return what a call took of the daemon's processor time."""
    return sample.server_us or 0.0


def render(rows: dict[str, Row]) -> str:
    """Return the table: medians with their extent, and ratios."""
    head = ["us a call", "without", "with a snapshot", "ratio", "daemon", "daemon, with", "ratio"]
    lines = [head, ["---"] * len(head)]
    for title, row in rows.items():
        cells = [title]
        for of in (time_us, server_us):
            cells += [
                _extent([of(each) for each in row[kind.name]])
                for kind in (KernelPlace, SnapshotPlace)
            ]
            cells.append(f"{longer(row, of):.2f}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _extent(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}..{max(values):.0f})"


def engine_figures(
    directory: Path | None, count: int
) -> tuple[snapshots.Figures, dict[str, float]]:
    """Return the rows of the engine alone, and what snapshots, exports and imports take in ms."""
    with tempfile.TemporaryDirectory(dir=directory) as base:
        calls, made = snapshots.measure(Path(base), count, min(4000, count // 4))
    with tempfile.TemporaryDirectory(dir=directory) as base:
        moved = exports.measure(Path(base), count, 100)
    single = {name.removesuffix("us").rstrip(", "): us / 1e3 for name, us in made.items()}
    single |= {
        name.removesuffix(", s"): s * 1e3
        for name, s in moved.items()
        if name.startswith(("export: read and encode, s", "import: all, s"))
    }
    return calls, single


def main() -> None:
    """Measure, and print what came of it."""
    parser = comparison.parser(__doc__, places=False)
    parser.add_argument("--files", type=int, default=FILE_COUNT, help="of each row")
    parser.add_argument(
        "--engine-files",
        type=int,
        default=ENGINE_FILE_COUNT,
        help="in the state of the rows of the engine alone, exports and imports; 0: leave them out",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="as a picture: .png, .svg")
    arguments = parser.parse_args()
    result = _run(arguments)
    comparison.finish(arguments, result, render(result["rows"]))
    restores = result["restore of one file, ms"]
    print(f"\nrestore of one file: {_extent(restores)} ms")
    for name, row in result["engine"].items():
        cells = ", ".join(f"{kind} {us:.1f} us" for kind, us in row.items())
        print(f"engine alone, {name}: {cells}")
    for name, ms in result["figures"].items():
        print(f"{name}: {ms:.2f} ms")
    if arguments.plot is not None:
        # Imported late: matplotlib is wanted for the picture alone.
        from tests.bench.snapshots_plot import write_plot

        write_plot(result, arguments.plot)


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    with scratch.workspace(arguments.directory) as workspace:
        disk = workspace.directory("disk")
        if not arguments.no_image:
            disk = mount_image(disk, comparison.DISK_BYTES)
        with opened_places(disk, (KernelPlace, SnapshotPlace)) as places:
            rows, restores = measure(places, arguments.repeat, arguments.files)
        machine = dataclasses.asdict(Machine.here(disk))
        calls: snapshots.Figures = {}
        figures: dict[str, float] = {}
        if arguments.engine_files:
            directory = workspace.directory("engine")
            calls, figures = engine_figures(directory, arguments.engine_files)
    return {
        "machine": machine,
        "rows": rows,
        "restore of one file, ms": restores,
        "engine": calls,
        "engine files": arguments.engine_files,
        "figures": figures,
    }


if __name__ == "__main__":
    main()
