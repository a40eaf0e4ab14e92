"""`memfs what-if`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from memfs.errors import InvalidValueError, UsageError
from memfs.sizes import format_size, parse_size
from memfs_tools.arguments import AS_JSON, GivenPath
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path


@click.command("what-if")
@click.option(
    "--trace",
    "trace_path",
    required=True,
    type=GivenPath(),
    help="A recorded trace, or CSV or Parquet with the columns key and size.",
)
@click.option("--warm", required=True, metavar="SIZE", help="RAM: 16GiB, or 30% of all files.")
@click.option("--cold", metavar="SIZE", help="Disk, likewise; without it all files have room.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME",
    default=("s3fifo", "lru"),
    show_default=True,
    help="s3fifo (what memfs does), lru, fifo or no-evict; may be given several times.",
)
@click.option("--predict", is_flag=True, help="Tell what prediction foresees, too; takes longer.")
@AS_JSON
def what_if(
    trace_path: Path,
    warm: str,
    cold: str | None,
    policies: tuple[str, ...],
    predict: bool,
    as_json: bool,
) -> None:
    """Replay a trace: what would other capacities, or another policy, have done?

    \b
    memfs what-if --trace /var/tmp/monday --warm 16GiB
    memfs what-if --trace accesses.csv --warm 10% --cold 50% --policy s3fifo --policy no-evict

    Shown are the shares of accesses and of bytes that RAM serves, what moves between the tiers,
    Belady's policy, which knows the future, and a bound that no policy exceeds. No mount is needed.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    # Imported here: the help does not need it.
    from memfs.simulation.comparison import Capacities, compare
    from memfs.simulation.foresight import foresee
    from memfs.simulation.policies import find_policy
    from memfs.traces.reading import read_trace
    from memfs_tools.display import print_comparison, progress_bar

    try:
        for name in policies:
            find_policy(name)
        with progress_bar(hidden=as_json) as show:
            trace = read_trace(trace_path, lambda done, total: show("reading", done, total))
            footprint_bytes = trace.footprint_bytes()
            capacities = Capacities(
                _capacity("--warm", warm, footprint_bytes),
                None if cold is None else _capacity("--cold", cold, footprint_bytes),
            )
            if capacities.cold_bytes is not None and capacities.cold_bytes < capacities.warm_bytes:
                raise UsageError(
                    f"--cold is {format_size(capacities.cold_bytes)}, less than --warm with "
                    f"{format_size(capacities.warm_bytes)}; files in RAM are on the disk, too"
                )
            comparison = compare(trace, capacities, policies, show)
            foresight = foresee(trace, partial(show, "prediction")) if predict else None
    except InvalidValueError as error:
        raise UsageError(str(error)) from None
    if as_json:
        answer = comparison.to_json()
        if foresight is not None:
            answer["prediction"] = foresight.to_json()
        tell_json(answer)
        return
    print_comparison(comparison)
    if foresight is not None:
        tell(f"  {foresight.conclusion}")


def _capacity(option: str, text: str, footprint_bytes: int) -> int:
    """Return bytes of a size, or of a share of all files."""
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if not 0 < share <= 1:
                raise ValueError
            return int(footprint_bytes * share)
        size_bytes = parse_size(text)
    except ValueError:
        raise UsageError(f"{option} {text}: a share lies above 0% and up to 100%") from None
    except InvalidValueError as error:
        raise UsageError(f"{option}: {error}, or a share like 30%") from None
    if size_bytes == 0:
        raise UsageError(f"{option} {text}: a tier without room needs no replay")
    return size_bytes
