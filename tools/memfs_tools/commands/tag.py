"""`memfs tag`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memfs.client.placement import PlacementError
from memfs.client.tagging import Tagged, read_csv, set_tags, tag_name
from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_count
from memfs_tools.arguments import MOUNTPOINT, GivenPath
from memfs_tools.terminal import complain, tell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@click.command()
@click.argument("words", nargs=-1, metavar="PATH... [KEY=VALUE...]", type=click.UNPROCESSED)
@click.option("--remove", "removed", multiple=True, metavar="KEY", help="Take a tag away.")
@click.option("-r", "--recursive", is_flag=True, help="And all below directories.")
@click.option(
    "--from",
    "--csv",
    "table",
    type=GivenPath(exists=True, dir_okay=False),
    help="Take paths and values from a table, CSV or Parquet: a column `path`, and one for each "
    "tag.",
)
@click.option(
    "--base",
    type=GivenPath(file_okay=False),
    help="Where relative paths of the table begin; by default in the working directory.",
)
def tag(
    words: tuple[str, ...],
    removed: tuple[str, ...],
    recursive: bool,
    table: Path | None,
    base: Path | None,
) -> None:
    """Set user xattrs of files, which `memfs query` finds them by.

    \b
    memfs tag /mnt/data/scan.tif city=Ulm date=2025-02-15
    memfs tag -r /mnt/data/scans source=sentinel-2
    memfs tag --remove city /mnt/data/scan.tif
    memfs tag --from scans.csv --base /mnt/data
    memfs tag --from scans.parquet --base /mnt/data

    KEY=VALUE sets the xattr user.KEY; setfattr(1) and any program do the same. The words with a
    `=` behind the last path are tags; write ./a=b for a file of such a name.

    Exits with 1 if a file could not be tagged; the others are.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    paths, tags = _split(words)
    tags.update((tag_name(key), None) for key in removed)
    if table is not None:
        if paths or tags:
            raise click.UsageError("--from goes without paths and tags.")
        outcome = _tag(_read(table, base if base is not None else Path()))
    else:
        if not paths or not tags:
            raise click.UsageError("name a path, and a tag as KEY=VALUE or with --remove.")
        outcome = _tag(Tagged(path, tags) for path in _walk(paths, recursive=recursive))
    if not outcome:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _read(table: Path, base: Path) -> Iterator[Tagged]:
    if table.suffix != ".parquet":
        return read_csv(table, base)
    try:
        from memfs_tools.tag_table import read_parquet
    except ImportError:
        raise UsageError("Parquet needs pyarrow: pip install 'memfs-tiers[traces]'") from None
    return read_parquet(table, base)


def _split(words: tuple[str, ...]) -> tuple[list[Path], dict[bytes, bytes | None]]:
    """Return paths and tags; a path with a slash before its `=` is a path."""
    count = len(words)
    while count and "=" in words[count - 1] and "/" not in words[count - 1].partition("=")[0]:
        count -= 1
    tags: dict[bytes, bytes | None] = {}
    for word in words[count:]:
        key, _, value = word.partition("=")
        tags[tag_name(key)] = os.fsencode(value)
    return [MOUNTPOINT.convert(word, None, None) for word in words[:count]], tags


def _walk(paths: Iterable[Path], *, recursive: bool) -> Iterator[Path]:
    for path in paths:
        yield path
        if recursive and path.is_dir():
            for folder, folders, files in os.walk(path):
                for name in (*folders, *files):
                    below = Path(folder, name)
                    # A link leads to a file that is elsewhere, and user xattrs are not for links.
                    if not below.is_symlink():
                        yield below


def _tag(files: Iterable[Tagged]) -> bool:
    """Tag files; returns whether all of them could be."""
    done_count = failed_count = 0
    for file in files:
        try:
            set_tags(file.path, file.tags)
            done_count += 1
        except PlacementError as error:
            complain(str(error))
            failed_count += 1
    failed = f", {failed_count} not" if failed_count else ""
    tell(f"{format_count(done_count, 'file')} tagged{failed}")
    return failed_count == 0
