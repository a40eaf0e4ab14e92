"""Who opens how much: counted by name and user, within bounds."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from memfs.content.programs import LOOK_NS, PROGRAMS_MAX, THREADS_MAX, UNKNOWN, Programs
from memfs.linux.processes import program_of


def test_a_thread_is_counted_for_its_process() -> None:
    found: list[tuple[int, tuple[int, str] | None]] = []
    thread = threading.Thread(
        target=lambda: found.append(
            (threading.get_native_id(), program_of(threading.get_native_id()))
        )
    )
    thread.start()
    thread.join(60)
    name = Path("/proc/self/comm").read_text().removesuffix("\n")
    [(number, program)] = found
    assert number != os.getpid()
    assert program == (os.getpid(), name)
    assert program_of(os.getpid()) == (os.getpid(), name)


def test_what_is_gone_or_unknown_has_no_program() -> None:
    assert program_of(0) is None
    assert program_of(2**22 + 1) is None


def test_processes_of_one_name_and_user_are_one_program() -> None:
    names = {7: (7, "cat"), 8: (8, "cat"), 9: (9, "dd")}
    programs = Programs(names.get)
    for thread, uid, size in ((7, 0, 100), (8, 0, 50), (8, 1000, 1), (9, 0, 60), (0, 0, 5)):
        programs.note_open(thread, uid, size, 1, writing=thread == 9)
    shown = [(each.name, each.uid, each.open_count, each.opened_bytes) for each in programs.most(9)]
    assert shown == [("cat", 0, 2, 150), ("dd", 0, 1, 60), (UNKNOWN, 0, 1, 5), ("cat", 1000, 1, 1)]
    assert [each.write_count for each in programs.most(2)] == [0, 1]
    assert [each.pid for each in programs.most(1)] == [8]
    assert programs.most(-1) == []


def test_a_number_is_looked_up_again_after_a_while_and_not_before() -> None:
    """A shell forks, opens, and becomes another program."""
    names = {7: (7, "bash")}
    programs = Programs(names.get)
    programs.note_open(7, 0, 1, 0, writing=False)
    names[7] = (7, "cat")
    programs.note_open(7, 0, 1, LOOK_NS - 1, writing=False)
    programs.note_open(7, 0, 1, LOOK_NS, writing=False)
    assert {each.name: each.open_count for each in programs.most(9)} == {"bash": 2, "cat": 1}


def test_neither_programs_nor_threads_grow_without_bound() -> None:
    """The busy one is not forgotten for many that came once."""
    programs = Programs(lambda thread: (thread, "busy" if thread == 1 else f"p{thread}"))
    for at in range(2, THREADS_MAX + 3):
        programs.note_open(at, 0, 0, at * LOOK_NS, writing=False)
        programs.note_open(1, 0, 1, at * LOOK_NS, writing=False)
    assert len(programs.most(10**6)) == PROGRAMS_MAX
    assert programs.most(1)[0].open_count == THREADS_MAX + 1
    assert len(programs._threads) == THREADS_MAX
