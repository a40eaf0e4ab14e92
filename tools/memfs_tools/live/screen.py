"""The screens of `memfs top` and `memfs status --watch`.

Invariant: what is drawn fits into the lines and columns that were asked for; every text in it is
escaped. A screen knows nothing of terminals, keys come as words.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group
from rich.segment import Segment
from rich.text import Text

from memfs.control.report import COUNT_MAX
from memfs.escaping import escape_text
from memfs.sizes import format_count, format_duration, format_size
from memfs_tools.display import status_head, status_notes, status_parts, usage_bar
from memfs_tools.live.sampling import NO_RATES, Rates, Sample, move_key, program_key, rates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from memfs.control.methods.mount import MoveReport, ProgramReport
    from memfs.control.report import PendingReport, StatusReport, TierReport

_STEPS = {"up": -1, "down": 1}

_WARNING = "bold red"
_QUIET = "dim"
_CHOSEN = "reverse"
_FILTER_MAX = 200


class Tab(enum.Enum):
    """What the lower part shows."""

    TIERS = "tiers"
    PROGRAMS = "programs"
    MOVES = "moves"


_KEYS = {"t": Tab.TIERS, "p": Tab.PROGRAMS, "m": Tab.MOVES}
_ORDERS = {
    Tab.TIERS: ("",),
    Tab.PROGRAMS: ("bytes", "bytes/s", "opens", "name"),
    Tab.MOVES: ("due", "name", "reason"),
}
"""By what the rows of a tab can be sorted; `s` takes the next one."""


class _Place(NamedTuple):
    """Who is on which line."""

    tab: Tab = Tab.TIERS
    order: int = 0
    first: int = 0
    """Rows above the first one that is shown."""


class TopScreen:
    """The screen of `memfs top`."""

    def __init__(self) -> None:
        self._sample: Sample | None = None
        self._rates: Rates = NO_RATES
        self._problem: str | None = None
        self._place = _Place()
        self._filter = ""
        self._is_typing = False
        self._page_rows = 1

    def take(self, sample: Sample) -> None:
        """There is a new sample."""
        self._rates = rates(self._sample, sample)
        self._sample = sample

    def complain(self, problem: str | None) -> None:
        """The daemon does not answer."""
        self._problem = problem

    def press(self, key: str) -> bool:
        """As of `View.press`."""
        if self._is_typing:
            self._type(key)
            return True
        if key == "q":
            return False
        place = self._place
        steps = _STEPS | {"page up": -self._page_rows, "page down": self._page_rows}
        if key in _KEYS:
            self._place = _Place(_KEYS[key])
        elif key == "s":
            order = (place.order + 1) % len(_ORDERS[place.tab])
            self._place = place._replace(order=order, first=0)
        elif key == "/":
            self._is_typing = True
        elif key == "escape":
            self._filter = ""
        elif key in steps:
            self._place = place._replace(first=max(0, place.first + steps[key]))
        elif key == "home":
            self._place = place._replace(first=0)
        return True

    def _type(self, key: str) -> None:
        if key == "enter":
            self._is_typing = False
        elif key == "escape":
            self._is_typing, self._filter = False, ""
        elif key == "backspace":
            self._filter = self._filter[:-1]
        elif len(key) == 1 and len(self._filter) < _FILTER_MAX:
            self._filter += key
        self._place = self._place._replace(first=0)

    def render(self, width: int, height: int) -> RenderableType:
        """As of `View.render`."""
        if self._sample is None:
            return Text(escape_text(self._problem or "the daemon is being asked"))
        head = _head(self._sample, self._rates, width)
        if self._problem is not None:
            head.insert(0, _line(f"no answer: {self._problem}", width, _WARNING))
        head.append(self._tabs(width))
        foot = [self._foot(width)]
        room = max(1, height - len(head) - len(foot))
        rows: Sequence[RenderableType]
        if self._place.tab == Tab.TIERS:
            rows = [_Block(_notes(self._sample.status), room, self._place.first)]
        else:
            rows = self._rows(width, room)
        return Group(*[*head, *rows][: max(0, height - 1)], *foot)

    def print_all(self, width: int) -> RenderableType:
        """Return all that the tabs show, one below the other, for scripts."""
        assert self._sample is not None
        lines: list[RenderableType] = [*_head(self._sample, self._rates, width), Text()]
        for tab in (Tab.PROGRAMS, Tab.MOVES):
            self._place = _Place(tab)
            title, rows = self._table()
            lines += [_line(text, width) for text in (title, *rows)] + [Text()]
        return Group(*lines, *status_notes(self._sample.status))

    def _tabs(self, width: int) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        for tab in Tab:
            text.append(f" {tab.value} ", _CHOSEN if tab == self._place.tab else _QUIET)
            text.append(" ")
        text.truncate(width)
        return text

    def _foot(self, width: int) -> Text:
        if self._is_typing:
            return _line(f"/{self._filter}_   enter: keep   escape: show all", width, _CHOSEN)
        order = _ORDERS[self._place.tab][self._place.order]
        parts = ["t tiers  p programs  m moves", f"s sort{f': {order}' if order else ''}"]
        parts += [f"/ filter{f': {self._filter}' if self._filter else ''}", "q quit"]
        return _line("   ".join(parts), width, _QUIET)

    def _rows(self, width: int, room: int) -> list[Text]:
        title, rows = self._table()
        self._page_rows = max(1, room - 1)
        first = min(self._place.first, max(0, len(rows) - self._page_rows))
        self._place = self._place._replace(first=first)
        shown = rows[first : first + self._page_rows]
        shown += [""] * (self._page_rows - len(shown))
        return [_line(title, width, "bold"), *(_line(row, width) for row in shown)]

    def _table(self) -> tuple[str, list[str]]:
        """Return the head of the tab, and its rows."""
        assert self._sample is not None
        activity = self._sample.activity
        order = _ORDERS[self._place.tab][self._place.order]
        if self._place.tab == Tab.PROGRAMS:
            title = (
                f"{'opened':>10} {'a second':>11} {'opens':>7} {'writing':>7} {'idle':>9} "
                f"{'user':>5} {'process':>7}  program"
            )
            programs = [each for each in activity["programs"] if self._passes(each["name"])]
            programs.sort(key=self._program_order(order))
            return title, [self._program(each) for each in programs] or ["  none"]
        title = f"{'done':>5} {'of':>10} {'a second':>11}  move"
        moves = [each for each in activity["moves"] if self._passes(each["path"] or "")]
        waiting = [
            each
            for each in self._sample.pending
            if self._passes(each.path) or self._passes(each.reason)
        ]
        if order == "name":
            waiting.sort(key=lambda each: each.path)
            moves.sort(key=lambda each: each["path"] or "")
        elif order == "reason":
            waiting.sort(key=lambda each: each.reason)
        rows = [self._move(each) for each in moves] or ["  none under way"]
        count = self._sample.status.work.pending_count
        told = f"{COUNT_MAX} or more" if count >= COUNT_MAX else str(count)
        rows.append(f"waiting: {told}" + (f", {len(waiting)} shown" if waiting else ""))
        return title, rows + [_waiting(each) for each in waiting]

    def _passes(self, text: str) -> bool:
        return self._filter.casefold() in escape_text(text).casefold()

    def _program_order(self, order: str) -> Callable[[ProgramReport], tuple[float, str]]:
        def by(program: ProgramReport) -> tuple[float, str]:
            numbers = {
                "bytes": program["opened_bytes"],
                "bytes/s": self._rates.programs.get(program_key(program), 0.0),
                "opens": program["open_count"],
                "name": 0,
            }
            return -numbers[order], program["name"]

        return by

    def _program(self, program: ProgramReport) -> str:
        rate = self._rates.programs.get(program_key(program), 0.0)
        return (
            f"{format_size(program['opened_bytes']):>10} {_rate(rate):>11} "
            f"{program['open_count']:>7} {program['write_count']:>7} "
            f"{format_duration(program['idle_s']):>9} {program['uid']:>5} "
            f"{program['pid'] or '?':>7}  {program['name']}"
        )

    def _move(self, move: MoveReport) -> str:
        rate = self._rates.moves.get(move_key(move), 0.0)
        share = move["done_bytes"] / max(1, move["total_bytes"])
        what = "several files" if move["path"] is None else move["path"]
        to = f" -> {move['wanted']}" if move["wanted"] is not None else ""
        size = format_size(move["total_bytes"])
        return f"{share:>5.0%} {size:>10} {_rate(rate):>11}  {move['kind']} {what}{to}"


class StatusScreen:
    """The screen of `memfs status --watch`."""

    def __init__(self) -> None:
        self._report: StatusReport | None = None
        self._problem: str | None = None
        self._first = 0

    def take(self, report: StatusReport) -> None:
        """There is a new report."""
        self._report = report

    def complain(self, problem: str | None) -> None:
        """The daemon does not answer."""
        self._problem = problem

    def press(self, key: str) -> bool:
        """As of `View.press`."""
        self._first = max(0, self._first + _STEPS.get(key, 0))
        return key != "q"

    def render(self, width: int, height: int) -> RenderableType:
        """As of `View.render`."""
        lines: list[RenderableType] = []
        if self._problem is not None:
            lines.append(_line(f"no answer: {self._problem}", width, _WARNING))
        if self._report is None:
            return Group(*lines, Text("the daemon is being asked"))
        parts = [status_head(self._report), *status_parts(self._report)]
        return Group(*lines, _Block(parts, max(1, height - len(lines)), self._first))


def _head(sample: Sample, changes: Rates, width: int) -> list[Text]:
    """Return the lines that all tabs have: the mount, and a bar for each tier."""
    status, work = sample.status, sample.status.work
    path = "passthrough" if status.driver.passthrough else "without passthrough"
    lines = [
        _line(
            f"{status.mountpoint}  up {format_duration(status.uptime_s)}, {status.driver.name} "
            f"{path}, daemon {format_size(status.memory_bytes)}",
            width,
            "bold",
        ),
        _line(
            f"{changes.requests:.0f} requests a second, "
            f"{format_count(sample.activity['move_count'], 'move')}, "
            f"{_at_most(work.queued_count)} decided, {_at_most(work.pending_count)} waiting, "
            f"{_at_most(work.unsealed_count)} open for writing",
            width,
        ),
    ]
    if status.store is not None and status.store.well is False:
        lasts = format_duration(status.store.lasts_s or 0.0)
        lines.append(_line(f"the store fails for {lasts}: {status.store.reason}", width, _WARNING))
    cells = max(8, min(40, width - 60))
    title = (
        f"{'tier':<8}{'use':<{cells + 6}}{'used':>10} {'budget':>10} {'files':>8} {'change':>13}"
    )
    lines.append(_line(title, width, "bold"))
    lines += [_tier(each, changes.tiers.get(each.tier, 0.0), width, cells) for each in status.tiers]
    return lines


def _tier(tier: TierReport, rate: float, width: int, cells: int) -> Text:
    bar = usage_bar(tier.used_bytes, tier.capacity_bytes, cells)
    budget = format_size(tier.capacity_bytes) if tier.capacity_bytes else "-"
    text = (
        f"{tier.tier:<8}{bar:<{cells + 6}}{format_size(tier.used_bytes):>10} {budget:>10} "
        f"{_at_most(tier.file_count):>8} {_rate(rate, signed=True):>13}"
    )
    full = bool(tier.capacity_bytes) and tier.used_bytes >= (tier.capacity_bytes or 0)
    return _line(text, width, _WARNING if full else "")


def _notes(status: StatusReport) -> Sequence[RenderableType]:
    return [*status_notes(status)] or [Text("all is as configured", style=_QUIET)]


class _Block:
    """Parts of any height, of which some lines are shown."""

    def __init__(self, parts: Sequence[RenderableType], lines: int, first: int = 0) -> None:
        self._parts = parts
        self._lines = lines
        self._first = first

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines, and empty ones to fill the place."""
        made = console.render_lines(Group(*self._parts), options.update(height=None), pad=False)
        first = max(0, min(self._first, len(made) - self._lines))
        for line in made[first : first + self._lines]:
            yield from line
            yield Segment.line()
        for _ in range(self._lines - len(made)):
            yield Segment.line()


def _waiting(move: PendingReport) -> str:
    when = f"again in {format_duration(move.retry_s)}" if move.retry_s else "due now"
    # The path comes first: a reason is long, and a narrow terminal cuts lines at their end.
    return f"  {move.wanted:<8}{when:<18} {move.path}: {move.reason}"


def _rate(rate: float, *, signed: bool = False) -> str:
    if abs(rate) < 1:
        return "-"
    sign = ("+" if rate > 0 else "-") if signed else ""
    return f"{sign}{format_size(int(abs(rate)))}/s"


def _at_most(count: int) -> str:
    return f"{COUNT_MAX}+" if count == COUNT_MAX else str(count)


def _line(text: str, width: int, style: str = "") -> Text:
    """Return one line, cut where the screen ends."""
    line = Text(escape_text(text), style=style, no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line
