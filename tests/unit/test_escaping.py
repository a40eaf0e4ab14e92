"""Escaping: whatever names hold, terminals and logs show it and do nothing about it."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from memfs.control.report import StatusReport
from memfs.escaping import escape_text
from memfs.log_lines import EscapingFormatter
from memfs_daemon.logs import LOG_FORMAT, LogFormatter
from memfs_tools.display import print_status, progress_bar
from memfs_tools.terminal import complain, tell, tell_json
from tests.hostile import HOSTILE, assert_harmless
from tests.unit.test_status import REPORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

ROOT = Path(__file__).parents[2]

_TEXT = st.text(st.characters(), max_size=40)


@given(_TEXT)
def test_what_is_escaped_is_one_printable_line(text: str) -> None:
    escaped = escape_text(text)
    assert escaped.isprintable()
    assert escape_text(escaped) == escaped
    if text.isprintable():
        assert escaped == text


def test_characters_are_written_as_python_writes_them() -> None:
    text = "\x1b]0;\x07\n\r\t\x7f\x9b\u202e\U000e0001\udcff ünïcode \\"
    assert escape_text(text) == (r"\x1b]0;\x07\n\r\t\x7f\x9b\u202e\U000e0001\xff ünïcode " + "\\")


@given(_TEXT, _TEXT)
def test_a_log_record_is_one_line_and_its_traceback_stands_below(name: str, said: str) -> None:
    formatter = LogFormatter(LOG_FORMAT)
    try:
        raise ValueError(said)
    except ValueError:
        record = logging.getLogger("memfs.x").makeRecord(
            "memfs.x", logging.ERROR, "x.py", 1, "%s: lost", (name,), sys.exc_info()
        )
    # As a handler before this one may have left it.
    record.exc_text = "2030-01-01T00:00:00.000Z ERROR forged\n"
    first, *rest = formatter.format(record).split("\n")
    assert first.endswith(f"ERROR memfs.x: {escape_text(name)}: lost")
    assert rest
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


_DEFECTS = """
import sys, threading
from pathlib import Path
from memfs_daemon.logs import start_logging
from tests.hostile import HOSTILE

class Unfortunate:
    def __del__(self):
        raise ValueError(HOSTILE)

def fail():
    raise ValueError(HOSTILE)

start_logging(Path(sys.argv[1]), foreground=True, debug=False)
thread = threading.Thread(target=fail)
thread.start()
thread.join()
Unfortunate()
"""


def test_threads_and_destructors_cannot_write_past_the_log(tmp_path: Path) -> None:
    """Python's own hooks would print their tracebacks as they are."""
    done = subprocess.run(
        [sys.executable, "-c", _DEFECTS, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    for text in (done.stderr, (tmp_path / "daemon.log").read_text()):
        assert text.count(r"ValueError: \x1b]0;owned\x07\x1b[2J\r") == 2
        assert_harmless(text)


_FULL_DISK = """
import logging, sys
from pathlib import Path
from memfs_daemon.logs import start_logging

start_logging(Path(sys.argv[1]), foreground=True, debug=False)
logging.getLogger("memfs").error("no room for me")
"""


def test_a_log_on_a_full_disk_loses_lines_and_says_nothing_else(tmp_path: Path) -> None:
    """A traceback for each line that did not fit would be the next thing to find no room."""
    (tmp_path / "daemon.log").symlink_to("/dev/full")
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    [line] = done.stderr.splitlines()
    assert line.endswith("ERROR memfs: no room for me")


def test_commands_print_lines_that_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tell(HOSTILE)
    complain(HOSTILE)
    tell_json({HOSTILE: [HOSTILE]})
    shown = capsys.readouterr()
    assert shown.out.startswith(escape_text(HOSTILE) + "\n")
    assert shown.err == f"memfs: {escape_text(HOSTILE)}\n"
    assert_harmless(shown.out + shown.err)
    assert json.loads(shown.out.partition("\n")[2]) == {HOSTILE: [HOSTILE]}


def _hostile(value: Any) -> Any:  # noqa: ANN401 - of a report, anything
    """Return a value of a report with the hostile name in every text."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, tuple):
        parts = map(_hostile, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def test_no_text_of_a_status_reaches_the_terminal_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = _hostile(REPORT)
    assert isinstance(report, StatusReport)
    print_status(report)
    text = capsys.readouterr().out
    assert_harmless(text)
    joined = "".join(line.strip() for line in text.splitlines())
    for part in (report.mountpoint, report.state_dir, report.store_url, report.driver.refusals[0]):
        assert escape_text(str(part)).strip() in joined


def test_a_bar_shows_its_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with contextlib.redirect_stderr(terminal), progress_bar(hidden=False) as show:
        show("[red]x[/] \x1b]0;pwned\x07 :smile:", 1, 2)
    assert "\x1b]0;" not in terminal.getvalue()
    assert r"[red]x[/] \x1b]0;pwned\x07 :smile:" in terminal.getvalue()


_DOORS = {
    "tools/memfs_tools/terminal.py",
    "tools/memfs_tools/display.py",
    "daemon/memfs_daemon/main.py",
    "memfs/log_lines.py",
    # A bar of numbers alone.
    "memfs/manager/batches.py",
}


def _calls() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every call in memfs, by names and attributes alone."""
    for source in ("memfs", "daemon/memfs_daemon", "tools/memfs_tools"):
        for file in sorted((ROOT / source).rglob("*.py")):
            place = str(file.relative_to(ROOT))
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Call):
                    yield place, ast.unparse(node.func)


def test_nothing_is_printed_but_through_the_doors_that_escape() -> None:
    printing = {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"}
    printing |= {"Console", "rich.print", "logging.Formatter", "warnings.warn"}
    found = {(place, call) for place, call in _calls() if call in printing}
    assert {place for place, _ in found} - _DOORS == set()
    assert ("tools/memfs_tools/terminal.py", "click.echo") in found


def test_every_handler_of_a_log_has_a_formatter_that_escapes() -> None:
    """`basicConfig` with a format of its own would make another."""
    assert issubclass(LogFormatter, EscapingFormatter)
    for source in ("memfs", "daemon/memfs_daemon", "tools/memfs_tools"):
        for file in sorted((ROOT / source).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.basicConfig":
                    assert "format" not in {word.arg for word in node.keywords}, file
