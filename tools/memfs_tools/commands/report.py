"""`memfs report`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from memfs_tools.arguments import AS_JSON, MOUNTPOINT, GivenPath, price_options, repricing
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import complain, tell, tell_json
from memfs_tools.whole_files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memfs.report.gathering import Gathered
    from memfs.report.options import Chart
    from memfs.report.sentences import Sentence


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option(
    "--html",
    type=GivenPath(dir_okay=False),
    metavar="FILE",
    help="Write a page with charts there: one file, which opens without a network.",
)
@click.option(
    "--span",
    type=click.Choice(["hour", "day", "month", "years"]),
    default="day",
    show_default=True,
    help="How far back it looks.",
)
@price_options
@click.option(
    "--trace",
    type=GivenPath(exists=True),
    metavar="DIRECTORY",
    help="Tell what other sizes would serve by this trace; else by the one that the mount records "
    "or has recorded.",
)
@AS_JSON
def report(
    mountpoint: Path,
    html: Path | None,
    span: str,
    prices: tuple[str, ...],
    currency: str | None,
    trace: Path | None,
    as_json: bool,
) -> None:
    """Tell in sentences what is too small, what waits, what it costs, and what to do.

    \b
    memfs report /mnt/data
    memfs report /mnt/data --html /tmp/data.html
    memfs report /mnt/data --span month --price stored=0.0036 --price warm=2 --currency EUR
    memfs report /mnt/data --trace /var/tmp/monday
    memfs report /mnt/data --json | jq -r '.sentences[] | select(.weight == "act") | .text'

    Where the mount has recorded a trace (`memfs trace start`), other sizes of RAM and disk are
    tried on it: "With 16 GiB of RAM instead of 8 GiB, 91% instead of 72% of the opens would be
    served from RAM". Without one, rules of thumb tell what is too small, and the report says so.

    The page begins with the same sentences. Its charts show use by tier over time, flows between
    tiers, opens by level, other sizes of the tiers, durations of requests, the hottest and the
    coldest files, compression, the object store, what a month costs, snapshots, and what waits.
    Behind each chart is its table.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    # Imported here: the help does not need it.
    from memfs.report.charts import charts
    from memfs.report.gathering import gather
    from memfs.report.page import render
    from memfs.report.sentences import sentences
    from memfs.report.trials import try_sizes_of
    from memfs_tools.display import progress_bar

    reprice = repricing(prices, currency)
    mount = require_mount(mountpoint)
    gathered = gather(mount, span, with_held=True)
    status = gathered.status
    with progress_bar(hidden=as_json) as show:
        tried = try_sizes_of(status, mount.trace_status(), trace, show)
    gathered = gathered._replace(status=status._replace(prices=reprice(status.prices)), tried=tried)
    told, drawn = sentences(gathered), charts(gathered)
    if html is not None:
        # It names files: for its owner alone, as the control socket is.
        write_whole(html, render(gathered, told, drawn), 0o600)
    if as_json:
        tell_json(_json(gathered, told, drawn))
        return
    for sentence in told:
        mark = {"act": "!", "know": "-", "good": "+"}[sentence.weight]
        tell(f"{mark} {sentence.text} {sentence.remedy}".rstrip())
    if html is not None:
        complain(f"written: {html}")


def _json(gathered: Gathered, told: Sequence[Sentence], drawn: Sequence[Chart]) -> dict[str, Any]:
    return {
        "mountpoint": gathered.status.mountpoint,
        "made_s": int(gathered.now_s),
        "span": gathered.span,
        "resolution_s": gathered.resolution_s,
        "sentences": [sentence._asdict() for sentence in told],
        "sizes_by": "trace" if gathered.tried.trials is not None else "rules",
        "tables": {
            chart.name: [dict(zip(chart.head, row, strict=True)) for row in chart.rows]
            for chart in drawn
        },
        "periods": [
            {"at_s": period.at_s, "numbers": dict(period.numbers)} for period in gathered.periods
        ],
        "heat": gathered.heat,
        "events": list(gathered.events),
    }
