"""The screens of `memfs top` and `memfs status --watch`: what they draw, and what keys do."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from memfs.control.report import PendingReport
from memfs.types import PendingCode
from memfs_tools.live.keys import read_keys
from memfs_tools.live.sampling import Sample, as_json, rates
from memfs_tools.live.screen import StatusScreen, TopScreen
from tests.hostile import HOSTILE, assert_harmless
from tests.unit.test_status import REPORT

if TYPE_CHECKING:
    from rich.console import RenderableType

    from memfs.control.methods.mount import ActivityReport

WAITING = [
    PendingReport(
        f"/b{HOSTILE}", "glacier", "the store refuses: 403", 3, 42.0, None, PendingCode.STORE
    ),
    PendingReport("/a", "warm", "the RAM tier is full", 0, 0.0, None, PendingCode.RAM),
]
ACTIVITY: ActivityReport = {
    "request_count": 1000,
    "move_count": 2,
    "moves": [
        {
            "kind": "upload",
            "ino": 7,
            "path": f"/up{HOSTILE}",
            "wanted": "glacier",
            "done_bytes": 25 << 20,
            "total_bytes": 100 << 20,
        },
        {
            "kind": "upload",
            "ino": None,
            "path": None,
            "wanted": None,
            "done_bytes": 0,
            "total_bytes": 0,
        },
    ],
    "programs": [
        {
            "name": f"python{HOSTILE}",
            "uid": 1000,
            "pid": 17,
            "open_count": 5,
            "write_count": 1,
            "opened_bytes": 5 << 20,
            "idle_s": 3.0,
        },
        {
            "name": "dd",
            "uid": 0,
            "pid": 0,
            "open_count": 50,
            "write_count": 50,
            "opened_bytes": 1 << 20,
            "idle_s": 0.0,
        },
    ],
}


def sample(taken_s: float = 10.0, **changes: object) -> Sample:
    return Sample(taken_s, REPORT, {**ACTIVITY, **changes}, WAITING)  # type: ignore[typeddict-item]  # of a test


def drawn(part: RenderableType, width: int, height: int) -> list[str]:
    """The lines that a terminal would show."""
    from memfs_tools.display import _EscapingConsole

    console = _EscapingConsole(file=io.StringIO(), width=width, height=height)
    assert isinstance(console, Console)
    console.begin_capture()
    console.print(part, end="")
    lines = console.end_capture().removesuffix("\n").split("\n")
    for line in lines:
        assert_harmless(line)
    return lines


def top() -> TopScreen:
    screen = TopScreen()
    screen.take(sample())
    return screen


@pytest.mark.parametrize("keys", ["t", "p", "m", "/", "mss"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (20, 3), (200, 60)])
def test_every_tab_fits(keys: str, width: int, height: int) -> None:
    screen = top()
    for key in keys:
        assert screen.press(key)
    screen.complain("no daemon answers")
    lines = drawn(screen.render(width, height), width, 1000)
    assert len(lines) == height
    assert lines[-1].startswith("/_" if keys == "/" else "t tiers")
    assert all(len(line) <= width for line in lines)


def test_the_head_shows_each_tier_with_its_budget() -> None:
    text = "\n".join(drawn(top().render(80, 24), 80, 24))
    [warm] = [line.split() for line in text.split("\n") if line.startswith("warm ")]
    assert warm[2:] == ["25%", "256.0", "MiB", "1.0", "GiB", "7", "-"]
    [glacier] = [line.split() for line in text.split("\n") if line.startswith("glacier ")]
    assert glacier[1:] == ["5.0", "TiB", "-", "10000+", "-"]
    assert "10000+ waiting" in text
    assert "the store fails for 1 min 30 s: bucket does not exist" in text


def test_programs_are_sorted_and_filtered() -> None:
    screen = top()
    screen.press("p")

    def rows() -> list[str]:
        lines = drawn(screen.render(100, 24), 100, 24)
        return [line for line in lines if "MiB" in line and ("python" in line or " dd" in line)]

    assert ["python" in line for line in rows()] == [True, False]
    screen.press("s")
    screen.press("s")
    assert ["python" in line for line in rows()] == [False, True]
    for key in ["/", "p", "x", "backspace", "y", "enter"]:
        screen.press(key)
    assert ["python" in line for line in rows()] == [True]
    screen.press("escape")
    assert len(rows()) == 2
    screen.press("/")
    assert screen.press("q")
    assert rows() == []
    screen.press("escape")
    assert not screen.press("q")


def test_moves_are_shown_with_their_speed_and_what_waits_with_its_reason() -> None:
    screen = top()
    moves = [{**ACTIVITY["moves"][0], "done_bytes": 45 << 20}, ACTIVITY["moves"][1]]
    screen.take(sample(12.0, moves=moves, request_count=1100))
    screen.press("m")
    text = "\n".join(drawn(screen.render(120, 24), 120, 24))
    for expected in (
        *(" 45%", "100.0 MiB", "10.0 MiB/s", "upload /up", "upload several files"),
        *("50 requests a second", "  warm    due now            /a: the RAM tier is full"),
    ):
        assert expected in text
    assert text.index("  glacier again in 42 s      /b") < text.index("/a: ")
    screen.press("s")
    text = "\n".join(drawn(screen.render(120, 24), 120, 24))
    assert text.index("  glacier again in 42 s      /b") > text.index("/a: ")


def test_a_long_list_is_gone_through() -> None:
    screen = top()
    waiting = [
        PendingReport(f"/file-{at:03}", "warm", "why", 0, 0.0, None, PendingCode.OTHER)
        for at in range(100)
    ]
    screen.take(sample()._replace(pending=waiting))
    screen.press("m")
    assert "/file-099" not in "\n".join(drawn(screen.render(80, 24), 80, 24))
    for _ in range(20):
        screen.press("page down")
        screen.render(80, 24)
    assert "/file-099" in "\n".join(drawn(screen.render(80, 24), 80, 24))
    screen.press("home")
    assert "/file-000" in "\n".join(drawn(screen.render(80, 24), 80, 24))


def test_a_daemon_that_began_anew_has_no_rates() -> None:
    """Its counts are smaller than those before."""
    before, now = sample(), sample(11.0)
    assert rates(None, now).tiers == {}
    assert rates(before, now._replace(status=REPORT._replace(pid=18))).requests == 0.0
    fewer = sample(11.0, request_count=5, programs=[])
    assert rates(before, fewer).requests == 0.0


def test_json_has_the_rates_in_it() -> None:
    before = sample()
    programs = [{**ACTIVITY["programs"][0], "opened_bytes": 6 << 20}]
    told = json.loads(
        json.dumps(as_json(sample(12.0), rates(before, sample(12.0, programs=programs))))
    )
    assert told["programs"][0]["opened_bytes_per_s"] == 1 << 19
    assert told["status"]["tiers"][0]["bytes_per_s"] == 0
    assert told["pending"][1]["reason"] == "the RAM tier is full"


def test_a_status_is_drawn_as_it_is_printed() -> None:
    screen = StatusScreen()
    assert "asked" in "\n".join(drawn(screen.render(80, 24), 80, 24))
    screen.take(REPORT)
    screen.complain("it is busy")
    text = "\n".join(drawn(screen.render(200, 60), 200, 60))
    assert "no answer: it is busy" in text
    assert "work    2 open for writing" in text
    assert screen.press("x")
    assert not screen.press("q")


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"tq/", ["t", "q", "/"]),
        (b"\x1b[A\x1b[B\x1b[5~\x1bOA", ["up", "down", "page up", "up"]),
        (b"\x1b", ["escape"]),
        ("ü\r\x7f".encode(), ["ü", "enter", "backspace"]),
        (b"\x1b[200~\x01\xff", []),
    ],
)
def test_keys_are_told_apart(data: bytes, keys: list[str]) -> None:
    assert read_keys(data) == keys


@given(st.binary(max_size=40))
def test_any_bytes_are_printable_keys(data: bytes) -> None:
    assert all(key and key.isprintable() for key in read_keys(data))
