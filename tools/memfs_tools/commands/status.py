"""`memfs status`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from memfs.control.typed import encode
from memfs_tools.arguments import AS_JSON, MOUNTPOINT
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.control.report import StatusReport

_INTERVAL_S = 2.0


class _Command(click.Command):
    """Lets `--watch` stand before the mountpoint without a number."""

    def make_parser(self, ctx: click.Context) -> Any:  # noqa: ANN401 - of a class without a name
        """Return click's parser, which would take the mountpoint for the number."""
        parser = super().make_parser(ctx)
        parse = parser.parse_args
        parser.parse_args = lambda args: parse(_with_number(args))  # type: ignore[method-assign]  # no hook
        return parser


def _with_number(words: list[str]) -> list[str]:
    """Return the words of a command with a number behind each `--watch`."""
    given = [*words]
    for at, word in enumerate(given[:-1]):
        if word == "--watch" and not _is_number(given[at + 1]):
            given[at] = f"--watch={_INTERVAL_S}"
    return given


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@click.command(cls=_Command)
@click.argument("mountpoint", type=MOUNTPOINT)
@AS_JSON
@click.option(
    "--watch",
    "watch_s",
    metavar="[SECONDS]",
    type=click.FloatRange(min=0.1, max=3600),
    is_flag=False,
    flag_value=_INTERVAL_S,
    help="Show it again and again, every 2 seconds or as often as said; q ends.",
)
def status(mountpoint: Path, as_json: bool, watch_s: float | None) -> None:
    """Show tiers, driver and work of a mount.

    \b
    memfs status /mnt/data
    memfs status --watch /mnt/data
    memfs status --json /mnt/data | jq '.tiers[] | [.tier, .used_bytes]'
    memfs status --json --watch 10 /mnt/data | jq --unbuffered '.work.pending_count'

    With --watch a terminal is drawn anew; a file or a pipe has one report after the other, and with
    --json each of them is one line. `memfs top` shows rates, programs and moves as well.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = require_mount(mountpoint)

    def take() -> StatusReport:
        return require_mount(served.mountpoint).status()

    if watch_s is None:
        _show(take(), as_json=as_json, indent=2)
        return
    # Imported here: what draws takes 0.1 s, which programs that ask often need not pay.
    if not as_json and sys.stdout.isatty():
        from memfs_tools.live.loop import is_terminal, show_live
        from memfs_tools.live.sampling import Watched
        from memfs_tools.live.screen import StatusScreen

        if is_terminal():
            watched = Watched(served.mountpoint)
            if code := show_live(lambda: watched.mount().status(), StatusScreen(), watch_s):
                raise click.exceptions.Exit(code)
            return
    while True:
        _show(take(), as_json=as_json, indent=None)
        if not as_json:
            tell("")
        sys.stdout.flush()
        time.sleep(watch_s)


def _show(report: StatusReport, *, as_json: bool, indent: int | None) -> None:
    if as_json:
        tell_json(encode(report), indent=indent)
        return
    from memfs_tools.display import print_status

    print_status(report)
