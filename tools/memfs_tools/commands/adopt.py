"""`memfs adopt`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_count, format_duration, format_size, parse_duration
from memfs_tools.arguments import AS_JSON, MOUNTPOINT, GivenPath
from memfs_tools.mounts import find_mount_above
from memfs_tools.terminal import complain, tell, tell_json
from memfs_tools.tree_work import Totals, TreeWork, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.client.mount import Mount
    from memfs.control.methods.adoption import AdoptReport
    from memfs.control.methods.trees import WorkReport

_KEYS_SHOWN_MAX = 20


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[URL] PATH")
@click.option("--refresh", is_flag=True, help="List the source of PATH again.")
@click.option("--own", is_flag=True, help="Fetch the files of PATH; they are memfs's own then.")
@click.option("--forget", is_flag=True, help="Give the source of PATH up, once no file needs it.")
@click.option("--list", "as_list", is_flag=True, help="List the sources of the mount PATH.")
@click.option("--lazy", is_flag=True, help="List a directory when somebody first looks into it.")
@click.option(
    "--head", is_flag=True, help="Take content type and metadata as xattrs: a request each."
)
@click.option("--mode", metavar="MODE", help="Permission bits of files, such as 0644.")
@click.option("--uid", type=int, help="Owner of files; by default that of PATH.")
@click.option("--gid", type=int, help="Group of files; by default that of PATH.")
@click.option("--watch", metavar="TIME", help="List the source again each 10m, 1h; 0: never.")
@click.option(
    "--deleted",
    type=click.Choice(["keep", "remove"]),
    help="What becomes of files whose object is gone; by default they are kept.",
)
@click.option("--confirm", is_flag=True, help="Remove files though more than a tenth is gone.")
@click.option("--store", metavar="NAME", help="The store that has the credentials.")
@click.option(
    "--option", "options", multiple=True, metavar="NAME=VALUE", help="A key of the store's options."
)
@click.option("--reference", "take", flag_value="reference", help="Read a directory where it is.")
@click.option("--copy", "take", flag_value="copy", help="Copy a directory, blocks shared.")
@click.option("--move", "take", flag_value="move", help="Move a directory, without a copy.")
@AS_JSON
def adopt(
    arguments: tuple[str, ...],
    refresh: bool,
    own: bool,
    forget: bool,
    as_list: bool,
    lazy: bool,
    head: bool,
    mode: str | None,
    uid: int | None,
    gid: int | None,
    watch: str | None,
    deleted: str | None,
    confirm: bool,
    store: str | None,
    options: tuple[str, ...],
    take: str | None,
    as_json: bool,
) -> None:
    """Make files of the objects of a bucket, without copying a byte.

    \b
    memfs adopt s3://bucket/photos /mnt/data/photos
    memfs adopt --lazy s3://bucket /mnt/data/all     at once, however large the bucket is
    memfs adopt --reference /srv/old /mnt/data/old   a directory; also --copy, --move
    memfs adopt --watch 10m --deleted remove s3://bucket/live /mnt/data/live
    memfs adopt --refresh /mnt/data/photos    what has changed in the bucket
    memfs adopt --own /mnt/data/photos/2024   fetch files, which are memfs's own then
    memfs adopt --list /mnt/data              all sources
    memfs adopt --forget /mnt/data/photos     give the source up

    A file is fetched when it is read, and moves between the tiers as all others. memfs never writes
    to the bucket, and never removes anything there: a file that is changed is changed here. An open
    file never has bytes of two versions of an object. PATH is made if it is missing. Credentials
    are those of --store, of glacier.options, or of the environment.
    With --lazy a directory is listed when somebody first looks into it; queries and catalogues know
    what was listed so far, --watch follows that, and --refresh lists all.
    Stopped by Ctrl-C, running it again goes on from there. Exits with 1 if something needs a look.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    chosen = sum((refresh, own, forget, as_list))
    if chosen > 1:
        raise click.UsageError("--refresh, --own, --forget and --list exclude each other")
    if len(arguments) != (1 if chosen else 2):
        raise click.UsageError("give PATH" if chosen else "give URL and PATH")
    if (lazy or head) and chosen:
        raise click.UsageError("--lazy and --head are for URL and PATH")
    path = MOUNTPOINT.convert(arguments[-1], None, None)
    watch_s = None if watch is None else _seconds(watch)
    if own:
        _own(path, as_json=as_json)
        return
    served = _mount_of(path)
    if as_list:
        _tell_sources(served, as_json=as_json)
        return
    if forget:
        count = served.adoption.forget(path)
        if as_json:
            tell_json({"forgotten_count": count})
        else:
            tell(f"{count} key{'s' * (count != 1)} forgotten")
        return

    url = arguments[0] if take is None or refresh else _directory_url(arguments[0], served)

    def work(told: Callable[[AdoptReport], None]) -> AdoptReport:
        if refresh:
            return served.adoption.refresh(
                path, watch_s=watch_s, deleted=deleted, confirm=confirm, on_progress=told
            )
        return served.adoption.adopt(
            url,
            path,
            mode=None if mode is None else _octal(mode),
            uid=uid,
            gid=gid,
            watch_s=watch_s,
            deleted=deleted,
            store=store,
            take=take,
            options=_options(options),
            lazy=lazy,
            head=head,
            on_progress=told,
        )

    _follow(work, as_json=as_json, lazy=lazy)


@click.command()
@click.argument("path", type=GivenPath())
@AS_JSON
def release(path: Path, as_json: bool) -> None:
    """Give a directory back what was adopted from it.

    \b
    memfs adopt --move /srv/old /mnt/data/old
    memfs release /mnt/data/old               all is in /srv/old again

    Files that were moved go back, with all that was changed meanwhile, and new ones go with them.
    Files that were copied, or referred to, are there still: their names in the mount go, and those
    that were written in the mount stay and are told. PATH is gone in the end.
    Stopped by Ctrl-C, running it again goes on from there. Exits with 1 if something stays.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = _mount_of(path)

    def work(told: Callable[[AdoptReport], None]) -> AdoptReport:
        return served.adoption.release(path, on_progress=told)

    _follow(work, as_json=as_json)


def _follow(
    work: Callable[[Callable[[AdoptReport], None]], AdoptReport],
    *,
    as_json: bool,
    lazy: bool = False,
) -> None:
    """Do some work, and say what it came to."""
    report = _watched(work, hidden=as_json)
    if as_json:
        tell_json({name: value for name, value in report.items() if name != "ended"})
    elif lazy:
        tell("adopted; a directory is listed when somebody first looks into it")
    else:
        _tell(report)
    if report["problem"] or report["refused_count"] or report["failed_count"]:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _watched(
    work: Callable[[Callable[[AdoptReport], None]], AdoptReport], *, hidden: bool
) -> AdoptReport:
    # Imported here: what draws bars takes 0.1 s.
    from memfs_tools.display import progress_bar

    with progress_bar(hidden=hidden) as show:

        def told(report: AdoptReport) -> None:
            show(_done(report), report["listed_count"], 0)

        try:
            return work(told)
        except KeyboardInterrupt:
            complain("stopped; run it again to go on")
            raise


def _done(report: AdoptReport) -> str:
    """Return in words what was done."""
    if report["waiting"]:
        return "waits for a listing that is under way"
    parts = []
    if report["listed_count"] or not report["taken_count"]:
        count = format_count(report["listed_count"], "object")
        parts.append(f"{count} of {format_size(report['listed_bytes'])} listed")
    for name, word in (
        ("made_count", "new"),
        ("replaced_count", "changed"),
        ("removed_count", "removed"),
        ("gone_count", "gone and kept"),
        ("conflict_count", "changed here, which stay"),
    ):
        if report[name]:  # type: ignore[literal-required]
            parts.append(f"{report[name]} {word}")  # type: ignore[literal-required]
    if report["taken_count"]:
        count = format_count(report["taken_count"], "file")
        parts.append(f"{count} of {format_size(report['taken_bytes'])} done")
    return ", ".join(parts)


def _tell(report: AdoptReport) -> None:
    tell(_done(report))
    for name, sentence in (
        ("odd", "keys that cannot be names, and their paths:"),
        ("refused", "keys without a file, since something else has the name:"),
    ):
        count, keys = report[f"{name}_count"], report[name]  # type: ignore[literal-required]
        if not count:
            continue
        tell(f"{count} {sentence}")
        for key in keys[:_KEYS_SHOWN_MAX]:
            tell(f"  {key}")
        if count > _KEYS_SHOWN_MAX:
            tell(f"  and {count - _KEYS_SHOWN_MAX} more")
    for failure in report["failures"][:_KEYS_SHOWN_MAX]:
        complain(failure)
    if report["failed_count"] > _KEYS_SHOWN_MAX:
        complain(f"and {report['failed_count'] - _KEYS_SHOWN_MAX} more")
    if report["problem"]:
        complain(report["problem"])


def _tell_sources(served: Mount, *, as_json: bool) -> None:
    sources = served.adoption.sources()
    if as_json:
        tell_json(sources)
        return
    if not sources:
        tell("nothing was adopted")
    for each in sources:
        watched = f"each {format_duration(each['watch_s'])}" if each["watch_s"] else "on request"
        listed = "never to its end"
        if each["listed_ns"]:
            listed = format_duration(max(0.0, time.time() - each["listed_ns"] / 1e9)) + " ago"
        tell(
            f"{each['path'] or '(removed)'}: {each['url']}, "
            f"{format_count(each['object_count'], 'object')}, listed {watched}, last {listed}"
        )
        if each["unlisted_count"]:
            count = each["unlisted_count"]
            tell(f"  {count} director{'ies' if count != 1 else 'y'} that nobody has looked into")
        for told in (each["waits"], each["problem"]):
            if told:
                complain(f"  {told}")


def _own(path: Path, *, as_json: bool) -> None:
    totals = Totals()

    def call(mount: Mount, inos: list[int], left_s: float) -> WorkReport:
        return mount.adoption.own(inos, timeout_s=left_s)

    def describe(done: Totals) -> str:
        return f"{format_size(done.moved_bytes)} owned"

    TreeWork(Work(call), totals).run((path,), describe, hidden=as_json)
    if as_json:
        tell_json(totals.to_json())
    else:
        totals.tell_failures()
        count = totals.outcomes["done"]
        files, are = format_count(count, "file"), "is" if count == 1 else "are"
        tell(f"{files} of {format_size(totals.moved_bytes)} {are} owned now")
    if not totals.complete:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _directory_url(text: str, served: Mount) -> str:
    """Return the URL of a directory outside of mounts of memfs."""
    path = Path(os.path.realpath(text.removeprefix("file://")))
    if not path.is_dir():
        raise UsageError(f"{text} is no directory; --copy, --move and --reference take one")
    if find_mount_above(path) is not None or served.mountpoint.is_relative_to(path):
        raise UsageError(f"{text} lies in a mount of memfs, or holds one: use mv, or memfs clone")
    return f"file://{quote(os.fsencode(path))}"


def _seconds(text: str) -> int:
    seconds = parse_duration(text)
    return round(seconds)


def _octal(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise click.UsageError(f"--mode {text}: write octal digits, such as 0644") from None


def _options(texts: tuple[str, ...]) -> dict[str, object]:
    options: dict[str, object] = {}
    for text in texts:
        name, found, value = text.partition("=")
        if not found:
            raise click.UsageError(f"--option {text}: write NAME=VALUE")
        options[name] = {"true": True, "false": False}.get(value, value)
    return options


def _mount_of(path: Path) -> Mount:
    """Return the mount that a name lies in; the name need not exist."""
    above = Path(os.path.realpath(path if path.exists() else path.parent))
    found = find_mount_above(above)
    if found is None:
        raise UsageError(f"{path} does not lie in a mount of memfs", ExitCode.NOT_MOUNTED)
    return found
