"""`memfs scrub`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_count, format_size, parse_size
from memfs_tools.arguments import AS_JSON, MOUNTPOINT
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import complain, tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.client.mount import Mount
    from memfs.control.methods.upkeep import ScrubReport

_POLL_S = 0.3


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option(
    "--rate", default="64MiB", show_default=True, metavar="SIZE", help="Bytes a second at most."
)
@click.option("--restart", is_flag=True, help="From the first file, wherever the last one was.")
@click.option("--wait/--no-wait", default=True, help="Return at the end, or at once.")
@click.option("--status", "only_look", is_flag=True, help="Tell how far it is, and start nothing.")
@click.option("--stop", is_flag=True, help="Stop one that runs; the next one goes on from there.")
@AS_JSON
def scrub(
    mountpoint: Path,
    rate: str,
    restart: bool,
    wait: bool,
    only_look: bool,
    stop: bool,
    as_json: bool,
) -> None:
    """Read all forms of all files, check their digests, and repair what is damaged.

    \b
    memfs scrub /mnt/data
    memfs scrub --rate 500MiB --no-wait /mnt/data
    memfs scrub --status /mnt/data

    A damaged form is replaced from a sound one. Where no form is sound, nothing is thrown away:
    the frames that can be read still are, and the file is reported. Ctrl-C stops it; the next
    scrub goes on with the file that it was at.

    Exits with 1 if a file is damaged beyond repair, or if a form could not be read: a key or a
    codec is missing, the store is down. Archived objects are left out, and counted.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = require_mount(mountpoint)
    if only_look or stop:
        _report(served.scrub_stop() if stop else served.scrub_progress(), as_json=as_json)
        return
    progress = served.scrub(parse_size(rate), restart=restart)
    if wait:
        progress = _follow(served, progress, hidden=as_json)
    _report(progress, as_json=as_json)


def _follow(served: Mount, progress: ScrubReport, *, hidden: bool) -> ScrubReport:
    """Show how far it is until it ends; Ctrl-C stops it."""
    # Imported here: what draws bars takes 0.1 s, which a mere question need not pay.
    from memfs_tools.display import progress_bar

    with progress_bar(hidden=hidden) as show:
        try:
            while progress["running"]:
                show(
                    f"{format_size(progress['read_bytes'])} read",
                    progress["file_count"],
                    progress["total_count"],
                )
                time.sleep(_POLL_S)
                progress = served.scrub_progress()
        except KeyboardInterrupt:
            progress = served.scrub_stop()
            complain(f"stopped; {_summary(progress)}; run it again to go on")
            raise
    return progress


def _report(progress: ScrubReport, *, as_json: bool) -> None:
    if as_json:
        tell_json(progress)
    else:
        for finding in progress["findings"]:
            tell(f"{finding['path']}: {finding['outcome']}: {finding['detail']}")
        tell(_summary(progress))
    if progress["error"] is not None:
        raise UsageError(f"the scrub stopped: {progress['error']}", ExitCode.PROBLEMS)
    if progress["unchecked_reason"] is not None and not as_json:
        complain(f"not all could be read: {progress['unchecked_reason']}")
    is_bad = progress["outcomes"]["quarantined"] or progress["outcomes"]["differs"]
    if is_bad or progress["unchecked_reason"] is not None:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _summary(progress: ScrubReport) -> str:
    outcomes = progress["outcomes"]
    told = [
        f"{outcomes[name]} {name}" for name in ("repaired", "waiting", "differs", "quarantined")
    ]
    damaged = ", ".join(each for each in told if not each.startswith("0 ")) or "no damage"
    unchecked = progress["unchecked_count"]
    left_out = f", {unchecked} with forms out of reach" if unchecked else ""
    running = "running; " if progress["running"] else ""
    return (
        f"{running}{format_count(progress['file_count'], 'file')}, "
        f"{format_size(progress['read_bytes'])} read: {damaged}{left_out}"
    )
