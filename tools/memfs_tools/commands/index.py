"""`memfs index`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memfs.control.typed import encode
from memfs.query.fields import ATTRIBUTE_PREFIX
from memfs_tools.arguments import AS_JSON, MOUNT, MOUNTPOINT
from memfs_tools.mounts import choose_mount, find_mount_at, meant_mount, require_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from memfs.client.mount import Mount

_FIELDS = click.argument("words", nargs=-1, required=True, metavar="[MOUNTPOINT] FIELD...")

_LOOK_S = 0.1
"""Between two looks at what the daemon does."""


@click.group()
def index() -> None:
    """Look at the indexes that `memfs query` finds files by, add and drop some.

    \b
    memfs index list /mnt/data
    memfs index add /mnt/data size
    memfs index add /mnt/data --text note

    Without MOUNTPOINT and --mount it is the mount around the working directory, or the only one.
    """  # noqa: D301 - \b is for click: keep the lines below as they are


@index.command("list")
@click.argument("mountpoint", type=MOUNTPOINT, required=False)
@MOUNT
@AS_JSON
def list_names(mountpoint: Path | None, place: Path | None, as_json: bool) -> None:
    """Show the indexes: those that were added, and that of xattrs, with their names.

    \b
    memfs index list /mnt/data
    """  # noqa: D301 - likewise
    # Imported here: it takes 0.1 s.
    from memfs_tools.display import element_state, index_name, index_state

    report = meant_mount(mountpoint, place).query_index()
    if as_json:
        tell_json({key: encode(value) for key, value in report.items()})
        return
    for each in report["fields"]:
        tell(f"{index_name(each)}: {index_state(each)}")
    for name in report["names"]:
        tell(name)
    found = report["index"]
    if not found.enabled:
        tell("xattrs: off; set query.enabled and mount again")
    elif not found.is_whole:
        tell(f"xattrs: being built: {found.through} of {found.last} inodes are in it")
    elif found.is_short_of_names:
        tell("xattrs: complete but for further names; raise query.name_count_max and mount again")
    else:
        tell("xattrs: complete")
    if found.enabled and not found.elements.is_whole:
        tell(f"elements of JSON arrays: {element_state(found.elements)}")


@index.command()
@_FIELDS
@MOUNT
@click.option("--text", is_flag=True, help="FIELD is an xattr; the index has its texts.")
@click.option("--no-wait", is_flag=True, help="Leave the daemon to it.")
def add(words: tuple[str, ...], place: Path | None, text: bool, no_wait: bool) -> None:
    """Build indexes of size, mtime or name, or of the texts in xattrs.

    \b
    memfs index add /mnt/data size
    memfs index add /mnt/data name mtime --no-wait
    memfs index add /mnt/data --text note
    cd /mnt/data; memfs index add size

    Those of size and mtime lead queries and orders by $size and $mtime, that of name leads
    memfs query --text, and $text and $contains of $name. One of the texts in user.note leads
    $text, $contains and most patterns of note; its values have the index of all xattrs already.

    The daemon builds while it serves, and goes on after a kill. Each change of a file costs a
    little more from then on.
    """  # noqa: D301 - likewise
    served, fields = _split(words, place)
    if not text and (xattrs := [each for each in fields if each.startswith(ATTRIBUTE_PREFIX)]):
        raise click.UsageError(
            f"{', '.join(xattrs)}: xattrs are indexed as they are set; --text adds an index of "
            "the texts in them"
        )
    named = _named(fields, text=text)
    for field in named:
        served.index_add(field)
    if not no_wait:
        _wait(served, named, "building")


@index.command()
@_FIELDS
@MOUNT
@click.option("--text", is_flag=True, help="FIELD is an xattr; the index has its texts.")
@click.option("--no-wait", is_flag=True, help="Leave the daemon to it.")
def drop(words: tuple[str, ...], place: Path | None, text: bool, no_wait: bool) -> None:
    """Remove indexes that were added; queries look at all files again.

    \b
    memfs index drop /mnt/data size
    memfs index drop /mnt/data --text note
    """  # noqa: D301 - likewise
    served, fields = _split(words, place)
    named = _named(fields, text=text)
    for field in named:
        served.index_drop(field)
    if not no_wait:
        _wait(served, named, "leaving")


def _split(words: tuple[str, ...], place: Path | None) -> tuple[Mount, tuple[str, ...]]:
    """Return the mount and the fields: the first word is a mount if one is there, or a path."""
    first = words[0]
    if place is not None or not (
        first in (".", "..")
        or first.startswith(("/", "./", "../"))
        or find_mount_at(Path(first)) is not None
    ):
        return choose_mount(place), words
    if len(words) == 1:
        raise click.UsageError("Missing argument 'FIELD...'.")
    return require_mount(Path(first)), words[1:]


def _named(fields: tuple[str, ...], *, text: bool) -> list[str]:
    """Return fields with their `$`, which a shell makes hard to write, or xattrs in full.

    Args:
        fields: As users write them.
        text: Those without a `$` are xattrs, as in a filter.
    """
    other = ATTRIBUTE_PREFIX if text else "$"
    return [
        field if field.startswith(("$", ATTRIBUTE_PREFIX)) else other + field for field in fields
    ]


def _wait(served: Mount, fields: list[str], state: str) -> None:
    """Wait until indexes are in a state no longer, and show how far they are."""
    from memfs_tools.display import index_name, progress_bar

    with progress_bar(hidden=False) as show:
        while left := [
            each
            for each in served.query_index()["fields"]
            if each.field in fields and each.state == state
        ]:
            first = left[0]
            is_known = state == "building"
            show(
                f"{index_name(first)}: {state}",
                first.through if is_known else 0,
                first.last if is_known else 0,
            )
            time.sleep(_LOOK_S)
