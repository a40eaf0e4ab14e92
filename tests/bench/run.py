"""The benchmark's command line: compares memfs with native and with its peers in one run.

Invariant: however a run ends, its mounts, processes and files are gone; what a killed run left is
removed by the next.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests import scratch
from tests.bench import figures
from tests.bench.disk import DiskError, mount_image
from tests.bench.machine import Machine
from tests.bench.options import parse
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
from tests.mounting import MountError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.options import Options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Returns:
        0; 1 if a place or a figure failed; 2 if it could not start; 130 after Ctrl-C.
    """
    options = parse(arguments)
    if refusal := options.refusal():
        print(f"bench: {refusal}", file=sys.stderr)
        return 2
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with scratch.workspace(options.directory) as workspace:
            disk = _disk(options, workspace)
            outcome = Outcome(
                command=shlex.join(["tools/bench.sh", *words]),
                machine=Machine.here(disk),
                settings={"round_count": options.round_count, **asdict(options.shape)},
            )
            _measure(options, disk, outcome)
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


def _disk(options: Options, workspace: scratch.Scratch) -> Path:
    """Where the places keep their bytes."""
    base = workspace.directory("disk")
    if options.image:
        try:
            return mount_image(base, options.disk_bytes)
        except DiskError as error:
            print(f"bench: no fresh image, {base} as it is: {error}", file=sys.stderr)
    return base


def _measure(options: Options, disk: Path, outcome: Outcome) -> None:
    PassthroughfsPlace.script = _passthroughfs_script()
    chosen = [place for place in PLACES if place.name in options.place_names]
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
                _open(kind, disk, outcome, opened)
            _sample(options, opened, outcome, progress)
        finally:
            for place in opened:
                _close(place, outcome)
        if any(isinstance(place, MemfsPlace) for place in opened):
            _measure_figures(options, disk, outcome, progress)


def _new_directory(disk: Path, name: str) -> Path:
    base = disk / name
    base.mkdir()
    return base


def _open(kind: type[Place], disk: Path, outcome: Outcome, opened: list[Place]) -> None:
    place = kind(_new_directory(disk, kind.name))
    reason = place.lacks()
    if reason is not None:
        print(f"bench: {place.name} left out: {reason}", file=sys.stderr)
        outcome.skipped[place.name] = reason
        return
    try:
        place.open()
    except (PlaceError, MountError) as error:
        scratch.detach(place.base)
        # The whole story, a daemon's log perhaps, for the one who runs this; its end for the table.
        print(f"bench: {place.name} left out: {error}", file=sys.stderr)
        outcome.samples.fail("mount", place.name, str(error).strip().splitlines()[-1])
        return
    opened.append(place)
    outcome.columns.append(Column(place.name, place.title, place.version()))


def _sample(options: Options, opened: list[Place], outcome: Outcome, progress: Progress) -> None:
    if not opened:
        return
    task = progress.add_task("", total=Sampler.step_count(len(opened), options.round_count))

    def advance(description: str) -> None:
        progress.update(task, description=description, advance=1)
        progress.refresh()

    sampler = Sampler(opened, options.shape, advance)
    sampler.prepare()
    sampler.run(options.round_count, outcome.samples)


def _close(place: Place, outcome: Outcome) -> None:
    try:
        place.close()
    except MountError as error:
        outcome.samples.fail("unmount", place.name, " ".join(str(error).split()))


def _measure_figures(
    options: Options,
    disk: Path,
    outcome: Outcome,
    progress: Progress,
) -> None:
    """Measure what concerns memfs alone; a figure that fails is noted."""
    task = progress.add_task("memfs alone", total=options.round_count + 1)

    def advance() -> None:
        progress.advance(task)
        progress.refresh()

    with _noting("ready", outcome):
        outcome.figures["ready"] = []
        for number in range(options.round_count):
            base = _new_directory(disk, f"ready-{number}")
            outcome.figures["ready"].append(figures.ready_s(base))
            advance()
    with _noting("promotion", outcome):
        base = _new_directory(disk, "promotion")
        outcome.figures["promotion"] = figures.promotion_ms(base, options.round_count)
    advance()
    if options.million:
        progress.update(task, total=options.round_count + 1 + 2 * figures.MILLION_DIRECTORY_COUNT)
        with _noting("memory", outcome):
            base = _new_directory(disk, "million")
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
