"""`memfs rekey`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs.control.client import ControlError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_size
from memfs_tools.arguments import AS_JSON, PATHS
from memfs_tools.terminal import complain, tell, tell_json
from memfs_tools.tree_work import LEFT_WORDS, Totals, TreeWork, Work

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.client.mount import Mount
    from memfs.control.methods.trees import WorkReport

_WORDS = {"unneeded": "as they should be", **LEFT_WORDS}


@click.command()
@PATHS
@click.option("--dry-run", is_flag=True, help="Only count what is under which key.")
@AS_JSON
def rekey(paths: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
    """Encrypt stored files again with the first of the mount's keys.

    \b
    memfs key generate /etc/memfs/key-2027         and name it first in encryption.keys
    memfs umount /mnt/data; memfs mount /mnt/data  with both keys
    memfs rekey /mnt/data                          then the former key can go
    memfs rekey --dry-run /mnt/data                what is under which key

    Trees are taken whole. With the root of the mount, what only snapshots show is encrypted again
    too, and an export is made that the new key alone opens. Finished work stays: stopped by
    Ctrl-C, running it again goes on from there. Exits with 1 if a file failed or was being written.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    totals, kept_totals = Totals(), Totals()
    keys: dict[str, list[int]] = {}

    def add_keys(answer: WorkReport) -> None:
        for key_id, (count, size) in answer["keys"].items():
            known = keys.setdefault(key_id, [0, 0])
            known[0] += count
            known[1] += size

    def call(mount: Mount, inos: list[int], left_s: float) -> WorkReport:
        return mount.rekey(inos, dry_run=dry_run, timeout_s=left_s)

    def call_kept(mount: Mount, blobs: list[int], left_s: float) -> WorkReport:
        return mount.rekey_kept(blobs, dry_run=dry_run, timeout_s=left_s)

    def describe(done: Totals) -> str:
        return f"{format_size(done.moved_bytes)} rekeyed"

    served = TreeWork(Work(call), totals, add_keys).run(paths, describe, hidden=as_json)
    whole = any(path.resolve() == served.mountpoint for path in paths)
    if whole:
        work = TreeWork(Work(call_kept), kept_totals, add_keys)
        work.run_on(served, _list_kept(served), describe, hidden=as_json)
    if as_json:
        kept = kept_totals.to_json() if whole else None
        tell_json(totals.to_json() | {"keys": keys, "snapshots": kept})
    else:
        totals.tell_failures()
        kept_totals.tell_failures()
        for key_id, (count, size) in sorted(keys.items()):
            name = f"key {key_id}" if key_id else "in clear"
            before = "" if dry_run else " before"
            tell(f"{name}: {count} forms, {format_size(size)}{before}")
        tell(f"{totals.file_count} files: {_count(totals, dry_run=dry_run)}")
        if kept_totals.file_count:
            told = _count(kept_totals, dry_run=dry_run)
            tell(f"contents that only snapshots show, {kept_totals.file_count}: {told}")
        if not whole and served.kept_blobs(limit=1):
            tell(
                "what only snapshots show was left out: "
                f"`memfs rekey {served.mountpoint}` looks at it too"
            )
    is_exported = True
    if whole and not dry_run and totals.outcomes["done"] + kept_totals.outcomes["done"]:
        is_exported = _export(served, hidden=as_json)
    if not (totals.complete and kept_totals.complete and is_exported):
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _export(served: Mount, *, hidden: bool) -> bool:
    """Have an export that needs the first key alone; returns whether there is one, if any."""
    try:
        if not served.snapshots.exports()["exports"]:
            return True
    except ControlError:
        # It has no store of its own.
        return True
    # Imported here: what draws bars takes 0.1 s.
    from memfs_tools.exports import export_now

    report = export_now(served, hidden=hidden)
    if report["error"] is not None:
        complain(f"the newest export needs the former key: {report['error']}")
        return False
    newest, *older = report["exports"]
    if former := [each["id"] for each in older if each["key"] != newest["key"]]:
        complain(
            f"exports of before need the former key: {', '.join(former)}; they go as newer ones "
            "are made (snapshots.export_keep_count)"
        )
    return True


def _list_kept(served: Mount) -> Iterator[tuple[int, str]]:
    """Yield the contents that only snapshots show; they have no name outside of these."""
    after = 0
    while blobs := served.kept_blobs(after):
        yield from ((blob, f"content {blob} of snapshots") for blob in blobs)
        after = blobs[-1]


def _count(totals: Totals, *, dry_run: bool) -> str:
    return f"{totals.count_done(dry_run=dry_run)} rekeyed; others: {totals.count(_WORDS)}"
