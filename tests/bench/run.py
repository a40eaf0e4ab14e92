"""The benchmark's command line: compares memfs with native and with its peers in one run.

Invariant: however a run ends, its mounts, processes and files are gone; what a killed run left is
removed by the next.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests import scratch
from tests.bench import figures
from tests.bench.machine import Machine
from tests.bench.outcome import Column, Outcome
from tests.bench.places import (
    PLACES,
    MemfsPlace,
    PassthroughfsPlace,
    Place,
    PlaceError,
)
from tests.bench.sampling import Sampler
from tests.bench.table import render
from tests.bench.workloads import Shape
from tests.mounting import MountError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

FULL = Shape(duration_s=1.0, data_bytes=256 << 20, small_count=4000)
FULL_ROUND_COUNT = 5
QUICK = Shape(duration_s=0.15, data_bytes=64 << 20, small_count=1000)
QUICK_ROUND_COUNT = 3
DISK_BYTES_PER_DATA_BYTE = 5
"""Disk that a place needs for each byte of its large file: JuiceFS keeps a cache and old blocks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Returns:
        0; 1 if a place or a figure failed; 2 if it could not start; 130 after Ctrl-C.
    """
    options = _parse(arguments)
    if refusal := _refusal(options):
        print(f"bench: {refusal}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGHUP, _exit_on_signal)
    scratch.remove_leftovers(options.directory)
    words = sys.argv[1:] if arguments is None else arguments
    outcome = Outcome(
        command=shlex.join(["tools/bench.sh", *words]),
        machine=Machine.here(options.directory),
        settings={
            "round_count": options.repeat,
            "duration_s": options.shape.duration_s,
            "data_bytes": options.shape.data_bytes,
            "small_count": options.shape.small_count,
        },
    )
    try:
        with _workspace(options.directory) as workspace:
            _measure(options, workspace, outcome)
    except KeyboardInterrupt:
        print("bench: interrupted; everything is unmounted and removed", file=sys.stderr)
        return 130
    print(render(outcome), end="")
    if options.json is not None:
        outcome.write_json(options.json)
    if options.plot is not None:
        # Imported late: matplotlib is wanted for the picture alone.
        from tests.bench.plot import write_plot

        write_plot(outcome, options.plot)
    return 1 if outcome.failed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/bench.sh", description=__doc__)
    names = [place.name for place in PLACES]
    parser.add_argument("--quick", action="store_true", help="small samples, under 2 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios to native")
    parser.add_argument("--places", default=",".join(names), help="some of: %(default)s")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds; default 5, quick 3")
    parser.add_argument(
        "--million",
        action="store_true",
        help="also make a million inodes and read the daemon's memory; takes minutes",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("/var/tmp"),
        help="where the work directory is made, and so the disk that is compared; "
        "default: %(default)s",
    )
    options = parser.parse_args(arguments)
    options.shape = QUICK if options.quick else FULL
    if options.repeat is None:
        options.repeat = QUICK_ROUND_COUNT if options.quick else FULL_ROUND_COUNT
    options.places = options.places.split(",")
    if unknown := sorted(set(options.places) - set(names)):
        parser.error(f"unknown place {', '.join(unknown)}; there are: {', '.join(names)}")
    if options.repeat < 1:
        parser.error("--repeat must be at least 1")
    if options.plot is not None and "native" not in options.places:
        parser.error("--plot needs the place `native` to compare with")
    return options


def _refusal(options: argparse.Namespace) -> str | None:
    """Why this machine cannot run it; None if it can."""
    if os.geteuid() != 0:
        return "needs root, to mount, to use FUSE passthrough and to drop the kernel's caches"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse; load the kernel module: modprobe fuse"
    if not options.directory.is_dir():
        return f"{options.directory} is not a directory"
    needed_bytes = len(options.places) * options.shape.data_bytes * DISK_BYTES_PER_DATA_BYTE
    needed_bytes += figures.PROMOTED_BYTES
    free_bytes = shutil.disk_usage(options.directory).free
    if free_bytes < needed_bytes:
        return (
            f"{options.directory} has {free_bytes >> 20} MiB free, {needed_bytes >> 20} MiB are "
            "needed; name another disk with --directory, or fewer places"
        )
    return None


def _exit_on_signal(number: int, _frame: FrameType | None) -> NoReturn:
    # SystemExit runs the clean-up on its way out; the default action would not.
    sys.exit(128 + number)


@contextlib.contextmanager
def _workspace(directory: Path) -> Iterator[scratch.Scratch]:
    """A work directory that is gone afterwards, a second Ctrl-C or not."""
    workspace = scratch.Scratch(directory)
    try:
        yield workspace
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        workspace.close()


def _measure(options: argparse.Namespace, workspace: scratch.Scratch, outcome: Outcome) -> None:
    PassthroughfsPlace.script = _passthroughfs_script()
    chosen = [place for place in PLACES if place.name in options.places]
    opened: list[Place] = []
    # Without the refresh thread of rich, which would compete with the samples for the processor.
    with Progress(
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
    ) as progress:
        try:
            for kind in chosen:
                _open(kind, workspace, outcome, opened)
            _sample(options, opened, outcome, progress)
        finally:
            for place in opened:
                _close(place, outcome)
        if any(isinstance(place, MemfsPlace) for place in opened):
            _measure_figures(options, workspace, outcome, progress)


def _open(
    kind: type[Place], workspace: scratch.Scratch, outcome: Outcome, opened: list[Place]
) -> None:
    place = kind(workspace.directory(kind.name))
    reason = place.lacks()
    if reason is None:
        # Listed before it is open: a mount that fails half-way is closed like the others.
        opened.append(place)
        try:
            place.open()
        except (PlaceError, MountError) as error:
            opened.remove(place)
            scratch.detach(place.base)
            reason = str(error)
    if reason is not None:
        outcome.skipped[place.name] = " ".join(reason.split())
        print(f"bench: {place.name} left out: {reason}", file=sys.stderr)
    else:
        outcome.columns.append(Column(place.name, place.title, place.version()))


def _sample(
    options: argparse.Namespace, opened: list[Place], outcome: Outcome, progress: Progress
) -> None:
    if not opened:
        return
    task = progress.add_task("", total=Sampler.step_count(len(opened), options.repeat))

    def advance(description: str) -> None:
        progress.update(task, description=description, advance=1)
        progress.refresh()

    sampler = Sampler(opened, options.shape, advance)
    sampler.prepare(outcome.samples)
    sampler.run(options.repeat, outcome.samples)


def _close(place: Place, outcome: Outcome) -> None:
    try:
        place.close()
    except MountError as error:
        outcome.samples.fail("unmount", place.name, " ".join(str(error).split()))


def _measure_figures(
    options: argparse.Namespace,
    workspace: scratch.Scratch,
    outcome: Outcome,
    progress: Progress,
) -> None:
    """Measure what concerns memfs alone; a figure that fails is noted."""
    task = progress.add_task("memfs alone", total=options.repeat + 1)

    def advance() -> None:
        progress.advance(task)
        progress.refresh()

    with _noting("ready", outcome):
        outcome.figures["ready"] = []
        for _ in range(options.repeat):
            outcome.figures["ready"].append(figures.ready_s(workspace.directory("ready")))
            advance()
    with _noting("promotion", outcome):
        base = workspace.directory("promotion")
        outcome.figures["promotion"] = figures.promotion_ms(base, options.repeat)
    advance()
    if options.million:
        progress.update(task, total=options.repeat + 1 + 2 * figures.MILLION_DIRECTORY_COUNT)
        with _noting("memory", outcome):
            base = workspace.directory("million")
            outcome.figures["memory"] = [figures.memory_mb(base, advance)]


@contextlib.contextmanager
def _noting(figure: str, outcome: Outcome) -> Iterator[None]:
    try:
        yield
    except (MountError, figures.FigureError, OSError) as error:
        outcome.figures.pop(figure, None)
        outcome.figure_failures[figure] = " ".join(str(error).split())


def _passthroughfs_script() -> Path | None:
    """Where tools/bench.sh unpacks pyfuse3's source distribution."""
    try:
        version = importlib.metadata.version("pyfuse3")
    except importlib.metadata.PackageNotFoundError:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "memfs-bench" / f"pyfuse3-{version}" / "examples" / "passthroughfs.py"


if __name__ == "__main__":
    sys.exit(main())
