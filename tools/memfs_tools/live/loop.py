"""The loop of a live screen: samples come, keys are pressed, the terminal changes its size.

Invariant: however it ends, by a key, a signal, an error or the end of the mount, the terminal is as
it was before. A daemon that does not answer holds no key up: it is asked by a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import sys
import termios
import threading
import time
import tty
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from rich.live import Live

from memfs.control.client import ControlError
from memfs.linux.readiness import await_ready
from memfs_tools.display import make_console
from memfs_tools.live.keys import read_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from rich.console import Console, RenderableType

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READ_BYTES = 1024


class View(Protocol[T_contra]):
    """What a screen shows."""

    def take(self, sample: T_contra) -> None:
        """There is a new sample."""
        ...

    def complain(self, problem: str | None) -> None:
        """The daemon does not answer, for a reason; None: it does again."""
        ...

    def press(self, key: str) -> bool:
        """A key was pressed, as of `read_keys`; return False to end."""
        ...

    def render(self, width: int, height: int) -> RenderableType:
        """Return what fits into so many columns and lines."""
        ...


def is_terminal() -> bool:
    """True if standard output can hold a live screen."""
    return sys.stdout.isatty() and not make_console().is_dumb_terminal


class _Source(Generic[T]):
    """Takes samples in a thread, one an interval."""

    def __init__(self, take: Callable[[], T], interval_s: float, wake: Callable[[], None]) -> None:
        self._take = take
        self._interval_s = interval_s
        self._wake = wake
        self._stopped = threading.Event()
        self.found: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()

    def start(self) -> None:
        # A call may last as long as its limit: nobody waits for that at the end.
        threading.Thread(target=self._run, name="samples", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        found: T | BaseException
        while not self._stopped.is_set():
            due_s = time.monotonic() + self._interval_s
            try:
                found = self._take()
            except BaseException as error:
                found = error
            self.found.put(found)
            self._wake()
            if isinstance(found, BaseException) and not isinstance(found, ControlError):
                return
            self._stopped.wait(max(0.0, due_s - time.monotonic()))


def show_live(take: Callable[[], T], view: View[T], interval_s: float) -> int:
    """Draw a view until a key or a signal ends it; return the exit status of the command.

    Args:
        take: Takes a sample; `ControlError` is shown and it is asked again, any other error ends.
        view: Draws it.
        interval_s: Between two samples.
    """
    console = make_console()
    with _signals() as (arrived, woken, wake), _keyboard() as keyboard:
        source = _Source(take, interval_s, wake)
        source.start()
        try:
            while True:
                with _screen(console) as live:
                    number = _run(live, console, view, source, (arrived, woken, keyboard))
                if number != signal.SIGTSTP:
                    return 128 + number if number else 0
                _suspend(keyboard)
        finally:
            source.stop()


def _run(
    live: Live,
    console: Console,
    view: View[T],
    source: _Source[T],
    ears: tuple[list[int], int, int | None],
) -> int:
    """Draw until a signal is to be obeyed, and return its number; 0: a key has ended it."""
    arrived, woken, keyboard = ears
    listening = [woken] if keyboard is None else [woken, keyboard]
    while True:
        live.update(view.render(console.size.width, console.size.height), refresh=True)
        ready = await_ready(listening)
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, _READ_BYTES)
        while arrived:
            if (number := arrived.pop(0)) != signal.SIGWINCH:
                return number
        while not source.found.empty():
            found = source.found.get()
            if isinstance(found, ControlError):
                view.complain(str(found))
            elif isinstance(found, BaseException):
                raise found
            else:
                view.complain(None)
                view.take(found)
        if keyboard in ready:
            data = os.read(keyboard, _READ_BYTES)
            if not data:
                # Nobody can press a key any more, and the terminal is still to be seen.
                listening.remove(keyboard)
            if not all(view.press(key) for key in read_keys(data)):
                return 0


@contextlib.contextmanager
def _screen(console: Console) -> Iterator[Live]:
    live = Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with live:
        yield live


@contextlib.contextmanager
def _keyboard() -> Iterator[int | None]:
    """Have keys come as they are pressed, and unseen; None: there is no keyboard."""
    if not sys.stdin.isatty():
        yield None
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield fd
    finally:
        # The terminal may be gone.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSAFLUSH, before)


def _suspend(keyboard: int | None) -> None:
    """Stop as Ctrl-Z asks, with the terminal as the shell wants it, until told to go on."""
    now = None if keyboard is None else termios.tcgetattr(keyboard)
    if keyboard is not None and now is not None:
        plain = [*now]
        plain[3] |= termios.ICANON | termios.ECHO
        termios.tcsetattr(keyboard, termios.TCSADRAIN, plain)
    os.kill(os.getpid(), signal.SIGSTOP)
    if keyboard is not None and now is not None:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, now)


@contextlib.contextmanager
def _signals() -> Iterator[tuple[list[int], int, Callable[[], None]]]:
    """Yield where signals are listed, what is readable when there are, and what makes it so."""
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    # Sockets know that they are closed, where the number of a pipe would be another file's by then.
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)

    def wake() -> None:
        # Full: it is readable. Closed: the screen has ended before this sample.
        with contextlib.suppress(OSError):
            writing.send(b"\0")

    wanted = (*_ENDING, signal.SIGWINCH, signal.SIGTSTP)
    with reading, writing:
        before = {number: signal.signal(number, note) for number in wanted}
        waker = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield arrived, reading.fileno(), wake
        finally:
            signal.set_wakeup_fd(waker)
            for number, handler in before.items():
                signal.signal(number, handler)
