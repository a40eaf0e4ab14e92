"""Forked processes for tests: other users, lock holders, programs side by side.

Invariant: a child never returns into the test runner, and no child outlives the call or the `with`
block that made it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
from typing import TYPE_CHECKING, NamedTuple, NoReturn, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = ParamSpec("P")
T = TypeVar("T")


class User(NamedTuple):
    """Ids of a process; nobody on the machine needs to have them."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """Supplementary groups."""


ROOT = User(0, 0)
ALICE = User(54321, 54321)
BOB = User(54322, 54322)
TEAM_GID = 54400
ALICE_IN_TEAM = User(ALICE.uid, ALICE.gid, (TEAM_GID,))


def run_as(user: User, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `action` in a child process with the ids of `user`.

    Returns:
        What `action` returned; it must pickle.

    Raises:
        Exception: Whatever `action` raised.
    """
    with _forked(user, lambda: action(*args, **kwargs)) as answer:
        return answer


def in_child(action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `action` in a child process of the same user."""
    with _forked(None, lambda: action(*args, **kwargs)) as answer:
        return answer


@contextlib.contextmanager
def holding(action: Callable[[], T], user: User | None = None) -> Iterator[T]:
    """Call `action` in a child that lives for the block, with all that it opened and locked."""
    with _forked(user, action) as answer:
        yield answer


def killed_by(action: Callable[[], object]) -> int:
    """Number of the signal that ends a child that calls `action`; 0 when it comes back."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status)


def outlived(action: Callable[[], object]) -> int:
    """Call `action` in a child; return the number of the signal that ended it, 0 if it came back.

    Raises:
        Exception: Whatever `action` raised.
    """
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        _answer(write_fd, None, action)
        os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        _unwrap(answer)
    return os.WTERMSIG(status)


def together(count: int, action: Callable[[int], T]) -> list[T]:
    """Run `action(index)` in `count` children at the same time.

    Returns:
        What they returned, by index.

    Raises:
        Exception: What the first failing child raised, after all have ended.
    """
    gate_read, gate_write = os.pipe()
    children = []
    for index in range(count):
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(gate_write)
            os.read(gate_read, 1)
            _answer(write_fd, None, functools.partial(action, index))
            os._exit(0)
        os.close(write_fd)
        children.append((pid, read_fd))
    os.close(gate_read)
    os.close(gate_write)
    answers = []
    for pid, read_fd in children:
        with os.fdopen(read_fd, "rb") as file:
            answers.append(file.read())
        os.waitpid(pid, 0)
    return [cast("T", _unwrap(answer)) for answer in answers]


@contextlib.contextmanager
def _forked(user: User | None, action: Callable[[], T]) -> Iterator[T]:
    read_fd, write_fd = os.pipe()
    hold_read, hold_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hold_write)
        _answer(write_fd, user, action)
        os.read(hold_read, 1)
        os._exit(0)
    os.close(write_fd)
    os.close(hold_read)
    try:
        with os.fdopen(read_fd, "rb") as file:
            answer = cast("T", _unwrap(file.read()))
        yield answer
    finally:
        os.close(hold_write)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, 0)


def _answer(write_fd: int, user: User | None, action: Callable[[], object]) -> None:
    """Run `action` and send what came of it; end the process where not even that works."""
    try:
        if user is not None:
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        message = pickle.dumps((True, action()))
    except BaseException as error:
        message = pickle.dumps((False, error))
    try:
        with os.fdopen(write_fd, "wb") as file:
            file.write(message)
    except BaseException:
        _die()


def _die() -> NoReturn:
    os._exit(99)


def _unwrap(message: bytes) -> object:
    assert message, "the child process died before it answered"
    succeeded, value = pickle.loads(message)
    if not succeeded:
        raise value
    return value
