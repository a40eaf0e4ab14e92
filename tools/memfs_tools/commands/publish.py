"""`memfs publish`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_count, format_size
from memfs_tools.arguments import AS_JSON, GivenPath
from memfs_tools.mounts import find_mount_above
from memfs_tools.terminal import complain, tell, tell_json
from memfs_tools.tree_work import LEFT_WORDS, Totals, TreeWork, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.client.mount import Mount
    from memfs.control.methods.trees import RemovedReport, WorkReport

MANIFEST = "_memfs/catalog.parquet"
LINES = "_memfs/catalog.jsonl"
SUCCESS = "_SUCCESS"

_WORDS = {
    "unneeded": "published before",
    **LEFT_WORDS,
    "failed": "failed, or changed by someone else",
}


@click.command()
@click.argument("path", type=GivenPath(exists=True))
@click.argument("url")
@click.option("--watch", is_flag=True, help="And whatever is written there from now on.")
@click.option("--manifest", is_flag=True, help=f"Add {MANIFEST}, and {SUCCESS} last.")
@click.option(
    "--deleted",
    type=click.Choice(["keep", "remove"]),
    help="What becomes of objects whose files are gone; by default as publish.delete says.",
)
@click.option(
    "--unconditional",
    is_flag=True,
    help="Also to a store that knows no conditions: a look before each change stands for them.",
)
@click.option(
    "--replace",
    "replaces",
    is_flag=True,
    help="Also where an object belongs to a file of another directory that was published.",
)
@AS_JSON
def publish(
    path: Path,
    url: str,
    watch: bool,
    manifest: bool,
    deleted: str | None,
    unconditional: bool,
    replaces: bool,
    as_json: bool,
) -> None:
    """Copy files into a bucket or a directory as plain objects that any tool reads.

    \b
    memfs publish /mnt/data/results s3://bucket/results
    memfs publish --manifest /mnt/data/results s3://bucket/results
    memfs publish --watch /mnt/data/results s3://bucket/results
    memfs publish /mnt/data/results file:///srv/shared/results

    URL may be of s3, gs, abfs, file, or of any file system of fsspec that can write. An object has
    the path of its file below PATH, a content type by its name, and mtime and mode in its metadata
    as rclone has them. It is made only where there is no object, replaced only while it is the one
    that memfs has put there, and read back. An object that somebody else has changed stays as it
    is, and is told. A file that has not changed since then costs nothing.

    Credentials are those of the configured store in the same bucket, [glacier] or [stores.NAME], or
    else what the library of the store finds. --watch sets `user.memfs.publish`; URL must be below
    one of publish.targets.

    An object whose file is gone or renamed stays, unless publish.delete is set, or --deleted says
    remove: those that memfs has put there and nobody has changed since are removed then. --watch
    keeps that word in `user.memfs.publish_deleted`.

    Several directories can be published to one URL, or to one inside another. Each leaves the
    objects of the others alone. Where two have a file for the same object, the second one is
    refused, with the path of the first, unless --replace is given.

    With --manifest a table of all objects is added, with sizes, etags, digests, times, modes and
    xattrs: as Parquet, or as JSON lines (catalog.jsonl) where pyarrow is not installed. _SUCCESS
    goes first and comes back when all is there.

    Exits with 1 if something is not published.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = find_mount_above(path)
    if served is None:
        raise UsageError(f"{path} is not in a mount of memfs")
    root = os.stat(path).st_ino
    totals = Totals()
    if watch:
        if deleted is not None:
            os.setxattr(path, "user.memfs.publish_deleted", deleted.encode())
        os.setxattr(path, "user.memfs.publish", url.encode())
    if manifest and (problem := served.publish_part(url, SUCCESS, "", unconditional=unconditional)):
        raise UsageError(f"{url}: {SUCCESS}: {problem}", ExitCode.PROBLEMS)

    def call(mount: Mount, inos: list[int], left_s: float) -> WorkReport:
        return mount.publish_files(
            inos, root, url, unconditional=unconditional, replaces=replaces, timeout_s=left_s
        )

    def describe(done: Totals) -> str:
        return f"{format_size(done.moved_bytes)} published"

    TreeWork(Work(call), totals).run((path,), describe, hidden=as_json)
    removed = served.publish_removed(root, url, deleted or "")
    complete = totals.complete and not removed["problems"]
    told = None
    if manifest and complete:
        told = _publish_manifest(served, url, unconditional=unconditional)
        complete = told is None
    if as_json:
        tell_json(totals.to_json() | {"removed": removed, "manifest": manifest and complete})
    else:
        _tell(totals, removed, told)
        if manifest and not complete:
            complain(f"without {SUCCESS}: not all is there")
    if not complete:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _tell(totals: Totals, removed: RemovedReport, problem: str | None) -> None:
    totals.tell_failures()
    for each in removed["problems"]:
        complain(each)
    if problem is not None:
        complain(problem)
    tell(
        f"{format_count(totals.file_count, 'file')}: {totals.outcomes['done']} published; "
        f"others: {totals.count(_WORDS)}"
    )
    if removed["removed_count"]:
        count = removed["removed_count"]
        gone = "its file is gone" if count == 1 else "their files are gone"
        tell(f"{format_count(count, 'object')} removed: {gone}")
    if removed["left_count"]:
        count = removed["left_count"]
        tell(
            f"{format_count(count, 'object')} without a file {'stays' if count == 1 else 'stay'}; "
            "--deleted remove removes those that nobody else has changed"
        )


def _publish_manifest(served: Mount, url: str, *, unconditional: bool) -> str | None:
    """Publish the table of all objects, then the mark; returns why that was not done."""
    try:
        from memfs_tools.published_file import write_published
    except ImportError:
        # The other form of the table: they say the same.
        from memfs_tools.published_lines import write_lines as write_published

        name, former = LINES, MANIFEST
    else:
        name, former = MANIFEST, LINES
    with tempfile.TemporaryDirectory(prefix="memfs-publish-") as directory:
        table, mark = Path(directory) / "catalog", Path(directory) / SUCCESS
        write_published(table, _list(served, url))
        mark.touch()
        # A table of another time must not stay beside this one.
        for key, path in ((former, ""), (name, os.fspath(table)), (SUCCESS, os.fspath(mark))):
            problem = served.publish_part(url, key, path, unconditional=unconditional)
            if problem:
                return f"{url}/{key}: {problem}"
    return None


def _list(served: Mount, url: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of files."""
    after = ""
    while found := served.published(url, after):
        yield from (each for each in found if not each["of_manifest"])
        after = found[-1]["key"]
