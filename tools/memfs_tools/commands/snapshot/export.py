"""`memfs snapshot export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs.exit_codes import ExitCode
from memfs.sizes import format_count, format_size
from memfs_tools.arguments import AS_JSON, MOUNT, MOUNTPOINT
from memfs_tools.commands.snapshot.options import show_instant
from memfs_tools.mounts import choose_mount, meant_mount
from memfs_tools.terminal import complain, tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.client.mount import Mount
    from memfs.control.methods.snapshots import ExportNoteReport, ExportsReport


@click.command()
@click.argument("mountpoint", required=False, type=MOUNTPOINT)
@MOUNT
@click.option("--wait", is_flag=True, help="First upload all files that have no object yet.")
@click.option("--list", "only_list", is_flag=True, help="Only list the exports in the store.")
@AS_JSON
def export(
    mountpoint: Path | None, place: Path | None, wait: bool, only_list: bool, as_json: bool
) -> None:
    """Put names, attributes and places of contents beside the objects in the store.

    \b
    memfs snapshot export /mnt/data
    memfs snapshot export --wait /mnt/data      nothing is missing in it then
    memfs snapshot export --list /mnt/data

    With it the object store alone is enough to mount again: see `memfs snapshot import`. A mount
    with `glacier.url` exports every hour by itself (`snapshots.export`). It shows one instant, and
    programs go on meanwhile. Only what has changed since the last export is stored.

    Files whose bytes have no object yet are in it by their names alone, and are counted.

    Exits with 1 if it failed.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    mount = choose_mount(mountpoint) if place is None else meant_mount(mountpoint, place)
    if only_list:
        _list(mount, as_json=as_json)
        return
    if wait:
        _upload(mount, hidden=as_json)
    # Imported here: what draws bars takes 0.1 s.
    from memfs_tools.exports import export_now

    report = export_now(mount, hidden=as_json)
    if as_json:
        tell_json(report)
    else:
        _tell(report)
    if report["error"] is not None:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _upload(mount: Mount, *, hidden: bool) -> None:
    """Upload what has no object; whatever cannot be is counted by the export."""
    from memfs_tools.tree_work import Totals, TreeWork, Work

    totals = Totals()
    work = Work(lambda served, inos, _left_s: served.barrier(inos, "remote"), 4096)
    TreeWork(work, totals).run(
        (mount.mountpoint,), lambda done: f"{format_size(done.moved_bytes)} uploaded", hidden=hidden
    )
    totals.tell_failures()


def _list(mount: Mount, *, as_json: bool) -> None:
    report = mount.snapshots.exports()
    if as_json:
        tell_json(report["exports"])
        return
    for each in report["exports"]:
        tell(_describe(each))
    for lost in report["lost"]:
        tell(f"{lost['id']} cannot be used: {lost['reason']}")


def _tell(report: ExportsReport) -> None:
    if report["error"] is not None:
        complain(f"not exported: {report['error']}")
        return
    tell(_describe(report["exports"][0]))
    stored = format_count(report["stored_count"], "object")
    tell(f"{stored} stored, {format_size(report['stored_bytes'])}")


def _describe(export: ExportNoteReport) -> str:
    files = format_count(export["file_count"], "file")
    told = f"{export['id']}  {show_instant(export['checked_ns'])}  {files}"
    if export["missing_count"]:
        told += (
            f"; {export['missing_count']} of them, {format_size(export['missing_bytes'])}, have no "
            "object"
        )
    return told
