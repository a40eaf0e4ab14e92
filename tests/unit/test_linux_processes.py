"""Pending signals of other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

from memfs.linux.processes import is_dying


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
        child.wait()
    assert is_dying(child.pid)
    assert not is_dying(0)
