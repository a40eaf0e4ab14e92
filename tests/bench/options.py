"""The options of a run, and whether this machine can run it."""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import figures
from tests.bench.places import PLACES
from tests.bench.workloads import Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = "Compares memfs with the native file system and with its peers in one run."
FULL = Shape(duration_s=1.0, data_bytes=256 << 20, small_count=2000)
FULL_ROUND_COUNT = 5
QUICK = Shape(duration_s=0.08, data_bytes=32 << 20, small_count=500)
QUICK_ROUND_COUNT = 3
DISK_BYTES_PER_DATA_BYTE = 5
"""Disk that a place needs for each byte of its large file: JuiceFS keeps a cache and old blocks."""
SLACK_BYTES = 2 << 30
"""For small files, logs and journals; guess."""
MILLION_BYTES = 10 << 30
"""A raw file each, of which an image has one for `disk.BYTES_PER_INODE`, and the metadata."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for, with the defaults filled in."""

    shape: Shape
    round_count: int
    """Samples of each cell, at least 1; the discarded first round comes on top."""
    place_names: tuple[str, ...]
    directory: Path
    """Where the work directory is made."""
    image: bool
    """Compare on a fresh file system in an image, not on that of `directory`."""
    million: bool
    """Measure the daemon's memory with a million inodes too."""
    json: Path | None
    plot: Path | None

    @property
    def disk_bytes(self) -> int:
        """Disk that the run needs at most."""
        place_bytes = self.shape.data_bytes * DISK_BYTES_PER_DATA_BYTE
        million_bytes = MILLION_BYTES if self.million else 0
        figure_bytes = figures.PROMOTED_BYTES + million_bytes
        return len(self.place_names) * place_bytes + figure_bytes + SLACK_BYTES

    def refusal(self) -> str | None:
        """Why this machine cannot run it; None if it can."""
        if os.geteuid() != 0:
            return "needs root, to mount, to use FUSE passthrough and to drop the kernel's caches"
        if not Path("/dev/fuse").exists():
            return "there is no /dev/fuse; load the kernel module: modprobe fuse"
        if not self.directory.is_dir():
            return f"{self.directory} is not a directory"
        free_bytes = shutil.disk_usage(self.directory).free
        if free_bytes < self.disk_bytes:
            return (
                f"{self.directory} has {free_bytes >> 20} MiB free, {self.disk_bytes >> 20} MiB "
                "are needed; name another disk with --directory, or fewer places"
            )
        return None


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line; None: the process's own. A mistake ends the program with status 2."""
    parser = argparse.ArgumentParser(prog="tools/bench.sh", description=DESCRIPTION)
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
        help="where the work directory is made; default: %(default)s",
    )
    parser.add_argument(
        "--no-image",
        action="store_true",
        help="compare on the file system of --directory as it is, not on a fresh image in it",
    )
    given = parser.parse_args(arguments)
    place_names = tuple(given.places.split(","))
    if unknown := sorted(set(place_names) - set(names)):
        parser.error(f"unknown place {', '.join(unknown)}; there are: {', '.join(names)}")
    round_count = given.repeat
    if round_count is None:
        round_count = QUICK_ROUND_COUNT if given.quick else FULL_ROUND_COUNT
    if round_count < 1:
        parser.error("--repeat must be at least 1")
    if given.plot is not None and "native" not in place_names:
        parser.error("--plot needs the place `native` to compare with")
    return Options(
        shape=QUICK if given.quick else FULL,
        round_count=round_count,
        place_names=place_names,
        directory=given.directory.resolve(),
        image=not given.no_image,
        million=given.million,
        json=given.json,
        plot=given.plot,
    )
