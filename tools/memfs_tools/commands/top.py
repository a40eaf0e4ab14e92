"""`memfs top`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs_tools.arguments import MOUNTPOINT
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs_tools.live.sampling import Sample

_INTERVAL_S = 1.0


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option(
    "--interval",
    "interval_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1, max=3600),
    default=_INTERVAL_S,
    show_default=True,
    help="Between two looks.",
)
@click.option("--once", is_flag=True, help="Look twice, print what was between, and end.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON each interval; for programs.")
def top(mountpoint: Path, interval_s: float, once: bool, as_json: bool) -> None:
    """Watch a mount work: tiers, programs and moves, live on the terminal.

    \b
    memfs top /mnt/data
    memfs top --once /mnt/data
    memfs top --json --interval 10 /mnt/data | jq '.programs[0]'

    \b
    t        tiers: what is to be known of each
    p        programs, by the bytes of the files that they opened
    m        moves under way with their speed, and those that wait, each with its reason
    s        sort by the next column
    /        show only what has a text in its name or reason; escape shows all again
    arrows   go through long lists; page up, page down, home
    q        end

    Opened bytes are sizes of files: how much of a file a program reads, the kernel does not tell
    where it passes reads through.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = require_mount(mountpoint)
    # Imported here: what draws takes 0.1 s, and a call that is refused need not pay for it.
    from memfs_tools.live.sampling import Watched, rates, take_sample
    from memfs_tools.live.sampling import as_json as json_of

    watched = Watched(served.mountpoint)

    def take() -> Sample:
        return take_sample(watched.mount())

    if as_json or once:
        before = take()
        while True:
            time.sleep(interval_s)
            now = take()
            if as_json:
                tell_json(json_of(now, rates(before, now)), indent=None)
            else:
                from memfs_tools.display import print_part
                from memfs_tools.live.screen import TopScreen

                screen = TopScreen()
                screen.take(before)
                screen.take(now)
                print_part(screen.print_all)
            if once:
                return
            before = now
    from memfs_tools.live.loop import is_terminal, show_live
    from memfs_tools.live.screen import TopScreen as LiveScreen

    if not is_terminal():
        raise UsageError("this is no terminal that can be drawn on; use --once or --json")
    if status := show_live(take, LiveScreen(), interval_s):
        raise click.exceptions.Exit(status)
