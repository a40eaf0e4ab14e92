"""`memfs query`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memfs.errors import UsageError
from memfs_tools.arguments import MOUNT
from memfs_tools.mounts import meant_mount
from memfs_tools.terminal import complain, tell, tell_json, tell_path0

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.client.mount import Mount
    from memfs.control.methods.queries import FoundReport, QueryReport

_PAGE_COUNT = 1000
_COUNT_PAGE = 10_000
_PLACES = {"loop": "by the daemon itself", "reader": "by the reader process"}


@click.command()
@click.argument("words", metavar="[MOUNTPOINT] [FILTER]", nargs=-1)
@MOUNT
@click.option("--text", "names", metavar="WORDS", help="With all of these words in their names.")
@click.option("--sort", metavar="FIELD", help="An xattr, $size or $mtime; -FIELD: descending.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many files.")
@click.option("--at", metavar="SNAPSHOT", help="As of a snapshot; paths lead into it.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each file.")
@click.option("--arrow", is_flag=True, help="An Arrow stream with a row for each file.")
@click.option("--paths0", is_flag=True, help="Paths end with NUL, for xargs -0 and rsync --from0.")
@click.option("--count", "only_count", is_flag=True, help="Tell only how many files there are.")
@click.option("--explain", is_flag=True, help="Tell how the first page is found, and no file.")
def query(
    words: tuple[str, ...],
    place: Path | None,
    names: str | None,
    sort: str | None,
    limit: int | None,
    at: str | None,
    as_json: bool,
    arrow: bool,
    paths0: bool,
    only_count: bool,
    explain: bool,
) -> None:
    """Find files by their xattrs and by what memfs knows of them.

    \b
    memfs query /mnt/data '{"city": "Ulm", "date": {"$gte": "2025-01-01"}}'
    memfs query /mnt/data '{"$path": "scans/", "$tier": "glacier"}' --count
    memfs query /mnt/data '{"cloud": {"$lt": 5}}' --sort -date --limit 10 --json
    memfs query /mnt/data '{"done": {"$exists": false}}' --paths0 | xargs -0 ls -l
    memfs query /mnt/data --text 'holiday 2024'
    cd /mnt/data/scans; memfs query '{"city": "Ulm"}'
    memfs query --mount /mnt/data '{"city": "Ulm"}'

    FILTER is a JSON object; -: it is read from standard input. A name asks for the xattr
    user.NAME, and $path, $name, $tier, $size, $mtime, $state, $pin, $pool, $digest and $uses for
    what memfs knows. Operators: $eq $ne $gt $gte $lt $lte $in $nin $exists $regex $contains $text
    $not, and $and $or $not between filters.

    Without MOUNTPOINT and --mount it is the mount around the working directory, or the only one.

    Root and the user who mounted find all files. Other users find what find(1) and getfattr(1)
    would find for them.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    if sum((as_json, arrow, paths0, only_count, explain)) > 1:
        raise click.UsageError(
            "--json, --arrow, --paths0, --count and --explain exclude each other."
        )
    mountpoint, filter_ = _split(words)
    if filter_ is None and names is None:
        raise click.UsageError("Missing argument 'FILTER', or --text.")
    served = meant_mount(mountpoint, place)
    text = sys.stdin.read() if filter_ == "-" else filter_ or "{}"
    if names is not None:
        text = f'{{"$and": [{text}, {json.dumps({"$name": {"$text": names}})}]}}'
    asked = _Asked(served, text, sort, limit, at)
    if explain:
        _explain(asked.page(None, names=False))
        return
    if only_count:
        tell(str(sum(page["count"] for page in asked.pages(_COUNT_PAGE, names=False))))
        return
    if arrow:
        _write_arrow(asked)
        return
    for page in asked.pages(_PAGE_COUNT, attributes=as_json):
        for file in page["files"]:
            _show(asked.root, file, as_json=as_json, paths0=paths0)


def _split(words: tuple[str, ...]) -> tuple[Path | None, str | None]:
    """Return the mount and the filter among arguments; a filter alone is told by its brace."""
    if len(words) > 2:
        raise click.UsageError(f"{words[2]!r} is too much: put the filter into single quotes.")
    if len(words) == 2:
        return Path(words[0]), words[1]
    if not words:
        return None, None
    [word] = words
    is_filter = word == "-" or word.lstrip().startswith("{")
    return (None, word) if is_filter else (Path(word), None)


def _write_arrow(asked: _Asked) -> None:
    try:
        from memfs_tools.arrow_stream import write_found
    except ImportError:
        raise UsageError("Arrow needs pyarrow: pip install 'memfs-tiers[traces]'") from None
    write_found(
        sys.stdout.buffer,
        asked.root,
        (page["files"] for page in asked.pages(_PAGE_COUNT, attributes=True)),
    )


class _Asked:
    """One question, page by page."""

    def __init__(
        self, served: Mount, text: str, sort: str | None, limit: int | None, at: str | None
    ) -> None:
        self._served = served
        self._text = text
        self._sort = sort
        self._limit = limit
        self._at = at

    @property
    def root(self) -> Path:
        """What paths begin with: what is asked may have moved since a snapshot, or be gone."""
        served = self._served
        return served.mountpoint if self._at is None else served.snapshots.tree(self._at)

    def page(self, token: str | None, limit: int = _PAGE_COUNT, **options: bool) -> QueryReport:
        """Return one page."""
        return self._served.query(
            self._text, sort=self._sort, token=token, limit=limit, at=self._at, **options
        )

    def pages(self, limit: int, **options: bool) -> Iterator[QueryReport]:
        """Yield all pages, and complain of what is odd about the question."""
        token, left = None, self._limit
        while left is None or left > 0:
            page = self.page(token, limit if left is None else min(limit, left), **options)
            if token is None:
                for note in page["notes"]:
                    complain(note)
            yield page
            token = page["token"]
            if left is not None:
                left -= page["count"]
            if token is None:
                return


def _show(root: Path, file: FoundReport, *, as_json: bool, paths0: bool) -> None:
    path = os.path.join(os.fspath(root), file["path"]) if file["path"] else os.fspath(root)
    if paths0:
        tell_path0(path)
    elif as_json:
        shown: dict[str, Any] = {**file, "path": path}
        tell_json(shown, indent=None)
    else:
        tell(path)


def _explain(page: QueryReport) -> None:
    led = f"the index of {page['driver']}"
    if page["driver"] in ("", "$path"):
        led = f"{'the directories' if page['driver'] else 'all files'}, one after the other"
    tell(f"led by: {led}")
    tell(f"found: {_PLACES[page['place']]}, in {page['duration_s'] * 1000:.1f} ms")
    tell(f"looked at again: {'no file' if page['is_exact'] else 'each file that was found'}")
    files = f"{page['count']} file{'' if page['count'] == 1 else 's'}"
    tell(f"first page: {files}{', and there are more' if page['token'] else ''}")
    for note in page["notes"]:
        tell(f"note: {note}")
