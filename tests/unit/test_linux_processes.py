"""Pending signals of other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from memfs.linux.processes import is_dying, thread_group
from tests.waiting import WAIT_S


def test_a_living_process_is_not_dying_even_with_a_handled_signal_pending() -> None:
    assert not is_dying(os.getpid())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        # To this thread: others, of other tests, do not block it.
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        assert not is_dying(os.getpid())
    finally:
        assert signal.sigtimedwait({signal.SIGUSR1}, 5) is not None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def test_a_process_that_is_gone_counts_as_dying_and_an_unknown_one_not() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait(WAIT_S)
    assert is_dying(child.pid)
    assert not is_dying(0)


def test_the_name_that_a_program_gives_itself_changes_nothing() -> None:
    """It may hold what looks like a line of its own, and bytes that are no text."""
    script = "open('/proc/self/comm', 'wb').write(b'\\xff\\rTgid:\\t1'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert thread_group(child.pid) == child.pid
        assert not is_dying(child.pid)
        child.communicate(b"\n")
