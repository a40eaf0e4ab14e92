"""Lists of files that users gave: in order, bounded, and with an honest account."""

from __future__ import annotations

import pytest

from memfs.errors import InvalidValueError, NotFoundError
from memfs.prediction.hints import HINT_COUNT_MAX, JOB_COUNT_MAX, Hint, Hints
from memfs.types import InodeNo


def inos(*numbers: int) -> list[InodeNo]:
    return [InodeNo(number) for number in numbers]


def taken(hints: Hints) -> list[int]:
    found = []
    while (hint := hints.take()) is not None:
        found.append(int(hint.ino))
        hints.finish(hint, 10, warm=True)
    return found


def test_files_are_handed_out_in_the_order_given() -> None:
    """A sampler's order is the order of use; a later call goes on behind it."""
    hints = Hints()
    job = hints.begin(warm=True)
    hints.add(job, inos(5, 3, 9))
    hints.add(job, inos(1))
    assert taken(hints) == [5, 3, 9, 1]
    progress = hints.progress(job)
    assert progress.ended
    assert (progress.done_count, progress.warm_count, progress.fetched_bytes) == (4, 4, 40)


def test_jobs_take_turns() -> None:
    """A long list of one user does not keep another one waiting."""
    hints = Hints()
    first, second = hints.begin(warm=True), hints.begin(warm=False)
    hints.add(first, inos(1, 2, 3))
    hints.add(second, inos(11))
    assert [hints.take(), hints.take(), hints.take()] == [
        Hint(first, InodeNo(1), True),
        Hint(second, InodeNo(11), False),
        Hint(first, InodeNo(2), True),
    ]


def test_a_replaced_order_forgets_what_waited() -> None:
    """The next epoch begins before the last one is through."""
    hints = Hints()
    job = hints.begin(warm=True)
    hints.add(job, inos(1, 2, 3))
    hints.take()
    assert hints.drop(job) == 2
    hints.add(job, inos(3, 2))
    assert hints.progress(job).total_count == 3
    assert taken(hints) == [3, 2]


def test_what_is_put_back_comes_first_again() -> None:
    """A file that found no room is not skipped."""
    hints = Hints()
    job = hints.begin(warm=True)
    hints.add(job, inos(1, 2))
    for _ in range(3):
        hint = hints.take()
        assert hint is not None
        hints.put_back(hint)
    assert hints.waiting_count == 2
    assert taken(hints) == [1, 2]
    hints.add(job, inos(7))
    hint = hints.take()
    assert hint is not None
    hints.put_back(hint)
    assert taken(hints) == [7]


def test_a_cancelled_job_takes_nothing_back() -> None:
    """Else what was under way and found no room would go on for ever."""
    hints = Hints()
    job = hints.begin(warm=True)
    hints.add(job, inos(1, 2, 3))
    hint = hints.take()
    assert hint is not None
    hints.cancel(job)
    hints.put_back(hint)
    assert hints.take() is None
    assert hints.progress(job).ended
    with pytest.raises(NotFoundError, match="cancelled"):
        hints.add(job, inos(4))


def test_a_full_list_takes_the_first_ones_and_says_how_many() -> None:
    """The one who gave them sends the rest later."""
    hints = Hints()
    job = hints.begin(warm=True)
    assert hints.add(job, inos(*range(1, HINT_COUNT_MAX))) == HINT_COUNT_MAX - 1
    assert hints.add(job, inos(1, 2, 3)) == 1
    assert hints.add(job, inos(1)) == 0
    assert hints.waiting_count == HINT_COUNT_MAX


def test_old_jobs_make_room_once_they_are_through() -> None:
    """A program that gives a list each minute does not fill the memory."""
    hints = Hints()
    jobs = [hints.begin(warm=True) for _ in range(JOB_COUNT_MAX)]
    for job in jobs:
        hints.add(job, inos(1))
    with pytest.raises(InvalidValueError, match="being fetched already"):
        hints.begin(warm=True)
    taken(hints)
    hints.begin(warm=True)
    with pytest.raises(NotFoundError, match=f"no list {jobs[0]} "):
        hints.progress(jobs[0])


def test_a_failure_is_told() -> None:
    """The job ends nevertheless."""
    hints = Hints()
    job = hints.begin(warm=True)
    hints.add(job, inos(1))
    hint = hints.take()
    assert hint is not None
    hints.fail(hint, "no form of it is intact")
    progress = hints.progress(job)
    assert progress.ended
    assert (progress.failed_count, progress.error) == (1, "no form of it is intact")
