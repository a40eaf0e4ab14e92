"""Tables and bars on a terminal, plain text elsewhere.

Invariant: what is printed to a pipe has no colours and is not cut to the width of a terminal; no
text is taken for markup, and all of it is escaped. Only this module and `live` import `rich`.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from memfs.control.report import COUNT_MAX
from memfs.escaping import escape_text
from memfs.sizes import format_count, format_duration, format_size
from memfs.types import READER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import RenderableType

    from memfs.control.report import (
        CodecReport,
        DatabaseReport,
        ElementsReport,
        ExportReport,
        FieldIndexReport,
        IndexReport,
        PrefetchReport,
        QuotaReport,
        SnapshotsReport,
        StatusReport,
        StoreReport,
        TierReport,
        WorkReport,
    )
    from memfs.simulation.comparison import Comparison

_BAR_CELLS = 20
_PIPE_WIDTH = 200
"""Columns where there is no terminal: wide enough for every table."""


def print_status(report: StatusReport) -> None:
    """Print a mount's status for people."""
    console = make_console()
    console.print(status_head(report), soft_wrap=True)
    for part in status_parts(report):
        console.print(part, soft_wrap=isinstance(part, str))


def print_part(render: Callable[[int], RenderableType]) -> None:
    """Print what is made for a number of columns."""
    console = make_console()
    console.print(render(console.width), soft_wrap=True)


def status_head(report: StatusReport) -> Text:
    """Return the first line of a status."""
    head = Text(escape_text(report.mountpoint), style="bold")
    head.append(
        f"  {report.inode_count} inodes, {format_size(report.logical_bytes)}, "
        f"up {format_duration(report.uptime_s)}",
        style="not bold",
    )
    return head


def status_parts(report: StatusReport) -> Iterator[str | Table]:
    """Yield what follows the first line, line by line and table by table; texts as they are."""
    faster = "; ".join(report.driver.refusals)
    path = "passthrough" if report.driver.passthrough else "served by the daemon"
    rows = [
        ("state", report.state_dir),
        ("driver", f"{report.driver.name}, {path}" + (f" ({faster})" if faster else "")),
        ("store", _store_line(report.store_url or "none", report.store)),
        *((f"store {each.name}", _store_line(each.url, each.store)) for each in report.stores),
        *_database_rows(report.database),
        ("daemon", f"process {report.pid}, {format_size(report.memory_bytes)} of memory"),
    ]
    if report.keys:
        rows.append(("keys", f"{report.keys[0]} encrypts" + _also(report.keys[1:])))
    for name, value in rows:
        yield f"  {name:<8}{value}"
    yield _tier_table(report.tiers)
    yield from status_notes(report)
    for line in _work_lines(report.work):
        yield f"  {line}"


def status_notes(report: StatusReport) -> Iterator[str | Table]:
    """Yield what is to be known beside the use of the tiers and the work."""
    for tier in report.tiers:
        if tier.note is not None:
            yield f"  {tier.tier}: {tier.note}"
    if any(source.issued_count for source in report.prefetch.sources):
        yield _prefetch_table(report.prefetch)
    if report.prefetch.stalled is not None:
        yield f"  prefetch waits: {report.prefetch.stalled}"
    for told in _index_lines(report.xattr_index, report.field_indexes):
        yield f"  {told}"
    if (line := _snapshots_line(report.snapshots)) is not None:
        yield f"  {line}"
    if (note := _export_note(report.export)) is not None:
        yield f"  {note}"
    if report.policy.note is not None:
        yield f"  {report.policy.note}"
    for pool in report.policy.pools:
        used, size = format_size(pool.used_bytes), format_size(pool.size_bytes)
        files = format_count(pool.file_count, "file")
        yield f"  pool {pool.name}: {used} of {size}, {files}"
    for quota in report.quotas:
        yield f"  {_quota_line(quota)}"
    for listing in report.listings:
        yield f"  {listing.url} is not listed again yet: {listing.reason}"
    if (unpublished := report.unpublished) is not None:
        files = format_count(unpublished.file_count, "file")
        are = "is" if unpublished.file_count == 1 else "are"
        yield f"  {files} {are} not published yet: {unpublished.reason}"
    if report.codecs:
        yield _codec_table(report.codecs)


def _database_rows(database: DatabaseReport | None) -> Iterator[tuple[str, str]]:
    """Yield where the names are, and how that answers."""
    if database is None:
        return
    told = f"{database.address}, node {database.node}"
    if database.role == READER:
        yield "names", told + _of_reader(database)
        return
    if database.cut_off_s is not None:
        lasts = format_duration(database.cut_off_s)
        told += f"; does not answer for {lasts}, changes are refused: {database.reason}"
    elif database.reason is not None:
        told += f"; {database.reason}"
    if database.unconfirmed_count and (database.reason or database.unconfirmed_age_s > 1):
        count = format_count(database.unconfirmed_count, "change")
        told += f"; {count} in this node's journal alone"
    yield "names", told


def _of_reader(database: DatabaseReport) -> str:
    """Return how far a node is that reads."""
    told = f", which reads what node {database.writer} writes"
    if database.cut_off_s is not None:
        lasts = format_duration(database.cut_off_s)
        return f"{told}; does not know what that has changed for {lasts}: {database.reason}"
    if database.lag_count:
        return f"{told}; {format_count(database.lag_count, 'change')} behind"
    return told


def _export_note(export: ExportReport | None) -> str | None:
    """Return what would be left if the disk of the state were lost."""
    if export is None:
        return None
    if export.refusal is not None:
        return export.refusal
    if export.age_s is None:
        told = "export: none yet, the object store alone is not enough to mount again"
    else:
        files = format_count(export.file_count, "file")
        told = f"export: {format_duration(export.age_s)} old, {files}"
        if export.missing_count:
            told += (
                f"; {export.missing_count} of them, {format_size(export.missing_bytes)}, have no "
                "object"
            )
    if export.lost is not None:
        told += f"; a later one cannot be used: {export.lost}"
    for each in export.lost_objects:
        left = format_count(each.lost_count - each.mended_count, "object")
        told += f"; store {each.store} has lost {left} that files need, such as {each.example}"
    if export.running:
        told += "; one is being made"
    elif export.error is not None:
        told += f"; the last one failed: {export.error}"
    elif export.interval_s is None:
        told += "; only by hand: memfs snapshot export"
    return told


def _index_lines(index: IndexReport, fields: Sequence[FieldIndexReport]) -> list[str]:
    """Return why queries do not find all, or find it slowly, if that is so."""
    lines = []
    if index.enabled and not index.is_whole:
        share = index.through / max(1, index.last)
        lines.append(f"queries wait: {_percent(share)} of the inodes are in the index of xattrs")
    elif index.enabled and index.is_short_of_names:
        lines.append(
            f"queries: the index of xattrs is full with {index.name_count} names; raise "
            "query.name_count_max"
        )
    if index.enabled and not index.elements.is_whole:
        lines.append(f"index of elements of JSON arrays: {element_state(index.elements)}")
    lines += [
        f"index of {index_name(each)}: {index_state(each)}"
        for each in fields
        if each.state != "whole"
    ]
    return lines


def index_name(index: FieldIndexReport) -> str:
    """Return what an index is of; one of an xattr is of the texts in it."""
    return index.field if index.field.startswith("$") else f"texts of {index.field}"


def index_state(index: FieldIndexReport) -> str:
    """Return what an index that was added is good for."""
    if index.state == "building":
        return f"being built: {index.through} of {index.last} inodes are in it"
    return "complete" if index.state == "whole" else "being removed"


def element_state(index: ElementsReport) -> str:
    """Return how far the index of elements is, which is not whole."""
    return (
        f"being built: {index.array_count} arrays since the mount began, all those of "
        f"{index.done_name_count} of {index.name_count} names; filters look at arrays one by one "
        "so far"
    )


def _snapshots_line(snapshots: SnapshotsReport) -> str | None:
    parts = []
    if snapshots.newest_s is not None:
        age = format_duration(snapshots.newest_s)
        parts.append(f"{snapshots.snapshot_count}, the newest one {age} old")
    if snapshots.kept_count:
        size, files = format_size(snapshots.kept_bytes), format_count(snapshots.kept_count, "file")
        parts.append(f"{size} on the disk in {files} that only they show")
    if snapshots.leaving_count:
        parts.append(f"{snapshots.leaving_count} being removed")
    return f"snapshots: {'; '.join(parts)}" if parts else None


def _store_line(url: str, store: StoreReport | None) -> str:
    if store is None:
        return url
    if store.lasts_s is None:
        return f"{url}, not asked yet"
    lasts = format_duration(store.lasts_s)
    return f"{url}, answers" if store.well else f"{url}, fails for {lasts}: {store.reason}"


def _quota_line(quota: QuotaReport) -> str:
    amount = str if quota.quota == "requests_per_day" else format_size
    line = f"quota {quota.quota}: {amount(quota.used)} of {amount(quota.limit)} used"
    if quota.reserved:
        line += f", {amount(quota.reserved)} kept for what is under way"
    if quota.frees_s:
        line += f", more in {format_duration(quota.frees_s)}"
    return line


def print_comparison(comparison: Comparison) -> None:
    """Print what a trace would have met with under each policy, for people."""
    console = make_console()
    warm_bytes, cold_bytes = comparison.capacities
    disk = "all of it on the disk" if cold_bytes is None else f"{format_size(cold_bytes)} of disk"
    console.print(
        f"{comparison.belady.accesses.count} accesses to "
        f"{format_count(comparison.file_count, 'file')} of "
        f"{format_size(comparison.footprint_bytes)}; {format_size(warm_bytes)} of RAM, {disk}",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=True)
    table.add_column("policy")
    for heading in ("hits", "bytes hit", "into RAM", "from disk", "onto disk", "from store"):
        table.add_column(heading, justify="right")
    for figures in (*comparison.figures, comparison.belady):
        moved = [
            figures.warm.moved_in.size_bytes,
            figures.cold.hits.size_bytes,
            figures.cold.moved_in.size_bytes,
            figures.fetched.size_bytes,
        ]
        ratios = (figures.hit_ratio(), figures.byte_hit_ratio())
        table.add_row(figures.policy, *map(_percent, ratios), *map(format_size, moved))
    bounds = (comparison.bound_hit_ratio, comparison.bound_byte_hit_ratio)
    table.add_row("upper bound", *map(_percent, bounds))
    console.print(table)
    console.print(f"  {comparison.conclusion}", soft_wrap=True)


@contextlib.contextmanager
def progress_bar(*, hidden: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows how far long work is, on a terminal's standard error.

    It takes the stage, items done, and items in all (0: not known).
    """
    console = Console(stderr=True)
    if hidden or not console.is_terminal:
        yield lambda _stage, _done, _total: None
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=None)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=escape_text(stage), completed=done, total=total or None)

        yield show


class _EscapingConsole(Console):
    """Shows strings, in tables too, as they are but for `escape_text`."""

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - as rich has them
        """See `Console.render_str`, which every string comes through."""
        return super().render_str(
            escape_text(text), **(options | {"markup": False, "emoji": False})
        )


def make_console() -> Console:
    """Return what prints on standard output, and escapes each text."""
    return _EscapingConsole(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _tier_table(tiers: tuple[TierReport, ...]) -> Table:
    table = Table(box=None, pad_edge=True)
    table.add_column("tier")
    for heading in ("files", "used", "capacity"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for tier in tiers:
        capacity = "-" if tier.capacity_bytes is None else format_size(tier.capacity_bytes)
        table.add_row(
            tier.tier, str(tier.file_count), format_size(tier.used_bytes), capacity, _bar(tier)
        )
    return table


def _also(keys: tuple[str, ...]) -> str:
    return f"; {', '.join(keys)} can be read" if keys else ""


def _codec_table(codecs: tuple[CodecReport, ...]) -> Table:
    """What was compressed since the start: a ratio of 2 is half of the bytes."""
    table = Table(box=None, pad_edge=True)
    table.add_column("codec")
    for heading in ("files", "bytes in", "bytes out", "ratio", "speed", "spared"):
        table.add_column(heading, justify="right")
    for codec in codecs:
        ratio = speed = "-"
        if codec.stored_bytes:
            ratio = f"{codec.content_bytes / codec.stored_bytes:.2f}"
        if codec.elapsed_s > 0:
            speed = f"{format_size(int(codec.content_bytes / codec.elapsed_s))}/s"
        spared = f"{codec.spared_count} ({format_size(codec.spared_bytes)})"
        table.add_row(
            codec.codec,
            str(codec.file_count),
            format_size(codec.content_bytes),
            format_size(codec.stored_bytes),
            ratio,
            speed,
            spared if codec.spared_count else "-",
        )
    return table


def _prefetch_table(report: PrefetchReport) -> Table:
    table = Table(box=None, pad_edge=True)
    table.add_column("prefetch")
    for heading in ("issued", "hit", "wasted", "precision"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for source in report.sources:
        if source.issued_count:
            table.add_row(
                source.source,
                str(source.issued_count),
                str(source.hit_count),
                str(source.wasted_count),
                f"{source.precision:.0%}" if source.source != "hint" else "-",
                "stopped" if source.stopped else "",
            )
    return table


def _bar(tier: TierReport) -> str:
    return usage_bar(tier.used_bytes, tier.capacity_bytes, _BAR_CELLS)


def usage_bar(used_bytes: int, capacity_bytes: int | None, cells: int) -> str:
    """Return a bar of so many characters with its share; empty where there is no limit."""
    if not capacity_bytes:
        return ""
    share = used_bytes / capacity_bytes
    filled = min(cells, round(share * cells))
    return f"{'█' * filled}{'░' * (cells - filled)} {share:4.0%}"


def _work_lines(work: WorkReport) -> list[str]:
    counts = [
        (work.unsealed_count, "open for writing"),
        (work.not_durable_count, "not yet on stable storage"),
        (work.intent_count, "moving"),
        (work.queued_count, "to be moved"),
        (work.pending_count, "waiting to move"),
        (work.garbage_count - work.needed_count, "to be removed"),
        (work.needed_count, "kept while nodes that read may need them"),
    ]
    busy = [f"{_count(number)} {what}" for number, what in counts if number]
    lines = [f"work    {', '.join(busy) if busy else 'none'}"]
    if work.lost_count:
        size = format_size(work.lost_bytes)
        lines.append(
            f"        {_count(work.lost_count)} without a record, {size}, in lost+found: see "
            "`memfs gc --lost-found`"
        )
    for move in work.pending:
        when = f"again in {format_duration(move.retry_s)}" if move.retry_s else "due now"
        tried = f"tried {move.attempt_count} times, " if move.attempt_count else ""
        since = f"since {move.since}, " if move.since else ""
        lines.append(f"        {move.path} -> {move.wanted}: {move.reason} ({since}{tried}{when})")
    if work.pending_count > len(work.pending):
        lines.append(f"        and {_count(work.pending_count - len(work.pending))} more")
    return lines


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _count(number: int) -> str:
    return f"{COUNT_MAX} or more" if number >= COUNT_MAX else str(number)
