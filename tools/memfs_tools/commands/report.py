"""`memfs report`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memfs_tools.arguments import AS_JSON, MOUNTPOINT
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import complain, tell, tell_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.report.charts import Chart
    from memfs.report.gathering import Gathered
    from memfs.report.sentences import Sentence


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
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
@click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="NAME=AMOUNT",
    help="What the provider of the object store asks for: stored (a GiB a month), requests (a "
    "thousand of them), received or sent (a GiB); may be given several times.",
)
@AS_JSON
def report(
    mountpoint: Path, html: Path | None, span: str, prices: tuple[str, ...], as_json: bool
) -> None:
    """Tell in sentences what is too small, what waits, what it costs, and what to do.

    \b
    memfs report /mnt/data
    memfs report /mnt/data --html /tmp/data.html
    memfs report /mnt/data --span month --price stored=0.0036 --price requests=0.03
    memfs report /mnt/data --json | jq -r '.sentences[] | select(.weight == "act") | .text'

    The page begins with the same sentences. Its charts show use by tier over time, flows between
    tiers, opens by level, durations of requests, the hottest and the coldest files, compression,
    the object store, snapshots, and what waits. Behind each chart is its table.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    # Imported here: the help does not need it.
    from memfs.report.charts import charts
    from memfs.report.gathering import gather
    from memfs.report.page import render
    from memfs.report.sentences import sentences

    asked = dict(map(_price, prices))
    gathered = gather(require_mount(mountpoint), span)
    told, drawn = sentences(gathered, asked), charts(gathered, asked)
    if html is not None:
        _write(html, render(gathered, told, drawn))
    if as_json:
        tell_json(_json(gathered, told, drawn))
        return
    for sentence in told:
        mark = {"act": "!", "know": "-", "good": "+"}[sentence.weight]
        tell(f"{mark} {sentence.text} {sentence.remedy}".rstrip())
    if html is not None:
        complain(f"written: {html}")


def _price(text: str) -> tuple[str, float]:
    from memfs.report.sentences import PRICES

    name, _, amount = text.partition("=")
    try:
        price = float(amount)
    except ValueError:
        price = -1.0
    if name not in PRICES or not 0 <= price < 1e9:
        known = ", ".join(f"{name} ({what})" for name, what in PRICES.items())
        raise click.UsageError(f"{text!r} is no price; write NAME=AMOUNT, with one of {known}.")
    return name, price


def _json(gathered: Gathered, told: Sequence[Sentence], drawn: Sequence[Chart]) -> dict[str, Any]:
    return {
        "mountpoint": gathered.status.mountpoint,
        "made_s": int(gathered.now_s),
        "span": gathered.span,
        "resolution_s": gathered.resolution_s,
        "sentences": [sentence._asdict() for sentence in told],
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


def _write(path: Path, text: str) -> None:
    """Write a file whole, or not at all."""
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            # It names files: for its owner alone, as the control socket is.
            os.fchmod(file.fileno(), 0o600)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
