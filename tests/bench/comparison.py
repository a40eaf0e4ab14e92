"""What the benchmarks with a table of their own share: arguments, rounds in turns, and the table.

Invariant: in each round every place takes its turn at a row before the next row begins, another one
first each time; a ratio divides medians of one run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests import scratch
from tests.bench import quiet
from tests.bench.disk import mount_image
from tests.bench.machine import Machine
from tests.bench.places import (
    PLACES,
    JuicefsPlace,
    KernelPlace,
    MergerfsPlace,
    NativePlace,
    Pyfuse3Place,
    opened_places,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.bench.places import Place

PLACE_NAMES = tuple(
    kind.name for kind in (NativePlace, KernelPlace, Pyfuse3Place, MergerfsPlace, JuicefsPlace)
)
DISK_BYTES = 12 << 30
"""Size of the image, a sparse file."""


class Sample(NamedTuple):
    """One number of a row."""

    value: float
    server_us: float | None = None
    """Processor time of all threads of the place's servers, for each call; None: not asked."""


Row = dict[str, list[Sample]]
"""By place."""


def parser(description: str | None, *, places: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the options that all of them have.

    Args:
        description: For `--help`.
        places: Whether the places can be chosen.
    """
    options = argparse.ArgumentParser(description=description)
    if places:
        options.add_argument("--places", default=",".join(PLACE_NAMES), help="default: %(default)s")
    options.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds")
    options.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    options.add_argument(
        "--no-image",
        action="store_true",
        help="on the file system of --directory, as /dev/shm; else on a fresh ext4 image in it",
    )
    options.add_argument("--json", type=Path, metavar="FILE")
    return options


def run(
    arguments: argparse.Namespace, measure: Callable[[Sequence[Place], int], Mapping[str, Row]]
) -> dict[str, Any]:
    """Open the places, have them measured, and return what came of it.

    Args:
        arguments: From `parser`.
        measure: Takes the places and the number of rounds; returns rows by name.
    """
    names = arguments.places.split(",")
    kinds = [kind for kind in PLACES if kind.name in names]
    with scratch.workspace(arguments.directory) as workspace:
        disk = workspace.directory("disk")
        if not arguments.no_image:
            disk = mount_image(disk, DISK_BYTES)
        with opened_places(disk, kinds) as places:
            rows = measure(places, arguments.repeat)
        machine = dataclasses.asdict(Machine.here(disk))
    return {"machine": machine, "rows": rows}


def in_turns(
    places: Sequence[Place], round_count: int, row_count: int
) -> Iterator[tuple[int, int, Place]]:
    """Yield round, row and place of each sample, once all servers rest and the disk is synced.

    Round 0 only touches code and memory once, and counts for nothing.
    """
    servers = [pid for place in places for pid in scratch.processes_naming(place.base)]
    for number in range(round_count + 1):
        for row in range(row_count):
            turn = number % len(places)
            for place in [*places[turn:], *places[:turn]]:
                os.sync()
                quiet.await_rest(servers)
                yield number, row, place


def render(rows: Mapping[str, Row], unit: str, *, more_is_better: bool) -> str:
    """Return the table: medians with their extent, and how fast memfs is in the others' speed."""
    names = [name for name in PLACE_NAMES if any(name in row for row in rows.values())]
    others = [name for name in names if name != KernelPlace.name]
    head = [f"{unit}", *names, *(f"memfs in {name}'s speed" for name in others)]
    asked = any(each.server_us is not None for row in rows.values() for each in _all(row))
    if asked:
        head.append("us of a processor a file, memfs")
    lines = [head, ["---"] * len(head)]
    for title, row in rows.items():
        cells = [title, *(_extent(row.get(name, [])) for name in names)]
        cells += [_speed(row, name, more_is_better=more_is_better) for name in others]
        if asked:
            cells.append(_server_us(row.get(KernelPlace.name, [])))
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def finish(arguments: argparse.Namespace, result: dict[str, Any], table: str) -> None:
    """Print the table, and write all samples where that is wanted."""
    print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def _all(row: Row) -> list[Sample]:
    return [each for samples in row.values() for each in samples]


def _extent(samples: Sequence[Sample]) -> str:
    if not samples:
        return "-"
    values = [each.value for each in samples]
    median, least, most = (_digits(f(values)) for f in (statistics.median, min, max))
    return f"{median} ({least}..{most})"


def _speed(row: Row, other: str, *, more_is_better: bool) -> str:
    if KernelPlace.name not in row or other not in row:
        return "-"
    ours, theirs = (
        statistics.median(each.value for each in row[name]) for name in (KernelPlace.name, other)
    )
    return f"{ours / theirs if more_is_better else theirs / ours:.2f}"


def _server_us(samples: Sequence[Sample]) -> str:
    values = [each.server_us for each in samples if each.server_us is not None]
    return f"{statistics.median(values):.0f}" if values else "-"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
