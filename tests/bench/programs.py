"""Whole programs as people run them: `python -m tests.bench.programs`.

Invariant: a program gets the same input in every place, from the disk beneath all of them, and what
it makes is gone at the end of the round.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.bench import comparison
from tests.bench.comparison import Row, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.places import Place

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = "pandas"
"""With what it needs: some 4000 files of Python, and shared libraries of some MB."""
PROGRAM_S_MAX = 600.0


class Program(NamedTuple):
    """One row: a command in the place's directory."""

    title: str
    command: tuple[str, ...]
    forgets: bool = False
    """The kernel has forgotten names and inodes before: else nobody would be asked."""
    environment: dict[str, str] = {}  # noqa: RUF012  never changed


def programs(repository: Path, wheels: Sequence[Path]) -> list[Program]:
    """Return the programs in their order: each uses what those before it have left.

    Args:
        repository: What is cloned.
        wheels: What is installed: of `PACKAGE` and all that it needs.
    """
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    files = [os.fspath(wheel) for wheel in wheels]
    url = repository.resolve().as_uri()
    return [
        Program("git clone", ("git", "clone", "--quiet", "--no-local", url, "clone")),
        Program(
            "pip install",
            (*pip, "--no-index", "--no-deps", "--no-cache-dir", "--target", "site", *files),
            environment={"PIP_ROOT_USER_ACTION": "ignore"},
        ),
        Program(
            f"import {PACKAGE}",
            (sys.executable, "-c", f"import {PACKAGE}"),
            forgets=True,
            environment={"PYTHONPATH": "site"},
        ),
        Program("cp -a", ("cp", "-a", "site", "copy")),
        Program("rm -rf", ("rm", "-rf", "clone", "site", "copy")),
    ]


def take(program: Program, directory: Path) -> Sample:
    """Run a program in a directory; seconds.

    Raises:
        CalledProcessError: It failed.
    """
    if program.forgets:
        Path("/proc/sys/vm/drop_caches").write_text("2")
    begin_s = time.perf_counter()
    subprocess.run(
        program.command,
        cwd=directory,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=PROGRAM_S_MAX,
        env={**os.environ, **program.environment},
    )
    return Sample(time.perf_counter() - begin_s)


def measure(places: Sequence[Place], round_count: int, rows: Sequence[Program]) -> dict[str, Row]:
    """Return the samples of each row."""
    result: dict[str, Row] = {program.title: {} for program in rows}
    for number, at, place in comparison.in_turns(places, round_count, len(rows)):
        found = take(rows[at], place.directory)
        if number:
            result[rows[at].title].setdefault(place.name, []).append(found)
    return result


def fetch_wheels(directory: Path) -> list[Path]:
    """Return the wheels of `PACKAGE` and of all that it needs, downloaded where they are missing.

    Raises:
        CalledProcessError: pip cannot get them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not any(directory.glob(f"{PACKAGE}-*.whl")):
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
        with tempfile.TemporaryDirectory(dir=directory) as fresh:
            subprocess.run((*pip, "--only-binary", ":all:", "--dest", fresh, PACKAGE), check=True)
            # The package itself last: it says that the others are there.
            for wheel in sorted(Path(fresh).iterdir(), key=lambda each: PACKAGE in each.name):
                wheel.rename(directory / wheel.name)
    return sorted(directory.glob("*.whl"))


def main() -> None:
    """Measure, and print what came of it."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--repository", type=Path, default=CHECKOUT, help="default: this one")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--wheels", type=Path, default=cache / "memfs-bench" / "wheels")
    arguments = parser.parse_args()
    rows = programs(arguments.repository, fetch_wheels(arguments.wheels))
    result = comparison.run(
        arguments, lambda places, round_count: measure(places, round_count, rows)
    )
    comparison.finish(
        arguments, result, comparison.render(result["rows"], "seconds", more_is_better=False)
    )


if __name__ == "__main__":
    main()
