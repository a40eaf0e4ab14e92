"""Live screens on a terminal: what is to be seen, and that the terminal is left as it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from tests.lifecycle.daemons import kill, memfs
from tests.mounting import run_memfs
from tests.terminal import Terminal
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounting import Mount

pytestmark = [pytest.mark.mount, pytest.mark.any_driver]

SCREENS = [("top",), ("status", "--watch")]


@pytest.fixture
def started(mount: Mount) -> Mount:
    mount.start()
    (mount.root / "file").write_bytes(b"x" * 100_000)
    return mount


def test_top_shows_tiers_programs_and_moves(started: Mount) -> None:
    with Terminal("top", "--interval", "0.2", started.root) as terminal:
        terminal.see("warm", "cold", "glacier", "requests a second", "q quit")
        terminal.press("p")
        terminal.see("opened", "process")
        (started.root / "file").read_bytes()
        name = f" {os.getpid()}  "
        terminal.see(name)
        terminal.press("/")
        terminal.see("enter: keep")
        terminal.press("nobody\r")
        terminal.wait(lambda seen: name not in seen and "filter: nobody" in seen, "the filter")
        terminal.press("\x1b")
        terminal.see(name)
        terminal.press("m")
        terminal.see("none under way", "waiting: 0")
        assert all(len(line) <= 80 for line in terminal.lines)
        terminal.press("q")
        assert terminal.end() == 0
        assert terminal.is_restored()


def test_a_screen_takes_the_size_that_the_terminal_gets(started: Mount) -> None:
    with Terminal("top", started.root) as terminal:
        terminal.see("q quit")
        terminal.resize(100, 12)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.wait(lambda _: "q quit" in terminal.lines[11], "the last line")
        terminal.press("q")
        assert terminal.end() == 0


@pytest.mark.parametrize("screen", SCREENS, ids=lambda words: words[0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(
    started: Mount, screen: tuple[str, ...], number: signal.Signals
) -> None:
    with Terminal(*screen, started.root) as terminal:
        terminal.see("glacier")
        assert not terminal.is_restored()
        terminal.process.send_signal(number)
        assert terminal.end() == 128 + number
        assert terminal.is_restored()
        assert b"Traceback" not in terminal.output


@pytest.mark.parametrize("screen", SCREENS, ids=lambda words: words[0])
def test_a_mount_that_goes_away_ends_it(started: Mount, screen: tuple[str, ...]) -> None:
    with Terminal(*screen, started.root) as terminal:
        terminal.see("glacier")
        run_memfs("umount", started.root)
        assert terminal.end() == ExitCode.NOT_MOUNTED
        assert terminal.is_restored()
        assert b"is no mountpoint of memfs" in terminal.output


def test_a_daemon_that_died_is_said_to_be_gone_until_there_is_another(started: Mount) -> None:
    with Terminal("top", "--interval", "0.2", started.root) as terminal:
        terminal.see("glacier")
        kill(started)
        terminal.see("no answer: ", "no daemon answers", "warm")
        started.start()
        terminal.wait(lambda seen: "no answer" not in seen and "warm" in seen, "the new daemon")
        terminal.press("q")
        assert terminal.end() == 0


def test_it_can_be_stopped_and_goes_on(started: Mount) -> None:
    with Terminal("top", started.root) as terminal:
        terminal.see("q quit")
        status = f"/proc/{terminal.process.pid}/stat"

        def is_stopped() -> bool:
            with open(status) as file:
                return file.read().rpartition(")")[2].split()[0] == "T"

        terminal.process.send_signal(signal.SIGTSTP)
        wait_for(is_stopped, "the command to be stopped")
        terminal.wait(lambda _: terminal.is_restored(), "the terminal as it was")
        assert terminal.is_restored()
        terminal.process.send_signal(signal.SIGCONT)
        terminal.wait(lambda _: not terminal.is_restored(), "the screen")
        terminal.press("q")
        assert terminal.end() == 0
        assert terminal.is_restored()


def test_scripts_get_lines(started: Mount) -> None:
    once = run_memfs("top", "--once", "--interval", "0.1", started.root)
    assert "requests a second" in once
    assert "waiting: 0" in once
    assert "\x1b" not in once
    told = json.loads(run_memfs("top", "--once", "--json", "--interval", "0.1", started.root))
    assert {tier["tier"] for tier in told["status"]["tiers"]} == {"warm", "cold", "glacier"}
    refused = memfs("top", started.root)
    assert refused.returncode == ExitCode.USAGE
    assert "--once or --json" in refused.stderr


@pytest.mark.parametrize("command", [["top", "--interval"], ["status", "--watch"]])
def test_lines_of_json_come_until_nobody_reads_them(started: Mount, command: list[str]) -> None:
    words = [sys.executable, "-m", "memfs_tools", *command, "0.1", "--json"]
    with subprocess.Popen([*words, started.root], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            assert all(isinstance(json.loads(line), dict) for line in lines)
            process.stdout.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_watch_takes_a_number_or_none(started: Mount) -> None:
    forms: list[list[str | Path]]
    forms = [["--watch", "0.5", started.root], ["--watch", started.root], [started.root, "--watch"]]
    for words in forms:
        with Terminal("status", *words) as terminal:
            terminal.see("glacier", "work")
            terminal.press("q")
            assert terminal.end() == 0
